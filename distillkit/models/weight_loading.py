"""Load weights into a model: all tensors match and are loaded, or the model stays unchanged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor

from distillkit.contracts.model import Model, ModelSpec
from distillkit.errors import WeightsError
from distillkit.models.checkpoint_conversion import fit_positions, fit_tokens, separate_registers, translate
from distillkit.models.foreign_names import in_timm_names
from distillkit.models.heads import HEAD_NAMES
from distillkit.models.incomplete_weights import check_distillation_token, check_heads
from distillkit.models.network_names import NETWORK_PREFIXES, names_of_network, network_prefix, without_training_parts
from distillkit.models.timm_traits import classifier_names

SHOWN = 3
"""Maximum number of names per kind in an error."""
REMEDY = "give weights of exactly this architecture"
OTHER_POOLING = (
    "it was trained with mean pooling (fc_norm), and this network reads the class token, whose norm is missing; give "
    "weights with the pooling of this architecture"
)
RENAME = (
    "its tensors have the sizes of this network under the names of another library, such as torchvision; rename "
    "them to timm's"
)
COUNTER = "num_batches_tracked"
"""A BatchNorm buffer that files from before 2018 lack."""


Fit: TypeAlias = Literal["nothing", "positions", "all"]
"""Which weights may be changed to fit a network."""


@dataclass(frozen=True)
class LoadReport:
    """Result of loading weights.

    `source` is where the weights came from. `loaded` counts tensors, `fresh` names those that stay as initialised.
    `notes` are sentences about everything that was changed or left out.
    """

    source: str
    loaded: int
    fresh: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def load_notes(model: object) -> tuple[str, ...]:
    """Notes of the load report of a model; empty if no weights were loaded."""
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
    """Load `weights` into the model's network. `source` names their origin in errors and in the report.

    The network and the weights must have the same tensors, after timm's conversion of older layouts. Parts that only
    training needs, or a head that the network does not have, are left out and reported.
    `fit` says what may be changed, each change with a note in the report: "nothing", for teachers; "positions" resizes
    the position embedding, for a teacher at another image size; "all", for students, also leaves a head for other
    classes as initialised and fits the distillation token and the patch embedding.
    `keep` names tensors of the network that are not loaded. `origin` is the spec of the model that the weights come
    from, if known: it gives the grid of the positions, and a head with other class names is one for other classes.
    Shapes: weights of any shape.
    Raises: WeightsError with the number and first names of tensors that do not fit; the model is then unchanged.
    """
    network, spec = model.network, model.spec
    own, heads = network.state_dict(), _head_names(model)
    # Of the part of its file, of the names, and of what is left out.
    of_file: tuple[str, ...] = getattr(weights, "notes", ())
    weights, of_names = in_timm_names(weights, own)
    notes: tuple[str, ...] = ()
    given, of_prefix = _network_in(weights, model)
    before = (*of_file, *of_names, *of_prefix, *_left_out(weights, given))
    given = separate_registers(given, network)
    offered = given
    check_distillation_token(given, own, spec, source, may_add=fit == "all")
    if fit == "all":
        if origin is not None and _other_names(origin, spec):
            given = {name: tensor for name, tensor in given.items() if name not in heads}
        given, notes = fit_tokens(given, network)
        given |= {name: own[name] for name in keep}
        notes += tuple(f"{name} is not loaded: the student keeps its own" for name in keep)
    if fit != "nothing":
        grid = origin.grid if origin is not None and origin.grids else None
        given, position_notes = fit_positions(given, network, source, grid)
        notes += position_notes
    # After the tokens and positions, which timm's conversion would resample in its own way.
    given, resampled = _in_own_layout(given, model, whole=weights)
    if resampled and fit != "all":
        raise WeightsError(f"{source} does not fit '{spec.name}' without {' and '.join(resampled)}; {REMEDY}")
    problems = _mismatches(given, own, ignored=heads)
    if problems:
        subject = f"{source} does not fit '{spec.name}' ({spec.architecture})"
        if "fc_norm.weight" in given and "norm.weight" in own and "fc_norm.weight" not in own:
            remedy = OTHER_POOLING
        else:
            remedy = RENAME if _has_other_names(given, own, ignored=heads) else REMEDY
        raise WeightsError(f"{subject}: {'; '.join(problems)}; {remedy}")
    check_heads(given, own, spec.head_modules, source, may_be_random=fit == "all")
    other = sorted(name for name in heads if name not in given or given[name].shape != own[name].shape)
    if other and fit != "all":
        raise WeightsError(_other_head(given, own, other[0], model, source))
    kept = {name: tensor for name, tensor in given.items() if name not in other}
    # After the shapes: the values of a tensor of any other shape are never read.
    _check_values(kept, own, source)
    # Together with the network's own tensors for what is not loaded, so that torch's check stays strict.
    network.load_state_dict({**own, **kept})
    head_notes = (_head_note(offered, other, model, origin),) if other else ()
    return LoadReport(source, len(kept), tuple(other), (*before, *notes, *resampled, *head_notes))


def _check_values(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str) -> None:
    """Raises: WeightsError for complex weights, NaN and infinity; of meta tensors, which have no values, only complex.

    Shapes: as those of the network's `own` tensors.
    """
    complex_ = [name for name, tensor in weights.items() if tensor.is_complex() and not own[name].is_complex()]
    if complex_:
        raise WeightsError(
            f"{source} has complex numbers in {len(complex_)} of {len(weights)} tensors ({complex_[0]}, ...), and the "
            "network has real ones; give weights of exactly this architecture"
        )
    broken = [name for name, tensor in weights.items() if not tensor.is_meta and not tensor.isfinite().all()]
    if broken:
        raise WeightsError(
            f"{source} has NaN or infinity in {len(broken)} of {len(weights)} tensors ({broken[0]}, ...); "
            "get the file again, or use an earlier checkpoint"
        )


def classes_of(weights: Mapping[str, Tensor], model: Model) -> int | None:
    """Number of classes of the head in the weights; None if they have no head.

    `model` has the same architecture, for any number of classes; it is not changed. Only shapes are read: meta tensors
    will do.
    Shapes: weights of any shape.
    """
    renamed, _ = in_timm_names(weights, model.network.state_dict())
    given, _ = _in_own_layout(_network_in(renamed, model)[0], model)
    head = next((given[name] for name in sorted(_head_names(model)) if name in given and given[name].dim()), None)
    return None if head is None else head.shape[0]


def _head_names(model: Model) -> set[str]:
    """Names of the tensors that depend on the number of classes."""
    modules = tuple(f"{module}." for module in model.spec.head_modules)
    return {name for name in model.network.state_dict() if name.startswith(modules)}


def _network_in(weights: Mapping[str, Tensor], model: Model) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The network's part of a checkpoint, without heads if the model has no classes; a note if there are several."""
    known = model.network.state_dict().keys()
    prefix, others = network_prefix(weights, known)
    single = {name: tensor for name, tensor in weights.items() if not name.startswith(tuple(others))}
    given = without_training_parts(names_of_network(single, known, prefix), known, unneeded=_unneeded_heads(model))
    if not others:
        return given, ()
    first, other = f"under '{prefix.rstrip('.')}'" if prefix else "at the top level", others[0].rstrip(".")
    return given, (
        f"the network is there {first} and under '{other}'; the first is loaded, FILE#{other} loads the other",
    )


def _unneeded_heads(model: Model) -> tuple[str, ...]:
    """Prefixes of class heads in weights, for a model without classes."""
    return () if model.spec.classes else tuple(f"{name}." for name in classifier_names(model.network))


def _left_out(weights: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> tuple[str, ...]:
    """A note on the parts of a checkpoint that are not the network's, if there are any."""
    used = {id(tensor) for tensor in given.values()}  # names may have changed
    parts = Counter(_module_of(name) for name, tensor in weights.items() if id(tensor) not in used)
    shown = (name if count == 1 else f"{name} ({count} tensors)" for name, count in parts.items())
    return (f"left out: {', '.join(shown)}",) if parts else ()


def _module_of(name: str) -> str:
    """The module that a tensor belongs to: "decoder_norm", or "backbone.relation_blocks"."""
    first, _, rest = name.partition(".")
    return f"{first}.{rest.partition('.')[0]}" if f"{first}." in NETWORK_PREFIXES else first


def _in_own_layout(
    weights: Mapping[str, Tensor], model: Model, *, whole: Mapping[str, Tensor] | None = None
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Weights that do not match, converted as timm does, and a phrase for each tensor that this resampled.

    `whole` is the checkpoint that they are a part of: timm recognises some layouts by the names there.
    """
    known = model.network.state_dict()
    if not _mismatches(weights, known, ignored=_head_names(model)):
        return dict(weights), ()
    try:
        translated = translate(weights, model.network, model.spec.architecture)
        if whole and _mismatches(translated, known, ignored=_head_names(model)):
            of_whole = translate(whole, model.network, model.spec.architecture)
            if not _mismatches(of_whole, known, ignored=_head_names(model)):
                return of_whole, ()
    # timm's functions fail in many ways on weights of something else; the comparison that follows reports why.
    except (LookupError, AttributeError, TypeError, ValueError, ArithmeticError, RuntimeError, AssertionError):
        return dict(weights), ()
    resampled = tuple(
        f"resampling {name} from {list(weights[name].shape)} to {list(tensor.shape)}"
        for name, tensor in translated.items()
        if name in weights and weights[name].numel() != tensor.numel()
    )
    return without_training_parts(translated, known, unneeded=_unneeded_heads(model)), resampled


def _mismatches(given: Mapping[str, Tensor], own: Mapping[str, Tensor], *, ignored: set[str]) -> list[str]:
    """A phrase for each kind of mismatch, with its number and first names; `ignored` may be missing or differ."""
    # BatchNorm's counters may be missing: they are read only without a momentum.
    missing = [name for name in own if name not in given and name not in ignored and not name.endswith(COUNTER)]
    unexpected = [name for name in given if name not in own]
    reshaped = [
        f"{name} {list(given[name].shape)} instead of {list(own[name].shape)}"
        for name in own
        if name in given and name not in ignored and given[name].shape != own[name].shape
    ]
    kinds = (("are missing", missing), ("are unexpected", unexpected), ("have another shape", reshaped))
    return [f"{len(names)} of {len(own)} tensors {what} ({_first(names)})" for what, names in kinds if names]


def _has_other_names(given: Mapping[str, Tensor], own: Mapping[str, Tensor], *, ignored: set[str]) -> bool:
    """Whether the weights have the network's tensors under other names, judged by the number of their elements.

    Shapes: another library may write [C] as [C, 1, 1]; the tensors in `ignored` may differ.
    """
    wanted = [name for name in own if name not in ignored and not name.endswith(COUNTER)]
    sizes = Counter(own[name].numel() for name in wanted)
    return not set(wanted) <= given.keys() and sizes <= Counter(tensor.numel() for tensor in given.values())


def _first(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _other_head(given: Mapping[str, Tensor], own: Mapping[str, Tensor], name: str, model: Model, source: str) -> str:
    found, wanted = "no head", f"one for {own[name].shape[0]:,} classes"
    if name in given:
        found, wanted = f"a head for {given[name].shape[0]:,} classes", f"one for {own[name].shape[0]:,}"
    elif any(_within(head, tuple(given)) for head in model.spec.head_modules):
        found = f"no {name.rpartition('.')[0]}"  # one of two heads
    return (
        f"{source} has {found} and '{model.spec.name}' needs {wanted}; a teacher never gets a random "
        "head: fine-tune it with `distillkit finetune`, then use --teacher run:DIR"
    )


def _other_names(one: ModelSpec, another: ModelSpec) -> bool:
    """Whether both have class names, and they differ."""
    return None not in (one.class_names, another.class_names) and one.class_names != another.class_names


def _head_note(offered: Mapping[str, Tensor], other: Sequence[str], model: Model, origin: ModelSpec | None) -> str:
    """A note on the heads: those `offered` that were not loaded, and those with a tensor in `other`, now random."""
    heads = dict(zip(model.spec.head_modules, HEAD_NAMES.values(), strict=False))
    given = [name for name in other if name in offered]
    random = [name for head, name in heads.items() if _within(head, other)]
    before, after = f"the weights have no {' and no '.join(random)}", f"for {model.spec.classes:,} classes"
    if given:
        classes = origin.classes if origin else offered[given[0]].shape[0]
        kind = f"for {classes:,} {'other ' if classes == model.spec.classes else ''}classes"
        several = sum(_within(head, given) for head in heads) > 1
        before = f"the heads {kind} were not loaded" if several else f"the head {kind} was not loaded"
    if len(random) > 1:
        return f"{before}; the {' and the '.join(random)} {after} are randomly initialised"
    return f"{before}; the one {after} is randomly initialised"


def _within(module: str, names: Sequence[str]) -> bool:
    """Whether any of these tensors is in the module."""
    return any(name.startswith(f"{module}.") for name in names)
