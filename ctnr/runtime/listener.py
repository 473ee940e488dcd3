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

    from ctnr.spec.types import Seccomp

_SOCK_STREAM = 1
_LONGEST = 128 << 10  # what fits into the buffers of a socket
_STATE = ("ociVersion", "id", "status", "pid", "bundle", "annotations")


def connect(path: str) -> int:
    """A connection to the listener. Raises SpecError, SyscallError."""
    if not files.isabs(path):
        raise SpecError("linux.seccomp.listenerPath", f"must be an absolute path, not {path!r}")
    try:
        fd = files.open_dir(files.dirname(path))
        try:
            return _native.unix_connect(fd, files.basename(path), _SOCK_STREAM)
        finally:
            posix.close(fd)
    except OSError as error:
        what = "linux.seccomp.listenerPath: failed to connect with seccomp agent specified in the seccomp profile"
        raise SyscallError(what, error.errno or 0, path) from None


def document(state: dict[str, Any], section: Seccomp, pid: int) -> bytes:
    """The container process state of process `pid`, as runc writes it; `state` is the container's."""
    told: dict[str, Any] = {"ociVersion": OCI_VERSION, "fds": ["seccompFd"], "pid": pid}
    if section.get("listenerMetadata"):
        told["metadata"] = section["listenerMetadata"]
    told["state"] = {name: state[name] for name in _STATE if name in state}
    data = jsonio.dumps(told).encode("utf-8", "surrogateescape")
    if len(data) > _LONGEST:
        raise SpecError(
            "annotations", "are too long to be told to the listener of seccomp notifications in one message"
        )
    return data
