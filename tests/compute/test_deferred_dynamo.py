import subprocess
import sys

PROGRAM = """
import sys
import torch
from distillkit.compute.deferred_dynamo import Deferred, deferred_dynamo
{body}
"""


def output_of(body):
    """What a program prints that imports torch first."""
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(body=body)], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_an_operation_on_the_meta_device_does_not_import_the_compiler():
    body = """
with deferred_dynamo():
    from torchvision.ops import roi_align
    shape = torch.nn.functional.gelu(torch.empty(2, 3, device="meta")).shape
print(list(shape), "torch._dynamo" in sys.modules)
print(roi_align(torch.ones(1, 1, 4, 4), torch.tensor([[0.0, 0, 0, 2, 2]]), 1).tolist())
print(torch.compile(lambda x: x + 1, backend="eager")(torch.zeros(1)).tolist(), torch._dynamo.__spec__ is not None)
"""
    assert output_of(body) == ["[2, 3] False", "[[[[1.0]]]]", "[1.0] True"]


def test_any_other_use_imports_the_real_modules():
    body = """
with deferred_dynamo():
    import torch._dynamo
    print(type(torch._dynamo) is Deferred)
    print(torch._dynamo.config.cache_size_limit > 0)
    import torch._dynamo
    print(type(sys.modules["torch._dynamo"]) is Deferred)
    print(torch.compile(lambda x: x + 1, backend="eager")(torch.zeros(1)).tolist())
"""
    assert output_of(body) == ["True", "True", "False", "[1.0]"]


def test_modules_that_are_imported_already_stay():
    body = """
import torch._dynamo
before = sys.modules["torch._dynamo"]
with deferred_dynamo():
    print(sys.modules["torch._dynamo"] is before)
print(sys.modules["torch._dynamo"] is before)
"""
    assert output_of(body) == ["True", "True"]
