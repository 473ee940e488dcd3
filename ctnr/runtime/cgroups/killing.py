# SPDX-License-Identifier: Apache-2.0
"""A signal to every process of a cgroup, where no cgroup.kill does it. HOT (kill, delete).

Frozen processes are simple: they stay who they are. Without a freezer it takes pidfds, and a look whether more have come.
"""

from __future__ import annotations

from errno import ESRCH
from posix import close
from posix import kill as send_signal

from ctnr._native import pidfd_open, pidfd_send_signal
from ctnr.errors import CtnrError, SyscallError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def send(signal: int, pids: Iterable[int], where: str) -> None:
    """To processes that cannot end meanwhile. Raises SyscallError, after all were tried."""
    failed: OSError | None = None
    for pid in pids:
        try:
            send_signal(pid, signal)
        except OSError as e:
            if e.errno != ESRCH:
                failed = e
    if failed is not None:
        raise SyscallError(f"send signal {signal} to", failed.errno or 0, where) from failed


def running(signal: int, members: Callable[[], list[int]], where: str) -> None:
    """Through pidfds of those that are still there when all are open, until none is new. Raises SyscallError, CtnrError."""
    seen: set[int] = set()
    for _ in range(1000):
        fds: dict[int, int] = {}
        try:
            for pid in set(members()) - seen:
                try:
                    fds[pid] = pidfd_open(pid, 0)
                except ProcessLookupError:
                    continue
            if not fds:
                return
            for pid in fds.keys() & set(members()):
                try:
                    pidfd_send_signal(fds[pid], signal)
                except ProcessLookupError:
                    continue
                except OSError as e:
                    raise SyscallError(f"send signal {signal} to process {pid} of", e.errno or 0, where) from e
        finally:
            seen.update(fds)
            for fd in fds.values():
                close(fd)
    raise CtnrError(f"cannot signal all processes of {where}: new ones keep appearing")
