"""Ctrl-C in processes of their own: the first is noted, the second ends them, and who does not listen has its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from momafuse import preemption
from momafuse.preemption import Interrupted, Preempted, leave_if

BEGIN = """
import hashlib, os, signal, time
from momafuse.preemption import asked, heeding, listen
def press(number=signal.SIGINT):
    time.sleep(0.1)  # longer than a moment
    os.kill(os.getpid(), number)
    time.sleep(0.1)
"""


def ran(*lines: str, heard: Callable[..., object] | int = signal.default_int_handler, **env: str) -> tuple[int, str, str]:
    """Exit code, standard output and error of a program that was started where Ctrl-C is as `heard` says."""
    before = signal.signal(signal.SIGINT, heard)
    try:
        code = BEGIN + "\n".join(lines)
        plain = {k: v for k, v in os.environ.items() if k not in ("RANK", "TORCHELASTIC_RUN_ID")}
        done = subprocess.run([sys.executable, "-c", code], env=plain | env, capture_output=True, text=True, timeout=60)
    finally:
        signal.signal(signal.SIGINT, before)
    return done.returncode, done.stdout, done.stderr


FIRST = ("listen()", "with heeding('first'):", "    press()", "    print(asked(), flush=True)")
STOPPED = "momafuse: interrupted; the same command goes on from what is saved\n"


def test_the_first_is_noted_and_said():
    assert ran(*FIRST) == (0, "2\n", "momafuse: first\n")


def test_another_rank_than_the_first_says_nothing():
    assert ran(*FIRST, "press()", RANK="1") == (130, "2\n", "")


@pytest.mark.parametrize("where", ["    press()", "press()"])  # within, and on the way out
def test_the_second_ends_the_process(where):
    assert ran(*FIRST, where, "print('on it goes')") == (130, "2\n", f"momafuse: first\n{STOPPED}")


def test_the_second_does_not_wait_for_what_the_main_thread_is_at():
    """A function in C that runs for a day and returns to no handler of Python's, as a backward pass does."""
    later = "    threading.Timer(0.3, press).start()"
    work = "    hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)"
    code, _, said = ran("import threading", *FIRST, later, work, "print('on it goes')")
    assert (code, said) == (130, f"momafuse: first\n{STOPPED}")


def test_two_within_a_moment_are_one():
    both = "    os.kill(os.getpid(), signal.SIGINT); time.sleep(0.001); os.kill(os.getpid(), signal.SIGINT); time.sleep(0.1)"
    assert ran("listen()", "with heeding('first'):", both, "    print(asked())") == (0, "2\n", "momafuse: first\n")


def test_torchrun_hands_the_second_on_as_sigterm():
    more = ("    press(signal.SIGTERM)", "print('on it goes')")
    assert ran(*FIRST, *more, TORCHELASTIC_RUN_ID="x") == (130, "2\n", f"momafuse: first\n{STOPPED}")
    assert ran(*FIRST, *more) == (0, "2\non it goes\n", "momafuse: first\n")


def test_sigterm_alone_is_no_ctrl_c():
    lines = (
        "listen()",
        "with heeding('first'):",
        "    press(signal.SIGTERM)",
        "    press(signal.SIGTERM)",
        "    print(asked())",
    )
    assert ran(*lines, TORCHELASTIC_RUN_ID="x") == (0, "1\n", "")


def test_where_nobody_looks_it_ends_the_process_as_ever():
    for lines in (("listen()",), ("listen()", "with heeding('first'):", "    pass")):
        code, out, said = ran(*lines, "press()", "print('on it goes')")
        assert (code, out) == (-signal.SIGINT, "")
        assert said.rstrip().endswith("KeyboardInterrupt")


def test_who_does_not_listen_keeps_its_own():
    """A notebook, `momafuse.load`: nothing is taken over."""
    before = signal.getsignal(signal.SIGINT)
    with preemption.heeding("first"):
        assert signal.getsignal(signal.SIGINT) is before
    code, _, said = ran("with heeding('first'):", "    press()")
    assert code == -signal.SIGINT
    assert "first" not in said.splitlines()


def test_who_was_started_to_ignore_it_goes_on_ignoring_it():
    assert ran(*FIRST, heard=signal.SIG_IGN) == (0, "0\n", "")


def test_what_is_raised_says_who_asked():
    with pytest.raises(Preempted, match=r"^asked to leave: nothing new to save; the same command goes on$") as left:
        leave_if(preemption.BY_SIGNAL)
    assert left.value.code == 75
    with pytest.raises(Interrupted, match=r"^interrupted: step 3 is saved; the same command goes on$") as left:
        leave_if(preemption.BY_HAND, "step 3 is saved")
    assert left.value.code == 130
    leave_if(0)
