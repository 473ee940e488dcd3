# SPDX-License-Identifier: Apache-2.0
"""What `linux.resources` asks for: which controllers it needs, and the arithmetic from v1 values to v2 values.

HOT: imported by `create` and `run`. Pure: nothing here touches the kernel.

As in runc, 0 in a numeric field means "not set" (runc's own update documents say so), but for `memory.swappiness`,
`pids.limit`, `cpu.idle` and `cpu.burst`. -1, "no limit", is what a cgroup without the controller has anyway: it needs
none.
"""

from __future__ import annotations

from ctnr.errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    Resources = Mapping[str, Any]

FIELD = "linux.resources"
UNIFIED = "linux.resources.unified"
# Controllers that are v1's alone; v2 is never asked for them
V1_ONLY = ("net_cls", "net_prio")

# field -> controller, as v2 names it
_CPU = {
    "shares": "cpu",
    "quota": "cpu",
    "period": "cpu",
    "burst": "cpu",
    "idle": "cpu",
    "realtimeRuntime": "cpu",
    "realtimePeriod": "cpu",
    "cpus": "cpuset",
    "mems": "cpuset",
}
_MEMORY = ("limit", "reservation", "swap", "swappiness", "disableOOMKiller")
THROTTLES = ("throttleReadBpsDevice", "throttleWriteBpsDevice", "throttleReadIOPSDevice", "throttleWriteIOPSDevice")
_BLOCK_IO = ("weight", "leafWeight", "weightDevice", *THROTTLES)


def wanted(resources: Resources) -> dict[str, str]:
    """The controllers that must be there, by v2's names, each with the JSON path of the first field that needs it.

    `devices` and `unified` are not among them: they need no controller of that name.
    """
    want: dict[str, str] = {}
    group = resources.get("memory") or {}
    for name in _MEMORY:
        value = group.get(name)
        if value not in (None, 0, -1, False) or (name == "swappiness" and value == 0):
            want.setdefault("memory", f"{FIELD}.memory.{name}")
    group = resources.get("cpu") or {}
    for name, controller in _CPU.items():
        if group.get(name) not in (None, 0, -1, ""):
            want.setdefault(controller, f"{FIELD}.cpu.{name}")
    if (resources.get("pids") or {}).get("limit", -1) not in (None, -1):
        want["pids"] = f"{FIELD}.pids.limit"
    group = resources.get("blockIO") or {}
    for name in _BLOCK_IO:
        if group.get(name):
            want.setdefault("io", f"{FIELD}.blockIO.{name}")
    if resources.get("hugepageLimits"):
        want["hugetlb"] = f"{FIELD}.hugepageLimits"
    group = resources.get("network") or {}
    if group.get("classID"):
        want["net_cls"] = f"{FIELD}.network.classID"
    if group.get("priorities"):
        want["net_prio"] = f"{FIELD}.network.priorities"
    if resources.get("rdma"):
        want["rdma"] = f"{FIELD}.rdma"
    return want


def wanted_unified(resources: Resources) -> dict[str, str]:
    """The v2 controllers that `linux.resources.unified` writes to, with the JSON path of their first key.

    Raises SpecError for a key that is not a file's name.
    """
    want: dict[str, str] = {}
    for key, value in (resources.get("unified") or {}).items():
        field = unified_field(key)
        if "/" in key or "\0" in key:
            raise SpecError(field, "must be a file name (no slashes)")
        controller, dot, parameter = key.partition(".")
        if not (controller and dot and parameter):
            # crun's words
            raise SpecError(field, f"the specified key has not the form CONTROLLER.VALUE `{key}`")
        if not isinstance(value, str):
            raise SpecError(field, "must be a string")
        if controller != "cgroup":
            want.setdefault(controller, field)
    return want


def unified_field(key: str) -> str:
    """The JSON path of one key of `unified`."""
    return f'{UNIFIED}["{key}"]'


def weight_of_shares(shares: int) -> int:
    """v2's cpu.weight (1 to 10000) for v1's cpu.shares (2 to 262144), by the formula runc and crun share.

    A quadratic through (2, 1), (1024, 100) and (262144, 10000) on logarithmic scales, so that both defaults meet.
    """
    if shares <= 2:
        return 1
    if shares >= 262144:
        return 10000
    from math import ceil, log2

    log = log2(shares)
    return ceil(10 ** ((log * log + 125 * log) / 612.0 - 7.0 / 34.0))


def io_weight(weight: int, field: str) -> int:
    """v2's io.weight (1 to 10000) for v1's blkio weight (10 to 1000). Raises SpecError outside of that range."""
    if not 10 <= weight <= 1000:
        raise SpecError(field, f"{weight} is not a weight: 10 to 1000")
    return 1 + (weight - 10) * 9999 // 990


def complete(asked: Resources, before: Resources) -> Resources:
    """What an update asks for, with what v2 has to know beside it: the config's limit on memory and swap is one of their
    sum, v2's on swap alone, so when one of the two changes the other counts as it was. Source: runc's update.go.
    """
    memory = asked.get("memory") or {}
    limit, swap = memory.get("limit") or 0, memory.get("swap")
    if not limit and not swap:
        return asked
    old = before.get("memory") or {}
    more = {}
    if not limit and swap and swap > 0:
        more["limit"] = old.get("limit")
    elif limit > 0 and not swap and (old.get("swap") or 0) > 0:
        more["swap"] = old["swap"]
    return {**asked, "memory": {**memory, **more}} if more.get("limit") or more.get("swap") else asked


# lists whose entries are of one device, or one size, each: what tells them apart
_KEYS = {"weightDevice": ("major", "minor"), **dict.fromkeys(THROTTLES, ("major", "minor")), "priorities": ("name",)}


def merge(before: Resources, asked: Resources) -> dict[str, Any]:
    """`linux.resources` as they are after an update: what it named, and the rest as it was."""
    merged = dict(before)
    for group, value in asked.items():
        old = merged.get(group)
        if group == "hugepageLimits":
            merged[group] = _upsert(old or (), value, ("pageSize",))
        elif group == "rdma" and old:
            merged[group] = {**old, **{name: {**old.get(name, {}), **limits} for name, limits in value.items()}}
        elif isinstance(value, dict) and old:
            lists = {
                name: _upsert(old.get(name) or (), value[name], key) for name, key in _KEYS.items() if name in value
            }
            merged[group] = {**old, **value, **lists}
        else:
            merged[group] = value
    memory = merged.get("memory")
    if memory and (asked.get("memory") or {}).get("limit") == -1 and not asked["memory"].get("swap"):
        merged["memory"] = {**memory, "swap": -1}  # no limit on the one lifts the other's
    return merged


def _upsert(old: Iterable[Mapping[str, Any]], new: Iterable[Mapping[str, Any]], key: tuple[str, ...]) -> list[Any]:
    entries = {tuple(entry.get(name) for name in key): entry for entry in old}
    for entry in new:
        which = tuple(entry.get(name) for name in key)
        entries[which] = {**entries.get(which, {}), **entry}
    return list(entries.values())


def swap_only(memory: Mapping[str, Any]) -> int:
    """v2's memory.swap.max for the spec's memory+swap limit: bytes, -1 for no limit, -2 for "not set".

    Raises SpecError where the two limits make no sense together.
    """
    limit = memory.get("limit") or 0
    swap = memory.get("swap") or 0
    field = f"{FIELD}.memory.swap"
    if swap == 0:
        if limit == -1:
            return -1
        # nothing but `"swap": 0` can only mean: none (crun too); beside a limit it is runc's "not set"
        return 0 if memory.get("swap") == 0 and memory.get("limit") is None else -2
    if swap == -1 or limit == -1:
        return int(swap)
    if limit == 0:
        raise SpecError(field, "unable to set swap limit without memory limit (linux.resources.memory.limit)")
    if limit < 0:
        raise SpecError(f"{FIELD}.memory.limit", f"{limit} is neither a size nor -1")
    if swap < limit:
        raise SpecError(field, "memory+swap limit should be >= memory limit")
    return int(swap - limit)


def unavailable(controller: str, field: str, rootless: bool) -> SpecError:
    """The error for a controller that no hierarchy here has for this user."""
    why = f"the requested cgroup controller `{controller}` is not available"
    if controller in V1_ONLY:
        why += ": it is cgroup v1's, and no such hierarchy is mounted"
    elif rootless:
        from ctnr.runtime.cgroups.v2 import DELEGATE

        why += f" to this user: {DELEGATE}"
    return SpecError(field, why)
