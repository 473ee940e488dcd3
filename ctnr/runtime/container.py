# SPDX-License-Identifier: Apache-2.0
"""class Container: create, start, state, exec, kill, pause, update, wait, delete (runtime-spec runtime.md#operations).

HOT. Everything the command does, a method here does first. Safe from any thread.
"""

from __future__ import annotations

import posix
from errno import EINVAL, ENODEV, ENOENT, ESRCH

from ctnr import _native, files, jsonio, log
from ctnr.errors import CtnrError, HookError, StateError, SyscallError
from ctnr.runtime import state
from ctnr.runtime.process import Process, poll_exit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from ctnr.runtime.cgroups import Cgroup
    from ctnr.runtime.events import Events
    from ctnr.runtime.launch import Launch
    from ctnr.runtime.supervisor import Callback, Supervisor
    from ctnr.spec.types import Config
    from ctnr.spec.types import Process as ProcessSpec

_SIGKILL = 9
_KILL_TIMEOUT = 10.0
OCI_VERSION = "1.3.0"


class Container:
    """One container, by its id under a state root. Made by create() or load(); close() gives up its fds.

    `pid`, `pidfd`: its first process; `console_fd`: the master of its terminal, if it has one that was not sent to a
    console socket; `bundle`: the absolute path of its bundle.
    """

    __slots__ = ("_cgroup", "_config", "_dir", "_launch", "_owner", "_process", "_removed", "_state", "_supervisor",
                 "id", "root")  # fmt: skip

    def __init__(self, id: str, root: str, dir: state.StateDir, data: dict[str, Any]) -> None:
        self.id = id
        self.root = root
        self._dir = dir
        self._state = data
        self._config: Config | None = None
        self._cgroup: Cgroup | None = None
        self._launch: Launch | None = None
        self._process: Process | None = None
        self._owner = -1
        self._removed = False
        self._supervisor: Supervisor | None = None

    # --- making and finding

    @staticmethod
    def create(id: str, bundle: str, **options: Any) -> Container:
        """As ctnr.runtime.creating.create(), which has the options."""
        from ctnr.runtime.creating import create

        return create(id, bundle, **options)

    @staticmethod
    def restore(id: str, bundle: str, image_path: str, **options: Any) -> Container:
        """As ctnr.runtime.criu_restore.restore(), which has the options."""
        from ctnr.runtime.criu_restore import restore

        return restore(id, bundle, image_path, **options)

    def on_syscall(self, name: str, callback: Callback) -> None:
        """Another function for a system call of create()'s on_syscall. CtnrError if it was not among them."""
        if self._supervisor is None:
            raise CtnrError("on_syscall: name the system calls to create(): the filter is part of the container")
        self._supervisor.set(name, callback)

    def _remove(self) -> None:
        self._removed = True
        if self._supervisor is not None:
            self._supervisor.stop()
            self._supervisor = None
        if owned := self._state.get("owned"):
            from ctnr.runtime.userns import remove_tree

            remove_tree(owned)
        if "rdt" in self._state:
            from ctnr.runtime import intelrdt

            intelrdt.remove(self._state["rdt"])
        self._dir.remove()

    @classmethod
    def load(cls, id: str, root: str | None = None) -> Container:
        """The container with that id. StateError "container does not exist"."""
        root = root or state.default_root()
        dir = state.open(root, id)
        try:
            data = jsonio.loads(dir.read(state.STATE))
        except OSError as error:
            if error.errno != ENOENT:
                raise SyscallError("read the state of the container", error.errno or 0, dir.path) from None
            data = {"id": id, "pid": 0}  # its create died, or is still at the beginning
        except ValueError as error:
            log.warning(f"{dir.path}/{state.STATE} is damaged: {error}; remove the container with delete --force")
            data = {"id": id, "pid": 0}
        return cls(id, root, dir, data)

    def close(self) -> None:
        """Give up the fds; the container goes on."""
        if self._launch is not None:
            self._launch.close()
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
        return int(self._state.get("pid", 0))

    @property
    def bundle(self) -> str:
        return str(self._state.get("bundle", ""))

    @property
    def annotations(self) -> dict[str, str]:
        return dict(self._state.get("annotations") or {})

    @property
    def extra(self) -> dict[str, Any]:
        """Everything in the state file; the engine keeps its own there."""
        return self._state

    @property
    def config(self) -> Config:
        """The configuration as it was at create, with what update() has changed."""
        if self._config is None:
            from ctnr.spec.runtime import parse

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
        """The pidfd of the first process, for poll and asyncio; see Process."""
        return self.process.fileno()

    def _open_pid(self) -> int | None:
        """A pidfd of the first process, if it lives and is the one that was noted."""
        boot = self._state.get("boot")
        if not self.pid or (boot and boot != state.boot_id()):
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
            from ctnr.runtime.cgroups import load

            self._cgroup = load(**{name: value for name, value in saved.items() if name not in ("freezer", "planned")})
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
        if self._frozen():
            return "paused"
        if self._dir.waits_for_start():
            return "created"
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

    def _frozen(self) -> bool:
        """Whether its cgroup is: one file, without loading what else there is to know of cgroups."""
        file = (self._state.get("cgroup") or {}).get("freezer")
        if not file:
            return bool(self._state.get("stopped")) and state.is_stopped(self.pid)
        try:
            return files.read_file(file).strip() == b"1"
        except OSError as error:
            if error.errno in (ENOENT, ENODEV):
                return False
            raise SyscallError("read the freezer's state", error.errno or 0, file) from None

    def state(self) -> dict[str, Any]:
        """The state document (runtime.md#state) with runc's additions: rootfs, created, owner."""
        document = self._document(self.status())
        document["owner"] = state.user_name(self._state.get("uid", posix.geteuid()))
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
        return {**document, "owner": own.get("owner", "")}

    # --- operations

    def start(self, notify_socket: str | None = None) -> None:
        """Run the program (runtime.md#start). Raises StateError unless the container is created, CtnrError if it fails. With
        the service manager's `notify_socket`, of one created with `notify`: wait until it is ready, and say so there."""
        if notify_socket:
            from ctnr.runtime import sdnotify

            return sdnotify.start(self, notify_socket)
        self._dir.lock()
        try:
            self._start()
        except HookError:
            from ctnr.runtime import hooks

            hooks.end(self)
            raise
        finally:
            self._dir.unlock()
        if "poststart" in (self._state.get("hooks") or ()):
            from ctnr.runtime import hooks

            hooks.poststart(self)  # without the lock: whoever wants to end it need not wait for a hook

    def _start(self) -> None:
        # created by this process and not let go: the init can be nothing but waiting, or dead, which go() will find
        waiting = self._launch is not None and self._launch.sync_fd >= 0
        status = "created" if waiting else self.status()
        if status != "created":
            raise StateError(
                {
                    "running": "cannot start an already running container",
                    "stopped": "cannot start a container that has stopped",
                }.get(status, f"cannot start a container in the {status} state"),
                self.id,
                status,
            )
        from ctnr.runtime import launch

        hooks = self._state.get("hooks") or ()
        document = b""
        if "startContainer" in hooks:
            from ctnr.runtime import hooks as runner

            document = runner.inner_state(self, "created")
        if self._launch is not None and waiting:
            try:
                self._launch.go(document)
                self._launch.until_executed()
            except BrokenPipeError:
                raise StateError("cannot start a container that has stopped", self.id, "stopped") from None
            finally:
                self._launch.release()
        else:
            fd = _native.unix_connect(self._dir.fd, state.SOCKET)
            try:
                launch.send_go(fd, document)
                launch.wait_executed(launch.late_plan(self._state.get("late") or ()), fd)
            finally:
                posix.close(fd)
            posix.unlink(state.SOCKET, dir_fd=self._dir.fd)

    def kill(self, signal: int, all: bool = False) -> None:
        """Send a signal to the first process, or with `all` to every one (runtime.md#kill). StateError unless it runs; `all`
        does not mind. As in runc, SIGKILL is for all where they do not end with the first: in a shared pid namespace."""
        status = self.status()
        if all or (signal == _SIGKILL and not self._state.get("own_pids")):
            from ctnr.runtime import everyone

            everyone.kill(self, signal, status, all)
            return
        if status == "stopped":
            raise StateError("container not running", self.id, status)
        self.process.kill(signal)
        if signal == _SIGKILL and status == "paused" and self.cgroup is not None and self.cgroup.freezer_file():
            self.cgroup.thaw()

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
        if group is not None and not self._planned_cgroup():
            try:
                if group.freezer_file() and self._frozen():
                    group.thaw()
                if not self._state.get("own_pids"):
                    group.kill(_SIGKILL)  # nothing dies with the first process
            except SyscallError as error:
                if error.errno != ENOENT:
                    raise
        if pidfd is not None and pidfd >= 0:
            ended = poll_exit(pidfd, _KILL_TIMEOUT)
            if self._process is None:
                posix.close(pidfd)
            if not ended:
                raise CtnrError(f"container {self.id} is still alive {_KILL_TIMEOUT:.0f} s after SIGKILL")

    def _planned_cgroup(self) -> bool:
        """Whether create was killed before it knew which of the cgroups are the container's own."""
        return "planned" in (self._state.get("cgroup") or ())

    def delete(self, force: bool = False) -> None:
        """Remove all that create made (runtime.md#delete). StateError if it is not stopped, unless `force` kills it; then it
        may have been removed already, by somebody else or by us."""
        if self._removed and force:
            return
        try:
            if force and not self._dir.try_lock():
                # somebody starts it, and may wait for a hook that never ends: it ends with the container
                self._kill_all()
                self._dir.lock()
            elif not force:
                self._dir.lock()
        except StateError:
            if not force:
                raise
            self.close()
            return
        try:
            self._delete(force)
        finally:
            self._dir.unlock()

    def _delete(self, force: bool) -> None:
        status = self.status()
        if status not in ("stopped", "created") and not force:
            raise StateError(f"cannot delete container {self.id} that is not stopped: {status}", self.id, status)
        self._kill_all()
        if self._process is not None:
            try:
                self._process.exit_code  # noqa: B018  reap it if it is ours: a zombie holds its cgroup
            except OSError:
                pass  # somebody else's child
        if self.cgroup is not None:
            try:
                self.cgroup.delete(*((0.0,) if self._planned_cgroup() else ()))
            except SyscallError:
                if not self._planned_cgroup():
                    raise
        if "poststop" in (self._state.get("hooks") or ()):
            from ctnr.runtime import hooks

            hooks.run_all(self.config, "poststop", self._document("stopped"))
        self._remove()
        self.close()

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the program's end; its exit code, 128+n after signal n. Only for the process that created it."""
        return self.process.wait(timeout)

    def processes(self) -> list[int]:
        """The pids of all its processes, in the host's pid namespace."""
        if self.cgroup is not None:
            return self.cgroup.pids()
        if not self._alive():
            return []
        from ctnr.runtime import tree

        return tree.members(self.pid, bool(self._state.get("own_pids")))

    def pause(self) -> None:
        """Stop all its processes where they are: by its cgroup's freezer or, with a warning, by SIGSTOP to each.
        StateError unless it is created or running."""
        from ctnr.runtime import pausing

        self._locked(pausing.pause)

    def resume(self) -> None:
        """Let them run on. StateError unless it is paused."""
        from ctnr.runtime import pausing

        self._locked(pausing.resume)

    def update(self, resources: dict[str, Any], l3_cache_schema: str = "", mem_bw_schema: str = "") -> None:
        """Change the limits that `resources`, like `linux.resources`, names, all or none; `config` has them then. Another
        `devices` replaces the list; the schemas are Intel RDT's. StateError if stopped; SpecError, SyscallError."""
        from ctnr.runtime import updating

        self._locked(lambda container: updating.update(container, resources, l3_cache_schema, mem_bw_schema))

    def add_mounts(self, mounts: list[Any]) -> None:
        """Mount these (config.md#mounts) in it as it is, all or none. Raises SpecError, SyscallError, StateError."""
        from ctnr.runtime import live_mounts

        self._locked(lambda container: live_mounts.add(container, mounts))

    def remove_mounts(self, mounts: list[Any]) -> None:
        """Unmount what is at the destinations of these mounts. Raises SpecError, SyscallError, StateError."""
        from ctnr.runtime import live_mounts

        self._locked(lambda container: live_mounts.remove(container, mounts))

    def stats(self) -> dict[str, Any]:
        """What it has used, as runc's `events --stats` has it under "data". Raises CtnrError, SyscallError."""
        from ctnr.runtime import events

        return events.stats(self)

    def events(self, interval: float | None = 5.0, pressure: Mapping[str, str] | None = None) -> Events:
        """An iterator, for `async for` too, of statistics every `interval` seconds, OOM kills and pressure until it has
        stopped: see ctnr.runtime.events.Events. StateError if it has stopped, CtnrError, SyscallError."""
        from ctnr.runtime.events import Events

        return Events(self, interval, pressure)

    def _locked(self, operation: Callable[[Container], None]) -> None:
        self._dir.lock()
        try:
            operation(self)
        finally:
            self._dir.unlock()

    def exec(
        self,
        process: ProcessSpec | dict[str, Any],
        *,
        stdin: int = 0,
        stdout: int = 1,
        stderr: int = 2,
        **options: Any,
    ) -> Process:
        """Run one more process in the container, a whole runtime-spec process; it runs when this returns. The other options
        are those of ctnr.runtime.joining.exec_process(). StateError unless the container runs, SpecError, CtnrError
        with exit_code 126 or 127 if the program cannot be executed."""
        from ctnr.runtime.joining import exec_process

        return exec_process(self, process, (stdin, stdout, stderr), **options)  # type: ignore[arg-type]

    def checkpoint(self, image_path: str, **options: Any) -> None:
        """As ctnr.runtime.criu_dump.checkpoint(), which has the options."""
        from ctnr.runtime.criu_dump import checkpoint

        checkpoint(self, image_path, **options)
