# SPDX-License-Identifier: Apache-2.0
"""Idmapped mounts (mount_setattr(2), MOUNT_ATTR_IDMAP): made by the runtime, detached, for the init to attach.

HOT: imported only for a config that has one. A bind mount's tree is copied and the copy mapped; of a mount with a filesystem
of its own the runtime makes the filesystem, in its own user namespace: there the ids that are mapped mean something.
"""

from __future__ import annotations

import posix
from errno import EINVAL, EPERM

from ctnr import _native, files
from ctnr.errors import CtnrError, SpecError, SyscallError
from ctnr.runtime import launch, userns
from ctnr.runtime import plan as p
from ctnr.spec.schema import quote
from ctnr.spec.tables import (
    MOUNT_ATTR_IDMAP,
    MS_DIRSYNC,
    MS_I_VERSION,
    MS_LAZYTIME,
    MS_MANDLOCK,
    MS_RDONLY,
    MS_SILENT,
    MS_SYNCHRONOUS,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctnr.runtime.compile import Context
    from ctnr.runtime.plan import Plan
    from ctnr.spec.mounts import MountOptions
    from ctnr.spec.types import IDMapping, Mount

_AT_EMPTY_PATH, _AT_RECURSIVE = 0x1000, 0x8000
# one for all of the machine or of a namespace that the container has not got yet; none of them can be idmapped
_NAMESPACED = ("proc", "sysfs", "cgroup", "cgroup2", "mqueue", "devpts")
_WORDS = (
    (MS_RDONLY, "ro"),
    (MS_SYNCHRONOUS, "sync"),
    (MS_DIRSYNC, "dirsync"),
    (MS_LAZYTIME, "lazytime"),
    (MS_MANDLOCK, "mand"),
)
_ROOTLESS = (
    "id-mapped mounts are not supported for rootless containers:"
    " they take root in the user namespace that the filesystem was mounted in"
)


def check(ctx: Context, options: MountOptions, mount: Mount, path: str) -> None:
    """SpecError for what can be known before there is a mount."""
    if ctx.euid != 0:
        raise SpecError(path, _ROOTLESS)
    if options.idmap_maps and not mount.get("uidMappings"):
        parse_maps(ctx, options.idmap_maps, path)


def filesystem(plan: Plan, ctx: Context, mount: Mount, dest: str, options: MountOptions, path: str, ref: str) -> None:
    """The steps of an idmapped mount of a new filesystem."""
    type = mount.get("type", "")
    if type in _NAMESPACED or options.remount:
        raise SpecError(path, f"{type or 'a remount'} cannot be idmapped")
    if options.tmpcopyup:
        raise SpecError(f"{path}.options", "tmpcopyup is not for an idmapped mount")
    if options.flags & (MS_I_VERSION | MS_SILENT):
        raise SpecError(f"{path}.options", "iversion and silent are not for an idmapped mount")
    check(ctx, options, mount, path)
    source = mount.get("source") or type
    ctx.trees[ref] = (source, False, options, mount, path)
    plan.add(p.TREE, path, f"a new {type}, idmapped", ref=ref, flags=p.TREE_PARENT)
    plan.add(p.ATTACH, path, dest)


def new(ctx: Context, source: str, options: MountOptions, mount: Mount, field: str) -> int:
    """A detached mount of a new filesystem of the config's type and options."""
    type = mount["type"]
    try:
        fs = _native.fsopen(type)
        try:
            _native.fsconfig(fs, "source", source)
            for flag, word in _WORDS:
                if options.flags & flag:
                    _native.fsconfig(fs, word)
            for option in options.data.split(",") if options.data else ():
                name, equals, value = option.partition("=")
                _native.fsconfig(fs, name, value if equals else None)
            if ctx.linux.get("mountLabel"):
                from ctnr.runtime import lsm

                for name, value in lsm.mount_options(ctx.config, type, options.data):
                    _native.fsconfig(fs, name, value)
            _native.fsconfig(fs)
            return _native.fsmount(fs, options.attr_set)
        finally:
            posix.close(fs)
    except OSError as error:
        if launch.is_refused(error, _native.fsopen, "there is no such file system"):
            raise CtnrError(f"{field}: an idmapped mount needs fsopen, {launch.MISSING}") from None
        raise SyscallError(f"{field}: mount {type}", error.errno or 0, source) from None


def apply(ctx: Context, fd: int, source: str, options: MountOptions, mount: Mount, field: str) -> None:
    """Map the ids of the detached mount `fd`, or of the whole tree of mounts with ridmap."""
    namespace = _user_namespace(ctx, options, mount, field)
    try:
        recurse = _AT_RECURSIVE if options.idmap == "ridmap" else 0
        _native.mount_setattr(fd, "", _AT_EMPTY_PATH | recurse, MOUNT_ATTR_IDMAP, 0, 0, namespace)
    except OSError as error:
        if launch.is_refused(error, _native.mount_setattr, -1, "", 0xFFFFFFFF, 0, 0):
            raise CtnrError(f"{field}: an idmapped mount needs mount_setattr, {launch.MISSING}") from None
        below = " or one that is mounted below it" if recurse else ""
        hint = {
            EPERM: f"it is idmapped already, or the filesystem{below} belongs to another user namespace",
            EINVAL: f"this kernel cannot idmap {mount.get('type') if not options.bind else _host_type(source)}{below}",
        }.get(error.errno or 0, "")
        raise SyscallError(f"{field}: idmap", error.errno or 0, source, hint) from None
    finally:
        posix.close(namespace)


def _user_namespace(ctx: Context, options: MountOptions, mount: Mount, field: str) -> int:
    """An fd of the user namespace whose maps are the mount's: the mount's own, those in its option, the container's."""
    uids, gids = list(mount.get("uidMappings") or ()), list(mount.get("gidMappings") or ())
    if not uids and options.idmap_maps:
        uids, gids = parse_maps(ctx, options.idmap_maps, field)
    if not uids:
        for i, namespace in enumerate(ctx.linux.get("namespaces") or ()):
            path = namespace.get("path", "")
            if namespace["type"] == "user" and path:
                try:
                    return posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
                except OSError as error:
                    raise SyscallError(f"linux.namespaces[{i}].path: open", error.errno or 0, path) from None
        uids, gids = list(ctx.linux.get("uidMappings") or ()), list(ctx.linux.get("gidMappings") or ())
    if not uids or not gids:
        raise SpecError(f"{field}.uidMappings", "an idmapped mount needs uidMappings and gidMappings")
    return userns.namespace_fd(uids, gids, field)


def parse_maps(ctx: Context, text: str, field: str) -> tuple[list[IDMapping], list[IDMapping]]:
    """crun's `idmap=uids=0-1000-10#10-2000-5;gids=...`: ids of the filesystem, of the host, and how many, in triples.

    A triple after `@` has an id of the container in the place of the host's.
    """
    where = f"{field}.options"
    found: dict[str, list[IDMapping]] = {"uids": [], "gids": []}
    for part in text.split(";"):
        kind, equals, triples = part.partition("=")
        if kind not in found or not equals or found[kind]:
            raise SpecError(where, f"invalid mapping {quote(text)}: uids=A-B-N#...;gids=A-B-N#... is meant")
        for triple in triples.split("#"):
            relative = triple.startswith("@")
            numbers = triple[relative:].split("-")
            if len(numbers) != 3 or not all(n.isascii() and n.isdigit() and len(n) < 11 for n in numbers):
                raise SpecError(where, f"invalid mapping {quote(triple)}: A-B-N is meant")
            inside, outside, size = (int(n) for n in numbers)
            if relative:
                outside = _of_container(ctx, kind, outside, where)
            if not size or max(inside, outside) + size > 0xFFFFFFFF:
                raise SpecError(where, f"invalid mapping {quote(triple)}: beyond the last id, or of none")
            found[kind].append({"containerID": inside, "hostID": outside, "size": size})
    if not found["uids"] or not found["gids"]:
        raise SpecError(where, f"invalid mapping {quote(text)}: both uids= and gids= are needed")
    return found["uids"], found["gids"]


def _of_container(ctx: Context, kind: str, id: int, where: str) -> int:
    for m in ctx.linux.get("uidMappings") or () if kind == "uids" else ctx.linux.get("gidMappings") or ():
        if m["containerID"] <= id < m["containerID"] + m["size"]:
            return m["hostID"] + id - m["containerID"]
    raise SpecError(where, f"@{id} has no id on the host: it is not in linux.{kind[:-1]}Mappings")


def _host_type(source: str) -> str:
    """The type of the filesystem at a host path."""
    best, type = "", ""
    for line in files.read_file("/proc/self/mountinfo").decode("utf-8", "surrogateescape").splitlines():
        head, _, tail = line.partition(" - ")
        point = head.split(" ", 5)[4]
        if len(point) >= len(best) and (source == point or source.startswith(point.rstrip("/") + "/")):
            best, type = point, tail.split(" ", 1)[0]
    return type
