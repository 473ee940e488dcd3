# SPDX-License-Identifier: Apache-2.0
"""Device nodes for a container in a user namespace, where nobody can make one: the runtime makes them, to be bound there.

HOT: imported only for linux.devices of root's container with a user namespace. Each is a file of a tmpfs that is mounted
nowhere.
"""

from __future__ import annotations

import posix
from errno import EINVAL, ENOSYS, EPERM

from ctnr import _native
from ctnr.errors import SpecError, SyscallError
from ctnr.runtime import idmap
from ctnr.spec.tables import MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctnr.runtime.compile import Context

_OPEN_TREE_CLONE = 1


def make(ctx: Context, ref: str) -> int:
    """A detached mount of the node alone; -1 where that is not possible and the host's own has to do.

    That is without CAP_MKNOD, and before Linux 6.15, which is the first to copy a mount that has no place. The owner is an
    id of the container's: SpecError if it has no such id.
    """
    mode, major, minor, uid, gid, field = ctx.nodes[ref]
    owner = []
    for name, id, maps in (("uid", uid, ctx.linux.get("uidMappings")), ("gid", gid, ctx.linux.get("gidMappings"))):
        outside = idmap.mapped(list(maps or ()), id) if maps else id
        if outside is None:
            raise SpecError(f"{field}.{name}", f"{id} is not mapped in the user namespace")
        owner.append(outside)
    mount = -1
    try:
        context = _native.fsopen("tmpfs")
        try:
            _native.fsconfig(context)
            mount = _native.fsmount(context, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC)
        finally:
            posix.close(context)
        posix.mknod("node", mode, posix.makedev(major, minor), dir_fd=mount)
        posix.chown("node", *owner, dir_fd=mount, follow_symlinks=False)
        posix.chmod("node", mode & 0o7777, dir_fd=mount)  # whatever the umask
        return _native.open_tree(mount, "node", _OPEN_TREE_CLONE)
    except OSError as error:
        if error.errno in (EINVAL, ENOSYS, EPERM):
            return -1
        raise SyscallError(f"{field}: make the device node", error.errno or 0) from None
    finally:
        if mount >= 0:
            posix.close(mount)
