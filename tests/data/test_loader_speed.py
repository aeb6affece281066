import pytest
import torch

from distillkit.compute import cpus
from distillkit.data import loader_speed
from distillkit.data.batches import TrainingData
from distillkit.data.loader_speed import MEASURED, WARM_UPS, LoaderSpeed, processes_for

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture
def many_cpus(monkeypatch):
    monkeypatch.setattr(loader_speed, "usable_cpus", lambda: 12)
    monkeypatch.setattr(cpus, "usable_cpus", lambda: 12)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)


@pytest.mark.parametrize(
    ("load_ms", "step_ms", "expected"),
    [(8, 10, 1), (10, 10, 2), (32, 10, 4), (33, 10, 5), (90, 10, 12), (1, 1000, 1), (5, 0, 12)],
)
def test_as_many_processes_as_keep_up_with_a_quarter_to_spare(many_cpus, load_ms, step_ms, expected):
    assert processes_for(load_ms, step_ms) == expected


def test_the_processes_of_a_machine_share_its_cpus(many_cpus, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert processes_for(90, 10) == 3


def test_the_first_steps_are_not_measured(many_cpus):
    speed = LoaderSpeed(None)
    assert speed.workers == 8
    for number in range(WARM_UPS + MEASURED):
        assert speed.facts == ({"workers": 8} if number else {})
        speed.add(20 if number >= WARM_UPS else 900, 10 if number >= WARM_UPS else 1)
    assert speed.facts == {"workers": 3, "load_ms": 20, "step_ms": 10}
    speed.add(900, 1)
    assert speed.workers == 3


def test_a_number_that_is_set_stays(many_cpus):
    speed = LoaderSpeed(5)
    for _ in range(20):
        speed.add(100, 1)
    assert speed.facts == {"workers": 5}


def test_jobs_are_neither_lost_nor_repeated_when_the_number_changes(many_cpus):
    speed, jobs = LoaderSpeed(None), iter(range(9))
    taken = []
    for job in speed.while_unchanged(jobs):
        taken.append(job)
        if job == 3:
            speed.workers = 2
    assert taken == [0, 1, 2, 3]
    assert list(speed.while_unchanged(jobs)) == [4, 5, 6, 7, 8]
    assert list(speed.while_unchanged(jobs)) == []


def test_another_number_of_processes_in_the_middle_changes_no_batch(opened, recipe, spec, monkeypatch):
    tables = {"augment": {"repeats": 3}, "training": {"batch_size": 32, "micro_batch_size": 8}}
    alone = TrainingData(opened(recipe(**tables)), recipe(**tables), spec=spec, device=CPU)
    tables["data"] = {"workers": None}
    monkeypatch.setattr(cpus, "usable_cpus", lambda: 1)
    monkeypatch.setattr(loader_speed, "processes_for", lambda _load_ms, _step_ms: 2)
    measured = TrainingData(opened(recipe(**tables)), recipe(**tables), spec=spec, device=CPU)
    for one, other in zip(alone.windows(0, 14), measured.windows(0, 14), strict=True):
        for batch, same in zip(one.micro_batches, other.micro_batches, strict=True):
            assert batch.keys == same.keys
            assert torch.equal(batch.images, same.images)
    assert measured.facts.keys() == {"workers", "load_ms", "step_ms"}
    assert measured.facts["workers"] == 2
