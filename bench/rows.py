# SPDX-License-Identifier: Apache-2.0
"""The rows of the bench: a worker that does the thing once per line, or a command from posix_spawn to its end."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Callable
from typing import NoReturn

PREFIX = f"ctbench{os.getpid()}"


class Failed(Exception):
    """A row could not be measured: the bench ends with this one line."""


def fail(text: str) -> NoReturn:
    raise Failed(text)


class Row:
    """Something that is measured once per round."""

    def __init__(self, name: str, what: str) -> None:
        self.name = name
        self.what = what
        self.samples: list[int] = []

    def open(self) -> None:
        """Before the first round."""

    def measure(self) -> int:
        """One sample, in nanoseconds."""
        raise NotImplementedError

    def close(self) -> None:
        """After the last round."""


class Worker(Row):
    """A long-lived process that does the thing once per line and says how many nanoseconds it took."""

    def __init__(self, name: str, what: str, argv: list[str]) -> None:
        super().__init__(name, what)
        self.argv = argv
        self.process: subprocess.Popen[str] | None = None

    def open(self) -> None:
        self.process = subprocess.Popen(self.argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/")

    def measure(self) -> int:
        assert self.process and self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line.strip():
            fail(f"{self.name}: the worker ended ({shlex.join(self.argv)})")
        return int(line)

    def close(self) -> None:
        if self.process and self.process.stdin and self.process.stdout:
            self.process.stdin.close()
            self.process.stdout.close()
            self.process.wait()


class Command(Row):
    """A command from posix_spawn to its end. `before` and `after` run outside the measured time."""

    def __init__(
        self,
        name: str,
        what: str,
        argv: Callable[[str], list[str]],
        before: Callable[[str], None] | None = None,
        after: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__(name, what)
        self.argv = argv
        self.before = before
        self.after = after
        self.count = 0

    def measure(self) -> int:
        self.count += 1
        id = f"{PREFIX}-{self.name.replace(' ', '-').replace('/', '-')}-{self.count}"
        if self.before:
            self.before(id)
        took = timed(self.argv(id), self.name)
        if self.after:
            self.after(id)
        return took


_null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
_log = os.memfd_create("stderr")
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
}


def timed(argv: list[str], name: str) -> int:
    """Nanoseconds of one run; anything but exit 0 ends the bench with the command's own words."""
    os.ftruncate(_log, 0)
    os.lseek(_log, 0, os.SEEK_SET)
    actions = [(os.POSIX_SPAWN_DUP2, _null, 0), (os.POSIX_SPAWN_DUP2, _null, 1), (os.POSIX_SPAWN_DUP2, _log, 2)]
    begin = time.perf_counter_ns()
    pid = os.posix_spawn(argv[0], argv, ENVIRONMENT, file_actions=actions)
    _, status = os.waitpid(pid, 0)
    took = time.perf_counter_ns() - begin
    if status != 0:
        said = os.pread(_log, 4096, 0).decode("utf-8", "replace").strip()
        fail(f"{name}: {shlex.join(argv)}: exit {os.waitstatus_to_exitcode(status)}: {said}")
    return took


def quietly(*argv: str) -> None:
    timed(list(argv), argv[0])
