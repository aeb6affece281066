"""The conformance suite on a GPU."""

import pytest
from sound_loss import Sound
from sound_model import SoundModel

from distillkit.testing import check_loss, check_student, check_teacher


@pytest.mark.gpu
def test_sound_plugins_pass_on_a_gpu():
    check_loss(Sound, device="cuda")
    check_student(SoundModel, device="cuda")
    check_teacher(SoundModel, device="cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("student", ["deit-ti", "vit-ti"])
def test_deits_students_on_a_gpu(student):
    check_student(student, {"image_size": 16, "patch": 4, "width": 24, "depth": 3, "heads": 2}, device="cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("loss", ["hard", "soft", "advit-kl", "advit-l1", "advit-l2", "attndistill"])
def test_the_built_in_losses_on_a_gpu(loss):
    check_loss(loss, device="cuda")
