# SPDX-License-Identifier: Apache-2.0
"""Private mount namespaces for one command: another view of the cgroup tree, or a checkout nobody else may enter made visible.

A hybrid host can show itself as pure v1 (the unified hierarchy unmounted) or as v2 only; the machine itself stays as it is.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from . import machine, users

HOST, V1, V2 = "host", "v1", "v2"


def available() -> list[str]:
    """The views this host can give: its own, and when it is hybrid and we are root, v1 and v2."""
    if os.getuid() == 0 and machine.cgroup_mode() == "hybrid":
        return [HOST, V1, V2]
    return [HOST]


def mode_of(view: str) -> str:
    """What a runtime finds in `view`: "v1", "v2", "hybrid" or "none"."""
    return machine.cgroup_mode() if view == HOST else view


def view_script(view: str) -> list[str]:
    """Shell lines that make `view` of the mount namespace they run in."""
    if view == HOST:
        return []
    mounts = machine.cgroup_mounts()
    unified = mounts[""]
    # v1 paths differ per controller where whoever started us sits in a memory cgroup of its own; runc wants them alike
    lines = []
    for controllers, mount_point in mounts.items():
        if "memory" in controllers.split(","):
            lines.append(f"echo $$ >{shlex.quote(mount_point)}/cgroup.procs")
    if view == V1:
        return [*lines, f"umount {shlex.quote(unified)}"]
    top = os.path.commonpath(list(mounts.values()))
    return [*lines, f"umount -R {shlex.quote(top)}", f"mount -t cgroup2 none {shlex.quote(top)}"]


def reach_script(paths: list[Path], user: users.User) -> list[str]:
    """Shell lines that let `user` reach `paths` although a directory above them is closed to it.

    Over the first closed directory goes an empty tmpfs with nothing but the paths in it.
    """
    lines: list[str] = []
    covered: dict[Path, list[Path]] = {}
    for path in paths:
        closed = users.closed_ancestors(path, user)
        if closed:
            real = path.resolve()
            covered.setdefault(closed[0], []).append(real if real.is_dir() else real.parent)
    for ancestor, below in covered.items():
        for n, path in enumerate(below):
            lines.append(f"exec {n + 3}<{shlex.quote(str(path))}")
        lines.append(f"mount -t tmpfs -o mode=755 tmpfs {shlex.quote(str(ancestor))}")
        for n, path in enumerate(below):
            lines.append(f"mkdir -p {shlex.quote(str(path))}")
            lines.append(f"mount --no-canonicalize --rbind /proc/self/fd/{n + 3} {shlex.quote(str(path))}")
            lines.append(f"exec {n + 3}<&-")
    return lines


def wrap(argv: list[str], script: list[str]) -> list[str]:
    """`argv` in a private mount namespace that `script` has changed; `argv` itself when there is nothing to change."""
    if not script:
        return list(argv)
    [unshare, sh] = machine.need("unshare", "sh")
    return [
        unshare,
        "-m",
        "--propagation",
        "private",
        sh,
        "-c",
        "\n".join(["set -e", *script, 'exec "$@"']),
        "sh",
        *argv,
    ]
