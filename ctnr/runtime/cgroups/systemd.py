# SPDX-License-Identifier: Apache-2.0
"""Cgroups by systemd: a transient scope for each container, made over D-Bus. HOT: loaded with that manager only.

A scope is made around a process, so the container's init is started first and waits (PHASE_CGROUP) until it is in. systemd
makes the directories; the limits are written there too, see `properties`. The words of errors that callers know are runc's.
"""

from __future__ import annotations

import posix
from errno import ENOENT

from ctnr import files
from ctnr.errors import CtnrError, SpecError, SyscallError
from ctnr.runtime import dbus
from ctnr.runtime.cgroups import Cgroup, dirs, moving, properties
from ctnr.runtime.cgroups.layout import FIELD, components
from ctnr.runtime.dbus import DBusError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from ctnr.runtime.cgroups.layout import Layout
    from ctnr.runtime.cgroups.properties import Property

    Resources = Mapping[str, Any]

NAME, PATH = "org.freedesktop.systemd1", "/org/freedesktop/systemd1"
_MANAGER = NAME + ".Manager"
_NO_SUCH_UNIT = NAME + ".NoSuchUnit"
_UNIT_EXISTS = NAME + ".UnitExists"
_READ_ONLY = "org.freedesktop.DBus.Error.PropertyReadOnly"

# systemd.unit(5)
_ALLOWED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:-_.\\")
_MAX_NAME = 255
# What a scope always has: statistics of everything, and nothing that stops it with the machine's other units
_ALWAYS: tuple[Property, ...] = (
    ("Delegate", ("b", True)),
    ("MemoryAccounting", ("b", True)),
    ("CPUAccounting", ("b", True)),
    ("TasksAccounting", ("b", True)),
    ("DefaultDependencies", ("b", False)),
    # killed, it would otherwise stay, as failed, until somebody looks
    ("CollectMode", ("s", "inactive-or-failed")),
)


# --- systemd


def user_instance() -> bool:
    """Whether the user's systemd is the one to talk to: for all but root; root of a user namespace may be neither."""
    if posix.geteuid() != 0:
        return True
    from ctnr.runtime.state import in_user_namespace

    if not in_user_namespace():
        return False
    try:  # a container that has a systemd of its own, or `podman unshare`
        return posix.stat("/run/systemd/private").st_uid != 0
    except OSError:
        return True


class Manager:
    """systemd, the machine's or the user's. Raises DBusError, CtnrError where there is none."""

    __slots__ = ("_bus", "_to", "user")

    def __init__(self, user: bool) -> None:
        self.user = user
        addresses = _addresses(user)
        failed: Exception | None = None
        for address, private in addresses:
            try:
                self._bus = dbus.connect(address, not private)
                self._to = "" if private else NAME
                break
            except (OSError, CtnrError) as error:
                failed = error
        else:
            which = "the user's systemd" if user else "systemd"
            hint = ": dbus-user-session and a login session, or loginctl enable-linger, provide it" if user else ""
            why = _words(failed) if failed else "neither DBUS_SESSION_BUS_ADDRESS nor XDG_RUNTIME_DIR leads to it"
            raise CtnrError(f"--systemd-cgroup: failed to connect to {which} by D-Bus: {why}{hint}") from None
        if self._to:
            # of all units, as runc and crun: the path of the job is not known before the call
            match = f"type='signal',sender='{NAME}',path='{PATH}',interface='{_MANAGER}',member='JobRemoved'"
            bus = "org.freedesktop.DBus"
            self._bus.call(bus, "/org/freedesktop/DBus", bus, "AddMatch", "s", (match,))

    def close(self) -> None:
        self._bus.close()

    def __enter__(self) -> Manager:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _call(self, member: str, signature: str, args: Sequence[Any]) -> dbus.Message:
        return self._bus.call(self._to, PATH, _MANAGER, member, signature, args)

    def property(self, name: str) -> Any:
        """A property of the manager itself."""
        get = "org.freedesktop.DBus.Properties"
        reply = self._bus.call(self._to, PATH, get, "Get", "ss", (_MANAGER, name))
        try:
            ((_, value),) = reply.body
        except ValueError:
            raise DBusError(f"systemd answered nonsense when asked for {name}") from None
        return value

    def _job(self, member: str, signature: str, args: Sequence[Any]) -> str:
        """Call what starts a job and wait for its end: systemd's word for the result."""
        from time import monotonic

        self._bus.signals.clear()
        reply = self._call(member, signature, args)
        job = reply.body[0] if reply.body else ""
        end = monotonic() + self._bus.timeout
        while True:
            body = self._bus.signal(_MANAGER, "JobRemoved", dbus.sender(reply), end).body
            if len(body) == 4 and body[1] == job:
                return str(body[3])

    def start(self, unit: str, wanted: Sequence[Property], optional: Iterable[str]) -> None:
        """Make and start a transient unit. `optional` are properties which an older systemd may not know."""
        wanted = list(wanted)
        reset = False
        while True:
            try:
                result = self._job("StartTransientUnit", "ssa(sv)a(sa(sv))", (unit, "fail", wanted, ()))
                break
            except DBusError as error:
                if error.name == _UNIT_EXISTS and not reset:
                    # perhaps a failed one of the same name that nobody has looked at
                    reset = True
                    self.reset_failed(unit)
                    continue
                unknown = [p for p in wanted if error.name == _READ_ONLY and p[0] in optional and p[0] in str(error)]
                if not unknown:
                    raise CtnrError(f"unable to start unit {unit!r}: {error}") from None
                wanted = [p for p in wanted if p not in unknown]
        if result != "done":
            self.reset_failed(unit)
            raise CtnrError(f"error creating systemd unit `{unit}`: got `{result}`")

    def stop(self, unit: str) -> None:
        """Stop a unit and let systemd forget it. One that is gone is no error."""
        try:
            self._job("StopUnit", "ss", (unit, "replace"))
        except DBusError as error:
            if error.name != _NO_SUCH_UNIT:
                raise CtnrError(f"unable to stop unit {unit!r}: {error}") from None
        self.reset_failed(unit)

    def reset_failed(self, unit: str) -> None:
        try:
            self._call("ResetFailedUnit", "s", (unit,))
        except DBusError as error:
            if not error.name.startswith((NAME, "org.freedesktop.DBus.Error.")):
                raise  # no answer; any answer says that there is nothing to reset

    def set(self, unit: str, wanted: Sequence[Property]) -> None:
        """Change properties of a unit, until the next boot."""
        try:
            self._call("SetUnitProperties", "sba(sv)", (unit, True, wanted))
        except DBusError as error:
            raise CtnrError(f"unable to set unit properties: {unit}: {error}") from None

    def attach(self, unit: str, sub: str, pid: int) -> None:
        """Move a process into a unit's cgroup, or one below it."""
        try:
            self._call("AttachProcessesToUnit", "ssau", (unit, sub, (pid,)))
        except DBusError as error:
            raise CtnrError(f"unable to add process {pid} to unit {unit!r}: {error}") from None


def _words(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{error.filename}: {posix.strerror(error.errno or 0).lower()}"
    return str(error)


def _addresses(user: bool) -> list[tuple[str, bool]]:
    """Where systemd may be: D-Bus addresses, and whether it is systemd itself that listens there, not a bus."""
    if not user:
        return [
            ("unix:path=/run/systemd/private", True),
            (files.getenv("DBUS_SYSTEM_BUS_ADDRESS") or "unix:path=/run/dbus/system_bus_socket", False),
        ]
    address = files.getenv("DBUS_SESSION_BUS_ADDRESS")
    if address:
        return [(address, False)]
    runtime = files.getenv("XDG_RUNTIME_DIR")
    if not runtime:
        return []
    escaped = "".join(c if c.isascii() and (c.isalnum() or c in "-_/.") else _percent(c) for c in runtime)
    return [(f"unix:path={escaped}/systemd/private", True), (f"unix:path={escaped}/bus", False)]


def _percent(c: str) -> str:
    return "".join(f"%{byte:02x}" for byte in files.fsencode(c))


# --- names


def unit_and_slice(cgroups_path: str | None, id: str, user: bool) -> tuple[str, str]:
    """The scope's name and its slice's: linux.cgroupsPath is `slice:prefix:name`. Raises SpecError."""
    slice, prefix, name = "", "ctnr", id.replace("+", "\\x2b")
    if cgroups_path:
        parts = cgroups_path.split(":")
        if len(parts) != 3:
            why = f'expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups, got "{cgroups_path}" instead'
            raise SpecError(FIELD, why)
        slice, prefix, name = parts
        if name.endswith(".slice"):
            raise SpecError(FIELD, f"{name} is a slice, which has no processes of its own: name a scope")
        if not name:
            raise SpecError(FIELD, f"{cgroups_path!r} has no name")
    unit = f"{prefix}-{name}.scope"
    if not _ALLOWED.issuperset(unit) or len(unit) > _MAX_NAME or unit.startswith("."):
        why = f"{unit!r} is no name of a unit: letters, digits and : - _ . \\ only, {_MAX_NAME} at most"
        raise SpecError(FIELD, why)
    slice = slice or ("user.slice" if user else "system.slice")
    slice_path(slice)
    return unit, slice


def slice_path(slice: str) -> str:
    """Where a slice is: `a-b.slice` is /a.slice/a-b.slice, `-.slice` the root, "". Raises SpecError."""
    name = slice.removesuffix(".slice")
    if name == slice or not _ALLOWED.issuperset(slice) or len(slice) > _MAX_NAME:
        raise SpecError(FIELD, f"invalid slice name: {slice}")
    if name == "-":
        return ""
    parts = name.split("-")
    if "" in parts:
        raise SpecError(FIELD, f"invalid slice name: {slice}")
    return "".join(f"/{'-'.join(parts[: i + 1])}.slice" for i in range(len(parts)))


# --- the cgroup


class SystemdCgroup(Cgroup):
    """A container's cgroup that is a systemd scope, `unit`; `user`: of the user's systemd."""

    __slots__ = ("_annotated", "_id", "_manager", "slice", "unit", "user")

    def __init__(self, paths: Mapping[str, str], created: Iterable[str], rootless: bool, unit: str, user: bool) -> None:
        super().__init__(paths, "systemd", created, rootless)
        self.unit = unit
        self.user = user
        self.slice = ""
        self._id = ""
        self._annotated: list[Property] = []
        self._manager: Manager | None = None

    @property
    def joined_by_parent(self) -> bool:
        """Whether a new process waits to be put in: the first one, and, of users outside of what systemd has delegated to
        them (a login session), any. Others join by themselves.
        """
        if not self.created:
            return True
        if not self.user or "" not in self.paths:
            return False
        from ctnr.runtime.cgroups.layout import layout, may_move

        own = layout().own.get("")
        return own is None or not may_move(self.paths[""], own)

    def note(self) -> dict[str, Any]:
        return {**super().note(), "unit": self.unit, "user": self.user}

    def _connected(self) -> Manager:
        if self._manager is None:
            self._manager = Manager(self.user)
        return self._manager

    def _done(self) -> None:
        if self._manager is not None:
            self._manager.close()
            self._manager = None

    def create(
        self, resources: Resources | None = None, devices: Sequence[Mapping[str, Any]] = (), pid: int = 0
    ) -> None:
        """Have systemd make the scope around the process `pid`, and write the limits; nothing is left behind on failure.

        Raises SpecError, SyscallError, CtnrError.
        """
        resources = resources or {}
        v2 = set(self.paths) == {""}
        try:
            self._check(resources)
            limits = properties.resource_properties(resources, v2)
            if not self.rootless:
                limits += self._device_properties(resources, devices)
            wanted = [
                ("Description", ("s", f"ctnr container {self._id}")),
                ("Slice", ("s", self.slice)),
                ("PIDs", ("au", (pid,))),
                *_ALWAYS,
                ("IOAccounting" if v2 else "BlockIOAccounting", ("b", True)),
                *limits,
                *self._annotated,
            ]
            optional = {name for name, _ in limits} | {"CollectMode"}
            self._connected().start(self.unit, wanted, optional)
            try:
                self._complete(resources, devices, pid)
            except BaseException:
                self.kill()  # the init: as pid 1 it does not hear systemd's SIGTERM
                self._remove()
                raise
        except BaseException as error:
            self.created = []
            self.paths = {}
            if isinstance(error, OSError):
                raise dirs.setup_error(error) from error
            raise
        finally:
            self._done()

    def _complete(self, resources: Resources, devices: Sequence[Mapping[str, Any]], pid: int) -> None:
        """What systemd does not: the hierarchies and limits that it has nothing to do with, exact values, errors."""
        self.created = self._directories()
        unified = self.paths.get("")
        if unified is not None and pid not in dirs.pids(unified):
            raise CtnrError(f"systemd did not put process {pid} of {self.unit} into {unified}")
        for path in self.created:
            dirs.make(path, [])
        self._make_sub([])
        if "cpuset" in self.paths:
            from ctnr.runtime.cgroups import v1

            v1.cpuset_start(self.paths["cpuset"], resources)
        for path in self.created:
            if self.sub or pid not in dirs.pids(path):
                moving.add(pid, (path + self.inner(),))
        self._write(resources, True)
        self._enable_sub()
        if not self.rootless:
            self._set_devices(resources, devices, [])

    def _device_properties(self, resources: Resources, nodes: Sequence[Mapping[str, Any]]) -> list[Property]:
        from ctnr.runtime.cgroups import devices

        return properties.device_properties(devices.policy(resources.get("devices") or (), nodes))

    def attach(self, pid: int, sub: str | Mapping[str, str] = "") -> None:
        """Have systemd move one more process in. Raises SpecError, CtnrError."""
        inner = self._inner(sub)[self._main()]
        try:
            self._connected().attach(self.unit, inner or "/", pid)
        finally:
            self._done()

    def apply(self, resources: Resources, before: Resources | None = None) -> None:
        """See Cgroup.apply(); systemd is told first, what it says is written over by exact values."""
        from ctnr.runtime.cgroups.resources import complete

        self._check(resources)
        v2 = set(self.paths) == {""}
        self._tell(properties.resource_properties(complete(resources, before or {}), v2))
        try:
            super().apply(resources, before)
        except BaseException:
            # what was there before, as far as it was said: the files are as they were
            self._tell(properties.resource_properties(before or {}, v2))
            raise

    def allow(self, rules: Sequence[Mapping[str, Any]], nodes: Sequence[Mapping[str, Any]] = ()) -> None:
        """See Cgroup.allow(). On v1 systemd clears the list before it writes it: frozen, the container does not notice."""
        told = self._device_properties({"devices": rules}, nodes)
        frozen = "devices" not in self.paths or "freezer" not in self.paths or self.frozen()
        if not frozen:
            self.freeze()
        try:
            self._tell(told)
            super().allow(rules, nodes)
        finally:
            if not frozen:
                self.thaw()

    def _tell(self, wanted: list[Property]) -> None:
        if wanted:
            try:
                self._connected().set(self.unit, wanted)
            finally:
                self._done()

    def _remove(self) -> None:
        failed: CtnrError | None = None
        try:
            self._connected().stop(self.unit)
        except CtnrError as error:
            failed = error
        finally:
            self._done()
        super().delete()
        if failed is not None:
            raise failed

    def delete(self, timeout: float = dirs.REMOVE_TIMEOUT) -> None:
        """Stop the scope and remove what is left of it. Raises SyscallError, CtnrError when all was tried.

        One that was only planned may be another's: that goes by itself, with the init that was its only process.
        """
        if self.created:
            self._remove()
        else:
            dirs.unmake(self._directories())


def new(
    cgroups_path: str | None, id: str, rootless: bool, where: Layout, annotations: Mapping[str, str]
) -> SystemdCgroup:
    """The scope that a container is to get, not made yet. Raises SpecError, CtnrError."""
    if not _booted():
        raise CtnrError("systemd not running on this host, cannot use systemd cgroups manager")
    user = user_instance()
    unit, slice = unit_and_slice(cgroups_path, id, user)
    annotated = properties.annotated(annotations)
    mounts = dict(where.v1)
    if where.unified is not None:
        mounts[""] = where.unified
    if user and where.mode != "v2":
        raise CtnrError("cannot use rootless systemd cgroups manager on cgroup v1")
    if not mounts:
        raise CtnrError("no cgroup file system is mounted: mount cgroup2 on /sys/fs/cgroup")
    manager = Manager(user)
    top = ""
    if user:
        try:
            names = components(str(manager.property("ControlGroup")), "--systemd-cgroup")
        except BaseException:
            manager.close()
            raise
        top = "".join("/" + name for name in names)
    inner = f"{top}{slice_path(slice)}/{unit}"
    paths = {name: point + inner for name, point in mounts.items()}
    group = SystemdCgroup(paths, (), rootless, unit, user)
    group.slice, group._id, group._annotated, group._manager = slice, id, annotated, manager
    return group


def _booted() -> bool:
    """sd_booted(3)."""
    try:
        return posix.lstat("/run/systemd/system").st_mode & 0o170000 == 0o040000
    except OSError as error:
        if error.errno != ENOENT:
            raise SyscallError("look at", error.errno or 0, "/run/systemd/system") from None
        return False
