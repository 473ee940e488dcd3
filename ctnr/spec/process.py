# SPDX-License-Identifier: Apache-2.0
"""The process of a configuration, or of `exec --process` (runtime-spec config.md#process): shape and rules.

HOT: imported by create, run, start and exec.
"""

from __future__ import annotations

from ctnr.errors import SpecError
from ctnr.spec.schema import (
    ABSOLUTE,
    BOOL,
    I32,
    ID,
    STRINGS,
    TEXT,
    U16,
    U64,
    check,
    integer,
    list_of,
    one_of,
    quote,
    record,
)
from ctnr.spec.tables import CAPABILITIES, IOPRIO_CLASSES, RLIMITS, SCHED_FLAGS, SCHED_POLICIES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from ctnr.spec.types import Process, Scheduler

_CAPABILITY_SETS = ("bounding", "effective", "inheritable", "permitted", "ambient")

PROCESS = record(
    {
        "terminal": BOOL,
        "consoleSize": record({"height": U16, "width": U16}, ("height", "width")),
        "user": record(
            {"uid": ID, "gid": ID, "umask": integer(0, 0o777), "additionalGids": list_of(ID)}, ("uid", "gid")
        ),
        "args": STRINGS,
        "env": STRINGS,
        "cwd": ABSOLUTE,
        "capabilities": record(dict.fromkeys(_CAPABILITY_SETS, STRINGS)),
        "rlimits": list_of(
            record({"type": one_of(RLIMITS, "rlimit"), "soft": U64, "hard": U64}, ("type", "soft", "hard"))
        ),
        "noNewPrivileges": BOOL,
        "apparmorProfile": TEXT,
        "oomScoreAdj": integer(-1000, 1000),
        "scheduler": record(
            {
                "policy": one_of(SCHED_POLICIES, "scheduling policy"),
                "nice": I32,
                "priority": I32,
                "flags": list_of(one_of(SCHED_FLAGS, "scheduling flag")),
                "runtime": U64,
                "deadline": U64,
                "period": U64,
            },
            ("policy",),
        ),
        "selinuxLabel": TEXT,
        "ioPriority": record(
            {"class": one_of(IOPRIO_CLASSES, "I/O priority class"), "priority": integer(0, 7)}, ("class",)
        ),
        "execCPUAffinity": record({"initial": TEXT, "final": TEXT}),
    },
    ("cwd",),
)


def check_process(process: Process, path: str = "process") -> list[str]:
    """Check a process document; the warnings to log.

    Nulls and empty optional strings are removed. Raises SpecError.
    """
    check(process, PROCESS, path)
    if not process.get("args"):
        raise SpecError(f"{path}.args", "must hold at least the program to run")
    check_env(process.get("env", ()), f"{path}.env")
    warnings = []
    capabilities: Any = process.get("capabilities", {})
    for kind in _CAPABILITY_SETS:
        for i, name in enumerate(capabilities.get(kind, ())):
            if name not in CAPABILITIES:
                warnings.append(f"{path}.capabilities.{kind}[{i}]: unknown capability {quote(name)} is ignored")
    seen = set()
    for i, limit in enumerate(process.get("rlimits", ())):
        if limit["type"] in seen:
            raise SpecError(f"{path}.rlimits[{i}].type", f"duplicated rlimit {quote(limit['type'])}")
        seen.add(limit["type"])
        if limit["soft"] > limit["hard"]:
            raise SpecError(f"{path}.rlimits[{i}].soft", f"must not be above hard, which is {limit['hard']}")
    if "scheduler" in process:
        _check_scheduler(process["scheduler"], f"{path}.scheduler")
    affinity = process.get("execCPUAffinity", {})
    number_list(affinity.get("initial", ""), f"{path}.execCPUAffinity.initial")
    number_list(affinity.get("final", ""), f"{path}.execCPUAffinity.final")
    return warnings


def _check_scheduler(scheduler: Scheduler, path: str) -> None:
    """sched_setattr(2), as runc checks it."""
    policy = scheduler["policy"]
    if policy in ("SCHED_OTHER", "SCHED_BATCH") and not -20 <= scheduler.get("nice", 0) <= 19:
        raise SpecError(f"{path}.nice", f"must be from -20 to 19, not {scheduler['nice']}")
    if policy not in ("SCHED_FIFO", "SCHED_RR") and scheduler.get("priority", 0) != 0:
        raise SpecError(f"{path}.priority", "can only be specified for SCHED_FIFO or SCHED_RR")
    if policy != "SCHED_DEADLINE":
        for name, value in (
            ("runtime", scheduler.get("runtime")),
            ("deadline", scheduler.get("deadline")),
            ("period", scheduler.get("period")),
        ):
            if value:
                raise SpecError(f"{path}.{name}", "can only be specified for SCHED_DEADLINE")


def check_env(env: Iterable[str], path: str) -> None:
    """SpecError for what is no NAME=value."""
    for i, entry in enumerate(env):
        if entry.find("=") < 1:
            raise SpecError(f"{path}[{i}]", f"must be NAME=value, not {quote(entry)}")


def number_list(text: str, path: str) -> list[int]:
    """The numbers of a list of CPUs or memory nodes, "0-3,7" (cpuset(7), list format). Raises SpecError."""
    numbers: set[int] = set()
    for part in text.split(","):
        part = part.strip()
        if not part:
            continue
        first, dash, last = part.partition("-")
        low, high = _small(first), _small(last if dash else first)
        if low < 0 or high < low:
            raise SpecError(path, f"must be a list like 0-3,7, not {quote(text)}")
        numbers.update(range(low, high + 1))
    return sorted(numbers)


def _small(text: str) -> int:
    """A number of at most five digits, or -1: no kernel has as many CPUs, and nobody should fill memory with them."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 5 else -1
