# SPDX-License-Identifier: Apache-2.0
"""ctnr.run(): a container from start to end in one call, with its output. What `import ctnr` offers lazily."""

from __future__ import annotations

import posix
import select
from errno import EAGAIN, EPIPE
from time import monotonic

from ctnr import _native
from ctnr.engine.deferred import Deferred
from ctnr.engine.options import Options
from ctnr.engine.run import create, is_unwanted
from ctnr.errors import CtnrError
from ctnr.runtime.process import poll_exit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import IO, Any

    from ctnr.runtime.container import Container
    from ctnr.runtime.supervisor import Callback

    Stdio = int | IO[Any] | None

PIPE = -1
_CHUNK = 1 << 16
_SIGKILL = 9
_LOOK = 0.01  # seconds between looks at a process whose end cannot be polled for


class Result:
    """What a container did: `exit_code` (128+n after signal n), `stdout` and `stderr` as bytes where they were PIPE."""

    __slots__ = ("exit_code", "stderr", "stdout")

    def __init__(self, exit_code: int, stdout: bytes | None, stderr: bytes | None) -> None:
        self.exit_code = exit_code
        self.stdout = stdout
        self.stderr = stderr

    def __repr__(self) -> str:
        return f"Result(exit_code={self.exit_code}, stdout={self.stdout!r}, stderr={self.stderr!r})"

    def check(self) -> Result:
        """Itself; CtnrError if the program failed."""
        if self.exit_code:
            tail = (self.stderr or b"").decode("utf-8", "replace").strip().splitlines()[-1:]
            raise CtnrError(f"the program in the container ended with {self.exit_code}{': ' + tail[0] if tail else ''}")
        return self


def run(
    source: str,
    command: list[str] | tuple[str, ...] | None = None,
    *,
    stdin: bytes | Stdio = None,
    stdout: Stdio = None,
    stderr: Stdio = None,
    timeout: float | None = None,
    root: str | None = None,
    store: str | None = None,
    on_syscall: Mapping[str, Callback] | None = None,
    **options: Any,
) -> Result:
    """Run a command in a new container and wait for its end.

    source: `host:`, a directory, or a root filesystem archive. command: the program and its arguments (default: a shell).
    stdin: bytes, a file, an fd, or None for nothing. stdout, stderr: a file, an fd, None for this process's own, or PIPE
    to have it in the result. timeout: seconds, after which the container is killed and TimeoutError raised.
    on_syscall: name of a system call -> function that answers it; a coroutine function runs in a loop of its own.
    options: those of ctnr.Options, which are `ctnr run`'s.

    Returns a Result. Raises CtnrError if the container cannot be started; `exit_code` of that is docker's 125, 126, 127.
    Safe from any thread; the program is the container's, not a fork of this process.
    """
    wanted = Options(command, **options)
    if on_syscall:
        _check_loop(on_syscall)
    if wanted.tty:
        raise CtnrError("run() has no terminal to give: use create() and the container's console_fd")
    streams = None
    try:
        with Deferred():
            streams = _Streams(stdin, stdout, stderr)
        container = create(
            source,
            wanted,
            root=root,
            store=store,
            stdin=streams.fds[0],
            stdout=streams.fds[1],
            stderr=streams.fds[2],
            on_syscall=on_syscall,
        )
        try:
            container.start()
            streams.hand_over()
            streams.communicate(container, None if timeout is None else monotonic() + timeout)
            code = container.wait()
        except BaseException:
            container.delete(force=True)
            raise
        if is_unwanted(container):
            container.delete(force=True)
        else:
            container.close()
        return Result(code, streams.output(1), streams.output(2))
    finally:
        if streams is not None:
            streams.close()


def _check_loop(callbacks: Mapping[str, Callback]) -> None:
    """run() waits in this thread: coroutines of its loop would never get their turn."""
    from inspect import iscoroutinefunction

    from ctnr.runtime.supervisor import running_loop

    if running_loop() is not None and any(iscoroutinefunction(callback) for callback in callbacks.values()):
        raise CtnrError(
            "run() would block the loop that on_syscall's coroutines run in: use asyncio.to_thread(ctnr.run, ...)"
        )


def _is_open(fd: int) -> bool:
    try:
        posix.fstat(fd)
    except OSError:
        return False
    return True


class _Streams:
    """The three stdio fds of a container and our ends of the pipes among them."""

    __slots__ = ("_data", "_mine", "_out", "_pipes", "fds")

    def __init__(self, stdin: bytes | Stdio, stdout: Stdio, stderr: Stdio) -> None:
        self._mine: list[int] = []  # to be closed once the container has them
        self._pipes: dict[int, int] = {}  # stream -> our end
        self._out: dict[int, list[bytes]] = {}
        self._data = b""
        self.fds = [0, 1, 2]
        if isinstance(stdin, str):
            raise CtnrError("stdin: text is for str.encode() to make bytes of")
        for number, stream in ((1, stdout), (2, stderr)):
            if isinstance(stream, int) and stream < PIPE:
                raise CtnrError(f"{'stdout' if number == 1 else 'stderr'}: {stream} is no file descriptor")
        try:
            if isinstance(stdin, (bytes, bytearray, memoryview)):
                self._data = bytes(stdin)
                reader, writer = posix.pipe2(posix.O_CLOEXEC)
                self._mine.append(reader)
                self._pipes[0] = writer
                posix.set_blocking(writer, False)
                self.fds[0] = reader
            elif stdin is None:
                self.fds[0] = posix.open("/dev/null", posix.O_RDONLY | posix.O_CLOEXEC)
                self._mine.append(self.fds[0])
            else:
                self.fds[0] = stdin if isinstance(stdin, int) else stdin.fileno()
            for number, stream in ((1, stdout), (2, stderr)):
                if stream is None:
                    if not _is_open(number):
                        self.fds[number] = posix.open("/dev/null", posix.O_WRONLY | posix.O_CLOEXEC)
                        self._mine.append(self.fds[number])
                    continue
                if isinstance(stream, int) and stream == PIPE:
                    reader, writer = posix.pipe2(posix.O_CLOEXEC)
                    self._mine.append(writer)
                    self._pipes[number] = reader
                    self._out[number] = []
                    self.fds[number] = writer
                else:
                    self.fds[number] = stream if isinstance(stream, int) else stream.fileno()
        except BaseException:
            self.close()
            raise

    def hand_over(self) -> None:
        while self._mine:
            posix.close(self._mine.pop())

    def communicate(self, container: Container, deadline: float | None) -> None:
        """Feed and drain until the container has ended and nothing is left to read."""
        poll = select.poll()
        for number, fd in self._pipes.items():
            poll.register(fd, select.POLLOUT if number == 0 else select.POLLIN)
        polls = _native.pidfd_polls(container.pidfd)
        if polls:
            poll.register(container.pidfd, select.POLLIN)
        streams = {fd: number for number, fd in self._pipes.items()}
        view = memoryview(self._data)
        ended = False
        while streams or not ended:
            left = None if deadline is None else deadline - monotonic()
            if left is not None and left <= 0:
                container.kill(_SIGKILL)
                raise TimeoutError(f"container {container.id} was killed: it had not ended in time")
            # once the program has ended, others that it left behind may hold the pipes: take only what is there
            if not polls and not ended:
                ended = poll_exit(container.pidfd, 0)
                left = _LOOK if left is None else min(left, _LOOK)
            events = poll.poll(0 if ended else None if left is None else left * 1000)
            if ended and not any(fd in streams and streams[fd] for fd, _ in events):
                return
            for fd, _ in events:
                if fd == container.pidfd:
                    ended = True
                    poll.unregister(fd)
                    continue
                if streams[fd] == 0:
                    try:
                        view = view[posix.write(fd, view[:_CHUNK]) :] if view else view
                    except OSError as error:
                        if error.errno == EAGAIN:
                            continue
                        if error.errno != EPIPE:
                            raise
                        view = view[:0]
                    if not view:
                        self._drop(poll, streams, fd)
                    continue
                data = posix.read(fd, _CHUNK)
                if data:
                    self._out[streams[fd]].append(data)
                else:
                    self._drop(poll, streams, fd)

    def _drop(self, poll: select.poll, streams: dict[int, int], fd: int) -> None:
        poll.unregister(fd)
        posix.close(self._pipes.pop(streams.pop(fd)))

    def output(self, number: int) -> bytes | None:
        parts = self._out.get(number)
        return None if parts is None else b"".join(parts)

    def close(self) -> None:
        self.hand_over()
        while self._pipes:
            posix.close(self._pipes.popitem()[1])
