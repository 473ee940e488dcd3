# SPDX-License-Identifier: Apache-2.0
"""A process that was started in a container: wait for it, signal it, by pidfd. HOT."""

from __future__ import annotations

import posix
import select
from errno import ECHILD, EINTR, ENOENT, ESRCH
from time import monotonic, sleep

from ctnr import _native, files
from ctnr.errors import CtnrError, StateError, SyscallError

_WNOHANG, _WEXITED = 1, 4
_CLD_EXITED = 1
_LOOK = 0.005  # seconds between looks where nothing tells of a process's end


def poll_exit(pidfd: int, timeout: float | None) -> bool:
    """Wait until the process of a pidfd has ended, at most `timeout` seconds; whether it has."""
    if not _native.pidfd_polls(pidfd):
        return _look(pidfd, timeout)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    while True:
        try:
            return bool(poll.poll(None if timeout is None else int(timeout * 1000) + (timeout > 0)))
        except OSError as error:
            if error.errno != EINTR:
                raise


def _look(fd: int, timeout: float | None) -> bool:
    """poll_exit() where pidfds are refused: `fd` is of /proc/PID (_native/pidfd.c), which has to be looked at."""
    end = None if timeout is None else monotonic() + timeout
    wait = _LOOK
    while not _has_ended(fd):
        if end is not None:
            wait = min(wait, end - monotonic())
            if wait <= 0:
                return False
        sleep(wait)
    return True


def _has_ended(fd: int) -> bool:
    try:
        text = files.read_file("stat", dir_fd=fd)
    except OSError as error:
        if error.errno in (ENOENT, ESRCH):
            return True
        raise
    return text[text.rindex(b")") + 2 :][:1] in (b"Z", b"X")


class Process:
    """A process in a container. `pid` is the host's, `pidfd` never means another process, `console_fd` is the master of
    its terminal if it has one and nobody else was given it. fileno() is the pidfd: readable once the process has ended,
    so `loop.add_reader(process, ...)` waits for it in asyncio (CtnrError where pidfd_open(2) is refused)."""

    __slots__ = ("_code", "console_fd", "pid", "pidfd")

    def __init__(self, pid: int, pidfd: int, console_fd: int | None = None) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.console_fd = console_fd
        self._code: int | None = None

    def fileno(self) -> int:
        if not _native.pidfd_polls(self.pidfd):
            raise CtnrError("pidfd_open is refused here: nothing can poll for the end of a process; use wait()")
        return self.pidfd

    @property
    def exit_code(self) -> int | None:
        """The exit code, 128+n after signal n; None while it runs."""
        if self._code is None and self.pidfd >= 0:
            self._reap(_WNOHANG)
        return self._code

    def _reap(self, options: int) -> None:
        found = _native.waitid(self.pidfd, _WEXITED | options)
        if found is not None:
            code, status = found
            self._code = status if code == _CLD_EXITED else 128 + status

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit code (128+n after signal n).

        Raises TimeoutError, and CtnrError if the process is not a child of this one: its exit code is somebody else's.
        """
        if self._code is None:
            if self.pidfd < 0:
                raise CtnrError("the process handle is closed")
            if timeout is not None and not poll_exit(self.pidfd, timeout):
                raise TimeoutError(f"process {self.pid} has not ended within {timeout} s")
            try:
                self._reap(0)
            except OSError as error:
                if error.errno != ECHILD:
                    raise
                poll_exit(self.pidfd, None)
                raise CtnrError(
                    "the process has ended; its exit code is known to the process that started it only,"
                    " and to nobody where SIGCHLD is ignored"
                ) from None
        assert self._code is not None
        return self._code

    def kill(self, signal: int) -> None:
        """Send a signal. StateError if the process has ended."""
        try:
            _native.pidfd_send_signal(self.pidfd, signal)
        except OSError as error:
            if error.errno == ESRCH:
                raise StateError("container not running") from None
            raise SyscallError(f"send signal {signal}", error.errno or 0) from None

    def close(self) -> None:
        """Give up the fds; the process goes on."""
        if self.pidfd >= 0:
            posix.close(self.pidfd)
            self.pidfd = -1
        if self.console_fd is not None:
            posix.close(self.console_fd)
            self.console_fd = None
