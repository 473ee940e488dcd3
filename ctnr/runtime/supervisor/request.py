# SPDX-License-Identifier: Apache-2.0
"""A system call that waits for its answer (seccomp_unotify(2)), as a callback of on_syscall sees it.

What makes it safe: whatever is read of the program is a copy, checked to be of the call that still waits; and no answer lets the
kernel read the same again. Who has looked at memory or descriptors cannot let the call go on, since another thread of
the program may have changed them in between; such a call is refused, or done here with what was copied.
"""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import threading
from errno import (
    EAFNOSUPPORT,
    EAGAIN,
    EBADF,
    EFAULT,
    EINPROGRESS,
    EINVAL,
    EIO,
    ENAMETOOLONG,
    ENOENT,
    ENOSYS,
    ENOTTY,
    EPERM,
)

from ctnr import _native
from ctnr.errors import CtnrError
from ctnr.runtime.supervisor.address import AF_INET, AF_INET6, AF_UNIX, AF_UNSPEC, MAX_ADDRESS, Address, pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ctnr.runtime.supervisor import Source

# linux/seccomp.h
NOTIF = struct.Struct("=QIIiIQ6Q")  # struct seccomp_notif
RESP = struct.Struct("=QqiI")  # struct seccomp_notif_resp
ADDFD = struct.Struct("=QIIII")  # struct seccomp_notif_addfd
ID = struct.Struct("=Q")
IOCTL_RECV, IOCTL_SEND, IOCTL_ID_VALID = 0xC0502100, 0xC0182101, 0x40082102
IOCTL_ADDFD, IOCTL_SET_FLAGS = 0x40182103, 0x40082104
SYNC_WAKE_UP = 1
FLAG_CONTINUE = 1
ADDFD_SETFD, ADDFD_SEND = 1, 2
O_CLOEXEC = 0o2000000

_PIDFD_THREAD = os.O_EXCL
_PAGE = 4096
PATH_MAX = 4096
_MAX_READ = 1 << 20
# it was killed, a signal has ended the call, or the container was deleted and the fd closed
_GONE = (ENOENT, EINPROGRESS, EBADF, ENOTTY)
# connect() in progress: a program that makes any number of them does not make as many threads of ours, and takes none of
# those that another container may have
CONNECTIONS = 64
# socketcall(2): how many arguments each has (net/socket.c)
_SOCKETCALLS = {
    **dict.fromkeys(("socket", "bind", "connect", "accept", "getsockname", "getpeername", "sendmsg", "recvmsg"), 3),
    **dict.fromkeys(("socketpair", "send", "recv", "accept4", "sendmmsg"), 4),
    **dict.fromkeys(("sendto", "recvfrom"), 6),
    **dict.fromkeys(("getsockopt", "setsockopt", "recvmmsg"), 5),
    **dict.fromkeys(("listen", "shutdown"), 2),
}
# more than any real errno, fewer than those that the kernel keeps for itself (ERESTARTSYS)
_MAX_ERRNO = 511


class Request:
    """One call. `name`: of the system call; `number`, `arch` (AUDIT_ARCH_*), `args` (six, unsigned): as the kernel has them;
    `pid`: of the thread that waits, in our pid namespace. Exactly one answer is given, by any thread."""

    __slots__ = (
        "_copies",
        "_id",
        "_source",
        "_tainted",
        "answered",
        "arch",
        "args",
        "deferred",
        "name",
        "number",
        "pid",
    )

    def __init__(
        self, source: Source, id: int, pid: int, name: str, number: int, arch: int, args: tuple[int, ...]
    ) -> None:
        self._source = source
        self._id = id
        self._tainted = False
        self._copies: dict[object, Any] = {}
        self.deferred = False  # somebody answers later
        self.pid = pid
        self.name = name
        self.number = number
        self.arch = arch
        self.args = args
        self.answered = False

    def __repr__(self) -> str:
        return f"<Request {self.name}({', '.join(map(hex, self.args))}) of {self.pid}>"

    def unwrap(self) -> None:
        """The arguments of what was called by way of socketcall(2) or ipc(2), of 32 bits."""
        if self.name in _SOCKETCALLS:
            count = _SOCKETCALLS[self.name]
            values = struct.unpack(f"={count}I", self.read(self.args[1], 4 * count))
            self.args = (*values, *(0,) * (6 - count))
        else:
            self._tainted = True
            self.args = (*self.args[1:], 0)

    # --- what it asks: copies

    def int32(self, index: int) -> int:
        """Argument `index` as a C int: an fd, AT_FDCWD (-100), a domain."""
        return (self.args[index] & 0xFFFFFFFF ^ 0x80000000) - 0x80000000

    def valid(self) -> bool:
        """Whether it still waits. Only if it does are `pid` and what was read of it its own."""
        try:
            fcntl.ioctl(self._source.fd, IOCTL_ID_VALID, ID.pack(self._id))
        except OSError as error:
            if error.errno in _GONE:
                return False
            raise
        return True

    def check(self) -> None:
        """ProcessLookupError unless it still waits."""
        if not self.valid():
            raise ProcessLookupError(3, "the process does not wait any more")

    def read(self, address: int, size: int) -> bytes:
        """A copy of `size` bytes of the program's memory. OSError EFAULT as the kernel says it."""
        if size < 0 or size > _MAX_READ:
            raise OSError(EINVAL, f"a read of {size} bytes: from 0 to {_MAX_READ}")
        data = self._copy(address, size)
        if len(data) < size:
            raise OSError(EFAULT, "Bad address")
        return data

    def _copy(self, address: int, size: int) -> bytes:
        """At most `size` bytes: up to the first page that is not there."""
        self._tainted = True
        if not size:
            return b""
        if address >= 1 << 63:
            raise OSError(EFAULT, "Bad address")
        if not self.pid:
            raise ProcessLookupError(3, "the process is in a pid namespace out of sight")
        try:
            data = _native.process_vm_readv(self.pid, address, size)
        except OSError as error:
            if error.errno not in (ENOSYS, EPERM):
                self.check()
                raise
            fd = self._memory(os.O_RDONLY)  # a container engine's own filter around us
            try:
                data = os.pread(fd, size, address)
            except OSError as problem:
                raise _fault(problem) from None
            finally:
                os.close(fd)
        self.check()
        return data

    def string(self, address: int, limit: int = PATH_MAX) -> bytes:
        """A copy of a NUL-terminated string. OSError ENAMETOOLONG if there is no NUL within `limit` bytes."""
        parts = []
        left = limit
        while left > 0:
            part = self.read(address, min(left, _PAGE - address % _PAGE))
            text, nul, _ = part.partition(b"\0")
            parts.append(text)
            if nul:
                return b"".join(parts)
            address += len(part)
            left -= len(part)
        raise OSError(ENAMETOOLONG, "File name too long")

    def path(self, index: int) -> str:
        """A copy of the path that argument `index` points to, the same one each time. It is not resolved: where it leads only
        the kernel knows."""
        found = self._copies.get(index)
        if found is None:
            found = self._copies[index] = os.fsdecode(self.string(self.args[index]))
        return found

    def sockaddr(self, index: int = 1, length: int = 2) -> Address:
        """A copy of the socket address that argument `index` points to, whose length is argument `length`; the same copy
        each time, which is also the one that connect() uses."""
        found = self._copies.get((index, length))
        if found is None:
            size = self.int32(length)
            if size < 0 or size > MAX_ADDRESS:
                raise OSError(EINVAL, "Invalid argument")
            found = self._copies[index, length] = Address(self.read(self.args[index], size))
        return found

    def fd(self, number: int) -> int:
        """A copy, ours to close, of a descriptor of the program (pidfd_getfd(2)). OSError EBADF if it has none such."""
        self._tainted = True
        if not self.pid:
            raise ProcessLookupError(3, "the process is in a pid namespace out of sight")
        try:
            pidfd = _native.pidfd_open(self.pid, _PIDFD_THREAD)  # Linux 6.9
        except OSError as error:
            if error.errno != EINVAL:
                self.check()
                raise
            pidfd = _native.pidfd_open(self._leader())
        try:
            self.check()
            return _native.pidfd_getfd(pidfd, number)
        finally:
            os.close(pidfd)

    def _leader(self) -> int:
        with open(f"/proc/{self.pid}/status", "rb") as file:
            for line in file:
                if line.startswith(b"Tgid:"):
                    return int(line[5:])
        raise ProcessLookupError(3, "the process has gone")

    def _memory(self, flags: int) -> int:
        """/proc/PID/mem, opened while the call waits: an mm that stays the one it was, whatever becomes of the pid."""
        try:
            fd = os.open(f"/proc/{self.pid}/mem", flags | os.O_CLOEXEC)
        except OSError:
            self.check()
            raise
        try:
            self.check()
        except BaseException:
            os.close(fd)
            raise
        return fd

    # --- what the program gets: written before the answer

    def write(self, address: int, data: bytes) -> None:
        """Write to the program's memory, for a call that returns something there. OSError EFAULT."""
        if not self.pid:
            raise ProcessLookupError(3, "the process is in a pid namespace out of sight")
        if address >= 1 << 63:
            raise OSError(EFAULT, "Bad address")
        fd = self._memory(os.O_RDWR)
        try:
            if os.pwrite(fd, data, address) < len(data):
                raise OSError(EFAULT, "Bad address")
        except OSError as problem:
            raise _fault(problem) from None
        finally:
            os.close(fd)
        self.check()

    def add_fd(self, fd: int, *, number: int | None = None, cloexec: bool = True) -> int:
        """Give the program a copy of our `fd`, as `number` or the lowest free; its number there. The call still waits."""
        return self._add(fd, number, cloexec, 0)

    def _add(self, fd: int, number: int | None, cloexec: bool, flags: int) -> int:
        flags |= 0 if number is None else ADDFD_SETFD
        what = ADDFD.pack(self._id, flags, fd, number or 0, O_CLOEXEC if cloexec else 0)
        there: int = fcntl.ioctl(self._source.fd, IOCTL_ADDFD, bytearray(what))
        return there

    # --- the answers

    def answer(self, value: int) -> None:
        """The call returns `value` and is not carried out."""
        if -4095 <= value < 0 or not -(1 << 63) <= value < 1 << 63:
            raise ValueError(f"{value} is no return value: an error is for deny()")
        self._send(value, 0, 0)

    def deny(self, errno: int = EPERM) -> None:
        """The call fails with `errno` and is not carried out."""
        if not 0 < errno <= _MAX_ERRNO:
            raise ValueError(f"{errno} is no errno")
        self._send(0, -errno, 0)

    def answer_fd(self, fd: int, *, number: int | None = None, cloexec: bool = True) -> None:
        """The call returns a copy of our `fd`, put into the program's table of descriptors in the same moment."""
        if self.answered:
            raise CtnrError(f"{self!r} was answered already")
        try:
            self._add(fd, number, cloexec, ADDFD_SEND)
        except OSError as error:
            if error.errno == EINVAL:  # before Linux 5.14 in two steps
                self.answer(self._add(fd, number, cloexec, 0))
                return
            if error.errno != ENOENT:
                raise
        self.answered = True

    def allow(self, *, unsafe: bool = False) -> None:
        """The kernel carries the call out as if nobody had been asked: for what was decided by `args` alone.

        CtnrError if memory or descriptors were read: the kernel will read them once more, and another thread of the program
        may have changed them by then. `unsafe` says that the decision did not depend on what was read.
        """
        if self._tainted and not unsafe:
            raise CtnrError(
                f"{self.name}: what was read of the program may have changed by the time the kernel reads it:"
                " do the call with the copy, or deny it; allow(unsafe=True) if the decision did not depend on it"
            )
        self._send(0, 0, FLAG_CONTINUE)

    def connect(self, host: str | None = None, port: int | None = None) -> None:
        """Carry connect(2) out on the program's socket with the address that was copied, or to another host and port.

        For IPv4 and IPv6; any other family is denied. Where the program would have waited, a thread does. What holds for
        the program's own connect(2) by Landlock does not for ours.
        """
        if self.name != "connect":
            raise CtnrError(f"{self.name}: is not connect")
        address = self.sockaddr()
        if host is not None or port is not None:
            address = Address(pack(address.host if host is None else host, address.port if port is None else port))
        if address.family not in (AF_INET, AF_INET6, AF_UNSPEC):
            # a path would be looked up on our side, and any listener of AF_UNIX told that it is us who connects
            raise OSError(EPERM if address.family == AF_UNIX else EAFNOSUPPORT, "not done for the program")
        sock = self.fd(self.int32(0))
        try:
            blocking = not fcntl.fcntl(sock, fcntl.F_GETFL) & os.O_NONBLOCK
            if blocking and not self._source.slots.acquire(blocking=False):
                raise OSError(EAGAIN, "too many connections are being made")
        except BaseException:
            os.close(sock)
            raise
        if not blocking:
            self._connect(sock, address.raw)
            return
        self.deferred = True
        try:
            threading.Thread(target=self._connect_slowly, args=(sock, address.raw), daemon=True).start()
        except BaseException:
            self.deferred = False
            os.close(sock)
            self._source.slots.release()
            raise

    def _connect_slowly(self, sock: int, raw: bytes) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._connect(sock, raw)
        finally:
            self._source.slots.release()

    def _connect(self, sock: int, raw: bytes) -> None:
        try:
            _native.connect(sock, raw)
        except OSError as error:
            self.deny(error.errno or EPERM)
        else:
            self.answer(0)
        finally:
            os.close(sock)

    def _send(self, value: int, error: int, flags: int) -> None:
        if self.answered:
            raise CtnrError(f"{self!r} was answered already")
        self.answered = True
        try:
            fcntl.ioctl(self._source.fd, IOCTL_SEND, RESP.pack(self._id, value, error, flags))
        except OSError as problem:
            if problem.errno not in _GONE:
                raise


def _fault(problem: OSError) -> OSError:
    """/proc/PID/mem says EIO for what is EFAULT."""
    return OSError(EFAULT, "Bad address") if problem.errno == EIO else problem
