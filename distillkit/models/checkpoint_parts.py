"""Parts of a checkpoint: the state dicts in it, which one is loaded, and which others there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from torch import Tensor

from distillkit.errors import WeightsError
from distillkit.messages.text import counted, shortened
from distillkit.models.network_names import unwrapped_names

RAW = (
    *("state_dict", "model", "model_state_dict", "network", "net", "teacher", "student"),
    *("model_state", "teacher_model", "student_model", "module", "weights", "params", "backbone", "encoder"),
)
EMA = ("model_ema", "state_dict_ema", "ema", "ema_state_dict", "model_ema_state_dict", "ema_model", "params_ema")
WRAPPERS = (*RAW, *EMA)
"""Keys of the weights in a training checkpoint, the likelier first. The raw model comes before its EMA, because the
authors of DeiT evaluate the raw model."""
TRAINING_STATE = frozenset(
    {"optimizer", "optimizers", "optimizer_state", "optimizer_state_dict", "optimizer_states", "optim", "scheduler"}
    | {
        "schedulers",
        "lr_scheduler",
        "lr_schedulers",
        "scheduler_state_dict",
        "scaler",
        "amp",
        "amp_scaler",
        "callbacks",
    }
    | {"loops", "loss", "criterion", "rng_state", "rng"}
)
"""Keys of what only a resumed training needs."""

DEEPEST = 8
"""Maximum nesting of the weights in a checkpoint."""
SHOWN = 6
"""Maximum number of parts that a message lists."""

Parts: TypeAlias = dict[str, dict[str, Tensor]]
"""The tensors of each part by its dotted keys, "" for the top level; the likeliest part first."""


def parts_of(content: Any, *, training_state: bool = False) -> Parts:
    """All parts of a checkpoint that have tensors, without those of the training state unless it is included."""
    skipped = frozenset[str]() if training_state else TRAINING_STATE
    given = [content] if isinstance(content, Tensor) else content  # a tensor alone has no name either
    return {path: tensors for path, tensors in _walk(given, (), skipped, set()) if tensors}


def likeliest(parts: Parts, source: str) -> str:
    """The part that is loaded unless one is chosen: the first in known wrappers, else the only one.

    Raises: WeightsError if there is none with names, or several are as likely.
    """
    arrays = {path: tensors for path, tensors in parts.items() if any(each.dim() for each in tensors.values())} or parts
    if not any(not name.isdecimal() for tensors in arrays.values() for name in tensors):
        raise WeightsError(f"the tensors in {source} have no names: {listed(parts)}; give a file with a state dict")
    largest = max(arrays, key=lambda path: len(arrays[path]))
    # Single arrays at the top level, such as a mean, are no network.
    known = [path for path in arrays if (path or largest == "") and all(key in WRAPPERS for key in keys_of(path))]
    if not known and len(arrays) > 1:
        raise WeightsError(f"{source} has several parts: {listed(arrays)}; choose one with {source}#{largest}")
    return known[0] if known else largest


def chosen(parts: Parts, key: str, source: str) -> dict[str, Tensor]:
    """The part at a dotted key, or the tensors whose names begin with it, without it. Shapes: any shape.

    A prefix of data parallelism before the key may be left out.
    Raises: WeightsError that lists the parts there are.
    """
    if key in parts:
        return parts[key]
    for tensors in parts.values():
        for named in (tensors, unwrapped_names(tensors)):
            inside = {name.removeprefix(f"{key}."): each for name, each in named.items() if name.startswith(f"{key}.")}
            if inside:
                return inside
    raise WeightsError(f"{source} has no part '{shortened(key)}'; it has {listed(parts)}")


def rivals(parts: Parts, taken: str) -> list[str]:
    """The other parts with weights of the same names: the EMA of the taken one, or a student besides its teacher."""
    names = {_last_two(name) for name in parts[taken]}  # a prefix of all names may differ
    return [
        path
        for path, tensors in parts.items()
        if path != taken and len(tensors) > 1 and names & {_last_two(name) for name in tensors}
    ]


def place(path: str) -> str:
    """A part as a message names it."""
    return repr(shortened(path)) if path else "tensors at the top level"


def listed(parts: Mapping[str, Mapping[str, Tensor]]) -> str:
    """The parts with their numbers of tensors: "model (152 tensors), model_ema (152 tensors)".

    Shapes: any shape.
    """
    shown = [
        f"{shortened(path) or 'the top level'} ({counted(len(tensors), 'tensor')})" for path, tensors in parts.items()
    ]
    return ", ".join(shown[:SHOWN]) + (f" and {len(shown) - SHOWN:,} more" if len(shown) > SHOWN else "")


def keys_of(path: str) -> list[str]:
    """The keys of a part: none for the top level."""
    return path.split(".") if path else []


def _walk(
    content: Any, keys: tuple[str, ...], skipped: frozenset[str], seen: set[int]
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The parts, those in known wrappers first. A mapping under several keys is one part; a cycle ends."""
    if not isinstance(content, Mapping | list | tuple) or id(content) in seen or len(keys) > DEEPEST:
        return
    seen.add(id(content))
    given = content.items() if isinstance(content, Mapping) else enumerate(content)
    # Keys of other types have no meaning here, and comparing them can fail.
    items = {str(name): value for name, value in given if isinstance(name, str | int)}
    inner = [name for name in items if name not in skipped]
    for name in sorted((name for name in inner if name in WRAPPERS), key=WRAPPERS.index):
        yield from _walk(items[name], (*keys, name), skipped, seen)
    yield ".".join(keys), {name: value for name, value in items.items() if isinstance(value, Tensor)}
    for name in inner:
        if name not in WRAPPERS:
            yield from _walk(items[name], (*keys, name), skipped, seen)


def _last_two(name: str) -> str:
    return ".".join(name.split(".")[-2:])
