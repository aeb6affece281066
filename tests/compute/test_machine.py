"""Description of the machine: GPUs, processor, versions."""

from distillkit.compute.machine import describe_machine, gpus, machine_line, versions_of
from distillkit.version import __version__


def test_gpus_are_read_from_nvidia_smi_with_none_for_unknown_values():
    line = "NVIDIA H200, 580.65, 143771, 345, 1980, [N/A], 31, 0x0000000000000001, Enabled\n"
    (gpu,) = gpus(lambda command: line)
    assert (gpu.name, gpu.sm_mhz, gpu.max_sm_mhz, gpu.power_w) == ("NVIDIA H200", 345, 1980, None)
    assert gpus(lambda command: None) == ()
    assert gpus(lambda command: "Failed to initialize NVML\n") == ()


def test_a_package_that_is_not_installed_has_no_version():
    found = versions_of(["numpy", "no-such-package"])
    assert list(found) == ["distillkit", "python", "numpy"]
    assert found["distillkit"] == __version__


def test_the_machine_in_one_line():
    here = describe_machine(()).model_copy(
        update={"processor": "Zen 5", "cpus": 2, "cores": 1, "governor": None, "load_average": 0.5, "gpus": ()}
    )
    assert machine_line(here) == f"Zen 5, 2 CPUs on 1 cores; load average 0.50; {here.system}"
