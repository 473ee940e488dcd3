# SPDX-License-Identifier: Apache-2.0
"""Rows for test_inside.py: scheduler, I/O priority, CPU affinity, memory policy, personality."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from typing import Any

from ctnr.spec.tables import IOPRIO_CLASSES, MEMORY_POLICIES, MEMORY_POLICY_FLAGS, SCHED_FLAGS, SCHED_POLICIES

from .bundles import Bundle
from .cases import Row, case, expect
from .kernel import Json
from .users import KINDS, ROOT, User

# the first versions that know the field; those installed know none of them
SCHEDULER = {"runc": (1, 2), "crun": (1, 9)}
MEMORY = {"runc": (1, 4), "crun": (1, 26)}
PERSONALITY = {"runc": (1, 2), "crun": (1, 8)}


def _scheduled(name: str, kinds: tuple[str, ...] = KINDS, **scheduler: Any) -> None:
    """process.scheduler is what sched_getattr(2) says inside."""

    def make() -> Row:
        def check(probe: Json, bundle: Bundle, user: User) -> None:
            flags = sum(SCHED_FLAGS[flag] for flag in scheduler.get("flags", ()))
            numbers = [scheduler.get(key, 0) for key in ("nice", "priority", "runtime", "deadline", "period")]
            policy, seen_flags, *seen = probe["asked"]["self:scheduler"]
            expect((policy, seen_flags), (SCHED_POLICIES[scheduler["policy"]], flags))
            if scheduler["policy"] not in ("SCHED_OTHER", "SCHED_BATCH"):
                numbers[0], seen[0] = 0, 0  # nice means nothing there
            if scheduler["policy"] == "SCHED_DEADLINE":
                numbers[4] = numbers[4] or numbers[3]  # a period that is not given is the deadline
            else:
                numbers[2:], seen[2:] = [], []  # since Linux 6.12 the runtime is an ordinary task's slice
            expect(seen, numbers)

        return (lambda bundle: bundle.process.__setitem__("scheduler", scheduler)), check

    make.__name__ = f"scheduler_{name}"
    case("self:scheduler", kinds=kinds, peers=SCHEDULER)(make)


_scheduled("other", policy="SCHED_OTHER")
_scheduled("other_and_nice", policy="SCHED_OTHER", nice=7)
_scheduled("other_and_less_nice", kinds=(ROOT,), policy="SCHED_OTHER", nice=-3)
_scheduled("batch", policy="SCHED_BATCH", nice=4)
_scheduled("idle", policy="SCHED_IDLE")
_scheduled("batch_reset_on_fork", policy="SCHED_BATCH", flags=["SCHED_FLAG_RESET_ON_FORK"])
_scheduled(
    "deadline",
    kinds=(ROOT,),
    policy="SCHED_DEADLINE",
    runtime=1000000,
    deadline=20000000,
    period=30000000,
    flags=["SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_DL_OVERRUN"],
)
_scheduled("deadline_without_period", kinds=(ROOT,), policy="SCHED_DEADLINE", runtime=1000000, deadline=20000000)


def _io_priority(name: str, kind: str, priority: int, kinds: tuple[str, ...] = KINDS) -> None:
    def make() -> Row:
        def check(probe: Json, bundle: Bundle, user: User) -> None:
            expect(probe["asked"]["self:ioprio"], [IOPRIO_CLASSES[kind], priority])

        return (lambda bundle: bundle.process.__setitem__("ioPriority", {"class": kind, "priority": priority})), check

    make.__name__ = f"io_priority_{name}"
    case("self:ioprio", kinds=kinds, peers=SCHEDULER)(make)


_io_priority("best_effort_first", "IOPRIO_CLASS_BE", 0)
_io_priority("best_effort_last", "IOPRIO_CLASS_BE", 7)
_io_priority("idle", "IOPRIO_CLASS_IDLE", 7)
_io_priority("realtime", "IOPRIO_CLASS_RT", 3, kinds=(ROOT,))


def _memory(name: str, mode: str, nodes: str = "", *flags: str, seen_nodes: list[int] | None = None) -> None:
    """linux.memoryPolicy is what get_mempolicy(2) says inside. Every machine has a node 0."""

    def make() -> Row:
        policy: dict[str, Any] = {"mode": mode}
        if nodes:
            policy["nodes"] = nodes
        if flags:
            policy["flags"] = list(flags)

        def check(probe: Json, bundle: Bundle, user: User) -> None:
            wanted = sum(MEMORY_POLICY_FLAGS[flag] for flag in flags)
            seen = seen_nodes if seen_nodes is not None else [0] if nodes else []
            expect(probe["asked"]["self:mempolicy"], [MEMORY_POLICIES[mode], wanted, seen])

        return (lambda bundle: bundle.linux.__setitem__("memoryPolicy", policy)), check

    make.__name__ = f"memory_policy_{name}"
    case("self:mempolicy", peers=MEMORY)(make)


_memory("default", "MPOL_DEFAULT")
_memory("bind", "MPOL_BIND", "0")
_memory("bind_static", "MPOL_BIND", "0", "MPOL_F_STATIC_NODES")
_memory("interleave_relative", "MPOL_INTERLEAVE", "0", "MPOL_F_RELATIVE_NODES")
_memory("preferred", "MPOL_PREFERRED", "0")
_memory("local", "MPOL_LOCAL")
_memory("preferred_many", "MPOL_PREFERRED_MANY", "0", "MPOL_F_STATIC_NODES")
_memory("bind_balancing", "MPOL_BIND", "0", "MPOL_F_NUMA_BALANCING")


def _personality(domain: str, machine: Mapping[str, str]) -> None:
    def make() -> Row:
        def check(probe: Json, bundle: Bundle, user: User) -> None:
            expect(probe["personality"], 8 if domain == "LINUX32" else 0)
            expect(probe["asked"]["self:machine"], machine.get(platform.machine(), probe["asked"]["self:machine"]))

        return (lambda bundle: bundle.linux.__setitem__("personality", {"domain": domain})), check

    make.__name__ = f"personality_{domain.lower()}"
    case("self:machine", peers=PERSONALITY)(make)


_personality("LINUX", {"x86_64": "x86_64", "aarch64": "aarch64"})
_personality("LINUX32", {"x86_64": "i686", "aarch64": "armv8l"})


@case("self:cpus")
def affinity_is_for_exec_only() -> Row:
    # the first process may run everywhere, whatever the exec'd ones get
    def change(bundle: Bundle) -> None:
        bundle.process["execCPUAffinity"] = {}

    return change, lambda probe, bundle, user: expect(set(probe["asked"]["self:cpus"]) >= os.sched_getaffinity(0), True)
