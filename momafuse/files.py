"""Files that are whole or not there, and folders that one process writes at a time."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from momafuse.errors import UserError


def write_aside(path: Path, text: str) -> None:
    """Write a small file so that a reader sees the old or the new one, never a part."""
    aside = path.with_name(f".{path.name}.aside")
    with aside.open("w", encoding="utf-8") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())
    aside.replace(path)


@contextmanager
def locked(lock: Path, *, wait: bool = True, inherited: bool = False) -> Iterator[bool]:
    """Hold a lock file, which is there only as long; whether it could be had. The system frees it with the process.

    `inherited`: processes that are started within (with close_fds=False) hold it too, and on if this one is killed.
    """
    while True:
        with lock.open("w") as file:
            os.set_inheritable(file.fileno(), inherited)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            if not (lock.exists() and os.fstat(file.fileno()).st_ino == lock.stat().st_ino):
                continue  # whoever held it before took it away
            try:
                yield True
            finally:
                lock.unlink(missing_ok=True)
            return


@contextmanager
def folder_aside(folder: Path) -> Iterator[Path]:
    """A folder to fill, which at the end becomes `folder`, and nothing if it is not reached.

    Raises UserError while another process fills it.
    """
    aside = folder.with_name(f".{folder.name}.partial")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_name(f".{folder.name}.lock"), wait=False) as ours:
        if not ours:
            raise UserError(f"{folder}: another process is writing it; wait for it, or choose another name")
        shutil.rmtree(aside, ignore_errors=True)  # of one that was killed
        aside.mkdir()
        try:
            yield aside
            aside.rename(folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold `folder/.lock`; the system frees it with the process. Raises UserError if another process holds it."""
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{folder}: another process is writing this run; wait for it, or choose another run.name") from None
        yield
