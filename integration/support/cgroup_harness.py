# SPDX-License-Identifier: Apache-2.0
"""What the cgroup scenarios are made of: processes in a cgroup, cgroups that go away again, what this machine has.

Imported only by programs that cgroup_scenarios.py runs; their second argument is the TOKEN that all names of theirs carry.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from ctnr import _native
from ctnr.errors import CtnrError
from ctnr.runtime import cgroups
from ctnr.runtime.cgroups import Cgroup, dirs, v1, v2
from ctnr.runtime.cgroups.layout import layout

TOKEN = sys.argv[2]
LAYOUT = layout()
libc = ctypes.PyDLL(None, use_errno=True)
CLONE_INTO_CGROUP = 0x200000000
SYS_CLONE3 = 435
assert _native and v2  # loaded now: an ordinary user may not reach the checkout


class Skip(Exception):
    pass


def read(path: str) -> str:
    return dirs.read(path).strip()


# --- children


def clone_into(cgroup_fd: int) -> int:
    """fork() whose child is born in the cgroup."""
    args = (ctypes.c_uint64 * 11)(CLONE_INTO_CGROUP, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, cgroup_fd)
    pid = int(libc.syscall(SYS_CLONE3, ctypes.byref(args), ctypes.sizeof(args)))
    if pid < 0:
        raise OSError(ctypes.get_errno(), "clone3")
    return pid


class Child:
    """A process in the cgroup, put there as the launcher does: cloned into cgroup2, writing itself into v1. It answers
    a question (a line) with what `answer` makes of it, and writes a dot whenever nobody asks, if `ticking`.
    """

    def __init__(
        self, cgroup: Cgroup, answer: Callable[[str], str] = str, ticking: bool = False, sub: str = ""
    ) -> None:
        fds = cgroup.join_fds(sub)
        directory = cgroup.fd_v2(sub)
        here, there = os.pipe(), os.pipe()
        self.pid = clone_into(directory) if directory is not None else os.fork()
        if self.pid == 0:
            try:
                for fd in fds:
                    os.write(fd, b"0")
                self._serve(here[0], there[1], answer, ticking)
            finally:
                os._exit(1)
        for fd in (*fds, here[0], there[1], *([directory] if directory is not None else [])):
            os.close(fd)
        self.to, self.by = here[1], there[0]
        assert self._line() == "ready"

    def _serve(self, questions: int, answers: int, answer: Callable[[str], str], ticking: bool) -> NoReturn:
        os.write(answers, b"ready\n")
        while True:
            if ticking and not select.select([questions], [], [], 0.001)[0]:
                os.write(answers, b".")
                continue
            line = os.read(questions, 65536)
            if not line:
                os._exit(0)
            os.write(answers, answer(line.decode()).encode() + b"\n")

    def _line(self) -> str:
        text = b""
        while b"\n" not in text:
            chunk = os.read(self.by, 65536)
            assert chunk, "the child ended"
            text += chunk
        # a ticking child ticks before and after
        return text.partition(b"\n")[0].decode().lstrip(".")

    def ask(self, question: str) -> str:
        os.write(self.to, question.encode())
        return self._line()

    def ticks(self, within: float) -> bool:
        """Whether it writes something more (what it has written so far does not count)."""
        while select.select([self.by], [], [], 0)[0]:
            os.read(self.by, 65536)
        return bool(select.select([self.by], [], [], within)[0])

    def wait(self) -> int:
        """The status as waitpid has it."""
        os.close(self.to)
        os.close(self.by)
        return os.waitpid(self.pid, 0)[1]


def whereabouts(pid: int) -> dict[str, str]:
    found = {}
    for line in read(f"/proc/{pid}/cgroup").splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            found[name] = path
    return found


# --- cgroups


@contextmanager
def made(resources: dict[str, Any] | None = None, name: str = "c", path: str | None = None) -> Iterator[Cgroup]:
    """A new cgroup below /TOKEN; removed, processes and all."""
    cgroup = cgroups.new(path or f"/{TOKEN}/{name}", name, resources=resources)
    assert cgroup is not None
    cgroup.create(resources)
    try:
        yield cgroup
    finally:
        cgroup.kill()
        cgroup.delete()


def controllers() -> set[str]:
    """What can be limited here, by v2's names."""
    found = {"io" if name == "blkio" else name for name in LAYOUT.v1}
    if LAYOUT.unified is not None:
        found |= set(read(LAYOUT.unified + "/cgroup.controllers").split())
    return found


def mount_points() -> list[str]:
    points = list(dict.fromkeys(LAYOUT.v1.values()))
    return points + ([LAYOUT.unified] if LAYOUT.unified is not None else [])


def leftovers() -> list[str]:
    return [f"{point}/{TOKEN}" for point in mount_points() if os.path.exists(f"{point}/{TOKEN}")]


def on_v1(controller: str) -> bool:
    return v1.NAME.get(controller, controller) in LAYOUT.v1


def value(cgroup: Cgroup, controller: str, file: str) -> str:
    name = v1.NAME.get(controller, controller)
    return read(f"{cgroup.paths.get(name) or cgroup.paths['']}/{file}")


def refused(call: Callable[[], object], *words: str) -> CtnrError:
    try:
        call()
    except CtnrError as e:
        for word in words:
            assert word in str(e), str(e)
        assert "\n" not in str(e)
        return e
    raise AssertionError(f"not refused: {words}")


def reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue
    except ChildProcessError:
        return
