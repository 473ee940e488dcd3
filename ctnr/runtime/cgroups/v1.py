# SPDX-License-Identifier: Apache-2.0
"""cgroup v1: limits, the device list, the freezer and cpuset's first values.

HOT: imported where a v1 hierarchy is mounted. Files and their rules: kernel Documentation/admin-guide/cgroup-v1.
"""

from __future__ import annotations

from errno import EBUSY, EINVAL, ENODEV, ENOENT
from time import monotonic, sleep

from ctnr.errors import CtnrError, SpecError, SyscallError
from ctnr.runtime.cgroups import devices
from ctnr.runtime.cgroups.dirs import Dir, parent
from ctnr.runtime.cgroups.resources import FIELD, THROTTLES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    Resources = Mapping[str, Any]

# The controllers v1 has and what v2 (and resources.wanted) calls them where that differs
NAME = {"io": "blkio"}
FREEZE_TIMEOUT = 10.0


def apply(controller: str, path: str, resources: Resources, open_dir: Callable[[str], Dir] = Dir) -> None:
    """Write what `resources` says for one v1 controller into its cgroup. Raises SyscallError, SpecError."""
    group, write = _WRITERS.get(controller, ("", None))
    asked = resources.get(group)
    if write is not None and asked:
        with open_dir(path) as d:
            write(d, asked)


def _memory(d: Dir, memory: Resources) -> None:
    field = f"{FIELD}.memory"
    limit = memory.get("limit") or 0
    swap = memory.get("swap") or 0
    if limit == -1 and not swap and d.has("memory.memsw.limit_in_bytes"):
        swap = -1
    if swap == -1 and not d.has("memory.memsw.limit_in_bytes"):
        swap = 0  # without swap accounting there is no limit to lift
    # the kernel wants limit <= memory+swap at each step
    swap_first = limit and swap and (swap == -1 or int(d.read("memory.limit_in_bytes")) < swap)
    if swap_first:
        d.put("memory.memsw.limit_in_bytes", str(swap), f"{field}.swap")
    if limit:
        try:
            d.write("memory.limit_in_bytes", str(limit))
        except OSError as e:
            if e.errno != EBUSY:
                raise d.error(e, "memory.limit_in_bytes", str(limit), f"{field}.limit") from e
            usage = d.read("memory.usage_in_bytes").strip()
            peak = d.read("memory.max_usage_in_bytes").strip()
            why = f"unable to set memory limit to {limit} (current usage: {usage}, peak usage: {peak})"
            raise SpecError(f"{field}.limit", why) from e
    if swap and not swap_first:
        d.put("memory.memsw.limit_in_bytes", str(swap), f"{field}.swap")
    if memory.get("reservation"):
        d.put("memory.soft_limit_in_bytes", str(memory["reservation"]), f"{field}.reservation")
    oom = memory.get("disableOOMKiller")
    # a false that is the default already is not written: the file is deprecated and the kernel's log says so
    if oom or (oom is False and "oom_kill_disable 1" in d.read("memory.oom_control")):
        d.put("memory.oom_control", str(int(oom)), f"{field}.disableOOMKiller")
    swappiness = memory.get("swappiness")
    if swappiness is not None and swappiness != -1:
        if not 0 <= swappiness <= 100:
            raise SpecError(f"{field}.swappiness", f"{swappiness} is out of range: 0 to 100")
        d.put("memory.swappiness", str(swappiness), f"{field}.swappiness")
    hierarchy = memory.get("useHierarchy")
    if hierarchy is not None and d.read("memory.use_hierarchy").strip() != str(int(hierarchy)):
        d.put("memory.use_hierarchy", str(int(hierarchy)), f"{field}.useHierarchy")


def _cpu(d: Dir, cpu: Resources) -> None:
    field = f"{FIELD}.cpu"
    shares, idle = cpu.get("shares"), cpu.get("idle")
    # an idle cgroup's shares cannot be written
    if idle == 0 and d.has("cpu.idle"):
        d.put("cpu.idle", "0", f"{field}.idle")
    if shares:
        d.put("cpu.shares", str(shares), f"{field}.shares")
        # the kernel clamps without a word
        actual = int(d.read("cpu.shares"))
        if actual != shares:
            edge = "maximum" if shares > actual else "minimum"
            raise SpecError(f"{field}.shares", f"the {edge} allowed cpu-shares is {actual}")
    quota = cpu.get("quota") or 0
    period = cpu.get("period") or 0
    burst = cpu.get("burst")
    # Each is checked against the others' old values, and the period and burst against the parent's too: one that is
    # refused with EINVAL while a quota is still to come is tried again after it.
    period_set = burst_set = True
    if period:
        period_set = d.put_or_later("cpu.cfs_period_us", str(period), f"{field}.period", later=bool(quota))
    if burst is not None and (burst or d.has("cpu.cfs_burst_us")):
        burst_set = d.put_or_later("cpu.cfs_burst_us", str(burst), f"{field}.burst", later=bool(quota))
    if quota:
        d.put("cpu.cfs_quota_us", str(quota), f"{field}.quota")
        if not period_set:
            d.put("cpu.cfs_period_us", str(period), f"{field}.period")
        if not burst_set:
            d.put("cpu.cfs_burst_us", str(burst), f"{field}.burst")
    if idle:
        d.put("cpu.idle", str(idle), f"{field}.idle")
    # Set before a process joins: one that is SCHED_RR already may not enter a cgroup without real-time bandwidth
    runtime = cpu.get("realtimeRuntime") or 0
    period = cpu.get("realtimePeriod") or 0
    period_set = True
    if period:
        period_set = d.put_or_later("cpu.rt_period_us", str(period), f"{field}.realtimePeriod", later=bool(runtime))
    if runtime:
        d.put("cpu.rt_runtime_us", str(runtime), f"{field}.realtimeRuntime")
        if not period_set:
            d.put("cpu.rt_period_us", str(period), f"{field}.realtimePeriod")


def _prefix(d: Dir) -> str:
    # a hierarchy mounted with `noprefix` (Android) has `cpus` for `cpuset.cpus`
    return "cpuset." if d.has("cpuset.cpus") else ""


def _cpuset(d: Dir, cpu: Resources) -> None:
    for name in ("cpus", "mems"):
        if cpu.get(name):
            d.put(_prefix(d) + name, cpu[name], f"{FIELD}.cpu.{name}")


def cpuset_start(path: str, resources: Resources) -> None:
    """Give a new cpuset cgroup, and the empty ones above it, cpus and mems: without, no process can enter.

    The config's values come first and the parent's fill in what is missing: inheriting first could clash with an
    exclusive sibling (cpuset.cpu_exclusive).
    """
    todo = [path]
    while True:
        todo.append(parent(todo[-1]))
        with Dir(todo[-1]) as d:
            prefix = _prefix(d)
            inherited = {name: d.read(prefix + name).strip() for name in ("cpus", "mems")}
        # the root's are never empty, so this ends there
        if all(inherited.values()):
            break
    asked = resources.get("cpu") or {}
    for target in reversed(todo[:-1]):
        with Dir(target) as d:
            for name, value in inherited.items():
                own = d.read(prefix + name).strip()
                if target == path and asked.get(name):
                    d.put(prefix + name, asked[name], f"{FIELD}.cpu.{name}")
                elif own:
                    inherited[name] = own
                else:
                    d.put(prefix + name, value, f"{FIELD}.cpu.{name} (from the cgroup above)")


def _pids(d: Dir, pids: Resources) -> None:
    limit = pids.get("limit")
    if limit is not None:
        d.put("pids.max", pids_max(limit), f"{FIELD}.pids.limit")


def pids_max(limit: int) -> str:
    """The value of pids.max, v1 and v2: negative is "max"; 0 is 1, as runc and systemd: either way the first process
    runs and cannot fork, but one cloned into the cgroup (CLONE_INTO_CGROUP) needs the 1.
    """
    return "max" if limit < 0 else str(limit or 1)


def _blkio(d: Dir, block_io: Resources) -> None:
    field = f"{FIELD}.blockIO"
    # CFQ's files until Linux 5.0, BFQ's since
    bfq = "" if d.has("blkio.weight") else "bfq."
    if block_io.get("weight"):
        d.put(f"blkio.{bfq}weight", str(block_io["weight"]), f"{field}.weight")
    if block_io.get("leafWeight"):
        d.put("blkio.leaf_weight", str(block_io["leafWeight"]), f"{field}.leafWeight")
    for index, device in enumerate(block_io.get("weightDevice") or ()):
        number = f"{device['major']}:{device['minor']}"
        if device.get("weight"):
            value = f"{number} {device['weight']}"
            d.put(f"blkio.{bfq}weight_device", value, f"{field}.weightDevice[{index}].weight")
        if device.get("leafWeight"):
            value = f"{number} {device['leafWeight']}"
            d.put("blkio.leaf_weight_device", value, f"{field}.weightDevice[{index}].leafWeight")
    files = ("read_bps_device", "write_bps_device", "read_iops_device", "write_iops_device")
    for name, file in zip(THROTTLES, files, strict=True):
        for index, device in enumerate(block_io.get(name) or ()):
            value = f"{device['major']}:{device['minor']} {device['rate']}"
            d.put(f"blkio.throttle.{file}", value, f"{field}.{name}[{index}]")


def _hugetlb(d: Dir, limits: Sequence[Resources]) -> None:
    hugetlb(d, limits, ".limit_in_bytes")


def hugetlb(d: Dir, limits: Sequence[Resources], suffix: str) -> None:
    """Write the hugepage limits, v1 and v2: of page faults and, where the kernel has it (5.7), of reservations."""
    for index, entry in enumerate(limits):
        field = f"{FIELD}.hugepageLimits[{index}]"
        size = entry["pageSize"]
        if not (isinstance(size, str) and size.isascii() and size.isalnum()):
            raise SpecError(f"{field}.pageSize", f"{size!r} is not a page size such as 2MB")
        if not d.has(f"hugetlb.{size}{suffix}"):
            raise SpecError(f"{field}.pageSize", f"this machine has no huge pages of {size}")
        d.put(f"hugetlb.{size}{suffix}", str(entry["limit"]), field)
        if d.has(f"hugetlb.{size}.rsvd{suffix}"):
            d.put(f"hugetlb.{size}.rsvd{suffix}", str(entry["limit"]), field)


def _net_cls(d: Dir, network: Resources) -> None:
    if network.get("classID"):
        d.put("net_cls.classid", str(network["classID"]), f"{FIELD}.network.classID")


def _net_prio(d: Dir, network: Resources) -> None:
    for index, entry in enumerate(network.get("priorities") or ()):
        field = f"{FIELD}.network.priorities[{index}]"
        d.put("net_prio.ifpriomap", f"{_word(entry['name'], field + '.name')} {entry['priority']}", field)


def _rdma(d: Dir, rdma: Resources) -> None:
    set_rdma(d, rdma)


def set_rdma(d: Dir, rdma: Resources) -> None:
    """Write the rdma limits, v1 and v2."""
    for device, limits in rdma.items():
        field = f'{FIELD}.rdma["{device}"]'
        value = _word(device, field)
        for name, file in (("hcaHandles", "hca_handle"), ("hcaObjects", "hca_object")):
            if limits.get(name) is not None:
                value += f" {file}={limits[name]}"
        d.put("rdma.max", value, field)


def _word(text: str, field: str) -> str:
    # one write is one record to the kernel: a name must not bring further ones
    if not text or any(c.isspace() or c == "\0" for c in text):
        raise SpecError(field, f"{text!r} is not a device name")
    return text


# controller -> (group of linux.resources, its writer)
_WRITERS: dict[str, tuple[str, Callable[[Dir, Any], None] | None]] = {
    "cpuset": ("cpu", _cpuset),
    "memory": ("memory", _memory),
    "cpu": ("cpu", _cpu),
    "pids": ("pids", _pids),
    "blkio": ("blockIO", _blkio),
    "hugetlb": ("hugepageLimits", _hugetlb),
    "net_cls": ("network", _net_cls),
    "net_prio": ("network", _net_prio),
    "rdma": ("rdma", _rdma),
}


def set_devices(path: str, target: devices.Policy) -> None:
    """Make a devices cgroup answer as the policy does, changing no more than needed. Raises SyscallError, CtnrError."""
    with Dir(path) as d:
        current = devices.parse_list(d.read("devices.list"))
        for allow, line in devices.transition(current, target):
            name = "devices.allow" if allow else "devices.deny"
            try:
                d.write(name, line)
            except OSError as e:
                hint = ""
                if e.errno == EINVAL:
                    hint = "a cgroup with children cannot change its default: remove those below"
                elif allow:
                    hint = "the cgroup above does not allow it either"
                step = f"{devices.FIELD}: write {line!r} to"
                raise SyscallError(step, e.errno or 0, f"{path}/{name}", hint) from e
        after = devices.parse_list(d.read("devices.list"))
        # the exceptions of a default of allow are not shown
        if after.default_allow != target.default_allow or (not target.default_allow and after != target):
            raise CtnrError(f"{devices.FIELD}: {path}/devices.list is not what was written")


def frozen(path: str) -> bool:
    """Whether this cgroup itself (not one above) was told to freeze. One that is gone was not. Raises SyscallError."""
    try:
        with Dir(path) as d:
            return d.read("freezer.self_freezing").strip() == "1"
    except OSError as e:
        if e.errno in (ENOENT, ENODEV):
            return False
        raise SyscallError("read the freezer's state of", e.errno or 0, path) from e


def freeze(path: str, timeout: float = FREEZE_TIMEOUT) -> None:
    """Freeze every process of the cgroup, and return when they are. Raises SyscallError, CtnrError.

    A cgroup into which processes are still forked or moved can stay FREEZING for ever: v1 needs a retry, and now and
    then a thaw (as runc, which found it by trial on old and slow systems); a busy machine needs time, up to `timeout` seconds.
    """
    deadline = monotonic() + timeout
    attempt = 0
    with Dir(path) as d:
        try:
            while attempt < 1000 or monotonic() < deadline:
                attempt += 1
                if attempt % 50 == 0:
                    d.write("freezer.state", "THAWED")
                    sleep(0.01)
                d.write("freezer.state", "FROZEN")
                if d.read("freezer.state").strip() == "FROZEN":
                    return
                # each process has to be run to get there
                sleep(min(attempt * 0.00001, 0.002))
        except OSError as e:
            raise SyscallError("freeze the cgroup", e.errno or 0, path) from e
        try:
            # neither frozen nor running is the worst of all
            d.write("freezer.state", "THAWED")
        except OSError as e:
            raise SyscallError("thaw again the cgroup that would not freeze", e.errno or 0, path) from e
    raise CtnrError(f"unable to freeze the cgroup {path}: new processes keep appearing")


def thaw(path: str) -> None:
    """Let the processes of the cgroup run again. Raises SyscallError."""
    try:
        with Dir(path) as d:
            d.write("freezer.state", "THAWED")
    except OSError as e:
        raise SyscallError("thaw the cgroup", e.errno or 0, path) from e
