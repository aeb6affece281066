"""What the stored targets of a loss depend on: the facts that make the key of its shelf in a bank."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from hashlib import blake2b
from typing import Any, cast

import torch
from torch import nn

from distillkit.bank.row_format import RowFormat
from distillkit.compute.devices import pick_device
from distillkit.contracts.loss import target_buffers
from distillkit.contracts.model import ModelSpec, Outputs, Read, Signal, Wanted
from distillkit.data.selection import Selection
from distillkit.planning.plan import LossPlan, Plan, TeacherPlan
from distillkit.planning.teacher_form import teacher_precision
from distillkit.plugin.runtime_checks import revealed_shapes

GEOMETRY = ("kind", "layers", "heads", "grids", "prefix_tokens")
"""Fields of the student's spec that a target may depend on. Not its widths: those would show in the TargetSpecs."""


def shelf_facts(plan: Plan, loss: LossPlan, *, images: str, weights: str | None = None, buffers: str = "") -> Any:
    """The facts of a loss's shelf, as JSON data.

    `images` is the digest of the training images, `weights` that of the teacher's tensors, None before they are loaded,
    `buffers` that of the tensors of the loss that no step trains.
    """
    recipe, teacher, student = plan.recipe, plan.teachers[cast("str", loss.teacher)], plan.student.spec
    mixing = recipe.mixing.model_dump(mode="json") if recipe.mixing.is_on else "off"
    facts = {
        "teacher": _teacher(plan, teacher) | {"weights": weights},
        "loss": {
            "plugin": loss.plugin.name,
            "from": str(loss.plugin.owner),
            "options": _target_options(loss),
            "reads": sorted([read.signal.value, *read.indices(teacher.spec)] for read in loss.loss.reads_teacher),
            "targets": RowFormat.of(loss.loss.targets).as_data(),
            "buffers": buffers,
        },
        "student": {
            "mean": student.mean,
            "std": student.std,
            "image_size": student.image_size,
            **_geometry_read(loss, student),
        },
        "augment": recipe.augment.model_dump(mode="json", exclude={"repeats", "eval_crop"}),
        "mixing": mixing,
        "data": {
            "images": images,
            "seed": recipe.data.seed,
            "background": recipe.data.background,
            "grey16": recipe.data.grey16,
            # Left out where it is "exact", as in shelves from before this key existed.
            **({} if recipe.data.decode == "exact" else {"decode": recipe.data.decode}),
        },
    }
    return json.loads(json.dumps(facts))  # tuples become lists, as in a header that is read back


def images_digest(train: Selection) -> str:
    """A digest of the keys of the training images, in order, and of the sizes of their files; without labels.

    A file that was replaced by another one of the same size is found by the comparison with the teacher at the start.
    """
    digest = blake2b(digest_size=16)
    for part in train.parts:
        size_of = getattr(part.source, "file_size", None)
        for index in part.indices.tolist():
            size = "" if size_of is None else size_of(index)
            digest.update(f"{part.prefix}{part.source.key(index)}\0{size}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()


def tensors_digest(module: nn.Module) -> str:
    """A digest of every tensor in a module's state, of any shape, with its name and dtype."""
    return _digest(module.state_dict())


def untrained_digest(loss: nn.Module) -> str:
    """A digest of the tensors of a loss that no step trains: buffers and frozen parameters; "" without any.

    Only of the buffers that its target depends on, if the loss names them.
    """
    frozen = {name: parameter for name, parameter in loss.named_parameters() if not parameter.requires_grad}
    named = target_buffers(loss)
    found = frozen | {name: each for name, each in loss.named_buffers() if named is None or name in named}
    return _digest(found) if found else ""


def _digest(tensors: Mapping[str, Any]) -> str:
    digest = blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}\0".encode())
        if not isinstance(tensor, torch.Tensor):
            digest.update(repr(tensor).encode())
            continue
        digest.update(f"{tensor.dtype}{list(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _teacher(plan: Plan, teacher: TeacherPlan) -> dict[str, Any]:
    native, request = teacher.native, teacher.request
    indices = teacher.class_map.indices
    device = pick_device(plan.recipe.training.device)
    return {
        # Without the argument, which may be the path of a run: architecture and weights say which model it is.
        "model": teacher.plugin.spec.name,
        "architecture": native.architecture,
        **{name: getattr(native, name) for name in (*GEOMETRY, "widths")},
        "options": request.options.model_dump(mode="json"),
        "mean": native.mean,
        "std": native.std,
        "sees": teacher.input_size,
        "precision": str(teacher_precision(teacher, device)).removeprefix("torch."),
        "class_map": None if indices is None else blake2b(repr(indices).encode(), digest_size=8).hexdigest(),
    }


def _target_options(loss: LossPlan) -> dict[str, Any]:
    """The options of a loss that its targets depend on: those in its `target_options`, all of them without it."""
    options = loss.options.model_dump(mode="json")
    named = getattr(loss.loss, "target_options", None)
    return options if named is None else {name: options[name] for name in sorted(named)}


def _geometry_read(loss: LossPlan, student: ModelSpec) -> dict[str, Any]:
    """The fields of GEOMETRY that the loss names, or reads from the student's spec in `build` or `target`."""
    names = tuple(field.name for field in fields(ModelSpec))
    spec = _RecordingSpec(**{name: getattr(student, name) for name in names})
    read: set[str] = set()
    object.__setattr__(spec, "_read", read)
    with torch.device("meta"):
        built = loss.plugin.call("build", loss.options, spec, loss.teacher_spec)
        outputs = _meta_outputs(loss.teacher_spec, built.reads_teacher)
    named: frozenset[str] | None = getattr(built, "target_geometry", None)
    if named is not None:
        return {name: getattr(student, name) for name in GEOMETRY if name in named}
    try:
        built.target(outputs)
    except NotImplementedError:  # an operation without support for the meta device: what it reads is not known
        read |= set(GEOMETRY)
    return {name: getattr(student, name) for name in GEOMETRY if name in read}


class _RecordingSpec(ModelSpec):
    """A ModelSpec that records in `_read` which of its fields are read."""

    def __getattribute__(self, name: str) -> Any:
        read = object.__getattribute__(self, "__dict__").get("_read")
        if read is not None:
            read.add(name)
        return object.__getattribute__(self, name)


def _meta_outputs(teacher: ModelSpec, reads: frozenset[Read]) -> Outputs:
    """Outputs of a teacher on the meta device, as a loss receives them, for a batch of 2."""
    wanted: Wanted = {read.signal: read.indices(teacher) for read in reads}
    made = {name: torch.empty(shape, device="meta") for name, shape in revealed_shapes(teacher, wanted, 2).items()}
    return Outputs(
        made.get("logits"),
        made.get("distill_logits"),
        tuple(made[f"embedding[{place}]"] for place in range(len(wanted.get(Signal.EMBEDDING, ())))),
        made.get("cls_attention"),
        tuple(made[f"patch_tokens[{place}]"] for place in range(len(wanted.get(Signal.PATCH_TOKENS, ())))),
        tuple(made[f"raw_tokens[{place}]"] for place in range(len(wanted.get(Signal.RAW_TOKENS, ())))),
    )
