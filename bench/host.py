# SPDX-License-Identifier: Apache-2.0
"""The machine the bench runs on: the view of its cgroups, its facts, its processes and their memory."""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path

from rows import Failed, fail


def cgroup_mode() -> str:
    text = Path("/proc/self/mountinfo").read_text()
    v1, v2 = " - cgroup " in text, " - cgroup2 " in text
    return "hybrid" if v1 and v2 else "v1" if v1 else "v2" if v2 else "none"


def enter_view(view: str) -> None:
    """Re-execute in a private mount namespace where the hybrid host looks like pure v1 or v2: crun refuses hybrid."""
    mode = cgroup_mode()
    if view == "auto":
        view = "v1" if mode == "hybrid" else mode
    if view in (mode, "host") or os.environ.get("CTNR_BENCH_VIEW"):
        return
    if mode != "hybrid":
        fail(f"--view {view}: this host's cgroups are {mode}")
    points = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, right = line.split(" - ", 1)
        kind, _, options = right.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            points["unified" if kind == "cgroup2" else options] = left.split(" ")[4]
    # whoever started us may sit in a memory cgroup of its own; runc wants one path in all hierarchies
    script = [
        f"echo $$ >{shlex.quote(p)}/cgroup.procs" for options, p in points.items() if "memory" in options.split(",")
    ]
    top = shlex.quote(os.path.commonpath(list(points.values())))
    script += [f"umount {points['unified']}"] if view == "v1" else [f"umount -R {top}", f"mount -t cgroup2 none {top}"]
    os.environ["CTNR_BENCH_VIEW"] = view
    shell = "set -e; " + "; ".join(script) + '; exec "$@"'
    os.execvp(
        "unshare", ["unshare", "-m", "--propagation", "private", "sh", "-c", shell, "sh", sys.executable, *sys.argv]
    )


def version(path: str, *flags: str) -> str:
    said = subprocess.run([path, *(flags or ("--version",))], capture_output=True, text=True, check=False)
    lines = (said.stdout or said.stderr).splitlines()
    return lines[0].strip() if lines else "unknown"


def facts(options: argparse.Namespace) -> list[str]:
    """What a reader needs to compare: no host names, no paths."""
    release = platform.release().split("-")[0].split("+")[0]
    memory = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    gibibytes = round(int(memory.split()[1]) / 1024 / 1024)
    system = next(
        (
            line.split("=", 1)[1].strip('"')
            for line in Path("/etc/os-release").read_text().splitlines()
            if line.startswith("PRETTY_NAME=")
        ),
        "?",
    )
    lines = [
        f"Linux {release}, {os.cpu_count()} CPUs, {gibibytes} GiB, {system}",
        f"cgroups as the bench saw them: {cgroup_mode()}",
        f"Python {version(options.python)[7:]}, {version(options.ctnr)}",
    ]
    for name in ("crun", "runc", "bwrap"):
        path = getattr(options, name)
        if path:
            lines.append(version(path))
    return lines


def reap(pid: int) -> None:
    """Wait for an orphan that came to us, the subreaper."""
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        while os.path.exists(f"/proc/{pid}"):
            time.sleep(0.001)


def children() -> set[int]:
    """Everything below us."""
    parents: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                text = Path(f"/proc/{entry}/stat").read_text()
            except OSError:
                continue
            fields = text[text.rindex(")") + 2 :].split()
            if fields[0] != "Z":
                parents[int(entry)] = int(fields[1])
    below: set[int] = set()
    inside = {os.getpid()}
    while inside:
        inside = {pid for pid, parent in parents.items() if parent in inside} - below
        below |= inside
    return below


def pss(pid: int) -> float:
    """Proportional set size in KiB."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0  # it has ended
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return float(line.split()[1])
    raise Failed(f"/proc/{pid}/smaps_rollup has no Pss line")
