# SPDX-License-Identifier: Apache-2.0
"""Nothing may be left behind: processes, mounts, cgroups, network namespaces, fds and files, before and after each test.

The test process is a child subreaper, so whatever a runtime orphans comes to it and is seen (and reaped) here.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from . import machine

PR_SET_CHILD_SUBREAPER = 36
SETTLE_SECONDS = 8.0
# Popen objects and in-process containers are waited for by their owners, not by the reaper.
_owned: set[int] = set()
# State roots that the tests handed to a runtime: empty or gone when the test is over.
watched_roots: set[str] = set()


def become_subreaper() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def own(pid: int) -> None:
    """Somebody else waits for this child."""
    _owned.add(pid)


def disown(pid: int) -> None:
    _owned.discard(pid)


def _stat(pid: int) -> tuple[str, str, int, int] | None:
    """(name, state, ppid, starttime) of a process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            data = file.read().decode("utf-8", "replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    name = data[data.index("(") + 1 : data.rindex(")")]
    fields = data[data.rindex(")") + 2 :].split()
    return name, fields[0], int(fields[1]), int(fields[19])


def descendants() -> dict[int, tuple[str, str, int, int]]:
    """All processes below this one."""
    table = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            found = _stat(int(entry))
            if found:
                table[int(entry)] = found
    below: dict[int, tuple[str, str, int, int]] = {}
    changed = True
    inside = {os.getpid()}
    while changed:
        changed = False
        for pid, found in table.items():
            if pid not in inside and found[2] in inside:
                inside.add(pid)
                below[pid] = found
                changed = True
    return below


def reap() -> None:
    """Reap the orphans that came to us and have ended. Children somebody waits for are left alone."""
    me = os.getpid()
    for pid, (_, state, parent, _) in descendants().items():
        if state == "Z" and parent == me and pid not in _owned:
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                pass  # its owner was faster


def _command(pid: int, name: str) -> str:
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
    except OSError:
        line = ""
    return line[:160] or f"[{name}]"


def _ours(text: str) -> bool:
    """Whether a new name on the machine counts: never a neighbour worker's; on a shared machine only what carries our token."""
    return machine.TOKEN in text if machine.SHARED else not _foreign(text)


def _foreign(text: str) -> bool:
    """Another pytest worker's, still alive (its names start with ct<pid>), or a unit that systemd starts meanwhile."""
    unit = re.search(r"\.(service|slice|mount|socket|swap|device)(/|$)|/(session|run|init)-?[\w-]*\.scope(/|$)", text)
    if unit and text.startswith("/sys/fs/cgroup/"):
        return machine.TOKEN not in text
    return any(
        int(pid) != os.getpid() and os.path.exists(f"/proc/{pid}") for pid in re.findall(r"\bct(\d+)(?:[-_/.]|$)", text)
    )


def _mounts() -> Counter[str]:
    mounts: Counter[str] = Counter()
    with open("/proc/self/mountinfo") as table:
        for line in table:
            left, right = line.rstrip("\n").split(" - ", 1)
            mounts[f"{left.split(' ')[4]} {right.split(' ')[0]} {right.split(' ')[1]}"] += 1
    return mounts


def cgroup_dirs() -> Counter[str]:
    """Every cgroup of every mounted hierarchy."""
    found: Counter[str] = Counter()
    for mount_point in machine.cgroup_mounts().values():
        for directory, below, _ in os.walk(mount_point):
            for name in below:
                found[os.path.join(directory, name)] += 1
    return found


def _entries(*directories: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for directory in directories:
        try:
            for name in os.listdir(directory):
                found[f"{directory}/{name}"] += 1
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue
    return found


def _temporary() -> Counter[str]:
    """What bears our name where everybody puts files. TMPDIR of the tests is a directory of ours, watched as a whole."""
    found = _entries("/tmp", "/dev/shm", "/var/tmp")
    return Counter({path: n for path, n in found.items() if "ctnr" in path or machine.TOKEN in path})


def _fds() -> Counter[str]:
    found: Counter[str] = Counter()
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            continue  # the listing's own
        found[f"{fd} -> {target}"] += 1
    return found


def state_dirs() -> list[str]:
    """Where runtimes keep state when nobody tells them: these have to stay as they were."""
    roots = ["/run/ctnr", "/run/runc", "/run/crun"]
    if os.path.isdir("/run/user"):
        for user in os.listdir("/run/user"):
            roots += [f"/run/user/{user}/{name}" for name in ("ctnr", "runc", "crun")]
    return roots


@dataclass
class Snapshot:
    processes: Counter[str] = field(default_factory=Counter)
    mounts: Counter[str] = field(default_factory=Counter)
    cgroups: Counter[str] = field(default_factory=Counter)
    netns: Counter[str] = field(default_factory=Counter)
    fds: Counter[str] = field(default_factory=Counter)
    files: Counter[str] = field(default_factory=Counter)
    roots: Counter[str] = field(default_factory=Counter)

    @classmethod
    def take(cls) -> Snapshot:
        reap()
        processes: Counter[str] = Counter()
        for pid, (name, state, _, start) in descendants().items():
            if not (state == "Z" and pid in _owned):
                zombie = "zombie " if state == "Z" else ""
                processes[f"{pid} {zombie}{_command(pid, name)} (start time {start})"] += 1
        return cls(
            processes=processes,
            mounts=_mounts(),
            cgroups=cgroup_dirs(),
            netns=_entries("/run/netns", "/var/run/netns"),
            fds=_fds(),
            files=_entries(*state_dirs(), str(machine.scratch() / "tmp")) + _temporary(),
            roots=_entries(*watched_roots),
        )

    def left_behind(self, before: Snapshot) -> dict[str, list[str]]:
        """What is here now and was not `before`, by kind. Mounts and fds that vanished count too ("gone: ...")."""
        left: dict[str, list[str]] = {}
        for kind in ("processes", "fds", "roots"):
            left[kind] = sorted((getattr(self, kind) - getattr(before, kind)).elements())
        for kind in ("mounts", "cgroups", "netns", "files"):
            left[kind] = sorted(t for t in (getattr(self, kind) - getattr(before, kind)).elements() if _ours(t))
        for kind in ("mounts", "fds"):
            left[kind] += [
                f"gone: {t}"
                for t in sorted((getattr(before, kind) - getattr(self, kind)).elements())
                if kind == "fds" or _ours(t)
            ]
        return {kind: entries for kind, entries in left.items() if entries}


def settled(before: Snapshot, seconds: float = SETTLE_SECONDS) -> dict[str, list[str]]:
    """What is left behind once asynchronous teardown (a dying cgroup, a zombie's parent) had its time."""
    left: dict[str, list[str]] = {}

    def nothing() -> bool:
        nonlocal left
        left = Snapshot.take().left_behind(before)
        return not left

    machine.poll(nothing, seconds, every=0.02)
    return left


def report(left: dict[str, list[str]]) -> str:
    """A readable account of a leak."""
    lines = []
    for kind, entries in left.items():
        lines.append(f"{kind} left behind ({len(entries)}):")
        lines += [f"  {entry}" for entry in entries[:40]]
        if len(entries) > 40:
            lines.append(f"  ... and {len(entries) - 40} more")
    return "\n".join(lines)


def clean_up(left: dict[str, list[str]]) -> None:
    """Remove what a failed test left, so that the next one is judged for itself."""
    for entry in left.get("processes", []):
        try:
            os.kill(int(entry.split(" ", 1)[0]), signal.SIGKILL)
        except ProcessLookupError:
            continue

    def removed() -> bool:
        reap()
        rest = []
        for path in sorted(left.get("cgroups", []), key=len, reverse=True):
            try:
                os.rmdir(path)
            except FileNotFoundError:
                continue
            except OSError:
                rest.append(path)
        return not rest

    machine.poll(removed, 2.0, every=0.05)
