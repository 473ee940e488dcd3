# SPDX-License-Identifier: Apache-2.0
"""Processes that run already: moved into a cgroup, or found in one. HOT, loaded when there is one to move or to find."""

from __future__ import annotations

from errno import EINVAL
from time import sleep

from ctnr.errors import SyscallError
from ctnr.runtime.cgroups import dirs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def add(pid: int, directories: Iterable[str]) -> None:
    """Write the pid into each one's cgroup.procs. Raises SyscallError."""
    for path in directories:
        file = path + "/cgroup.procs"
        pause = 0.001
        while True:
            try:
                dirs.write(file, str(pid))
                break
            except OSError as e:
                # EINVAL: the task is still being forked (TASK_NEW)
                if e.errno != EINVAL or pause > 0.1:
                    raise SyscallError(f"add process {pid} to", e.errno or 0, file) from e
            sleep(pause)
            pause *= 2


def whereabouts(pid: int, top: str) -> str | None:
    """The directory of a process' cgroup2, if it is `top` or below."""
    from ctnr.runtime.cgroups.layout import layout

    path = layout(cgroup=dirs.read(f"/proc/{pid}/cgroup")).own.get("")
    return path if path is not None and (path == top or path.startswith(top + "/")) else None
