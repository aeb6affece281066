"""What glibc does with freed memory, by the number of page faults: each is a page that the system mapped again."""

import platform
import subprocess
import sys

import pytest

# Three arrays of 24 MB are freed together and allocated again. By default glibc returns part of the memory to the
# system: 956 faults measured by default, 0 when the memory is kept.
PROGRAM = """
import resource, sys
import numpy as np
from distillkit.compute import freed_memory

for name in sys.argv[1:]:
    getattr(freed_memory, name)()
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    arrays = [np.ones(3_000_000) for _ in range(3)]
    del arrays
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults)
"""


def faults(*functions: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM, *functions], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="has an effect with glibc only")
def test_freed_memory_is_reused_without_page_faults_until_it_is_returned():
    assert faults("keep_freed_memory") < 100
    assert faults("keep_freed_memory", "return_freed_memory") > 500
