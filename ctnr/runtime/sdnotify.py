# SPDX-License-Identifier: Apache-2.0
"""sd_notify(3) out of a container: a socket in it, whose READY=1 is passed on with the pid that the host knows (as in runc).

HOT imports only, but loaded only where NOTIFY_SOCKET is set. The service manager's own socket never is in the container:
what a program there sends is not trusted to be more than the word that it is ready.
"""

from __future__ import annotations

import _socket
import posix
import select
from errno import EAGAIN, EINTR, ENOENT

from ctnr import _native, files, log
from ctnr.errors import SyscallError
from ctnr.runtime.passing import with_env
from ctnr.runtime.process import poll_exit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctnr.runtime.container import Container
    from ctnr.runtime.state import StateDir
    from ctnr.spec.types import Config

DIRECTORY = "notify"
_NAME = "notify"
_INSIDE = "/run/notify"
_KERNELS = ("/proc", "/sys", "/dev")
_OPTIONS = ["bind", "nosuid", "noexec", "nodev", "ro"]
_LONGEST = 4096
_LOOK = 100  # ms, where a pidfd cannot be waited for
# how long a service manager may take to say that it has read what we sent, in seconds; sd_notify_barrier(3)
_BARRIER = 5.0


def prepare(config: Config, dir: StateDir) -> Config:
    """Make the directory of the socket; the config with it bound, and with NOTIFY_SOCKET.

    As in crun its place is the path of the service manager's own socket, which a program may have been told of otherwise;
    where that is no path for it, /run/notify.
    """
    inside = files.getenv("NOTIFY_SOCKET") or ""
    if files.normpath(inside) != inside or inside.count("/") < 2 or inside.startswith(_KERNELS) or inside[0] != "/":
        inside = _INSIDE
    posix.mkdir(DIRECTORY, 0o755, dir_fd=dir.fd)
    posix.chmod(DIRECTORY, 0o755, dir_fd=dir.fd)  # whatever the umask: the container's users reach the socket
    source = files.join(dir.path, DIRECTORY)
    mount = {"destination": inside, "type": "bind", "source": source, "options": _OPTIONS}
    mounts = [*(config.get("mounts") or []), mount]
    return with_env({**config, "mounts": mounts}, NOTIFY_SOCKET=f"{inside}/{_NAME}")  # type: ignore[typeddict-item]


def _open_to_all(directory: int) -> None:
    """The socket itself: one who has the directory in a container may have put a link to something else in its place."""
    flags = posix.O_PATH | posix.O_NOFOLLOW | posix.O_CLOEXEC
    fd = posix.open(_NAME, flags, dir_fd=directory)
    try:
        posix.chmod(f"/proc/self/fd/{fd}", 0o777)  # of a link: refused
    finally:
        posix.close(fd)


class NotifyError(SyscallError):
    """The service manager cannot be told."""


class Proxy:
    """The socket of one container, open from before its start; fileno() is readable when there is something to forward().

    `target` is the service manager's NOTIFY_SOCKET, `main_pid` what it is to follow. Raises SyscallError.
    """

    __slots__ = ("_main_pid", "_socket", "_target")

    def __init__(self, dir: StateDir, target: str, main_pid: int) -> None:
        self._target = b"\0" + files.fsencode(target[1:]) if target.startswith("@") else files.fsencode(target)
        self._main_pid = main_pid
        kind = _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK
        self._socket = _socket.socket(_socket.AF_UNIX, kind)
        directory = posix.open(DIRECTORY, posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC, dir_fd=dir.fd)
        try:
            try:
                posix.unlink(_NAME, dir_fd=directory)  # of a start that was killed
            except OSError as error:
                if error.errno != ENOENT:
                    raise
            # by the fd: the state root's path may be longer than an address
            self._socket.bind(f"/proc/self/fd/{directory}/{_NAME}")
            _open_to_all(directory)
        except OSError as error:
            self._socket.close()
            raise SyscallError("NOTIFY_SOCKET: make the container's socket", error.errno or 0, dir.path) from None
        finally:
            posix.close(directory)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            self._socket.close()

    def forward(self) -> bool:
        """Read a message; if it says READY=1, pass that on, close the socket and return True. Raises NotifyError."""
        try:
            message = self._socket.recv(_LONGEST)
        except OSError as error:
            if error.errno in (EAGAIN, EINTR):
                return False
            raise
        if b"READY=1" not in message.split(b"\n"):
            return False
        self.close()
        try:
            self._tell()
        except OSError as error:
            raise NotifyError("NOTIFY_SOCKET: tell", error.errno or 0, files.fsdecode(self._target)) from None
        return True

    def forward_or_warn(self) -> bool:
        """As forward(); that the service manager cannot be told is a warning, and the end of it, too."""
        try:
            return self.forward()
        except NotifyError as error:
            log.warning(str(error))
            return True

    def _tell(self) -> None:
        """One message, so that nothing comes in between; then wait until it was read: who we are is looked up by our pid."""
        target = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
        try:
            target.connect(self._target)
            target.send(b"MAINPID=%d\nREADY=1" % self._main_pid)
            read_end, write_end = posix.pipe2(posix.O_CLOEXEC)
            try:
                rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, write_end.to_bytes(4, "little"))]
                try:
                    target.sendmsg([b"BARRIER=1"], rights)
                finally:
                    posix.close(write_end)
                poll = select.poll()
                poll.register(read_end, 0)
                poll.poll(_BARRIER * 1000)
            finally:
                posix.close(read_end)
        finally:
            target.close()

    def wait(self, pidfd: int) -> bool:
        """Until the container says that it is ready, or its first process has ended; whether it was ready."""
        poll = select.poll()
        poll.register(self._socket.fileno(), select.POLLIN)
        polls = _native.pidfd_polls(pidfd)
        if polls:
            poll.register(pidfd, select.POLLIN)
        while True:
            ready = dict(poll.poll(None if polls else _LOOK))
            if self._socket.fileno() in ready:
                if self.forward_or_warn():
                    return True
            elif pidfd in ready or (not polls and poll_exit(pidfd, 0)):
                return False


def proxy(container: Container, target: str, main_pid: int) -> Proxy | None:
    """Of a container that was created with `notify`, else None."""
    try:
        posix.stat(DIRECTORY, dir_fd=container._dir.fd)
    except FileNotFoundError:
        return None
    return Proxy(container._dir, target, main_pid)


def start(container: Container, target: str) -> None:
    """Container.start(), then wait until the program says that it is ready, or ends."""
    pidfd = container._open_pid()
    found = proxy(container, target, container.pid) if pidfd is not None else None
    try:
        container.start()
        if found is not None and pidfd is not None:
            found.wait(pidfd)
    finally:
        if found is not None:
            found.close()
        if pidfd is not None:
            posix.close(pidfd)
