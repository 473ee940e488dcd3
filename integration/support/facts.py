# SPDX-License-Identifier: Apache-2.0
"""The facts of a payload that must be alike whoever ran the bundle."""

from __future__ import annotations

from typing import Any

from . import kernel
from .bundles import Bundle
from .kernel import Json


def _unordered(said: Any) -> Any:
    """A list of names comes as readdir(2) has it; in one of numbers each has its place."""
    return sorted(said) if isinstance(said, list) and all(isinstance(n, str) for n in said) else said


def facts(probe: Json, bundle: Bundle) -> Json:
    """What must be alike whoever runs the bundle: no inode numbers, pids, group numbers of peers' mounts."""
    lines = kernel.status(probe)
    return {
        "capabilities": kernel.capabilities(probe),
        **{name: lines[name] for name in ("NoNewPrivs", "Seccomp", "SigBlk")},
        # peers hand on what is ignored of the C library's own two signals where the tests run
        "SigIgn": int(lines["SigIgn"], 16) & 0x7FFFFFFF,
        **{
            name: probe[name]
            for name in ("uids", "gids", "groups", "umask", "cwd", "hostname", "domainname", "oom_score_adj")
        },
        **{name: probe[name] for name in ("uid_map", "gid_map", "setgroups", "timens_offsets", "loopback_up", "argv")},
        "asked": {ask: _unordered(said) for ask, said in probe["asked"].items()},
        "env": sorted(e for e in probe["env"] if not e.startswith("HOME=")),
        "limits": kernel.limits(probe["limits"]),
        "namespaces": kernel.new_namespaces(probe),
        "fds": sorted(probe["fds"]),
        # crun and runc make /dev/core and /dev/console in different cases
        "dev": {
            n: (e["type"], e["mode"], e.get("rdev"), e.get("target"))
            for n, e in probe["dev"].items()
            if n not in ("core", "console", "mqueue", "shm", "pts")
        },
        **comparable_mounts(probe, bundle),
    }


def comparable_mounts(probe: Json, bundle: Bundle) -> dict[str, tuple[str, frozenset[str], frozenset[str]]]:
    """The mounts the config names. How paths are masked, and device nodes bound, is each runtime's own affair."""
    named = {m["destination"] for m in bundle.config["mounts"]} | {"/"}
    found = {}
    for mount in kernel.mounts(probe):
        if mount.point in named and mount.type not in ("cgroup", "cgroup2") and mount.point != "/sys/fs/cgroup":
            found[f"mount {mount.point}"] = (mount.type, mount.options, mount.propagation)
    return found
