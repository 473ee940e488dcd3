# SPDX-License-Identifier: Apache-2.0
"""restore: a container from a bundle and the image files of a checkpoint, by CRIU. Imported only by it.

The config is the bundle's; of the image directory nothing is read but descriptors.json. What CRIU makes of its own files is
compared with the config before it runs.
"""

from __future__ import annotations

import posix
from errno import ENOENT
from time import time_ns

from ctnr import _native, files, jsonio
from ctnr.errors import CtnrError, SpecError, StateError, SyscallError
from ctnr.runtime import creating, criu_check, criu_mounts, criu_rpc, intelrdt, launch, state
from ctnr.runtime import criu_options as common
from ctnr.runtime import plan as p
from ctnr.runtime.compile import Context
from ctnr.runtime.container import Container
from ctnr.runtime.criu import Criu, Worker, carry_out, explain, forget_log, open_directory
from ctnr.runtime.process import Process
from ctnr.runtime.rootfs import resolve_rootfs
from ctnr.spec.runtime import parse
from ctnr.spec.tables import CLONE_NEWNET, CLONE_NEWNS, MS_BIND, MS_REC, MS_SLAVE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from ctnr.runtime.cgroups import Cgroup
    from ctnr.spec.types import Config

_LOG = "restore.log"
_ROOT, _OVER, _LOGS = "criu-root", "criu-over", "criu-logs"
_MAX_DESCRIPTORS = 1 << 16
_SIGKILL = 9
# how CRIU names what it joins by path
_JOINED = {"ipc": "ipc", "uts": "uts", "time": "time", "user": "user", "mount": "mnt"}


def restore(
    id: str,
    bundle: str,
    image_path: str,
    *,
    root: str | None = None,
    config: Config | None = None,
    config_path: str | None = None,
    stdin: int = 0,
    stdout: int = 1,
    stderr: int = 2,
    console_socket: str | None = None,
    pid_file: str | None = None,
    cgroup_manager: str = "cgroupfs",
    rootless: bool | None = None,
    detach: bool = True,
    work_path: str | None = None,
    tcp_established: bool = False,
    tcp_close: bool = False,
    ext_unix_sk: bool = False,
    shell_job: bool = False,
    file_locks: bool = False,
    auto_dedup: bool = False,
    lazy_pages: bool = False,
    manage_cgroups_mode: str = "",
    network_lock: str | None = None,
    empty_ns: Iterable[str] = (),
    lsm_profile: str | None = None,
    lsm_mount_context: str | None = None,
) -> Container:
    """Make a container of `bundle` whose processes are those that a checkpoint left in `image_path`; they run on.

    `id` and the options up to `detach` are those of create(); the config must be as it was at the checkpoint, but for what
    is outside: sources of mounts, paths of namespaces, the cgroup, limits. `work_path` is where restore.log goes. The rest
    are CRIU's options of these names. Raises SpecError, StateError, SyscallError, CtnrError; nothing is left behind then.
    """
    common.need_root("restore")
    bundle = files.abspath(bundle)
    if config is None:
        raw = creating.read_config(bundle, config_path)
        config = parse(raw)
    else:
        raw = jsonio.dumps(config).encode("utf-8", "surrogateescape")
    creating.check_config(config)
    root = root or state.default_root()
    terminal = (config.get("process") or {}).get("terminal", False)
    if terminal and detach and not console_socket:
        raise CtnrError("cannot allocate tty if runc will detach without setting console socket: use --console-socket")
    if console_socket and not terminal:
        raise CtnrError("cannot use console socket if runc will not detach or allocate tty")
    ctx = Context(config, id, bundle)
    ctx.rootfs = resolve_rootfs(config, bundle)
    if not ctx.mount_namespace:
        raise SpecError("linux.namespaces", "CRIU restores a container only into a mount namespace of its own")
    criu = Criu()
    opts: dict[str, Any] = {
        "log_level": common.LOG_LEVEL,
        "log_file": _LOG,
        "evasive_devices": True,
        "rst_sibling": True,
        "notify_scripts": True,
        "manage_cgroups": True,
        "manage_cgroups_mode": common.cgroup_mode(manage_cgroups_mode),
        "shell_job": shell_job,
        "tcp_established": tcp_established,
        "tcp_close": tcp_close or None,
        "ext_unix_sk": ext_unix_sk,
        "file_locks": file_locks,
        "empty_ns": common.empty_namespaces(empty_ns),
        "orphan_pts_master": common.own_terminals(config, shell_job),
        "auto_dedup": auto_dedup,
        "lazy_pages": lazy_pages,
        "network_lock": common.lock_method(network_lock),
        "config_file": common.configuration(config),
        "lsm_profile": lsm_profile or None,
        "lsm_mount_context": lsm_mount_context or None,
    }
    if lazy_pages:
        criu.need_feature("lazy_pages", "--lazy-pages")
    if lsm_profile or lsm_mount_context:
        criu.need(31600, "--lsm-profile" if lsm_profile else "--lsm-mount-context")
    image_fd = open_directory(image_path, "--image-path", make=False)
    fds = launch.Fds()
    try:
        fds.add("images", image_fd)
        if work_path is not None:
            fds.add("work", open_directory(work_path, "--work-path", make=True))
        forget_log(fds.by_ref.get("work", fds.by_ref["images"]), _LOG)
        opts["inherit_fd"] = _pipes(fds.by_ref["images"], image_path)
        _namespaces(config, opts, fds)
        if console_socket:
            fds.add("console", creating.connect(console_socket))
        return _Restoration(criu, ctx, opts, fds, files.join(work_path or image_path, _LOG)).run(
            raw,
            root,
            (stdin, stdout, stderr),
            pid_file,
            cgroup_manager,
            creating.is_rootless() if rootless is None else rootless,
        )
    finally:
        fds.close()


def _pipes(image_fd: int, image_path: str) -> list[dict[str, Any]]:
    """Which of the saved pipes and files are the stdio of whoever restores."""
    try:
        data = files.read_file(common.DESCRIPTORS, _MAX_DESCRIPTORS, dir_fd=image_fd)
        links = jsonio.loads(data)
        if not isinstance(links, list) or not all(isinstance(link, str) for link in links):
            raise ValueError("not a list of strings")
    except OSError as error:
        hint = "is this the image of a checkpoint?" if error.errno == ENOENT else ""
        where = files.join(image_path, common.DESCRIPTORS)
        raise SyscallError("--image-path: read", error.errno or 0, where, hint) from None
    except ValueError as error:
        raise CtnrError(f"--image-path: {files.join(image_path, common.DESCRIPTORS)}: {error}") from None
    return [{"key": link, "fd": fd} for fd, link in enumerate(links[:3]) if link.startswith(("pipe:", "file["))]


def _namespaces(config: Config, opts: dict[str, Any], fds: launch.Fds) -> None:
    """Namespaces that the config has by path: those of EXTERNAL were left out of the image, others are joined again."""
    opts["join_ns"] = []
    for i, namespace in enumerate((config.get("linux") or {}).get("namespaces") or ()):
        name, path = namespace["type"], namespace.get("path", "")
        field = f"linux.namespaces[{i}]"
        if not path:
            continue
        if name in common.EXTERNAL:
            try:
                fd = fds.add(field, posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC))
            except OSError as error:
                raise SyscallError(f"{field}.path: open", error.errno or 0, path) from None
            opts["inherit_fd"].append({"key": common.EXTERNAL[name][1], "fd": fd})
        elif name in _JOINED:
            opts["join_ns"].append({"ns": _JOINED[name], "ns_file": path})
        else:
            raise SpecError(field, f"CRIU cannot restore a process into an existing {name} namespace")


class _Restoration:
    """One restore, and where it is."""

    def __init__(self, criu: Criu, ctx: Context, opts: dict[str, Any], fds: launch.Fds, log_path: str) -> None:
        self.criu = criu
        self.ctx = ctx
        self.opts = opts
        self.fds = fds
        self.log_path = log_path
        self.worker: Worker | None = None
        self.container: Container

    def run(
        self,
        raw: bytes,
        root: str,
        stdio: tuple[int, int, int],
        pid_file: str | None,
        manager: str,
        rootless: bool,
    ) -> Container:
        ctx = self.ctx
        dir, mark = state.new(root, ctx.id)
        data = creating.new_state(ctx, dir, stdio)
        self.container = container = Container(ctx.id, root, dir, data)
        container._config = ctx.config
        try:
            try:
                dir.write(state.CONFIG, raw)
                group = creating.plan_cgroup(container, ctx, manager, rootless)
                if group is not None and not ctx.cgroup_wait:
                    creating.make_cgroup(container, ctx, group)
                if "intelRdt" in ctx.linux:
                    intelrdt.begin(container, ctx.linux["intelRdt"])
                criu_mounts.prepare(Context(ctx.config, ctx.id, ctx.bundle), ctx.rootfs)
                self._mounts()
                self._criu(stdio, group)
                if "intelRdt" in ctx.linux:
                    intelrdt.join(container.extra["rdt"], container.processes())
                if pid_file:
                    files.write_atomic(pid_file, str(container.pid).encode(), 0o644)
                dir.end(mark)
            except BaseException:
                posix.close(mark)
                raise
        except BaseException:
            self._undo()
            raise
        if "master" in self.fds.by_ref:
            started = container._launch = launch.Launch(p.Plan(), -1)
            started.console_fd = self.fds.by_ref.pop("master")
        return container

    def _undo(self) -> None:
        self._kill()
        creating._undo(self.container)

    def _kill(self) -> None:
        process = self.container._process
        if process is not None:
            try:
                process.kill(_SIGKILL)
            except StateError:
                pass  # CRIU did

    def _mounts(self) -> None:
        try:
            root = criu_mounts.Root(self.ctx.rootfs)
        except OSError as error:
            raise SyscallError("root.path: open", error.errno or 0, self.ctx.rootfs) from None
        try:
            pairs = criu_mounts.external(self.ctx, root)
        finally:
            root.close()
        if self.ctx.linux.get("maskedPaths"):
            pairs.append(("/dev/null", "/dev/null"))
        self.opts["ext_mnt"] = [{"key": name, "val": source} for name, source in pairs]

    def _criu(self, stdio: tuple[int, int, int], group: Cgroup | None) -> None:
        """Run CRIU: in the container's cgroup, and in a mount namespace where the root filesystem is a mount by itself."""
        dir, opts = self.container._dir, self.opts
        place = files.join(dir.path, _ROOT)
        posix.mkdir(_ROOT, 0o700, dir_fd=dir.fd)
        plan = p.Plan()
        plan.clone = CLONE_NEWNS
        plan.add(p.PROPAGATION, "", "/", args=(MS_SLAVE | MS_REC,))
        plan.add(p.HOST_MOUNT, "root.path", self.ctx.rootfs, "", place, None, args=(MS_BIND | MS_REC,))
        opts["root"] = place
        if self.ctx.user_namespace:
            self._cover_images(plan)
        into = -1
        if group is not None:
            opts["cg_root"] = [{"ctrl": name or None, "path": path} for name, path in _relative(self.ctx, group)]
        if group is not None and not self.ctx.cgroup_wait:
            for i, fd in enumerate(group.join_fds()):
                self.fds.add(f"cgroup:{i}", fd)
                plan.add(p.CGROUP, "linux.cgroupsPath", ref=f"cgroup:{i}")
            fd_v2 = group.fd_v2()
            into = -1 if fd_v2 is None else self.fds.add("cgroup", fd_v2)
        inherited = [one["fd"] for one in opts["inherit_fd"] if one["fd"] > 2]
        self.worker = worker = Worker(
            self.criu.path, plan=plan, fds=self.fds, stdio=stdio, inherited=inherited, cgroup_fd=into
        )
        with worker:
            if group is not None and self.ctx.cgroup_wait:
                creating.make_cgroup(self.container, self.ctx, group, worker.pid)  # what it restores is born there
            opts["images_dir_fd"] = self._there(worker.pid, "images")
            if "work" in self.fds.by_ref:
                opts["work_dir_fd"] = self._there(worker.pid, "work")
            if self.ctx.user_namespace:
                self._let_read(opts["images_dir_fd"])
                logs = files.open_dir(f"/proc/{worker.pid}/root{files.join(dir.path, _LOGS)}")
                opts.setdefault("work_dir_fd", self.fds.add("logs", logs))
            answer = worker.call({"type": criu_rpc.RESTORE, "opts": opts}, self._notify)
            if not answer.get("success"):
                worker.end()
                raise explain("restore the container", answer, self.log_path, opts["config_file"])
            code = worker.end()
        if code:
            raise CtnrError(f"criu failed to restore the container: exit status {code} (log file: {self.log_path})")
        if self.container._process is None:
            raise CtnrError("criu did not say which process it restored")
        for name in (_ROOT, _OVER, _LOGS) if self.ctx.user_namespace else (_ROOT,):
            posix.rmdir(name, dir_fd=dir.fd)

    def _cover_images(self, plan: p.Plan) -> None:
        """Let the root of a user namespace read the images: steps of CRIU's mount namespace.

        It opens some of them before and some after it has its ids, and they are root's alone. There they lie below an
        overlay, in which everybody may read them, and nowhere else; nothing is copied. The logs go below it.
        """
        path = posix.readlink(f"/proc/self/fd/{self.fds.by_ref['images']}")
        dir = self.container._dir
        for name in (_OVER, _LOGS):
            posix.mkdir(name, 0o700, dir_fd=dir.fd)
        over = files.join(dir.path, _OVER)
        plan.add(p.HOST_MOUNT, "--image-path", path, "", files.join(dir.path, _LOGS), args=(MS_BIND,))
        plan.add(p.HOST_MOUNT, "--image-path", "tmpfs", "tmpfs", over, "mode=755")
        for name in ("upper", "work"):
            plan.add(p.HOST_MKDIR, "--image-path", f"{over}/{name}", args=(0o755,))
        lower, over = (text.replace("\\", r"\\").replace(",", r"\,").replace(":", r"\:") for text in (path, over))
        data = f"metacopy=on,lowerdir={lower},upperdir={over}/upper,workdir={over}/work"
        plan.add(p.HOST_MOUNT, "--image-path", "overlay", "overlay", path, data)

    def _let_read(self, fd: int) -> None:
        """Let everybody read the files of a directory that is such an overlay."""
        posix.fchmod(fd, 0o755)
        for name in posix.listdir(fd):
            file = posix.open(name, posix.O_PATH | posix.O_NOFOLLOW | posix.O_CLOEXEC, dir_fd=fd)
            try:
                mode = posix.fstat(file).st_mode
                if mode & 0o170000 == 0o100000:
                    posix.chmod(f"/proc/self/fd/{file}", mode & 0o777 | 0o444)
            finally:
                posix.close(file)

    def _there(self, pid: int, ref: str) -> int:
        """A directory as CRIU's mount namespace has it: in ours it could mount nothing."""
        path = posix.readlink(f"/proc/self/fd/{self.fds.by_ref[ref]}")
        return self.fds.add(f"{ref}:there", files.open_dir(f"/proc/{pid}/root{path}"))

    def _notify(self, script: str, pid: int, fds: list[int]) -> None:
        """What CRIU has come to."""
        container = self.container
        if script == "setup-namespaces":
            self._hooks(pid)
        elif script == "post-restore":
            container._process = Process(pid, _native.pidfd_open(pid))
            container._state["pid"] = pid
            container._state["start"] = state.start_time(pid)
            container._state["created"] = state.rfc3339(time_ns())
            container._dir.write_state(container._state)
            self._time_namespace(pid)
        elif script == "pre-resume":
            try:  # all is as it will be, and nothing runs yet
                criu_check.check(container.config, container.pid)
            except BaseException:
                self._kill()
                if self.worker is not None:  # it would let them go on, whatever it is told
                    self.worker.kill()
                raise
        elif script == "orphan-pts-master" and fds:
            socket = self.fds.by_ref.get("console")
            if socket is not None:
                _native.sendmsg(socket, b"/dev/ptmx", [fds[0]])
            else:
                self.fds.add("master", fds.pop(0))

    def _time_namespace(self, pid: int) -> None:
        """CRIU makes one, so that clocks go on where they stopped: who joins the container later needs it too."""
        container, config = self.container, self.container.config
        linux = config.get("linux") or {}
        have = linux.get("namespaces") or []
        if any(n["type"] == "time" for n in have):
            return
        try:
            if posix.readlink(f"/proc/{pid}/ns/time") == posix.readlink("/proc/self/ns/time"):
                return
        except OSError:
            return  # a kernel without them
        container._config = {**config, "linux": {**linux, "namespaces": [*have, {"type": "time"}]}}
        container._dir.write(state.CONFIG, jsonio.dumps(container._config).encode("utf-8", "surrogateescape"))

    def _hooks(self, pid: int) -> None:
        config = self.container.config
        if any(n["type"] == "network" and not n.get("path") for n in self.ctx.linux.get("namespaces") or ()):
            _loopback(pid)
        hooks = config.get("hooks") or {}
        if hooks.get("prestart") or hooks.get("createRuntime"):
            from ctnr.runtime import hooks as runner

            document = {**self.container._document("creating"), "pid": pid}
            runner.run(config, "prestart", document)
            runner.run(config, "createRuntime", document)


def _relative(ctx: Context, group: Cgroup) -> list[tuple[str, str]]:
    """Each controller's cgroup as a path in its hierarchy, as CRIU has it."""
    layout = ctx.cgroup_layout()
    found = []
    for name, path in group.paths.items():
        point = layout.v1[name] if name else layout.unified or ""
        found.append((name, path[len(point) :] or "/"))
    return found


def _loopback(pid: int) -> None:
    """Bring lo up in a network namespace: it is in no image, as all devices."""
    plan = p.Plan()
    plan.add(p.JOIN, "linux.namespaces", args=(CLONE_NEWNET,), ref="net")
    plan.add(p.LOOPBACK, "linux.namespaces")
    fds = launch.Fds()
    try:
        fds.add("net", posix.open(f"/proc/{pid}/ns/net", posix.O_RDONLY | posix.O_CLOEXEC))
        carry_out(plan, fds)
    finally:
        fds.close()
