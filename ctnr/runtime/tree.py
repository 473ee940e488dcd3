# SPDX-License-Identifier: Apache-2.0
"""The processes of a container that has no cgroup to list them: those of its pid namespace, and stopping all of them.

HOT where a container has no cgroup: `ps`, `pause`, `resume`.
"""

from __future__ import annotations

import posix
from time import sleep

from ctnr import _native
from ctnr.errors import CtnrError, SyscallError
from ctnr.runtime.state import stat

SIGSTOP, SIGCONT = 19, 18
_ROUNDS = 1000


def members(pid: int, own_pids: bool) -> list[int]:
    """The pids of the container whose first process is `pid`, sorted.

    With a pid namespace of its own (`own_pids`): who is in it, or in one below it. Without: the first process and its
    descendants, which is all that can be told; one whose parent has ended is nobody's.
    """
    try:
        namespace = posix.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return []
    parents: dict[int, int] = {}
    found = {pid}
    for name in posix.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            fields = stat(int(name))
            if len(fields) == 1:
                continue
            parents[int(name)] = int(fields[1])
            if own_pids and posix.readlink(f"/proc/{name}/ns/pid") == namespace:
                found.add(int(name))
        except OSError:
            continue  # gone, or not ours to look at
    # what is in a namespace further down descends from one of them; what was exec'd into ours has its parent outside
    for one in parents:
        way = []
        at = one
        while at and at not in found and at not in way:
            way.append(at)
            at = parents.get(at, 0)
        if at in found:
            found.update(way)
    return sorted(one for one in found if one in parents)


def stop(pid: int) -> None:
    """Stop every process of a pid namespace, of which `pid` is the first: again until no new one has appeared.

    A stopped process cannot fork, so this ends. Raises SyscallError, CtnrError (and lets them run on).
    """
    told: set[int] = set()
    try:
        for _ in range(_ROUNDS):
            running = {one for one in members(pid, True) if stat(one)[0] not in (b"T", b"t", b"Z", b"X")}
            if not running:
                return
            if running <= told:
                sleep(0.005)  # they are on their way
            for one in running:
                _send(one, SIGSTOP)
            told |= running
        raise CtnrError("cannot pause the container: new processes keep appearing, and there is no freezer cgroup")
    except BaseException:
        go_on(pid)
        raise


def go_on(pid: int) -> None:
    """Let all of them run on. Raises SyscallError."""
    for one in members(pid, True):
        _send(one, SIGCONT)


def _send(pid: int, signal: int) -> None:
    try:
        fd = _native.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        _native.pidfd_send_signal(fd, signal)
    except ProcessLookupError:
        return
    except OSError as error:
        raise SyscallError(f"send signal {signal} to process {pid}", error.errno or 0) from None
    finally:
        posix.close(fd)
