"""torch.compile neither reads nor writes code in a folder that other users can make."""

import os
import stat
import tempfile
from pathlib import Path

import pytest

from distillkit.compute import compiler_cache
from distillkit.compute.compiler_cache import VARIABLE, use_private_cache


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setattr(compiler_cache, "user_cache", lambda: tmp_path / "cache")
    monkeypatch.delenv(VARIABLE, raising=False)
    return tmp_path / "cache" / "torch-compile"


@pytest.mark.parametrize("torchs_own", [True, False])
def test_compiled_code_is_kept_in_a_folder_of_the_user(home, monkeypatch, torchs_own):
    """Promise: Other users of a machine cannot make the processes of a run execute code.

    Attempt: Another user who makes `/tmp/torchinductor_<name>` first, from which torch.compile loads code.
    """
    if torchs_own:  # as torch sets it when it is imported
        monkeypatch.setenv(VARIABLE, str(Path(tempfile.gettempdir(), "torchinductor_alice")))
    use_private_cache()
    assert os.environ[VARIABLE] == str(home)
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


def test_a_folder_that_the_user_has_set_stays(home, monkeypatch, tmp_path):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "torchinductor_alice"))
    use_private_cache()
    assert os.environ[VARIABLE] == str(tmp_path / "torchinductor_alice")
    assert not home.exists()


def test_without_a_folder_of_the_user_torch_chooses(home):
    home.parent.write_text("a file in its place")
    use_private_cache()
    assert VARIABLE not in os.environ
