"""Few-label fine-tuning of a model with the usual training loop, and its accuracy."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from distillkit.contracts.incidents import BrokenImage, Incidents
from distillkit.errors import UserError
from distillkit.evaluation.subject import Subject
from distillkit.plugin.registry import installed_plugins
from distillkit.recipe.image_tables import Mixing
from distillkit.recipe.schema import Optimizer, Recipe, Schedule, Training
from distillkit.running.directory import RunDirectory
from distillkit.running.start import run
from distillkit.storage.untrusted import read_json


def finetuned_top1(subject: Subject, labels: int, *, seed: int, epochs: int, batch_size: int, lr: float) -> float:
    """Top-1 accuracy in percent on the measured images after fine-tuning on `labels` labels; the subject is unchanged.

    Trains in a temporary run directory. `data.labels` and `data.seed` choose the images, as `balanced_subset` does;
    they are augmented as in the recipe, but not mixed. AdamW with weight decay 0.05 and a cosine schedule to 0, without
    warm-up. A head for other classes is randomly initialised. The final weights are measured. Images that the run could
    not read are added to `subject.broken`.
    Raises: UserError for a model that cannot be built as a student; what the run raises.
    """
    if subject.student is None:
        raise UserError(f"'{subject.name}' cannot be fine-tuned by that name; give a run directory or timm:<any>")
    base = subject.recipe
    chosen = {"labels": labels, "seed": seed, "labeled_fraction": None, "unlabeled": None, "views": None}
    recipe = Recipe(
        seed=seed,
        data=base.data.model_copy(update=chosen),
        augment=base.augment.model_copy(update={"repeats": 1}),
        mixing=Mixing(),
        student=subject.student,
        training=Training(
            epochs=epochs,
            batch_size=batch_size,
            micro_batch_size=base.training.micro_batch_size,
            precision=base.training.precision,
            device=str(subject.device),
            evaluate_every=epochs,
            keep=1,
        ),
        optimizer=Optimizer(lr=lr),
        schedule=Schedule(min_lr=0.0),
        evaluation=base.evaluation.model_copy(update={"head": "class"}),  # labels train no other head
        trackers=(),
    )
    with TemporaryDirectory() as folder:
        directory = Path(folder) / "run"
        figures = run(recipe, directory, installed_plugins()).figures
        subject.broken.extend(_broken(RunDirectory(directory).incidents))
    return figures[f"{subject.split}/top1"]


def _broken(incidents: Path) -> tuple[BrokenImage, ...]:
    """The images that a run could not read; without incidents a run writes no file of them."""
    return Incidents.from_dict(read_json(incidents)).broken if incidents.is_file() else ()
