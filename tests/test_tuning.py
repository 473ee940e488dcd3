# SPDX-License-Identifier: Apache-2.0
"""ctnr.runtime.tuning: the kernel's structures for scheduler, I/O priority, CPU affinity, memory policy; and who sets them."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from ctnr import _native
from ctnr.errors import SpecError
from ctnr.runtime import compile as compiler
from ctnr.runtime import plan as p
from ctnr.runtime import tuning
from ctnr.runtime.compile import Context
from ctnr.runtime.explain import words
from ctnr.runtime.plan import Plan

PROCESS: dict[str, Any] = {"cwd": "/", "args": ["/bin/true"], "user": {"uid": 0, "gid": 0}}
FIFO = {"policy": "SCHED_FIFO", "priority": 7, "flags": ["SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_KEEP_PARAMS"]}
DEADLINE = {"policy": "SCHED_DEADLINE", "runtime": 2000, "deadline": 3000, "period": 4000}


def context(linux: dict[str, Any] | None = None, *, privileged: bool = False, init: bool = False) -> Context:
    ctx = Context({"ociVersion": "1.3.0", "root": {"path": "rootfs"}, "linux": linux or {}}, "id", "/bundle")  # type: ignore[typeddict-item]
    ctx.privileged_parent = privileged
    ctx.init = init
    return ctx


def exec_steps(ctx: Context, **process: Any) -> list[p.Step]:
    return compiler.compile_exec(ctx, {**PROCESS, **process}, 0).steps  # type: ignore[typeddict-item]


def test_sched_attr_is_the_kernels_structure() -> None:
    unpack = struct.Struct("<IIQiIQQQII").unpack
    assert unpack(tuning.sched_attr(FIFO)) == (56, 1, 0x11, 0, 7, 0, 0, 0, 0, 0)  # type: ignore[arg-type]
    assert unpack(tuning.sched_attr(DEADLINE)) == (56, 6, 0, 0, 0, 2000, 3000, 4000, 0, 0)  # type: ignore[arg-type]
    assert unpack(tuning.sched_attr({"policy": "SCHED_BATCH", "nice": -5})) == (56, 3, 0, -5, 0, 0, 0, 0, 0, 0)
    assert unpack(tuning.sched_attr(FIFO, reset=False))[2] == 0x10  # type: ignore[arg-type]


def test_a_structure_that_lies_about_its_size_never_reaches_the_kernel() -> None:
    with pytest.raises(ValueError, match="size"):
        _native.sched_setattr(0, b"\x38\0\0\0" + b"\0" * 44)
    with pytest.raises(ValueError, match="size"):
        _native.sched_setattr(0, b"")


def test_masks_are_whole_unsigned_longs() -> None:
    assert tuning.mask([]) == b""
    assert tuning.mask([0, 3]) == b"\x09" + b"\0" * 7
    assert tuning.mask([64]) == b"\0" * 8 + b"\1" + b"\0" * 7
    assert len(tuning.mask([63])) == 8


def test_io_priority() -> None:
    assert tuning.io_priority({"class": "IOPRIO_CLASS_BE", "priority": 5}) == 2 << 13 | 5
    assert tuning.io_priority({"class": "IOPRIO_CLASS_IDLE"}) == 3 << 13


def test_every_step_says_what_was_asked_for() -> None:
    linux = {
        "personality": {"domain": "LINUX32"},
        "memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0-1", "flags": ["MPOL_F_STATIC_NODES"]},
    }
    plan = Plan()
    process = {"scheduler": FIFO, "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 5}}
    tuning.steps(plan, context(linux), process, "process")  # type: ignore[arg-type]
    assert [(words(step), step.field) for step in plan.steps] == [
        ("be scheduled as SCHED_FIFO priority 7 SCHED_FLAG_RESET_ON_FORK SCHED_FLAG_KEEP_PARAMS", "process.scheduler"),
        ("set the I/O priority IOPRIO_CLASS_BE 5", "process.ioPriority"),
        ("set the personality LINUX32", "linux.personality"),
        ("set the memory policy MPOL_BIND MPOL_F_STATIC_NODES 0-1", "linux.memoryPolicy"),
    ]
    assert plan.steps[2].args == (8,)
    assert plan.steps[3].args == (2 | 1 << 15,) and plan.steps[3].strings[0] == b"\3" + b"\0" * 7


def test_they_come_before_what_takes_the_privileges_away() -> None:
    ctx = context({"personality": {"domain": "LINUX"}, "seccomp": None})
    ops = [step.op for step in exec_steps(ctx, scheduler=FIFO, ioPriority={"class": "IOPRIO_CLASS_RT", "priority": 0})]
    own = [ops.index(op) for op in (p.SCHEDULER, p.IO_PRIORITY, p.PERSONALITY)]
    assert max(own) < min(ops.index(op) for op in (p.USER, p.CAPS, p.BOUNDING))
    assert min(own) > ops.index(p.CLONE)  # SCHED_FLAG_RESET_ON_FORK: nothing is forked afterwards


def test_in_a_user_namespace_the_runtime_does_what_takes_privileges() -> None:
    process = {"scheduler": FIFO, "ioPriority": {"class": "IOPRIO_CLASS_RT", "priority": 0}}
    steps = exec_steps(context({"personality": {"domain": "LINUX"}}, privileged=True), **process)
    ops = [step.op for step in steps]
    assert p.SCHEDULER not in ops and p.IO_PRIORITY not in ops and p.PERSONALITY in ops
    assert [step.args for step in steps if step.op == p.SYNC] == [(p.PHASE_LIMITS,)]


def test_below_a_reaper_reset_on_fork_is_set_after_the_fork() -> None:
    steps = exec_steps(context(init=True), scheduler=FIFO)
    at = [i for i, step in enumerate(steps) if step.op == p.SCHEDULER]
    reaper = next(i for i, step in enumerate(steps) if step.op == p.REAPER)
    assert len(at) == 2 and at[0] < reaper < at[1]
    assert [struct.unpack_from("<Q", steps[i].strings[0], 8) for i in at] == [(0x10,), (0x11,)]  # type: ignore[arg-type]
    with pytest.raises(SpecError, match=r"process\.scheduler\.policy: SCHED_DEADLINE"):
        exec_steps(context(init=True), scheduler={**DEADLINE, "flags": ["SCHED_FLAG_RESET_ON_FORK"]})


def test_sched_iso_is_nowhere() -> None:
    for privileged in (False, True):
        with pytest.raises(SpecError, match=r"process\.scheduler\.policy: SCHED_ISO"):
            exec_steps(context(privileged=privileged), scheduler={"policy": "SCHED_ISO"})


@pytest.mark.parametrize(
    ("affinity", "wanted"),
    [
        ({}, [("after", None)]),
        ({"initial": "0"}, [("before", "0")]),
        ({"final": "1-2"}, [("after", "1-2")]),
        ({"initial": "3", "final": "0,2"}, [("before", "3"), ("after", "0,2")]),
    ],
)
def test_affinity_before_and_after_the_cgroup(affinity: dict[str, str], wanted: list[tuple[str, str | None]]) -> None:
    ctx = context()
    ctx.cgroup_files = 1
    steps = exec_steps(ctx, execCPUAffinity=affinity)
    cgroup = next(i for i, step in enumerate(steps) if step.op == p.CGROUP)
    seen = [
        ("before" if i < cgroup else "after", step.strings[1] if step.strings else None)
        for i, step in enumerate(steps)
        if step.op == p.AFFINITY
    ]
    assert seen == wanted
    assert "execCPUAffinity" in "".join(step.field for step in steps) or not affinity


@pytest.mark.parametrize(
    ("change", "path", "why"),
    [
        ({"runtime": None}, "runtime", "requires `runtime`"),
        ({"deadline": None}, "deadline", "requires `deadline`"),
        ({"runtime": 0}, "runtime", "must be greater than 0"),
        ({"runtime": 3001}, "runtime", "must be <= deadline"),
        ({"period": 2999}, "deadline", "must be <= period"),
        ({"runtime": 1023}, "runtime", "must be between"),
        ({"runtime": 1 << 63, "deadline": 1 << 63, "period": 0}, "runtime", "must be between"),
    ],
)
def test_a_deadline_that_cannot_be(change: dict[str, int | None], path: str, why: str) -> None:
    scheduler = {name: value for name, value in {**DEADLINE, **change}.items() if value is not None}
    with pytest.raises(SpecError) as raised:
        exec_steps(context(), scheduler=scheduler)
    assert f"process.scheduler.{path}: sched_setattr: `SCHED_DEADLINE` " in str(raised.value)
    assert why in str(raised.value)


def test_a_deadline_without_a_period() -> None:
    scheduler = {name: value for name, value in DEADLINE.items() if name != "period"}
    assert any(step.op == p.SCHEDULER for step in exec_steps(context(), scheduler=scheduler))
