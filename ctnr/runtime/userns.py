# SPDX-License-Identifier: Apache-2.0
"""Host programs and fds in a user namespace of their own: unpacking with mapped ids, idmapped mounts.

HOT: imported only by what needs one. The program sees the host's file tree, not a container's.
"""

from __future__ import annotations

import posix
import sys

from ctnr import files
from ctnr.errors import CtnrError
from ctnr.runtime import idmap, launch
from ctnr.runtime import plan as p
from ctnr.runtime.process import Process
from ctnr.spec.tables import CLONE_NEWUSER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctnr.spec.types import IDMapping


def _begin() -> p.Plan:
    plan = p.Plan()
    plan.clone = CLONE_NEWUSER
    plan.add(p.SYNC, "linux.uidMappings", args=(p.PHASE_MAPS,))
    plan.add(p.SETID0, "linux.uidMappings")
    return plan


def run(
    argv: Sequence[str],
    uids: list[IDMapping],
    gids: list[IDMapping],
    passed: Sequence[int],
    stdio: tuple[int, int, int],
) -> Process:
    """Start argv[0] (an absolute path) as 0:0 of a new user namespace with these maps; `passed` fds keep their numbers."""
    plan = _begin()
    plan.add(p.LOOKUP, "", argv[0], "")
    plan.add(p.WAIT, "")
    plan.add(p.EXEC, "", p.strings(list(argv)), p.strings(["PATH=/usr/bin:/bin"]), p.numbers(passed))

    def phase(started: launch.Launch, _: int) -> bytes:
        idmap.write_maps(started.pid, uids, gids)
        return b""

    return launch.program(plan, stdio, passed, phase)


def namespace_fd(uids: list[IDMapping], gids: list[IDMapping], where: str = "linux") -> int:
    """An fd of a new user namespace with these maps, from the section `where`. Needs privilege over the ids."""
    plan = _begin()
    plan.add(p.EXEC, "", b"", b"")  # never reached
    started = launch.spawn(plan, launch.Fds(), (0, 1, 2), "helper", -1, (), True)
    try:
        idmap.write_maps(started.pid, uids, gids, where)
        return posix.open(f"/proc/{started.pid}/ns/user", posix.O_RDONLY | posix.O_CLOEXEC)
    finally:
        started.abort()


def remove_tree(path: str) -> None:
    """Remove a tree of the user's, with what belongs to the user's subordinate ids in it. What is gone is no error."""
    try:
        files.remove_tree(path)
        return
    except FileNotFoundError:
        return
    except PermissionError:
        if posix.geteuid() == 0:
            raise
    uids, gids = idmap.rootless_maps(posix.geteuid(), posix.getegid())
    boot = "import sys; sys.path[:] = sys.argv[1].split(chr(0x1f)); from ctnr.files import remove_tree; remove_tree(sys.argv[2])"
    where = chr(0x1F).join(files.abspath(entry) for entry in sys.path)
    null = posix.open("/dev/null", posix.O_RDWR | posix.O_CLOEXEC)
    try:
        process = run([sys.executable, "-I", "-S", "-c", boot, where, path], uids, gids, (), (null, null, null))
        status = process.wait()
        process.close()
    finally:
        posix.close(null)
    if status:
        raise CtnrError(f"cannot remove {path}: it has files of ids that are not yours to map (see /etc/subuid)")
