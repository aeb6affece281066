"""Every name of TensorRT that distillkit uses is in the real bindings of both major versions, and called correctly."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
MODULES = [ROOT / "export" / "distillkit_export" / "tensorrt" / name for name in ("building.py", "running.py")]


@pytest.fixture(scope="module")
def names():
    specification = importlib.util.spec_from_file_location("tensorrt_names", ROOT / "scripts" / "tensorrt_names.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def committed(major):
    return (HERE / f"api-{major}.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("major", [10, 11])
def test_listing_matches_the_real_bindings(major, names):
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc, to build empty libraries in place of TensorRT's")
    if not (names.installed(major) / "tensorrt_bindings").is_dir():
        pytest.skip(f"needs the bindings of TensorRT {major}; make puts them into {names.installed(major)}")
    if not list((names.installed(major) / "tensorrt_bindings").glob("tensorrt*.so")):
        pytest.skip(f"the bindings of TensorRT {major} are not for this system")
    assert names.as_text(names.read(names.installed(major), major)) == committed(major)


def test_stub_has_what_the_listings_have_in_common(names):
    stub = names.stub([json.loads(committed(major)) for major in names.MAJORS])
    assert names.STUB.read_text(encoding="utf-8") == stub


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """Run mypy on files with only the stub; all other imports are Any."""
    cache = tmp_path_factory.mktemp("mypy")

    def check(*files):
        options = ["--config-file=", "--follow-imports=skip", "--ignore-missing-imports", f"--cache-dir={cache}"]
        return subprocess.run(
            [sys.executable, "-m", "mypy", *options, *map(str, files)],
            check=False,
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, "MYPYPATH": str(ROOT / "typings")},
        ).stdout

    return check


def test_our_calls_fit_the_signatures_that_both_versions_share(checked):
    assert checked(*MODULES) == "Success: no issues found in 2 source files\n"


@pytest.mark.parametrize("name", ["create_network", "set_timing_cache", "STRONGLY_TYPED", "get_engine_information"])
def test_misspelling_in_our_own_code_is_found(name, checked, tmp_path):
    code = MODULES[0].read_text(encoding="utf-8")
    assert name in code
    changed = tmp_path / "building.py"
    changed.write_text(code.replace(name, f"{name}s"), encoding="utf-8")
    assert f'has no attribute "{name}s"' in checked(changed)


MISTAKES = {
    "flag removed in 11": ("trt.BuilderFlag.FP16", 'has no attribute "FP16"'),
    "class removed in 11": ("trt.IInt8EntropyCalibrator2", 'has no attribute "IInt8EntropyCalibrator2"'),
    "method removed in 11": ("runtime.deserialize_cuda_engin(b'')", 'has no attribute "deserialize_cuda_engin"'),
    "wrong number": ("profile.set_shape('images', (1,), (1,))", 'Missing positional argument "max"'),
    "wrong keyword": ("builder.create_network(flag=1)", 'Unexpected keyword argument "flag"'),
    "wrong type": ("context.set_tensor_address('images', 'here')", 'has incompatible type "str"'),
    "result that may be null": ("builder.create_builder_config().set_flag", 'Item "None"'),
}


def test_wrong_names_keywords_and_numbers_are_found(checked, tmp_path):
    head = [
        "import tensorrt as trt",
        "def use(",
        "    builder: trt.Builder,",
        "    runtime: trt.Runtime,",
        "    profile: trt.IOptimizationProfile,",
        "    context: trt.IExecutionContext,",
        ") -> None:",
    ]
    snippet = tmp_path / "snippet.py"
    snippet.write_text("\n".join([*head, *(f"    {code}" for code, _ in MISTAKES.values())]) + "\n")
    lines = checked(snippet).splitlines()
    found = {int(line.split(":")[1]): line for line in lines if ": error: " in line}
    for number, (kind, (_, complaint)) in enumerate(MISTAKES.items(), start=len(head) + 1):
        assert complaint in found[number], (kind, found.get(number))


def test_double_has_only_the_names_of_its_version(double):
    import tensorrt as trt

    assert trt.__version__ == double.version
    assert hasattr(trt.BuilderFlag, "FP16") is (double.major == 10)
    builder = trt.Builder(trt.ILogger())
    with pytest.raises(AttributeError):
        builder.make_network(2)
    with pytest.raises(AttributeError):
        builder.network = None
    with pytest.raises(TypeError, match="incompatible function arguments"):
        builder.create_network(flag=2)
    with pytest.raises(TypeError, match="incompatible function arguments"):
        builder.create_network(1, 2)
    with pytest.raises(TypeError, match="incompatible function arguments"):
        trt.Builder("no logger")
    config = builder.create_builder_config()
    with pytest.raises(TypeError):
        config.profiling_verbosity = 2
    with pytest.raises(AttributeError):
        config.num_optimization_profiles = 2
