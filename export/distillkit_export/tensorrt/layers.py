"""What TensorRT made of a graph: its layers and their types, from the JSON of its engine inspector.

The fields of that JSON are not promised by NVIDIA and have changed between versions. So types are looked for wherever a
field whose name speaks of a type or format says one, and where none is found that is said.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from distillkit.contracts.exporter import Precision

TYPES: tuple[tuple[str, str], ...] = (
    (r"bf16|bfloat16", "bf16"),
    (r"fp8|float8|e4m3", "fp8"),
    (r"fp16|half|float16", "fp16"),
    (r"int8", "int8"),
    (r"fp32|float", "fp32"),
)
"""How the inspector speaks of a type, the first match counts: "Half", "Row major linear FP16 format"."""

NARROWEST_FIRST: tuple[Precision, ...] = ("fp8", "int8", "bf16", "fp16")


def layers_of(report: str) -> list[Mapping[str, Any]]:
    """The layers of an inspector report; a layer that is only named has its name alone."""
    try:
        layers = json.loads(report).get("Layers", [])
    except (json.JSONDecodeError, AttributeError):
        return []
    return [layer if isinstance(layer, Mapping) else {"Name": str(layer)} for layer in layers]


def types_of(report: str) -> dict[str, int]:
    """How many layers answer in which type. A layer with outputs of several types counts for each of them."""
    found: Counter[str] = Counter()
    for layer in layers_of(report):
        found.update({kind for text in _formats(layer.get("Outputs", [])) if (kind := type_named(text))})
    return dict(sorted(found.items()))


def precision_of_layers(types: Mapping[str, int]) -> Precision | None:
    """The precision that an engine really has: the narrowest type that a layer answers in; None where none is known."""
    return next((kind for kind in NARROWEST_FIRST if types.get(kind)), "fp32" if types else None)


def _formats(value: Any, key: str = "") -> Iterator[str]:
    """Every text below a key that speaks of a type or format."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _formats(part, str(name))
    elif isinstance(value, list):
        for part in value:
            yield from _formats(part, key)
    elif isinstance(value, str) and re.search("type|format", key, re.IGNORECASE):
        yield value


def type_named(text: str) -> str | None:
    """The type that TensorRT speaks of, as distillkit calls it; None for indices, truths and the rest."""
    return next((kind for pattern, kind in TYPES if re.search(pattern, text, re.IGNORECASE)), None)
