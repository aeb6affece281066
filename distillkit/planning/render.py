"""Show a plan: as JSON data for programs, as lines of text for people."""

from __future__ import annotations

from typing import Any

from distillkit.contracts.model import ModelSpec, Signal, Wanted
from distillkit.contracts.signal_matching import SIGNAL_NAMES
from distillkit.messages.text import counted
from distillkit.planning.cost import Cost
from distillkit.planning.plan import Plan, TeacherPlan
from distillkit.training.optimisation import effective_lr, warmup_steps


def plan_as_dict(plan: Plan) -> dict[str, Any]:
    """The plan as plain data, for `--json` and plan.json."""
    training = plan.recipe.training
    return {
        "data": {
            "train": plan.datasets.train.name,
            "images": len(plan.datasets.train),
            "labelled": int(plan.datasets.labelled.sum()),
            "validation": len(plan.datasets.validation) if plan.datasets.validation else 0,
            "test": len(plan.datasets.test) if plan.datasets.test else 0,
            "fingerprint": plan.datasets.fingerprint,
            "resumes": "at the epoch" if plan.datasets.streaming else "exactly",
        },
        "classes": plan.classes,
        "class_names": list(plan.class_names) if plan.class_names else None,
        "student": _model(plan.student.spec, plan.student.wanted)
        | {
            "answers_with": plan.student.head,
            "untrained": list(plan.student.untrained),
            "fixed": list(plan.student.fixed),
            "starts_from": plan.starts_from,
        },
        "teachers": [_teacher(name, teacher) for name, teacher in plan.teachers.items()],
        "loss": plan.formula,
        "losses": [
            {"name": loss.name, "plugin": loss.plugin.name, "teacher": loss.teacher, "weight": loss.weight}
            | {"couples_batch": bool(getattr(loss.loss, "couples_batch", False))}
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
        "notes": list(plan.notes),
    }


def plan_lines(plan: Plan, *, matmul_flops_per_s: float | None = None) -> list[tuple[str, str]]:
    """The plan as (heading, line of text) pairs; a pair without a heading continues the one above.

    `matmul_flops_per_s` is the result of `distillkit.planning.cost.matmul_rate` on the training device.
    """
    rows = [
        ("data", _data(plan)),
        ("classes", f"{plan.classes:,}{_first_names(plan.class_names)}" if plan.classes else "none"),
        ("student", _describe(plan.student.spec)),
        ("", f"reveals {_signals(plan.student.wanted)}; {_prediction(plan)}"),
    ]
    if plan.starts_from:
        rows.append(("", f"starts from {plan.starts_from}"))
    for name, teacher in plan.teachers.items():
        rows.append((f"teacher {name}" if len(plan.teachers) > 1 else "teacher", _describe(teacher.native)))
        rows.append(("", _teacher_use(plan, teacher)))
    rows.append(("loss", plan.formula))
    coupled = [loss.name for loss in plan.losses.values() if getattr(loss.loss, "couples_batch", False)]
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
    if matmul_flops_per_s:
        least, rate = plan.cost.total_flops / matmul_flops_per_s, matmul_flops_per_s / 1e9
        rows.append(("time", f"at least {_duration(least)} (a matrix product reaches {rate:,.0f} GFLOP/s here)"))
    return rows + [("note", note) for note in plan.notes]


def _data(plan: Plan) -> str:
    data = plan_as_dict(plan)["data"]
    return (
        f"{data['train']}: {counted(data['images'], 'image')}, {data['labelled']:,} labelled; "
        f"validation {data['validation']:,}, test {data['test']:,}; resumes {data['resumes']}"
    )


def _learning_rate(plan: Plan) -> str:
    warmup = warmup_steps(plan.recipe, steps=plan.steps, steps_per_epoch=plan.steps_per_epoch)
    return f"{effective_lr(plan.recipe):g} after {counted(warmup, 'step')} of warm-up, {plan.recipe.schedule.name}"


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
        "reveals": {signal.value: list(layers) for signal, layers in wanted.items()},
    }


def _teacher(name: str, teacher: TeacherPlan) -> dict[str, Any]:
    indices = teacher.class_map.indices
    return _model(teacher.native, teacher.wanted) | {
        "recipe_name": name,
        "sees": list(teacher.input_size),
        "class_map": list(indices) if indices is not None else None,
        "weights": teacher.request.weights or "its own",
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
    return f"reveals {_signals(teacher.wanted)} to {', '.join(readers)}; sees {images} at {size}{classes}"


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
    return f": {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"


def _norm(spec: ModelSpec) -> str:
    return f"mean {'/'.join(f'{value:g}' for value in spec.mean)} std {'/'.join(f'{value:g}' for value in spec.std)}"


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return counted(max(1, round(seconds)), "second")
