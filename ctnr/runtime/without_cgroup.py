# SPDX-License-Identifier: Apache-2.0
"""Limits for a container whose user may make no cgroup: what an rlimit can hold is held by it, the rest is said not to be.

HOT (loaded only then). pids.limit is what RLIMIT_NPROC is in a user namespace of the container's own: since Linux 5.14 the
processes of a user are counted there by themselves (user_namespaces(7)), so it is the same number, for each of the
container's users. No rlimit is anything like memory.limit: RLIMIT_AS and RLIMIT_DATA count what one process has
reserved, and programs that reserve much and use little would fail in a limit that they keep.
"""

from __future__ import annotations

from posix import uname
from resource import RLIM_INFINITY, RLIMIT_NPROC, getrlimit

from ctnr import log
from ctnr.runtime.cgroups.resources import FIELD, wanted, wanted_unified
from ctnr.runtime.cgroups.v2 import DELEGATE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ctnr.runtime.compile import Context
    from ctnr.spec.types import Rlimit


def hold(ctx: Context) -> int | None:
    """Say in one line what of `linux.resources` is not enforced; the RLIMIT_NPROC that the container's processes get, of
    which the first has it in `ctx` now."""
    resources: dict[str, Any] = ctx.linux.get("resources") or {}  # type: ignore[assignment]
    plain = wanted(resources)
    asked = [*plain.values(), *wanted_unified(resources).values()]
    if not asked:
        return None
    limit: int | None = None
    own_users = any(n["type"] == "user" and not n.get("path") for n in ctx.linux.get("namespaces") or ())
    if "pids" in plain and own_users and _version() >= (5, 14):
        limit = max(1, resources["pids"]["limit"]) if (resources.get("pids") or {}).get("limit", -1) >= 0 else None
    names = [field.removeprefix(FIELD + ".") for field in asked if field != plain.get("pids") or limit is None]
    said = f"{FIELD}: this user may make no cgroup: "
    if names:
        said += f"not enforced: {', '.join(names)}" + ("; " if limit is not None else "")
    if limit is not None:
        said += "pids.limit holds for each user of the container by itself (RLIMIT_NPROC)"
        process = ctx.config["process"]
        rlimits = with_processes(process.get("rlimits"), limit)
        ctx.config = {**ctx.config, "process": {**process, "rlimits": rlimits}}
    log.warning(f"{said} ({DELEGATE}; --rootless=false makes it an error)")
    return limit


def _version() -> tuple[int, int]:
    major, minor = uname().release.split(".")[:2]
    return int(major), int("".join(c for c in minor if c.isdigit()) or 0)


def with_processes(rlimits: list[Rlimit] | None, limit: int) -> list[Rlimit]:
    """A process's rlimits with RLIMIT_NPROC no higher than `limit`."""
    hard = getrlimit(RLIMIT_NPROC)[1]
    most = limit if hard == RLIM_INFINITY else min(limit, hard)
    others = [one for one in rlimits or () if one["type"] != "RLIMIT_NPROC"]
    for one in rlimits or ():
        if one["type"] == "RLIMIT_NPROC":
            return [*others, {**one, "soft": min(one["soft"], most), "hard": min(one["hard"], most)}]
    return [*others, {"type": "RLIMIT_NPROC", "soft": most, "hard": most}]
