"""A plugin with a faulty loss, installed on the path as pip would."""

import shutil
from pathlib import Path

import pytest

FAULTY = Path(__file__).parent / "plugins/training_faulty.py"


@pytest.fixture
def faulty(tmp_path, monkeypatch):
    """The folder in which the plugin is installed; it is on the path of this process."""
    site = tmp_path / "site"
    metadata = site / "training_faulty-0.1.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: training-faulty\nVersion: 0.1\n")
    (metadata / "entry_points.txt").write_text("[distillkit]\ntraining-faulty = training_faulty\n")
    shutil.copy(FAULTY, site)
    monkeypatch.syspath_prepend(site)
    return site
