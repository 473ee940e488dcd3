# SPDX-License-Identifier: Apache-2.0
"""Reading what the payload brought from /proc: status lines, mount tables, limits; and what the kernel makes of a request."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

Json = dict[str, Any]
CAP_SETS = {
    "inheritable": "CapInh",
    "permitted": "CapPrm",
    "effective": "CapEff",
    "bounding": "CapBnd",
    "ambient": "CapAmb",
}


def status(probe: Json) -> dict[str, str]:
    """/proc/self/status as a dict."""
    return {line.split(":", 1)[0]: line.split(":", 1)[1].strip() for line in probe["status"].splitlines()}


def capability_numbers() -> dict[str, int]:
    from ctnr.spec.tables import CAPABILITIES

    return dict(CAPABILITIES)


def capabilities(probe: Json) -> dict[str, set[str]]:
    """The five sets as names."""
    numbers = capability_numbers()
    lines = status(probe)
    return {
        ours: {n for n, bit in numbers.items() if int(lines[theirs], 16) >> bit & 1}
        for ours, theirs in CAP_SETS.items()
    }


def after_exec(asked: dict[str, list[str]], uid: int, no_new_privileges: bool = True) -> dict[str, set[str]]:
    """What capabilities(7) makes of the sets when a program without file capabilities is executed."""
    sets = {name: set(asked.get(name, [])) for name in CAP_SETS}
    # a capability can be ambient only while it is permitted and inheritable
    sets["ambient"] &= sets["permitted"] & sets["inheritable"]
    if uid == 0:
        gained = sets["inheritable"] | sets["bounding"]
        # with no_new_privs an execve adds nothing to what was permitted (cap_bprm_creds_from_file)
        sets["permitted"] = gained & sets["permitted"] if no_new_privileges else gained
        sets["effective"] = set(sets["permitted"])
    else:
        sets["permitted"] = set(sets["ambient"])
        sets["effective"] = set(sets["ambient"])
    return sets


@dataclass(frozen=True)
class Mount:
    """One line of /proc/self/mountinfo."""

    id: int
    parent: int
    root: str
    point: str
    options: frozenset[str]
    propagation: frozenset[str]  # shared, master, propagate_from, unbindable: without the group numbers
    type: str
    source: str
    data: frozenset[str]


def mounts(probe_or_text: Json | str) -> list[Mount]:
    text = probe_or_text if isinstance(probe_or_text, str) else probe_or_text["mountinfo"]
    found = []
    for line in text.splitlines():
        left, right = line.split(" - ", 1)
        fields = left.split(" ")
        kind, source, data = right.split(" ", 2)
        found.append(
            Mount(
                int(fields[0]),
                int(fields[1]),
                fields[3],
                fields[4],
                frozenset(fields[5].split(",")),
                frozenset(f.split(":")[0] for f in fields[6:]),
                kind,
                source,
                frozenset(data.split(",")),
            )
        )
    return found


def mount_at(probe: Json, point: str) -> Mount:
    """The topmost mount at `point`."""
    found = [m for m in mounts(probe) if m.point == point]
    assert found, f"nothing is mounted at {point}:\n{probe['mountinfo']}"
    return found[-1]


LIMIT_NAMES = {
    "RLIMIT_AS": "Max address space",
    "RLIMIT_CORE": "Max core file size",
    "RLIMIT_CPU": "Max cpu time",
    "RLIMIT_DATA": "Max data size",
    "RLIMIT_FSIZE": "Max file size",
    "RLIMIT_LOCKS": "Max file locks",
    "RLIMIT_MEMLOCK": "Max locked memory",
    "RLIMIT_MSGQUEUE": "Max msgqueue size",
    "RLIMIT_NICE": "Max nice priority",
    "RLIMIT_NOFILE": "Max open files",
    "RLIMIT_NPROC": "Max processes",
    "RLIMIT_RSS": "Max resident set",
    "RLIMIT_RTPRIO": "Max realtime priority",
    "RLIMIT_RTTIME": "Max realtime timeout",
    "RLIMIT_SIGPENDING": "Max pending signals",
    "RLIMIT_STACK": "Max stack size",
}


def limits(text: str) -> dict[str, tuple[int | None, int | None]]:
    """/proc/PID/limits: name -> (soft, hard), None for unlimited."""
    found = {}
    for name, label in LIMIT_NAMES.items():
        line = next(line for line in text.splitlines() if line.startswith(label))
        soft, hard = line[len(label) :].split()[:2]
        found[name] = (None if soft == "unlimited" else int(soft), None if hard == "unlimited" else int(hard))
    return found


def id_map(text: str) -> list[tuple[int, int, int]]:
    return [(int(a), int(b), int(c)) for a, b, c in (line.split() for line in text.splitlines())]


def host_namespaces() -> dict[str, str]:
    return {p.name: str(p.readlink()) for p in Path("/proc/self/ns").iterdir()}


def new_namespaces(probe: Json) -> set[str]:
    """The namespaces (by their /proc names) that are not the host's."""
    host = host_namespaces()
    return {name for name, link in probe["ns"].items() if link != host[name]}


NS_FILES = {
    "pid": "pid",
    "network": "net",
    "ipc": "ipc",
    "uts": "uts",
    "mount": "mnt",
    "cgroup": "cgroup",
    "user": "user",
    "time": "time",
}
