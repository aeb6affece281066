"""`is_stream`: streams and indexed sources."""

import pytest

from distillkit.data.sources import is_stream


class Shards:
    name, class_names, shards = "shards", ("cat", "dog"), 2

    def __len__(self):
        return 0

    def read(self, number):
        return iter(())


class Wrapped:
    """Forwards every attribute to the source inside."""

    def __init__(self, inner):
        self.inner = inner

    def __len__(self):
        return len(self.inner)

    def __getattr__(self, name):
        return getattr(self.inner, name)


def test_a_stream_is_recognised_even_if_wrapped():
    assert is_stream(Shards())
    assert is_stream(Wrapped(Shards()))
    assert not is_stream(None)


@pytest.mark.parametrize("member", ["name", "class_names", "shards", "__len__", "read"])
def test_an_object_without_one_of_the_members_is_no_stream(monkeypatch, member):
    monkeypatch.delattr(Shards, member)
    assert not is_stream(Shards())
