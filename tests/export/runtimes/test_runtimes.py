"""Every built-in runtime: the same scores as torch, facts read back from the session, and errors."""

from __future__ import annotations

import json
import subprocess
import sys
import threading

import numpy as np
import onnx
import pytest
import torch

from distillkit.contracts.exporter import ExportRequest
from distillkit.contracts.model import ModelRequest
from distillkit.contracts.runtime import Servable
from distillkit.errors import GateError, UnavailableError
from distillkit.models.heads import Answer
from distillkit.models.saved_student import save_student
from distillkit_export.pipeline.export import export_onnx
from distillkit_export.pipeline.target import load_target
from distillkit_export.runtimes import nvidia, onnx_runtime, processors, torch_presence
from distillkit_export.runtimes.host_clock import HostTimed
from distillkit_export.runtimes.onnx_runtime import CPU, OnnxRuntimeSession
from distillkit_export.runtimes.onnxruntime_cpu import OnnxRuntimeCpu
from distillkit_export.runtimes.onnxruntime_gpu import OnnxRuntimeCuda, OnnxRuntimeTensorrt
from distillkit_export.runtimes.openvino_cpu import OpenVino
from distillkit_export.runtimes.torch_compile import TorchCompile
from distillkit_export.runtimes.torch_eager import TorchEager

NAMES = ("onnxruntime-cpu", "onnxruntime-cuda", "onnxruntime-tensorrt", "openvino", "torch", "torch-compile")
GPU_NAMES = {"onnxruntime-cuda": OnnxRuntimeCuda, "onnxruntime-tensorrt": OnnxRuntimeTensorrt}


@pytest.fixture(scope="module")
def student(plugins, tmp_path_factory):
    """A saved student with two heads, as a run saves it."""
    folder = tmp_path_factory.mktemp("student")
    given = {"image_size": 32, "patch": 8, "width": 48, "depth": 2, "heads": 3}
    request = ModelRequest("deit-ti", None, plugins.find("student", "deit-ti").options(given), classes=7)
    torch.manual_seed(0)
    model = plugins.find("student", "deit-ti").call("build", request)
    for parameter in model.network.parameters():
        torch.nn.init.trunc_normal_(parameter, std=0.2)
    save_student(folder, model, request, Answer("fused", "logits"))
    return Servable("torch", str(folder))


@pytest.fixture(scope="module")
def file(plugins, student, tmp_path_factory):
    model = load_target(student.source, plugins).model
    exported = export_onnx(model, tmp_path_factory.mktemp("exported") / "bundle")
    return Servable("onnx", str(exported.directory / "model.onnx"))


@pytest.fixture
def images():
    return np.random.default_rng(0).standard_normal((3, 3, 32, 32)).astype(np.float32)


def opened(runtime, servable, setting=None):
    return runtime.open(servable, setting or {})


@pytest.mark.parametrize("name", NAMES)
def test_every_runtime_reports_availability_and_a_remedy(plugins, name):
    runtime = plugins.find("runtime", name).create()
    found = runtime.availability()
    assert found.detail
    assert bool(found.remedy) != found.works
    assert all(json.loads(json.dumps(setting)) == setting for setting in runtime.settings())


@pytest.mark.parametrize("blocked", ["torch", "openvino", "onnxruntime"])
def test_availability_in_an_environment_without_the_package(blocked):
    code = (
        "import sys, importlib.abc\n"
        "class Absent(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None): \n"
        f"        if name.partition('.')[0] == {blocked!r}: raise ModuleNotFoundError(name)\n"
        "import importlib.util as u; whole = u.find_spec\n"
        f"u.find_spec = lambda name, package=None: None if name.partition('.')[0] == {blocked!r} else whole(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from distillkit.plugin.registry import installed_plugins\n"
        "for plugin in installed_plugins().listing('runtime'):\n"
        "    found = plugin.create().availability()\n"
        "    print(plugin.spec.name, found.works, found.detail, '|', found.remedy)\n"
        "assert 'torch' not in sys.modules\n"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert finished.stderr == ""
    lines = dict(line.split(" ", 1) for line in finished.stdout.splitlines())
    expected = {
        "torch": ("torch", 'False torch is not installed | pip install "distillkit[train]"'),
        "openvino": ("openvino", 'False openvino is not installed | pip install "distillkit[openvino]"'),
        "onnxruntime": ("onnxruntime-cpu", 'False onnxruntime is not installed | pip install "distillkit[runtime]"'),
    }
    name, sentence = expected[blocked]
    assert lines[name] == sentence


def test_onnx_runtime_scores_and_times_a_bound_batch(file, images):
    session = opened(OnnxRuntimeCpu(), file)
    expected = session(images)
    assert expected.shape == (3, 7)
    elapsed = session.bind(images).time(4)
    assert len(elapsed) == 4
    assert min(elapsed) > 0


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_onnx_runtime_threads_are_counted_in_the_process(file, threads):
    facts = opened(OnnxRuntimeCpu(), file, {"threads": threads, "spinning": False}).facts
    assert (facts["threads"], facts["spinning"], facts["provider"]) == (threads, False, CPU)


def test_broken_file_is_refused_in_one_sentence(tmp_path):
    broken = tmp_path / "model.onnx"
    broken.write_bytes(b"nothing")
    for runtime in (OnnxRuntimeCpu(), OpenVino()):
        with pytest.raises(GateError, match=r"^(ONNX Runtime|OpenVINO) cannot load model\.onnx: [^\n]+$"):
            opened(runtime, Servable("onnx", str(broken)))


@pytest.mark.parametrize("runtime", [OnnxRuntimeCpu(), OpenVino(), TorchEager()])
def test_wrong_batch_is_an_error_of_the_runtime(file, student, runtime):
    session = opened(runtime, file if runtime.formats == ("onnx",) else student)
    with pytest.raises(GateError, match=r"^(ONNX Runtime|OpenVINO|torch) cannot run [^\n]+ on a batch of 2: [^\n]+$"):
        session(np.zeros((2, 4, 8, 8), np.float32))


def test_formats_that_a_runtime_does_not_load_are_refused():
    for runtime in (OnnxRuntimeCpu(), OpenVino(), OnnxRuntimeCuda(), OnnxRuntimeTensorrt()):
        with pytest.raises(UnavailableError, match=r"^[\w-]+ loads onnx, not tensorrt$"):
            opened(runtime, Servable("tensorrt", "model.plan"))
    with pytest.raises(UnavailableError, match=r"^torch runs models in memory, not files such as onnx$"):
        opened(TorchEager(), Servable("onnx", "model.onnx"))


@pytest.mark.skipif(not OpenVino().availability().works, reason="OpenVINO is not installed")
class TestOpenVino:
    def test_float32_is_computed_in_float32_not_in_bfloat16(self, file, images):
        session = opened(OpenVino(), file)
        expected = opened(OnnxRuntimeCpu(), file)(images)
        np.testing.assert_allclose(session(images), expected, rtol=0, atol=2e-5 * np.abs(expected).max())
        assert session.facts["arithmetic"] == "f32"
        assert session.facts["hint"] == "LATENCY"

    def test_bfloat16_is_used_only_on_request(self, file, images):
        expected = opened(OnnxRuntimeCpu(), file)(images)
        try:
            session = opened(OpenVino(), Servable("onnx", file.source, "bf16"))
        except UnavailableError as refusal:
            assert str(refusal).endswith("on this CPU, not in bf16")  # noqa: PT017 - either is right, by the CPU
            return
        assert session.facts["arithmetic"] == session.facts["precision"] == "bf16"
        difference = np.abs(session(images) - expected).max() / np.abs(expected).max()
        assert 1e-4 < difference < 0.1

    def test_threads_are_those_requested(self, file, images):
        session = opened(OpenVino(), file, {"threads": 1, "pinning": False})
        assert (session.facts["threads"], session.facts["pinning"]) == (1, False)
        assert len(session.bind(images).time(2)) == 2

    def test_scores_are_not_overwritten_by_the_next_batch(self, file, images):
        session = opened(OpenVino(), file)
        first = session(images)
        kept = first.copy()
        session(-images)
        np.testing.assert_array_equal(first, kept)

    def test_bound_batches_copy_the_callers_images(self, file, images):
        session = opened(OpenVino(), file)
        expected, given = session(images), images.copy()
        bound, other = session.bind(given), session.bind(np.zeros((1, 3, 32, 32), np.float32))
        given[:] = np.nan
        bound.time(2), other.time(2)
        np.testing.assert_array_equal(bound._compute.__self__.get_output_tensor().data, expected)

    def test_bound_batches_outlive_their_images(self, file):
        """In a subprocess, because reading freed memory would crash this one."""
        code = (
            "import gc, sys, numpy as np\n"
            "from distillkit.contracts.runtime import Servable\n"
            "from distillkit_export.runtimes.openvino_cpu import OpenVino\n"
            "session = OpenVino().open(Servable('onnx', sys.argv[1]), {'threads': 1})\n"
            "draw = np.random.default_rng(0).standard_normal\n"
            "for turn in range(40):\n"
            "    bound = []\n"
            "    for batch in (1, 7, 8):\n"
            "        bound.append(session.bind(draw((batch, 3, 32, 32), np.float32)))\n"
            "        gc.collect()\n"
            "        rubbish = [draw((size, 3, 32, 32), np.float32) for size in (1, 7, 8, 16)]\n"
            "        session(rubbish[turn % 4])\n"
            "    for each in bound: each.time(3)\n"
            "print('alive')\n"
        )
        command = [sys.executable, "-c", code, file.source]
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (finished.returncode, finished.stdout, finished.stderr) == (0, "alive\n", "")

    def test_openvino_does_not_report_its_use(self, file):
        """In a process of its own, which has not imported it."""
        code = (
            "import sys\n"
            "from distillkit.contracts.runtime import Servable\n"
            "from distillkit_export.runtimes.openvino_cpu import OpenVino\n"
            "OpenVino().open(Servable('onnx', sys.argv[1]), {'threads': 1})\n"
            "print(sorted(name for name in sys.modules if 'telemetry' in name and sys.modules[name]))\n"
        )
        command = [sys.executable, "-c", code, file.source]
        finished = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "openvino_telemetry" not in finished.stdout
        assert "openvino.tools.ovc.telemetry_stub" in finished.stdout


class TestTorch:
    def test_scores_equal_those_of_the_exported_file(self, student, file, images):
        session = opened(TorchEager(), student)
        expected = opened(OnnxRuntimeCpu(), file)(images)
        np.testing.assert_allclose(session(images), expected, rtol=0, atol=1e-4 * np.abs(expected).max())
        assert session.facts["parameters_in"] == "float32"
        assert len(session.bind(images).time(3)) == 3

    def test_the_request_chooses_the_head(self, student, images):
        answers = [
            opened(TorchEager(), Servable("torch", student.source, request=ExportRequest(head)))(images)
            for head in ("class", "distill", "fused")
        ]
        np.testing.assert_allclose((answers[0] + answers[1]) / 2, answers[2], rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize(("precision", "dtype"), [("bf16", "bfloat16"), ("fp16", "float16")])
    def test_half_precision_applies_to_the_weights(self, student, images, precision, dtype):
        session = opened(TorchEager(), Servable("torch", student.source, precision))
        assert session.facts["parameters_in"] == dtype
        exact = opened(TorchEager(), student)(images)
        difference = np.abs(session(images) - exact).max() / np.abs(exact).max()
        assert 0 < difference < 0.1

    def test_int8_is_refused(self, student):
        with pytest.raises(UnavailableError, match=r"^torch computes in fp32, fp16, bf16, not in int8$"):
            opened(TorchEager(), Servable("torch", student.source, "int8"))

    def test_threads_are_set(self, student):
        before = torch.get_num_threads()
        try:
            assert opened(TorchEager(), student, {"device": "cpu", "threads": 3}).facts["threads"] == 3
        finally:
            torch.set_num_threads(before)

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
    def test_gpu_that_is_not_there_is_refused(self, student):
        with pytest.raises(UnavailableError, match=r"^torch finds no CUDA device; use --device cpu$"):
            opened(TorchEager(), student, {"device": "cuda"})

    @pytest.mark.slow
    def test_compiled_scores_equal_those_of_eager(self, student, images):
        session = opened(TorchCompile(), student, {"device": "cpu"})
        exact = opened(TorchEager(), student)(images)
        np.testing.assert_allclose(session(images), exact, rtol=0, atol=1e-4 * np.abs(exact).max())
        assert session.facts["compile_mode"] == "default"

    def test_missing_compiler_is_reported(self, monkeypatch):
        monkeypatch.setattr(torch_presence, "has_cuda", lambda: False)
        monkeypatch.setattr("shutil.which", lambda name: None)
        found = TorchCompile().availability()
        assert (found.works, found.detail) == (False, "torch.compile found no C++ compiler")


class TestGpu:
    @pytest.mark.parametrize("name", sorted(GPU_NAMES))
    @pytest.mark.skipif(nvidia.cuda_devices() > 0, reason="there is a GPU")
    def test_opening_without_gpu_or_gpu_build_is_an_error(self, name, file):
        with pytest.raises(UnavailableError, match=rf"^{name} does not work here: [^\n]+; [^\n]+$"):
            opened(GPU_NAMES[name](), file)

    def test_two_builds_of_onnx_runtime_are_reported_as_a_conflict(self, monkeypatch):
        monkeypatch.setattr(onnx_runtime, "version", lambda name: "1.31.1")
        found = OnnxRuntimeCuda().availability()
        if not nvidia.cuda_devices() and not found.works:
            assert found.detail == (
                "onnxruntime 1.31.1 and onnxruntime-gpu 1.31.1 are both installed and overwrite each other"
            )
            assert found.remedy == 'pip uninstall onnxruntime onnxruntime-gpu, then pip install "distillkit[gpu]"'

    def test_a_driver_that_fails_counts_as_no_gpu(self, tmp_path):
        assert nvidia.cuda_devices("no-such-library.so") == 0
        assert nvidia.cuda_devices("libc.so.6") == 0

    @pytest.mark.filterwarnings("ignore:Specified provider")
    @pytest.mark.skipif(nvidia.cuda_devices() > 0, reason="there is a GPU")
    def test_provider_that_falls_back_is_refused(self, file):
        with pytest.raises(
            UnavailableError, match=r"^CUDAExecutionProvider cannot execute model\.onnx here: |fell back"
        ):
            OnnxRuntimeSession(file, [("CUDAExecutionProvider", {})], {}, device="cuda")

    def test_precision_flags_follow_the_file(self):
        (first, given), (second, _) = OnnxRuntimeTensorrt().providers(Servable("onnx", "m", "fp16"), graph=True)
        assert (first, second) == ("TensorrtExecutionProvider", "CUDAExecutionProvider")
        assert given == {"trt_cuda_graph_enable": "True", "trt_fp16_enable": "True"}
        assert OnnxRuntimeCuda().providers(Servable("onnx", "m"), graph=False) == [
            ("CUDAExecutionProvider", {"enable_cuda_graph": "0", "use_tf32": "0"})
        ]

    @pytest.mark.gpu
    @pytest.mark.parametrize("device", ["cuda"])
    def test_torch_on_the_gpu_is_timed_by_the_device(self, device, student, images):
        for runtime in (TorchEager(), TorchCompile()):
            session = opened(runtime, student, {"device": device})
            exact = opened(TorchEager(), student, {"device": "cpu"})(images)
            np.testing.assert_allclose(session(images), exact, rtol=0, atol=2e-2 * np.abs(exact).max())
            assert session.facts["clock"] == "device"
            assert min(session.bind(images).time(5)) > 0
            assert session.device_bytes() > 0


def test_bound_batches_of_several_sizes_do_not_disturb_calls(tmp_path):
    """The code path of a GPU on the CPU provider: bound input and output, output written in place."""
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Mul", ["images", "images"], ["squares"])],
        "square",
        [onnx.helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, ["batch", 2])],
        [onnx.helper.make_tensor_value_info("squares", onnx.TensorProto.FLOAT, ["batch", 2])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    onnx.save_model(model, tmp_path / "square.onnx")
    session = opened(OnnxRuntimeCpu(), Servable("onnx", str(tmp_path / "square.onnx")))
    for batch in (1, 4):
        assert len(session.bind(np.full((batch, 2), 3, np.float32)).time(2)) == 2
        np.testing.assert_array_equal(session(np.full((batch, 2), 3, np.float32)), np.full((batch, 2), 9))


def test_host_clock_times_every_query():
    calls = []
    elapsed = HostTimed(lambda: calls.append(1)).time(3)
    assert (len(elapsed), len(calls)) == (3, 3)


@pytest.mark.parametrize(
    ("usable", "cores", "counts"),
    [(8, 4, (8, 4, 2, 1)), (2, 2, (2, 1)), (1, 1, (1,)), (6, 3, (6, 3, 1))],
)
def test_thread_counts_are_all_cpus_all_cores_and_halves(monkeypatch, usable, cores, counts):
    monkeypatch.setattr(processors, "usable_cpus", lambda: usable)
    monkeypatch.setattr(processors, "physical_cores", lambda: cores)
    assert processors.thread_counts() == counts


def test_threads_started_by_a_call_are_counted():
    stop = threading.Event()
    threads = [threading.Thread(target=stop.wait) for _ in range(3)]

    def start():
        for thread in threads:
            thread.start()

    assert processors.threads_started(start) == 3
    stop.set()
    for thread in threads:
        thread.join()
