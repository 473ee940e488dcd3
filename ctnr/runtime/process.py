# SPDX-License-Identifier: Apache-2.0
"""A process that was started in a container: wait for it, signal it, by pidfd. HOT."""

from __future__ import annotations

import posix
import select
from errno import ECHILD, EINTR, ESRCH

from ctnr import _native
from ctnr.errors import CtnrError, StateError, SyscallError

_WNOHANG, _WEXITED = 1, 4
_CLD_EXITED = 1


def poll_exit(pidfd: int, timeout: float | None) -> bool:
    """Wait until the process of a pidfd has ended, at most `timeout` seconds; whether it has."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    while True:
        try:
            return bool(poll.poll(None if timeout is None else int(timeout * 1000) + (timeout > 0)))
        except OSError as error:
            if error.errno != EINTR:
                raise


class Process:
    """A process in a container. `pid` is the host's, `pidfd` never means another process, `console_fd` is the master of
    its terminal if it has one and nobody else was given it. fileno() is the pidfd: readable once the process has ended,
    so `loop.add_reader(process, ...)` waits for it in asyncio."""

    __slots__ = ("_code", "console_fd", "pid", "pidfd")

    def __init__(self, pid: int, pidfd: int, console_fd: int | None = None) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.console_fd = console_fd
        self._code: int | None = None

    def fileno(self) -> int:
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
