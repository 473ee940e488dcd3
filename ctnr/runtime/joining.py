# SPDX-License-Identifier: Apache-2.0
"""exec: one more process in a running container. HOT (exec only)."""

from __future__ import annotations

import posix
from errno import EBUSY, ENOSYS, EPERM

from ctnr import files, log
from ctnr.errors import CtnrError, StateError
from ctnr.runtime import compile as compiler
from ctnr.runtime import creating, idmap, launch
from ctnr.runtime import plan as p
from ctnr.runtime.compile import Context
from ctnr.runtime.process import Process
from ctnr.spec.process import check_process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from ctnr.runtime.container import Container
    from ctnr.spec.types import Process as ProcessSpec


# what a process that does not say has from the container's first one, as in runc
_INHERITED = (
    "capabilities",
    "rlimits",
    "oomScoreAdj",
    "scheduler",
    "ioPriority",
    "execCPUAffinity",
    "apparmorProfile",
    "selinuxLabel",
)


def exec_process(
    container: Container,
    process: ProcessSpec,
    stdio: tuple[int, int, int],
    *,
    console_socket: str | None = None,
    pid_file: str | None = None,
    preserve_fds: int = 0,
    pidfd_socket: str | None = None,
    cgroup: str | Mapping[str, str] = "",
    ignore_paused: bool = False,
    detach: bool = False,
    init: bool = False,
) -> Process:
    """See Container.exec(). `cgroup` is below the container's: a path, or one for each controller."""
    for warning in check_process(process):
        log.warning(warning)
    compiler.check_supported({"process": process})
    status = container.status()
    if status == "stopped":
        raise StateError("cannot exec in a stopped container", container.id, status)
    if status == "paused" and not ignore_paused:
        raise StateError("cannot exec in a paused container (use --ignore-paused to override)", container.id, status)
    if status == "creating":
        raise StateError("cannot exec in a container that is being created", container.id, status)
    terminal = process.get("terminal", False)
    if terminal and detach and not console_socket:
        raise CtnrError("cannot allocate tty if runc will detach without setting console socket: use --console-socket")
    if console_socket and not terminal:
        raise CtnrError("cannot use console socket if runc will not detach or allocate tty")
    passed = launch.preserved(preserve_fds)
    config = container.config
    process = {**process}
    for name in _INHERITED:
        if name not in process and (own := (config.get("process") or {}).get(name)):
            process[name] = own  # type: ignore[literal-required]
    if "nproc" in container.extra:
        from ctnr.runtime.without_cgroup import with_processes

        process["rlimits"] = with_processes(process.get("rlimits"), container.extra["nproc"])
    own_user = (config.get("process") or {}).get("user") or {}
    if "umask" in own_user and "umask" not in (user := process.get("user") or {}):
        process["user"] = {**user, "umask": own_user["umask"]}
    ctx = Context(config, container.id, container.bundle)
    ctx.listen = False
    ctx.init = init
    ctx.no_new_keyring = container.extra.get("no_new_keyring", False)
    ctx.passed_fds = passed
    ctx.console = "console" if console_socket else ""
    ctx.setgroups = _setgroups(container, ctx)
    group = members = container.cgroup
    if group is not None and group.joined_by_parent:
        ctx.cgroup_wait = True
        group = None
    fds = launch.Fds()
    started: launch.Launch | None = None
    into = -1
    try:
        fds.add("container", _dup(container.process.pidfd))
        if console_socket:
            fds.add("console", creating.connect(console_socket))
        if ctx.listener:
            from ctnr.runtime import listener

            listener.connect(ctx, container._dir.fd, fds)
        # born in the cgroup, unless there is something to be done before the process joins it
        early = (process.get("execCPUAffinity") or {}).get("initial")
        if group is not None and not early and (fd := group.fd_v2(cgroup)) is not None:
            into = fd
        while started is None:
            if group is not None:
                for i, fd in enumerate(group.join_fds(cgroup, unified=into < 0)):
                    fds.add(f"cgroup:{i}", fd)
                    ctx.cgroup_files = i + 1
            plan = compiler.compile_exec(ctx, process, compiler.joined_namespaces(config))
            try:
                started = launch.spawn(plan, fds, stdio, container.id, into, ctx.passed_fds, False)
            except OSError as error:
                if into < 0 or error.errno not in (ENOSYS, EPERM, EBUSY):
                    raise
                posix.close(into)
                into = -1
                if error.errno == EBUSY and group is not None:
                    # the container has moved its processes further down: follow its first one
                    into = group.fd_v2(cgroup, container.pid) or -1
                for ref in [r for r in fds.by_ref if r.startswith("cgroup:")]:
                    posix.close(fds.by_ref.pop(ref))
        launched = started

        def phase(number: int) -> bytes:
            if number == p.PHASE_CGROUP:
                assert members is not None
                members.attach(launched.pid, cgroup)
            elif number == p.PHASE_LIMITS:
                from ctnr.runtime import limits

                limits.set(launched.pid, process, init)
            elif number == p.PHASE_LISTENER:
                from ctnr.runtime import listener

                return listener.document(ctx, container._document(status), launched.pid)
            return b""

        try:
            started.until_ready(phase, lambda: None)
            if "rdt" in container.extra:
                from ctnr.runtime import intelrdt

                intelrdt.join(container.extra["rdt"], [started.pid])
            if pid_file:
                files.write_atomic(pid_file, str(started.pid).encode(), 0o644)
            if pidfd_socket:
                from ctnr.runtime import passing

                passing.send_pidfd(pidfd_socket, "--pidfd-socket", b"setns", started.pidfd)
            started.go()
            started.until_executed()
        except BaseException:
            started.abort()
            raise
        started.release()
        return Process(started.pid, started.pidfd, started.console_fd)
    finally:
        fds.close()
        if into >= 0:
            posix.close(into)


def _dup(fd: int) -> int:
    from fcntl import F_DUPFD_CLOEXEC, fcntl

    return fcntl(fd, F_DUPFD_CLOEXEC, 3)


def _setgroups(container: Container, ctx: Context) -> bool:
    """What the kernel says of the container's user namespace (user_namespaces(7), /proc/PID/setgroups)."""
    if not ctx.user_namespace:
        return idmap.may_setgroups()
    try:
        return files.read_file(f"/proc/{container.pid}/setgroups").strip() == b"allow"
    except OSError:
        return posix.geteuid() == 0
