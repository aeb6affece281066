"""Put weights into a model, all of them or none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor

from distillkit.contracts.model import Model, ModelSpec
from distillkit.errors import WeightsError
from distillkit.models.checkpoint_conversion import fit_positions, fit_tokens, translate
from distillkit.models.heads import SPOKEN_HEADS
from distillkit.models.timm_traits import classifier_names
from distillkit.models.weight_files import INSIDE, names_of_network, without_training_parts

SHOWN = 3
"""How many names of a kind an error lists."""
REMEDY = "give weights of this very architecture"
COUNTER = "num_batches_tracked"
"""A buffer of batch norm that files from before 2018 lack."""


Fit: TypeAlias = Literal["nothing", "positions", "all"]
"""What of weights may be changed to fit a network."""


@dataclass(frozen=True)
class LoadReport:
    """What became of a weight file.

    `source` is where the weights came from. `loaded` counts tensors, `fresh` names those that stay as initialised.
    `notes` are sentences about everything that was changed on the way.
    """

    source: str
    loaded: int
    fresh: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def load_notes(model: object) -> tuple[str, ...]:
    """What became of the weights that a model was built with, in sentences."""
    report: LoadReport | None = getattr(model, "load_report", None)
    return () if report is None else report.notes


def load_weights(
    model: Model,
    weights: Mapping[str, Tensor],
    *,
    source: str,
    fit: Fit,
    keep: tuple[str, ...] = (),
    origin: ModelSpec | None = None,
) -> LoadReport:
    """Load `weights` into the model's network. `source` says in errors and in the report where they come from.

    Every tensor of the network must be in the weights and the other way round, after timm's own renaming of older
    layouts; what is left out because only training needs it, or because the network has no class head, is named in the
    report. With `fit = "nothing"`, which is for teachers, nothing is made anew; with "positions" the position
    embedding is resized to the network's grid, for a teacher that sees images of another size. With "all", which is for
    students, a head for other classes stays as initialised, and a distillation token, position embedding or patch
    embedding is fitted. The report says so. `keep` names tensors of the network that stay as they are, whatever the
    weights say. `origin` describes the model that the weights are of, where that is known: positions come from its
    grid, and a head for as many classes with other names is one for other classes.
    Raises: WeightsError that counts what does not fit and names the first of it; the model is then unchanged.
    """
    network, spec = model.network, model.spec
    own, heads = network.state_dict(), _head_names(model)
    notes: tuple[str, ...] = ()
    given = _network_in(weights, model)
    left_out = _left_out(weights, given)
    offered = given
    if fit == "all":
        if origin is not None and _other_names(origin, spec):
            given = {name: tensor for name, tensor in given.items() if name not in heads}
        given, notes = fit_tokens(given, network)
        given |= {name: own[name] for name in keep}
        notes += tuple(f"{name} stays as the student has it" for name in keep)
    if fit != "nothing":
        grid = origin.grid if origin is not None and origin.grids else None
        given, position_notes = fit_positions(given, network, source, grid)
        notes += position_notes
    _check_finite(given, source)
    given, resampled = _in_own_layout(given, model)
    if resampled and fit != "all":
        raise WeightsError(f"{source} does not fit '{spec.name}' without {' and '.join(resampled)}; {REMEDY}")
    problems = _misfits(given, own, besides=heads)
    if problems:
        subject = f"{source} does not fit '{spec.name}' ({spec.architecture})"
        raise WeightsError(f"{subject}: {'; '.join(problems)}; {REMEDY}")
    other = sorted(name for name in heads if name not in given or given[name].shape != own[name].shape)
    if other and fit != "all":
        raise WeightsError(_other_head(given, own, other[0], spec.name, source))
    kept = {name: tensor for name, tensor in given.items() if name not in other}
    network.load_state_dict({**own, **kept})
    head_notes = (_head_note(offered, other, model, origin),) if other else ()
    return LoadReport(source, len(kept), tuple(other), (*left_out, *notes, *resampled, *head_notes))


def _check_finite(weights: Mapping[str, Tensor], source: str) -> None:
    """Raises: WeightsError for weights with infinities or without a number; shapes alone are always in order."""
    broken = [name for name, tensor in weights.items() if not tensor.is_meta and not tensor.isfinite().all()]
    if broken:
        raise WeightsError(
            f"{source} has values that are not finite, in {len(broken)} of {len(weights)} tensors ({broken[0]}, ...); "
            "get the file again, or take an earlier checkpoint"
        )


def classes_of(weights: Mapping[str, Tensor], model: Model) -> int | None:
    """For how many classes the weights have a head; None where they have none. Shapes alone are looked at.

    `model` is of the same architecture, for any number of classes; it is not changed.
    """
    given, _ = _in_own_layout(_network_in(weights, model), model)
    head = next((given[name] for name in sorted(_head_names(model)) if name in given and given[name].dim()), None)
    return None if head is None else head.shape[0]


def _head_names(model: Model) -> set[str]:
    """The tensors that depend on the number of classes."""
    modules = tuple(f"{module}." for module in model.spec.head_modules)
    return {name for name in model.network.state_dict() if name.startswith(modules)}


def _network_in(weights: Mapping[str, Tensor], model: Model) -> dict[str, Tensor]:
    """The network's own part of a checkpoint."""
    known = model.network.state_dict().keys()
    unneeded = () if model.spec.classes else tuple(f"{name}." for name in classifier_names(model.network))
    return without_training_parts(names_of_network(weights, known), known, unneeded=unneeded)


def _left_out(weights: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> tuple[str, ...]:
    """A sentence about the parts of a checkpoint that are not the network's, where there are any."""
    own = {id(tensor) for tensor in given.values()}
    parts = Counter(_part(name) for name, tensor in weights.items() if id(tensor) not in own)
    shown = (name if count == 1 else f"{name} ({count} tensors)" for name, count in parts.items())
    return (f"left out: {', '.join(shown)}",) if parts else ()


def _part(name: str) -> str:
    """The module that a tensor belongs to: "decoder_norm", or "backbone.relation_blocks"."""
    first, _, rest = name.partition(".")
    return f"{first}.{rest.partition('.')[0]}" if f"{first}." in INSIDE else first


def _in_own_layout(weights: Mapping[str, Tensor], model: Model) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Rename as timm does where the weights do not fit by themselves; a phrase for each tensor that this resampled."""
    if not _misfits(weights, model.network.state_dict(), besides=_head_names(model)):
        return dict(weights), ()
    try:
        translated = translate(weights, model.network, model.spec.architecture)
    # timm's functions stumble in many ways over what they were not written for; the comparison that follows says why.
    except (KeyError, IndexError, AttributeError, TypeError, ValueError, RuntimeError, AssertionError):
        return dict(weights), ()
    resampled = tuple(
        f"resampling {name} from {list(weights[name].shape)} to {list(tensor.shape)}"
        for name, tensor in translated.items()
        if name in weights and weights[name].numel() != tensor.numel()
    )
    return translated, resampled


def _misfits(given: Mapping[str, Tensor], own: Mapping[str, Tensor], *, besides: set[str]) -> list[str]:
    """Each kind of disagreement: how many, and the first names. Nothing reads the counters, so they may be missing."""
    missing = [name for name in own if name not in given and name not in besides and not name.endswith(COUNTER)]
    unexpected = [name for name in given if name not in own]
    reshaped = [
        f"{name} {list(given[name].shape)} instead of {list(own[name].shape)}"
        for name in own
        if name in given and name not in besides and given[name].shape != own[name].shape
    ]
    kinds = (("missing", missing), ("not known to it", unexpected), ("of another shape", reshaped))
    return [f"{len(names)} of {len(own)} tensors are {what} ({_first(names)})" for what, names in kinds if names]


def _first(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _other_head(given: Mapping[str, Tensor], own: Mapping[str, Tensor], name: str, model: str, source: str) -> str:
    found = f"a head for {given[name].shape[0]:,} classes" if name in given else "no head"
    return (
        f"{source} has {found} and '{model}' needs one for {own[name].shape[0]:,}; a teacher never gets a random head: "
        "fine-tune it with `distillkit finetune`, then use --teacher run:DIR"
    )


def _other_names(one: ModelSpec, another: ModelSpec) -> bool:
    """Whether both name their classes, and not alike."""
    return None not in (one.class_names, another.class_names) and one.class_names != another.class_names


def _head_note(offered: Mapping[str, Tensor], other: Sequence[str], model: Model, origin: ModelSpec | None) -> str:
    """What becomes of the heads: those that were `offered`, and those with a tensor among `other`, which start anew."""
    heads = dict(zip(model.spec.head_modules, SPOKEN_HEADS.values(), strict=False))
    given = [name for name in other if name in offered]
    anew = [spoken for head, spoken in heads.items() if _within(head, other)]
    before, after = "there was no such head", f"for {model.spec.classes:,} classes"
    if given:
        classes = origin.classes if origin else offered[given[0]].shape[0]
        kind = f"for {classes:,} {'other ' if classes == model.spec.classes else ''}classes"
        several = sum(_within(head, given) for head in heads) > 1
        before = f"the heads {kind} were left out" if several else f"the head {kind} was left out"
    if len(anew) > 1:
        return f"{before}; the {' and the '.join(anew)} {after} start at random"
    return f"{before}; the one {after} starts at random"


def _within(module: str, names: Sequence[str]) -> bool:
    """Whether any of these tensors is in the module."""
    return any(name.startswith(f"{module}.") for name in names)
