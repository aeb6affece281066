"""Measured forms and settings: which is fastest for a run, and from how many images on compiling pays."""

import pytest

from distillkit.contracts.teacher_form import PLAIN, TeacherForm
from distillkit.running.measured_forms import MeasuredForms, Trial
from distillkit.running.student_variants import StudentVariant, variant_line

LAST, COMPILED = TeacherForm(channels_last=True), TeacherForm(channels_last=True, compiled=True)
TRIALS = (
    Trial(PLAIN, 100.0),
    Trial(LAST, 80.0),
    Trial(TeacherForm(channels_last=True, half_weights=True), float("inf"), 1.0, "fails (no kernel)"),
    Trial(COMPILED, 60.0, ready_s=40.0),
)
PAYS = (
    "training.compile=true would take 15 ms an image for the student after 50 seconds, and pays from 10,000 images on"
)


@pytest.mark.parametrize(("images", "form"), [(1999, LAST), (2001, COMPILED)])
def test_compiling_has_to_be_repaid(images, form):
    # 2,000 images at 20 ms less are 40 s
    assert MeasuredForms(TRIALS, images).fastest.form == form


def test_the_sentence_has_every_trial_and_the_choice():
    assert MeasuredForms(TRIALS, 10).sentence() == (
        "measured plain 100 ms an image, channels-last 80 ms an image, channels-last+half-weights fails (no kernel), "
        "channels-last+compiled 60 ms an image after 40 seconds; computes as channels-last"
    )


@pytest.mark.parametrize(
    ("variant", "images", "line"),
    [
        (
            StudentVariant("training.attention=written", 15.0),
            1,
            "training.attention=written would take 15 ms an image for the student",
        ),
        (
            StudentVariant("training.attention=written", 25.0),
            1,
            "training.attention=written would take 25 ms an image for the student, not less",
        ),
        (  # 50 s at 5 ms an image are 10,000 images
            StudentVariant("training.compile=true", 15.0, 50.0),
            9999,
            f"{PAYS}; this run has 9,999",
        ),
        (
            StudentVariant("training.compile=true", 15.0, 50.0),
            10_000,
            PAYS,
        ),
    ],
)
def test_what_a_setting_of_the_student_gains(variant, images, line):
    assert variant_line(variant, 20.0, images) == line
