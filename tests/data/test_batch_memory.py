"""Memory of micro-batches is used again once nothing refers to it, and never before."""

import pickle

import torch
from torch.utils.data import DataLoader, Dataset

from distillkit.data.batch_memory import BatchMemory


def test_memory_is_given_again_once_no_view_is_left():
    memory = BatchMemory()
    tensor = memory.empty((4, 3))
    place = tensor.data_ptr()
    part = tensor[2:]  # a view keeps the memory
    del tensor
    part.fill_(7.0)
    other = memory.empty((4, 3)).fill_(1.0)
    assert other.data_ptr() != place
    assert torch.equal(part, torch.full((2, 3), 7.0))
    del part
    assert memory.empty((4, 3)).data_ptr() == place


def test_a_smaller_tensor_takes_part_of_larger_memory_and_a_larger_one_is_new():
    memory = BatchMemory()
    place = memory.empty((4, 3)).data_ptr()
    smaller = memory.empty((3, 3))
    assert (smaller.data_ptr(), smaller.shape, smaller.is_contiguous()) == (place, (3, 3), True)
    del smaller
    larger = memory.empty((5, 3)).fill_(2.0)
    assert torch.equal(larger, torch.full((5, 3), 2.0))
    del larger
    assert memory.empty((4, 3)).untyped_storage().nbytes() == 4 * 3 * 4


def test_tensors_are_float32_and_aligned_as_those_of_torch():
    tensor = BatchMemory().empty((2, 3, 5))
    assert (tensor.dtype, tensor.shape, tensor.data_ptr() % 64) == (torch.float32, (2, 3, 5), 0)


class Made(Dataset):
    def __init__(self):
        self.memory = BatchMemory()

    def __len__(self):
        return 4

    def __getitem__(self, index):
        tensor = self.memory.empty((2, 3)).fill_(index)
        return tensor, tensor.is_shared()


def test_in_a_loader_process_memory_is_shared_and_not_used_again():
    given = list(DataLoader(Made(), batch_size=None, num_workers=1))
    assert [shared for _, shared in given] == [True] * 4
    for index, (tensor, _) in enumerate(given):
        assert torch.equal(tensor, torch.full((2, 3), float(index)))


def test_it_is_handed_to_a_process_that_is_not_a_fork():
    memory = pickle.loads(pickle.dumps(BatchMemory()))  # noqa: S301
    assert memory.empty((2,)).shape == (2,)
