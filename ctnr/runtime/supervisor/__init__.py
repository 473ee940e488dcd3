# SPDX-License-Identifier: Apache-2.0
"""on_syscall: system calls of a container that are answered by Python (seccomp_unotify(2)).

One thread a container polls its listeners: that of the container's own processes, and one for each exec, by whoever it is
started. They come over a socket in the state directory, as to any other agent (runtime/listener.py). A hostile
program can keep its own supervisor busy and nobody else's.

With a listener comes the end of a pipe whose other end only the init has, until the exec of its program. As long as it has,
what the kernel asks about is the init's own doing, which is never put to a callback: one that fakes setuid(2) would leave
the program root.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import sys
import threading
from errno import EAGAIN, EINTR, EINVAL, ENOENT, ENOSYS, EPERM

from ctnr import _native, files, jsonio, log
from ctnr.errors import CtnrError
from ctnr.runtime.listener import SOCKET
from ctnr.runtime.state import check_id
from ctnr.runtime.supervisor.request import (
    CONNECTIONS,
    FLAG_CONTINUE,
    IOCTL_RECV,
    IOCTL_SEND,
    IOCTL_SET_FLAGS,
    NOTIF,
    RESP,
    SYNC_WAKE_UP,
    Request,
)
from ctnr.runtime.supervisor.rules import numbers, with_notifications

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from typing import Any

    from ctnr.spec.types import Config

    # returns nothing, if it answered, or the value that the call returns, or a coroutine that does either
    Callback = Callable[[Request], Any]

__all__ = ["Request", "Source", "Supervisor"]

_EMPTY = bytes(NOTIF.size)
_CLOSED = 0x7FFFFFFF  # no fd: EBADF
_MESSAGE = 1 << 18
_STOP_SECONDS = 1.0


def supervise(callbacks: Mapping[str, Callback], config: Config, root: str, id: str) -> tuple[Supervisor, Config]:
    """A supervisor for the container `id` that is to be under `root`, and the config that makes the kernel ask it."""
    check_id(id)
    supervisor = Supervisor(callbacks)
    return supervisor, supervisor.configure(config, files.join(files.abspath(root), id))


class Source:
    """A listener's fd: the calls of one process tree. `pid`: the tree's first; `exe`: the init's image."""

    __slots__ = ("exe", "fd", "joined", "pid", "pipe", "slots")

    def __init__(self, fd: int, pipe: int, pid: int, joined: bool) -> None:
        self.fd = fd
        self.pipe = pipe  # at its end once the program is executed, -1 from then on
        self.pid = pid
        self.joined = joined
        self.exe = _image(pid)
        self.slots = threading.BoundedSemaphore(CONNECTIONS)

    def is_init(self, pid: int) -> bool:
        """Whether a call that waits is the init's, or that of a process it has not yet made a program of.

        The exec closes the pipe before the program's first instruction, and nobody else can hold it open.
        """
        if self.pipe < 0:
            return False
        try:
            os.read(self.pipe, 1)
        except BlockingIOError:
            pass
        else:
            self._started()
            return False
        if pid == self.pid:
            return True
        image = _image(pid)
        if image is not None or not self.joined:
            return image is not None and image == self.exe
        # its reaper's child, in an exec: as unreadable as the init itself
        return self.exe is None and _parent(pid) == self.pid

    def _started(self) -> None:
        if self.pipe >= 0:
            os.close(self.pipe)
            self.pipe = -1

    def close(self) -> None:
        self._started()
        fd, self.fd = self.fd, _CLOSED
        if fd != _CLOSED:
            os.close(fd)


def _image(pid: int) -> tuple[int, int] | None:
    try:
        status = os.stat(f"/proc/{pid}/exe")
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _parent(pid: int) -> int:
    try:
        data = files.read_file(f"/proc/{pid}/stat")
    except OSError:
        return 0
    return int(data[data.rindex(b")") + 2 :].split()[1])


class Supervisor:
    """Answers the system calls of one container. `callbacks`: name -> function of a Request, or coroutine function."""

    def __init__(self, callbacks: Mapping[str, Callback]) -> None:
        self._callbacks: dict[str, Callback] = {}
        self._names = list(callbacks)
        for name, callback in callbacks.items():
            self.set(name, callback)
        self._loop: Any = running_loop()
        self._own_loop = False
        self._reported: set[tuple[str, str]] = set()
        self._listening: socket.socket | None = None
        self._waiting: dict[int, socket.socket] = {}  # connections that have said nothing yet
        self._sources: dict[int, Source] = {}
        self._poll = select.poll()
        self._wake = -1
        self._over = False  # the container's own processes have ended
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def set(self, name: str, callback: Callback) -> None:
        """Have `callback` asked about a system call. CtnrError unless the container was made for it."""
        if not callable(callback):
            raise CtnrError(f"on_syscall: {name!r}: {callback!r} is not callable")
        if name not in self._names:
            raise CtnrError(
                f"on_syscall: the container was not made to ask about {name!r}: name it in on_syscall of create()"
            )
        self._callbacks[name] = callback

    def configure(self, config: Config, directory: str) -> Config:
        """The config with what makes the kernel ask; `directory` will be the container's state."""
        config = with_notifications(config, self._names, files.join(directory, SOCKET))
        found = numbers(config["linux"]["seccomp"], self._names)
        self._direct = found.direct
        self._multiplexed = found.multiplexed
        return config

    def listen(self, dir_fd: int) -> None:
        """Begin: listen in the state directory."""
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listening.bind(f"/proc/self/fd/{dir_fd}/{SOCKET}")
            listening.listen(64)
            listening.setblocking(False)
            self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except BaseException:
            listening.close()
            raise
        self._listening = listening
        self._poll.register(listening, select.POLLIN)
        self._poll.register(self._wake, select.POLLIN)
        self._thread = threading.Thread(target=self._run, name="ctnr-on-syscall", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End: what is still asked, and whatever comes, fails with ENOSYS. Waits a little for a callback that is at work."""
        with self._lock:
            self._stopping = True
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(_STOP_SECONDS)

    # --- the thread

    def _run(self) -> None:
        # signals are for the main thread: none ends a call of ours half way
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._serve()
        except BaseException as error:
            # without us the calls fail with ENOSYS: none is let through
            self._report("the supervisor", error, "every call that is asked about fails with ENOSYS from now on")
        finally:
            self._close()

    def _serve(self) -> None:
        assert self._listening is not None
        listening = self._listening.fileno()
        sources, poll = self._sources, self._poll.poll
        while not self._stopping:
            for fd, event in poll():
                source = sources.get(fd)
                if source is not None:
                    if event & select.POLLIN:
                        self._receive(source)
                    else:  # POLLHUP: the last process with this filter has gone
                        self._forget(source)
                elif fd == listening:
                    self._accept()
                elif fd in self._waiting:
                    self._take(fd)
            if self._over and not sources:
                return

    def _accept(self) -> None:
        assert self._listening is not None
        try:
            connection, _ = self._listening.accept()
        except OSError as error:
            if error.errno in (EAGAIN, EINTR):
                return
            raise
        connection.setblocking(False)
        self._waiting[connection.fileno()] = connection
        self._poll.register(connection, select.POLLIN)

    def _take(self, number: int) -> None:
        """The container process state and the fd, from the init."""
        connection = self._waiting.pop(number)
        self._poll.unregister(number)
        fds: list[int] = []
        try:
            data, fds = _native.recvmsg(connection.fileno(), _MESSAGE, 4)
            told = jsonio.loads(data) if data else None  # a start that failed before it came to this
            if told is None or len(fds) != 2:
                raise ValueError("no document with two fds")
            os.set_blocking(fds[1], False)
            source = Source(fds[0], fds[1], told["pid"], told["pid"] != told["state"]["pid"])
        except (OSError, ValueError, KeyError, TypeError):
            for fd in fds:
                os.close(fd)
            return
        finally:
            connection.close()
        try:
            fcntl.ioctl(source.fd, IOCTL_SET_FLAGS, SYNC_WAKE_UP)
        except OSError as error:
            if error.errno != EINVAL:  # before Linux 6.6
                raise
        self._sources[source.fd] = source
        self._poll.register(source.fd, select.POLLIN)

    def _forget(self, source: Source) -> None:
        self._poll.unregister(source.fd)
        del self._sources[source.fd]
        if not source.joined:
            self._over = True
        source.close()

    def _close(self) -> None:
        with self._lock:
            if self._wake >= 0:
                os.close(self._wake)
                self._wake = -1
        if self._listening is not None:
            self._listening.close()
        for connection in self._waiting.values():
            connection.close()
        for source in self._sources.values():
            source.close()
        self._sources.clear()
        if self._own_loop:
            self._loop.call_soon_threadsafe(self._loop.stop)

    # --- a call

    def _receive(self, source: Source) -> None:
        try:
            data = fcntl.ioctl(source.fd, IOCTL_RECV, _EMPTY)
        except OSError as error:
            if error.errno in (ENOENT, EINTR):  # it was killed before we came to it
                return
            raise
        id, pid, _, number, arch, _, *args = NOTIF.unpack(data)
        if source.pipe >= 0 and source.is_init(pid):
            self._continue(source, id)
            return
        name = self._direct.get((arch, number), "")
        request = Request(source, id, pid, name, number, arch, tuple(args))
        try:
            if not name:
                self._demultiplex(request)
            result = self._callbacks[request.name](request)
            if result is not None:
                self._take_result(request, result)
            elif not request.answered and not request.deferred:
                raise CtnrError("the callback gave no answer")
        except BaseException as error:
            self._failed(request, error)

    def _continue(self, source: Source, id: int) -> None:
        try:
            fcntl.ioctl(source.fd, IOCTL_SEND, RESP.pack(id, 0, 0, FLAG_CONTINUE))
        except OSError as error:
            if error.errno != ENOENT:
                raise

    def _demultiplex(self, request: Request) -> None:
        """socketcall(2) and ipc(2): the arguments proper are in memory, or follow."""
        which = self._multiplexed.get((request.arch, request.number)) or {}
        name = which.get(request.args[0] & 0xFFFFFFFF)
        if name is None:
            request.deny(ENOSYS)
            raise CtnrError(f"system call {request.number} of architecture {request.arch:#x} was not to be asked about")
        request.name = name
        request.unwrap()

    def _take_result(self, request: Request, result: Any) -> None:
        if isinstance(result, int) and not isinstance(result, bool):
            request.answer(result)
        elif hasattr(result, "__await__"):
            request.deferred = True
            self._await(request, result)
        else:
            raise CtnrError(f"the callback returned {result!r}: nothing, an int, or a coroutine")

    def _failed(self, request: Request, error: BaseException) -> None:
        """A callback's exception is an answer: the errno of an OSError, EPERM for any other, which is reported once."""
        errno = EPERM
        if isinstance(error, OSError) and error.errno and not request.answered:
            errno = error.errno
        elif not isinstance(error, ProcessLookupError):
            self._report(request.name or "?", error, "answered EPERM" if not request.answered else "it was answered")
        if not request.answered:
            try:
                request.deny(errno)
            except ValueError:
                request.deny(EPERM)

    def _report(self, name: str, error: BaseException, what: str) -> None:
        key = (name, f"{type(error).__name__}: {error}")
        if key in self._reported or len(self._reported) > 1000:
            return
        self._reported.add(key)
        where = ""
        trace = error.__traceback__
        while trace is not None:
            where = f" ({trace.tb_frame.f_code.co_filename}:{trace.tb_lineno})"
            trace = trace.tb_next
        log.warning(f"on_syscall: {name}: {key[1]}{where}: {what}")

    # --- asyncio

    def _await(self, request: Request, coroutine: Coroutine[Any, Any, Any]) -> None:
        import asyncio

        if self._loop is None or self._loop.is_closed():
            self._loop = asyncio.new_event_loop()
            self._own_loop = True
            threading.Thread(target=_run_loop, args=(self._loop,), name="ctnr-on-syscall-loop", daemon=True).start()
        try:
            asyncio.run_coroutine_threadsafe(self._finish(request, coroutine), self._loop)
        except BaseException:
            coroutine.close()
            raise

    async def _finish(self, request: Request, coroutine: Coroutine[Any, Any, Any]) -> None:
        request.deferred = False
        try:
            result = await coroutine
            if result is not None:
                if not isinstance(result, int) or isinstance(result, bool):
                    raise CtnrError(f"the callback returned {result!r}: nothing, or an int")
                request.answer(result)
            elif not request.answered and not request.deferred:
                raise CtnrError("the callback gave no answer")
        except BaseException as error:
            self._failed(request, error)
            if not isinstance(error, Exception):
                raise


def running_loop() -> Any:
    """asyncio's loop that runs in this thread, or None."""
    if "asyncio" not in sys.modules:
        return None
    import asyncio

    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _run_loop(loop: Any) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        loop.run_forever()
    finally:
        loop.close()
