"""Evaluation: the interface of evaluators, features, attention figures. Importing this imports torch.

An evaluator or tracker plugin may import these names and those of `distillkit` itself.
"""

from distillkit.compute.distributed import ALONE, Processes
from distillkit.compute.drawing import draw_legend, drawing
from distillkit.evaluation.attention import see_attention, why_unreadable
from distillkit.evaluation.attention_figure import Sight, as_png, draw_attention
from distillkit.evaluation.features import Features, View, extract
from distillkit.evaluation.finetuning import finetuned_top1
from distillkit.evaluation.measurement import EvaluationResult, Measurement, Row
from distillkit.evaluation.subject import Evaluator, Subject
from distillkit.evaluation.subsets import balanced_subset, listed_subset
from distillkit.training.accuracy import scored, tally

__all__ = [
    "ALONE",
    "EvaluationResult",
    "Evaluator",
    "Features",
    "Measurement",
    "Processes",
    "Row",
    "Sight",
    "Subject",
    "View",
    "as_png",
    "balanced_subset",
    "draw_attention",
    "draw_legend",
    "drawing",
    "extract",
    "finetuned_top1",
    "listed_subset",
    "scored",
    "see_attention",
    "tally",
    "why_unreadable",
]
