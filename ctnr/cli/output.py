# SPDX-License-Identifier: Apache-2.0
"""What a command says: its output, and an exception in one line.

HOT: imported by every verb.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` without its enums
import posix

from ctnr.files import write_fd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

SIGHUP, SIGINT, SIGPIPE, SIGTERM, SIGCHLD = 1, 2, 13, 15, 17


def out(text: str) -> None:
    """Write to stdout, past Python's buffers. Whoever closed the other end is done with us, as with any other tool."""
    try:
        write_fd(1, text.encode("utf-8", "surrogateescape"))
    except BrokenPipeError:
        die_of(SIGPIPE)


def complain(text: str) -> None:
    """Write a line to stderr, or do without: there is nowhere else to say that it failed."""
    try:
        write_fd(2, text.encode("utf-8", "backslashreplace") + b"\n")
    except OSError:
        pass


def die_of(signal: int) -> NoReturn:
    """End as the signal would have ended a program without a handler: a shell stops its loop only for a true SIGINT."""
    _signal.signal(signal, _signal.SIG_DFL)
    posix.kill(posix.getpid(), signal)
    # only if it is blocked
    posix._exit(128 + signal)


def describe(error: Exception) -> str:
    """An error as Go would word it, for callers who look for "permission denied" in what runc says."""
    if isinstance(error, OSError) and error.errno is not None:
        why = (error.strerror or posix.strerror(error.errno)).lower()
        names = [_text(name) for name in (error.filename, error.filename2) if name is not None]
        return f"{' -> '.join(names)}: {why}" if names else why
    return str(error) or type(error).__name__


def _text(name: object) -> str:
    return name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else str(name)
