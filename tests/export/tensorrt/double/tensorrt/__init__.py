"""TensorRT's double for tests, generated from the listing of its real bindings.

The environment variable TENSORRT_DOUBLE names the listing of a version (api-10.json, api-11.json). Every class has the
members of that version and no others; every call is checked against the real signature: number and names of arguments,
and their types as far as pybind checks them. `behaviour` implements the calls: an engine is the ONNX file, which ONNX
Runtime executes on the given addresses.
"""

import enum
import importlib.util
import json
import os
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[5]
_specification = importlib.util.spec_from_file_location("tensorrt_names", _ROOT / "scripts" / "tensorrt_names.py")
_names = importlib.util.module_from_spec(_specification)
_specification.loader.exec_module(_names)

_api = json.loads(Path(os.environ["TENSORRT_DOUBLE"]).read_text(encoding="utf-8"))
__version__ = os.environ.get("TENSORRT_DOUBLE_VERSION", _api["version"])
_by_name = {}

if os.environ.get("TENSORRT_DOUBLE_FAILS") == "import":
    raise ImportError(f"libnvinfer.so.{__version__.partition('.')[0]}: cannot open shared object file")


def _accepts(kind, value):
    """Whether pybind converts this value to a parameter of this type."""
    bare = kind.rpartition("::")[2]
    if bare == "typing.SupportsInt":
        return hasattr(value, "__int__") and not isinstance(value, str)
    if bare == "typing_extensions.Buffer":
        return isinstance(value, bytes | bytearray | memoryview)
    if bare == "Dims":
        return isinstance(value, tuple | list) and all(isinstance(size, int) for size in value)
    plain = {"str": str, "bool": bool, "tuple": tuple, "list": list}.get(bare)
    wanted = plain or _by_name.get(bare)
    return True if wanted is None else isinstance(value, wanted)


def _bind(text, arguments, keywords):
    """The arguments by name, or None if they do not fit this signature."""
    _, parameters, _ = _names.parse(text)
    expected = parameters[1:]
    if len(arguments) > len(expected):
        return None
    given = dict(zip((parameter["name"] for parameter in expected), arguments, strict=False))
    if given.keys() & keywords.keys() or keywords.keys() - {parameter["name"] for parameter in expected}:
        return None
    given |= keywords
    for parameter in expected:
        if parameter["name"] not in given:
            if "default" not in parameter:
                return None
        elif given[parameter["name"]] is None:
            if parameter.get("default") != "None":
                return None
        elif not _accepts(parameter["type"], given[parameter["name"]]):
            return None
    return given


def _method(owner, name, signatures):
    from tensorrt import behaviour

    def call(self, *arguments, **keywords):
        for text in signatures:
            given = _bind(text, arguments, keywords)
            if given is not None:
                break
        else:
            raise TypeError(f"{owner}.{name}(): incompatible function arguments {arguments} {keywords}: {signatures}")
        behaviour.note(f"{owner}.{name}", given)
        if name == "__init__":
            behaviour.begin(self, **given)
            return None
        does = getattr(behaviour, f"{owner}_{name}", None)
        if does is None:
            raise NotImplementedError(f"the double of {owner}.{name} does nothing yet")
        return does(self, **given)

    return call


def _property(owner, name, facts):
    from tensorrt import behaviour

    def get(self):
        does = getattr(behaviour, f"{owner}_{name}", None)
        return does(self) if does else self.__dict__.get(name)

    def put(self, value):
        if not _accepts(facts["type"], value):
            raise TypeError(f"{owner}.{name} is {facts['type']}, not {value!r}")
        behaviour.note(f"{owner}.{name}=", {"value": value})
        self.__dict__[name] = value

    return property(get, put if facts["settable"] else None)


def _frozen(cls):
    """Instances of the bindings' classes accept no new attributes; instances of Python subclasses do."""

    def put(self, name, value):
        if type(self) is cls and not isinstance(getattr(cls, name, None), property):
            raise AttributeError(f"'{cls.__name__}' object has no attribute '{name}'")
        object.__setattr__(self, name, value)

    return put


def _class(name, facts):
    if "enum" in facts:
        values = {}
        for member, value in facts["enum"].items():
            values.setdefault(value, member)
        made = enum.Enum(name, {member: value for value, member in values.items()})
        made.__int__ = lambda self: self.value
        for member, value in facts["enum"].items():
            if values[value] != member:
                setattr(made, member, made(value))
        return made
    members = {nested: _class(nested, inner) for nested, inner in facts.get("classes", {}).items()}
    _by_name.update({f"{name}.{nested}": inner for nested, inner in members.items()})
    members |= {member: _property(name, member, inner) for member, inner in facts["properties"].items()}
    members |= {member: _method(name, member, signatures) for member, signatures in facts["methods"].items()}
    made = type(name, (bytes,) if name == "IHostMemory" else (), members)
    if name != "IHostMemory":
        made.__setattr__ = _frozen(made)
    return made


for _name, _facts in _api["classes"].items():
    _by_name[_name] = globals()[_name] = _class(_name, _facts)
