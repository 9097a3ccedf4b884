"""The one error that a user can cause, and the end of one of many processes."""

from __future__ import annotations

import errno

_DISK = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)  # for the user to mend, wherever they occur


class UserError(ValueError):
    """A mistake in a config, a file or a command; entry points print it as one line and leave with exit code 2."""


class RankError(Exception):
    """The end of one rank of a run: `text` is what it says on stderr, empty where another rank says it."""

    def __init__(self, text: str, code: int, cause: str = "", delay: float = 0.0) -> None:
        """`code`: of the process, left after `delay` seconds; `cause`: a line for torchrun, empty where another rank is it."""
        super().__init__(text)
        self.text, self.code, self.cause, self.delay = text, code, cause, delay


def mendable(error: BaseException) -> str | None:
    """The line for a user who can mend this: of a UserError, or of a disk that is full or may not be written; else None."""
    if isinstance(error, UserError):
        return " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno in _DISK:
        place = "the disk" if error.filename is None else error.filename
        return f"{place}: {error.strerror}; make room or choose a place that may be written, and run the same again"
    return None
