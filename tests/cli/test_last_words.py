"""Which of several processes that fail says why. The store is torch's; the processes are played one after the other."""

import pytest
from torch.distributed import TCPStore

from distillkit_cli import last_words
from distillkit_cli.last_words import LastWord, last_word, speaks_at_once

CAUSE = LastWord("no licence", 2)
ECHO = LastWord("the others are lost", 1)


@pytest.fixture
def as_rank(monkeypatch):
    """`as_rank(1)`: be that one of two processes of an agent."""
    monkeypatch.setattr(last_words, "PATIENCE_S", 0.1)
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    settings = {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)

    def be(rank, attempt=0):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(attempt))

    yield be
    del store


def test_the_first_process_speaks_for_itself_and_the_other_is_silent(as_rank):
    as_rank(0)
    assert last_word(CAUSE, is_echo=False) == CAUSE
    as_rank(1)
    assert last_word(CAUSE, is_echo=False) == LastWord("", CAUSE.code)
    assert last_word(ECHO, is_echo=True) == LastWord("", CAUSE.code)


def test_another_process_speaks_where_the_first_is_busy_and_is_not_repeated(as_rank):
    as_rank(1)
    assert last_word(CAUSE, is_echo=False) == LastWord("process 1 of 2: no licence", 2)
    as_rank(0)
    assert last_word(ECHO, is_echo=True) == LastWord("", 2)
    assert last_word(LastWord("another thing", 2), is_echo=False) == LastWord("", 2)


def test_the_first_process_that_lost_the_others_says_their_cause_with_its_code(as_rank, monkeypatch):
    as_rank(1)
    last_words._store().compare_set("cause", "", '["process 1 of 2: no licence", 2]')
    as_rank(0)
    assert last_word(ECHO, is_echo=True) == LastWord("process 1 of 2: no licence", 2)


def test_nobody_knows_the_cause_of_a_process_that_was_killed(as_rank):
    as_rank(0)
    assert last_word(ECHO, is_echo=True) == ECHO


def test_one_traceback_is_enough(as_rank):
    as_rank(1)
    assert speaks_at_once()
    as_rank(0)
    assert not speaks_at_once()
    assert last_word(ECHO, is_echo=True) == LastWord("", ECHO.code)


def test_processes_that_are_started_again_speak_again(as_rank):
    as_rank(0)
    assert last_word(CAUSE, is_echo=False) == CAUSE
    as_rank(0, attempt=1)
    assert last_word(CAUSE, is_echo=False) == CAUSE


def test_where_processes_cannot_meet_everybody_speaks(as_rank, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "False")
    for rank in (0, 1):
        as_rank(rank)
        assert last_word(CAUSE, is_echo=False) == CAUSE
        assert speaks_at_once()


def test_alone_nothing_is_waited_for(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert last_word(CAUSE, is_echo=False) == CAUSE
    assert speaks_at_once()
