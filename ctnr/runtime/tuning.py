# SPDX-License-Identifier: Apache-2.0
"""How a process is scheduled, where its memory comes from, what kind of machine it sees: the fields that few configs have.

HOT: imported only for a process that has one of process.scheduler, process.ioPriority, process.execCPUAffinity,
linux.memoryPolicy, linux.personality.
"""

from __future__ import annotations

from _struct import Struct

from ctnr import _native
from ctnr.errors import SpecError, SyscallError
from ctnr.runtime import plan as p
from ctnr.spec.process import number_list
from ctnr.spec.tables import (
    IOPRIO_CLASSES,
    MEMORY_POLICIES,
    MEMORY_POLICY_FLAGS,
    PERSONALITIES,
    SCHED_FLAGS,
    SCHED_POLICIES,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from ctnr.runtime.compile import Context
    from ctnr.runtime.plan import Plan
    from ctnr.spec.types import IOPriority, Process, Scheduler

_SCHED_ATTR = Struct("<IIQiIQQQII")
_IOPRIO_CLASS_SHIFT = 13


def steps(plan: Plan, ctx: Context, process: Process, path: str) -> None:
    """The steps, at the point where the process has the privileges they take."""
    scheduler = process.get("scheduler")
    priority = process.get("ioPriority")
    if scheduler and scheduler["policy"] == "SCHED_ISO":
        raise SpecError(f"{path}.scheduler.policy", "SCHED_ISO is reserved: no Linux kernel has it (sched.h)")
    if scheduler and scheduler["policy"] == "SCHED_DEADLINE":
        _check_deadline(scheduler, f"{path}.scheduler")
    if not ctx.privileged_parent:  # else limits() does it: the container's root is nobody there
        if scheduler:
            _scheduler(plan, scheduler, f"{path}.scheduler", reset=not ctx.init)
        if priority:
            plan.add(p.IO_PRIORITY, f"{path}.ioPriority", _words(priority), args=(io_priority(priority),))
    personality = ctx.linux.get("personality")
    if personality:
        domain = personality["domain"]
        plan.add(p.PERSONALITY, "linux.personality", domain, args=(PERSONALITIES[domain],))
    policy = ctx.linux.get("memoryPolicy")
    if policy:
        flags = policy.get("flags") or []
        mode = MEMORY_POLICIES[policy["mode"]]
        for flag in flags:
            mode |= MEMORY_POLICY_FLAGS[flag]
        text = policy.get("nodes") or ""
        nodes = mask(number_list(text, "linux.memoryPolicy.nodes"))
        words = " ".join([policy["mode"], *flags, text])
        plan.add(p.MEMORY_POLICY, "linux.memoryPolicy", nodes or None, words, args=(mode,))


def below_reaper(plan: Plan, process: Process, path: str) -> None:
    """What a fork undoes: with --init the program is a child, which would be the one to be reset."""
    scheduler = process.get("scheduler")
    if scheduler and "SCHED_FLAG_RESET_ON_FORK" in (scheduler.get("flags") or ()):
        if scheduler["policy"] == "SCHED_DEADLINE":
            raise SpecError(
                f"{path}.scheduler.policy", "SCHED_DEADLINE is not for a program below --init: see sched(7)"
            )
        _scheduler(plan, scheduler, f"{path}.scheduler", reset=True)


def affinity(plan: Plan, cpus: str, field: str) -> None:
    plan.add(p.AFFINITY, field, mask(number_list(cpus, field)), cpus)


def limits(pid: int, process: Process, path: str, init: bool) -> None:
    """The part of steps() that the runtime does to the process `pid`, whose user namespace has not got the privilege."""
    scheduler = process.get("scheduler")
    if scheduler:
        try:
            _native.sched_setattr(pid, sched_attr(scheduler, reset=not init))
        except OSError as error:
            raise SyscallError(f"{path}.scheduler: be scheduled as {scheduler['policy']}", error.errno or 0) from None
    priority = process.get("ioPriority")
    if priority:
        try:
            _native.ioprio_set(pid, io_priority(priority))
        except OSError as error:
            words = f"{path}.ioPriority: set the I/O priority {_words(priority)}"
            raise SyscallError(words, error.errno or 0) from None


def _scheduler(plan: Plan, scheduler: Scheduler, field: str, reset: bool) -> None:
    values = [f"{name} {value}" for name, value in scheduler.items() if name not in ("policy", "flags") and value]
    words = " ".join([scheduler["policy"], *values, *(scheduler.get("flags") or ())])
    plan.add(p.SCHEDULER, field, sched_attr(scheduler, reset), words)


def _check_deadline(scheduler: Scheduler, path: str) -> None:
    """1024 <= runtime <= deadline <= period < 2**63, where a period of 0 is the deadline (sched(7)). The words are crun's."""
    what = "sched_setattr: `SCHED_DEADLINE`"
    for name in ("runtime", "deadline"):
        if name not in scheduler:
            raise SpecError(f"{path}.{name}", f"{what} requires `{name}`")
        if not scheduler[name]:
            raise SpecError(f"{path}.{name}", f"{what} {name} must be greater than 0")
    runtime, deadline = scheduler["runtime"], scheduler["deadline"]
    period = scheduler.get("period") or deadline
    if runtime > deadline:
        raise SpecError(f"{path}.runtime", f"{what} runtime ({runtime}) must be <= deadline ({deadline})")
    if deadline > period:
        raise SpecError(f"{path}.deadline", f"{what} deadline ({deadline}) must be <= period ({period})")
    for name, value in (("runtime", runtime), ("deadline", deadline), ("period", period)):
        if not 1024 <= value < 1 << 63:
            raise SpecError(f"{path}.{name}", f"{what} {name} ({value}) must be between 1024 and {(1 << 63) - 1}")


def sched_attr(scheduler: Scheduler, reset: bool = True) -> bytes:
    """struct sched_attr of sched_setattr(2); without `reset` SCHED_FLAG_RESET_ON_FORK is left out."""
    flags = 0
    for name in scheduler.get("flags") or ():
        if reset or name != "SCHED_FLAG_RESET_ON_FORK":
            flags |= SCHED_FLAGS[name]
    return _SCHED_ATTR.pack(
        _SCHED_ATTR.size,
        SCHED_POLICIES[scheduler["policy"]],
        flags,
        scheduler.get("nice", 0),
        scheduler.get("priority", 0),
        scheduler.get("runtime", 0),
        scheduler.get("deadline", 0),
        scheduler.get("period", 0),
        0,  # util_min and util_max: the spec has the flags, but not the values
        0,
    )


def io_priority(priority: IOPriority) -> int:
    """The value of ioprio_set(2)."""
    return IOPRIO_CLASSES[priority["class"]] << _IOPRIO_CLASS_SHIFT | priority.get("priority", 0)


def _words(priority: IOPriority) -> str:
    return f"{priority['class']} {priority.get('priority', 0)}"


def mask(numbers: Iterable[int]) -> bytes:
    """A bit for each number, in whole unsigned longs."""
    bits = 0
    for number in numbers:
        bits |= 1 << number
    return bits.to_bytes((bits.bit_length() + 63) // 64 * 8, "little")
