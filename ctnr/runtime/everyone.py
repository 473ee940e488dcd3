# SPDX-License-Identifier: Apache-2.0
"""All processes of a container at once: `kill --all`, and SIGKILL where the others do not end with the first process.

HOT: imported only for these.
"""

from __future__ import annotations

import posix
from errno import EINVAL, ESRCH

from ctnr import _native
from ctnr.errors import StateError, SyscallError
from ctnr.runtime import tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctnr.runtime.container import Container


def kill(container: Container, signal: int, status: str, all: bool) -> None:
    """Send a signal to every process; what outlives the first one is in the cgroup still.

    StateError if none was there; `all` does not mind.
    """
    group = None if container._planned_cgroup() else container.cgroup
    left: list[int] = []
    if group is not None:
        left = group.pids()
        if left:
            group.kill(signal)
    elif all and container._state.get("own_pids") and status != "stopped":
        left = tree.members(container.pid, True)
        _signal_each(left, signal, container.pid)
    if status == "stopped":
        if not left and not all:
            raise StateError("container not running", container.id, status)
    elif container.pid not in left:
        # in no cgroup of ours, or moved out of it
        container.process.kill(signal)


def _signal_each(pids: list[int], signal: int, first: int) -> None:
    """To each of them, the `first` last: the others may end with it."""
    fds: dict[int, int] = {}
    try:
        for pid in pids:
            try:
                fds[pid] = _native.pidfd_open(pid)
            except OSError as error:
                if error.errno not in (ESRCH, EINVAL):
                    raise
        # a pidfd never means another process; those that are still of the container have been so since it was opened
        still = set(tree.members(first, True))
        for pid in sorted(fds, key=lambda pid: pid == first):
            if pid not in still:
                continue
            try:
                _native.pidfd_send_signal(fds[pid], signal)
            except OSError as error:
                if error.errno != ESRCH:
                    raise SyscallError(f"send signal {signal} to process {pid}", error.errno or 0) from None
    finally:
        for fd in fds.values():
            posix.close(fd)
