"""A loss that needs the index of each image is refused for a stream."""

from types import SimpleNamespace
from typing import Any

import pytest

from distillkit.errors import DataError
from distillkit.planning.preparation import check_index


class Endless:
    name, class_names, shards = "shards.tar", None, 1

    def __len__(self) -> int:
        return 10

    def read(self, number: int) -> Any:
        raise NotImplementedError


def test_a_loss_that_needs_the_index_is_refused_for_a_stream() -> None:
    losses: dict[str, Any] = {
        "hard": SimpleNamespace(loss=SimpleNamespace()),
        "crd": SimpleNamespace(loss=SimpleNamespace(needs_index=True)),
    }
    with pytest.raises(DataError) as refusal:
        check_index(losses, Endless())
    assert str(refusal.value) == (
        "loss 'crd' needs images with an index, and 'shards.tar' is a stream; name a folder or an indexed data set"
    )
    del losses["crd"]
    check_index(losses, Endless())
