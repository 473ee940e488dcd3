# SPDX-License-Identifier: Apache-2.0
"""ctnr.runtime.launch: the parent's side of the protocol, against an init that the test plays."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctnr import _native
from ctnr.runtime import plan as p
from ctnr.runtime.launch import Launch
from ctnr.runtime.plan import MESSAGE, Plan


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    """The init, which makes a clone of itself and ends, and the clone, which goes on."""
    started = [subprocess.Popen(["true"]), subprocess.Popen(["sleep", "1000"])]
    yield started
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.parametrize("clone_first", [False, True])
def test_the_clone_may_be_heard_first(processes: list[subprocess.Popen[bytes]], clone_first: bool) -> None:
    """Else the program is taken for the process that made it: another pid, and exit code 0 whatever the program says."""
    init, clone = processes
    plan = Plan()
    plan.add(p.CLONE, "", args=(0,))
    plan.add(p.SYNC, "", args=(p.PHASE_LIMITS,))
    plan.add(p.WAIT, "")
    ours, theirs = _native.socketpair()
    launch = Launch(plan, ours)
    launch.pid, launch.pidfd = init.pid, os.pidfd_open(init.pid)
    heard = [(p.MSG_PID, 0, clone.pid, 0), (p.MSG_SYNC, 1, p.PHASE_LIMITS, 0), (p.MSG_READY, 2, 0, 0)]
    for message in (heard[1], heard[0], heard[2]) if clone_first else heard:
        _native.sendmsg(theirs, MESSAGE.pack(*message))
    served: list[tuple[int, int]] = []

    def phase(number: int) -> bytes:
        served.append((number, launch.pid))
        return b""

    launch.until_ready(phase, lambda: None)
    assert served == [(p.PHASE_LIMITS, clone.pid)]
    assert launch.pid == clone.pid
    assert f"Pid:\t{clone.pid}\n" in Path(f"/proc/self/fdinfo/{launch.pidfd}").read_text()
    launch.abort()
    os.close(theirs)
