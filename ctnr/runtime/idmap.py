# SPDX-License-Identifier: Apache-2.0
"""User and group id maps of user namespaces: what a user may map, and writing it (user_namespaces(7), subuid(5)).

HOT: imported by create of a container with a user namespace.
"""

from __future__ import annotations

import posix
from errno import EINVAL, EPERM

from ctnr import files
from ctnr.errors import CtnrError, SyscallError
from ctnr.runtime import state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctnr.spec.types import IDMapping, Linux, Namespace

_HELPER_DIRS = ("/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin", "/sbin")


def find_helper(name: str) -> str | None:
    """The path of a setuid helper (newuidmap), looked for where root installs programs, never in PATH."""
    for directory in _HELPER_DIRS:
        path = f"{directory}/{name}"
        if posix.access(path, posix.X_OK):
            return path
    return None


def sub_ids(kind: str, uid: int, name: str) -> list[tuple[int, int]]:
    """The user's ranges (start, count) of /etc/sub{uid,gid}; `kind` is "uid" or "gid"."""
    ranges = []
    try:
        text = files.read_file(f"/etc/sub{kind}").decode("utf-8", "replace")
    except OSError:
        return []
    for line in text.splitlines():
        fields = line.split(":")
        if len(fields) == 3 and fields[0] in (name, str(uid)) and fields[1].isdigit() and fields[2].isdigit():
            ranges.append((int(fields[1]), int(fields[2])))
    return ranges


def rootless_maps(uid: int, gid: int) -> tuple[list[IDMapping], list[IDMapping]]:
    """The maps of a user's containers: root is the user; the rest are the user's sub-ids, where both kinds can be had."""
    from pwd import getpwuid

    uids: list[IDMapping] = [{"containerID": 0, "hostID": uid, "size": 1}]
    gids: list[IDMapping] = [{"containerID": 0, "hostID": gid, "size": 1}]
    try:
        name = getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    sub_uids, sub_gids = sub_ids("uid", uid, name), sub_ids("gid", uid, name)
    if sub_uids and sub_gids and find_helper("newuidmap") and find_helper("newgidmap"):
        for maps, ranges in ((uids, sub_uids), (gids, sub_gids)):
            at = 1
            for start, count in ranges:
                maps.append({"containerID": at, "hostID": start, "size": count})
                at += count
    return uids, gids


def _text(maps: list[IDMapping]) -> str:
    return "".join(f"{m['containerID']} {m['hostID']} {m['size']}\n" for m in maps)


def single_id(maps: list[IDMapping], own: int) -> bool:
    """Whether an unprivileged process may write this map itself."""
    return len(maps) == 1 and maps[0]["size"] == 1 and maps[0]["hostID"] == own


def setgroups_allowed(uids: list[IDMapping], gids: list[IDMapping]) -> bool:
    """Whether setgroups(2) works in a namespace with these maps: not when an unprivileged user wrote the gid map."""
    return may_setgroups() if posix.geteuid() == 0 else not single_id(gids, posix.getegid())


def may_setgroups() -> bool:
    """Whether this process may: root, unless of a user namespace that an unprivileged user made."""
    if posix.geteuid() != 0:
        return False
    return not state.in_user_namespace() or files.read_file("/proc/self/setgroups").strip() == b"allow"


def setgroups_in(linux: Linux, namespaces: list[Namespace]) -> bool:
    """Whether setgroups(2) will work in the user namespace of the config, or here where `namespaces` has none."""
    for namespace in namespaces:
        path = namespace.get("path", "")
        if not path:
            return setgroups_allowed(list(linux.get("uidMappings") or ()), list(linux.get("gidMappings") or ()))
        owner = path.rpartition("/ns/")[0]
        try:  # /proc/PID/ns/user: its process tells
            return files.read_file(f"{owner}/setgroups").strip() == b"allow"
        except OSError:
            break
    return may_setgroups()


def write_maps(pid: int, uids: list[IDMapping], gids: list[IDMapping], where: str = "linux") -> None:
    """Write both maps of the user namespace of `pid`, directly where that is allowed, else by newuidmap(1), newgidmap(1)."""
    privileged = posix.geteuid() == 0
    if not privileged and single_id(gids, posix.getegid()):
        _write(pid, "setgroups", "deny", f"{where}.gidMappings")
    for kind, maps, own in (("uid", uids, posix.geteuid()), ("gid", gids, posix.getegid())):
        field = f"{where}.{kind}Mappings"
        if privileged or single_id(maps, own):
            _write(pid, f"{kind}_map", _text(maps), field)
        else:
            _helper(f"new{kind}map", pid, maps, field)


def _write(pid: int, name: str, text: str, field: str) -> None:
    try:
        fd = posix.open(f"/proc/{pid}/{name}", posix.O_WRONLY | posix.O_CLOEXEC)
        try:
            posix.write(fd, text.encode())
        finally:
            posix.close(fd)
    except OSError as error:
        hint = ""
        if error.errno == EPERM:
            hint = "these ids are not yours to map: root, or ranges in /etc/subuid and /etc/subgid, are needed"
        elif error.errno == EINVAL:
            hint = "the map is malformed or its ranges overlap"
        raise SyscallError(f"{field}: write", error.errno or 0, f"/proc/{pid}/{name}", hint) from None


def _helper(program: str, pid: int, maps: list[IDMapping], field: str) -> None:
    from ctnr.runtime.child import run_program

    path = find_helper(program)
    if path is None:
        raise CtnrError(f"{field}: more than one id needs {program}, which is not installed (Debian: package uidmap)")
    argv = [program, str(pid)]
    for m in maps:
        argv += [str(m["containerID"]), str(m["hostID"]), str(m["size"])]
    status, output = run_program(path, argv, [], b"", None)
    if status:
        raise CtnrError(f"{field}: {program}: {output or f'exit status {status}'} (see /etc/sub{program[3:6]})")


def mapped(maps: list[IDMapping], id: int) -> int | None:
    """The host's id of an id in the namespace, None if it has none."""
    for m in maps:
        if m["containerID"] <= id < m["containerID"] + m["size"]:
            return m["hostID"] + id - m["containerID"]
    return None
