"""Numbers of usable CPUs and physical cores."""

import os
import subprocess
import sys

import psutil
import pytest

from distillkit.compute import cpus


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no CPU affinity")
def test_a_pinned_process_counts_only_its_cpus():
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    code += "from distillkit.compute.cpus import physical_cores, usable_cpus; print(usable_cpus(), physical_cores())"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "1 1\n"


@pytest.mark.parametrize(("usable", "listed", "cores"), [(8, 4, 4), (2, 2, 2), (2, 64, 2), (3, None, 3)])
def test_physical_cores_are_at_most_the_usable_cpus(monkeypatch, usable, listed, cores):
    monkeypatch.setattr(cpus, "usable_cpus", lambda: usable)
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: None if logical else listed)
    assert cpus.physical_cores() == cores
