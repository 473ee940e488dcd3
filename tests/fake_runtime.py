# SPDX-License-Identifier: Apache-2.0
"""A stand-in for ctnr.runtime.container: it writes down what the command asks of it, and answers as it is told."""

from __future__ import annotations

import copy
import os
import signal
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ctnr.cli
from ctnr import log
from ctnr.errors import StateError

CONFIG: dict[str, Any] = {
    "ociVersion": "1.3.0",
    "root": {"path": "rootfs"},
    "process": {
        "terminal": True,
        "consoleSize": {"height": 1, "width": 2},
        "cwd": "/work",
        "args": ["sh", "-c", "while true; do date; done"],
        "env": ["PATH=/bin", "TERM=xterm"],
        "user": {"uid": 5, "gid": 6, "additionalGids": [7]},
        "capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]},
    },
}


class Fake:
    """The state of the fake: `calls` is what was asked for, the rest what is answered."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.states: dict[str, dict[str, Any]] = {}
        self.config: dict[str, Any] = copy.deepcopy(CONFIG)
        self.error: Exception | None = None
        self.exit_code = 0
        self.pids = [1, os.getpid()]

    def add(self, id: str, status: str = "running", **more: Any) -> None:
        self.states[id] = {
            "ociVersion": "1.3.0",
            "id": id,
            "pid": 0 if status == "stopped" else 4711,
            "status": status,
            "bundle": "/bundle",
            "rootfs": "/bundle/rootfs",
            "created": "2026-11-21T22:48:01.5Z",
            "owner": "root",
        } | more

    def note(self, call: str, **arguments: Any) -> None:
        self.calls.append((call, arguments))
        if self.error is not None:
            raise self.error


class Process:
    """A real child that ends at once with the exit code asked for: what waits for it waits on a real pidfd."""

    console_fd: int | None = None

    def __init__(self, fake: Fake) -> None:
        self.killed: list[int] = []
        self.pid = os.posix_spawn("/bin/sh", ["sh", "-c", f"exit {fake.exit_code}"], {})
        self.pidfd = os.pidfd_open(self.pid)

    def kill(self, signal: int) -> None:
        self.killed.append(signal)

    def wait(self) -> int:
        _, status = os.waitpid(self.pid, 0)
        os.close(self.pidfd)
        return os.waitstatus_to_exitcode(status)


def make_modules(fake: Fake) -> list[types.ModuleType]:
    """The modules, all of whose answers come from `fake`."""

    class Container:
        def __init__(self, id: str) -> None:
            self.id = id
            self.pid = 4711
            self.config = fake.config
            self.extra = fake.states.get(id, {})
            self.console_fd: int | None = None

        @classmethod
        def create(cls, id: str, bundle: str, **options: Any) -> Container:
            fake.note("create", id=id, bundle=bundle, **options)
            return cls(id)

        @classmethod
        def load(cls, id: str, root: str | None = None) -> Container:
            if id not in fake.states:
                raise StateError("container does not exist", id)
            return cls(id)

        def start(self) -> None:
            fake.note("start", id=self.id)
            self.process = Process(fake)
            self.pid, self.pidfd = self.process.pid, self.process.pidfd

        def wait(self) -> int:
            return self.process.wait()

        def state(self) -> dict[str, Any]:
            return fake.states[self.id]

        def close(self) -> None:
            pass

        def kill(self, signal: int, all: bool = False) -> None:
            fake.note("kill", id=self.id, signal=signal, all=all)

        def pause(self) -> None:
            fake.note("pause", id=self.id)

        def status(self) -> str:
            return str(fake.states[self.id]["status"])

        def stats(self) -> dict[str, Any]:
            return {"pids": {"current": 1}}

        def events(self, interval: float) -> Iterator[dict[str, Any]]:
            fake.note("events", interval=interval)
            yield {"type": "stats", "id": self.id, "data": self.stats()}
            yield {"type": "oom", "id": self.id}

        def update(self, resources: dict[str, Any], l3_cache_schema: str, mem_bw_schema: str) -> None:
            fake.note("update", id=self.id, resources=resources, rdt=(l3_cache_schema, mem_bw_schema))

        def resume(self) -> None:
            fake.note("resume", id=self.id)

        def delete(self, force: bool = False) -> None:
            fake.calls.append(("delete", {"id": self.id, "force": force}))

        def processes(self) -> list[int]:
            return fake.pids

        def exec(self, process: dict[str, Any], **options: Any) -> Process:
            fake.note("exec", id=self.id, process=process, **options)
            return Process(fake)

    def list_containers(root: str | None = None) -> list[dict[str, Any]]:
        return list(fake.states.values())

    class Plan:
        def explain(self) -> str:
            return "1. clone3"

    def plan(bundle: str, **options: Any) -> Plan:
        fake.note("plan", bundle=bundle, **options)
        return Plan()

    container = types.ModuleType("ctnr.runtime.container")
    vars(container).update(Container=Container)
    listing = types.ModuleType("ctnr.runtime.listing")
    vars(listing).update(list_containers=list_containers)
    planning = types.ModuleType("ctnr.runtime.planning")
    vars(planning).update(plan=plan)
    return [container, listing, planning]


def _forget() -> None:
    """Have the command's modules imported anew: they have bound names of the runtime, or of its stand-in."""
    for name in [name for name in sys.modules if name.startswith("ctnr.cli.")]:
        del sys.modules[name]
        vars(ctnr.cli).pop(name.removeprefix("ctnr.cli."), None)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Fake]:
    """The fake in place of the runtime, for the time of a test, in an empty current directory."""
    fake = Fake()
    monkeypatch.chdir(tmp_path)
    for module in make_modules(fake):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    _forget()
    yield fake
    _forget()
    log.configure(None)
    after = {number: signal.getsignal(number) for number in signal.valid_signals()}
    assert after == before, "signal handlers were left behind"
