# SPDX-License-Identifier: Apache-2.0
"""A container's cgroup, on v1, v2 and hybrid machines: made, limited, joined, frozen, killed, removed.

HOT: imported by every verb that has a cgroup. This module is the whole interface; the others of this package are its
parts: `layout` (what is mounted, where things go), `resources` (what is asked for), `v1` and `v2` (how it is written),
`devices` (the device policy), `dirs` (directories and files), `killing` (signals to all), `journal` (updates taken back).

Joining costs: a write of a pid to cgroup.procs takes a lock that first waits for an RCU grace period, some 10 ms. Two
ways do not: CLONE_INTO_CGROUP (v2: fd_v2()), and a process with one thread that writes "0" to v1 `tasks` files itself
(join_fds(); Linux 5.18). attach() is for everything else.
"""

from __future__ import annotations

from errno import EACCES, EPERM
from posix import O_CLOEXEC, O_DIRECTORY, O_PATH, O_WRONLY, close, open

from ctnr.errors import CtnrError, SpecError, SyscallError
from ctnr.runtime.cgroups import dirs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    from ctnr.runtime.cgroups.layout import Layout

    Resources = Mapping[str, Any]

_SIGKILL = 9


class Cgroup:
    """A container's cgroup: one directory in each hierarchy.

    `paths`: controller, `name=...` or "" (cgroup2) -> absolute directory. `created`: the directories that create() made,
    which are all that delete() removes. `manager`: "cgroupfs" or "systemd". `sub`: where below the directories the
    container's processes are ("": right there). These belong in the container's state: load() takes what note() gives.
    """

    __slots__ = ("created", "manager", "paths", "rootless", "sub")

    def __init__(self, paths: Mapping[str, str], manager: str, created: Iterable[str], rootless: bool) -> None:
        self.paths = dict(paths)
        self.manager = manager
        self.created = list(created)
        self.rootless = rootless
        self.sub = ""

    @property
    def joined_by_parent(self) -> bool:
        """Whether a new process, which may not join by itself, waits to be put in: by attach(), the first one by create()."""
        return False

    def note(self) -> dict[str, Any]:
        """What load() wants to know beside `created`."""
        return {"paths": self.paths, "manager": self.manager, "rootless": self.rootless, "sub": self.sub}

    def inner(self, sub: str = "") -> str:
        """What the container's processes add to a directory's path, or those `sub` levels below. Raises SpecError."""
        return _sub(self.sub) + _sub(sub)

    # --- making and limiting

    def _vet(self, existing: list[str]) -> None:
        """Refuse a cgroup that others may be in: there already, and not empty or frozen. Raises CtnrError, SyscallError.

        Source: runtime-spec config-linux.md#control-groups ("fit for purpose"); the words are runc's.
        """
        for path in existing:
            pids = dirs.pids(path)
            if pids:
                raise CtnrError(f"container's cgroup is not empty: {len(pids)} process(es) found in {path}")
            if path in (self.paths.get("freezer"), self.paths.get("")) and self.frozen():
                raise CtnrError(f"container's cgroup unexpectedly frozen: {path}")

    def create(
        self, resources: Resources | None = None, devices: Sequence[Mapping[str, Any]] = (), pid: int = 0
    ) -> None:
        """Make the directories and write the limits; nothing is left behind on failure. `pid`: see joined_by_parent.

        `resources` and `devices` are `linux.resources` and `linux.devices`. A cgroup that is there already must be
        empty and not frozen. After a failure `paths` is empty: what is there may be somebody else's, and kill() must
        not reach it. Raises SpecError, SyscallError, CtnrError.
        """
        resources = resources or {}
        made: list[str] = []
        try:
            self._check(resources)
            existing = [path for path in self._directories() if not dirs.make(path, made)]
            self._vet(existing)
            dirs.unmask(made)
            self.created = [path for path in self._directories() if path in made]
            if "cpuset" in self.paths:
                from ctnr.runtime.cgroups import v1

                v1.cpuset_start(self.paths["cpuset"], resources)
            self._make_sub(made)
            self._write(resources, True)
            self._enable_sub()
            if not self.rootless:
                self._set_devices(resources, devices, existing)
        except BaseException as e:
            self.created = []
            self.paths = {}
            dirs.unmake(made)
            if isinstance(e, OSError):
                raise dirs.setup_error(e) from e
            raise

    def _make_sub(self, made: list[str]) -> None:
        if self.sub:
            for path in self._directories():
                dirs.make(path + self.inner(), made)
            dirs.unmask(made)

    def _enable_sub(self) -> None:
        # only now: no controller is passed on by a cgroup that has processes of its own
        if self.sub and "" in self.paths:
            from ctnr.runtime.cgroups import v2

            v2.enable(self.paths[""] + self.inner(), {}, True)

    def apply(self, resources: Resources, before: Resources | None = None) -> None:
        """Change the limits of a cgroup that exists (`update`): those that `resources` names, all of them or none.

        `before`: `linux.resources` as they were, for a value that depends on one of them. The device list stays as it
        is: see allow(). Raises SpecError, SyscallError.
        """
        from ctnr.runtime.cgroups.journal import Journal
        from ctnr.runtime.cgroups.resources import complete

        self._check(resources)
        journal = Journal()
        try:
            self._write(complete(resources, before or {}), False, journal.open)
        except BaseException as e:
            journal.undo()
            if isinstance(e, OSError):
                raise dirs.setup_error(e) from e
            raise

    def allow(self, rules: Sequence[Mapping[str, Any]], nodes: Sequence[Mapping[str, Any]] = ()) -> None:
        """Replace the device list: `linux.resources.devices`, and `linux.devices` as in create().

        Raises SpecError, SyscallError, CtnrError.
        """
        self._set_devices({"devices": rules}, nodes, self._directories())

    def _directories(self) -> list[str]:
        # co-mounted controllers share a directory
        return list(dict.fromkeys(self.paths.values()))

    def _on_v1(self, controller: str) -> str | None:
        # where v1 has the controller of that (v2) name
        return self.paths.get("blkio" if controller == "io" else controller)

    def _check(self, resources: Resources) -> None:
        """Refuse, before anything is made, what no hierarchy here could do."""
        from ctnr.runtime.cgroups.resources import UNIFIED, V1_ONLY, unavailable, wanted

        for controller, field in wanted(resources).items():
            if self._on_v1(controller) is None and ("" not in self.paths or controller in V1_ONLY):
                raise unavailable(controller, field, self.rootless)
        if resources.get("unified") and "" not in self.paths:
            raise SpecError(UNIFIED, "cannot use unified on cgroup v1: no cgroup2 is mounted")

    def _write(self, resources: Resources, new: bool, open_dir: Callable[[str], dirs.Dir] = dirs.Dir) -> None:
        unified = self.paths.get("")
        hybrid = len(self.paths) > 1
        if hybrid or unified is None:
            from ctnr.runtime.cgroups import v1

            for controller, path in self.paths.items():
                if not (new and controller == "cpuset"):  # cpuset_start() has done it
                    v1.apply(controller, path, resources, open_dir)
        if unified is not None:
            from ctnr.runtime.cgroups import v2
            from ctnr.runtime.cgroups.resources import wanted, wanted_unified

            want = {name: field for name, field in wanted(resources).items() if self._on_v1(name) is None}
            want |= wanted_unified(resources)
            # a hybrid machine's cgroup2 is somebody's choice to leave the controllers on v1: no more than is needed
            have = v2.enable(unified, want, not hybrid) if new else v2.controllers(unified, want)
            if new:
                v2.settle_type(unified, want)
            v2.apply(unified, resources, have, self.paths, open_dir)

    def _set_devices(self, resources: Resources, nodes: Sequence[Mapping[str, Any]], existing: list[str]) -> None:
        from ctnr.runtime.cgroups import devices

        target = devices.policy(resources.get("devices") or (), nodes)
        if "devices" in self.paths:
            from ctnr.runtime.cgroups import v1

            v1.set_devices(self.paths["devices"], target)
        elif "" in self.paths:
            from ctnr.runtime.cgroups import v2

            v2.set_devices(self.paths[""], target, fresh=self.paths[""] not in existing)
        else:
            raise SpecError(devices.FIELD, "no devices controller is mounted, and without one any device can be opened")

    # --- joining

    def _inner(self, sub: str | Mapping[str, str]) -> dict[str, str]:
        # what is to be appended to each directory: one path for all, or one for each controller
        if isinstance(sub, str):
            return dict.fromkeys(self.paths.values(), self.inner(sub))
        found: dict[str, str] = {}
        for name, path in sub.items():
            directory = self.paths.get(name)
            if directory is None:
                known = ", ".join(name for name in self.paths if name)
                raise CtnrError(f"--cgroup: unknown controller {name!r}, the container has: {known or 'none'}")
            if found.setdefault(directory, self.inner(path)) != self.inner(path):
                raise CtnrError(f"--cgroup: {name} is in one hierarchy with a controller that has another path")
        return {path: found.get(path, self.inner()) for path in self.paths.values()}

    def join_fds(self, sub: str | Mapping[str, str] = "", unified: bool = False) -> list[int]:
        """Files into which a new process with a single thread writes "0" to put itself into the v1 hierarchies.

        With `unified` also into cgroup2 (the last one; costly), where CLONE_INTO_CGROUP cannot be had. This open checks the
        permission, whoever writes. A new cgroup namespace is for afterwards. The caller closes the fds. Raises SpecError.
        """
        inner = self._inner(sub)
        fds: list[int] = []
        below = self.paths.get("")
        files = [f"{path}{inner[path]}/tasks" for path in self._directories() if path != below]
        if unified and below is not None:
            files.append(f"{below}{inner[below]}/cgroup.procs")
        try:
            for file in files:
                fds.append(open(file, O_WRONLY | O_CLOEXEC))
        except OSError as e:
            for fd in fds:
                close(fd)
            raise SyscallError("join the cgroup", e.errno or 0, file) from e
        return fds

    def fd_v2(self, sub: str | Mapping[str, str] = "", init: int = 0) -> int | None:
        """The cgroup2 directory as an fd for CLONE_INTO_CGROUP, None where there is none. The caller closes it.

        `init`: the pid of the container's first process, for when a clone into the container's own cgroup failed with
        EBUSY: the container has moved its processes further down, and the new one goes to where the first is now.
        Raises SpecError, SyscallError.
        """
        path = self.paths.get("")
        if path is None:
            return None
        path += self._inner(sub)[path]
        if init:
            from ctnr.runtime.cgroups import moving

            path = moving.whereabouts(init, self.paths[""]) or path
        try:
            return open(path, O_PATH | O_DIRECTORY | O_CLOEXEC)
        except OSError as e:
            raise SyscallError("open the cgroup", e.errno or 0, path) from e

    def attach(self, pid: int, sub: str | Mapping[str, str] = "") -> None:
        """Move a process into every hierarchy, `sub` levels below where given. Costs an RCU grace period (see above).

        Raises SpecError for a `sub` that leads elsewhere, CtnrError, SyscallError.
        """
        from ctnr.runtime.cgroups import moving

        moving.add(pid, [path + inner for path, inner in self._inner(sub).items()])

    def pids(self) -> list[int]:
        """The processes in the cgroup and below, sorted. Raises SyscallError."""
        if not self.paths:
            return []
        path = self._main()
        try:
            return dirs.pids(path)
        except OSError as e:
            raise SyscallError("list the processes of the cgroup", e.errno or 0, path) from e

    def oom_killed(self) -> bool:
        """Whether the kernel has killed a process of it for want of memory. Raises SyscallError."""
        if "memory" in self.paths:
            file = self.paths["memory"] + "/memory.oom_control"
        else:
            file = self.paths.get("", "") + "/memory.events"
        try:
            counts = dict(line.split() for line in dirs.read(file).splitlines())
        except FileNotFoundError:
            return False  # no memory controller
        except OSError as e:
            raise SyscallError("read", e.errno or 0, file) from e
        return counts.get("oom_kill", "0") != "0"

    def _main(self) -> str:
        # all hierarchies hold the same processes; cgroup2's is the one others read too
        return next(self.paths[name] for name in ("", "devices", *self.paths) if name in self.paths)

    # --- stopping

    def _freezer(self) -> tuple[Any, str] | None:
        # v1's where there is one: cgroup2's would do too, but v1 tools would not see it
        if "freezer" in self.paths:
            from ctnr.runtime.cgroups import v1

            return v1, self.paths["freezer"]
        if "" in self.paths:
            from ctnr.runtime.cgroups import v2

            return v2, self.paths[""]
        return None

    def freezer_file(self) -> str:
        """The file that reads 1 while the cgroup is frozen; "" without a freezer."""
        where = next((name for name in ("freezer", "") if name in self.paths), None)
        return "" if where is None else self.paths[where] + ("/freezer.self_freezing" if where else "/cgroup.freeze")

    def freeze(self) -> None:
        """Stop all processes where they are; returns when all have stopped. Raises SyscallError, CtnrError."""
        module, path = self._freezer() or dirs.no_freezer()
        module.freeze(path)

    def thaw(self) -> None:
        """Let them run on. Raises SyscallError, CtnrError."""
        module, path = self._freezer() or dirs.no_freezer()
        module.thaw(path)

    def frozen(self) -> bool:
        """Whether freeze() was called last. False without a freezer or when the cgroup is gone. Raises SyscallError."""
        freezer = self._freezer()
        return freezer is not None and bool(freezer[0].frozen(freezer[1]))

    def kill(self, signal: int = _SIGKILL) -> None:
        """Send a signal to every process in the cgroup and below, none escaping by forking meanwhile.

        SIGKILL ends a pause, other signals wait for its end. Returns before the processes are gone. Raises SyscallError.
        """
        if signal == _SIGKILL and "" in self.paths:
            from ctnr.runtime.cgroups import v2

            if v2.kill(self.paths[""]):
                if "freezer" in self.paths and dirs.exists(self.paths["freezer"]):
                    self.thaw()  # v1 holds even the killed
                return
        pids = self.pids()
        if not pids:
            return
        from ctnr.runtime.cgroups import killing

        paused = self.frozen()
        try:
            self.freeze()
        except CtnrError:
            killing.running(signal, self.pids, self._main())
            return
        try:
            # frozen, a pid cannot be another process' by now
            killing.send(signal, self.pids(), self._main())
        finally:
            if not paused or signal == _SIGKILL:
                self.thaw()

    # --- ownership and the end

    def chown(self, uid: int, gid: int) -> bool:
        """Give the cgroup to the container's user (host ids): cgroup2 only, as v1 is not safe to delegate.

        Call it where layout.wants_owner() says so. Returns False, with nothing changed, where any v1 hierarchy is in use, and
        where a rootless caller may not. Raises SyscallError. Source: runtime-spec config-linux.md#cgroup-ownership.
        """
        if set(self.paths) != {""}:
            return False
        from ctnr.runtime.cgroups import v2

        try:
            v2.chown(self.paths[""] + self.inner(), uid, gid)
        except SyscallError as e:
            if self.rootless and e.errno == EPERM:
                return False
            raise
        return True

    def delete(self, timeout: float = dirs.REMOVE_TIMEOUT) -> None:
        """Remove what create() made and what the container made below it; what is gone already is no error.

        Dying processes are waited for, up to `timeout` seconds. Raises SyscallError when all was tried and some is left.
        """
        failed: CtnrError | None = None
        for path in self.created:
            try:
                dirs.remove(path, timeout)
            except CtnrError as e:
                failed = e
                timeout = 0.0  # the others are held by the same processes
        if failed is not None:
            raise failed


def new(
    cgroups_path: str | None,
    id: str,
    rootless: bool = False,
    manager: str = "cgroupfs",
    resources: Resources | None = None,
    where: Layout | None = None,
    lenient: bool = False,
    annotations: Mapping[str, str] | None = None,
) -> Cgroup | None:
    """The cgroup a container is to get, not made yet; None where the user may have none and asks for nothing but devices.

    `cgroups_path`, `resources`, `annotations`: as the config has them; `rootless`: the caller has no power over the
    machine's cgroups but what was delegated; `lenient`: None also where it asks for more; `where`: for tests.
    Raises SpecError, SyscallError, CtnrError.
    """
    from ctnr.runtime.cgroups.layout import annotated_sub, annotation, layout

    sub = annotated_sub(manager, annotations, where) if annotations else ""
    if manager == "systemd":
        from ctnr.runtime.cgroups import systemd

        group: Cgroup | None = systemd.new(cgroups_path, id, rootless, where or layout(), annotations or {})
    else:
        group = _new(cgroups_path, id, rootless, manager, resources or {}, where, lenient)
    if group is None and sub:
        raise SpecError(annotation("delegate-cgroup"), "needs a cgroup, and the container gets none")
    if group is not None:
        group.sub = sub
    return group


def _new(
    path: str | None, id: str, rootless: bool, manager: str, resources: Resources, where: Layout | None, lenient: bool
) -> Cgroup | None:
    from ctnr.runtime.cgroups.layout import FIELD, delegated, layout, place
    from ctnr.runtime.cgroups.resources import wanted, wanted_unified

    asked = next(iter((*wanted(resources).values(), *wanted_unified(resources).values())), None)
    if manager == "disabled":
        if asked:
            raise SpecError(asked, "needs a cgroup, and --cgroup-manager disabled rules that out")
        return None
    if manager != "cgroupfs":
        raise CtnrError(f"--cgroup-manager: {manager!r} is not one of cgroupfs, systemd, disabled")
    here = where or layout()
    paths = place(here, path, id)
    if not rootless:
        mounted = [*here.v1, *([""] if here.unified is not None else [])]
        if not mounted:
            raise CtnrError(
                "no cgroup file system is mounted: mount cgroup2 on /sys/fs/cgroup, or use --cgroup-manager disabled"
            )
        for name in mounted:
            if name not in paths:
                what = f"{name} cgroup" if name else "cgroup"
                raise CtnrError(f"{FIELD}: must be absolute here: the caller's own {what} is not below the mount point")
        return Cgroup(paths, manager, (), rootless)
    allowed = delegated(here, paths, path or id)
    if allowed:
        return Cgroup(allowed, manager, (), rootless)
    if not path and (not asked or lenient):
        return None
    from ctnr.runtime.cgroups.v2 import DELEGATE

    field = FIELD if path else asked
    there = paths.get("") or next(iter(paths.values()), "")
    raise SyscallError(f"{field}: create the cgroup", EACCES, there, DELEGATE)


def load(
    paths: Mapping[str, str],
    created: Iterable[str] | None = None,
    manager: str = "cgroupfs",
    rootless: bool = False,
    *,
    sub: str = "",
    unit: str = "",
    user: bool = False,
) -> Cgroup:
    """The cgroup of a container from its state: what note() gave, and `created` (None: create was killed, all may be)."""
    if manager == "systemd":
        from ctnr.runtime.cgroups.systemd import SystemdCgroup

        group: Cgroup = SystemdCgroup(paths, created or (), rootless, unit, user)
    else:
        group = Cgroup(paths, manager, dict.fromkeys(paths.values()) if created is None else created, rootless)
    group.sub = sub
    return group


def _sub(sub: str) -> str:
    # "/a/b" for a cgroup below the container's own (exec --cgroup), "" for its own
    if not sub:
        return ""
    from ctnr.runtime.cgroups.layout import components

    return "".join("/" + name for name in components(sub, "--cgroup"))
