# SPDX-License-Identifier: Apache-2.0
"""Who listens for seccomp notifications: the connection, and what is told (runtime-spec config-linux.md#seccomp).

HOT imports only, but loaded for a filter with SCMP_ACT_NOTIFY. The init sends the document and the fd (init/notify.c).
"""

from __future__ import annotations

import posix

from ctnr import _native, files, jsonio
from ctnr.errors import SpecError, SyscallError
from ctnr.spec.tables import OCI_VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ctnr.runtime.compile import Context
    from ctnr.runtime.launch import Fds

SOCKET = "notify.sock"  # of a supervisor of ours, in the state directory
_SOCK_STREAM = 1
_LONGEST = 128 << 10  # what fits into the buffers of a socket
_FDS = ("seccompFd", "startedFd")
_STATE = ("ociVersion", "id", "status", "pid", "bundle", "annotations")


def connect(ctx: Context, dir_fd: int, fds: Fds) -> None:
    """Connect to the listener: "listener" of `fds`. `dir_fd`: the container's state. Raises SpecError, SyscallError."""
    path = ctx.listener
    if not files.isabs(path):
        raise SpecError("linux.seccomp.listenerPath", f"must be an absolute path, not {path!r}")
    try:
        fd = files.open_dir(files.dirname(path))
        try:
            fds.add("listener", _native.unix_connect(fd, files.basename(path), _SOCK_STREAM))
            there, ours = posix.fstat(fd), posix.fstat(dir_fd)
        finally:
            posix.close(fd)
    except OSError as error:
        what = "linux.seccomp.listenerPath: failed to connect with seccomp agent specified in the seccomp profile"
        raise SyscallError(what, error.errno or 0, path) from None
    same = (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)
    ctx.listener_is_ours = same and files.basename(path) == SOCKET


def document(ctx: Context, state: dict[str, Any], pid: int) -> bytes:
    """The container process state of process `pid`, as runc writes it; `state` is the container's.

    A supervisor of ours gets one fd more, the end of a pipe that is closed when the program is executed.
    """
    section = ctx.linux["seccomp"]
    told: dict[str, Any] = {"ociVersion": OCI_VERSION, "fds": [*_FDS[: 1 + ctx.listener_is_ours]], "pid": pid}
    if section.get("listenerMetadata"):
        told["metadata"] = section["listenerMetadata"]
    told["state"] = {name: state[name] for name in _STATE if name in state}
    data = jsonio.dumps(told).encode("utf-8", "surrogateescape")
    if len(data) > _LONGEST:
        raise SpecError(
            "annotations", "are too long to be told to the listener of seccomp notifications in one message"
        )
    return data
