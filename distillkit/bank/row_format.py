"""Row format of a shelf: the targets of one loss for one image, as bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distillkit.contracts.loss import TargetSpec

Rows = NDArray[np.uint8]
"""[B, bytes]: the encoded targets of B images."""

HALF_EXPONENT = 15
"""Values are scaled into float16 so that the largest of a row is just below 2 to this power: 32,768 of 65,504."""
EXPONENT_BYTES, HALF_BYTES = 2, 2


@dataclass(frozen=True)
class Field:
    """One target tensor in a row: its shape without the batch, and its dtype.

    `scaled_half` stores a floating-point tensor as float16 with one power of two per row as its scale: 11 significant
    bits for every value above 2^-29 of the row's largest. Otherwise its bytes are stored as they are.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    scaled_half: bool

    @classmethod
    def of(cls, name: str, spec: TargetSpec) -> Field:
        """The field of a target. Only `exact = False` and more than 16 bits per value are stored as float16."""
        dtype: torch.dtype = getattr(torch, spec.dtype)
        return cls(name, spec.shape, dtype, not spec.exact and dtype in (torch.float32, torch.float64))

    @property
    def bytes(self) -> int:
        """Bytes per row."""
        values = math.prod(self.shape)
        return EXPONENT_BYTES + HALF_BYTES * values if self.scaled_half else self.dtype.itemsize * values

    def encode(self, target: Tensor) -> Rows:
        """Encode a target [B, ...] on the CPU. Returns [B, bytes]."""
        flat = target.reshape(len(target), -1).contiguous()  # [B, values]
        if not self.scaled_half:
            return flat.view(torch.uint8).numpy()
        values = flat.numpy()
        with np.errstate(over="ignore", invalid="ignore"):  # in rows that are not finite, which are never stored
            _, exponents = np.frexp(np.abs(values).max(axis=1, initial=0))  # [B]: the largest is below 2 ** exponent
            halves = np.ldexp(values, (HALF_EXPONENT - exponents)[:, None]).astype("<f2")  # [B, values]
        return np.concatenate([_as_bytes(exponents.astype("<i2")[:, None]), _as_bytes(halves)], axis=1)  # [B, bytes]

    def decode(self, rows: Rows) -> Tensor:
        """The inverse of `encode`, from [B, bytes] to [B, ...] on the CPU."""
        if not self.scaled_half:
            values = torch.from_numpy(np.ascontiguousarray(rows)).view(self.dtype)  # [B, values]
            return values.reshape(len(rows), *self.shape)
        exponents = np.ascontiguousarray(rows[:, :EXPONENT_BYTES]).view("<i2").astype(np.int32)  # [B, 1]
        halves = np.ascontiguousarray(rows[:, EXPONENT_BYTES:]).view("<f2")  # [B, values]
        wide = np.float32 if self.dtype == torch.float32 else np.float64
        with np.errstate(over="ignore"):
            decoded = np.ldexp(halves.astype(wide), exponents - HALF_EXPONENT)  # [B, values]
        # The largest value may have been rounded up, beyond the largest of the dtype.
        largest = np.finfo(wide).max
        np.clip(decoded, -largest, largest, out=decoded, where=np.isfinite(halves))
        return torch.from_numpy(decoded).reshape(len(rows), *self.shape)


@dataclass(frozen=True)
class RowFormat:
    """The layout of a row: the targets of a loss in the order of their names."""

    fields: tuple[Field, ...]

    @classmethod
    def of(cls, targets: Mapping[str, TargetSpec]) -> RowFormat:
        """The row format for the targets that a loss describes."""
        return cls(tuple(Field.of(name, targets[name]) for name in sorted(targets)))

    @cached_property
    def bytes(self) -> int:
        """Bytes of the payload of a row."""
        return sum(field.bytes for field in self.fields)

    def encode(self, target: Mapping[str, Tensor]) -> Rows:
        """Encode the target tensors [B, ...] of a batch, on any device. Returns [B, bytes].

        A row that is not finite is encoded too, but with scaled halves it does not decode to the same values; see
        `finite`.
        """
        return np.concatenate([field.encode(target[field.name].detach().cpu()) for field in self.fields], axis=1)

    def decode(self, rows: Rows, device: torch.device) -> dict[str, Tensor]:
        """The target tensors [B, ...] of encoded rows [B, bytes], on a device."""
        ends = np.cumsum([field.bytes for field in self.fields])[:-1]
        parts = np.split(rows, ends, axis=1)
        return {field.name: field.decode(part).to(device) for field, part in zip(self.fields, parts, strict=True)}

    def as_data(self) -> list[dict[str, Any]]:
        """The fields as plain data, for the key of a shelf."""
        return [
            {
                "name": field.name,
                "shape": list(field.shape),
                "dtype": str(field.dtype).removeprefix("torch."),
                "stored": "float16 with a power of two per row" if field.scaled_half else "as it is",
            }
            for field in self.fields
        ]


def finite(target: Mapping[str, Tensor]) -> NDArray[np.bool_]:
    """Which samples [B] of the target tensors [B, ...] have only finite values."""
    rows = [torch.isfinite(tensor).reshape(len(tensor), -1).all(dim=1) for tensor in target.values()]  # [B] each
    return torch.stack(rows).all(dim=0).cpu().numpy()


def _as_bytes(values: NDArray[Any]) -> Rows:
    """The bytes of each row of an array: [B, n] to [B, n * itemsize]."""
    return np.ascontiguousarray(values).view(np.uint8)
