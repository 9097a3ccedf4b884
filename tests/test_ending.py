"""What each rank says when something goes wrong, with ranks as threads over one store."""

from __future__ import annotations

import errno
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch.distributed as dist

from momafuse import ending as module
from momafuse.ending import ending, lost
from momafuse.errors import RankError, UserError
from momafuse.preemption import Interrupted, Preempted

CLOSED = "[/p/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:39. This is typically caused by a crash."


def ends(*errors: BaseException | None, shared: bool = False) -> list[RankError]:
    """How ranks end that raised these; None: one that goes on."""
    store = dist.HashStore()
    with ThreadPoolExecutor(len(errors)) as ranks:
        failed = [(r, e) for r, e in enumerate(errors) if e is not None]
        ended = [ranks.submit(ending, e, store, r, len(errors), shared=shared) for r, e in failed]
        return [e.result() for e in ended]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE", 0.3)


def test_the_same_mistake_is_said_by_the_main_rank():
    ended = ends(*(UserError("a=1: no;\nb") for _ in range(3)))
    assert [(e.text, e.code) for e in ended] == [("momafuse: error: a=1: no; b", 2), ("", 2), ("", 2)]
    assert [e.cause for e in ended] == ["a=1: no; b", "", ""]


def test_what_the_main_rank_told_the_others_needs_no_waiting(monkeypatch):
    monkeypatch.setattr(module, "GRACE", 1e9)
    assert [e.text for e in ends(None, UserError("a=1: no"), shared=True)] == [""]


def test_different_mistakes_are_said_by_each():
    ended = ends(UserError("a=1: no"), UserError("a=2: no"))
    assert [e.text for e in ended] == ["momafuse: error (rank 0): a=1: no", "momafuse: error (rank 1): a=2: no"]


def test_a_full_disk_of_one_rank():
    (ended,) = ends(None, OSError(errno.ENOSPC, "No space left on device", "/data"))
    assert ended.text.startswith("momafuse: error (rank 1): /data: No space left on device; make room")
    assert ended.code == 2


def test_a_bug_is_a_traceback_with_the_rank():
    (alone,) = ends(None, KeyError("x"))
    assert (alone.text, alone.code, alone.cause) == ("[rank 1] KeyError: 'x'", 1, "KeyError: 'x'")
    main, other = ends(KeyError("x"), KeyError("x"))
    assert main.text == "[rank 0] KeyError: 'x'\nthe same on all ranks"
    assert other.text == ""


def test_who_lost_a_rank_names_its_error_or_says_how_it_noticed():
    _, second = ends(ValueError("bad"), None, RuntimeError(CLOSED))
    assert second.text.startswith("momafuse: rank 2: lost another rank (")
    assert (second.code, second.cause) == (1, "")
    store = dist.HashStore()
    ending(ValueError("bad"), store, 1, 3, shared=False)
    told = ending(RuntimeError(CLOSED), store, 2, 3, shared=False)
    assert told.text.startswith("momafuse: rank 2: lost another rank (rank 1: ValueError: bad); the same command")
    alone = ending(RuntimeError(CLOSED), None, 2, 3, shared=False)
    assert "(Connection closed by peer [127.0.0.1]:39)" in alone.text


def test_a_store_that_does_not_answer_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(module, "GRACE", 0.05)

    def silence(*args: object) -> None:
        time.sleep(3)
        raise RuntimeError("timed out")

    silent = SimpleNamespace(check=silence, compare_set=silence)
    begin = time.monotonic()
    assert "Connection closed" in ending(RuntimeError(CLOSED), silent, 2, 3, shared=False).text
    assert ending(UserError("a=1: no"), silent, 2, 3, shared=False).text == "momafuse: error (rank 2): a=1: no"
    assert time.monotonic() - begin < 2


def test_a_lost_rank_is_known_in_whatever_it_is_wrapped():
    wrapped = UserError("checkpoint: cannot be written")
    wrapped.__cause__ = RuntimeError(CLOSED)
    assert lost(wrapped) == "Connection closed by peer [127.0.0.1]:39"
    assert lost(dist.DistBackendError("NCCL error\nmore")) == "NCCL error"
    assert lost(RuntimeError("shape")) is None


def test_who_pressed_ctrl_c_and_lost_a_rank_ends_by_it(monkeypatch):
    """The rank that is gone had not begun to look."""
    monkeypatch.setattr(module, "asked", lambda: module.BY_HAND)
    assert [(e.text, e.code) for e in ends(RuntimeError(CLOSED), RuntimeError(CLOSED))] == [(module.STOPPED, 130), ("", 130)]
    assert ends(RuntimeError("shape"))[0].code == 1


def test_who_was_asked_to_leave_says_it_once():
    assert [(e.text, e.code) for e in ends(Preempted(), Preempted())] == [(f"momafuse: {Preempted()}", 75), ("", 75)]
    assert [(e.text, e.code) for e in ends(Interrupted(), Interrupted())] == [(f"momafuse: {Interrupted()}", 130), ("", 130)]


def test_ctrl_c_is_said_once():
    assert [(e.text, e.code) for e in ends(KeyboardInterrupt(), KeyboardInterrupt())] == [(module.STOPPED, 130), ("", 130)]
