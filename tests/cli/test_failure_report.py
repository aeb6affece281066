"""Which of several failing processes reports the cause. One process acts as each rank in turn, on torch's store."""

import ast
import inspect

import pytest
from torch.distributed import TCPStore
from torch.distributed.elastic.rendezvous import RendezvousHandler

from distillkit.compute import distributed
from distillkit_cli import failure_report, launching, loopback
from distillkit_cli.failure_report import FailureReport, report_of, reports_traceback
from distillkit_cli.loopback import Loopback

CAUSE = FailureReport("no licence", 2)
CONSEQUENCE = FailureReport("the others are lost", 1)


@pytest.fixture
def as_rank(monkeypatch):
    """`as_rank(1)`: act as rank 1 of two processes of one torchrun agent."""
    monkeypatch.setattr(failure_report, "REPORT_TIMEOUT_S", 0.1)
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    settings = {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)

    def act_as(rank, attempt=0):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(attempt))

    yield act_as
    del store


def test_rank_0_reports_its_failure_and_rank_1_is_silent(as_rank):
    as_rank(0)
    assert report_of(CAUSE, is_consequence=False) == CAUSE
    as_rank(1)
    assert report_of(CAUSE, is_consequence=False) == FailureReport("", CAUSE.code)
    assert report_of(CONSEQUENCE, is_consequence=True) == FailureReport("", CAUSE.code)


def test_rank_1_reports_if_rank_0_is_busy_and_only_once(as_rank):
    as_rank(1)
    assert report_of(CAUSE, is_consequence=False) == FailureReport("process 1 of 2: no licence", 2)
    as_rank(0)
    assert report_of(CONSEQUENCE, is_consequence=True) == FailureReport("", 2)
    assert report_of(FailureReport("another thing", 2), is_consequence=False) == FailureReport("", 2)


def test_rank_0_that_lost_the_others_reports_their_cause_and_exit_code(as_rank, monkeypatch):
    as_rank(1)
    failure_report._store().compare_set("cause", "", '["process 1 of 2: no licence", 2]')
    as_rank(0)
    assert report_of(CONSEQUENCE, is_consequence=True) == FailureReport("process 1 of 2: no licence", 2)


@pytest.mark.parametrize(
    "text", ["", "[", "[" * 100_000, "null", '["a"]', "[1, 2]", '["a", "2"]', '["a", 0]', '["a", 256]', '["a", 2, 3]']
)
def test_anything_else_in_the_store_is_not_a_cause(as_rank, text):
    """Promise: other users of a machine cannot make the processes of a run execute code.

    Attempt: another user who writes to the store of `--nproc`, on the loopback address.
    """
    as_rank(0)
    failure_report._store().set("cause", text)
    assert report_of(CONSEQUENCE, is_consequence=True) == CONSEQUENCE


def test_nothing_that_processes_exchange_is_unpickled():
    """Promise: other users of a machine cannot make the processes of a run execute code.

    Attempt: another user who connects to a process of `--nproc` and sends a pickle.
    """
    sources = [inspect.getsource(module) for module in (failure_report, loopback, launching, distributed)]
    names = {
        node.attr if isinstance(node, ast.Attribute) else node.id
        for source in sources
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute | ast.Name)
    }
    assert [name for name in names if "pickle" in name or name.endswith(("_object", "_object_list"))] == []
    assert Loopback.__mro__[1] is RendezvousHandler  # torch's dynamic rendezvous unpickles its state


def test_a_killed_process_leaves_no_cause(as_rank):
    as_rank(0)
    assert report_of(CONSEQUENCE, is_consequence=True) == CONSEQUENCE


def test_only_one_process_prints_a_traceback(as_rank):
    as_rank(1)
    assert reports_traceback()
    as_rank(0)
    assert not reports_traceback()
    assert report_of(CONSEQUENCE, is_consequence=True) == FailureReport("", CONSEQUENCE.code)


def test_restarted_processes_report_again(as_rank):
    as_rank(0)
    assert report_of(CAUSE, is_consequence=False) == CAUSE
    as_rank(0, attempt=1)
    assert report_of(CAUSE, is_consequence=False) == CAUSE


def test_without_a_store_every_process_reports(as_rank, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "False")
    for rank in (0, 1):
        as_rank(rank)
        assert report_of(CAUSE, is_consequence=False) == CAUSE
        assert reports_traceback()


def test_a_single_process_does_not_wait(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert report_of(CAUSE, is_consequence=False) == CAUSE
    assert reports_traceback()
