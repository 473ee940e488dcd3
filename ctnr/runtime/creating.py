# SPDX-License-Identifier: Apache-2.0
"""create and run: from a bundle to a container that waits for start, or nothing left behind. HOT (create, run).

kill -9 of the creator at any point leaves at most a state directory and empty cgroups, which delete --force removes: the
init ends by itself unless it is told to go on after its pid has been written down.
"""

from __future__ import annotations

import posix
from errno import ENOSYS, EPERM
from time import time_ns

from ctnr import _native, files, jsonio, log
from ctnr.errors import CtnrError, SyscallError
from ctnr.runtime import cgroups, launch, state
from ctnr.runtime import compile as compiler
from ctnr.runtime import plan as p
from ctnr.runtime.cgroups.layout import wants_owner
from ctnr.runtime.compile import Context
from ctnr.runtime.container import Container
from ctnr.runtime.process import Process
from ctnr.runtime.rootfs import resolve_rootfs
from ctnr.spec.runtime import parse, validate
from ctnr.spec.tables import OCI_VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from ctnr.runtime.cgroups import Cgroup
    from ctnr.runtime.plan import Step
    from ctnr.runtime.supervisor import Callback
    from ctnr.spec.types import Config

_SOCK_STREAM = 1
PIDFD_RECEIVER = "run.oci.pidfd_receiver"


def is_rootless() -> bool:
    """Whether the machine's cgroups and devices are not ours: not root, or root of a user namespace only."""
    if posix.geteuid() != 0:
        return True
    return state.in_user_namespace()


def read_config(bundle: str, config_path: str | None = None) -> bytes:
    path = config_path or files.join(bundle, "config.json")
    try:
        return files.read_file(path)
    except OSError as error:
        raise SyscallError("read the bundle's configuration", error.errno or 0, path) from None


def check_config(config: Config) -> bool:
    """Validate, warn, refuse what this version cannot do; whether something was added that the config leaves to us."""
    for warning in validate(config):
        log.warning(warning)
    compiler.check_supported(config)
    linux = config.get("linux") or {}
    user = next((n for n in linux.get("namespaces") or () if n["type"] == "user"), None)
    if user is None and posix.geteuid() == 0:
        return False
    if user is not None and (user.get("path") or linux.get("uidMappings")):
        return False
    from ctnr.runtime import implied

    implied.add_user_namespace(config)
    return True


class Made:
    """What the engine makes for a container beside its config.

    `rootfs`: the root, which `root_steps` mount in the container's mount namespace; `directories`, `files`: made in the
    state directory before the start; `state`: kept in the state file. `state["owned"]` is a tree that goes with the
    container. `held`: note that the container is somebody's, for as long as its maker lives.
    """

    __slots__ = ("directories", "files", "held", "root_steps", "rootfs", "state")

    def __init__(self) -> None:
        self.held = False
        self.rootfs = ""
        self.root_steps: list[Step] = []
        self.directories: list[str] = []
        self.files: dict[str, bytes] = {}
        self.state: dict[str, Any] = {}


def create(
    id: str,
    bundle: str,
    *,
    root: str | None = None,
    config: Config | None = None,
    config_path: str | None = None,
    stdin: int = 0,
    stdout: int = 1,
    stderr: int = 2,
    console_socket: str | None = None,
    pid_file: str | None = None,
    pidfd_socket: str | None = None,
    preserve_fds: int = 0,
    listen_fds: int = 0,
    listen_names: str | None = None,
    notify: bool = False,
    no_pivot: bool = False,
    no_new_keyring: bool = False,
    cgroup_manager: str = "cgroupfs",
    rootless: bool | None = None,
    detach: bool = True,
    init: bool = False,
    made: Made | None = None,
    on_syscall: Mapping[str, Callback] | None = None,
) -> Container:
    """Create a container: everything but the program runs when this returns (runtime.md#create).

    `bundle`: its directory; `config` replaces its config.json, `config_path` names another file. `stdin`, `stdout`,
    `stderr`: fds. `listen_fds` sockets from fd 3 on, by the names `listen_names`, are passed as sd_listen_fds(3) has it;
    `preserve_fds` more come after them. `notify`: with a NOTIFY_SOCKET, see Container.start(). `pidfd_socket` gets the
    pidfd of the first process. `detach`: the container
    outlives this process and any process may start it; otherwise only this one can, and it ends with this process unless
    it was started. `init`: a reaper as pid 1. `made`: what the engine adds. `on_syscall`: docs/library.md.

    Raises SpecError, StateError, SyscallError, CtnrError; nothing is left behind then.
    """
    bundle = files.abspath(bundle)
    raw: bytes | None = None
    if config is None:
        raw = read_config(bundle, config_path)
        config = parse(raw)
    process = config.get("process")
    if detach and not console_socket and isinstance(process, dict) and process.get("terminal") is True:
        # runc's words, and crun's
        raise CtnrError("cannot allocate tty if runc will detach without setting console socket: use --console-socket")
    root = root or state.default_root()
    supervisor = None
    if on_syscall:
        from ctnr.runtime.supervisor import supervise

        supervisor, config, raw = *supervise(on_syscall, config, root, id), None
    if check_config(config) or raw is None:
        raw = jsonio.dumps(config).encode("utf-8", "surrogateescape")
    process = config.get("process") or {}
    if console_socket and not process.get("terminal", False):
        raise CtnrError("cannot use console socket if runc will not detach or allocate tty")
    own = config
    if listen_fds:
        from ctnr.runtime import passing

        config = passing.listening(config, listen_fds, listen_names)
        preserve_fds += listen_fds
    ctx = Context(config, id, bundle)
    ctx.lenient = made is None  # a person who gives the flag of a limit means it; a config may be anybody's
    made = made or Made()
    ctx.rootfs = made.rootfs or resolve_rootfs(config, bundle)
    ctx.no_pivot, ctx.no_new_keyring = no_pivot, no_new_keyring
    ctx.passed_fds, ctx.listen, ctx.init = launch.preserved(preserve_fds), detach, init
    ctx.root_steps = made.root_steps
    ctx.console = "console" if console_socket else ""
    unprivileged = is_rootless()
    ctx.setgroups = setgroups(config, unprivileged)
    if rootless is None:
        rootless = unprivileged
    dir, mark = state.new(root, id)
    data = new_state(ctx, dir, (stdin, stdout, stderr))
    data.update(made.state)
    container = Container(id, root, dir, data)
    container._config = own
    try:
        try:
            if made.held:
                container._owner = dir.hold()
            for name in made.directories:
                posix.mkdir(name, 0o755, dir_fd=dir.fd)
            for name, content in made.files.items():
                dir.write(name, content, 0o644)
                posix.chmod(name, 0o644, dir_fd=dir.fd)  # whatever the umask: the container's users read them
            if notify:
                from ctnr.runtime import sdnotify

                ctx.config = sdnotify.prepare(config, dir)
            if supervisor is not None:
                container._supervisor = supervisor
                supervisor.listen(dir.fd)
            _Creation(container, ctx, raw).run((stdin, stdout, stderr), console_socket, cgroup_manager, rootless)
            if pid_file:
                files.write_atomic(pid_file, str(container.pid).encode(), 0o644)
            if pidfd_socket or PIDFD_RECEIVER in container.annotations:
                from ctnr.runtime import passing

                passing.send_pidfds(container, pidfd_socket)
            dir.end(mark)
        except BaseException:
            posix.close(mark)
            raise
        if detach:
            assert container._launch is not None
            container._launch.go()
            container._launch.release()
        if ctx.moved is not None:
            ctx.moved.close()
    except BaseException:
        try:
            if ctx.moved is not None:
                ctx.moved.undo()
        finally:
            _undo(container)
        raise
    return container


def new_state(ctx: Context, dir: state.StateDir, stdio: tuple[int, int, int]) -> dict[str, Any]:
    """What is noted of a container before it has a process."""
    config = ctx.config
    return {
        "ociVersion": OCI_VERSION,
        "id": ctx.id,
        "pid": 0,
        "bundle": ctx.bundle,
        "rootfs": ctx.rootfs,
        "created": state.rfc3339(time_ns()),
        "owner": "",
        "annotations": config.get("annotations") or {},
        "boot": state.boot_id() if dir.outlives_boot() else "",
        "uid": posix.geteuid(),
        "hooks": [kind for kind, hooks in (config.get("hooks") or {}).items() if hooks],
        "own_pids": any(n["type"] == "pid" and not n.get("path") for n in ctx.linux.get("namespaces") or ()),
        "no_new_keyring": ctx.no_new_keyring,  # for exec
        # only now is it known which pipes lead outside; a checkpoint will want to know
        "descriptors": [] if (config.get("process") or {}).get("terminal") else [_descriptor(fd) for fd in stdio],
    }


def _descriptor(fd: int) -> str:
    try:
        return posix.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""  # the launcher will say what is wrong with it


def plan_cgroup(container: Container, ctx: Context, manager: str, rootless: bool) -> Cgroup | None:
    """Which cgroup the container is to get, noted where a clean-up after a crash finds it; not made yet."""
    where = None if manager == "disabled" else ctx.cgroup_layout()
    linux, annotations = ctx.linux, ctx.config.get("annotations")
    resources = linux.get("resources") or {}
    path = linux.get("cgroupsPath")
    group = cgroups.new(path, container.id, rootless, manager, resources, where, ctx.lenient, annotations)
    if group is None:
        if resources and manager != "disabled":
            from ctnr.runtime import without_cgroup

            if (limit := without_cgroup.hold(ctx)) is not None:
                container._state["nproc"] = limit  # for exec
        return None
    # what is planned may turn out to be somebody else's: a clean-up after a crash kills nothing there
    container._state["cgroup"] = {**group.note(), "planned": True}
    container._dir.write_state(container._state)
    ctx.cgroup = group
    ctx.cgroup_wait = group.joined_by_parent
    return group


def make_cgroup(container: Container, ctx: Context, group: Cgroup, pid: int = 0) -> None:
    """Make the planned cgroup with its limits. `pid`: the first process, if it is put in by this (joined_by_parent)."""
    group.create(ctx.linux.get("resources") or {}, ctx.linux.get("devices") or (), pid)
    container._cgroup = group
    container._state["cgroup"] = {**group.note(), "created": group.created, "freezer": group.freezer_file()}
    _own_cgroup(ctx, group)


def _own_cgroup(ctx: Context, group: Cgroup) -> None:
    """Give the cgroup to the container's user where the spec says so (config-linux.md#cgroup-ownership); to its root, one
    that crun's annotations ask for.
    """
    wanted = wants_owner(ctx.config)
    if not wanted and not group.sub:
        return
    uids, gids = compiler.id_maps(ctx.linux)
    if uids:
        from ctnr.runtime import idmap

        user = ((ctx.config.get("process") or {}).get("user") or {}) if wanted else {}
        uid, gid = idmap.mapped(uids, user.get("uid", 0)), idmap.mapped(gids, user.get("gid", 0))
        if uid is not None and gid is not None:
            group.chown(uid, gid)


class _Creation:
    """The steps of one create; what is done so far is in the container, where _undo() finds it."""

    __slots__ = ("container", "ctx", "raw")

    def __init__(self, container: Container, ctx: Context, raw: bytes) -> None:
        self.container = container
        self.ctx = ctx
        self.raw = raw

    def run(self, stdio: tuple[int, int, int], console_socket: str | None, manager: str, rootless: bool) -> None:
        """Up to the point where the init waits for start."""
        ctx, container = self.ctx, self.container
        group = plan_cgroup(container, ctx, manager, rootless)
        if group is not None and not ctx.cgroup_wait:
            make_cgroup(container, ctx, group)
        if "intelRdt" in ctx.linux:
            from ctnr.runtime import intelrdt

            intelrdt.begin(container, ctx.linux["intelRdt"])
        fds = launch.Fds()
        try:
            if ctx.listen:
                fds.add("start", _native.unix_listen(self.container._dir.fd, state.SOCKET))
            if console_socket:
                fds.add("console", connect(console_socket))
            if ctx.listener:
                from ctnr.runtime import listener

                listener.connect(ctx, container._dir.fd, fds)
            if ctx.config.get("hooks"):
                from ctnr.runtime.hooks import init_outputs

                ctx.hook_outputs = init_outputs(ctx.config, fds)
            started = self._spawn(fds, stdio, group)
            container._dir.write(state.CONFIG, self.raw)  # while the init is at work
            try:
                started.until_ready(self._phase, self._note)
            except CtnrError:
                if group is not None and group.oom_killed():
                    # runc's words
                    raise CtnrError("container init was OOM-killed (memory limit too low?)") from None
                raise
            if "intelRdt" in ctx.linux:
                intelrdt.join(container.extra["rdt"], [container.pid])
        finally:
            fds.close()

    def _spawn(self, fds: launch.Fds, stdio: tuple[int, int, int], group: Cgroup | None) -> launch.Launch:
        """Compile, open, start; again without CLONE_INTO_CGROUP where clone3 is refused."""
        ctx, container = self.ctx, self.container
        into = -1
        if ctx.cgroup_wait:
            group = None  # it has nothing to join yet
        if group is not None and (fd := group.fd_v2()) is not None:
            into = fd
        try:
            while True:
                if group is not None:
                    for i, fd in enumerate(group.join_fds(unified=into < 0)):
                        fds.add(f"cgroup:{i}", fd)
                        ctx.cgroup_files = i + 1
                plan = compiler.compile_create(ctx)
                launch.open_refs(plan, ctx, fds)
                try:
                    container._launch = launch.spawn(
                        plan, fds, stdio, container.id, into, ctx.passed_fds, ctx.user_namespace
                    )
                    break
                except OSError as error:
                    if into < 0 or error.errno not in (ENOSYS, EPERM):
                        raise
                    posix.close(into)
                    into = -1
                    ctx.cgroup_ready = False
                    for ref in [r for r in fds.by_ref if r.startswith("cgroup:")]:
                        posix.close(fds.by_ref.pop(ref))
        finally:
            if into >= 0:
                posix.close(into)
        self._note()
        return container._launch

    def _note(self) -> None:
        """Write down which process is the container's first, as soon as there is one."""
        started = self.container._launch
        assert started is not None
        self.container._state["pid"] = started.pid
        self.container._state["start"] = state.start_time(started.pid)
        self.container._state["late"] = launch.late_steps(started.plan)
        self.container._dir.write_state(self.container._state)
        self.container._process = Process(started.pid, started.pidfd)

    def _phase(self, phase: int) -> bytes:
        """The runtime's part of the start."""
        started = self.container._launch
        assert started is not None
        config, linux, pid = self.ctx.config, self.ctx.linux, started.pid
        if phase == p.PHASE_MAPS:
            uids, gids = compiler.id_maps(linux)
            score = (config.get("process") or {}).get("oomScoreAdj")
            if score is not None:
                from ctnr.runtime import limits

                limits.write_oom_score(pid, score)
            from ctnr.runtime import idmap

            idmap.write_maps(pid, uids, gids)
        elif phase == p.PHASE_CGROUP:
            assert self.ctx.cgroup is not None
            make_cgroup(self.container, self.ctx, self.ctx.cgroup, pid)
            self._note()
        elif phase == p.PHASE_LIMITS:
            from ctnr.runtime import limits

            limits.set(pid, config.get("process") or {}, self.ctx.init)
        elif phase == p.PHASE_DEVICES:
            from ctnr.runtime import netdev

            self.ctx.moved = netdev.move(linux["netDevices"], started.passed.pop(), pid)
        elif phase == p.PHASE_LISTENER:
            from ctnr.runtime import listener

            return listener.document(self.ctx, self.container._document("creating"), pid)
        elif phase == p.PHASE_HOOKS:
            document = self.container._document("creating")
            hooks = config.get("hooks") or {}
            if hooks.get("prestart") or hooks.get("createRuntime"):
                from ctnr.runtime import hooks as runner

                # one of the time when prestart hooks were part of start sees what it saw then
                runner.run(config, "prestart", {**document, "status": "created"})
                runner.run(config, "createRuntime", document)
            from ctnr.runtime.hooks import inner_state

            return inner_state(self.container, "creating")
        return b""


def _undo(container: Container) -> None:
    """Take everything back that create has done so far."""
    if container._launch is not None:
        container._launch.abort()
        container._process = None
    try:
        if container._cgroup is not None:
            container._cgroup.kill()
            container._cgroup.delete()
        if container._launch is not None and (container.config.get("hooks") or {}).get("poststop"):
            from ctnr.runtime import hooks

            hooks.run_all(container.config, "poststop", container._document("stopped"))
    finally:
        container._remove()
        container.close()


def setgroups(config: Config, rootless: bool) -> bool:
    """Whether setgroups(2) will work in the container."""
    linux = config.get("linux") or {}
    own = [namespace for namespace in linux.get("namespaces") or () if namespace["type"] == "user"]
    if not own and not rootless:
        return True
    from ctnr.runtime import idmap

    return idmap.setgroups_in(linux, own)


def connect(path: str) -> int:
    directory = files.dirname(path) or "."
    try:
        fd = files.open_dir(directory)
        try:
            return _native.unix_connect(fd, files.basename(path), _SOCK_STREAM)
        finally:
            posix.close(fd)
    except OSError as error:
        raise SyscallError("--console-socket: connect to", error.errno or 0, path) from None
