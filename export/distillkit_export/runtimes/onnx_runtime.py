"""ONNX Runtime sessions on one execution provider, without silent fallback to another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillkit.contracts.runtime import Availability, Bound, Servable
from distillkit.errors import GateError, UnavailableError
from distillkit.messages.text import one_line
from distillkit_export.onnx.session import FATAL_ONLY, NO_KERNEL, PROVIDER, load_error, loadable, reason
from distillkit_export.runtimes.host_clock import HostTimed
from distillkit_export.runtimes.processors import threads_started

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CPU, CUDA, TENSORRT = PROVIDER, "CUDAExecutionProvider", "TensorrtExecutionProvider"
BUILDS = ("onnxruntime", "onnxruntime-gpu")
"""Two distributions of the same files: the one installed last overwrites the other."""

Provider = tuple[str, Mapping[str, Any]]


def installed_builds() -> dict[str, str]:
    """Versions of the installed ONNX Runtime distributions; more than one is a conflict."""
    found = {}
    for name in BUILDS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def availability(provider: str, remedy: str) -> Availability:
    """Whether ONNX Runtime is installed and built with `provider`. Opens no session, never raises."""
    builds = installed_builds()
    if find_spec("onnxruntime") is None:
        return Availability(works=False, detail="onnxruntime is not installed", remedy=remedy)
    try:
        import onnxruntime

        built_with = onnxruntime.get_available_providers()
    except Exception as error:  # noqa: BLE001 - a broken installation fails in many ways, none of which may stop a listing
        return Availability(works=False, detail=f"onnxruntime cannot be imported: {one_line(error)}", remedy=remedy)
    named = " and ".join(f"{name} {number}" for name, number in builds.items()) or f"onnxruntime {_own_version()}"
    clash = f"{named} are both installed and overwrite each other" if len(builds) > 1 else ""
    if provider not in built_with:
        missing = f"{named} is built without {provider}"
        cure = f"pip uninstall {' '.join(BUILDS)}, then {remedy}" if builds else remedy
        return Availability(works=False, detail=clash or missing, remedy=cure)
    return Availability(works=True, detail=f"{clash or named}, {provider}")


class OnnxRuntimeSession:
    """One ONNX file in ONNX Runtime, executed by the first of `providers`, without CPU fallback.

    `device` is where bound batches and their outputs lie: "cuda" for GPU providers.
    Shapes: images [B, C, H, W], or [B, H, W, C] uint8, as the file expects; returns scores [B, K].
    Raises: GateError if ONNX Runtime cannot load the file; UnavailableError if it has no kernel, or falls back to
    another provider.
    """

    def __init__(
        self, servable: Servable, providers: Sequence[Provider], options: Mapping[str, Any], device: str = "cpu"
    ) -> None:
        import onnxruntime  # noqa: F401 - before counting, because the import starts threads that are not the session's

        file = Path(servable.source)
        self._file, self._device, self._bound = file.name, device, 0
        with servable.checked() as model:
            started = threads_started(lambda: self._load(file, model, providers, options))
        self._input, self._output = self._session.get_inputs()[0], self._session.get_outputs()[0].name
        self._facts = {
            "device": "cpu" if device == "cpu" else f"{device}:0",
            "clock": "host",
            "provider": self._session.get_providers()[0],
            "precision": servable.precision,
            "input": self._input.type,
            "threads": started + 1,  # the calling thread also computes
            "spinning": bool(options.get("spinning", True)),
        }
        if device != "cpu":
            chosen = self._session.get_provider_options().get(self._facts["provider"], {})
            self._facts["provider_options"] = {key: chosen[key] for key in dict(providers[0][1]) if key in chosen}

    def _load(self, file: Path, model: str | bytes, providers: Sequence[Provider], options: Mapping[str, Any]) -> None:
        import onnxruntime

        session_options = onnxruntime.SessionOptions()
        session_options.log_severity_level = FATAL_ONLY
        session_options.intra_op_num_threads = int(options.get("threads", 0))
        spinning = "1" if options.get("spinning", True) else "0"
        session_options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
        wanted = providers[0][0]
        if wanted != CPU:
            # Otherwise nodes, or the whole graph, silently run on the CPU.
            session_options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        try:
            names, settings = [name for name, _ in providers], [dict(given) for _, given in providers]
            model = loadable(model)
            self._session = onnxruntime.InferenceSession(
                model, session_options, providers=names, provider_options=settings
            )
        except Exception as error:
            if wanted != CPU or type(error).__name__ == NO_KERNEL:
                raise UnavailableError(
                    f"{wanted} cannot execute {file.name} here: {reason(error, file, model)}"
                ) from error
            raise load_error(error, file, model) from error
        runs_on = self._session.get_providers()[0]
        if runs_on != wanted:
            raise UnavailableError(f"ONNX Runtime fell back to {runs_on}; {wanted} was requested")

    @property
    def facts(self) -> Mapping[str, Any]:
        return dict(self._facts)

    def __call__(self, images: NDArray[Any]) -> NDArray[np.float32]:
        try:
            scores: list[NDArray[np.float32]] = self._session.run(None, {self._input.name: images})
        except Exception as error:
            raise GateError(
                f"ONNX Runtime cannot run {self._file} on a batch of {len(images)}: {one_line(error)}"
            ) from error
        return scores[0]

    def bind(self, images: NDArray[Any]) -> Bound:
        """Bind images and their output to the device; a query ends when the device has finished."""
        from onnxruntime import OrtValue, RunOptions

        # A captured CUDA graph is valid for one shape only; with a shared id another shape's graph would be replayed.
        self._bound += 1
        run = RunOptions()
        run.add_run_config_entry("gpu_graph_id", str(self._bound))
        binding = self._session.io_binding()
        binding.bind_ortvalue_input(self._input.name, OrtValue.ortvalue_from_numpy(images, self._device))
        # The first run allocates the output. It is then bound as a fixed buffer: CUDA graphs need fixed addresses.
        binding.bind_output(self._output, self._device)

        def compute() -> None:
            self._session.run_with_iobinding(binding, run)
            binding.synchronize_outputs()

        try:
            compute()
        except Exception as error:
            raise GateError(
                f"ONNX Runtime cannot run {self._file} on a batch of {len(images)}: {one_line(error)}"
            ) from error
        (output,) = binding.get_outputs()
        if output.shape()[0] != len(images):
            raise GateError(
                f"ONNX Runtime returns {output.shape()[0]} rows for a batch of {len(images)} from {self._file}"
            )
        binding.bind_ortvalue_output(self._output, output)
        return HostTimed(compute)


def _own_version() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)
