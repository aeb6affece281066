"""`distillkit plugins` with third-party plugins."""

import json
import re
import sys

import pytest

from distillkit.plugin.registry import installed_plugins
from distillkit_cli.plugins import OURS, REMEDY, unregistered_catalogs

PLUGIN = """
from distillkit import PluginSpec, Signal

def distillkit_losses():
    return [
        PluginSpec(
            name="acme-loss",
            summary="a third-party loss",
            factory="nowhere:Loss",
            signals=frozenset({Signal.LOGITS, Signal.EMBEDDING}),
            argument="layer",
        )
    ]

def distillkit_teachers():
    return [PluginSpec(name="acme", summary="a teacher", factory="nowhere:Model", licence="cc-by-nc-4.0")]
"""


@pytest.fixture
def _third_party(tmp_path, monkeypatch):
    """An installed distribution with one working and one broken plugin."""
    (tmp_path / "acme_plugin.py").write_text(PLUGIN, encoding="utf-8")
    metadata = tmp_path / "acme_distill-2.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-distill\nVersion: 2.0\n", encoding="utf-8")
    (metadata / "entry_points.txt").write_text(
        "[distillkit]\nacme = acme_plugin\nacme-old = acme_plugin_of_last_year\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("acme_plugin", None)


BROKEN = (
    "plugin 'acme-old' of acme-distill 2.0 is broken: ModuleNotFoundError: No module named 'acme_plugin_of_last_year'"
)


@pytest.mark.usefixtures("_third_party")
def test_third_party_plugins_are_listed(distillkit, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    code, out, err = distillkit("plugins")
    assert (code, err) == (0, "")
    losses = out.partition("Losses\n")[2].partition("\n\n")[0].splitlines()
    assert losses[0].split() == ["name", "summary", "signals", "licence", "owner"]
    assert re.split("  +", losses[1]) == [
        "acme-loss:<layer>",
        "a third-party loss",
        "embedding, logits",
        "acme-distill 2.0",
    ]
    assert out.splitlines()[-1] == BROKEN


@pytest.mark.usefixtures("_third_party")
def test_list_as_json(distillkit):
    code, out, err = distillkit("plugins", "--json")
    assert (code, err) == (0, "")
    listing = json.loads(out)
    owner = {"distribution": "acme-distill", "version": "2.0", "module": "acme_plugin"}
    rows = {(row["role"], row["name"]): row for row in listing["plugins"]}
    assert rows["loss", "acme-loss:<layer>"] == {
        "role": "loss",
        "name": "acme-loss:<layer>",
        "summary": "a third-party loss",
        "signals": ["embedding", "logits"],
        "licence": None,
        **owner,
    }
    assert rows["teacher", "acme"]["licence"] == "cc-by-nc-4.0"
    assert listing["broken"] == [
        {
            "entry_point": "acme-old",
            **owner,
            "module": "acme_plugin_of_last_year",
            "reason": "ModuleNotFoundError: No module named 'acme_plugin_of_last_year'",
        }
    ]
    assert listing["unregistered"] == []


def test_every_installed_plugin_is_listed(distillkit):
    _, out, _ = distillkit("plugins")
    registry = installed_plugins()
    assert registry.broken == ()
    for role in ("teacher", "student", "loss", "dataset", "tracker", "evaluator", "exporter", "runtime"):
        for plugin in registry.listing(role):
            assert f"\n{plugin.spec.shown_name} " in out


def test_catalogue_without_an_entry_point_is_reported(distillkit, monkeypatch, tmp_path):
    package = tmp_path / "acme_builtins" / "losses"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "catalog.py").write_text("raise ImportError('must not be imported')", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    assert unregistered_catalogs(["acme_builtins", "no_such_package"]) == ["acme_builtins.losses.catalog"]

    monkeypatch.setattr("distillkit_cli.plugins.OURS", ("acme_builtins",))
    _, out, _ = distillkit("plugins")
    assert out.splitlines()[-1] == f"acme_builtins.losses.catalog exists but has no entry point; {REMEDY}"


def test_built_in_catalogues_have_entry_points():
    assert unregistered_catalogs(OURS) == []
