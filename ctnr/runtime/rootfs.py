# SPDX-License-Identifier: Apache-2.0
"""Steps that make the root filesystem: mounts, devices, masked paths, the change of root.

HOT. Policy only: which mount with which flags, decided here; the init carries it out on fds.
"""

from __future__ import annotations

import posix

from ctnr import files
from ctnr.errors import CtnrError, SpecError, SyscallError
from ctnr.runtime import plan as p
from ctnr.spec.mounts import parse_options
from ctnr.spec.schema import quote
from ctnr.spec.tables import (
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    MS_DIRSYNC,
    MS_I_VERSION,
    MS_LAZYTIME,
    MS_MANDLOCK,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
    MS_SHARED,
    MS_SILENT,
    MS_SLAVE,
    MS_SYNCHRONOUS,
    MS_UNBINDABLE,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctnr.runtime.compile import Context
    from ctnr.runtime.plan import Plan
    from ctnr.spec.mounts import MountOptions
    from ctnr.spec.types import Config, Device, Mount

S_IFBLK, S_IFCHR, S_IFIFO = 0o060000, 0o020000, 0o010000

# config-linux.md#default-devices
DEFAULT_DEVICES = (("/dev/null", 3), ("/dev/zero", 5), ("/dev/full", 7), ("/dev/random", 8), ("/dev/urandom", 9))
_LINKS = (
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
)

PROPAGATION = {
    "shared": MS_SHARED,
    "rshared": MS_SHARED | MS_REC,
    "slave": MS_SLAVE,
    "rslave": MS_SLAVE | MS_REC,
    "private": MS_PRIVATE,
    "rprivate": MS_PRIVATE | MS_REC,
    "unbindable": MS_UNBINDABLE,
    "runbindable": MS_UNBINDABLE | MS_REC,
}

# superblock flags as the filesystem context knows them: bits of FSMOUNT's third argument
_SB_WORDS = ((MS_RDONLY, 1), (MS_SYNCHRONOUS, 2), (MS_DIRSYNC, 4), (MS_LAZYTIME, 8), (MS_MANDLOCK, 16))
# their superblock is shared with the host, or read-only would say nothing: "ro" is a property of the mount alone
_SHARED_TYPES = ("proc", "sysfs", "cgroup", "cgroup2", "mqueue", "devpts")


def resolve_rootfs(config: Config, bundle: str) -> str:
    """The root's canonical path: a directory that exists and is not the machine's own root."""
    root = config.get("root")
    if root is None:
        raise SpecError("root", "is missing")
    path = files.join(bundle, root["path"])
    try:
        fd = posix.open(path, posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)
    except OSError as error:
        raise SyscallError("root.path: open", error.errno or 0, path) from None
    try:
        real = posix.readlink(f"/proc/self/fd/{fd}")
        here, top = posix.fstat(fd), posix.stat("/")
    finally:
        posix.close(fd)
    if real == "/" or (here.st_dev, here.st_ino) == (top.st_dev, top.st_ino):
        raise SpecError("root.path", f"{path} is the machine's own root: a container in it would be none")
    return real


def begin(plan: Plan, ctx: Context) -> None:
    """Cut the new mount namespace loose and take the root."""
    rootfs = ctx.rootfs
    propagation = ctx.linux.get("rootfsPropagation", "")
    if not ctx.mount_namespace:
        plan.add(p.ROOTFS, "root.path", rootfs, flags=p.ROOTFS_PLAIN)
        return
    flags = PROPAGATION.get(propagation, MS_SLAVE | MS_REC)
    if flags & MS_UNBINDABLE:
        # what is mounted from here is bound; unbindable is the new root, in the end
        flags ^= MS_UNBINDABLE | MS_PRIVATE
    if ctx.no_pivot and flags & MS_PRIVATE:
        raise SpecError(
            "linux.rootfsPropagation",
            f"{propagation} needs pivot_root: chroot would leave mounts behind that nobody can free; drop --no-pivot",
        )
    plan.add(p.PROPAGATION, "linux.rootfsPropagation", "/", args=(flags,))
    if flags & MS_SHARED or not flags & MS_REC:
        # what is mounted in the container's root must not appear on the host through its parent mount, of which it would
        # be a peer; nor can a root be pivoted to whose parent is shared
        plan.add(p.PROPAGATION, "linux.rootfsPropagation", mount_point_of(rootfs), args=(MS_PRIVATE,))
    for step in ctx.root_steps:
        plan.steps.append(step)
    plan.add(p.ROOTFS, "root.path", rootfs)


def mount_point_of(path: str) -> str:
    """The mount point that `path` (absolute, no symlinks) is below, from /proc/self/mountinfo (proc(5))."""
    best = "/"
    for line in files.read_file("/proc/self/mountinfo").decode("utf-8", "surrogateescape").splitlines():
        point = unescape(line.split(" ", 5)[4])
        if len(point) >= len(best) and (path == point or path.startswith(point.rstrip("/") + "/")):
            best = point
    return best


def unescape(text: str) -> str:
    """A field of mountinfo, whose blanks, newlines and backslashes are octal escapes."""
    if "\\" not in text:
        return text
    head, *rest = text.split("\\")
    return head + "".join(chr(int(part[:3], 8)) + part[3:] for part in rest)


def mounts(plan: Plan, ctx: Context) -> None:
    for i, mount in enumerate(ctx.config.get("mounts") or ()):
        mount_one(plan, ctx, mount, f"mounts[{i}]", i)


def mount_one(plan: Plan, ctx: Context, mount: Mount, path: str, index: int) -> None:
    dest = files.normpath("/" + mount["destination"])
    type = mount.get("type", "")
    options = parse_options(mount.get("options") or [], f"{path}.options")
    if dest == "/" and (options.remount or options.tmpcopyup or type == "cgroup"):
        raise SpecError(f"{path}.destination", "/ can be mounted on, by a bind mount or a filesystem, and no more")
    if options.bind or type in ("bind", "rbind"):
        _bind(plan, ctx, mount, dest, options, path, index, recursive=options.rbind or type == "rbind")
        return
    if options.idmap or mount.get("uidMappings"):
        from ctnr.runtime import idmounts

        idmounts.filesystem(plan, ctx, mount, dest, options, path, f"tree:{index}")
    elif options.remount:
        flags = options.flags & ~MS_REMOUNT
        plan.add(p.REMOUNT, path, dest, options.data, args=(flags,))
    elif type == "sysfs" and ctx.foreign_network:
        _host_sysfs(plan, ctx, dest, options, path)
    elif type == "cgroup":
        ctx.need_cgroup_namespace(plan)
        _cgroup(plan, ctx, dest, options, path)
        return
    else:
        if type == "cgroup2":
            ctx.need_cgroup_namespace(plan)
        _filesystem(plan, ctx, mount, dest, type, options, path)
    _attributes(plan, options, path)


def _labelled(ctx: Context, type: str, data: str) -> str:
    """The data of a new mount, with linux.mountLabel."""
    if not ctx.linux.get("mountLabel"):
        return data
    from ctnr.runtime import lsm

    return lsm.mount_data(ctx.config, type, data)


def _filesystem(plan: Plan, ctx: Context, mount: Mount, dest: str, type: str, options: MountOptions, path: str) -> None:
    if not type:
        raise SpecError(f"{path}.type", "is missing")
    flags = 0
    attr = options.attr_set
    words = 0
    for flag, bit in _SB_WORDS:
        if options.flags & flag and not (flag == MS_RDONLY and type in _SHARED_TYPES):
            words |= bit
    if options.flags & (MS_I_VERSION | MS_SILENT):
        flags |= p.FSMOUNT_LEGACY
    if type in ("proc", "sysfs"):
        flags |= p.FSMOUNT_STRICT
    if type == "tmpfs" and "mode=" not in options.data:
        flags |= p.FSMOUNT_MODE  # as runc and crun
    copyup = options.tmpcopyup
    if copyup:
        if type != "tmpfs":
            raise SpecError(f"{path}.options", f"tmpcopyup is for tmpfs, not {type}")
        flags |= p.FSMOUNT_COPYUP
        attr &= ~MOUNT_ATTR_RDONLY
        words &= ~1
    ms = options.flags & ~(MS_RDONLY if copyup else 0)
    source = mount.get("source") or type
    data = _labelled(ctx, type, options.data)
    plan.add(p.FSMOUNT, path, source, type, dest, data or None, args=(attr, ms, words), flags=flags)
    if ctx.linux.get("mountLabel"):
        from ctnr.runtime import lsm

        lsm.mounted(plan, ctx.config, type)
    if copyup and options.attr_set & MOUNT_ATTR_RDONLY:
        plan.add(p.SETATTR, path, args=(MOUNT_ATTR_RDONLY,))


def _host_sysfs(plan: Plan, ctx: Context, dest: str, options: MountOptions, path: str) -> None:
    """sysfs shows a network namespace, whose owner alone may mount it: for others it is the host's, bound, as in crun."""
    plan.add(p.TREE, path, "/sys", args=(1,))
    plan.add(p.SETATTR, path, args=(options.attr_set, 0, 0, 1))  # with what is mounted in it
    plan.add(p.ATTACH, path, dest)
    destinations = {files.normpath("/" + mount["destination"]) for mount in ctx.config.get("mounts") or ()}
    if f"{dest}/fs/cgroup" not in destinations:
        plan.add(p.MASK, path, f"{dest}/fs/cgroup", "size=0k")


def _bind(
    plan: Plan, ctx: Context, mount: Mount, dest: str, options: MountOptions, path: str, index: int, recursive: bool
) -> None:
    source = mount.get("source", "")
    if not source:
        raise SpecError(f"{path}.source", "a bind mount needs a source")
    source = files.join(ctx.bundle, source)
    if options.copy_symlink:
        try:
            target = posix.readlink(source)
        except OSError:
            pass  # not a symlink: an ordinary bind
        else:
            plan.add(p.SYMLINK, path, target, dest, flags=p.SYMLINK_REPLACE)
            return
    flags = p.TREE_NOFOLLOW if options.src_nofollow else 0
    idmapped = options.idmap or mount.get("uidMappings")
    if idmapped:
        from ctnr.runtime import idmounts

        idmounts.check(ctx, options, mount, path)
    if idmapped or ctx.privileged_parent:
        # only the runtime may idmap, or see a source that the container's root may not
        ref = f"tree:{index}"
        ctx.trees[ref] = (source, recursive, options, mount, path)
        if idmapped:
            flags |= p.TREE_PARENT
        plan.add(p.TREE, path, source, args=(1 if recursive else 0,), flags=flags, ref=ref)
        if ctx.user_namespace or ctx.linux.get("rootfsPropagation") not in ("shared", "rshared"):
            # the copy is a peer of the host's mount: what is mounted below it would show up there. In a mount namespace of
            # another user namespace the kernel does the same to every mount (mount_namespaces(7))
            plan.add(p.SETATTR, path, args=(0, 0, MS_SLAVE, 1 if recursive else 0))
    else:
        plan.add(p.TREE, path, source, args=(1 if recursive else 0,), flags=flags)
    if options.attr_set or options.attr_clr:
        plan.add(p.SETATTR, path, args=(options.attr_set, options.attr_clr))
    if options.rec_set or options.rec_clr:
        plan.add(p.SETATTR, path, args=(options.rec_set, options.rec_clr, 0, 1))
    plan.add(p.ATTACH, path, dest, flags=p.ATTACH_NOFOLLOW if options.dest_nofollow else 0)
    _propagation(plan, options, path)


def _attributes(plan: Plan, options: MountOptions, path: str) -> None:
    if options.rec_set or options.rec_clr:
        plan.add(p.SETATTR, path, args=(options.rec_set, options.rec_clr, 0, 1))
    _propagation(plan, options, path)


def _propagation(plan: Plan, options: MountOptions, path: str) -> None:
    for flags in options.propagation:
        plan.add(p.SETATTR, path, args=(0, 0, flags & ~MS_REC, 1 if flags & MS_REC else 0))


def _cgroup(plan: Plan, ctx: Context, dest: str, options: MountOptions, path: str) -> None:
    """A mount of type cgroup is the container's view of whatever hierarchies the host has (config-linux.md#control-groups)."""
    layout = ctx.cgroup_layout()
    readonly = options.attr_set & MOUNT_ATTR_RDONLY
    if options.data and not (layout.mode == "v2" and ctx.new_cgroup_namespace):
        raise SpecError(
            f"{path}.options", f"{quote(options.data)}: only cgroup2 in a cgroup namespace of its own takes options"
        )
    if layout.mode == "none":
        raise CtnrError(f"{path}: this host has no cgroup filesystem mounted on /sys/fs/cgroup")
    if layout.mode == "v2":
        _cgroup_hierarchy(plan, ctx, "", "", dest, options, path)
        _attributes(plan, options, path)
        return
    attr = options.attr_set & ~MOUNT_ATTR_RDONLY
    data = _labelled(ctx, "tmpfs", "mode=755")
    plan.add(p.FSMOUNT, path, "tmpfs", "tmpfs", dest, data, args=(attr, 0, 0))
    done: dict[str, str] = {}
    for controller, point in layout.v1.items():
        name = files.basename(point)
        if point not in done:
            done[point] = name
            members = [c for c, other in layout.v1.items() if other == point]
            data = ",".join("none," + c if c.startswith("name=") else c for c in members)
            _cgroup_hierarchy(plan, ctx, controller, data, f"{dest}/{name}", options, path)
        if controller != name and not controller.startswith("name="):
            plan.add(p.SYMLINK, path, name, f"{dest}/{controller}", flags=p.SYMLINK_KEEP)
    if layout.unified:
        _cgroup_hierarchy(plan, ctx, "", "", f"{dest}/unified", options, path)
    if readonly:
        plan.add(p.SETATTR, path, dest, args=(MOUNT_ATTR_RDONLY,))
    _propagation(plan, options, path)


def _cgroup_hierarchy(
    plan: Plan, ctx: Context, controller: str, data: str, dest: str, options: MountOptions, path: str
) -> None:
    if ctx.new_cgroup_namespace:
        type = "cgroup" if controller else "cgroup2"
        data = data or options.data
        plan.add(p.FSMOUNT, path, type, type, dest, data or None, args=(options.attr_set, options.flags, 0))
        return
    source, ours = ctx.cgroup_dir(controller)
    attr = options.attr_set
    if not ours:
        attr |= MOUNT_ATTR_RDONLY  # somebody else's cgroup, in view for lack of a namespace: CVE-2023-25809
    plan.add(p.TREE, path, source)
    plan.add(p.SETATTR, path, args=(attr, options.attr_clr & ~(MOUNT_ATTR_RDONLY if not ours else 0), 0, 1))
    plan.add(p.ATTACH, path, dest)


def _is_symlink(path: str) -> bool:
    try:
        posix.readlink(path)
    except OSError:
        return False
    return True


def devices(plan: Plan, ctx: Context) -> None:
    """/dev: the default devices, those of the config, the links; nothing if /dev is bound from elsewhere."""
    mounted = False
    for mount in ctx.config.get("mounts") or ():
        if files.normpath("/" + mount["destination"]) == "/dev":
            mounted = True
            words = mount.get("options") or ()
            if mount.get("type") == "bind" or "bind" in words or "rbind" in words:
                return
    if not mounted and _is_symlink(f"{ctx.rootfs}/dev"):
        raise SpecError("root.path", f"/dev in {ctx.rootfs} is a symlink: the devices would be made elsewhere in it")
    wanted: dict[str, tuple[Device, str]] = {}
    for name, minor in DEFAULT_DEVICES:
        wanted[name] = ({"path": name, "type": "c", "major": 1, "minor": minor, "fileMode": 0o666}, "default devices")
    wanted["/dev/tty"] = (
        {"path": "/dev/tty", "type": "c", "major": 5, "minor": 0, "fileMode": 0o666},
        "default devices",
    )
    for i, device in enumerate(ctx.linux.get("devices") or ()):
        wanted[files.normpath(device["path"])] = (device, f"linux.devices[{i}]")
    for name, (device, path) in wanted.items():
        _device(plan, ctx, name, device, path)
    for target, link in _LINKS:
        plan.add(p.SYMLINK, "default links", target, link, flags=p.SYMLINK_KEEP)
    if ctx.has_kcore:
        plan.add(p.SYMLINK, "default links", "/proc/kcore", "/dev/core", flags=p.SYMLINK_KEEP)
    plan.add(p.SYMLINK, "default links", "pts/ptmx", "/dev/ptmx", flags=p.SYMLINK_REPLACE)


def _device(plan: Plan, ctx: Context, name: str, device: Device, path: str) -> None:
    type = {"c": S_IFCHR, "u": S_IFCHR, "b": S_IFBLK, "p": S_IFIFO}[device["type"]]
    major, minor = device.get("major", 0), device.get("minor", 0)
    mode = device.get("fileMode")
    mode = 0o666 if mode is None else mode & 0o7777
    if ctx.bind_devices and type != S_IFIFO:
        source, ref = name, ""
        if path == "default devices":
            source = f"/dev/{files.basename(name)}"
        elif ctx.privileged_parent:
            ref = f"node:{name}"
            ctx.nodes[ref] = (type | mode, major, minor, device.get("uid") or 0, device.get("gid") or 0, path)
        plan.add(p.TREE, path, source, args=(0, type, major, minor), flags=p.TREE_DEVICE, ref=ref)
        plan.add(p.SETATTR, path, args=(MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC,))
        plan.add(p.ATTACH, path, name)
        return
    uid, gid = device.get("uid") or 0, device.get("gid") or 0
    plan.add(p.MKNOD, path, name, args=(type | mode, major, minor, uid, gid))


def protect(plan: Plan, ctx: Context) -> None:
    """maskedPaths and readonlyPaths, before the change of root: the sources are the host's."""
    for i, name in enumerate(ctx.linux.get("readonlyPaths") or ()):
        plan.add(p.READONLY, f"linux.readonlyPaths[{i}]", name)
    data = _labelled(ctx, "tmpfs", "size=0k")
    for i, name in enumerate(ctx.linux.get("maskedPaths") or ()):
        plan.add(p.MASK, f"linux.maskedPaths[{i}]", name, data)


def enter(plan: Plan, ctx: Context) -> None:
    """Change root; then what applies to the new root as a whole."""
    flags = p.PIVOT_READONLY if ctx.config["root"].get("readonly") else 0
    if not ctx.mount_namespace:
        plan.add(p.PIVOT, "root.path", flags=p.PIVOT_CHROOT)
        return
    if ctx.no_pivot:
        for point in _host_procs(ctx.rootfs):
            plan.add(p.HOST_HIDE, "--no-pivot", point)
        flags |= p.PIVOT_MOVE
    plan.add(p.PIVOT, "root.path", flags=flags)
    propagation = ctx.linux.get("rootfsPropagation", "")
    if propagation:
        plan.add(p.PROPAGATION, "linux.rootfsPropagation", "/", args=(PROPAGATION[propagation],))


def _host_procs(rootfs: str) -> list[str]:
    """Mount points of every proc and sysfs outside the root, deepest first."""
    points = []
    for line in files.read_file("/proc/self/mountinfo").decode("utf-8", "surrogateescape").splitlines():
        head, _, tail = line.partition(" - ")
        fields = head.split(" ")
        point = unescape(fields[4])
        if tail.split(" ", 1)[0] in ("proc", "sysfs") and fields[3] == "/" and not point.startswith(rootfs + "/"):
            points.append(point)
    return sorted(points, key=len, reverse=True)


def sysctls(plan: Plan, ctx: Context) -> None:
    wanted = ctx.linux.get("sysctl")
    if not wanted:
        return
    from ctnr.spec.sysctl import sysctl_path

    for key, value in wanted.items():
        field = f"linux.sysctl.{key}"
        try:
            plan.add(p.SYSCTL, field, sysctl_path(key), value)
        except ValueError as error:
            raise SpecError(field, str(error)) from None
