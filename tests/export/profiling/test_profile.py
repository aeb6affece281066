"""profile() on real students, runtimes and processes; too short to give meaningful latencies."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from distillkit.compute.result_folder import require_result_folder
from distillkit.contracts.model import ModelRequest
from distillkit.errors import BundleError, RunDirectoryError, UnavailableError, UserError
from distillkit.models.heads import Answer
from distillkit.models.saved_student import save_student
from distillkit.storage.atomic import sha256
from distillkit_export.bundle.reader import open_bundle
from distillkit_export.pipeline.export import export_onnx
from distillkit_export.pipeline.target import load_target
from distillkit_export.predictor import load
from distillkit_export.profiling import profile as profiles
from distillkit_export.profiling import tuning
from distillkit_export.profiling.configurations import ProfileSelection
from distillkit_export.profiling.profile import profile, require_measured
from distillkit_export.profiling.rounds import MeasurementPlan
from distillkit_export.profiling.schema import AccuracyCard, read_profile
from distillkit_export.profiling.subjects import bundle_subject, measured_accuracy, open_targets

SHORT = MeasurementPlan(batches=(1, 2), seconds=0.05, rounds=2, warm_up_s=0.2)
ORT = ProfileSelection(runtimes=("onnxruntime-cpu",))


@pytest.fixture(scope="module")
def student(plugins, tmp_path_factory):
    """A run with only what these tests need: the saved student and its result."""
    folder = tmp_path_factory.mktemp("runs") / "tonight"
    folder.mkdir()
    plugin = plugins.find("student", "deit-ti")
    options = plugin.options({"image_size": 8, "patch": 4, "width": 16, "depth": 1, "heads": 2})
    request = ModelRequest("deit-ti", None, options, classes=3)
    torch.manual_seed(0)
    save_student(folder, plugin.call("build", request), request, Answer("fused", "logits"))
    (folder / "result.json").write_text(json.dumps({"figures": {"test/top1": 61.5, "test/images": 200.0}}))
    return folder


@pytest.fixture(scope="module")
def written(plugins, student, tmp_path_factory):
    folder = tmp_path_factory.mktemp("written") / "student"
    export_onnx(load_target(str(student), plugins).model, folder)
    return folder


@pytest.fixture
def bundle(written, tmp_path):
    return shutil.copytree(written, tmp_path / "student")


def test_profile_is_written_into_the_bundle_which_stays_valid(plugins, bundle):
    found = profile([str(bundle)], plugins, wanted=ORT, plan=SHORT)
    assert found.directory == bundle / "profile"
    assert read_profile(bundle / "profile" / "profile.json") == found.measured
    assert (bundle / "profile" / "profile.md").read_text().startswith("# Profile of student\n")
    (configuration,) = found.measured.configurations
    assert configuration.facts["provider"] == "CPUExecutionProvider"
    assert configuration.file_bytes == (bundle / "model.onnx").stat().st_size
    assert [row.batch for row in found.measured.rows] == [1, 2]
    assert all(row.p50_ms > 0 and row.failed is None for row in found.measured.rows)
    assert open_bundle(bundle).manifest.files  # profiles have no digest, so the bundle is still valid


def test_altered_bundle_is_refused_before_anything_is_measured(plugins, bundle):
    with (bundle / "model.onnx").open("ab") as file:
        file.write(b"more")
    with pytest.raises(BundleError, match=r"^model\.onnx has .*: it was altered or truncated after the export"):
        profile([str(bundle)], plugins, wanted=ORT, plan=SHORT)


def test_run_is_measured_in_memory_and_as_a_temporary_onnx_export(plugins, student, tmp_path):
    wanted = ProfileSelection(runtimes=("torch", "onnxruntime-cpu"))
    found = profile([str(student)], plugins, wanted=wanted, plan=SHORT, out=tmp_path / "out", baseline="torch")
    measured = found.measured
    assert [each.name for each in measured.configurations] == ["tonight/torch/fp32", "tonight/onnxruntime-cpu/fp32"]
    assert measured.baseline == "tonight/torch/fp32"
    assert all(row.ratio.rounds == 2 for row in measured.rows)
    assert measured.subjects[0].accuracy == {
        "fp32": AccuracyCard(top1=61.5, images=200, source="the run's evaluation, test")
    }
    assert found.notes == ("tonight: exported to ONNX for this profile only",)
    assert not (student / "export").exists()


@pytest.mark.parametrize("fits", [True, False])
def test_export_of_a_run_is_used_only_if_its_weights_are_current(plugins, student, bundle, tmp_path, fits):
    run = shutil.copytree(student, tmp_path / "run")
    shutil.copytree(bundle, run / "export")
    manifest = json.loads((run / "export" / "bundle.json").read_text())
    manifest["source"]["weights_sha256"] = sha256(run / "student.safetensors") if fits else "0" * 64
    (run / "export" / "bundle.json").write_text(json.dumps(manifest))
    with ExitStack() as stack:
        found = open_targets([str(run)], plugins, stack)
    assert found.notes == ([] if fits else ["run: exported to ONNX for this profile only"])
    assert [artefact.servable.format for artefact in found.subjects[0].artefacts] == ["torch", "onnx"]


def test_earlier_profiles_are_shown_without_measuring_anything(plugins, bundle, tmp_path, monkeypatch):
    first = profile([str(bundle)], plugins, wanted=ORT, plan=SHORT, out=tmp_path / "first")
    monkeypatch.setattr(profiles, "measure", None)
    found = profile([str(tmp_path / "first" / "profile.json")], plugins, out=tmp_path / "second")
    assert (found.measured, found.all) == (None, (first.measured,))
    assert not (tmp_path / "second").exists()


@pytest.mark.slow
def test_tuned_setting_is_what_predict_uses_afterwards(plugins, bundle, monkeypatch):
    monkeypatch.setattr(tuning, "FIRST_SECONDS", SHORT.seconds)
    monkeypatch.setattr(tuning, "WARM_UP_S", SHORT.warm_up_s)
    found = profile([str(bundle)], plugins, wanted=ORT, plan=SHORT, tune=True)
    choice = found.measured.best["2"]
    assert choice.runtime == "onnxruntime-cpu"
    assert json.loads((bundle / "profile" / "best.json").read_text())["batches"]["2"]["setting"] == choice.setting
    predictor = load(bundle, plugins=plugins)
    assert predictor.runtime == "onnxruntime-cpu"
    if "threads" in choice.setting:
        assert predictor._session.facts["threads"] == choice.setting["threads"]


def relist(bundle, name):
    """Update the digest of a file in the manifest."""
    manifest = json.loads((bundle / "bundle.json").read_text())
    manifest["files"][name] = {"sha256": sha256(bundle / name), "bytes": (bundle / name).stat().st_size}
    (bundle / "bundle.json").write_text(json.dumps(manifest))


def test_accuracy_is_read_from_the_gates_report(bundle):
    assert bundle_subject(open_bundle(bundle), "a").card.accuracy == {}
    report = {"model.onnx": {"accuracy": {"images": 10_000, "model": 53.7, "file": 53.62}}}
    (bundle / "parity.json").write_text(json.dumps({"files": report}))
    with pytest.raises(BundleError, match=r"^parity\.json has 88 bytes, but bundle\.json says "):
        measured_accuracy(open_bundle(bundle, every_file=False))
    relist(bundle, "parity.json")
    assert measured_accuracy(open_bundle(bundle, every_file=False)) == {
        "fp32": AccuracyCard(top1=53.62, images=10_000, source="parity.json")
    }


def test_folders_with_equal_names_get_numbers(plugins, bundle, tmp_path):
    again = shutil.copytree(bundle, tmp_path / "again" / "student")
    with ExitStack() as stack:
        found = open_targets([str(bundle), str(again)], plugins, stack)
    assert [subject.name for subject in found.subjects] == ["student", "student-2"]


def test_folder_named_bundle_is_named_after_its_run_if_known(plugins, bundle, tmp_path):
    path = shutil.copytree(bundle, tmp_path / "elsewhere" / "bundle")
    named = []
    for run in (None, "soft"):
        manifest = json.loads((path / "bundle.json").read_text())
        manifest["source"]["run"] = run
        (path / "bundle.json").write_text(json.dumps(manifest))
        with ExitStack() as stack:
            named += [subject.name for subject in open_targets([str(path)], plugins, stack).subjects]
    assert named == ["bundle", "soft"]


def refusal(error, *arguments, **named):
    with pytest.raises(error) as raised:
        profile(*arguments, **named)
    return str(raised.value)


def test_targets_that_cannot_be_measured_are_one_sentence(plugins, bundle, tmp_path):
    assert refusal(RunDirectoryError, ["nowhere/at/all"], plugins) == (
        "'nowhere/at/all' does not exist; give a bundle, a run directory, a profile, or a model by name (timm:resnet18)"
    )
    assert refusal(UserError, [str(bundle)] * 2, plugins, tune=True) == (
        "--tune works on one student, not 2; give one target"
    )
    wanted = ProfileSelection(runtimes=("onnxruntime-cpu",), precisions=("int8",))
    assert refusal(UnavailableError, [str(bundle)], plugins, wanted=wanted) == (
        "no runtime here can run student in int8; available: onnx fp32"
    )
    assert refusal(UserError, [str(bundle)], plugins, wanted=ORT, plan=SHORT, out=Path("/dev/null/x")) == (
        "the profile cannot be written to '/dev/null/x' (Not a directory); give another folder with --out"
    )
    assert refusal(UserError, [str(bundle)], plugins, wanted=ORT, plan=SHORT, baseline="tensorrt") == (
        "baseline 'tensorrt' is not one of the configurations; choose one of student/onnxruntime-cpu/fp32"
    )


def test_check_for_writing_leaves_nothing_behind(tmp_path):
    require_result_folder(tmp_path / "a" / "b", "the profile")
    assert list(tmp_path.iterdir()) == []


def test_requested_runtime_or_precision_without_measurement_is_an_error(profile_of):
    card = profile_of({"torch": 10.0, "ort": 4.0})
    reason = {"failed": "its process was killed by SIGSEGV"}
    rows = tuple(row.model_copy(update=reason) if "/ort/" in row.configuration else row for row in card.rows)
    some, none = (card.model_copy(update={"rows": each}) for each in (rows, ()))
    require_measured(some, ProfileSelection())
    require_measured(card, ProfileSelection(("torch", "ort"), ("fp32",)))
    with pytest.raises(UnavailableError) as one:
        require_measured(some, ProfileSelection(("torch", "ort"), ("int8",)))
    assert str(one.value) == ("runtime 'ort' and precision 'int8' could not be measured; see the reasons above")
    with pytest.raises(UnavailableError) as every:
        require_measured(none, ProfileSelection())
    assert str(every.value) == ("nothing was measured, because every configuration failed; see the reasons above")
