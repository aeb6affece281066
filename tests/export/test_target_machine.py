"""A target machine with `pip install distillkit[runtime]` and a bundle, without torch, timm and onnx.

Its packages are the dependencies of distillkit[runtime] and their dependencies; nothing else is on the path.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib import resources

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

PHOTOGRAPH = str(resources.files("sklearn.datasets.images") / "china.jpg")
LACKING = ("torch", "timm", "onnx", "torchvision", "sklearn", "matplotlib", "onnxscript", "openvino")


@pytest.fixture(scope="session")
def site(tmp_path_factory, closure):
    """A folder with only the packages of `distillkit[runtime]`, linked from this environment."""
    folder = tmp_path_factory.mktemp("site")
    for installed in {id(found): found for found in closure("distillkit[runtime]").values()}.values():
        for top in {file.parts[0] for file in installed.files or () if file.parts[0] not in ("..", "__pycache__")}:
            if not (folder / top).exists() and not top.endswith(".pth"):
                (folder / top).symlink_to(installed.locate_file(top))
    return folder


@pytest.fixture(scope="session")
def on_target(site, tmp_path_factory, request):
    """`on_target("predict", ...)` runs distillkit on the target; `on_target.python("-c", ...)` runs Python."""
    roots = [request.config.rootpath / entry for entry in request.config.getini("pythonpath")]
    elsewhere = tmp_path_factory.mktemp("elsewhere")

    def python(*arguments, paths=(site, *roots)):
        return subprocess.run(
            [sys.executable, "-S", *map(str, arguments)],
            env={"PYTHONPATH": os.pathsep.join(map(str, paths)), "COLUMNS": "100", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
            cwd=elsewhere,  # otherwise the working tree would be on the path
        )

    def run(*arguments):
        return python("-m", "distillkit_cli.main", *arguments)

    run.python = python
    return run


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """Six crops of two photographs, of different sizes."""
    folder = tmp_path_factory.mktemp("images")
    for number, photograph in enumerate(load_sample_images().images):
        for side in (60, 90, 200):
            Image.fromarray(photograph).crop((side, 20, 3 * side, 20 + side)).save(folder / f"{number}-{side:03}.png")
    return folder


@pytest.fixture
def torch_probabilities(distilled, plain):
    """The probabilities of torch, with the preprocessing of training."""
    from distillkit.contracts.exporter import ExportRequest
    from distillkit.data.transforms import evaluation_transform
    from distillkit.recipe.image_tables import Augment
    from distillkit_export.from_torch.graph import torch_scorer

    def probabilities(model, folder, request):
        spec = model.spec
        transform = evaluation_transform(Augment(interpolation=spec.interpolation, eval_crop=spec.crop), spec)
        images = np.stack([transform(Image.open(path).convert("RGB")).numpy() for path in sorted(folder.iterdir())])
        scores = torch_scorer(model, request)(images).astype(np.float64)
        exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
        return exponentials / exponentials.sum(axis=1, keepdims=True)

    return {
        "fused": lambda folder: probabilities(distilled, folder, ExportRequest()),
        "plain": lambda folder: probabilities(plain, folder, ExportRequest()),
    }


def test_the_target_lacks_what_training_and_export_need(on_target):
    code = f"from importlib.util import find_spec; print([name for name in {LACKING!r} if find_spec(name)])"
    assert on_target.python("-c", code).stdout == "[]\n"
    code = "import numpy, PIL, onnxruntime, distillkit, distillkit_export; print('here')"
    assert on_target.python("-c", code).stdout == "here\n"


@pytest.mark.parametrize(
    "verb", [["--help"], ["--version"], ["plugins"], ["plugins", "--json"], ["recipes"]], ids=" ".join
)
def test_help_and_listings_work_on_the_target(on_target, verb):
    done = on_target(*verb)
    assert (done.returncode, bool(done.stdout), "Traceback" in done.stderr) == (0, True, False)


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        (["run"], "torch"),
        (["plan"], "torch"),
        (["evaluate", "timm:resnet18"], "torch"),
        (["attention", "timm:vit_tiny_patch16_224", PHOTOGRAPH], "torch"),
        (["export", "timm:resnet18"], "torch"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else value,
)
def test_verbs_that_need_torch_name_its_extra(on_target, arguments, missing):
    done = on_target(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f'error: distillkit {arguments[0]} needs {missing}, which is not installed; pip install "distillkit[train]"\n'
    )


@pytest.mark.parametrize("kind", ["fused", "plain"])
def test_predict_on_the_target_matches_torch(on_target, exported, images, torch_probabilities, kind):
    done = on_target("predict", exported[kind].directory, images, "--top", "7", "--json", "--batch", "4")
    assert (done.returncode, done.stderr) == (0, "")
    printed = json.loads(done.stdout)
    names = exported[kind].bundle.class_names
    found = [
        [{entry["class"]: entry["probability"] for entry in row["top"]}[name] for name in names]
        for row in printed["images"]
    ]
    np.testing.assert_allclose(found, torch_probabilities[kind](images), atol=1e-5)
    assert [row["image"] for row in printed["images"]] == [str(path) for path in sorted(images.iterdir())]
    assert (printed["file"], printed["runtime"], printed["failed"]) == ("model.onnx", "onnxruntime-cpu", [])


def test_torch_is_never_imported(on_target, exported, images):
    """Failed imports that are caught would also be recorded here."""
    code = f"""
import builtins, sys
names, real = set(), builtins.__import__
def watch(name, *rest, **more):
    names.add(name.partition(".")[0])
    return real(name, *rest, **more)
builtins.__import__ = watch
from distillkit_cli.main import command_line
code = command_line(["--quiet", "predict", {str(exported["plain"].directory)!r}, {str(images)!r}])
print(code, sorted(names & set({LACKING!r})))
"""
    done = on_target.python("-c", code)
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr


def test_profile_works_on_the_target_and_reports_what_it_leaves_out(on_target, exported, tmp_path):
    out = tmp_path / "profile"
    options = ["--runtime", "onnxruntime-cpu", "--batches", "1", "--seconds", "0.2", "--rounds", "2", "--out", out]
    done = on_target("profile", exported["plain"].directory, *options, "--json")
    assert done.returncode == 0, done.stderr
    (card,) = json.loads(done.stdout)["profiles"]
    (row,) = card["rows"]
    assert (row["batch"], row["failed"]) == (1, None)
    assert row["p50_ms"] > 0
    assert "Traceback" not in done.stderr
    assert {path.name for path in out.iterdir()} == {"profile.json", "profile.md"}
    assert (
        'note: no charts, because matplotlib is not installed; pip install "distillkit[train]"'
        in done.stderr.splitlines()
    )
    done = on_target("profile", exported["plain"].directory, "--runtime", "torch")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == (
        "error: runtime 'torch' does not work here: torch is not installed; pip install \"distillkit[train]\"\n"
    )


def test_profile_of_a_run_names_the_extra(on_target, tmp_path):
    done = on_target("profile", "timm:resnet18", "--out", tmp_path / "p")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: profiling 'timm:resnet18' needs torch, which is not installed; pip install \"distillkit[train]\"\n"
    )


def test_an_engine_that_cannot_be_built_on_the_target_is_one_error_line(on_target, exported, tmp_path):
    bundle = shutil.copytree(exported["plain"].directory, tmp_path / "b")
    done = on_target("export", bundle, "--trt")
    assert done.returncode == 3
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: tensorrt fp32 is pending: ")
    assert f"distillkit export {bundle} --trt" in line
    assert on_target("predict", bundle, "missing.png").returncode == 2  # the bundle itself is still valid


def test_verify_on_the_target_accepts_the_bundle_and_refuses_an_altered_one(on_target, exported, tmp_path):
    bundle = shutil.copytree(exported["plain"].directory, tmp_path / "b")
    done = on_target("verify", bundle)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{bundle}: every file matches its SHA-256\n")
    with (bundle / "model.onnx").open("ab") as file:
        file.write(b"\0")
    for verb in (["verify", bundle], ["profile", bundle], ["predict", bundle, "a.png"], ["export", bundle, "--trt"]):
        done = on_target(*verb)
        assert (done.returncode, done.stdout) == (2, ""), verb
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: model.onnx has "), verb
        assert line.endswith("was altered or truncated after the export; copy or export the bundle again"), verb


def test_unlisted_files_of_a_bundle_are_neither_followed_nor_read(on_target, exported, tmp_path):
    bundle = shutil.copytree(exported["plain"].directory, tmp_path / "b")
    (tmp_path / "away").mkdir()
    (tmp_path / "away" / "secret").write_text("secret")
    (bundle / "link").symlink_to(tmp_path / "away")
    (bundle / "notes.txt").write_text("mine")
    os.mkfifo(bundle / "pipe")
    assert on_target("export", bundle, "--trt").returncode == 3
    assert ((bundle / "link").is_symlink(), (bundle / "notes.txt").read_text()) == (True, "mine")
    assert on_target("verify", bundle).returncode == 0
    assert (
        not {"link", "link/secret", "notes.txt", "pipe"}
        & json.loads((bundle / "bundle.json").read_text())["files"].keys()
    )


def test_doctor_on_the_target_lists_what_works_and_why_the_rest_does_not(on_target):
    done = on_target("doctor", "--json")
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    runtimes = {row["name"]: row for row in json.loads(done.stdout)["runtimes"]}
    assert {name for name, row in runtimes.items() if row["runs"]} == {"onnxruntime-cpu"}
    assert (runtimes["torch"]["detail"], runtimes["torch"]["remedy"]) == (
        "torch is not installed",
        'pip install "distillkit[train]"',
    )


@pytest.fixture
def script_site(site, tmp_path):
    """A folder with only the packages of predict.py: numpy, Pillow and ONNX Runtime."""
    for package in ("numpy", "PIL", "onnxruntime"):
        (tmp_path / package).symlink_to(os.path.realpath(site / package))
    for library in ("numpy.libs", "pillow.libs"):
        if (site / library).exists():
            (tmp_path / library).symlink_to(os.path.realpath(site / library))
    return tmp_path


@pytest.mark.parametrize("kind", ["fused", "plain"])
def test_the_script_in_the_bundle_matches_torch_with_three_packages(
    on_target, exported, images, torch_probabilities, script_site, kind
):
    from distillkit_export.bundle.predict_script import write_predict_script

    directory = exported[kind].directory
    script = write_predict_script(script_site, exported[kind].bundle)
    for name in ("model.onnx", "bundle.json"):
        (script_site / name).symlink_to(directory / name)
    lacking = (*LACKING, "distillkit", "pydantic")
    code = f"from importlib.util import find_spec; print([name for name in {lacking!r} if find_spec(name)])"
    assert on_target.python("-c", code, paths=[script_site]).stdout == "[]\n"
    files = sorted(images.iterdir())
    done = on_target.python(script, *files, paths=[script_site])
    assert done.stderr == ""
    names = exported[kind].bundle.class_names
    expected = []
    for file, row in zip(files, torch_probabilities[kind](images), strict=True):
        best = np.argsort(-row)[:5]
        expected += [str(file), *(f"  {row[index]:6.1%}  {names[index]}" for index in best)]
    assert done.stdout.splitlines() == expected


def test_the_script_in_the_bundle_reports_unreadable_images(on_target, exported, images, script_site):
    from distillkit_export.bundle.predict_script import write_predict_script

    script = write_predict_script(script_site, exported["plain"].bundle)
    for name in ("model.onnx", "bundle.json"):
        (script_site / name).symlink_to(exported["plain"].directory / name)
    done = on_target.python(script, paths=[script_site])
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "usage: python predict.py IMAGE...\n")
    good = min(images.iterdir())
    truncated = script_site / "truncated.png"
    truncated.write_bytes(b"\x89PNG")
    done = on_target.python(script, "missing.png", truncated, good, paths=[script_site])
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: image 'missing.png' cannot be read: No such file or directory",
        f"error: image '{truncated}' cannot be read: cannot identify image file '{truncated}'",
    ]
    assert [line for line in done.stdout.splitlines() if not line.startswith(" ")] == [str(good)]


def test_profile_workers_on_the_target_need_no_more_packages(on_target, exported, tmp_path):
    done = on_target(
        "profile", exported["plain"].directory, "--batches", "1,2", "--seconds", "0.1", "--rounds", "2", "--json",
        "--out", tmp_path / "profile"
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (profile,) = json.loads(done.stdout)["profiles"]
    assert {row["batch"] for row in profile["rows"] if row["p50_ms"]} == {1, 2}
    assert {each["runtime"] for each in profile["configurations"]} == {"onnxruntime-cpu"}
    assert 'openvino: openvino is not installed; pip install "distillkit[openvino]"' in profile["skipped"]
    assert not [reason for reason in profile["skipped"] if reason.startswith("torch")]  # torch never loads ONNX
    assert "torch" not in profile["machine"]["software"]
    assert "no charts, because matplotlib is not installed" in done.stderr


def test_doctor_on_the_target_shows_what_runs(on_target):
    done = on_target("doctor", "--json")
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    found = {each["name"]: (each["verdict"], each["detail"]) for each in json.loads(done.stdout)["runtimes"]}
    assert found["onnxruntime-cpu"][0] == "runs"
    assert found["torch"] == ("not here", "torch is not installed")
    assert found["openvino"] == ("not here", "openvino is not installed")
