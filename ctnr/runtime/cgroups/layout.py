# SPDX-License-Identifier: Apache-2.0
"""What of cgroups is mounted here, where the caller is in it, and where a container's cgroups go.

HOT: imported by `create` and `run`. Everything comes from /proc/self/mountinfo and /proc/self/cgroup.
"""

from __future__ import annotations

from posix import W_OK, X_OK, access

from ctnr.errors import SpecError
from ctnr.runtime.cgroups.dirs import exists, parent, read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

FIELD = "linux.cgroupsPath"


class Layout:
    """The mounted hierarchies.

    `v1`: controller (or `name=systemd`) -> mount point; co-mounted controllers share one.
    `unified`: mount point of cgroup2, or None.
    `own`: controller ("" for cgroup2) -> the caller's own cgroup as an absolute directory, where it can be seen.
    `mode`: "v1", "v2", "hybrid" or "none".
    """

    __slots__ = ("mode", "own", "unified", "v1")

    def __init__(self, v1: Mapping[str, str], unified: str | None, own: Mapping[str, str]) -> None:
        self.v1 = dict(v1)
        self.unified = unified
        self.own = dict(own)
        # a named hierarchy limits nothing: systemd's beside cgroup2 does not make a machine hybrid
        controllers = any(not name.startswith("name=") for name in v1)
        if unified is not None:
            self.mode = "hybrid" if controllers else "v2"
        else:
            self.mode = "v1" if v1 else "none"


# the texts of the two files and what they said: a program that starts many containers reads them once
_last: list[Any] = []


def layout(mountinfo: str | None = None, cgroup: str | None = None) -> Layout:
    """Look at what is mounted. The arguments stand for the files' texts (tests). Raises OSError without a /proc."""
    if mountinfo is None:
        mountinfo = read("/proc/self/mountinfo")
    if cgroup is None:
        cgroup = read("/proc/self/cgroup")
    if _last and _last[0] == mountinfo and _last[1] == cgroup:
        known: Layout = _last[2]
        return known
    found = _read(mountinfo, cgroup)
    _last[:] = mountinfo, cgroup, found
    return found


def _read(mountinfo: str, cgroup: str) -> Layout:
    where: dict[str, str] = {}
    for line in cgroup.splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            where[name] = path
    # controller -> (mount point, root of the mount within the hierarchy)
    found: dict[str, tuple[str, str]] = {}
    for line in mountinfo.splitlines():
        before, dash, after = line.partition(" - ")
        if not dash:
            continue
        fields = before.split(" ")
        point = _unescape(fields[4])
        # a later mount hides what was mounted there and below
        hidden = [name for name, (other, _) in found.items() if other == point or other.startswith(point + "/")]
        for name in hidden:
            del found[name]
        kind, _, options = after.split(" ", 2)
        if kind == "cgroup2":
            controllers = [""]
        elif kind == "cgroup":
            controllers = [name for name in options.rpartition(" ")[2].split(",") if name in where and name]
        else:
            continue
        mount = (point, _unescape(fields[3]))
        for name in controllers:
            # of several mounts of one hierarchy (containers' own show up too) the usual place wins, then the first
            if name not in found or (_usual(point) and not _usual(found[name][0])):
                found[name] = mount
    # what some tool has mounted elsewhere for itself is not the machine's arrangement
    if any(_usual(point) for point, _ in found.values()):
        found = {name: mount for name, mount in found.items() if _usual(mount[0])}
    own = {}
    for name, (point, root) in found.items():
        inner = _below(where.get(name), root)
        if inner is not None:
            own[name] = point + inner
    unified = found.pop("", None)
    return Layout({name: point for name, (point, _) in found.items()}, unified[0] if unified else None, own)


def _usual(point: str) -> bool:
    return point.startswith("/sys/fs/cgroup")


def _below(path: str | None, root: str) -> str | None:
    # "" or "/a/b" below a mount whose root is `root`; None where the mount does not show it (another cgroup namespace's)
    if path is None or "/.." in path or "/.." in root:
        return None
    if root == "/":
        return path.rstrip("/")
    if path == root or path.startswith(root + "/"):
        return path[len(root) :]
    return None


def _unescape(text: str) -> str:
    # mountinfo writes blank, tab, newline and backslash as three octal digits
    first, *rest = text.split("\\")
    return first + "".join(chr(int(part[:3], 8)) + part[3:] for part in rest)


def components(path: str, field: str = FIELD) -> list[str]:
    """The names a cgroup path is made of. Raises SpecError for one that could lead elsewhere."""
    names = [name for name in path.split("/") if name not in ("", ".")]
    for name in names:
        if name == "..":
            raise SpecError(field, f"`..` components are not allowed in {path!r}")
        if "\0" in name or "\n" in name:
            raise SpecError(field, f"{path!r} has a NUL or a newline")
    return names


def place(layout: Layout, path: str | None, id: str) -> dict[str, str]:
    """Controller ("" for cgroup2) -> absolute directory of the container's cgroup.

    An absolute `path` counts from the mount points. A relative one, and without one the id, goes below the caller's own
    cgroup on v1, and on cgroup2 beside it, as runc: the caller's own has a process, so it could pass no controller on.
    Hierarchies where the caller's own cannot be seen are left out. Raises SpecError.
    """
    names = components(path or id)
    if not names:
        raise SpecError(FIELD, f"{path!r} is no cgroup of its own")
    inner = "/" + "/".join(names)
    mounts = dict(layout.v1)
    if layout.unified is not None:
        mounts[""] = layout.unified
    if path and path.startswith("/"):
        return {name: point + inner for name, point in mounts.items()}
    result = {}
    for name, point in mounts.items():
        own = layout.own.get(name)
        if own is not None:
            result[name] = (own if name or own == point else parent(own)) + inner
    return result


def delegated(layout: Layout, paths: Mapping[str, str], path: str) -> dict[str, str]:
    """Those of place()'s directories that this user could make, or on cgroup2, for a relative `path`, one that it could."""
    allowed = {}
    for name, where in paths.items():
        own = layout.own.get(name)
        if may_make(where, own, name):
            allowed[name] = where
        elif not name and own and not path.startswith("/"):
            # not beside the caller's own: then below it, which does unless a controller is to be passed on
            below = f"{own}/{path}"
            if may_make(below, own, name):
                allowed[name] = below
    return allowed


def may_make(path: str, own: str | None, name: str) -> bool:
    """Whether this user could make the cgroup and put a process of its own in."""
    if exists(path):
        return access(path + "/cgroup.procs", W_OK, effective_ids=True)
    up = parent(path)
    while not exists(up):
        up = parent(up)
    if not access(up, W_OK | X_OK, effective_ids=True):
        return False
    return bool(name) or own is None or may_move(path, own)


def may_move(path: str, own: str) -> bool:
    """Whether this user could move a process from its own cgroup2 to another one, if the other one is its to write to."""
    # cgroup2 wants the power to move processes also in what the old and the new place have in common
    common = own
    while not (path + "/").startswith(common + "/"):
        common = parent(common)
    return access(common + "/cgroup.procs", W_OK, effective_ids=True)


def annotation(name: str) -> str:
    """The JSON path of one of crun's annotations."""
    return f'annotations["run.oci.{name}"]'


def annotated_sub(manager: str, annotations: Mapping[str, str], where: Layout | None) -> str:
    """crun's annotations for cgroups below the container's: `systemd.subgroup`, and `delegate-cgroup` below that."""
    subs = []
    for name in ("systemd.subgroup", "delegate-cgroup"):
        sub = annotations.get("run.oci." + name)
        if not sub or (name == "systemd.subgroup" and manager != "systemd"):
            continue
        subs += components(sub, annotation(name))
        if name == "delegate-cgroup" and (where or layout()).mode != "v2":
            raise SpecError(annotation(name), "delegate-cgroup not supported on cgroup v1")
    return "/".join(subs)


def wants_owner(config: Mapping[str, Any]) -> bool:
    """Whether the container's user is to own the cgroup: a cgroup namespace of its own, and cgroups mounted writable.

    Source: runtime-spec config-linux.md#cgroup-ownership. The owner is the host id of `process.user.uid`.
    """
    namespaces = (config.get("linux") or {}).get("namespaces") or ()
    if not any(entry.get("type") == "cgroup" and not entry.get("path") for entry in namespaces):
        return False
    return any(
        mount.get("source") == "cgroup"
        and mount.get("destination") == "/sys/fs/cgroup"
        and "ro" not in (mount.get("options") or ())
        for mount in config.get("mounts") or ()
    )
