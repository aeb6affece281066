"""Discovery of plugins: checks that pluggy and importlib.metadata lack."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from distillkit.errors import (
    BrokenPluginError,
    DuplicatePluginError,
    MissingExtraError,
    PluginError,
    RecipeError,
    UnknownPluginError,
)
from distillkit.plugin.registry import installed_plugins, split_name

LOSS = """
from distillkit import PluginSpec

def distillkit_losses():
    return [PluginSpec(name="{name}", summary="a loss", factory="{module}:Loss")]

class Loss:
    pass
"""


def test_a_function_is_a_hook_by_its_name_alone(install: Callable[..., None]) -> None:
    install("kl-loss", "1.0", entry_point="kl", module="kl_loss", code=LOSS.format(name="kl-one", module="kl_loss"))
    plugin = installed_plugins().find("loss", "kl-one")
    assert str(plugin) == "loss 'kl-one' of kl-loss 1.0"
    assert plugin.load().__name__ == "Loss"


def test_two_distributions_with_the_same_entry_point_name_are_both_loaded(install: Callable[..., None]) -> None:
    install("kl-loss", "1.0", entry_point="kl", module="kl_loss", code=LOSS.format(name="kl-one", module="kl_loss"))
    install("kl-other", "2.0", entry_point="kl", module="kl_other", code=LOSS.format(name="kl-two", module="kl_other"))
    names = {plugin.spec.name for plugin in installed_plugins().listing("loss")}
    assert {"kl-one", "kl-two"} <= names


def test_a_duplicate_name_names_both_owners(install: Callable[..., None]) -> None:
    install("kl-loss", "1.0", entry_point="kl", module="kl_loss", code=LOSS.format(name="kl-one", module="kl_loss"))
    install("kl-other", "2.0", entry_point="kl", module="kl_other", code=LOSS.format(name="kl-one", module="kl_other"))
    with pytest.raises(DuplicatePluginError) as caught:
        installed_plugins().find("loss", "kl-one")
    assert str(caught.value) == (
        "loss 'kl-one' is provided by kl-loss 1.0 (kl_loss) and kl-other 2.0 (kl_other); uninstall one of them"
    )
    assert installed_plugins().find("loss", "hard")


def test_a_plugin_that_fails_at_import_does_not_stop_others(install: Callable[..., None]) -> None:
    install("sad-loss", "0.3", entry_point="sad", module="sad_loss", code="import no_such_module_anywhere\n")
    plugins = installed_plugins()
    assert plugins.find("loss", "hard")
    (broken,) = plugins.broken
    assert str(broken) == (
        "plugin 'sad' of sad-loss 0.3 is broken: ModuleNotFoundError: No module named 'no_such_module_anywhere'"
    )
    with pytest.raises(UnknownPluginError) as caught:
        plugins.find("loss", "sad")
    assert str(caught.value).endswith(f"; not loaded: {broken}")


def test_a_plugin_that_exits_at_import_does_not_stop_others(install: Callable[..., None]) -> None:
    install("exit-loss", "0.3", entry_point="exit", module="exit_loss", code="raise SystemExit('bye')\n")
    assert str(installed_plugins().broken[0]) == "plugin 'exit' of exit-loss 0.3 is broken: SystemExit: bye"


def test_a_misspelt_hook_is_an_error(install: Callable[..., None]) -> None:
    install("typo", "1.1", entry_point="typo", module="typo_loss", code="def distillkit_losss():\n    return []\n")
    (broken,) = installed_plugins().broken
    assert str(broken) == (
        "plugin 'typo' of typo 1.1 is broken: hook 'distillkit_losss' does not exist; did you mean 'distillkit_losses'?"
    )


def test_a_hook_with_another_argument_is_an_error(install: Callable[..., None]) -> None:
    code = "def distillkit_run_started(runn):\n    pass\n"
    install("typo", "1.1", entry_point="typo", module="typo_argument", code=code)
    (broken,) = installed_plugins().broken
    assert broken.reason.startswith("Plugin \"plugin 'typo' of typo 1.1\" for hook 'distillkit_run_started'")
    assert "{'runn'}" in broken.reason


def test_a_registration_hook_that_returns_a_wrong_type_is_broken(install: Callable[..., None]) -> None:
    install("odd", "1.0", entry_point="odd", module="odd_loss", code="def distillkit_losses():\n    return ['x']\n")
    (broken,) = installed_plugins().broken
    assert broken.reason == "distillkit_losses must return PluginSpec objects, not str"


def test_a_missing_factory_is_an_error_with_plugin_and_distribution(install: Callable[..., None]) -> None:
    code = LOSS.format(name="ghost", module="ghost_loss").replace("ghost_loss:Loss", "ghost_loss:Missing")
    install("ghost", "1.0", entry_point="ghost", module="ghost_loss", code=code)
    with pytest.raises(BrokenPluginError) as caught:
        installed_plugins().find("loss", "ghost").load()
    assert str(caught.value) == (
        "loss 'ghost' of ghost 1.0 cannot be used: ghost_loss:Missing: "
        "AttributeError: module 'ghost_loss' has no attribute 'Missing'"
    )


def test_a_missing_optional_dependency_names_its_extra(install: Callable[..., None]) -> None:
    code = LOSS.format(name="rt", module="rt_loss").replace("rt_loss:Loss", "rt_inner:Loss")
    install("rt", "1.0", entry_point="rt", module="rt_loss", code=code)
    install("rt-inner", "1.0", entry_point="rt-inner", module="rt_inner", code="")
    plugins = installed_plugins()
    sys.modules.pop("rt_inner")
    path = next(entry for entry in sys.path if entry.endswith("rt-inner"))
    Path(path, "rt_inner.py").write_text("import tensorrt\n")
    with pytest.raises(MissingExtraError) as caught:
        plugins.find("loss", "rt").load()
    assert str(caught.value) == "loss 'rt' needs tensorrt, which is not installed; pip install \"distillkit[trt]\""


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownPluginError) as caught:
        installed_plugins().find("loss", "hrad")
    assert str(caught.value).startswith("unknown loss 'hrad'; did you mean 'hard'? (known: ")


def test_an_unknown_model_may_be_a_model_of_timm() -> None:
    for role in ("student", "teacher"):
        with pytest.raises(UnknownPluginError) as caught:
            installed_plugins().find(role, "resnet50")
        assert str(caught.value).endswith("; for a timm model write timm:resnet50")


def test_the_argument_after_a_colon_is_required_or_refused() -> None:
    with pytest.raises(PluginError) as missing:
        installed_plugins().find("teacher", "timm")
    assert str(missing.value) == "teacher 'timm' needs a name after the colon: timm:<any>"
    with pytest.raises(PluginError) as unexpected:
        installed_plugins().find("loss", "hard:x")
    assert str(unexpected.value) == ("loss 'hard': option 'x' has no value; write hard:KEY=VALUE, such as soft:tau=2")
    with pytest.raises(PluginError) as number:
        installed_plugins().find("loss", "soft:2")
    assert str(number.value) == "loss 'soft:2': options are KEY=VALUE, such as soft:tau=2"


def test_a_plugin_keeps_the_argument_that_the_user_typed() -> None:
    plugin = installed_plugins().find("teacher", "run:runs/a:b")
    assert (plugin.name, plugin.argument) == ("run:runs/a:b", "runs/a:b")
    assert str(plugin) == f"teacher 'run' of {plugin.owner}"
    (listed,) = (each for each in installed_plugins().listing("teacher") if each.spec.name == "run")
    assert (listed.name, listed.argument) == ("run", None)


def test_options_are_checked_by_the_plugin() -> None:
    with pytest.raises(RecipeError) as caught:
        installed_plugins().find("loss", "soft").options({"ta": 3.0})
    assert str(caught.value) == "loss 'soft': unknown key 'ta'; did you mean 'tau'?"


def test_names_split_at_the_first_colon() -> None:
    assert split_name("run:a:b") == ("run", "a:b")
