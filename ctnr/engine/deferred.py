# SPDX-License-Identifier: Apache-2.0
"""Signals wait while fds and processes are made that nobody has noted yet. HOT (run)."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` without its enums

# bugs of this process, which cannot wait
_AT_ONCE = {
    _signal.SIGABRT,
    _signal.SIGBUS,
    _signal.SIGFPE,
    _signal.SIGILL,
    _signal.SIGSEGV,
    _signal.SIGSYS,
    _signal.SIGTRAP,
}


class Deferred:
    """`with Deferred():` the exception of a signal (^C) comes at the end of the block, not between a system call and the
    note of its result. For the signals of this thread: in a process with one thread, all of them."""

    __slots__ = ("_old",)

    def __enter__(self) -> None:
        self._old = _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals() - _AT_ONCE)

    def __exit__(self, *error: object) -> None:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, self._old)
