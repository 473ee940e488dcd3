# SPDX-License-Identifier: Apache-2.0
"""What happens to a container: its statistics at intervals, OOM kills, pressure; for `for`, `async for` and poll.

HOT (events). v1 tells of an OOM by an eventfd (memory.oom_control), v2 by a change of memory.events; a file of cgroupfs that
has changed polls as "priority" until it is read again. Documents have the shape of runc's `events`.
"""

from __future__ import annotations

import posix
from select import EPOLLIN, EPOLLPRI, epoll
from time import monotonic

from ctnr import log
from ctnr.errors import CtnrError, StateError, SyscallError
from ctnr.runtime.cgroups import dirs
from ctnr.runtime.cgroups.stats import collect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from ctnr.runtime.container import Container

_RESOURCES = ("cpu", "io", "memory")


def stats(container: Container) -> dict[str, Any]:
    """See Container.stats()."""
    group = container.cgroup
    if group is None:
        raise CtnrError("the container has no cgroup, and so nothing that counts what it uses")
    found = collect(group.paths)
    if "rdt" in container.extra:
        from ctnr.runtime import intelrdt

        found["intel_rdt"] = intelrdt.stats(container.extra["rdt"])
    return found


class Events:
    """An iterator of documents; it ends with the container. Close it, or use it in a `with`, to end it earlier.

    `{"type": "stats", "id": ..., "data": ...}` every `interval` seconds (None: never), `{"type": "oom", "id": ...}`, and
    `{"type": "pressure", "id": ..., "data": {"resource": ...}}` for what `pressure` asks: "cpu", "io" or "memory" with a
    trigger of the kernel's, such as "some 150000 1000000" (accounting/psi.rst; cgroup2 only).
    """

    def __init__(
        self, container: Container, interval: float | None = 5.0, pressure: Mapping[str, str] | None = None
    ) -> None:
        """StateError if the container has stopped, CtnrError, SyscallError."""
        if interval is not None and interval <= 0:
            raise CtnrError("duration interval must be greater than 0")
        status = container.status()
        if status in ("stopped", "creating"):
            raise StateError(f"container with id {container.id} is not running", container.id, status)
        group = container.cgroup
        if group is None:
            raise CtnrError("the container has no cgroup, and so nothing that counts what it uses or tells of an OOM")
        self.id = container.id
        self._paths = group.paths
        self._container = container
        self._interval = interval
        self._next = monotonic() + (interval or 0)
        self._queue: list[dict[str, Any]] = []
        self._ended = False
        # fd -> what to do when it is ready
        self._sources: dict[int, Callable[[], None]] = {}
        self._fds: list[int] = []
        self._kills = 0
        self._oom: Callable[[], None] | None = None
        self._poll = epoll()
        try:
            self._watch(container.pidfd, EPOLLIN, self._end)
            self._watch_oom()
            for resource, trigger in (pressure or {}).items():
                self._watch_pressure(resource, trigger)
        except BaseException:
            self.close()
            raise

    def _watch(self, fd: int, events: int, action: Callable[[], None]) -> None:
        self._sources[fd] = action
        self._poll.register(fd, events)

    def _open(self, path: str, flags: int) -> int:
        fd = posix.open(path, flags | posix.O_CLOEXEC)
        self._fds.append(fd)
        return fd

    # --- what is watched

    def _watch_oom(self) -> None:
        try:
            if "memory" in self._paths:
                self._watch_v1(self._paths["memory"])
                return
            file = self._paths.get("", "") + "/memory.events"
            fd = self._open(file, posix.O_RDONLY)
            self._kills = _kills(fd)
            self._oom = lambda: self._changed(fd)
            self._watch(fd, EPOLLPRI, self._oom)
        except FileNotFoundError:
            log.warning("no memory controller here: an OOM will not be told of")
        except OSError as error:
            raise SyscallError("wait for an OOM in", error.errno or 0, str(error.filename or "")) from None

    def _watch_v1(self, path: str) -> None:
        control = self._open(path + "/memory.oom_control", posix.O_RDONLY)
        eventfd = posix.eventfd(0, posix.EFD_CLOEXEC | posix.EFD_NONBLOCK)
        self._fds.append(eventfd)
        dirs.write(path + "/cgroup.event_control", f"{eventfd} {control}")

        def told() -> None:
            try:
                posix.eventfd_read(eventfd)
            except BlockingIOError:
                return
            # the removal of the cgroup is told in the same way
            if dirs.exists(path + "/cgroup.event_control"):
                self._queue.append({"type": "oom", "id": self.id})

        self._oom = told
        self._watch(eventfd, EPOLLIN, told)

    def _changed(self, fd: int) -> None:
        try:
            kills = _kills(fd)
        except OSError:
            return  # the cgroup has been removed
        if kills > self._kills:
            self._queue.append({"type": "oom", "id": self.id})
        self._kills = kills

    def _watch_pressure(self, resource: str, trigger: str) -> None:
        if resource not in _RESOURCES:
            raise CtnrError(f"pressure: {resource!r} is not one of {', '.join(_RESOURCES)}")
        if "" not in self._paths:
            raise CtnrError(f"pressure: {resource}: no cgroup2 is mounted, and v1 measures none")
        path = f"{self._paths['']}/{resource}.pressure"
        try:
            fd = self._open(path, posix.O_RDWR)
            posix.write(fd, trigger.encode())
        except OSError as error:
            raise SyscallError(f"pressure: write {trigger!r} to", error.errno or 0, path) from None
        document = {"type": "pressure", "id": self.id, "data": {"resource": resource}}
        self._watch(fd, EPOLLPRI, lambda: self._queue.append(document))

    def _end(self) -> None:
        # an OOM came before the end it brought, whatever the order in which we are told
        if self._oom is not None:
            self._oom()
        self._ended = True

    # --- iterating

    def fileno(self) -> int:
        """Readable when something other than an interval's end has happened."""
        return self._poll.fileno()

    def _timeout(self) -> float | None:
        return None if self._interval is None else max(0.0, self._next - monotonic())

    def _step(self, timeout: float | None) -> None:
        for fd, _ in self._poll.poll(timeout):
            action = self._sources.get(fd)
            if action is not None and not self._ended:
                action()
        if self._interval is not None and not self._ended and monotonic() >= self._next:
            self._queue.append({"type": "stats", "id": self.id, "data": self._container.stats()})
            self._next = max(self._next + self._interval, monotonic())

    def __iter__(self) -> Events:
        return self

    def __next__(self) -> dict[str, Any]:
        while not self._queue:
            if self._ended:
                self.close()
                raise StopIteration
            self._step(self._timeout())
        return self._queue.pop(0)

    def __aiter__(self) -> Events:
        return self

    async def __anext__(self) -> dict[str, Any]:
        import asyncio

        while not self._queue:
            if self._ended:
                self.close()
                raise StopAsyncIteration
            loop = asyncio.get_running_loop()
            ready = asyncio.Event()
            loop.add_reader(self.fileno(), ready.set)
            try:
                await asyncio.wait_for(ready.wait(), self._timeout())
            except TimeoutError:
                pass  # it is time for statistics
            finally:
                loop.remove_reader(self.fileno())
            self._step(0)
        return self._queue.pop(0)

    def close(self) -> None:
        """Give up the fds; the iteration has ended then."""
        self._ended = True
        self._sources.clear()
        self._poll.close()
        for fd in self._fds:
            posix.close(fd)
        self._fds.clear()

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _kills(fd: int) -> int:
    for line in posix.pread(fd, 4096, 0).decode().splitlines():
        name, _, count = line.partition(" ")
        if name == "oom_kill":
            return int(count)
    return 0
