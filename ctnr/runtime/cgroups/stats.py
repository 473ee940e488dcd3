# SPDX-License-Identifier: Apache-2.0
"""What a cgroup has used, in the shape that runc's `events` prints (runc's types/events.go), from v1 and v2 alike.

HOT (events): containerd's shim reads this. A file that is not there (no such controller, an older kernel) is a zero, and a
zero is left out where runc leaves it out.
"""

from __future__ import annotations

from errno import ENODEV, ENOENT, EOPNOTSUPP
from posix import listdir

from ctnr.errors import SyscallError
from ctnr.runtime.cgroups import dirs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    Json = dict[str, Any]

_ABSENT = (ENOENT, ENODEV, EOPNOTSUPP)
# "max", as runc counts it
_NO_LIMIT = (1 << 64) - 1
# USER_HZ, which is the same on every machine
_NS_OF_TICK = 10_000_000
# where tests put others
HUGEPAGES = "/sys/kernel/mm/hugepages"


def collect(paths: Mapping[str, str]) -> Json:
    """The statistics of a cgroup: `paths` as Cgroup has them. Raises SyscallError."""
    unified = paths.get("", "")
    return {
        "cpu": _cpu(paths, unified),
        "cpuset": _cpuset(paths.get("cpuset", "")),
        "memory": _memory(paths.get("memory", ""), unified),
        "pids": _pids(paths.get("pids", ""), unified),
        "blkio": _blkio(paths.get("blkio", ""), unified),
        "hugetlb": _hugetlb(paths.get("hugetlb", ""), unified),
        "intel_rdt": {},
        "network_interfaces": None,
    }


def _lean(values: Json, *always: str) -> Json:
    """Without zeros and what is empty, as Go's omitempty and omitzero do it."""
    return {name: value for name, value in values.items() if name in always or value}


def _read(path: str, file: str) -> str:
    if not path:
        return ""
    try:
        return dirs.read(f"{path}/{file}")
    except OSError as e:
        if e.errno in _ABSENT:
            return ""
        raise SyscallError("read the statistics of the cgroup", e.errno or 0, f"{path}/{file}") from e


def _number(path: str, file: str) -> int:
    text = _read(path, file).strip()
    return _NO_LIMIT if text == "max" else int(text or 0)


def _table(path: str, file: str) -> dict[str, int]:
    """A file of lines with a name and a number."""
    found = {}
    for line in _read(path, file).splitlines():
        words = line.split()
        if len(words) == 2 and words[1].isdigit():
            found[words[0]] = int(words[1])
    return found


def _pressure(path: str, file: str) -> Json | None:
    """PSI (Documentation/accounting/psi.rst): percentages, and a total in microseconds."""
    found: Json = {}
    for line in _read(path, file).splitlines():
        kind, *words = line.split()
        data: Json = {}
        for word in words:
            name, _, value = word.partition("=")
            if name == "total":
                data[name] = int(value)
            else:
                number = float(value)
                data[name] = int(number) if number.is_integer() else number  # as Go prints it
        if any(data.values()):
            found[kind] = data
    return found if _read(path, file) else None


def _cpu(paths: Mapping[str, str], unified: str) -> Json:
    usage: Json = {}
    throttling: Json = {}
    if "cpuacct" in paths:
        path = paths["cpuacct"]
        ticks = _table(path, "cpuacct.stat")
        modes = [line.split() for line in _read(path, "cpuacct.usage_all").splitlines()[1:]]
        usage = {
            "total": _number(path, "cpuacct.usage"),
            "percpu": [int(word) for word in _read(path, "cpuacct.usage_percpu").split()],
            "percpu_kernel": [int(words[2]) for words in modes],
            "percpu_user": [int(words[1]) for words in modes],
            "kernel": ticks.get("system", 0) * _NS_OF_TICK,
            "user": ticks.get("user", 0) * _NS_OF_TICK,
        }
    if "cpu" in paths:
        stat = _table(paths["cpu"], "cpu.stat")
        throttled = stat.get("throttled_time", 0)
    else:
        stat = _table(unified, "cpu.stat")
        throttled = stat.get("throttled_usec", 0) * 1000
    if "cpuacct" not in paths:
        names = {"total": "usage_usec", "kernel": "system_usec", "user": "user_usec"}
        usage = {name: stat.get(key, 0) * 1000 for name, key in names.items()}
    throttling = {
        "periods": stat.get("nr_periods", 0),
        "throttledPeriods": stat.get("nr_throttled", 0),
        "throttledTime": throttled,
    }
    usage = _lean(usage, "kernel", "user") if any(usage.values()) else {}
    return _lean(
        {"usage": usage, "throttling": _lean(throttling), "psi": _pressure(unified, "cpu.pressure")},
        *_psi(unified, "cpu.pressure"),
    )


def _psi(unified: str, file: str) -> tuple[str, ...]:
    # a pressure of nothing is still one that was measured
    return ("psi",) if _read(unified, file) else ()


_CPUSET = (
    "cpu_exclusive",
    "mem_hardwall",
    "mem_exclusive",
    "memory_migrate",
    "memory_spread_page",
    "memory_spread_slab",
    "memory_pressure",
    "sched_load_balance",
    "sched_relax_domain_level",
)


def _cpuset(path: str) -> Json:
    """v1's; as runc, there are none of v2's."""
    prefix = "" if path and not _read(path, "cpuset.cpus") and _read(path, "cpus") else "cpuset."
    values: Json = {name: _number(path, prefix + name) for name in _CPUSET}
    cpus, mems = _list(_read(path, prefix + "cpus")), _list(_read(path, prefix + "mems"))
    ordered = {"cpus": cpus, "cpu_exclusive": values.pop("cpu_exclusive"), "mems": mems, **values}
    return _lean(ordered, *_CPUSET)


def _list(text: str) -> list[int]:
    """Numbers of the kernel's list format, such as 0-2,5."""
    found: list[int] = []
    for part in text.strip().split(",") if text.strip() else ():
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def _memory(path: str, unified: str) -> Json:
    if path:
        raw = _table(path, "memory.stat")
        entries = {
            name: {
                "limit": _number(path, f"memory{part}.limit_in_bytes"),
                "usage": _number(path, f"memory{part}.usage_in_bytes"),
                "max": _number(path, f"memory{part}.max_usage_in_bytes"),
                "failcnt": _number(path, f"memory{part}.failcnt"),
            }
            for name, part in (("usage", ""), ("swap", ".memsw"), ("kernel", ".kmem"), ("kernelTCP", ".kmem.tcp"))
        }
        cache = raw.get("cache", 0)
    else:
        raw = _table(unified, "memory.stat")
        usage, swap = ({"limit": 0, "usage": 0, "max": 0, "failcnt": 0} for _ in range(2))
        for entry, part in ((usage, "memory"), (swap, "memory.swap")):
            if _read(unified, part + ".current"):
                entry["limit"], entry["usage"] = _number(unified, part + ".max"), _number(unified, part + ".current")
                entry["max"] = _number(unified, part + ".peak")
        if raw:
            # v1's way: memory and swap together, of which there is no peak
            swap["usage"] += usage["usage"]
            swap["limit"] = min(swap["limit"] + usage["limit"], _NO_LIMIT)
            swap["max"] = 0
        entries = {"usage": usage, "swap": swap}
        cache = raw.get("file", 0)
    lean = {name: _lean(entry, "limit", "failcnt") if any(entry.values()) else {} for name, entry in entries.items()}
    psi = _pressure(unified, "memory.pressure")
    values = {"cache": cache, **lean, "raw": {name: raw[name] for name in sorted(raw)}, "psi": psi}
    return _lean(values, *_psi(unified, "memory.pressure"))


def _pids(path: str, unified: str) -> Json:
    where = path or unified
    current = _number(where, "pids.current")
    limit = _number(where, "pids.max")
    if not _read(where, "pids.current") and where:
        current = len(_read(where, "cgroup.procs").split() or _read(where, "cgroup.threads").split())
    return _lean({"current": current, "limit": 0 if limit == _NO_LIMIT else limit})


_RECURSIVE = {
    "ioServiceBytesRecursive": "io_service_bytes",
    "ioServicedRecursive": "io_serviced",
    "ioQueueRecursive": "io_queued",
    "ioServiceTimeRecursive": "io_service_time",
    "ioWaitTimeRecursive": "io_wait_time",
    "ioMergedRecursive": "io_merged",
    "ioTimeRecursive": "time",
    "sectorsRecursive": "sectors",
}


def _blkio(path: str, unified: str) -> Json:
    tables: Json = {}
    if path:
        # BFQ's files, CFQ's (until Linux 5.0), else what throttling counts: the first that has any
        for form in (
            "blkio.bfq.{}_recursive",
            "blkio.{}_recursive",
            "blkio.throttle.{}_recursive",
            "blkio.throttle.{}",
        ):
            tables = {name: _blkio_lines(_read(path, form.format(file))) for name, file in _RECURSIVE.items()}
            if any(tables.values()):
                break
    else:
        tables = _io(_read(unified, "io.stat"))
    return _lean({**tables, "psi": _pressure(unified, "io.pressure")}, *_psi(unified, "io.pressure"))


def _blkio_lines(text: str) -> list[Json]:
    found = []
    for line in text.splitlines():
        words = line.replace(":", " ").split()
        if len(words) in (3, 4) and words[-1].isdigit():
            op = words[2] if len(words) == 4 else ""
            found.append(_entry(words[0], words[1], op, int(words[-1])))
    return found


def _entry(major: str, minor: str, op: str, value: int) -> Json:
    return _lean({"major": int(major), "minor": int(minor), "op": op, "value": value})


def _io(text: str) -> Json:
    """v2's one file in v1's tables."""
    tables: dict[str, list[Json]] = {"ioServiceBytesRecursive": [], "ioServicedRecursive": []}
    targets = {
        "rbytes": ("ioServiceBytesRecursive", "Read"),
        "wbytes": ("ioServiceBytesRecursive", "Write"),
        "rios": ("ioServicedRecursive", "Read"),
        "wios": ("ioServicedRecursive", "Write"),
    }
    for line in text.splitlines():
        device, *words = line.split()
        major, colon, minor = device.partition(":")
        for word in words if colon else ():
            key, _, value = word.partition("=")
            if key in targets and value.isdigit():
                table, op = targets[key]
                tables[table].append(_entry(major, minor, op, int(value)))
    return tables


def _page_sizes() -> list[str]:
    try:
        names = listdir(HUGEPAGES)
    except FileNotFoundError:
        return []
    found = []
    for name in sorted(names):
        size = int(name.removeprefix("hugepages-").removesuffix("kB"))
        for unit in ("KB", "MB", "GB"):
            if size < 1024 or unit == "GB":
                found.append(f"{size}{unit}")
                break
            size //= 1024
    return found


def _hugetlb(path: str, unified: str) -> Json:
    found: Json = {}
    for size in _page_sizes():
        if path:
            part = ".rsvd" if _read(path, f"hugetlb.{size}.rsvd.usage_in_bytes") else ""
            if not _read(path, f"hugetlb.{size}{part}.usage_in_bytes"):
                continue
            usage = _number(path, f"hugetlb.{size}{part}.usage_in_bytes")
            most = _number(path, f"hugetlb.{size}{part}.max_usage_in_bytes")
            failed = _number(path, f"hugetlb.{size}{part}.failcnt")
        else:
            part = ".rsvd" if _read(unified, f"hugetlb.{size}.rsvd.current") else ""
            if not _read(unified, f"hugetlb.{size}{part}.current"):
                continue
            usage, most = _number(unified, f"hugetlb.{size}{part}.current"), 0
            failed = _table(unified, f"hugetlb.{size}.events").get("max", 0)
        found[size] = _lean({"usage": usage, "max": most, "failcnt": failed}, "failcnt")
    return found
