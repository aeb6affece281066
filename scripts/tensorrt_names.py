"""List the members of the TensorRT classes that distillkit uses, from the real bindings, for tests and type checks.

    python scripts/tensorrt_names.py

reads the bindings in .venv/tensorrt-10 and .venv/tensorrt-11 (`make` puts them there) and writes
tests/export/tensorrt/api-10.json, api-11.json and typings/tensorrt/__init__.pyi, the stub of what both have in common.

The bindings are a Python extension linked against libnvinfer, libnvinfer_plugin and libnvonnxparser. Three empty
libraries in their place are enough to import the extension and read its signatures, so no GPU is needed.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
APIS = ROOT / "tests" / "export" / "tensorrt"
STUB = ROOT / "typings" / "tensorrt" / "__init__.pyi"
MAJORS = (10, 11)

UNDEFINED = {
    "nvinfer": (
        "createInferBuilder_INTERNAL",
        "createInferRefitter_INTERNAL",
        "createInferRuntime_INTERNAL",
        "getBuilderPluginRegistry",
        "getPluginRegistry",
    ),
    "nvinfer_plugin": ("initLibNvInferPlugins",),
    "nvonnxparser": (
        "createNvOnnxParserRefitter_INTERNAL",
        "createNvOnnxParser_INTERNAL",
        "getNvOnnxParserVersion",
    ),
}
"""The symbols that the extension needs from each library; importing it calls none of them."""

CLASSES = (
    "Builder",
    "BuilderFlag",
    "DataType",
    "EngineInspector",
    "HardwareCompatibilityLevel",
    "IBuilderConfig",
    "ICudaEngine",
    "IExecutionContext",
    "IHostMemory",
    "ILayer",
    "ILogger",
    "INetworkDefinition",
    "IOptimizationProfile",
    "IProgressMonitor",
    "ITensor",
    "ITimingCache",
    "LayerInformationFormat",
    "MemoryPoolType",
    "NetworkDefinitionCreationFlag",
    "OnnxParser",
    "ParserError",
    "ProfilingVerbosity",
    "Runtime",
    "TensorIOMode",
)
"""The classes that distillkit uses; add new ones here."""

ENUMS = (
    "BuilderFlag",
    "DataType",
    "HardwareCompatibilityLevel",
    "LayerInformationFormat",
    "MemoryPoolType",
    "NetworkDefinitionCreationFlag",
    "ProfilingVerbosity",
    "TensorIOMode",
)
"""Classes whose instances are values; all others are returned as pointers, which may be null."""

BUFFERS = ("IHostMemory",)
"""Classes whose instances are buffers, by NVIDIA's documentation; Python 3.11 cannot inspect that."""

TYPES = {
    "bool": "bool",
    "float": "float",
    "int": "int",
    "list": "list[Any]",
    "str": "str",
    "tuple": "tuple[int, ...]",
    "None": "None",
    "typing.SupportsInt": "int",
    "typing_extensions.Buffer": "Buffer",
    "Dims": "Sequence[int]",
    "IParserError": "ParserError",
}

READ = r"""
import json, sys
import tensorrt_bindings as trt

def plain(text):
    # pybind uses the standard library's name of a buffer from Python 3.12, and of a capsule from 3.13.
    text = text.replace("collections.abc.Buffer", "typing_extensions.Buffer")
    text = text.replace("types.CapsuleType", "typing_extensions.CapsuleType")
    return text.strip().replace("tensorrt_bindings.tensorrt.", "")

def signatures(function):
    text = function.__doc__ or ""
    lines = [plain(line) for line in text.splitlines()]
    numbered = [line.partition(". ")[2] for line in lines if line[:1].isdigit() and "(self: " in line]
    return numbered or [line for line in lines[:1] if "(self: " in line]

def members(cls):
    found = {"methods": {}, "properties": {}}
    if hasattr(cls, "__members__"):
        found["enum"] = {name: int(value) for name, value in cls.__members__.items()}
        return found
    for name in sorted(vars(cls)):
        value = vars(cls)[name]
        if isinstance(value, type):
            found.setdefault("classes", {})[name] = members(value)
        elif isinstance(value, property):
            returned = plain(value.fget.__doc__ or "").partition(" -> ")[2]
            found["properties"][name] = {"type": returned, "settable": value.fset is not None}
        elif name == "__init__" or not name.startswith("_"):
            if callable(value) and signatures(value):
                found["methods"][name] = signatures(value)
    return found

listed = {name: members(getattr(trt, name)) for name in sys.argv[1:] if hasattr(trt, name)}
print(json.dumps({"version": trt.__version__, "classes": listed}))
"""


def installed(major: int) -> Path:
    """The folder into which `make` installs the bindings of a major version."""
    return Path(sys.prefix) / f"tensorrt-{major}"


def read(bindings: Path, major: int) -> dict[str, Any]:
    """The classes and members of the bindings in the folder `bindings`.

    Raises: FileNotFoundError without a C compiler; CalledProcessError if they cannot be imported.
    """
    with tempfile.TemporaryDirectory() as folder:
        for library, symbols in UNDEFINED.items():
            source = Path(folder, f"{library}.c")
            source.write_text("".join(f"void *{symbol}(void) {{ return 0; }}\n" for symbol in symbols))
            name = f"lib{library}.so.{major}"
            subprocess.run(
                ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(Path(folder, name)), str(source)],
                check=True,
                capture_output=True,
            )
        done = subprocess.run(
            [sys.executable, "-c", READ, *CLASSES],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "LD_LIBRARY_PATH": folder, "PYTHONPATH": str(bindings)},
        )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def as_text(api: dict[str, Any]) -> str:
    """The content of the committed JSON file: one line per class."""
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(api['classes'][name])}" for name in sorted(api["classes"]))
    return f'{{"version": {json.dumps(api["version"])}, "classes": {{\n{lines}\n}}}}\n'


def stub(apis: list[dict[str, Any]]) -> str:
    """A stub of the members that all `apis` have with equal signatures."""
    lines = [
        "# Written by scripts/tensorrt_names.py from the bindings of TensorRT "
        + " and ".join(api["version"] for api in apis)
        + ":",
        "# what they have in common, of the classes that distillkit uses.",
        "from collections.abc import Sequence",
        "from typing import Any, ClassVar, overload",
        "",
        "from typing_extensions import Buffer",
        "",
        "__version__: str",
    ]
    for name in sorted(set.intersection(*(set(api["classes"]) for api in apis))):
        lines += ["", *_class(name, [api["classes"][name] for api in apis], indent="")]
    return "\n".join(lines) + "\n"


def _class(name: str, versions: list[dict[str, Any]], indent: str, outer: str = "") -> list[str]:
    """The lines of one class; `outer` is the enclosing class with a dot."""
    inner = indent + "    "
    lines = [f"{indent}class {name}:"]
    for nested in _common(versions, "classes"):
        lines += _class(nested, [version["classes"][nested] for version in versions], inner, f"{outer}{name}.")
    for member in _common(versions, "enum"):
        lines.append(f"{inner}{member}: ClassVar[{outer}{name}]")
    if "enum" in versions[0]:
        lines.append(f"{inner}def __int__(self) -> int: ...")
        lines.append(f"{inner}name: str")
    for member, facts in _common(versions, "properties").items():
        lines += [f"{inner}@property", f"{inner}def {member}(self) -> {_type(facts['type'])}: ..."]
        if all(version["properties"][member]["settable"] for version in versions):
            value = _type(facts["type"], given=True)
            lines += [f"{inner}@{member}.setter", f"{inner}def {member}(self, value: {value}) -> None: ..."]
    for member, signatures in _common(versions, "methods").items():
        shared = [text for text in signatures if all(text in version["methods"][member] for version in versions)]
        for text in shared:
            lines += [f"{inner}@overload"] * (len(shared) > 1) + [f"{inner}def {_signature(text)}: ..."]
    if name in BUFFERS:
        lines.append(f"{inner}def __buffer__(self, flags: int, /) -> memoryview: ...")
    return lines if len(lines) > 1 else [f"{lines[0]} ..."]


def _common(versions: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    first, *others = (version.get(kind, {}) for version in versions)
    return {member: first[member] for member in sorted(first) if all(member in other for other in others)}


def _signature(text: str) -> str:
    """Convert pybind's signature to Python's; a returned pointer may be None.

    >>> _signature("create_network(self: Builder, flags: typing.SupportsInt = 0) -> INetworkDefinition")
    'create_network(self, flags: int = ...) -> INetworkDefinition | None'
    """
    name, parameters, returned = parse(text)
    if returned in CLASSES and returned not in ENUMS:
        nullable = " | None"
    else:
        nullable = ""
    shown = ["self"]
    optional = False
    for parameter in parameters[1:]:
        optional = optional or "default" in parameter  # pybind allows parameters without a default after one with
        kind = _type(parameter["type"], given=True) + (" | None" if parameter.get("default") == "None" else "")
        shown.append(f"{parameter['name']}: {kind}" + (" = ..." if optional else ""))
    return f"{name}({', '.join(shown)}) -> {_type(returned)}{nullable}"


def parse(text: str) -> tuple[str, list[dict[str, str]], str]:
    """Parse pybind's signature into name, parameters (name, type and any default) and result."""
    matched = re.fullmatch(r"(\w+)\((.*)\)(?: -> (.*))?", text)
    if matched is None:
        raise ValueError(f"not a signature: {text}")
    parameters = []
    for part in re.split(r", (?=\w+: )", matched[2]):
        declared, _, default = part.partition(" = ")
        name, _, kind = declared.partition(": ")
        parameters.append({"name": name, "type": kind} | ({"default": default} if default else {}))
    return matched[1], parameters, matched[3] or "None"


def _type(text: str, *, given: bool = False) -> str:
    """The stub's type for a type of the bindings; classes that distillkit does not use are Any."""
    listed = re.fullmatch(r"list\[(.*)\]", text)
    if listed:
        return f"list[{_type(listed[1], given=given)}]"
    bare = text.rpartition("::")[2]
    return TYPES.get(bare) or (bare if bare.partition(".")[0] in CLASSES else "Any")


def main() -> None:
    """Write the listing of each major version, and their common stub."""
    apis = []
    for major in MAJORS:
        apis.append(read(installed(major), major))
        (APIS / f"api-{major}.json").write_text(as_text(apis[-1]), encoding="utf-8")
    STUB.parent.mkdir(parents=True, exist_ok=True)
    STUB.write_text(stub(apis), encoding="utf-8")
    print(f"wrote the names of TensorRT {', '.join(api['version'] for api in apis)}")


if __name__ == "__main__":
    main()
