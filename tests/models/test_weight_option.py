import pytest

from distillkit.errors import WeightsError
from distillkit.evaluation.open_model import open_model
from distillkit.models.weight_option import weight_option, weights_are_given_by
from distillkit.plugin.registry import installed_plugins
from distillkit_export.pipeline.target import load_target


def test_the_option_is_that_of_the_command():
    assert weight_option() == "--teacher-weights"
    with weights_are_given_by("--weights"):
        assert weight_option() == "--weights"
    assert weight_option() == "--teacher-weights"


@pytest.mark.parametrize("opener", [lambda plugins: open_model("cifar-resnet20", plugins, None), None])
def test_a_missing_file_is_asked_for_by_the_option_of_the_command(opener):
    plugins = installed_plugins()
    with pytest.raises(WeightsError) as missing:
        opener(plugins) if opener else load_target("cifar-resnet20", plugins)
    assert "--teacher-weights" not in str(missing.value)
    assert "--weights" in str(missing.value)
