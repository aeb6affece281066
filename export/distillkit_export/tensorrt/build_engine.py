"""Build engines in a subprocess. `build_in_subprocess` starts it; `python -m` this module is the child."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distillkit.contracts.exporter import ReportProgress
from distillkit.errors import UnavailableError
from distillkit.storage.atomic import write_text
from distillkit.storage.user_dirs import make_private, user_cache
from distillkit_export.isolated_process import ChildError, Event, SendEvent, result_of, serve
from distillkit_export.tensorrt.options import TensorRtOptions


def build_in_subprocess(
    onnx: Path, plan: Path, options: TensorRtOptions, cache: Path, progress: ReportProgress | None
) -> dict[str, Any]:
    """Run `building.build` in a subprocess: write the engine of `onnx` to `plan`.

    Raises: UnavailableError if TensorRT fails, crashes or times out; its log is then kept.
    """

    def report(event: Event) -> None:
        if progress is not None:
            progress(str(event["phase"]), int(event["done"]), int(event["steps"]))

    request = {"onnx": str(onnx), "plan": str(plan), "cache": str(cache), "options": options.model_dump(mode="json")}
    try:
        return result_of(
            "distillkit_export.tensorrt.build_engine", request, timeout_s=options.timeout_s, on_event=report
        )
    except ChildError as error:
        log = make_private(user_cache() / "tensorrt") / "build.log"
        write_text(log, error.log)
        raise UnavailableError(f"the build of the TensorRT engine of {onnx.name} {error}; its log is {log}") from error


def work(request: dict[str, Any], send: SendEvent) -> dict[str, Any]:
    """In the subprocess: check the platform again, and build."""
    from distillkit_export.tensorrt.building import build
    from distillkit_export.tensorrt.preflight import Missing, probe

    # Repeated in this process: TensorRT objects must not be created before devices were counted in the same process.
    found = probe()
    if isinstance(found, Missing):
        raise UnavailableError(f"{found.reason}; {found.remedy}")
    options = TensorRtOptions.model_validate(request["options"])
    return build(Path(request["onnx"]), Path(request["plan"]), options, Path(request["cache"]), send)


if __name__ == "__main__":
    serve(work)
