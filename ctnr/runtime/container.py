# SPDX-License-Identifier: Apache-2.0
"""class Container: create, start, state, exec, kill, wait, delete (runtime-spec runtime.md#operations).

HOT. Everything the command does, a method here does first. Safe from any thread.
"""

from __future__ import annotations

import posix
from errno import EINVAL, ENOENT, ENOSYS, EPERM, ESRCH
from time import time_ns

from ctnr import _native, files, jsonio, log
from ctnr.errors import CtnrError, SpecError, StateError, SyscallError
from ctnr.runtime import cgroups, idmap, launch, state
from ctnr.runtime import compile as compiler
from ctnr.runtime import plan as p
from ctnr.runtime.compile import Context
from ctnr.runtime.process import Process, poll_exit
from ctnr.spec.runtime import parse, validate
from ctnr.spec.tables import OCI_VERSION, RLIMITS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ctnr.runtime.cgroups import Cgroup
    from ctnr.runtime.launch import Launch
    from ctnr.runtime.plan import Plan, Step
    from ctnr.spec.types import Config
    from ctnr.spec.types import Process as ProcessSpec

_SIGKILL = 9
_KILL_TIMEOUT = 10.0
_SOCK_STREAM = 1
_EXECUTABLE_LATE = (p.HOOK, p.SECCOMP, p.REAPER, p.EXEC)


def rfc3339(nanoseconds: int) -> str:
    """UTC, as Go prints it."""
    from time import gmtime

    t = gmtime(nanoseconds // 10**9)
    return (
        f"{t.tm_year:04}-{t.tm_mon:02}-{t.tm_mday:02}T{t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02}"
        f".{nanoseconds % 10**9:09}Z"
    )


def is_rootless() -> bool:
    """Whether the machine's cgroups and devices are not ours: not root, or root of a user namespace only."""
    if posix.geteuid() != 0:
        return True
    return files.read_file("/proc/self/uid_map").split() != [b"0", b"0", b"4294967295"]


def read_config(bundle: str, config_path: str | None = None) -> bytes:
    path = config_path or files.join(bundle, "config.json")
    try:
        return files.read_file(path)
    except OSError as error:
        raise SyscallError("read the bundle's configuration", error.errno or 0, path) from None


def check_config(config: Config) -> Config:
    """Validate, warn, refuse what this version cannot do."""
    for warning in validate(config):
        log.warning(warning)
    compiler.check_supported(config)
    return config


def resolve_rootfs(config: Config, bundle: str) -> str:
    """The root's canonical path: a directory that exists and is not the machine's own root."""
    root = config.get("root")
    if root is None:
        raise SpecError("root", "is missing")
    path = files.join(bundle, root["path"])
    try:
        fd = posix.open(path, posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)  # type: ignore[attr-defined]
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


class Made:
    """What the engine makes for a container beside its config.

    `rootfs`: the root, which `root_steps` mount in the container's mount namespace; `directories`, `links`, `files`: made in the
    state directory before the start; `state`: kept in the state file. `state["owned"]` is a tree that goes with the
    container. `held`: note that the container is somebody's, for as long as its maker lives.
    """

    __slots__ = ("directories", "files", "held", "links", "root_steps", "rootfs", "state")

    def __init__(self) -> None:
        self.held = False
        self.rootfs = ""
        self.root_steps: list[Step] = []
        self.directories: list[str] = []
        self.links: list[tuple[str, str]] = []
        self.files: dict[str, bytes] = {}
        self.state: dict[str, Any] = {}


class Container:
    """One container, by its id under a state root. Made by create() or load(); close() gives up its fds.

    `pid`, `pidfd`: its first process; `console_fd`: the master of its terminal, if it has one that was not sent to a
    console socket; `bundle`: the absolute path of its bundle.
    """

    __slots__ = ("_cgroup", "_config", "_dir", "_launch", "_owner", "_plan", "_process", "_state", "id", "root")

    def __init__(self, id: str, root: str, dir: state.StateDir, data: dict[str, Any]) -> None:
        self.id = id
        self.root = root
        self._dir = dir
        self._state = data
        self._config: Config | None = None
        self._cgroup: Cgroup | None = None
        self._launch: Launch | None = None
        self._plan: Plan | None = None
        self._process: Process | None = None
        self._owner = -1

    # --- making and finding

    @classmethod
    def create(
        cls,
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
        preserve_fds: int = 0,
        no_pivot: bool = False,
        no_new_keyring: bool = False,
        cgroup_manager: str = "cgroupfs",
        rootless: bool | None = None,
        detach: bool = True,
        init: bool = False,
        made: Made | None = None,
    ) -> Container:
        """Create a container: everything but the program runs when this returns (runtime.md#create).

        `bundle`: its directory; `config` replaces its config.json, `config_path` names another file. `stdin`, `stdout`,
        `stderr`: fds. `detach`: the container outlives this process and any process may start it; otherwise only this
        one can, and it ends with this process unless it was started. `init`: a reaper as pid 1. `made`: what the
        engine adds.

        Raises SpecError, StateError, SyscallError, CtnrError; nothing is left behind then.
        """
        bundle = files.abspath(bundle)
        if config is None:
            raw = read_config(bundle, config_path)
            config = parse(raw)
        else:
            raw = jsonio.dumps(config).encode("utf-8", "surrogateescape")
        check_config(config)
        root = root or state.default_root()
        process = config.get("process") or {}
        terminal = process.get("terminal", False)
        if terminal and detach and not console_socket:
            raise CtnrError("cannot allocate tty if runc will detach without setting console socket")
        if console_socket and not terminal:
            raise CtnrError("cannot use console socket if runc will not detach or allocate tty")
        ctx = Context(config, id, bundle)
        made = made or Made()
        ctx.rootfs = made.rootfs or resolve_rootfs(config, bundle)
        ctx.no_pivot, ctx.no_new_keyring = no_pivot, no_new_keyring
        ctx.preserve_fds, ctx.listen, ctx.init = preserve_fds, detach, init
        ctx.root_steps = made.root_steps
        ctx.console = "console" if console_socket else ""
        ctx.setgroups = _setgroups(config)
        if rootless is None:
            rootless = is_rootless()
        dir = state.new(root, id)
        data: dict[str, Any] = {
            "ociVersion": OCI_VERSION,
            "id": id,
            "pid": 0,
            "bundle": bundle,
            "rootfs": ctx.rootfs,
            "created": rfc3339(time_ns()),
            "owner": "",
            "annotations": config.get("annotations") or {},
            "boot": state.boot_id(),
            "uid": posix.geteuid(),
        }
        data.update(made.state)
        container = cls(id, root, dir, data)
        container._config = config
        try:
            mark = dir.begin()
            try:
                if made.held:
                    container._owner = dir.hold()
                dir.write(state.CONFIG, raw)
                for name in made.directories:
                    posix.mkdir(name, 0o755, dir_fd=dir.fd)
                for name, target in made.links:
                    posix.symlink(target, name, dir_fd=dir.fd)
                for name, content in made.files.items():
                    dir.write(name, content, 0o644)
                container._create(ctx, (stdin, stdout, stderr), console_socket, cgroup_manager, rootless)
                if pid_file:
                    files.write_atomic(pid_file, str(container.pid).encode(), 0o644)
                dir.end(mark)
            except BaseException:
                posix.close(mark)
                raise
            if detach:
                assert container._launch is not None
                container._launch.go()
                container._launch.release()
        except BaseException:
            container._undo()
            raise
        return container

    def _create(
        self, ctx: Context, stdio: tuple[int, int, int], console_socket: str | None, manager: str, rootless: bool
    ) -> None:
        config = ctx.config
        resources = ctx.linux.get("resources") or {}
        where = None if manager == "disabled" else ctx.cgroup_layout()
        group = cgroups.new(ctx.linux.get("cgroupsPath"), self.id, rootless, manager, resources, where)
        fds = launch.Fds()
        try:
            if group is not None:
                self._cgroup = ctx.cgroup = group
                self._state["cgroup"] = {"paths": group.paths, "manager": manager, "rootless": rootless}
                self._dir.write_state(self._state)
                group.create(resources, ctx.linux.get("devices") or ())
                self._state["cgroup"]["created"] = group.created
                self._own_cgroup(config)
            if ctx.listen:
                fds.add("start", _native.unix_listen(self._dir.fd, state.SOCKET))
            if console_socket:
                fds.add("console", connect(console_socket))
            self._plan = self._spawn(ctx, fds, stdio, group)
            assert self._launch is not None
            self._launch.until_ready(self._phase, self._note)
        finally:
            fds.close()

    def _own_cgroup(self, config: Config) -> None:
        """Give the cgroup to the container's user where the spec says so (config-linux.md#cgroup-ownership)."""
        if self._cgroup is None or not cgroups.wants_owner(config):
            return
        linux = config.get("linux") or {}
        uids, gids = compiler.id_maps(linux)
        if uids:
            user = (config.get("process") or {}).get("user") or {}
            uid, gid = idmap.mapped(uids, user.get("uid", 0)), idmap.mapped(gids, user.get("gid", 0))
            if uid is not None and gid is not None:
                self._cgroup.chown(uid, gid)

    def _spawn(self, ctx: Context, fds: launch.Fds, stdio: tuple[int, int, int], group: Cgroup | None) -> Plan:
        """Compile, open, start; again without CLONE_INTO_CGROUP where clone3 is refused."""
        into = -1
        if group is not None and (fd := group.fd_v2()) is not None:
            into = fd
        try:
            while self._launch is None:
                if group is not None:
                    for i, fd in enumerate(group.join_fds(unified=into < 0)):
                        fds.add(f"cgroup:{i}", fd)
                        ctx.cgroup_files = i + 1
                plan = compiler.compile_create(ctx)
                launch.open_refs(plan, ctx, fds)
                try:
                    self._launch = launch.spawn(plan, fds, stdio, self.id, into, ctx.passed_fds, ctx.user_namespace)
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
        return plan

    def _note(self) -> None:
        """Write down which process is the container's first, as soon as there is one."""
        started = self._launch
        assert started is not None
        self._state["pid"] = started.pid
        self._state["start"] = state.start_time(started.pid)
        self._state["late"] = [
            [i, step.op, step.field] for i, step in enumerate(started.plan.steps) if step.op in _EXECUTABLE_LATE
        ]
        self._dir.write_state(self._state)
        self._process = Process(started.pid, started.pidfd)

    def _phase(self, phase: int) -> bytes:
        """The runtime's part of the start."""
        assert self._launch is not None
        config = self.config
        linux = config.get("linux") or {}
        pid = self._launch.pid
        if phase == p.PHASE_MAPS:
            uids, gids = compiler.id_maps(linux)
            score = (config.get("process") or {}).get("oomScoreAdj")
            if score is not None:
                _write_oom_score(pid, score)
            idmap.write_maps(pid, uids, gids)
        elif phase == p.PHASE_LIMITS:
            limits(pid, (config.get("process") or {}))
        elif phase == p.PHASE_HOOKS:
            document = self._document("creating")
            hooks = config.get("hooks") or {}
            if hooks.get("prestart") or hooks.get("createRuntime"):
                from ctnr.runtime import hooks as runner

                runner.run(config, "prestart", document)
                runner.run(config, "createRuntime", document)
            return jsonio.dumps(document).encode("utf-8", "surrogateescape")
        return b""

    def _undo(self) -> None:
        """Take everything back that create has done so far."""
        if self._launch is not None:
            self._launch.abort()
            self._process = None
        try:
            if self._cgroup is not None:
                self._cgroup.kill()
                self._cgroup.delete()
            if self._launch is not None and (self.config.get("hooks") or {}).get("poststop"):
                from ctnr.runtime import hooks

                hooks.run_all(self.config, "poststop", self._document("stopped"))
        finally:
            self._remove()
            self.close()

    def _remove(self) -> None:
        owned = self._state.get("owned")
        if owned:
            from ctnr.runtime.userns import remove_tree

            remove_tree(owned)
        self._dir.remove()

    @classmethod
    def load(cls, id: str, root: str | None = None) -> Container:
        """The container with that id. StateError "container ... does not exist"."""
        root = root or state.default_root()
        dir = state.open(root, id)
        try:
            data = jsonio.loads(dir.read(state.STATE))
        except OSError as error:
            if error.errno != ENOENT:
                raise SyscallError("read the state of the container", error.errno or 0, dir.path) from None
            data = {"id": id, "pid": 0}  # its create died, or is still at the beginning
        except ValueError as error:
            raise CtnrError(f"{dir.path}/{state.STATE} is damaged: {error}; remove it with delete --force") from None
        return cls(id, root, dir, data)

    def close(self) -> None:
        """Give up the fds; the container goes on."""
        if self._launch is not None:
            self._launch.release()
        if self._process is not None:
            self._process.close()
            self._process = None
        if self._owner >= 0:
            posix.close(self._owner)
            self._owner = -1
        self._dir.close()

    # --- what it is

    @property
    def pid(self) -> int:
        """The pid of the first process in the host's pid namespace; 0 before there is one."""
        pid: int = self._state.get("pid", 0)
        return pid

    @property
    def bundle(self) -> str:
        bundle: str = self._state.get("bundle", "")
        return bundle

    @property
    def annotations(self) -> dict[str, str]:
        found: dict[str, str] = self._state.get("annotations") or {}
        return found

    @property
    def extra(self) -> dict[str, Any]:
        """Everything in the state file; the engine keeps its own there."""
        return self._state

    @property
    def config(self) -> Config:
        """The configuration as it was at create."""
        if self._config is None:
            self._config = parse(self._dir.read(state.CONFIG))
        return self._config

    @property
    def pidfd(self) -> int:
        return self.process.pidfd

    @property
    def console_fd(self) -> int | None:
        return self._launch.console_fd if self._launch is not None else None

    @property
    def process(self) -> Process:
        """The first process. StateError if it has ended."""
        if self._process is None:
            pidfd = self._open_pid()
            if pidfd is None:
                raise StateError("container not running", self.id, "stopped")
            self._process = Process(self.pid, pidfd)
        return self._process

    def fileno(self) -> int:
        """The pidfd of the first process, for poll and asyncio."""
        return self.pidfd

    def _open_pid(self) -> int | None:
        """A pidfd of the first process, if it lives and is the one that was noted."""
        if not self.pid or self._state.get("boot") != state.boot_id():
            return None
        try:
            pidfd = _native.pidfd_open(self.pid)
        except OSError as error:
            if error.errno in (ESRCH, EINVAL):
                return None
            raise
        if state.start_time(self.pid) != self._state.get("start"):
            posix.close(pidfd)
            return None
        return pidfd

    @property
    def cgroup(self) -> Cgroup | None:
        if self._cgroup is None and (saved := self._state.get("cgroup")):
            self._cgroup = cgroups.load(
                saved["paths"], saved.get("created"), saved["manager"], saved.get("rootless", False)
            )
        return self._cgroup

    def status(self) -> str:
        """creating, created, running, paused or stopped: asked of the kernel each time."""
        creating = self._dir.creating()
        if creating:
            return "creating"
        if creating is None and self._launch is None:
            return "stopped"  # its create was killed; whatever it had started has ended with it
        if not self._alive():
            return "stopped"
        if self._dir.waits_for_start():
            return "created"
        group = self.cgroup
        if group is not None and group.frozen():
            return "paused"
        if self._launch is not None and self._launch.sync_fd >= 0:
            return "created"
        return "running"

    def abandoned(self) -> bool:
        """Whether nobody holds it any more (Made.held): the process that made it has ended or closed it."""
        return not self._dir.held()

    def _alive(self) -> bool:
        if self._process is not None and self._process.pidfd >= 0:
            return not poll_exit(self._process.pidfd, 0)
        pidfd = self._open_pid()
        if pidfd is None:
            return False
        posix.close(pidfd)
        return True

    def state(self) -> dict[str, Any]:
        """The state document (runtime.md#state) with runc's additions: rootfs, created, owner."""
        status = self.status()
        document = self._document(status)
        from pwd import getpwuid

        uid = self._state.get("uid", posix.geteuid())
        try:
            document["owner"] = getpwuid(uid).pw_name
        except KeyError:
            document["owner"] = str(uid)
        return document

    def _document(self, status: str) -> dict[str, Any]:
        own = self._state
        document: dict[str, Any] = {
            "ociVersion": own.get("ociVersion", OCI_VERSION),
            "id": self.id,
            "pid": 0 if status == "stopped" else self.pid,
            "status": status,
            "bundle": own.get("bundle", ""),
            "rootfs": own.get("rootfs", ""),
            "created": own.get("created", ""),
        }
        if own.get("annotations"):
            document["annotations"] = own["annotations"]
        document["owner"] = own.get("owner", "")
        return document

    # --- operations

    def start(self) -> None:
        """Run the program (runtime.md#start). Raises StateError unless the container is created, CtnrError if it fails."""
        self._dir.lock()
        status = self.status()
        if status != "created":
            raise StateError(
                {
                    "running": "cannot start an already running container",
                    "stopped": "cannot start a container that has stopped",
                }.get(status, f"cannot start a container in the {status} state"),
                self.id,
                status,
            )
        config = self.config
        hooks = config.get("hooks") or {}
        document = b""
        if hooks.get("startContainer"):
            document = jsonio.dumps(self._document("created")).encode("utf-8", "surrogateescape")
        if self._launch is not None and self._launch.sync_fd >= 0:
            try:
                self._launch.go(document)
                self._launch.until_executed()
            finally:
                self._launch.release()
        else:
            fd = _native.unix_connect(self._dir.fd, state.SOCKET)
            try:
                _native.sendmsg(fd, p.MESSAGE.pack(p.MSG_GO, 0, 0, 0) + document)
                launch.wait_executed(self._late_plan(), fd)
            finally:
                posix.close(fd)
            posix.unlink(state.SOCKET, dir_fd=self._dir.fd)
        if hooks.get("poststart"):
            from ctnr.runtime import hooks as runner

            try:
                runner.run(config, "poststart", self._document("running"))
            except CtnrError:
                # since runtime-spec 1.3 this ends the container (runtime.md#lifecycle)
                self._kill_all()
                raise

    def _late_plan(self) -> Plan:
        """As much of the plan as is needed to name what fails after start."""
        plan = p.Plan()
        for index, op, field in self._state.get("late") or ():
            while len(plan.steps) < index:
                plan.add(p.WAIT, "")
            plan.add(op, field, "")
        return plan

    def kill(self, signal: int, all: bool = False) -> None:
        """Send a signal to the first process, or to every process (runtime.md#kill). StateError unless it runs."""
        status = self.status()
        group = self.cgroup
        if all and group is not None:
            group.kill(signal)
            return
        if status == "stopped":
            raise StateError("container not running", self.id, status)
        self.process.kill(signal)
        if signal == _SIGKILL and status == "paused" and group is not None:
            group.thaw()

    def _kill_all(self) -> None:
        """SIGKILL to everything; returns when the first process is gone."""
        pidfd = self._open_pid() if self._process is None else self._process.pidfd
        group = self.cgroup
        if pidfd is not None and pidfd >= 0:
            try:
                _native.pidfd_send_signal(pidfd, _SIGKILL)
            except OSError as error:
                if error.errno != ESRCH:
                    raise SyscallError("kill the container", error.errno or 0) from None
        if group is not None:
            try:
                if group.frozen():
                    group.thaw()
                if "pid" not in {n["type"] for n in (self.config.get("linux") or {}).get("namespaces") or ()}:
                    group.kill(_SIGKILL)
            except SyscallError as error:
                if error.errno != ENOENT:
                    raise
        if pidfd is not None and pidfd >= 0:
            ended = poll_exit(pidfd, _KILL_TIMEOUT)
            if self._process is None:
                posix.close(pidfd)
            if not ended:
                raise CtnrError(f"container {self.id} is still alive {_KILL_TIMEOUT:.0f} s after SIGKILL")

    def delete(self, force: bool = False) -> None:
        """Remove all that create made (runtime.md#delete). StateError if it is not stopped, unless `force` kills it."""
        self._dir.lock()
        status = self.status()
        if status == "creating" and not force:
            raise StateError(f"cannot delete container {self.id} that is not stopped: {status}", self.id, status)
        if status not in ("stopped", "created") and not force:
            raise StateError(f"cannot delete container {self.id} that is not stopped: {status}", self.id, status)
        try:
            config: Config = self.config
        except (OSError, CtnrError):
            config = self._config = {}  # a create that died early, or a damaged file: nothing to be done from it
        self._kill_all()
        if self._process is not None:
            try:
                self._process.exit_code  # noqa: B018  reap it if it is ours: a zombie holds its cgroup
            except OSError:
                pass  # somebody else's child
        if self.cgroup is not None:
            self.cgroup.delete()
        if (config.get("hooks") or {}).get("poststop"):
            from ctnr.runtime import hooks

            hooks.run_all(config, "poststop", self._document("stopped"))
        self._remove()
        self.close()

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the program's end; its exit code, 128+n after signal n. Only for the process that created it."""
        return self.process.wait(timeout)

    def processes(self) -> list[int]:
        """The pids of all its processes, in the host's pid namespace."""
        group = self.cgroup
        if group is not None:
            return group.pids()
        if not self._alive():
            return []
        return _in_pid_namespace(self.pid)

    def exec(
        self,
        process: ProcessSpec,
        *,
        stdin: int = 0,
        stdout: int = 1,
        stderr: int = 2,
        console_socket: str | None = None,
        pid_file: str | None = None,
        preserve_fds: int = 0,
        cgroup: str = "",
        ignore_paused: bool = False,
        detach: bool = False,
        init: bool = False,
    ) -> Process:
        """Run one more process in the container; it runs when this returns.

        `process` is a whole runtime-spec process. Raises StateError unless the container runs, SpecError, CtnrError
        with exit_code 126 or 127 if the program cannot be executed.
        """
        from ctnr.runtime.joining import exec_process

        return exec_process(
            self,
            process,
            (stdin, stdout, stderr),
            console_socket=console_socket,
            pid_file=pid_file,
            preserve_fds=preserve_fds,
            sub_cgroup=cgroup,
            ignore_paused=ignore_paused,
            detach=detach,
            init=init,
        )


def _setgroups(config: Config) -> bool:
    linux = config.get("linux") or {}
    uids, gids = compiler.id_maps(linux)
    for namespace in linux.get("namespaces") or ():
        if namespace["type"] == "user":
            path = namespace.get("path", "")
            if not path:
                return idmap.setgroups_allowed(uids, gids)
            owner = path.rpartition("/ns/")[0]
            try:  # /proc/PID/ns/user: its process tells
                return files.read_file(f"{owner}/setgroups").strip() == b"allow"
            except OSError:
                return posix.geteuid() == 0
    return posix.geteuid() == 0


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


def _write_oom_score(pid: int, score: int) -> None:
    path = f"/proc/{pid}/oom_score_adj"
    try:
        files.write_file(path, str(score).encode())
    except OSError as error:
        raise SyscallError("process.oomScoreAdj: write", error.errno or 0, path) from None


def limits(pid: int, process: ProcessSpec) -> None:
    for i, limit in enumerate(process.get("rlimits") or ()):
        try:
            _native.prlimit(pid, RLIMITS[limit["type"]], limit["soft"], limit["hard"])
        except OSError as error:
            raise SyscallError(f"process.rlimits[{i}]: set {limit['type']}", error.errno or 0) from None


def _in_pid_namespace(pid: int) -> list[int]:
    """Processes that share a pid namespace with `pid`; without a cgroup there is no better list."""
    found = []
    try:
        want = posix.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return []
    for name in posix.listdir("/proc"):
        if name.isdigit():
            try:
                if posix.readlink(f"/proc/{name}/ns/pid") == want:
                    found.append(int(name))
            except OSError:
                continue  # gone, or not ours to look at
    return sorted(found)


def list_containers(root: str | None = None) -> list[dict[str, Any]]:
    """The state documents of all containers under a root, by id; one that goes away meanwhile is left out."""
    root = root or state.default_root()
    found = []
    for id in state.ids(root):
        try:
            container = Container.load(id, root)
        except StateError:
            continue
        try:
            found.append(container.state())
        finally:
            container.close()
    return found


def plan(
    bundle: str,
    *,
    id: str = "ID",
    config: Config | None = None,
    config_path: str | None = None,
    no_pivot: bool = False,
    no_new_keyring: bool = False,
    cgroup_manager: str = "cgroupfs",
    init: bool = False,
    made: Made | None = None,
) -> Plan:
    """The plan that create would carry out; nothing is made."""
    bundle = files.abspath(bundle)
    if config is None:
        config = parse(read_config(bundle, config_path))
    check_config(config)
    ctx = Context(config, id, bundle)
    made = made or Made()
    ctx.rootfs = made.rootfs or resolve_rootfs(config, bundle)
    ctx.no_pivot, ctx.no_new_keyring, ctx.init = no_pivot, no_new_keyring, init
    ctx.root_steps = made.root_steps
    ctx.setgroups = _setgroups(config)
    linux = ctx.linux
    ctx.cgroup = cgroups.new(linux.get("cgroupsPath"), id, is_rootless(), cgroup_manager, linux.get("resources") or {})
    if ctx.cgroup is not None:
        ctx.cgroup_files = len({path for name, path in ctx.cgroup.paths.items() if name})
    return compiler.compile_create(ctx)
