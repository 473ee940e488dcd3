# SPDX-License-Identifier: Apache-2.0
"""cgroup v2: controllers, limits, the eBPF device program, the freezer, ownership.

HOT: imported where a cgroup2 hierarchy is mounted. Files and their rules: kernel Documentation/admin-guide/cgroup-v2.

Controllers flow down: a cgroup has those that its parent's cgroup.subtree_control lists, and a cgroup other than the root
that has processes of its own can pass none of memory, io and the like on ("no internal processes").
"""

from __future__ import annotations

from errno import EACCES, EBUSY, ENODEV, ENOENT, EOPNOTSUPP, EPERM, EROFS
from posix import O_CLOEXEC, O_RDONLY, close, fchown, open
from posix import chown as chown_path
from posix import pread as read_at
from time import monotonic

from ctnr.errors import CtnrError, SpecError, SyscallError
from ctnr.runtime.cgroups import devices, v1
from ctnr.runtime.cgroups.dirs import Dir, parent, read, write
from ctnr.runtime.cgroups.resources import (
    FIELD,
    THROTTLES,
    io_weight,
    swap_only,
    unified_field,
    weight_of_shares,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    Resources = Mapping[str, Any]

# Cannot be used in a threaded cgroup; cpu, cpuset, perf_event and pids can
_DOMAIN_CONTROLLERS = ("memory", "io", "hugetlb", "rdma", "misc")
_V1_ONLY = "cgroup v2 has nothing like it"
FREEZE_TIMEOUT = 10.0
DELEGATE = "have the cgroup delegated to this user, e.g. systemd-run --user --scope -p Delegate=yes"

_BPF_CGROUP_DEVICE = 6  # enum bpf_attach_type
_BPF_F_ALLOW_MULTI = 2
_BPF_F_REPLACE = 4


def enable(path: str, want: Mapping[str, str], everything: bool) -> set[str]:
    """Pass controllers down to `path`: those of `want`, or with `everything` all there are, as far as the kernel and the
    permissions let it be (statistics need them too).

    `want` maps the controllers that must arrive to the field that needs them. Returns those `path` has. Raises
    SyscallError naming the field for one of `want` that did not arrive.
    """
    above: list[str] = []
    arrived: set[str] = set()
    up = path
    while up != "/":
        up = parent(up)
        try:
            arrived = set(read(up + "/cgroup.controllers").split())
        except FileNotFoundError:
            break  # above the mount point
        above.append(up)
    failed: dict[str, tuple[OSError, str]] = {}
    if not everything:
        arrived &= want.keys()
    for directory in reversed(above):
        # what did not make it further up cannot be passed on here
        arrived &= _pass_on(directory, arrived, want, failed)
    return controllers(path, want, failed)


def controllers(
    path: str, want: Mapping[str, str], failed: Mapping[str, tuple[OSError, str]] | None = None
) -> set[str]:
    """The controllers a cgroup has. Raises SyscallError naming the field for one of `want` that it has not; `failed`
    says why, and above which cgroup, where that is known.
    """
    have = set(read(path + "/cgroup.controllers").split())
    for controller, field in want.items():
        if controller in have:
            continue
        if not failed or controller not in failed:
            raise missing(field, controller, f"{path}/cgroup.controllers")
        error, where = failed[controller]
        hint = ""
        if error.errno == EBUSY:
            hint = "that cgroup has processes of its own, and cgroup v2 wants them in leaves: move them into a child"
        elif error.errno in (EACCES, EPERM, EROFS):
            hint = DELEGATE
        elif error.errno == EOPNOTSUPP:
            hint = "that cgroup is threaded"
        step = f"{field}: enable the {controller} controller in"
        raise SyscallError(step, error.errno or 0, f"{where}/cgroup.subtree_control", hint) from error
    return have


def missing(field: str, controller: str, path: str) -> SyscallError:
    """The error for a controller that is not there (crun's words, which callers look for)."""
    step = f"{field}: the requested cgroup controller `{controller}` is not available: see"
    return SyscallError(step, ENOENT, path, "no such controller, or it was not delegated")


def _pass_on(
    directory: str, here: set[str], want: Mapping[str, str], failed: dict[str, tuple[OSError, str]]
) -> set[str]:
    """Enable the controllers `here` for the children of `directory`; return those enabled."""
    with Dir(directory) as d:
        enabled = set(d.read("cgroup.subtree_control").split())
        missing = sorted(here - enabled)
        if not missing:
            return enabled
        try:
            d.write("cgroup.subtree_control", " ".join("+" + name for name in missing))
            return enabled | here
        except OSError as e:
            if len(missing) == 1 or e.errno in (EACCES, EROFS):
                failed.update((name, (e, directory)) for name in missing)
                return enabled
            if e.errno == EBUSY:
                # It has processes. Those controllers that threads may have would go through, and make it and all below
                # threaded: only when asked for, and after the others have been refused.
                missing = sorted(want.keys() & set(missing), key=lambda name: name not in _DOMAIN_CONTROLLERS)
        # all or nothing: find out which one it was
        for name in missing:
            try:
                d.write("cgroup.subtree_control", "+" + name)
                enabled.add(name)
            except OSError as e:
                failed[name] = (e, directory)
                if name in want:
                    break
    return enabled


def settle_type(path: str, want: Mapping[str, str]) -> None:
    """See to it that processes may enter a new cgroup, after enable(). One below a threaded cgroup is `domain invalid`:
    it is made threaded too, unless the config asks for a controller that threads cannot have.

    Raises SpecError, SyscallError.
    """
    try:
        kind = read(path + "/cgroup.type").strip()
    except FileNotFoundError:
        return  # the root, or Linux before 4.14
    if kind == "domain":
        return
    for controller in _DOMAIN_CONTROLLERS:
        if controller in want:
            raise SpecError(
                want[controller],
                f"cannot enter cgroupv2 {path} with domain controllers -- it is in {kind} mode"
                f" ({controller} cannot be used there; choose another linux.cgroupsPath)",
            )
    if kind == "domain invalid":
        try:
            write(path + "/cgroup.type", "threaded")
        except OSError as e:
            raise SyscallError("linux.cgroupsPath: make threaded, as the cgroup above is,", e.errno or 0, path) from e


def apply(
    path: str,
    resources: Resources,
    have: set[str],
    elsewhere: Mapping[str, str],
    open_dir: Callable[[str], Dir] = Dir,
) -> None:
    """Write what `resources` says into a v2 cgroup that has the controllers `have`; `elsewhere` are on v1 hierarchies.

    What has no equivalent on v2 is an error. Raises SyscallError, SpecError.
    """
    with open_dir(path) as d:
        if resources.get("memory") and "memory" not in elsewhere:
            _memory(d, resources["memory"], "memory" in have)
        if resources.get("cpu") and "cpu" not in elsewhere:
            _cpu(d, resources["cpu"], "cpu" in have)
        if resources.get("cpu") and "cpuset" in have:
            _cpuset(d, resources["cpu"])
        limit = (resources.get("pids") or {}).get("limit")
        if limit is not None and "pids" in have:
            d.put("pids.max", v1.pids_max(limit), f"{FIELD}.pids.limit")
        if resources.get("blockIO") and "blkio" not in elsewhere:
            _io(d, resources["blockIO"], "io" in have)
        if resources.get("hugepageLimits") and "hugetlb" in have:
            v1.hugetlb(d, resources["hugepageLimits"], ".max")
        if resources.get("rdma") and "rdma" in have:
            v1.set_rdma(d, resources["rdma"])
        for key, value in (resources.get("unified") or {}).items():
            _unified(d, key, value, have)


def _memory(d: Dir, memory: Resources, have: bool) -> None:
    field = f"{FIELD}.memory"
    if memory.get("disableOOMKiller"):
        raise SpecError(f"{field}.disableOOMKiller", f"cannot disable OOM killer with cgroupv2: {_V1_ONLY}")
    if memory.get("swappiness") not in (None, -1):
        raise SpecError(f"{field}.swappiness", f"cannot set memory swappiness with cgroupv2: {_V1_ONLY}")
    if memory.get("useHierarchy") is False:
        raise SpecError(f"{field}.useHierarchy", "cgroup v2 is always hierarchical")
    swap = swap_only(memory)
    if not have:
        return
    limit = memory.get("limit") or 0
    if memory.get("checkBeforeUpdate"):
        _check_usage(d, limit, memory.get("swap") or 0)
    # without swap in the kernel there is no file, and neither of these two needs one
    if swap != -2 and (swap > 0 or d.has("memory.swap.max")):
        d.put("memory.swap.max", _max(swap), f"{field}.swap")
    if limit:
        d.put("memory.max", _max(limit), f"{field}.limit")
    if memory.get("reservation"):
        d.put("memory.low", _max(memory["reservation"]), f"{field}.reservation")


def _max(value: int) -> str:
    return "max" if value == -1 else str(value)


def _check_usage(d: Dir, limit: int, swap: int) -> None:
    # v2 would kill to get below a new limit where v1 refuses it
    usage = int(d.read("memory.current"))
    if 0 < swap <= usage:
        raise SpecError(f"{FIELD}.memory.swap", f"rejecting memory+swap limit {swap} <= usage {usage}")
    if 0 < limit <= usage:
        raise SpecError(f"{FIELD}.memory.limit", f"rejecting memory limit {limit} <= usage {usage}")


def _cpu(d: Dir, cpu: Resources, have: bool) -> None:
    field = f"{FIELD}.cpu"
    for name in ("realtimeRuntime", "realtimePeriod"):
        if cpu.get(name):
            raise SpecError(f"{field}.{name}", f"real-time limits are not supported on cgroup v2: {_V1_ONLY}")
    if not have:
        return
    idle = cpu.get("idle")
    # an idle cgroup's weight cannot be written
    if idle == 0 and d.has("cpu.idle"):
        d.put("cpu.idle", "0", f"{field}.idle")
    if cpu.get("shares"):
        d.put("cpu.weight", str(weight_of_shares(cpu["shares"])), f"{field}.shares")
    if idle:
        d.put("cpu.idle", str(idle), f"{field}.idle")
    quota = cpu.get("quota") or 0
    period = cpu.get("period") or 0
    burst = cpu.get("burst")
    # checked against the old quota: refused, it is tried again after the new one
    burst_set = True
    if burst is not None and (burst or d.has("cpu.max.burst")):
        burst_set = d.put_or_later("cpu.max.burst", str(burst), f"{field}.burst", later=bool(quota))
    if quota or period:
        # one of them alone leaves the other as it is: "max" and 100000 in a new cgroup
        if not quota:
            amount = d.read("cpu.max").split()[0]
        else:
            amount = str(quota) if quota > 0 else "max"
        # a quota alone is a valid record: the period stays
        value = f"{amount} {period}" if period else amount
        d.put("cpu.max", value, f"{field}.{'quota' if quota else 'period'}")
    if not burst_set:
        d.put("cpu.max.burst", str(burst), f"{field}.burst")


def _cpuset(d: Dir, cpu: Resources) -> None:
    for name in ("cpus", "mems"):
        if cpu.get(name):
            d.put(f"cpuset.{name}", cpu[name], f"{FIELD}.cpu.{name}")


def _io(d: Dir, block_io: Resources, have: bool) -> None:
    field = f"{FIELD}.blockIO"
    if block_io.get("leafWeight"):
        raise SpecError(f"{field}.leafWeight", f"cannot set leaf_weight with cgroupv2: {_V1_ONLY}")
    if not have:
        return
    # BFQ takes v1's numbers, and is asked first as runc and crun do; io.weight (iocost) has its own
    bfq = d.has("io.bfq.weight")
    file = "io.bfq.weight" if bfq else "io.weight"
    weight = block_io.get("weight")
    if weight:
        value = weight if bfq else io_weight(weight, f"{field}.weight")
        d.put(file, str(value), f"{field}.weight")
    for index, device in enumerate(block_io.get("weightDevice") or ()):
        where = f"{field}.weightDevice[{index}]"
        if device.get("leafWeight"):
            raise SpecError(f"{where}.leafWeight", f"cannot set leaf_weight with cgroupv2: {_V1_ONLY}")
        if device.get("weight"):
            value = device["weight"] if bfq else io_weight(device["weight"], f"{where}.weight")
            d.put(file, f"{device['major']}:{device['minor']} {value}", f"{where}.weight")
    for name, key in zip(THROTTLES, ("rbps", "wbps", "riops", "wiops"), strict=True):
        for index, device in enumerate(block_io.get(name) or ()):
            # v1's way to take a limit off is 0
            value = f"{device['major']}:{device['minor']} {key}={device['rate'] or 'max'}"
            d.put("io.max", value, f"{field}.{name}[{index}]")


def _unified(d: Dir, key: str, value: str, have: set[str]) -> None:
    field = unified_field(key)
    controller = key.partition(".")[0]
    for record in value.splitlines() or [value]:
        try:
            d.write(key, record)
        except OSError as e:
            if controller not in have and controller != "cgroup" and e.errno in (ENOENT, EACCES, EPERM):
                raise missing(field, controller, f"{d.path}/{key}") from e
            raise d.error(e, key, record, field) from e


def set_devices(path: str, target: devices.Policy, fresh: bool) -> None:
    """Attach the device program of the policy, in place of any that is attached. `fresh`: there is none yet.

    Raises SyscallError.
    """
    from ctnr import _native

    with Dir(path) as d:
        old: list[int] = []
        try:
            if not fresh:
                old = [_native.bpf_prog_get_fd_by_id(id) for id in _native.bpf_prog_query(d.fd, _BPF_CGROUP_DEVICE)]
            if not target.default_allow or target.exceptions:
                program = _native.bpf_prog_load_device(devices.assemble(target))
                try:
                    if len(old) == 1:
                        flags = _BPF_F_ALLOW_MULTI | _BPF_F_REPLACE
                        _native.bpf_prog_attach(d.fd, program, _BPF_CGROUP_DEVICE, flags, old[0])
                        close(old.pop())
                    else:
                        _native.bpf_prog_attach(d.fd, program, _BPF_CGROUP_DEVICE, _BPF_F_ALLOW_MULTI)
                finally:
                    close(program)
            for fd in old:
                _native.bpf_prog_detach(d.fd, fd, _BPF_CGROUP_DEVICE)
        except ValueError as e:
            raise CtnrError(f"{devices.FIELD}: {e}") from e
        except OSError as e:
            hint = "needs CAP_BPF and CAP_NET_ADMIN, or CAP_SYS_ADMIN" if e.errno == EPERM else ""
            raise SyscallError(f"{devices.FIELD}: attach the eBPF device program to", e.errno or 0, path, hint) from e
        finally:
            for fd in old:
                close(fd)


def frozen(path: str) -> bool:
    """Whether this cgroup itself (not one above) was told to freeze. One that is gone was not. Raises SyscallError."""
    try:
        return read(path + "/cgroup.freeze").strip() == "1"
    except OSError as e:
        if e.errno in (ENOENT, ENODEV):
            return False
        raise SyscallError("read the freezer's state of", e.errno or 0, path) from e


def freeze(path: str, timeout: float = FREEZE_TIMEOUT) -> None:
    """Freeze every process of the cgroup and those below, and return when they are. Raises SyscallError, CtnrError.

    A process in the kernel that cannot be interrupted keeps it from being frozen: after `timeout` seconds it is thawed.
    """
    from select import POLLPRI, poll

    deadline = monotonic() + timeout
    try:
        fd = open(path + "/cgroup.events", O_RDONLY | O_CLOEXEC)
        try:
            write(path + "/cgroup.freeze", "1")
            waiter = poll()
            waiter.register(fd, POLLPRI)
            while "frozen 1" not in read_at(fd, 4096, 0).decode().splitlines():
                left = deadline - monotonic()
                if left <= 0:
                    write(path + "/cgroup.freeze", "0")
                    raise CtnrError(f"unable to freeze the cgroup {path}: a process did not stop in {timeout:g} s")
                waiter.poll(left * 1000)
        finally:
            close(fd)
    except OSError as e:
        raise SyscallError("freeze the cgroup", e.errno or 0, path) from e


def thaw(path: str) -> None:
    """Let the processes of the cgroup run again. Raises SyscallError."""
    try:
        write(path + "/cgroup.freeze", "0")
    except OSError as e:
        raise SyscallError("thaw the cgroup", e.errno or 0, path) from e


def kill(path: str) -> bool:
    """SIGKILL every process of the cgroup and those below at once. False where the kernel (before 5.14) cannot, or the
    cgroup is threaded or gone. Raises SyscallError.
    """
    try:
        write(path + "/cgroup.kill", "1")
    except OSError as e:
        if e.errno in (ENOENT, ENODEV, EOPNOTSUPP):
            return False
        raise SyscallError("kill the cgroup", e.errno or 0, path) from e
    return True


def chown(path: str, uid: int, gid: int) -> None:
    """Give the cgroup to a user: its directory and the files that the kernel says may be delegated, no others.

    runtime-spec config-linux.md#cgroup-ownership. Raises SyscallError.
    """
    try:
        names = read("/sys/kernel/cgroup/delegate").split()
    except FileNotFoundError:
        names = ["cgroup.procs", "cgroup.subtree_control", "cgroup.threads"]
    with Dir(path) as d:
        try:
            fchown(d.fd, uid, gid)
            for name in names:
                try:
                    chown_path(name, uid, gid, dir_fd=d.fd, follow_symlinks=False)
                except FileNotFoundError:
                    continue  # not every cgroup has every file
        except OSError as e:
            raise SyscallError(f"give to {uid}:{gid} the cgroup", e.errno or 0, path) from e
