"""Weights and data that cannot be downloaded: one sentence before torch is imported."""

import subprocess
import sys

import pytest
from huggingface_hub import constants
from timm.models import get_pretrained_cfg

from distillkit.errors import MissingFileError
from distillkit.planning import missing_files
from distillkit.planning.missing_files import require_downloads
from distillkit.planning.names import find_plugins
from distillkit.recipe.files import load_recipe
from distillkit_plugins.datasets.imagenette_files import MD5, URL
from distillkit_plugins.teachers.known import KNOWN

WEIGHTS = (
    "the weights of teacher 'regnety16gf' (from https://huggingface.co/timm/regnety_160.deit_in1k/resolve/main/"
    "model.safetensors; give the file with --teacher-weights)"
)


@pytest.fixture(autouse=True)
def empty_machine(tmp_path, monkeypatch):
    """No data, no weights, and no network."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(missing_files, "is_reachable", lambda _: False)
    return tmp_path


def data_at(folder, reason=", the default for teacher 'regnety16gf', which knows its classes"):
    return f"the data set 'imagenette'{reason} (from {URL}; put the archive into {folder}, or give --data DIR)"


def check(plugins, *, loads_weights=True, **options):
    recipe = load_recipe(**options)
    require_downloads(recipe, find_plugins(recipe, plugins), plugins, loads_weights=loads_weights)


def message(plugins, **options):
    with pytest.raises(MissingFileError) as error:
        check(plugins, **options)
    return str(error.value)


@pytest.mark.parametrize("loads_weights", [True, False])
def test_missing_weights_and_data_are_one_sentence(loads_weights, plugins, empty_machine):
    folder = empty_machine / "share" / "distillkit" / "imagenette"
    assert message(plugins, teacher="regnety16gf", loss="hard", loads_weights=loads_weights) == (
        f"huggingface.co and s3.amazonaws.com cannot be reached, and this machine lacks {WEIGHTS} and {data_at(folder)}"
    )


def test_with_other_data_only_the_weights_are_missing(plugins):
    options = {"teacher": "regnety16gf", "loss": "hard", "data": "digits"}
    assert message(plugins, **options) == f"huggingface.co cannot be reached, and this machine lacks {WEIGHTS}"
    check(plugins, loads_weights=False, **options)


def test_with_a_weight_file_only_the_data_is_missing(plugins, empty_machine):
    options = {"teacher": "regnety16gf", "loss": "hard", "teacher_weights": "file.pth", "data.root": str(empty_machine)}
    assert message(plugins, **options) == (
        f"s3.amazonaws.com cannot be reached, and this machine lacks {data_at(empty_machine)}"
    )


def test_an_archive_with_another_md5_is_named(plugins, empty_machine):
    (empty_machine / "imagenette2-160.tgz").write_bytes(b"a part of it")
    assert message(plugins, data="imagenette", loss="ce", **{"data.root": str(empty_machine)}) == (
        f"s3.amazonaws.com cannot be reached, and this machine lacks the data set 'imagenette' (from {URL}; "
        f"{empty_machine / 'imagenette2-160.tgz'} does not match the MD5 {MD5}; replace it, or give --data DIR)"
    )


def test_data_that_was_named_has_no_reason(plugins, empty_machine):
    folder = empty_machine / "share" / "distillkit" / "imagenette"
    assert message(plugins, data="imagenette", loss="ce") == (
        f"s3.amazonaws.com cannot be reached, and this machine lacks {data_at(folder, '')}"
    )


def test_what_can_be_downloaded_or_is_there_is_no_error(plugins, empty_machine, monkeypatch):
    (empty_machine / "imagenette2-160").mkdir()
    check(plugins, teacher="vit-b", loss="hard", teacher_weights="file.pth", **{"data.root": str(empty_machine)})
    check(plugins, teacher="mugs-vits16", loss="attndistill", data="digits")  # its own error says where its files are
    check(plugins, teacher="regnety16gf", loss="ce", data="digits")
    monkeypatch.setattr(missing_files, "is_reachable", lambda _: True)
    check(plugins, teacher="regnety16gf", loss="hard")


def test_the_repositories_of_known_teachers_have_the_names_of_timms_models():
    downloaded = [known.network for known in KNOWN.values() if known.file_source is None]
    assert [get_pretrained_cfg(name).hf_hub_id for name in downloaded] == [f"timm/{name}" for name in downloaded]


def test_the_error_comes_before_torch_is_imported(empty_machine):
    code = (
        "import sys; from distillkit_cli.main import command_line; "
        "code = command_line(['run', '--teacher', 'regnety16gf', '--loss', 'hard']); "
        "print(code, 'torch' in sys.modules)"
    )
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(empty_machine), "XDG_DATA_HOME": str(empty_machine)}
    # A port that is closed stands for the machine without a network.
    code = f"import distillkit_plugins.datasets.imagenette_files as files; files.URL = 'http://127.0.0.1:9/a'; {code}"
    import os

    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=empty_machine,
        env=os.environ | environment,
    )
    assert done.stdout.split() == ["2", "False"]
    assert done.stderr.startswith("error: huggingface.co and 127.0.0.1 cannot be reached, and this machine lacks the")
    assert done.stderr.count("\n") == 1
    assert list(empty_machine.iterdir()) == []
