# SPDX-License-Identifier: Apache-2.0
"""linux.intelRdt: shares of the last-level cache and of memory bandwidth, through the kernel's resctrl file system.

HOT (loaded only by containers that ask for it). A class of service (CLOS) is a directory of resctrl: `schemata` says what it
may have, `tasks` who is in it; a monitoring group is one below its `mon_groups`. Children of a task are where it is. Source:
runtime-spec config-linux.md#intelrdt, Linux Documentation/filesystems/resctrl.rst, runc's libcontainer/intelrdt.
"""

from __future__ import annotations

from errno import EEXIST, ENOENT, ENOSPC
from posix import listdir, mkdir, rmdir

from ctnr.errors import CtnrError, SpecError, SyscallError
from ctnr.runtime.cgroups.dirs import exists, read, write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from ctnr.runtime.container import Container

    Json = dict[str, Any]

FIELD = "linux.intelRdt"
_RESERVED = ("info", "mon_data", "mon_groups")
_MONITORED = {"mbm_total_bytes", "mbm_local_bytes", "llc_occupancy"}


def _mountinfo() -> str:
    return read("/proc/self/mountinfo")


def root() -> str:
    """Where resctrl is mounted: /sys/fs/resctrl, or wherever the administrator has put it; "" if nowhere."""
    found = []
    for line in _mountinfo().splitlines():
        before, _, after = line.partition(" - ")
        if after.startswith("resctrl "):
            found.append(before.split(" ")[4])
    return "/sys/fs/resctrl" if "/sys/fs/resctrl" in found else found[0] if found else ""


def _has(top: str, what: str) -> bool:
    # with code and data prioritization L3 is L3CODE and L3DATA
    return any(exists(f"{top}/info/{name}") for name in ((what, "L3CODE") if what == "L3" else (what,)))


def plan(rdt: Mapping[str, Any], id: str) -> Json:
    """What create() would make, as the container's state keeps it: `path`, `monitor` (or ""), `created`, `removed` (whether the
    class goes with the container). Raises SpecError for what this machine cannot do.
    """
    top = root()
    if not top:
        raise SpecError(FIELD, "intelRdt is specified in config, but Intel RDT is not enabled: no resctrl is mounted")
    for name, part, what in (("l3CacheSchema", "L3", "CAT"), ("memBwSchema", "MB", "MBA")):
        if rdt.get(name) and not _has(top, part):
            raise SpecError(f"{FIELD}.{name}", f"is specified in config, but Intel RDT/{what} is not enabled")
    if rdt.get("enableMonitoring") and not _has(top, "L3_MON"):
        raise SpecError(f"{FIELD}.enableMonitoring", "this machine has no Intel RDT monitoring")
    clos = rdt.get("closID") or ""
    name = clos or id
    if name in _RESERVED:
        raise SpecError(f"{FIELD}.closID", f"{name!r} is a directory of resctrl's own")
    path = top if clos == "/" else f"{top}/{name}"
    there = exists(path)
    lines = _lines(rdt)
    if clos and not lines and not there:
        raise SpecError(
            f"{FIELD}.closID",
            f"there is no class {clos!r}, and without schemata, l3CacheSchema and memBwSchema there must be",
        )
    if clos and there:
        for field in ("l3CacheSchema", "memBwSchema"):
            if rdt.get(field) and not _agrees(rdt[field], read(f"{path}/schemata")):
                raise SpecError(f"{FIELD}.{field}", f"the class {clos!r} has another configuration")
    return {
        "path": path,
        "monitor": f"{path}/mon_groups/{id}" if rdt.get("enableMonitoring") else "",
        "created": not there,
        "removed": not there and not clos,
    }


def begin(container: Container, rdt: Mapping[str, Any]) -> None:
    """Make the container's class and note it first, so that a clean-up after a crash finds it. Raises SpecError, SyscallError."""
    container.extra["rdt"] = made = plan(rdt, container.id)
    container._dir.write_state(container.extra)
    create(rdt, made)


def create(rdt: Mapping[str, Any], made: Json) -> None:
    """Make what plan() said; nothing is left behind on failure. Raises SyscallError."""
    path = made["path"]
    try:
        if made["created"]:
            _mkdir(path, "linux.intelRdt: make the class")
        if lines := _lines(rdt):
            write_schemata(path, lines)
        if made["monitor"]:
            _mkdir(made["monitor"], f"{FIELD}.enableMonitoring: make the monitoring group")
    except BaseException:
        remove({**made, "removed": made["created"]})
        raise


def join(made: Mapping[str, Any], pids: Iterable[int]) -> None:
    """Put tasks into the class, and into the monitoring group; what they start is in there too. Raises SyscallError."""
    for directory in (made["path"], made["monitor"]):
        for pid in pids if directory else ():
            try:
                write(f"{directory}/tasks", str(pid))
            except OSError as e:
                raise _failed(f"{FIELD}: add process {pid} to", e, f"{directory}/tasks") from e


def remove(made: Mapping[str, Any]) -> None:
    """Remove what goes with the container; what is gone already is no error. Raises SyscallError."""
    for directory in (made["monitor"], made["path"] if made["removed"] else ""):
        if directory:
            try:
                rmdir(directory)
            except OSError as e:
                if e.errno != ENOENT:
                    raise SyscallError(f"{FIELD}: remove", e.errno or 0, directory) from e


def update(made: Mapping[str, Any] | None, l3_cache_schema: str, mem_bw_schema: str) -> str:
    """Write other shares into the container's class; the schemata that it had. Raises CtnrError, SyscallError."""
    top = root()
    if l3_cache_schema and not (top and _has(top, "L3")):
        raise CtnrError("--l3-cache-schema: Intel RDT/CAT: l3 cache schema is not enabled")
    if mem_bw_schema and not (top and _has(top, "MB")):
        raise CtnrError("--mem-bw-schema: Intel RDT/MBA: memory bandwidth schema is not enabled")
    if not made:
        raise CtnrError("updating a non-existent Intel RDT configuration is not supported")
    for text, prefix, option in ((mem_bw_schema, "MB:", "--mem-bw-schema"), (l3_cache_schema, "", "--l3-cache-schema")):
        if "\n" in text or not text.startswith(prefix if text else ""):
            raise CtnrError(f"{option}: {text!r} is not one line{f' that starts with {prefix}' if prefix else ''}")
    try:
        before = read(f"{made['path']}/schemata")
    except OSError as e:
        raise SyscallError(f"{FIELD}: read", e.errno or 0, f"{made['path']}/schemata") from e
    write_schemata(made["path"], [line for line in (l3_cache_schema, mem_bw_schema) if line])
    return before


def stats(made: Mapping[str, Any]) -> Json:
    """The class, in the shape of runc's `events` (intel_rdt). Raises SyscallError."""
    top = root()
    try:
        whole, own = _schemata(top), _schemata(made["path"])
        found: Json = {}
        for part, info, text, numbers in (
            ("L3", "l3_cache", ("cbm_mask",), ("min_cbm_bits", "num_closids")),
            ("MB", "mem_bw", (), ("bandwidth_gran", "delay_linear", "min_bandwidth", "num_closids")),
        ):
            if exists(f"{top}/info/{part}"):
                values: Json = {name: read(f"{top}/info/{part}/{name}").strip() for name in text}
                values |= {name: int(read(f"{top}/info/{part}/{name}")) for name in numbers}
                found[f"{info}_info"] = {name: value for name, value in values.items() if value}
                found[f"{info}_schema_root"] = next((line for line in whole if part in line), "")
                found[f"{info}_schema"] = next((line for line in own if part in line), "")
        found["schemata"] = own
        if exists(f"{top}/info/L3_MON"):
            found |= _monitored(top, made["monitor"] or made["path"])
    except OSError as e:
        raise SyscallError(f"{FIELD}: read the statistics", e.errno or 0, str(e.filename or "")) from e
    return {name: value for name, value in found.items() if value}


def _monitored(top: str, path: str) -> Json:
    features = set(read(f"{top}/info/L3_MON/mon_features").split()) & _MONITORED
    bandwidth, occupancy = [], []
    for domain in sorted(listdir(f"{path}/mon_data")):
        values = {name: _count(read(f"{path}/mon_data/{domain}/{name}")) for name in features}
        bandwidth.append({name: values.get(name, 0) for name in ("mbm_total_bytes", "mbm_local_bytes")})
        occupancy.append({"llc_occupancy": values.get("llc_occupancy", 0)})
    found: Json = {}
    if features - {"llc_occupancy"}:
        found["mbm_stats"] = bandwidth
    if "llc_occupancy" in features:
        found["cmt_stats"] = occupancy
    return found


def _count(text: str) -> int:
    # "Unavailable" while the hardware has no counter for it, "Error"
    return int(text) if text.strip().isdigit() else 0


def _lines(rdt: Mapping[str, Any]) -> list[str]:
    """In the order that the specification demands."""
    return [line for line in (rdt.get("l3CacheSchema"), rdt.get("memBwSchema"), *(rdt.get("schemata") or ())) if line]


def _schemata(path: str) -> list[str]:
    return [line.strip() for line in read(f"{path}/schemata").splitlines()]


def _agrees(asked: str, text: str) -> bool:
    """Whether a class' schemata say of each cache what `asked` says: numbers, however they are written."""
    name, _, domains = asked.partition(":")
    base = 10 if name.strip() == "MB" else 16
    for line in text.splitlines():
        have, _, values = line.strip().partition(":")
        if have == name.strip():
            try:
                there = _domains(values, base)
                return all(there.get(cache) == value for cache, value in _domains(domains, base).items())
            except ValueError:
                return False
    return False


def _domains(text: str, base: int) -> dict[int, int]:
    found = {}
    for part in text.strip().strip(";").split(";"):
        cache, _, value = part.partition("=")
        found[int(cache)] = int(value, base)
    return found


def write_schemata(path: str, lines: Iterable[str]) -> None:
    """One write, as the kernel takes them one by one. Raises SyscallError."""
    try:
        write(f"{path}/schemata", "".join(f"{line}\n" for line in lines))
    except OSError as e:
        raise _failed(f"{FIELD}: write {' '.join(lines)!r} to", e, f"{path}/schemata") from e


def _mkdir(path: str, step: str) -> None:
    try:
        mkdir(path, 0o755)
    except OSError as e:
        if e.errno == EEXIST:
            return
        raise _failed(step, e, path) from e


def _failed(step: str, e: OSError, path: str) -> SyscallError:
    """With the kernel's own words for what was wrong."""
    hint = "there are no more" if e.errno == ENOSPC else ""
    try:
        said = read(f"{root()}/info/last_cmd_status").strip()
        if said and said != "ok":
            hint = said.replace("\n", "; ")
    except OSError:
        pass  # Linux before 4.15
    return SyscallError(step, e.errno or 0, path, hint)
