"""What holds for every test: hypothesis repeats itself, and tests that need a GPU are skipped where there is none."""

import hypothesis
import pytest

# Two test runs of one commit must agree, and a busy machine must not fail a test for being slow.
hypothesis.settings.register_profile("distillkit", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("distillkit")


def pytest_collection_modifyitems(items):
    needing_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not needing_gpu:
        return
    import torch

    if torch.cuda.is_available():
        return
    for item in needing_gpu:
        item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
