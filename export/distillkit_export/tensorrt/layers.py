"""Layers and layer types of an engine, from the JSON report of TensorRT's inspector.

NVIDIA does not document the report's fields and has changed them between versions. So types are read from every field
whose name contains "type" or "format"; without such a field the result is empty.
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
"""The inspector's names of types, such as "Half" or "Row major linear FP16 format"; the first match counts."""

NARROWEST_FIRST: tuple[Precision, ...] = ("fp8", "int8", "bf16", "fp16")


def layers_of(report: str) -> list[Mapping[str, Any]]:
    """The layers of an inspector report; a layer reported as text has only a name."""
    try:
        layers = json.loads(report).get("Layers", [])
    except (json.JSONDecodeError, AttributeError):
        return []
    return [layer if isinstance(layer, Mapping) else {"Name": str(layer)} for layer in layers]


def types_of(report: str) -> dict[str, int]:
    """Number of layers by output type. A layer with outputs of several types counts once for each."""
    found: Counter[str] = Counter()
    for layer in layers_of(report):
        found.update({kind for text in _formats(layer.get("Outputs", [])) if (kind := type_named(text))})
    return dict(sorted(found.items()))


def precision_of_layers(types: Mapping[str, int]) -> Precision | None:
    """The actual precision of an engine: the narrowest output type of its layers; None if unknown."""
    return next((kind for kind in NARROWEST_FIRST if types.get(kind)), "fp32" if types else None)


def _formats(value: Any, key: str = "") -> Iterator[str]:
    """Every string under a key that contains "type" or "format"."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _formats(part, str(name))
    elif isinstance(value, list):
        for part in value:
            yield from _formats(part, key)
    elif isinstance(value, str) and re.search("type|format", key, re.IGNORECASE):
        yield value


def type_named(text: str) -> str | None:
    """Map the name of a TensorRT type to distillkit's; None for integer, boolean and other types."""
    return next((kind for pattern, kind in TYPES if re.search(pattern, text, re.IGNORECASE)), None)
