"""Paths that begin with a home directory."""

from distillkit.storage.user_dirs import expanded


def test_the_home_of_an_unknown_user_stays_as_written(monkeypatch):
    monkeypatch.setenv("HOME", "/users/ada")
    paths = [expanded(path).as_posix() for path in ("~/images", "~no-such-user/images", "images")]
    assert paths == ["/users/ada/images", "~no-such-user/images", "images"]
