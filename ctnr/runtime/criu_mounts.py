# SPDX-License-Identifier: Apache-2.0
"""Mounts that CRIU cannot see the source of: what it is told of them at checkpoint, and made to find at restore.

Imported only by checkpoint and restore. CRIU saves such a mount as a name; at restore it binds whatever the name is said to
mean, which the bundle's config says and not the image.
"""

from __future__ import annotations

import posix
from errno import ENOENT, ENOTDIR

from ctnr import _native, files
from ctnr.errors import SpecError
from ctnr.runtime import launch, rootfs
from ctnr.runtime import plan as p
from ctnr.runtime.compile import Context
from ctnr.runtime.criu import carry_out
from ctnr.spec.mounts import parse_options
from ctnr.spec.tables import CLONE_NEWNS, MS_REC, MS_SLAVE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctnr.spec.types import Mount

_RESOLVE_IN_ROOT, _RESOLVE_NO_MAGICLINKS = 0x10, 0x02
_S_IFMT, _S_IFDIR = 0o170000, 0o040000


class Root:
    """A container's root: where a path of the config is in it, symlinks followed without ever leaving it."""

    def __init__(self, path: str) -> None:
        self.fd = posix.open(path, posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)
        self._own = posix.readlink(f"/proc/self/fd/{self.fd}").rstrip("/")

    def close(self) -> None:
        posix.close(self.fd)

    def find(self, path: str) -> tuple[str, bool] | None:
        """The path without symlinks, and whether it is a directory; None if it is not there."""
        try:
            fd = _native.openat2(
                self.fd, path, posix.O_PATH | posix.O_CLOEXEC, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS
            )
        except OSError as error:
            if error.errno in (ENOENT, ENOTDIR):
                return None
            raise
        try:
            real = posix.readlink(f"/proc/self/fd/{fd}")
            directory = posix.fstat(fd).st_mode & _S_IFMT == _S_IFDIR
        finally:
            posix.close(fd)
        if self._own and real.startswith(self._own + "/"):
            real = real[len(self._own) :]
        return real, directory

    def name(self, path: str) -> str:
        """The name under which CRIU knows a mount on `path`: its path in the container."""
        found = self.find(path)
        return found[0] if found is not None else files.normpath("/" + path)


def is_bind(mount: Mount, path: str) -> bool:
    """Whether a mount of the config is a bind mount. SpecError for one that CRIU cannot be told of."""
    options = parse_options(mount.get("options") or [], f"{path}.options")
    bind = options.bind or mount.get("type") in ("bind", "rbind")
    if bind and options.copy_symlink and _is_symlink(mount.get("source", "")):
        return False  # a symlink was made and nothing was mounted
    if bind and options.src_nofollow:
        raise SpecError(f"{path}.options", "CRIU does not support src-nofollow for bind mounts")
    return bind


def _is_symlink(path: str) -> bool:
    try:
        posix.readlink(path)
    except OSError:
        return False
    return True


def external(ctx: Context, root: Root) -> list[tuple[str, str]]:
    """(name, source on the host) of each mount of the container that was bound from the host."""
    found: list[tuple[str, str]] = []
    for i, mount in enumerate(ctx.config.get("mounts") or ()):
        path = f"mounts[{i}]"
        if mount.get("type") == "cgroup" and not ctx.new_cgroup_namespace:
            found += _cgroups(ctx, root, mount["destination"])
        elif is_bind(mount, path):
            found.append((root.name(mount["destination"]), files.join(ctx.bundle, mount.get("source", ""))))
    if ctx.user_namespace:  # device nodes are bound there
        for name, _ in (*rootfs.DEFAULT_DEVICES, ("/dev/tty", 0)):
            found.append((root.name(name), name))
    for device in ctx.linux.get("devices") or ():
        found.append((root.name(device["path"]), device["path"]))
    return found


def _cgroups(ctx: Context, root: Root, destination: str) -> list[tuple[str, str]]:
    """Those that rootfs.py binds for a mount of type cgroup without a cgroup namespace."""
    layout = ctx.cgroup_layout()
    if layout.mode == "v2":
        return [(root.name(destination), ctx.cgroup_dir("")[0])]
    points = {point: controller for controller, point in reversed(layout.v1.items())}
    found = [
        (f"{root.name(destination)}/{files.basename(point)}", ctx.cgroup_dir(controller)[0])
        for point, controller in points.items()
    ]
    if layout.unified:
        found.append((f"{root.name(destination)}/unified", ctx.cgroup_dir("")[0]))
    return found


def masked(ctx: Context, root: Root) -> list[str]:
    """The masked paths that are files: binds of the host's /dev/null."""
    found = []
    for name in ctx.linux.get("maskedPaths") or ():
        place = root.find(name)
        if place is not None and not place[1]:
            found.append(place[0])
    return found


def prepare(ctx: Context, rootfs_path: str) -> None:
    """Make the mount points in the root filesystem that a start would make: CRIU makes none.

    The init does it, as at a start, in a mount namespace that ends with it. CtnrError as from create.
    """
    plan = p.Plan()
    plan.clone = CLONE_NEWNS
    plan.add(p.PROPAGATION, "", "/", args=(MS_SLAVE | MS_REC,))
    plan.add(p.ROOTFS, "root.path", rootfs_path)
    for i, mount in enumerate(ctx.config.get("mounts") or ()):
        path = f"mounts[{i}]"
        if mount.get("type") in ("cgroup", "cgroup2"):
            continue  # on a tmpfs or in sysfs
        if is_bind(mount, path) or parse_options(mount.get("options") or [], path).copy_symlink:
            rootfs.mount_one(plan, ctx, mount, path, i)
        elif "remount" not in (mount.get("options") or ()):
            # whatever it is, what is mounted on it needs no place in the root itself
            destination = files.normpath("/" + mount["destination"])
            plan.add(p.FSMOUNT, path, "tmpfs", "tmpfs", destination, None, args=(0, 0, 0))
    rootfs.devices(plan, ctx)
    fds = launch.Fds()
    try:
        launch.open_refs(plan, ctx, fds)
        carry_out(plan, fds)
    finally:
        fds.close()
