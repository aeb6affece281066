"""What a stranger's plugin does wrong is one sentence that names it, its distribution and the method; exit code 2."""

import json
import sys

import pytest

from distillkit_cli.main import command_line

RUN = (
    *("run", "--data", "stranger", "--student", "stranger", "--teacher", "stranger", "--loss", "stranger"),
    *("--set", 'trackers=["stranger"]', "--set", "data.workers=0", "--set", "training.steps=10"),
    *("--set", "training.batch_size=8", "--set", "training.log_every=1", "--set", "augment.crop=none"),
    *("--device", "cpu", "--set", "training.precision=fp32"),
)


@pytest.fixture
def distillkit(install, monkeypatch, capsys, tmp_path):
    """Run a command line with a deed of the stranger's: the code, stdout and stderr."""
    install("contract_stranger")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "1000")
    monkeypatch.setenv("NO_COLOR", "1")

    def run(deed, *arguments):
        monkeypatch.setenv("STRANGER", deed)
        sys.modules.pop("contract_stranger", None)
        code = command_line(arguments)
        return code, *capsys.readouterr()

    yield run
    sys.modules.pop("contract_stranger", None)


LOSS, TEACHER, STUDENT, DATA, TRACKER, EVALUATOR, EXPORTER = (
    f"{role} 'stranger' of contract-stranger 0.1"
    for role in ("loss", "teacher", "student", "dataset", "tracker", "evaluator", "exporter")
)
SAID = "failed in {}: ValueError: no idea at all"
REQUIRES = "the contract requires"

DEEDS = {
    "loss.options=none": (
        f"{LOSS} cannot be used: contract_stranger:Loss has no 'Options'; add a nested frozen pydantic model, without "
        "fields if the plugin has no options"
    ),
    "loss.build=raise": f"{LOSS} {SAID.format('build')}",
    "loss.build=none": f"{LOSS}: build returns None; {REQUIRES} a torch.nn.Module",
    "loss.targets=none": f"{LOSS}: 'targets' is None; {REQUIRES} a mapping from names to TargetSpec",
    "loss.target=raise": f"{LOSS} {SAID.format('target')}",
    "loss.target=late": f"{LOSS} {SAID.format('target')}",
    "loss.target=exit": f"{LOSS} failed in target: SystemExit: 3",
    "loss.target=abort": f"{LOSS} failed in target: Abort: enough",
    "loss.target=mute": f"{LOSS} failed in target: Mute",
    "loss.target=close": f"{LOSS} failed in target: GeneratorExit",
    "loss.target=none": f"{LOSS} returned None from target; {REQUIRES} a mapping from names to tensors",
    "loss.target=list": f"{LOSS} returned list from target; {REQUIRES} a mapping from names to tensors",
    "loss.target=key": f"{LOSS} returned 'other' from target; {REQUIRES} 'logits', as in its targets",
    "loss.target=item": f"{LOSS} returned 'logits' as list from target; {REQUIRES} a tensor",
    "loss.target=shape": (
        f"{LOSS} returned 'logits' of shape [8, 2, 1] from target; {REQUIRES} [8, 2], as in its targets"
    ),
    "loss.target=dtype": f"{LOSS} returned 'logits' of int32 from target; {REQUIRES} float32, as in its targets",
    "loss.target=device": (
        f"{LOSS} returned 'logits' on meta from target; {REQUIRES} a tensor on cpu, the device of its input"
    ),
    "loss.target=gradient": (
        f"{LOSS} returned 'logits' with a gradient to the teacher from target; {REQUIRES} a tensor without gradient"
    ),
    "loss.target=spoil": f"{LOSS} changed the teacher's logits in place in target; clone it first",
    "loss.forward=raise": f"{LOSS} {SAID.format('forward')}",
    "loss.forward=late": f"{LOSS} {SAID.format('forward')}",
    "loss.forward=exit": f"{LOSS} failed in forward: SystemExit: 3",
    "loss.forward=none": f"{LOSS} returned None from forward; {REQUIRES} a mapping from names to tensors",
    "loss.forward=nothing": f"{LOSS} returned no term from forward; {REQUIRES} at least one term",
    "loss.forward=nameless": f"{LOSS} returned a term named '' from forward; {REQUIRES} a printable name",
    "loss.forward=counted": f"{LOSS} returned a term named 7 from forward; {REQUIRES} a printable name",
    "loss.forward=bell": f"{LOSS} returned a term named '\\x07' from forward; {REQUIRES} a printable name",
    "loss.forward=item": f"{LOSS} returned term 'square' as list from forward; {REQUIRES} a tensor",
    "loss.forward=mean": (
        f"{LOSS} returned term 'square' of shape [] from forward; {REQUIRES} [2], one value per sample"
    ),
    "loss.forward=dtype": f"{LOSS} returned term 'square' of int32 from forward; {REQUIRES} a floating-point number",
    "loss.forward=device": (
        f"{LOSS} returned term 'square' on meta from forward; {REQUIRES} a tensor on cpu, the device of its input"
    ),
    "loss.forward=detached": (
        f"{LOSS} returned term 'square' without a gradient from forward; {REQUIRES} a tensor with a "
        "gradient, not a detached one"
    ),
    "loss.forward=spoil": f"{LOSS} changed the student's logits in place in forward; clone it first",
    "loss.forward=shy": "the code of contract-stranger 0.1 failed in Shy.backward: ValueError: no way back",
    "loss.forward=keep": (
        "the code of contract-stranger 0.1 failed in Keep.backward: RuntimeError: Function KeepBackward returned an "
        "invalid gradient at index 0 - got [1, 1] but expected shape compatible with [2]"
    ),
    "loss.forward=talk": (
        f"{LOSS} or {STUDENT} failed in the backward pass: RuntimeError: expected Variable or None (got str)"
    ),
    "teacher.describe=raise": f"{TEACHER} {SAID.format('describe')}",
    "teacher.describe=none": f"{TEACHER} returned None from describe; {REQUIRES} a ModelSpec",
    "teacher.build=raise": f"{TEACHER} {SAID.format('build')}",
    "teacher.build=none": f"{TEACHER} returned None from build; {REQUIRES} a torch.nn.Module",
    "teacher.forward=raise": f"{TEACHER} {SAID.format('forward')}",
    "teacher.forward=late": f"{TEACHER} {SAID.format('forward')}",
    "teacher.forward=none": f"{TEACHER} returned None from forward; {REQUIRES} Outputs",
    "teacher.forward=empty": f"{TEACHER} returned no logits from forward; {REQUIRES} all wanted signals",
    "teacher.forward=shape": (
        f"{TEACHER} returned logits of shape [1, 2, 1] from forward; {REQUIRES} [1, 2], as in its spec"
    ),
    "teacher.forward=bfloat": f"{TEACHER} returned logits of bfloat16 from forward; {REQUIRES} at least float32",
    "teacher.forward=device": (
        f"{TEACHER} returned logits on meta from forward; {REQUIRES} a tensor on cpu, the device of its input"
    ),
    "teacher.forward=spoil": f"{TEACHER} changed the images in place in forward; clone it first",
    "student.describe=text": f"{STUDENT} returned str from describe; {REQUIRES} a ModelSpec",
    "student.build=raise": f"{STUDENT} {SAID.format('build')}",
    "student.forward=late": f"{STUDENT} {SAID.format('forward')}",
    "student.forward=none": f"{STUDENT} returned None from forward; {REQUIRES} Outputs",
    "student.forward=shape": (
        f"{STUDENT} returned logits of shape [2, 2, 1] from forward; {REQUIRES} [2, 2], as in its spec"
    ),
    "student.forward=detached": (
        f"{STUDENT} returned logits without a gradient from forward; {REQUIRES} a tensor with a gradient, "
        "not a detached one"
    ),
    "data.open=raise": f"{DATA} {SAID.format('open')}",
    "data.open=list": f"{DATA} returned list without 'name' from open; {REQUIRES} a Source, a Stream or None",
    "data.class_names=text": f"{DATA} returned class_names 'text' from open; {REQUIRES} a tuple of names, or None",
    "data.len=number": f"{DATA} failed in __len__: ValueError: __len__() should return >= 0",
    "data.key=late": f"{DATA} {SAID.format('key')}",
    "data.key=number": f'{DATA} failed in key: TypeError: can only concatenate str (not "int") to str',
    "data.label=raise": f"{DATA} {SAID.format('label')}",
    "data.label=half": f"{DATA} failed in label: TypeError: 'float' object cannot be interpreted as an integer",
    "data.label=number": f"{DATA} returned -7 from label; {REQUIRES} a class from 0 upwards, or None",
    "data.image=close": f"{DATA} failed in image: GeneratorExit",
    "data.image=array": f"{DATA} returned ndarray from image; {REQUIRES} a PIL image in RGB",
    "tracker.init=raise": f"{TRACKER} {SAID.format('its constructor')}",
    "run_started=raise": f"{TRACKER} {SAID.format('distillkit_run_started')}",
    "steps_logged=late": f"{TRACKER} {SAID.format('distillkit_steps_logged')}",
    "steps_logged=exit": f"{TRACKER} failed in distillkit_steps_logged: SystemExit: 3",
    "epoch_ended=raise": f"{TRACKER} {SAID.format('distillkit_epoch_ended')}",
    "run_ended=raise": f"{TRACKER} {SAID.format('distillkit_run_ended')}",
}


def test_a_sound_stranger_trains(distillkit):
    code, _, err = distillkit("", *RUN, "--out", "run")
    assert (code, "error" in err) == (0, False)


@pytest.mark.parametrize("deed", DEEDS)
def test_a_run(distillkit, deed):
    code, out, err = distillkit(deed, "--quiet", *RUN, "--out", "run")
    assert (code, out, err) == (2, "", f"error: {DEEDS[deed]}\n")


@pytest.mark.parametrize("deed", ["loss.forward=nothing", "loss.forward=bell", "loss.forward=keep"])
def test_a_plan(distillkit, deed):
    """It is told before anything trains."""
    code, _, err = distillkit(deed, "--quiet", "plan", *RUN[1:])
    assert code == 2
    assert err.startswith(f"error: {DEEDS[deed].partition('got')[0]}")


@pytest.mark.parametrize("deed", ["data.key=raise", "data.label=half"])
def test_a_loader_process(distillkit, deed):
    """The sentence comes from another process as it is."""
    code, _, err = distillkit(deed, "--quiet", *RUN, "--out", "run", "--set", "data.workers=1")
    assert code == 2
    assert err.startswith(f"error: {DATA} failed in ")
    assert err.count("\n") == 1


REGISTRATIONS = {
    "import=raise": "ValueError: no idea at all",
    "import=exit": "SystemExit: 3",
    "import=abort": "Abort: enough",
    "import=mute": "Mute",
    "import=close": "GeneratorExit",
    "import=memory": "MemoryError: no room",
    "import=refuse": "UserError: not with me",
    "losses=close": "distillkit_losses raised GeneratorExit",
    "losses=raise": "distillkit_losses raised ValueError: no idea at all",
    "losses=none": "distillkit_losses must return a sequence of PluginSpec, not None",
    "losses=number": "distillkit_losses must return a sequence of PluginSpec, not int",
    "losses=list": "distillkit_losses must return PluginSpec objects, not list",
}


@pytest.mark.parametrize("deed", REGISTRATIONS)
def test_a_registration(distillkit, deed):
    """It is listed with its reason, and stops nobody else."""
    broken = f"plugin 'contract-stranger' of contract-stranger 0.1 is broken: {REGISTRATIONS[deed]}"
    code, out, err = distillkit(deed, "plugins")
    assert (code, err, out.splitlines()[-1]) == (0, "", broken)
    code, _, err = distillkit(deed, "--quiet", "run", "--loss", "stranger", "--teacher", "timm:resnet18")
    assert code == 2
    assert err.startswith("error: unknown loss 'stranger'; ")
    assert err.endswith(f"; not loaded: {broken}\n")


def test_an_interrupt_while_a_plugin_is_loaded_is_an_interrupt(distillkit):
    assert distillkit("import=interrupt", "plugins") == (130, "", "")


def test_what_a_plugin_prints_is_no_result(distillkit):
    code, out, err = distillkit("import=print", "plugins", "--json")
    assert (code, err) == (0, "hello from a stranger\n")
    assert "stranger" in {plugin["name"] for plugin in json.loads(out)["plugins"]}


def test_the_traceback_of_the_plugin_is_shown_where_it_is_asked_for(distillkit):
    code, _, err = distillkit("loss.target=late", "--quiet", "--verbose", *RUN, "--out", "run")
    assert code == 2
    assert 'contract_stranger.py", line' in err
    assert "ValueError: no idea\nat all\n" in err
    assert err.splitlines()[-1] == f"error: {DEEDS['loss.target=late']}"


def test_a_tracker_that_fails_when_the_run_has_failed_hides_nothing(distillkit):
    """What ended the run is the error; who failed meanwhile is a note."""
    code, _, err = distillkit("run_failed=raise loss.target=late", *RUN, "--out", "run")
    assert code == 2
    assert err.splitlines()[-2:] == [
        f"{TRACKER} {SAID.format('distillkit_run_failed')}",
        f"error: {DEEDS['loss.target=late']}",
    ]


def test_an_evaluator(distillkit, tmp_path):
    assert distillkit("", "--quiet", *RUN, "--out", "run")[0] == 0
    for deed, sentence in {
        "evaluator.init=raise": f"{EVALUATOR} {SAID.format('its constructor')}",
        "evaluator.measure=raise": f"{EVALUATOR} {SAID.format('measure')}",
        "evaluator.measure=none": f"{EVALUATOR} returned None from measure; {REQUIRES} a Measurement",
        "evaluator.measure=words": f"{EVALUATOR} returned figure 'top1' as str from measure; {REQUIRES} a number",
        "evaluator.measure=tensor": f"{EVALUATOR} returned figure 'top1' as Tensor from measure; {REQUIRES} a number",
        "evaluator.measure=nan": f"{EVALUATOR} returned figure 'top1' as nan from measure; {REQUIRES} a finite number",
        "evaluator.measure=rows": (
            f"{EVALUATOR} returned the rows ({{'k': 1}}, {{'n': 1}}) from measure; {REQUIRES} a tuple of mappings with "
            "the same keys"
        ),
        "evaluator.measure=table": f"{EVALUATOR} returned cell 'k' as None from measure; {REQUIRES} a number",
        "evaluator.measure=set": (
            f"{EVALUATOR} returned settings that cannot be written as JSON (Object of type set is not JSON "
            f"serializable) from measure; {REQUIRES} plain data"
        ),
        "student.forward=raise": f"{STUDENT} {SAID.format('forward')}",
    }.items():
        protocol = "top1" if deed.startswith("student") else "stranger"
        code, out, err = distillkit(deed, "--quiet", "evaluate", "run", "--protocol", protocol)
        assert (code, out, err) == (2, "", f"error: {sentence}\n")
    assert not (tmp_path / "run" / "evaluations.jsonl").exists()
    assert distillkit("", "--quiet", "evaluate", "run", "--protocol", "stranger")[0] == 0
    code, out, err = distillkit("evaluator.measure=other", "--quiet", "evaluate", "run", "--protocol", "stranger")
    assert (code, out.split(), err) == (0, ["protocol", "looked", "at", "data", "squares", "entropy", "0.25"], "")


def test_an_exporter(distillkit):
    assert distillkit("", "--quiet", *RUN, "--out", "run")[0] == 0
    for deed, sentence in {
        "exporter.init=raise": f"{EXPORTER} {SAID.format('its constructor')}",
        "exporter.check=raise": f"{EXPORTER} {SAID.format('check')}",
        "exporter.write=raise": f"{EXPORTER} {SAID.format('write')}",
        "exporter.write=none": f"{EXPORTER} returned None from write; {REQUIRES} an Artifact",
        "exporter.open=raise": f"{EXPORTER} {SAID.format('open')}",
        "exporter.open=none": f"{EXPORTER} failed in open: TypeError: 'NoneType' object is not callable",
    }.items():
        code, out, err = distillkit(deed, "--quiet", "export", "run", "--format", "stranger")
        assert (code, out, err) == (2, "", f"error: {sentence}\n")
