# SPDX-License-Identifier: Apache-2.0
"""What a container's start is handed beside its config: sockets of LISTEN_FDS, a receiver of its pidfd.

HOT imports only, but loaded only for who asks.
"""

from __future__ import annotations

import posix

from ctnr import _native, files
from ctnr.errors import CtnrError, SyscallError
from ctnr.runtime import launch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctnr.runtime.container import Container
    from ctnr.spec.types import Config

PIDFD_RECEIVER = "run.oci.pidfd_receiver"
_SOCK_STREAM = 1


def send_pidfd(path: str, field: str, name: bytes, pidfd: int) -> None:
    """Send a pidfd to the stream socket at `path`, with `name` as the message, as runc does. Raises SyscallError, CtnrError."""
    if not _native.pidfd_polls(pidfd):
        raise CtnrError(f"{field}: needs pidfd_open, {launch.MISSING}")  # what we have instead is of no use to others
    try:
        directory = files.open_dir(files.dirname(path) or ".")
        try:
            fd = _native.unix_connect(directory, files.basename(path), _SOCK_STREAM)
        finally:
            posix.close(directory)
        try:
            _native.sendmsg(fd, name, (pidfd,))
        finally:
            posix.close(fd)
    except OSError as error:
        raise SyscallError(f"{field}: send the pidfd to", error.errno or 0, path) from None


def send_pidfds(container: Container, socket: str | None) -> None:
    """Of the first process, to whoever the caller and the config name."""
    if socket:
        send_pidfd(socket, "--pidfd-socket", b"standard", container.pidfd)
    receiver = container.annotations.get(PIDFD_RECEIVER)
    if receiver:
        send_pidfd(receiver, f"annotations.{PIDFD_RECEIVER}", b"standard", container.pidfd)


def with_env(config: Config, **variables: str) -> Config:
    """A copy of the config whose program has these variables in its environment, in place of those that were there."""
    process = config.get("process") or {}
    kept = [entry for entry in process.get("env") or [] if entry.partition("=")[0] not in variables]
    env = [*kept, *(f"{name}={value}" for name, value in variables.items())]
    return {**config, "process": {**process, "env": env}}


def listening(config: Config, count: int, names: str | None) -> Config:
    """`config` for a program that gets `count` sockets from fd 3 on (sd_listen_fds(3)); it is pid 1 to itself."""
    variables = {"LISTEN_FDS": str(count), "LISTEN_PID": "1"}
    if names:
        variables["LISTEN_FDNAMES"] = names
    return with_env(config, **variables)
