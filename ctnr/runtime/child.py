# SPDX-License-Identifier: Apache-2.0
"""Running a host program to its end: hooks, newuidmap. A fresh environment, no inherited fds, output kept.

HOT: imported only when there is something to run.
"""

from __future__ import annotations

import posix
import select
from errno import EINTR
from time import monotonic

from ctnr import _native

_WEXITED = 4
_OUTPUT_LIMIT = 4096


class TimedOut(Exception):
    """The program did not end in time and was killed."""


def run_program(path: str, argv: list[str], env: list[str], stdin: bytes, timeout: float | None) -> tuple[int, str]:
    """Run the program at `path` and return (exit code or 128+signal, the tail of its output as one line).

    `env` is its whole environment, `timeout` in seconds. Raises OSError if it cannot be executed, TimedOut.
    """
    given = posix.memfd_create("stdin", posix.MFD_CLOEXEC)
    output = posix.memfd_create("output", posix.MFD_CLOEXEC)
    try:
        posix.write(given, stdin)
        posix.lseek(given, 0, 0)
        actions = [
            (posix.POSIX_SPAWN_DUP2, given, 0),
            (posix.POSIX_SPAWN_DUP2, output, 1),
            (posix.POSIX_SPAWN_DUP2, output, 2),
        ]
        environment = {name: value for name, _, value in (entry.partition("=") for entry in env)}
        everything = range(1, 65)
        pid = posix.posix_spawn(
            path,
            argv,
            environment,
            file_actions=actions,
            setsigmask=(),
            setsigdef=[n for n in everything if n not in (9, 19, 32, 33)],
        )
        pidfd = _native.pidfd_open(pid)
        try:
            _wait(pidfd, timeout)
        finally:
            posix.close(pidfd)
        _, status = posix.waitpid(pid, 0)
        size = posix.fstat(output).st_size
        posix.lseek(output, max(0, size - _OUTPUT_LIMIT), 0)
        text = posix.read(output, _OUTPUT_LIMIT).decode("utf-8", "replace")
    finally:
        posix.close(given)
        posix.close(output)
    words = " ".join(text.split())
    return posix.waitstatus_to_exitcode(status) if posix.WIFEXITED(status) else 128 + posix.WTERMSIG(status), words


def _wait(pidfd: int, timeout: float | None) -> None:
    deadline = None if timeout is None else monotonic() + timeout
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    while True:
        left = None if deadline is None else max(0, deadline - monotonic())
        try:
            ready = poll.poll(None if left is None else int(left * 1000) + 1)
        except OSError as error:
            if error.errno == EINTR:
                continue
            raise
        if ready:
            return
        if deadline is not None and monotonic() >= deadline:
            _native.pidfd_send_signal(pidfd, 9)
            _native.waitid(pidfd, _WEXITED)
            raise TimedOut
