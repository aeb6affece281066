"""Licence of a student by the weights that it starts from."""

from dataclasses import replace

import pytest
from pydantic import BaseModel

from distillkit.contracts.model import ModelRequest
from distillkit.models import TimmModel, save_student
from distillkit.models.heads import Answer
from distillkit.models.initial_weights import licensed


class Options(BaseModel):
    """A student without options."""


@pytest.fixture
def runs(plain: TimmModel, tmp_path):
    """Two run directories: the licence of one student is known, that of the other is not."""
    for name, licence in (("licensed", "cc-by-nc-4.0"), ("unlicensed", None)):
        plain.spec = replace(plain.spec, licence=licence)
        (tmp_path / name).mkdir()
        save_student(tmp_path / name, plain, ModelRequest("vit", None, Options()), Answer("class", "logits"))
    return tmp_path


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ("pretrained", "apache-2.0"),
        ("{runs}/licensed", "cc-by-nc-4.0"),
        ("{runs}/unlicensed", None),
        ("{runs}/weights.pth", None),
        ("none", None),
        (None, None),
    ],
)
def test_licence_is_that_of_the_initial_weights(runs, plain, weights, expected):
    """That of the published weights holds for those alone."""
    published = replace(plain.spec, licence="apache-2.0")
    given = weights and weights.format(runs=runs)
    assert licensed(published, given) == replace(published, licence=expected)
