"""Switched-off plugins are not imported, and listings and errors mention them."""

import json
import os
import sys
from pathlib import Path

import pytest

from distillkit.errors import PluginError, UnknownPluginError
from distillkit.plugin.registry import installed_plugins
from distillkit_cli.main import command_line
from tests import forked

LOSS = """
from distillkit import PluginSpec

def distillkit_losses():
    return [PluginSpec(name="acme-one", summary="a loss", factory="acme_loss:Loss")]
"""
FATAL = "raise RuntimeError('imported')\n"
OFF = "plugin 'one' of Acme.Losses 1.0 is switched off: --no-plugin or DISTILLKIT_DISABLE_PLUGINS names "


@pytest.fixture
def _acme(install):
    install("Acme.Losses", "1.0", entry_point="one", module="acme_loss", code=LOSS)
    install("other-losses", "2.0", entry_point="two", module="other_loss", code=FATAL)


@pytest.mark.usefixtures("_acme")
@pytest.mark.parametrize("name", ["Acme.Losses", "acme-losses", "ACME_losses", "one"])
def test_a_distribution_or_an_entry_point_is_switched_off(monkeypatch, name):
    monkeypatch.setenv("DISTILLKIT_DISABLE_PLUGINS", f" {name} ,")
    plugins = installed_plugins()
    assert [str(off) for off in plugins.switched_off] == [f"{OFF}'{name}'"]
    assert "acme_loss" not in sys.modules
    assert [broken.entry_point for broken in plugins.broken] == ["two"]
    with pytest.raises(UnknownPluginError) as caught:
        plugins.find("loss", "acme-one")
    assert str(caught.value).endswith(f"; {OFF}'{name}'")


@pytest.mark.usefixtures("_acme")
def test_all_switches_off_every_third_party_plugin(monkeypatch):
    monkeypatch.setenv("DISTILLKIT_DISABLE_PLUGINS", "all")
    plugins = installed_plugins()
    assert {off.entry_point for off in plugins.switched_off} == {"one", "two"}
    assert plugins.broken == ()
    assert plugins.find("loss", "hard").owner.distribution == "distillkit"


@pytest.mark.usefixtures("_acme")
def test_a_misspelt_name_is_refused_with_the_nearest(monkeypatch):
    monkeypatch.setenv("DISTILLKIT_DISABLE_PLUGINS", "one,other-loses")
    with pytest.raises(PluginError) as caught:
        installed_plugins()
    assert str(caught.value) == (
        "--no-plugin or DISTILLKIT_DISABLE_PLUGINS names an unknown plugin 'other-loses'; did you mean 'other-losses'? "
        "(known: Acme.Losses, all, one, other-losses, two)"
    )
    assert "acme_loss" not in sys.modules


@pytest.mark.parametrize("name", ["distillkit", "losses"])
def test_built_in_plugins_cannot_be_switched_off(monkeypatch, name):
    monkeypatch.setenv("DISTILLKIT_DISABLE_PLUGINS", name)
    with pytest.raises(PluginError) as caught:
        installed_plugins()
    assert str(caught.value) == (
        f"'{name}' is part of distillkit and cannot be switched off; --no-plugin and DISTILLKIT_DISABLE_PLUGINS "
        "accept third-party plugins only"
    )


@pytest.mark.usefixtures("_acme")
def test_the_option_adds_to_the_variable_for_one_command(monkeypatch, capsys):
    monkeypatch.setenv("DISTILLKIT_DISABLE_PLUGINS", "two")
    assert command_line(["--no-plugin", "one", "plugins", "--json"]) == 0
    listing = json.loads(capsys.readouterr().out)
    assert listing["switched_off"] == [
        {"entry_point": "one", "distribution": "Acme.Losses", "version": "1.0", "module": "acme_loss", "by": "one"},
        {"entry_point": "two", "distribution": "other-losses", "version": "2.0", "module": "other_loss", "by": "two"},
    ]
    assert listing["broken"] == []
    assert os.environ["DISTILLKIT_DISABLE_PLUGINS"] == "two"
    assert command_line(["--no-plugin", "all", "plugins"]) == 0
    assert capsys.readouterr().out.splitlines()[-2] == f"{OFF}'all'"
    assert command_line(["--no-plugin", "tow", "plugins"]) == 2
    assert capsys.readouterr().err.startswith(
        "error: --no-plugin or DISTILLKIT_DISABLE_PLUGINS names an unknown plugin"
    )


@pytest.mark.usefixtures("_acme")
def test_the_processes_of_a_run_inherit_it(tmp_path):
    """`--nproc` starts them with torch's launcher; importing the plugin would end a process."""
    run = "--quiet --no-plugin all run --nproc 2 --device cpu --set training.steps=2 --set data.workers=0 --out run"
    size = "--set student.width=16 --set student.depth=1 --set student.heads=2 --set training.threads=1"
    (path,) = {entry for entry in sys.path if entry.endswith("other-losses")}
    Path(path, "other_loss.py").write_text("import os; os._exit(9)\n")
    done = forked.run(
        ["-m", "distillkit_cli", *run.split(), *size.split()],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "result.json").is_file()
