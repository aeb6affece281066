"""Small students with random weights, of any timm architecture."""

from __future__ import annotations

import torch

from distillkit.models.timm_model import TimmModel

CLASS_NAMES = ("ant", "bee", "cat", "dog", "emu", "fox", "gnu")


def small_student(architecture, *, seed=0, **options):
    torch.manual_seed(seed)
    student = TimmModel.create(architecture, name="student", classes=7, class_names=CLASS_NAMES, **options)
    for parameter in student.network.parameters():  # the initial values of heads and many blocks are almost zero
        torch.nn.init.trunc_normal_(parameter, std=0.2)
    return student
