"""Faults of a third-party plugin: a one-line error with the plugin, its distribution and the method; exit code 2."""

import json
import sys

import pytest

from distillkit_cli.main import command_line

RUN = (
    *("run", "--data", "faulty", "--student", "faulty", "--teacher", "faulty", "--loss", "faulty"),
    *("--set", 'trackers=["faulty"]', "--set", "data.workers=0", "--set", "training.steps=10"),
    *("--set", "training.batch_size=8", "--set", "training.log_every=1", "--set", "augment.crop=none"),
    *("--device", "cpu", "--set", "training.precision=fp32"),
)


@pytest.fixture
def distillkit(install, monkeypatch, capsys, tmp_path):
    """Run a command line with a fault in the plugin; returns the exit code, stdout and stderr."""
    install("contract_faulty")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "1000")
    monkeypatch.setenv("NO_COLOR", "1")

    def run(fault, *arguments):
        monkeypatch.setenv("FAULTS", fault)
        sys.modules.pop("contract_faulty", None)
        code = command_line(arguments)
        return code, *capsys.readouterr()

    yield run
    sys.modules.pop("contract_faulty", None)


LOSS, TEACHER, STUDENT, DATA, TRACKER, EVALUATOR, EXPORTER = (
    f"{role} 'faulty' of contract-faulty 0.1"
    for role in ("loss", "teacher", "student", "dataset", "tracker", "evaluator", "exporter")
)
RAISED = "failed in {}: ValueError: no idea at all"
REQUIRES = "the contract requires"

MESSAGES = {
    "loss.options=none": (
        f"{LOSS} cannot be used: contract_faulty:Loss has no 'Options'; add a nested frozen pydantic model, without "
        "fields if the plugin has no options"
    ),
    "loss.build=raise": f"{LOSS} {RAISED.format('build')}",
    "loss.build=none": f"{LOSS}: build returns None; {REQUIRES} a torch.nn.Module",
    "loss.targets=none": f"{LOSS}: 'targets' is None; {REQUIRES} a mapping from names to TargetSpec",
    "loss.target=raise": f"{LOSS} {RAISED.format('target')}",
    "loss.target=late": f"{LOSS} {RAISED.format('target')}",
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
    "loss.forward=raise": f"{LOSS} {RAISED.format('forward')}",
    "loss.forward=late": f"{LOSS} {RAISED.format('forward')}",
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
    "loss.forward=shy": "the code of contract-faulty 0.1 failed in Shy.backward: ValueError: no way back",
    "loss.forward=keep": (
        "the code of contract-faulty 0.1 failed in Keep.backward: RuntimeError: Function KeepBackward returned an "
        "invalid gradient at index 0 - got [1, 1] but expected shape compatible with [2]"
    ),
    "loss.forward=talk": (
        f"{LOSS} or {STUDENT} failed in the backward pass: RuntimeError: expected Variable or None (got str)"
    ),
    "teacher.describe=raise": f"{TEACHER} {RAISED.format('describe')}",
    "teacher.describe=none": f"{TEACHER} returned None from describe; {REQUIRES} a ModelSpec",
    "teacher.build=raise": f"{TEACHER} {RAISED.format('build')}",
    "teacher.build=none": f"{TEACHER} returned None from build; {REQUIRES} a torch.nn.Module",
    "teacher.forward=raise": f"{TEACHER} {RAISED.format('forward')}",
    "teacher.forward=late": f"{TEACHER} {RAISED.format('forward')}",
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
    "student.build=raise": f"{STUDENT} {RAISED.format('build')}",
    "student.forward=late": f"{STUDENT} {RAISED.format('forward')}",
    "student.forward=none": f"{STUDENT} returned None from forward; {REQUIRES} Outputs",
    "student.forward=shape": (
        f"{STUDENT} returned logits of shape [2, 2, 1] from forward; {REQUIRES} [2, 2], as in its spec"
    ),
    "student.forward=detached": (
        f"{STUDENT} returned logits without a gradient from forward; {REQUIRES} a tensor with a gradient, "
        "not a detached one"
    ),
    "data.open=raise": f"{DATA} {RAISED.format('open')}",
    "data.open=list": f"{DATA} returned list without 'name' from open; {REQUIRES} a Source, a Stream or None",
    "data.class_names=text": f"{DATA} returned class_names 'text' from open; {REQUIRES} a tuple of names, or None",
    "data.len=number": f"{DATA} failed in __len__: ValueError: __len__() should return >= 0",
    "data.key=late": f"{DATA} {RAISED.format('key')}",
    "data.key=number": f'{DATA} failed in key: TypeError: can only concatenate str (not "int") to str',
    "data.label=raise": f"{DATA} {RAISED.format('label')}",
    "data.label=half": f"{DATA} failed in label: TypeError: 'float' object cannot be interpreted as an integer",
    "data.label=number": f"{DATA} returned -7 from label; {REQUIRES} a class from 0 upwards, or None",
    "data.image=close": f"{DATA} failed in image: GeneratorExit",
    "data.image=array": f"{DATA} returned ndarray from image; {REQUIRES} a PIL image in RGB",
    "tracker.init=raise": f"{TRACKER} {RAISED.format('its constructor')}",
    "run_started=raise": f"{TRACKER} {RAISED.format('distillkit_run_started')}",
    "steps_logged=late": f"{TRACKER} {RAISED.format('distillkit_steps_logged')}",
    "steps_logged=exit": f"{TRACKER} failed in distillkit_steps_logged: SystemExit: 3",
    "epoch_ended=raise": f"{TRACKER} {RAISED.format('distillkit_epoch_ended')}",
    "run_ended=raise": f"{TRACKER} {RAISED.format('distillkit_run_ended')}",
}


def test_without_a_fault_it_trains(distillkit):
    code, _, err = distillkit("", *RUN, "--out", "run")
    assert (code, "error" in err) == (0, False)


@pytest.mark.parametrize("fault", MESSAGES)
def test_a_run(distillkit, fault):
    code, out, err = distillkit(fault, "--quiet", *RUN, "--out", "run")
    assert (code, out, err) == (2, "", f"error: {MESSAGES[fault]}\n")


@pytest.mark.parametrize("fault", ["loss.forward=nothing", "loss.forward=bell", "loss.forward=keep"])
def test_a_plan(distillkit, fault):
    """The fault is reported before training starts."""
    code, _, err = distillkit(fault, "--quiet", "plan", *RUN[1:])
    assert code == 2
    assert err.startswith(f"error: {MESSAGES[fault].partition('got')[0]}")


@pytest.mark.parametrize("fault", ["data.key=raise", "data.label=half"])
def test_a_loader_process(distillkit, fault):
    """The message of an error in a loader process is unchanged."""
    code, _, err = distillkit(fault, "--quiet", *RUN, "--out", "run", "--set", "data.workers=1")
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


@pytest.mark.parametrize("fault", REGISTRATIONS)
def test_a_registration(distillkit, fault):
    """A broken plugin is listed with the reason, and other plugins still work."""
    broken = f"plugin 'contract-faulty' of contract-faulty 0.1 is broken: {REGISTRATIONS[fault]}"
    code, out, err = distillkit(fault, "plugins")
    assert (code, err, out.splitlines()[-1]) == (0, "", broken)
    code, _, err = distillkit(fault, "--quiet", "run", "--loss", "faulty", "--teacher", "timm:resnet18")
    assert code == 2
    assert err.startswith("error: unknown loss 'faulty'; ")
    assert err.endswith(f"; not loaded: {broken}\n")


def test_an_interrupt_while_a_plugin_is_loaded_is_an_interrupt(distillkit):
    assert distillkit("import=interrupt", "plugins") == (130, "", "")


def test_output_of_a_plugin_goes_to_stderr(distillkit):
    code, out, err = distillkit("import=print", "plugins", "--json")
    assert (code, err) == (0, "hello from a plugin\n")
    assert "faulty" in {plugin["name"] for plugin in json.loads(out)["plugins"]}


def test_verbose_shows_the_traceback_of_the_plugin(distillkit):
    code, _, err = distillkit("loss.target=late", "--quiet", "--verbose", *RUN, "--out", "run")
    assert code == 2
    assert 'contract_faulty.py", line' in err
    assert "ValueError: no idea\nat all\n" in err
    assert err.splitlines()[-1] == f"error: {MESSAGES['loss.target=late']}"


def test_a_tracker_that_fails_after_the_run_failed_does_not_hide_the_error(distillkit):
    """The error is what ended the run; the tracker's failure is a note."""
    code, _, err = distillkit("run_failed=raise loss.target=late", *RUN, "--out", "run")
    assert code == 2
    assert err.splitlines()[-2:] == [
        f"{TRACKER} {RAISED.format('distillkit_run_failed')}",
        f"error: {MESSAGES['loss.target=late']}",
    ]


def test_an_evaluator(distillkit, tmp_path):
    assert distillkit("", "--quiet", *RUN, "--out", "run")[0] == 0
    for fault, sentence in {
        "evaluator.init=raise": f"{EVALUATOR} {RAISED.format('its constructor')}",
        "evaluator.measure=raise": f"{EVALUATOR} {RAISED.format('measure')}",
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
        "student.forward=raise": f"{STUDENT} {RAISED.format('forward')}",
    }.items():
        protocol = "top1" if fault.startswith("student") else "faulty"
        code, out, err = distillkit(fault, "--quiet", "evaluate", "run", "--protocol", protocol)
        assert (code, out, err) == (2, "", f"error: {sentence}\n")
    assert not (tmp_path / "run" / "evaluations.jsonl").exists()
    assert distillkit("", "--quiet", "evaluate", "run", "--protocol", "faulty")[0] == 0
    code, out, err = distillkit("evaluator.measure=other", "--quiet", "evaluate", "run", "--protocol", "faulty")
    assert (code, out.split(), err) == (0, ["protocol", "looked", "at", "data", "squares", "entropy", "0.25"], "")


def test_an_exporter(distillkit):
    assert distillkit("", "--quiet", *RUN, "--out", "run")[0] == 0
    for fault, sentence in {
        "exporter.init=raise": f"{EXPORTER} {RAISED.format('its constructor')}",
        "exporter.check=raise": f"{EXPORTER} {RAISED.format('check')}",
        "exporter.write=raise": f"{EXPORTER} {RAISED.format('write')}",
        "exporter.write=none": f"{EXPORTER} returned None from write; {REQUIRES} an Artifact",
        "exporter.open=raise": f"{EXPORTER} {RAISED.format('open')}",
        "exporter.open=none": f"{EXPORTER} failed in open: TypeError: 'NoneType' object is not callable",
    }.items():
        code, out, err = distillkit(fault, "--quiet", "export", "run", "--format", "faulty")
        assert (code, out, err) == (2, "", f"error: {sentence}\n")
