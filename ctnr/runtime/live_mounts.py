# SPDX-License-Identifier: Apache-2.0
"""mounts add, mounts remove: mounts of a container that is there, as crun has them.

HOT (mounts). The init makes a mount, detached, in a mount namespace of its own that still shows the host's files, and joins the
container's only then, to attach it: no path of the host means anything there, and none of the container's is followed out of it.
Everything else of the container's it has joined before, so that proc, sysfs and mqueue are the container's; but it makes no child
before, so it is not in the container's pid namespace while /proc/PID/root of it would be the host's root.
"""

from __future__ import annotations

from errno import EINVAL, ENOSYS, EPERM
from fcntl import F_DUPFD_CLOEXEC, fcntl

from ctnr import _native, files, log
from ctnr.errors import CtnrError, SpecError, StateError
from ctnr.runtime import compile as compiler
from ctnr.runtime import launch, rootfs
from ctnr.runtime import plan as p
from ctnr.runtime.compile import Context
from ctnr.spec.runtime import check_mounts
from ctnr.spec.tables import CLONE_NEWNS, CLONE_NEWUSER, MS_REC, MS_SLAVE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ctnr.runtime.container import Container
    from ctnr.runtime.plan import Plan

# of the container itself, known when it is made only
_AT_CREATE = ("cgroup", "cgroup2")
_INSIDE = (p.ATTACH, p.REMOUNT, p.SYMLINK, p.FSMOUNT)


def add(container: Container, mounts: list[Any]) -> None:
    """See Container.add_mounts()."""
    ctx = _context(container)
    for warning in check_mounts(mounts, ctx.user_namespace):
        log.warning(warning)
    _need_mount_api()
    ctx.config = {**ctx.config, "mounts": mounts}
    plans = [_plan(ctx, i) for i in range(len(mounts))]
    for i, plan in enumerate(plans):
        try:
            _carry_out(container, plan, ctx)
        except BaseException:
            if i:
                _remove(container, ctx, mounts[:i])
            raise


def remove(container: Container, mounts: list[Any]) -> None:
    """See Container.remove_mounts()."""
    ctx = _context(container)
    for i, mount in enumerate(mounts if isinstance(mounts, list) else ()):
        if isinstance(mount, dict) and isinstance(mount.get("destination"), str):
            mounts[i] = {"destination": mount["destination"], "type": "none"}  # nothing else of it matters
    check_mounts(mounts, ctx.user_namespace)
    _remove(container, ctx, mounts)


def _context(container: Container) -> Context:
    status = container.status()
    if status in ("stopped", "creating"):
        raise StateError("container not running", container.id, status)
    ctx = Context(container.config, container.id, container.bundle)
    if not ctx.mount_namespace:
        raise SpecError("linux.namespaces", "the container has no mount namespace: its mounts are the host's")
    return ctx


def _need_mount_api() -> None:
    """mount(2) cannot take a mount from one mount namespace to another."""
    for name, call, senseless in (
        ("open_tree", _native.open_tree, (-1, "", 0xFFFFFFFF)),
        ("move_mount", _native.move_mount, (-1, "", -1, "", 0xFFFFFFFF)),
        ("mount_setattr", _native.mount_setattr, (-1, "", 0xFFFFFFFF, 0, 0)),
    ):
        try:
            call(*senseless)
        except OSError as error:
            # move_mount(2) looks for privilege first: EPERM says nothing, and the init will say what is wrong
            if error.errno == ENOSYS or (error.errno == EPERM and name != "move_mount"):
                raise CtnrError(f"mounts add needs {name}, {launch.MISSING}") from None
            assert error.errno in (EINVAL, EPERM)


def _destination(mount: Any, path: str) -> str:
    dest = files.normpath("/" + mount["destination"])
    if dest == "/":
        raise SpecError(f"{path}.destination", "/ is the root filesystem itself")
    return dest


def _begin(ctx: Context, first: int, new_namespace: bool) -> Plan:
    plan = p.Plan()
    plan.add(p.NODUMP, "")
    if first:
        plan.add(p.JOIN, "linux.namespaces", args=(first,), ref="container")
    if new_namespace:
        plan.add(p.UNSHARE, "linux.namespaces", args=(CLONE_NEWNS,))
        plan.add(p.PROPAGATION, "", "/", args=(MS_SLAVE | MS_REC,))
    if ctx.user_namespace:
        plan.add(p.SETID0, "linux.uidMappings")
    return plan


def _plan(ctx: Context, index: int) -> Plan:
    mount, path = ctx.config["mounts"][index], f"mounts[{index}]"
    dest = _destination(mount, path)
    type = mount.get("type", "")
    if type in _AT_CREATE:
        raise SpecError(f"{path}.type", f"a mount of type {type} is made with the container only")
    made = p.Plan()
    rootfs.mount_one(made, ctx, mount, path, index)
    others = compiler.joined_namespaces(ctx.config) & ~CLONE_NEWNS
    plan = _begin(ctx, others, new_namespace=True)
    inside = False
    for step in made.steps:
        if step.op == p.FSMOUNT and step.flags & p.FSMOUNT_LEGACY:
            raise SpecError(f"{path}.options", "iversion and silent are for mounts that are made with the container")
        # what looks at the directory below is made where that is; it is a tmpfs, to which the host's files mean nothing
        detached = step.op == p.FSMOUNT and type != "proc" and not step.flags & (p.FSMOUNT_COPYUP | p.FSMOUNT_MODE)
        if detached:
            plan.add(p.FSMOUNT, path, *step.strings, args=step.args, flags=step.flags | p.FSMOUNT_DETACHED)
        if step.op in _INSIDE and not inside:
            plan.add(p.JOIN, "linux.namespaces", args=(CLONE_NEWNS,), ref="mounts")
            if type == "proc":
                plan.add(p.CLONE, "", args=(0,))  # it shows the pid namespace of who mounts it
            plan.add(p.ROOTFS, "", "/", flags=p.ROOTFS_PLAIN)
            inside = True
        if detached:
            plan.add(p.ATTACH, path, dest, flags=p.ATTACH_NOFOLLOW if step.flags & p.FSMOUNT_STRICT else 0)
        else:
            plan.steps.append(step)
    return _end(plan)


def _remove(container: Container, ctx: Context, mounts: list[Any]) -> None:
    first = CLONE_NEWNS | (compiler.joined_namespaces(ctx.config) & CLONE_NEWUSER)
    plan = _begin(ctx, first, new_namespace=False)
    plan.add(p.ROOTFS, "", "/", flags=p.ROOTFS_PLAIN)
    for i in reversed(range(len(mounts))):  # what was mounted last may be below what was mounted before
        plan.add(p.UMOUNT, f"mounts[{i}].destination", _destination(mounts[i], f"mounts[{i}]"))
    _carry_out(container, _end(plan), ctx)


def _end(plan: Plan) -> Plan:
    plan.add(p.WAIT, "")
    plan.add(p.EXEC, "", b"", b"")  # never reached: see _carry_out
    return plan


def _carry_out(container: Container, plan: Plan, ctx: Context) -> None:
    fds = launch.Fds()
    try:
        for ref in {step.ref for step in plan.steps} & {"container", "mounts"}:
            fds.add(ref, fcntl(container.process.pidfd, F_DUPFD_CLOEXEC, 3))
        launch.open_refs(plan, ctx, fds)
        started = launch.spawn(plan, fds, (0, 1, 2), container.id, -1, (), False)
        try:
            started.until_ready(lambda number: b"", lambda: None)
        finally:
            started.abort()  # it has nothing else to do
    finally:
        fds.close()
