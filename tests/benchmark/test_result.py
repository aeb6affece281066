"""Results of a benchmark: ratios, table, Markdown, picture."""

import json

import pytest

from distillkit.benchmark.chart import chart
from distillkit.benchmark.result import BenchResult, LoaderResult, arm_results
from distillkit.compute.machine import MachineCard

ROUNDS = {"student": [9.0, 27.0, 18.0], "bank": [10.0, 30.0, 20.0], "timm-bf16": [50.0, 150.0, 110.0]}
CONDITIONS = {
    "teacher": "regnety16gf",
    "student": "deit-ti",
    "loss": "hard",
    "image_size": "224x224",
    "batch": 16,
    "precision": "bfloat16",
    "device": "cpu",
    "threads": 2,
    "cuda": None,
    "peak_precision": "bfloat16",
}
GFLOP = {"student": 2.0, "teacher": 4.0}


def result_of(load=0.2, step_bytes=None, skipped=None):
    here = MachineCard(
        processor="Zen 5",
        cpus=2,
        cores=2,
        memory_bytes=None,
        governor=None,
        boost=None,
        load_average=load,
        system="Linux x86_64",
        software={"torch": "2.15.0"},
        gpus=(),
    )
    reference, arms = arm_results(ROUNDS, dict.fromkeys(ROUNDS, step_bytes), GFLOP)
    loader = LoaderResult("bank", 2, 25.0)
    return BenchResult("2026-01-01T00:00:00+00:00", here, CONDITIONS, reference, 1000.0, arms, loader, skipped or {})


def test_ratios_are_taken_within_a_round_so_that_a_slow_round_cancels():
    reference, (student, bank, timm) = arm_results(ROUNDS, dict.fromkeys(ROUNDS), GFLOP)
    assert reference == "bank"
    assert (student.ms_per_image, bank.ms_per_image, timm.ms_per_image) == (18.0, 20.0, 110.0)
    assert (student.ratio.low, student.ratio.median, student.ratio.high) == pytest.approx((0.9, 0.9, 0.9))
    assert (timm.ratio.low, timm.ratio.median, timm.ratio.high) == (5.0, 5.0, 5.5)
    assert (bank.images_per_s, timm.ratio.rounds) == (50.0, 3)


def test_the_arithmetic_of_a_step_is_three_forwards_of_the_student_and_one_of_the_teacher():
    _, arms = arm_results(ROUNDS, dict.fromkeys(ROUNDS), GFLOP)
    assert [arm.gflop_per_image for arm in arms] == [6.0, 6.0, 10.0]
    assert arms[1].share_of(600.0) == pytest.approx(0.5)  # 50 images a second, 6 GFLOP each


@pytest.mark.parametrize(("arms", "reference"), [(("timm", "student", "live"), "live"), (("timm", "minimal"), "timm")])
def test_the_reference_without_a_bank(arms, reference):
    assert arm_results({name: [1.0, 2.0] for name in arms}, dict.fromkeys(arms), GFLOP)[0] == reference


def test_the_page():
    page = result_of(load=3.0, skipped={"deit": "the authors' loss | needs two heads"}).markdown()
    assert (
        page
        == """\
# Speed of distillation steps

regnety16gf teaches deit-ti (hard): 224x224 px, batch 16, bfloat16, cpu, 2 threads; random weights.

Measured 2026-01-01T00:00:00+00:00 on Zen 5, 2 CPUs on 2 cores; load average 3.00; Linux x86_64; torch 2.15.0.

Medians of 3 interleaved rounds. A ratio is that of the times within a round, with the 95 % interval of its median.

| arm | ms per image | images/s | share of peak | time, ratio to bank |
| --- | ---: | ---: | ---: | ---: |
| student | 18* | 55.6 | 33% | 0.90 (0.90 to 0.90) |
| bank | 20* | 50.0 | 30% | 1 |
| timm-bf16 | 110* | 9.1 | 9% | 5.00 (5.00 to 5.50) |
| bank with loader | 25* | 40.0 |  |  |

- student: distillkit on labels alone, without a teacher
- bank: distillkit, with targets from a filled bank
- timm-bf16: timm.task under bf16 autocast
- &ast; the load average was 3.00 on 2 CPUs before the measurement
- not measured: deit: the authors' loss \\| needs two heads
- share of peak: the arithmetic of an arm, relative to 1,000 GFLOP/s, the fastest matrix product measured here, in \
bfloat16
- with loader: 2 loader processes decode and augment generated JPEG images; the other rows have their batches in memory
"""
    )


def test_gpu_memory_is_a_column_where_it_is_known():
    result = result_of(step_bytes=3 * 2**20)
    assert result.headings()[-1] == "step MiB"
    assert [row[-1] for row in result.rows()] == ["3", "3", "3", ""]
    assert {len(row) for row in result.rows()} == {len(result.headings())}


def test_the_result_is_plain_data():
    found = json.loads(json.dumps(result_of(load=3.0).as_dict()))
    assert found["arms"][1]["ratio"] == {"median": 1.0, "low": 1.0, "high": 1.0, "rounds": 3}
    assert found["arms"][0]["rounds_ms"] == ROUNDS["student"]
    assert (found["reference"], found["batch"], found["loader"]["ms_per_image"]) == ("bank", 16, 25.0)
    assert found["caveats"] == ["the load average was 3.00 on 2 CPUs before the measurement"]


def test_the_picture_is_a_png():
    assert chart(result_of()).startswith(b"\x89PNG")
