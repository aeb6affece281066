"""Show a plan: as JSON data for programs, as lines of text for people."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from distillkit.contracts.model import ModelSpec, Signal, Wanted
from distillkit.contracts.signal_matching import SIGNAL_NAMES
from distillkit.contracts.teacher_form import PLAIN
from distillkit.messages.text import counted, duration, size_text, visible
from distillkit.models.kept_patches import PatchChoice
from distillkit.planning.bank_plan import bank_lines
from distillkit.planning.cost import Cost
from distillkit.planning.plan import BankPlan, LossPlan, Plan, TeacherPlan
from distillkit.training.optimisation import effective_lr, warmup_steps


def plan_as_dict(plan: Plan) -> dict[str, Any]:
    """The plan as plain data, for `--json` and plan.json."""
    training = plan.recipe.training
    return {
        "data": {
            "train": plan.datasets.train.name,
            "reason": plan.recipe.about.data_reason,
            "images": len(plan.datasets.train),
            "labelled": int(plan.datasets.labelled.sum()),
            "validation": len(plan.datasets.validation) if plan.datasets.validation else 0,
            "test": len(plan.datasets.test) if plan.datasets.test else 0,
            "fingerprint": plan.datasets.fingerprint,
            "fingerprints": plan.datasets.evaluation_fingerprints,
            "resumes": "at the epoch" if plan.datasets.streaming else "exactly",
            "bytes_in_memory": plan.bytes_in_memory,
        },
        "classes": plan.classes,
        "class_names": list(plan.class_names) if plan.class_names else None,
        "student": _model(plan.student.spec, plan.student.wanted)
        | {
            "answers_with": plan.student.head,
            "untrained": list(plan.student.untrained),
            "fixed": list(plan.student.fixed),
            "starts_from": plan.starts_from,
            "options": plan.student.options,
        },
        "teachers": [_teacher(name, teacher) for name, teacher in plan.teachers.items()],
        "loss": plan.formula,
        "losses": [
            {"name": loss.name, "plugin": loss.plugin.name, "teacher": loss.teacher, "weight": loss.weight}
            | {"couples_batch": bool(getattr(loss.loss, "couples_batch", False)), "prepares": loss.prepares}
            | {"options": loss.options.model_dump(mode="json", by_alias=True)}
            for loss in plan.losses.values()
        ],
        "label_weight": plan.label_weight,
        "batch_size": training.batch_size,
        "samples_per_step": plan.samples_per_step,
        "micro_batch_size": training.micro_batch_size or training.batch_size,
        "learning_rate": effective_lr(plan.recipe),
        "warmup_steps": warmup_steps(plan.recipe, steps=plan.steps, steps_per_epoch=plan.steps_per_epoch),
        "steps": plan.steps,
        "steps_per_epoch": plan.steps_per_epoch,
        "cost": {
            "student_gflop_per_image": plan.cost.student_flops / 1e9,
            "teacher_gflop_per_image": plan.cost.teacher_flops / 1e9,
            "run_pflop": plan.cost.total_flops / 1e15,
            "memory_mib_without_activations": plan.cost.memory_bytes / 2**20,
        },
        "bank": None if plan.bank is None else _bank(plan.bank),
        "notes": list(plan.notes),
    }


def plan_lines(
    plan: Plan, *, matmul_flops_per_s: float | None = None, measured: Sequence[tuple[str, str]] = ()
) -> list[tuple[str, str]]:
    """The plan as (heading, line of text) pairs; a pair without a heading continues the one above.

    `matmul_flops_per_s` is the result of `distillkit.planning.cost.matmul_rate` on the training device.
    `measured` are lines to add in place of the time that follows from it.
    """
    rows = [("data", _data(plan))]
    if plan.recipe.about.data_reason:
        rows.append(("", f"{plan.recipe.about.data_reason}; --data names other images"))
    rows += [
        ("classes", f"{plan.classes:,}{_first_names(plan.class_names)}" if plan.classes else "none"),
        ("student", _describe(plan.student.spec)),
        ("", f"reveals {_signals(plan.student.wanted)}; {_prediction(plan)}"),
    ]
    if plan.student.options:
        rows.append(("", f"options {_options(plan.student.options)}"))
    if plan.starts_from:
        rows.append(("", f"starts from {plan.starts_from}"))
    for name, teacher in plan.teachers.items():
        rows.append((f"teacher {name}" if len(plan.teachers) > 1 else "teacher", _describe(teacher.native)))
        rows.append(("", _teacher_use(plan, teacher)))
        if teacher.form != PLAIN:
            rows.append(("", _teacher_form(teacher)))
        if teacher.evaluated:
            rows.append(("", _teacher_evaluation(teacher)))
    rows.append(("loss", plan.formula))
    rows += [("", text) for text in map(_loss_options, plan.losses.values()) if text]
    coupled = [loss.name for loss in plan.losses.values() if getattr(loss.loss, "couples_batch", False)]
    rows += [("", text) for text in map(_loss_preparation, plan.losses.values()) if text]
    if coupled:
        rows.append(("", f"{', '.join(coupled)} compares samples within a micro-batch: accumulation changes the loss"))
    rows += [
        ("batch", _batch(plan)),
        ("learning rate", _learning_rate(plan)),
        ("steps", f"{plan.steps:,} ({plan.steps_per_epoch:,} per epoch)"),
        ("never trained", _untrained(plan)),
        ("compute", _compute(plan.cost)),
        (
            "memory",
            f"{plan.cost.memory_bytes / 2**20:,.0f} MiB for weights, gradients and optimiser, without activations",
        ),
    ]
    if plan.bank is not None:
        rows += [("" if number else "bank", line) for number, line in enumerate(bank_lines(plan.bank))]
    if matmul_flops_per_s:
        least, rate = plan.cost.total_flops / matmul_flops_per_s, matmul_flops_per_s / 1e9
        rows.append(("time", f"at least {duration(least)} (a matrix product reaches {rate:,.0f} GFLOP/s here)"))
    return [*rows, *measured, *(("note", note) for note in plan.notes)]


def _bank(bank: BankPlan) -> dict[str, Any]:
    return {
        "path": str(bank.path),
        "views": bank.views,
        "images": bank.images,
        "rows": bank.rows,
        "bytes": bank.total_bytes,
        "shelves": {
            name: {"row_bytes": shelf.row_bytes, "exists": shelf.exists, "differing": dict(shelf.differing)}
            for name, shelf in bank.shelves.items()
        },
    }


def _data(plan: Plan) -> str:
    data = plan_as_dict(plan)["data"]
    return (
        f"{data['train']}: {counted(data['images'], 'image')}, {data['labelled']:,} labelled; "
        f"validation {data['validation']:,}, test {data['test']:,}; resumes {data['resumes']}"
        + (f"; kept in memory, about {size_text(plan.bytes_in_memory)}" if plan.bytes_in_memory else "")
    )


def _learning_rate(plan: Plan) -> str:
    warmup = warmup_steps(plan.recipe, steps=plan.steps, steps_per_epoch=plan.steps_per_epoch)
    schedule = plan.recipe.schedule
    is_late = schedule.name == "cosine" and schedule.cosine_after_warmup
    shape = "cosine from the end of the warm-up" if is_late else schedule.name
    return f"{effective_lr(plan.recipe):g} after {counted(warmup, 'step')} of warm-up, {shape}"


def _compute(cost: Cost) -> str:
    return (
        f"forward of one image: student {cost.student_flops / 1e9:.3g} GFLOP, teacher "
        f"{cost.teacher_flops / 1e9:.3g} GFLOP; run {cost.total_flops / 1e15:.3g} PFLOP"
    )


def _model(spec: ModelSpec, wanted: Wanted) -> dict[str, Any]:
    return {
        "name": spec.name,
        "architecture": spec.architecture,
        "parameters": spec.parameters,
        "classes": spec.classes,
        "image_size": list(spec.image_size),
        "grid": list(spec.grid) if spec.grids else None,
        "layers": spec.layers,
        "heads": spec.heads,
        "width": spec.width if spec.widths else None,
        "mean": list(spec.mean),
        "std": list(spec.std),
        "licence": spec.licence,
        "taught_under": list(spec.taught_under),
        "reveals": {signal.value: list(layers) for signal, layers in wanted.items()},
    }


def _teacher(name: str, teacher: TeacherPlan) -> dict[str, Any]:
    indices = teacher.class_map.indices
    return _model(teacher.native, teacher.wanted) | {
        "recipe_name": name,
        "sees": list(teacher.input_size),
        "masked": teacher.entry.masked,
        "evaluated": {"images": teacher.evaluated, "sizes": [list(size) for size in teacher.compared]}
        if teacher.evaluated
        else None,
        "class_map": list(indices) if indices is not None else None,
        "weights": teacher.request.weights or "its own",
        "form": "measured" if teacher.form is None else str(teacher.form),
    }


def _describe(spec: ModelSpec) -> str:
    shape = f", {spec.layers} layers" + (f", {spec.heads} heads" if spec.heads else "")
    grid = f", grid {spec.grid[0]}x{spec.grid[1]}" if spec.grids else ""
    licence = f"; weights {spec.licence}" if spec.licence else ""
    return (
        f"{spec.name}: {spec.parameters:,} parameters, {_size(spec.image_size)} px{grid}{shape}, {_norm(spec)}{licence}"
    )


def _teacher_use(plan: Plan, teacher: TeacherPlan) -> str:
    readers = [loss.name for loss in plan.losses.values() if loss.teacher == teacher.entry.name]
    if not readers:
        return "no loss reads it"
    same = teacher.native.mean == plan.student.spec.mean and teacher.native.std == plan.student.spec.std
    images = "the student's images" if same else "the student's images, renormalised,"
    indices = teacher.class_map.indices
    classes = f", {len(indices)} of its {teacher.native.classes:,} classes" if indices is not None else ""
    size = _size(teacher.input_size)
    why = _why_this_size(teacher, plan.student.spec)
    choice = PatchChoice.between(teacher.entry.masked, plan.student.spec, teacher.spec)
    patches = f"{choice.kept} of {math.prod(choice.teacher_grid)} patches of " if choice else ""
    return f"reveals {_signals(teacher.wanted)} to {', '.join(readers)}; sees {patches}{images} at {size}{why}{classes}"


def _why_this_size(teacher: TeacherPlan, student: ModelSpec) -> str:
    """Whose size a teacher's images have, if student and teacher differ in it."""
    if teacher.native.image_size == student.image_size == teacher.input_size:
        return ""
    if teacher.input_size == teacher.native.image_size:
        return ", its own size"
    return ", the student's size" if teacher.input_size == student.image_size else ""


def _teacher_evaluation(teacher: TeacherPlan) -> str:
    seen, *others = map(_size, teacher.compared)
    sizes = f"{seen} and, to compare, at {' and '.join(others)}" if others else seen
    return f"is evaluated before the first step on {counted(teacher.evaluated, 'validation image')} at {sizes}"


def _teacher_form(teacher: TeacherPlan) -> str:
    if teacher.form is None:
        return "computes in the form that is fastest when the run starts, so two runs may differ in the last bits"
    chosen = "" if teacher.entry.form != "auto" else ", chosen by machine, model and length of the run"
    return f"computes as {teacher.form}{chosen}; the run compares it with the plain form"


def _options(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in options.items())


def _loss_options(loss: LossPlan) -> str:
    """The options of a loss, those of its default included; "" if it has none."""
    options = loss.options.model_dump(by_alias=True, exclude_none=True)
    return f"{loss.name}: {', '.join(f'{key} {_value(value)}' for key, value in options.items())}" if options else ""


def _loss_preparation(loss: LossPlan) -> str:
    """That a loss is prepared before the first step; "" if it is not."""
    if not loss.prepares:
        return ""
    images = counted(loss.prepares, "training image")
    return f"{loss.name} is prepared before the first step, with teacher '{loss.teacher}' on {images}"


def _value(value: object) -> str:
    """A value as it is written in a recipe: `[-2, -1]` for a tuple."""
    return f"{value:g}" if isinstance(value, float) else str(list(value) if isinstance(value, tuple) else value)


def _batch(plan: Plan) -> str:
    training = plan.recipe.training
    micro = training.micro_batch_size
    split = f", in micro-batches of {micro}" if micro and micro < plan.samples_per_step else ""
    all_images = f", the whole training set (training.batch_size is {training.batch_size:,})"
    fewer = all_images if plan.samples_per_step < training.batch_size else ""
    return f"{counted(plan.samples_per_step, 'image')} per optimiser step{fewer}{split}"


def _prediction(plan: Plan) -> str:
    if not plan.student.learns_classes:
        return "returns its embedding"
    if Signal.DISTILL_LOGITS not in plan.student.spec.signals:
        return "predicts with its only head"
    names = {"class": "the class head", "distill": "the distillation head"}
    return f"predicts with {names.get(plan.student.head, f'both heads, fused by {plan.recipe.evaluation.fusion}')}"


def _untrained(plan: Plan) -> str:
    kinds = (("no loss term trains", plan.student.untrained), ("the student keeps fixed", plan.student.fixed))
    return (
        "; ".join(f"{counted(len(names), 'tensor')} that {why}: {_few(names)}" for why, names in kinds if names)
        or "nothing"
    )


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def _signals(wanted: Wanted) -> str:
    parts = [
        SIGNAL_NAMES[signal] + (f" of layers {', '.join(map(str, layers))}" if layers else "")
        for signal, layers in wanted.items()
    ]
    return ", ".join(parts) or "nothing"


def _first_names(names: tuple[str, ...] | None) -> str:
    if not names:
        return ""
    # A name with a comma, as ImageNet's descriptions have, would read like two.
    shown = ", ".join(f"'{name}'" if "," in name else name for name in map(visible, names[:5]))
    return f": {shown}{', ...' if len(names) > 5 else ''}"


def _norm(spec: ModelSpec) -> str:
    return f"mean {'/'.join(f'{value:g}' for value in spec.mean)} std {'/'.join(f'{value:g}' for value in spec.std)}"


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
