"""Models: timm adapters, weights, heads, class matching, the attention row, the frozen teacher. Imports torch.

A teacher or student plugin may import these names and those of `distillkit` itself.
"""

from distillkit.contracts.student_directory import student_directory
from distillkit.messages.text import nearest_multiples
from distillkit.models.build import Described
from distillkit.models.class_matching import (
    ClassMap,
    imagenet_class_names,
    match_classes,
    read_class_names,
)
from distillkit.models.file_geometry import FileGeometry, geometry_of
from distillkit.models.frozen_teacher import FrozenTeacher
from distillkit.models.heads import OneAnswer, check_head, fuse, one_answer
from distillkit.models.hub import published_weights, why_unavailable
from distillkit.models.initial_weights import licensed, start_from
from distillkit.models.layer_mapping import matched_layers
from distillkit.models.meta_device import sketching
from distillkit.models.module_features import FeatureLayer, ModuleTrace, run_traced, trace_modules
from distillkit.models.module_model import ModuleModel
from distillkit.models.position_embedding import (
    resize_position_embedding,
    sincos_position_embedding,
)
from distillkit.models.precision import at_least_float32
from distillkit.models.saved_student import SavedStudent, build_student, load_saved_student, read_student, save_student
from distillkit.models.timm_model import TimmModel
from distillkit.models.timm_networks import TimmRequest
from distillkit.models.weight_files import file_and_key, read_weights
from distillkit.models.weight_loading import Fit, LoadReport, classes_of, load_weights
from distillkit.models.weight_option import weight_option

__all__ = [
    "ClassMap",
    "Described",
    "FeatureLayer",
    "FileGeometry",
    "Fit",
    "FrozenTeacher",
    "LoadReport",
    "ModuleModel",
    "ModuleTrace",
    "OneAnswer",
    "SavedStudent",
    "TimmModel",
    "TimmRequest",
    "at_least_float32",
    "build_student",
    "check_head",
    "classes_of",
    "file_and_key",
    "fuse",
    "geometry_of",
    "imagenet_class_names",
    "licensed",
    "load_saved_student",
    "load_weights",
    "match_classes",
    "matched_layers",
    "nearest_multiples",
    "one_answer",
    "published_weights",
    "read_class_names",
    "read_student",
    "read_weights",
    "resize_position_embedding",
    "run_traced",
    "save_student",
    "sincos_position_embedding",
    "sketching",
    "start_from",
    "student_directory",
    "trace_modules",
    "weight_option",
    "why_unavailable",
]
