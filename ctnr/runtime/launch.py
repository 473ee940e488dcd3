# SPDX-License-Identifier: Apache-2.0
"""The parent's side of a start: open what the plan refers to, spawn the init, do what it asks for, name what failed.

HOT. The protocol is in `_native/plan.h`.
"""

from __future__ import annotations

import posix
from errno import EACCES, ECHILD, ENOENT, ENOSPC, ENOSYS, EPERM, ESRCH, errorcode
from fcntl import F_DUPFD_CLOEXEC, F_GETFD, FD_CLOEXEC, fcntl

from ctnr import _native, files, log
from ctnr.errors import EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, CtnrError, HookError, SyscallError
from ctnr.runtime import plan as p
from ctnr.runtime.plan import MESSAGE
from ctnr.runtime.process import Process
from ctnr.spec.tables import CLONE_NEWUSER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from ctnr.runtime.compile import Context
    from ctnr.runtime.plan import Plan

_WEXITED = 4
_OPEN_TREE_CLONE, _AT_RECURSIVE, _AT_SYMLINK_NOFOLLOW = 1, 0x8000, 0x100
_MESSAGE_SIZE = 4096
_MAX_PRESERVED = 4000  # the launcher passes no more than 4096, of ours and theirs
MISSING = "which this kernel has not got, or a seccomp profile refuses"
_AFTER_START = (p.HOOK, p.SECCOMP, p.REAPER, p.EXEC)


class Fds:
    """Open fds by the plan's refs; all are closed together."""

    __slots__ = ("by_ref",)

    def __init__(self) -> None:
        self.by_ref: dict[str, int] = {}

    def add(self, ref: str, fd: int) -> int:
        """Keep fd, moved up if it would be in the place of the container's stdio."""
        if fd < 3:
            high = fcntl(fd, F_DUPFD_CLOEXEC, 3)
            posix.close(fd)
            fd = high
        self.by_ref[ref] = fd
        return fd

    def close(self) -> None:
        for fd in self.by_ref.values():
            posix.close(fd)
        self.by_ref.clear()


def preserved(count: int) -> tuple[int, ...]:
    """Those of 3, 4, ... `count` of them, that this process was given: one of its own is no container's.

    A gap is a warning, as crun has it; runc refuses.
    """
    found = tuple(fd for fd in range(3, 3 + min(count, _MAX_PRESERVED)) if _is_given(fd))
    if len(found) < count:
        log.warning(f"--preserve-fds: of the {count} from 3 on {len(found)} are open and inheritable")
    return found


def check_preserved(count: int) -> None:
    """CtnrError unless all of them are."""
    for fd in range(3, 3 + count):
        if not _is_given(fd):
            raise CtnrError(f"--preserve-fds: fd {fd} is not open and inheritable")


def _is_given(fd: int) -> bool:
    try:
        return not fcntl(fd, F_GETFD) & FD_CLOEXEC  # every fd that Python or we open is close-on-exec (PEP 446)
    except OSError:
        return False


def open_refs(plan: Plan, ctx: Context, fds: Fds) -> None:
    """Open the namespaces and mount sources that the plan refers to and that are not open yet."""
    for step in plan.steps:
        ref = step.ref
        if not ref or ref in fds.by_ref:
            continue
        if ref.startswith("ns:"):
            path = ref.split(":", 2)[2]
            try:
                fds.add(ref, posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC))
            except OSError as error:
                raise SyscallError(f"{step.field}: open", error.errno or 0, path) from None
        elif ref.startswith(("tree:", "node:")):
            if ref.startswith("tree:"):
                tree = _tree(ctx, ref, step.flags)
            else:
                from ctnr.runtime import nodes

                tree = nodes.make(ctx, ref)
            if tree < 0:
                step.ref = ""
            else:
                fds.add(ref, tree)
        else:
            raise KeyError(ref)


def _tree(ctx: Context, ref: str, flags: int) -> int:
    """A detached mount: a copy of a source, or a new filesystem; idmapped if the config says so. -1: the init has to."""
    source, recursive, options, mount, field = ctx.trees[ref]
    at = _AT_RECURSIVE if recursive else 0
    nofollow = _AT_SYMLINK_NOFOLLOW if flags & p.TREE_NOFOLLOW else 0
    idmapped = options.idmap or mount.get("uidMappings")
    if idmapped:
        from ctnr.runtime import idmounts
    if idmapped and not options.bind:
        fd = idmounts.new(ctx, source, options, mount, field)
    else:
        try:
            fd = _native.open_tree(-100, source, _OPEN_TREE_CLONE | at | nofollow)
        except OSError as error:
            if is_refused(error, _native.open_tree, -1, "", 0xFFFFFFFF):
                if idmapped:
                    raise CtnrError(f"{field}: an idmapped mount needs open_tree, {MISSING}") from None
                return -1  # the init opens it, with what the container's root may
            raise SyscallError(f"{field}.source: open", error.errno or 0, source) from None
    if idmapped:
        try:
            idmounts.apply(ctx, fd, source, options, mount, field)
        except BaseException:
            posix.close(fd)
            raise
    return fd


def is_refused(error: OSError, call: Callable[..., object], *senseless: int | str) -> bool:
    """Whether a system call is not there, by its own answer to arguments that make no sense."""
    if error.errno != EPERM:
        return error.errno == ENOSYS
    try:
        call(*senseless)
    except OSError as answer:
        return answer.errno in (ENOSYS, EPERM)
    return False


class Launch:
    """A started init: `pid`, `pidfd`, the sync socket, the terminal's master if one came."""

    __slots__ = ("console_fd", "passed", "pid", "pidfd", "plan", "sync_fd")

    def __init__(self, plan: Plan, sync_fd: int) -> None:
        self.plan = plan
        self.pid = 0
        self.pidfd = -1
        self.sync_fd = sync_fd
        self.console_fd: int | None = None
        self.passed: list[int] = []  # with the last MSG_SYNC

    def __del__(self) -> None:
        """Forgotten before it was started, on the way of an exception: nobody can start it any more."""
        if self.sync_fd >= 0:
            if self.pidfd >= 0:
                self.abort()
            else:
                self.release()

    def until_ready(self, phase: Callable[[int], bytes], moved: Callable[[], None]) -> None:
        """Serve the init until it waits for start. `phase` does the runtime's part and returns the state for hooks;
        `moved` is called when another process goes on. Raises what the init failed with; it is dead then."""
        # The clone made by this step may be heard before the MSG_PID of the process that made it: its messages wait
        clone = next((i for i, step in enumerate(self.plan.steps) if step.op == p.CLONE), -1)
        early: list[tuple[bytes, list[int]]] = []
        while True:
            data, fds = early.pop(0) if early and clone < 0 else _native.recvmsg(self.sync_fd, _MESSAGE_SIZE, 1)
            if not data:
                raise self._died()
            type, step, err, code = MESSAGE.unpack_from(data)
            if 0 <= clone < step:
                early.append((data, fds))
                continue
            if type == p.MSG_READY:
                return
            if type == p.MSG_SYNC:
                self.passed = fds
                self.go(phase(err))
            elif type == p.MSG_PID:
                clone = -1
                old = self.pidfd
                self.pid = err
                self.pidfd = fds.pop() if fds else _native.pidfd_open(err)
                _reap(old)
                posix.close(old)
                moved()
            elif type == p.MSG_CONSOLE and fds:
                self.console_fd = fds.pop()
            elif type == p.MSG_ERROR:
                raise self._failed(step, err, code, data[MESSAGE.size :])

    def go(self, state: bytes = b"") -> None:
        send_go(self.sync_fd, state)

    def until_executed(self) -> None:
        """Wait for the exec of the program: its success closes the socket."""
        wait_executed(self.plan, self.sync_fd)

    def release(self) -> None:
        """Give the sync socket up: a detached init goes on alone, any other ends."""
        if self.sync_fd >= 0:
            posix.close(self.sync_fd)
            self.sync_fd = -1

    def close(self) -> None:
        """Give up everything but the pidfd, which is the process's."""
        self.release()
        if self.console_fd is not None:
            posix.close(self.console_fd)
            self.console_fd = None

    def abort(self) -> None:
        """Kill and reap the init; whatever state it is in."""
        self.release()
        try:
            _native.pidfd_send_signal(self.pidfd, 9)
        except OSError as error:
            if error.errno != ESRCH:
                raise
        _reap(self.pidfd)
        posix.close(self.pidfd)
        self.pidfd = -1
        if self.console_fd is not None:
            posix.close(self.console_fd)
            self.console_fd = None

    def _died(self) -> CtnrError:
        return CtnrError("the container's init died before it was ready: it was killed, perhaps for lack of memory")

    def _failed(self, step: int, err: int, code: int, detail: bytes) -> CtnrError:
        return failure(self.plan, step, err, code, detail)


def _reap(pidfd: int) -> None:
    """Wait for the end of a child. Where SIGCHLD is ignored the kernel says ECHILD once it has ended."""
    try:
        _native.waitid(pidfd, _WEXITED)
    except OSError as error:
        if error.errno != ECHILD:
            raise


def send_go(fd: int, state: bytes = b"") -> None:
    _native.sendmsg(fd, MESSAGE.pack(p.MSG_GO, 0, 0, 0) + state)


def late_steps(plan: Plan) -> list[list[Any]]:
    """What may fail after start, for the state: [index, op, field]."""
    return [[i, step.op, step.field] for i, step in enumerate(plan.steps) if step.op in _AFTER_START]


def late_plan(steps: Iterable[list[Any]]) -> Plan:
    """As much of the plan as is needed to name what fails after start."""
    plan = p.Plan()
    for index, op, field in steps:
        while len(plan.steps) < index:
            plan.add(p.WAIT, "")
        plan.add(op, field, "")
    return plan


def wait_executed(plan: Plan | None, fd: int) -> None:
    data, _ = _native.recvmsg(fd, _MESSAGE_SIZE)
    if data:
        type, step, err, code = MESSAGE.unpack_from(data)
        if type == p.MSG_ERROR:
            raise failure(plan, step, err, code, data[MESSAGE.size :])


def spawn(
    plan: Plan,
    fds: Fds,
    stdio: tuple[int, int, int],
    id: str,
    cgroup_fd: int,
    passed: Iterable[int],
    user_namespace: bool,
) -> Launch:
    """Start the init on the plan. OSError ENOSYS or EPERM with a cgroup_fd: try again without one."""
    sync, theirs = _native.socketpair()
    more = Fds()
    sync = more.add("sync", sync)
    theirs = more.add("theirs", theirs)
    try:
        plan_fd = more.add("plan", _native.sealed_memfd("ctnr-plan", plan.encode(fds.by_ref)))
        keep = [*fds.by_ref.values(), plan_fd, theirs, *passed]
        argv = ("ctnr-init", str(plan_fd), str(theirs), id)
        given = (plan.clone, cgroup_fd, argv, *stdio, keep, user_namespace)
        started = Launch(plan, sync)
        del more.by_ref["sync"]
        # no bytecode between the start and its note, where the exception of a signal (^C) could come in
        noted: list[tuple[int, int]] = []
        try:
            noted.extend(map(_native.spawn, *((value,) for value in given)))
            started.pid, started.pidfd = noted[0]
            return started
        except OSError as error:
            started.release()
            if cgroup_fd >= 0 and error.errno in (ENOSYS, EPERM):
                raise
            raise _spawn_error(plan, error) from None
        except BaseException:
            if noted:
                started.pid, started.pidfd = noted[0]
                started.abort()
            raise
    finally:
        more.close()


def program(
    plan: Plan,
    stdio: tuple[int, int, int],
    passed: Iterable[int] = (),
    phase: Callable[[Launch, int], bytes] | None = None,
) -> Process:
    """Start a plan that has nothing of a container and waits once, before its program; the running program."""
    started = spawn(plan, Fds(), stdio, "helper", -1, passed, bool(plan.clone & CLONE_NEWUSER))
    try:
        started.until_ready(lambda number: phase(started, number) if phase else b"", lambda: None)
        started.go()
        started.until_executed()
    except BaseException:
        started.abort()
        raise
    started.release()
    return Process(started.pid, started.pidfd)


def _knob(path: str) -> str:
    try:
        return files.read_file("/proc/sys/" + path).decode().strip()
    except OSError:
        return ""


def _spawn_error(plan: Plan, error: OSError) -> SyscallError:
    """clone(2) refused: which knob."""
    number = error.errno or 0
    hint = ""
    if error.filename:
        if _knob("vm/memfd_noexec") == "2":
            hint = "sysctl vm.memfd_noexec=2 forbids it: set it to 1"
        return SyscallError("execute the container's init", number, "", hint)
    if plan.clone & CLONE_NEWUSER:
        if number == ENOSPC or _knob("user/max_user_namespaces") == "0":
            hint = "sysctl user.max_user_namespaces is the limit: raise it"
        elif _knob("kernel/unprivileged_userns_clone") == "0":
            hint = "sysctl kernel.unprivileged_userns_clone=0 forbids user namespaces: set it to 1"
        elif _knob("kernel/apparmor_restrict_unprivileged_userns") == "1":
            hint = "sysctl kernel.apparmor_restrict_unprivileged_userns=1 forbids user namespaces: set it to 0"
        elif number == EPERM:
            hint = "user namespaces are forbidden here, by a seccomp profile or because this process is in a chroot"
    elif number == EPERM:
        hint = "without a user namespace in linux.namespaces this takes root"
    elif number == ENOSPC:
        hint = "a user.max_*_namespaces sysctl is the limit"
    return SyscallError("linux.namespaces: create", number, "", hint)


def failure(plan: Plan | None, index: int, err: int, code: int, detail: bytes) -> CtnrError:
    """The error of a step, in words; in runc's where callers match on them."""
    text = "".join(c if c.isprintable() else " " for c in detail.decode("utf-8", "replace")).strip()
    if plan is None or index >= len(plan.steps):
        return SyscallError("container init", err, text)
    step = plan.steps[index]
    op = step.op
    if code == p.ERR_PLAN:
        return CtnrError("the container's init refused its plan: ctnr and its init do not fit together; reinstall ctnr")
    exit_code = 125
    if err == ENOENT:
        exit_code = EXIT_NOT_FOUND
    elif errorcode.get(err) in ("EACCES", "EPERM", "ENOEXEC", "EISDIR", "ELIBBAD", "EINVAL", "ETXTBSY"):
        exit_code = EXIT_NOT_EXECUTABLE
    reason = posix.strerror(err).lower()
    if op == p.LOOKUP:
        if code == p.ERR_NOT_FOUND:
            return _Exec(f'exec: "{text}": executable file not found in $PATH', EXIT_NOT_FOUND)
        if code == p.ERR_NOT_EXEC and err == EACCES:
            return _Exec(f'exec: "{text}": permission denied', EXIT_NOT_EXECUTABLE)
        return _Exec(f'exec: "{text}": {reason}', exit_code)
    if op == p.EXEC and step.field == "process":
        return CtnrError("process: the config has no process.args, so there is nothing to start")
    if op == p.EXEC:
        if err == ENOENT:
            reason += ": its interpreter is missing in the container"
        return _Exec(f"exec {text}: {reason}", exit_code)
    if op == p.CWD:
        if code == p.ERR_ESCAPED:
            return CtnrError(
                f"{step.field}: current working directory is outside of container mount namespace root"
                " -- possible container breakout detected"
            )
        return _Exec(f'{step.field}: chdir to cwd ("{step.strings[0]!s}") failed: {reason}', exit_code)
    if op == p.HOOK:
        kind = step.field.split(".")[1].split("[")[0]
        if code == p.ERR_HOOK_STATUS:
            how = f"exit status {err >> 8 & 255}" if err & 127 == 0 else f"killed by signal {err & 127}"
            path, _, output = text.partition(": ")
            tail = f", output: {' '.join(output.split())}" if output else ""
            return HookError(f"error running {kind} hook: {step.field}: {path}: {how}{tail}")
        if code == p.ERR_HOOK_TIMEOUT:
            return HookError(f"error running {kind} hook: {step.field}: {text}: did not end in time, killed")
        return HookError(f"error running {kind} hook: {step.field}: {text or step.strings[0]!s}: {reason}")
    words = p.explain_step(step)
    if code == p.ERR_UNSAFE:
        return CtnrError(f"{step.field}: {words}: {text or 'what is there'} is not what it must be; refused")
    if code == p.ERR_MISSING:
        return CtnrError(f"{step.field}: {words}: needs {text}, {MISSING}")
    if text:
        words += f": {text}"
    return SyscallError(f"{step.field}: {words}" if step.field else words, err)


class _Exec(CtnrError):
    """The program cannot be executed: 126 or 127."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
