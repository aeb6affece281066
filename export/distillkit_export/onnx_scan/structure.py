"""Structure of an untrusted ONNX file, parsed from its bytes without the onnx package.

An ONNX file is a protobuf message of type ModelProto. The parser follows the few messages that can hold nodes, tensors
or shapes and skips everything else, weights above all, so a file of gigabytes takes moments. Every number in the file
is bounded before it is used.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TypeAlias

from distillkit.storage.untrusted import open_plain

MESSAGES: Mapping[str, Mapping[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "GraphProto": {
        1: "NodeProto",
        5: "TensorProto",
        11: "ValueInfoProto",
        12: "ValueInfoProto",
        13: "ValueInfoProto",
        15: "SparseTensorProto",
    },
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        14: "TypeProto",
        15: "TypeProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "TensorProto": {13: "StringStringEntryProto"},
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "ValueInfoProto": {2: "TypeProto"},
    "TypeProto": {1: "Tensor", 4: "Sequence", 5: "Map", 8: "SparseTensor", 9: "Optional"},
    "Tensor": {2: "TensorShapeProto"},
    "SparseTensor": {2: "TensorShapeProto"},
    "Sequence": {1: "TypeProto"},
    "Optional": {1: "TypeProto"},
    "Map": {2: "TypeProto"},
    "TensorShapeProto": {1: "Dimension"},
}
"""The messages that the parser follows: for each, field number to message type (onnx.proto)."""

LARGEST_FIELDS = 1_000_000
LARGEST_DEPTH = 64
LARGEST_NODES = 100_000
LARGEST_TENSORS = 100_000
LARGEST_RANK = 16
LARGEST_DIMENSION = 2**31
LARGEST_ELEMENTS = 2**32
"""Limits far above any student: DeiT-B has 364 nodes and 86 million weights."""

ELEMENTS_PER_BYTE = 4
"""Upper bound: ONNX's smallest type has two bits."""

Message: TypeAlias = memoryview


class OnnxStructureError(ValueError):
    """The bytes are not an ONNX model, or not one that an exporter would write."""


@dataclass
class OnnxStructure:
    """Contents of a model: number of nodes by (domain, operator), other counts, and locations of external data.

    `numbers` is the number of elements by ONNX element type, over all tensors; `types` the element type by tensor name;
    `zero_points` the names of the zero points of QuantizeLinear nodes, which define their output type.
    """

    operators: dict[tuple[str, str], int] = field(default_factory=dict)
    numbers: dict[int, int] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)
    zero_points: set[str] = field(default_factory=set)
    external: list[dict[str, str]] = field(default_factory=list)
    graphs: int = 0
    tensors: int = 0
    functions: int = 0
    trainings: int = 0

    @property
    def nodes(self) -> int:
        return sum(self.operators.values())


def read_structure(file: Path | BinaryIO) -> OnnxStructure:
    """Parse the file, given by its path or opened.

    Raises: OnnxStructureError; its message continues a sentence that starts with the file's name.
    """
    with ExitStack() as stack:
        try:
            stream = stack.enter_context(open_plain(file)) if isinstance(file, Path) else file
        except ValueError as error:
            raise OnnxStructureError(str(error)) from error
        if not os.fstat(stream.fileno()).st_size:
            raise OnnxStructureError("is empty")
        # Not closed explicitly: an exception's traceback may still hold slices of it.
        return structure_of(memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)))


def structure_of(data: Message) -> OnnxStructure:
    """As `read_structure`, from bytes in memory."""
    walk = _Walk()
    walk.follow("ModelProto", data, 0)
    if not walk.found.graphs:
        raise OnnxStructureError("contains no graph, so it is not an ONNX model")
    return walk.found


class _Walk:
    def __init__(self) -> None:
        self.found = OnnxStructure()
        self._fields = 0

    def follow(self, kind: str, data: Message, depth: int) -> None:
        """Visit a message and the messages inside it that `MESSAGES` lists."""
        if depth > LARGEST_DEPTH:
            raise OnnxStructureError(f"nests protobuf messages more than {LARGEST_DEPTH} deep")
        inner, own = MESSAGES.get(kind, {}), []
        for number, value in self._read(data):
            if number not in inner:
                own.append((number, value))
            elif isinstance(value, int):
                raise OnnxStructureError("is not an ONNX model: it has an integer in place of a message")
            elif inner[number] != "StringStringEntryProto":
                self.follow(inner[number], value, depth + 1)
            else:
                own.append((number, value))
        self._record(kind, own, len(data))

    def _record(self, kind: str, own: list[tuple[int, int | Message]], size: int) -> None:
        """Record one message's contents."""
        if kind == "NodeProto":
            self._node(own)
        elif kind == "TensorProto":
            self._tensor(own, size)
        elif kind == "SparseTensorProto":
            _elements(_numbers(own, 3))
        elif kind == "Dimension":
            _elements(_numbers(own, 1))
        elif kind == "GraphProto":
            self.found.graphs += 1
        elif kind == "FunctionProto":
            self.found.functions += 1
        elif kind == "TrainingInfoProto":
            self.found.trainings += 1

    def _node(self, own: list[tuple[int, int | Message]]) -> None:
        # A singular field may be given twice and parsers use the last one, so count every combination.
        for domain in _texts(own, 7) or [""]:
            for operator in _texts(own, 4) or [""]:
                self.found.operators[domain, operator] = self.found.operators.get((domain, operator), 0) + 1
                if operator == "QuantizeLinear":
                    self.found.zero_points.update(_texts(own, 1)[2:3])
        if self.found.nodes > LARGEST_NODES:
            raise OnnxStructureError(f"has more than {LARGEST_NODES:,} nodes")

    def _tensor(self, own: list[tuple[int, int | Message]], size: int) -> None:
        self.found.tensors += 1
        if self.found.tensors > LARGEST_TENSORS:
            raise OnnxStructureError(f"has more than {LARGEST_TENSORS:,} tensors")
        elements = _elements(_numbers(own, 1))
        # The last value of a singular field counts, as in protobuf parsers.
        kind = next((value for number, value in reversed(own) if number == 2 and isinstance(value, int)), 0)
        self.found.numbers[kind] = self.found.numbers.get(kind, 0) + elements
        self.found.types.update(dict.fromkeys(_texts(own, 8), kind))
        entries = [value for number, value in own if number == 13 and not isinstance(value, int)]
        if entries or 1 in _numbers(own, 14):
            self.found.external.append(dict(self._entry(entry) for entry in entries))
        elif elements > ELEMENTS_PER_BYTE * size:
            raise OnnxStructureError(f"has a tensor that claims {elements:,} numbers in {size:,} bytes")

    def _entry(self, data: Message) -> tuple[str, str]:
        own = list(self._read(data))
        key, value = _texts(own, 1) or [""], _texts(own, 2) or [""]
        if len(key) > 1 or len(value) > 1:
            raise OnnxStructureError("gives the location of its external data twice")
        return key[0], value[0]

    def _read(self, data: Message) -> Iterator[tuple[int, int | Message]]:
        """The fields of one message: field number, and an integer or the bytes."""
        position = 0
        while position < len(data):
            self._fields += 1
            if self._fields > LARGEST_FIELDS:
                raise OnnxStructureError(f"has more than {LARGEST_FIELDS:,} protobuf fields")
            tag, position = _varint(data, position)
            number, wire = tag >> 3, tag & 7
            if number == 0 or wire not in _FIXED:
                raise OnnxStructureError("is not an ONNX model: it is not valid protobuf")
            if wire == 0:
                value, position = _varint(data, position)
                yield number, value
                continue
            length = _FIXED[wire]
            if wire == 2:
                length, position = _varint(data, position)
            if length > len(data) - position:
                raise OnnxStructureError("ends in the middle of a field, so it is truncated or not an ONNX model")
            yield number, data[position : position + length]
            position += length


_FIXED = {0: 0, 1: 8, 2: 0, 5: 4}
"""Size by protobuf wire type: varint, eight bytes, length-delimited, four bytes. ONNX has no groups (3, 4)."""


def _varint(data: Message, position: int) -> tuple[int, int]:
    """A varint of at most 64 bits, seven per byte, and the position after it."""
    value = 0
    for index, byte in enumerate(data[position : position + 10]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, position + index + 1  # the tenth byte may exceed 64 bits
    raise OnnxStructureError("ends in the middle of a field, so it is truncated or not an ONNX model")


def _numbers(own: list[tuple[int, int | Message]], wanted: int) -> list[int]:
    """The values of a repeated integer field, packed or not."""
    found: list[int] = []
    for number, value in own:
        if number != wanted:
            continue
        if isinstance(value, int):
            found.append(value)
            continue
        position = 0
        while position < len(value):
            if len(found) > LARGEST_RANK:  # enough for `_elements` to refuse it, and bounds the time
                break
            packed, position = _varint(value, position)
            found.append(packed)
    return found


def _texts(own: list[tuple[int, int | Message]], wanted: int) -> list[str]:
    """All values of a string field, which may be given more than once."""
    # Bounded, since names and paths are short and a field could hold gigabytes.
    texts = [bytes(value[:4096]) for number, value in own if number == wanted and not isinstance(value, int)]
    return [text.decode(errors="replace") for text in texts]


def _elements(dimensions: list[int]) -> int:
    """Number of elements of a tensor of this shape. A negative dimension, read as unsigned, exceeds the limit."""
    if len(dimensions) > LARGEST_RANK:
        raise OnnxStructureError(f"has a tensor of more than {LARGEST_RANK} dimensions")
    if max(dimensions, default=0) > LARGEST_DIMENSION or math.prod(dimensions) > LARGEST_ELEMENTS:
        raise OnnxStructureError(f"has a tensor of {' x '.join(map(str, dimensions))} numbers")
    return math.prod(dimensions)
