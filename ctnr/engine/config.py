# SPDX-License-Identifier: Apache-2.0
"""Options -> config.json: the sandbox that `ctnr run` gives when nothing else is asked for. HOT (run)."""

from __future__ import annotations

import posix

from ctnr import files
from ctnr.engine import options as reading
from ctnr.engine import users
from ctnr.errors import CtnrError, SyscallError
from ctnr.runtime import idmap
from ctnr.runtime.compile import exists
from ctnr.spec.sizes import parse_size
from ctnr.spec.tables import CAPABILITIES, OCI_VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ctnr.engine.options import HostDevice, Options
    from ctnr.engine.sources import Source
    from ctnr.spec.types import Config, Device, DeviceCgroup, IDMapping, Mount

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SHELL = "/bin/sh"

# podman's default set: no MKNOD, NET_RAW or AUDIT_WRITE, which docker has
DEFAULT_CAPABILITIES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
)
MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_HOST_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._")
_DEVICE_SKIP = ("/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/console", "/dev/ptmx", "/dev/fd", "/dev/tty")


class Security:
    """--security-opt and --privileged, read."""

    __slots__ = ("landlock", "mask", "no_new_privileges", "seccomp", "unmask")

    def __init__(self, options: Options) -> None:
        self.no_new_privileges = False
        self.seccomp: dict[str, Any] | None = None
        self.landlock = _landlock(options.landlock)
        self.mask: list[str] = []
        self.unmask: list[str] = ["ALL"] if options.privileged else []
        for text in options.security_opt:
            key, eq, value = text.partition("=")
            if not eq:
                key, _, value = text.partition(":")
            if key == "no-new-privileges" and value in ("", "true", "false"):
                self.no_new_privileges = value != "false"
            elif key == "seccomp":
                self.seccomp = None if value == "unconfined" else _seccomp_file(value)
            elif key == "landlock" and value:
                self.landlock = _landlock_file(value)
            elif key == "mask" and value:
                self.mask += value.split(":")
            elif key == "unmask" and value:
                self.unmask += value.split(":")
            elif text == "systempaths=unconfined":
                self.unmask.append("ALL")
            elif text in ("apparmor=unconfined", "label=disable", "label:disable"):
                continue  # none is ever applied
            else:
                raise CtnrError(
                    f"--security-opt: {text!r} is not supported: no-new-privileges, seccomp=FILE|unconfined, landlock=FILE,"
                    " mask=PATHS, unmask=ALL|PATHS, systempaths=unconfined"
                )

    def keep(self, paths: tuple[str, ...]) -> list[str]:
        return [path for path in paths if "ALL" not in self.unmask and path not in self.unmask]


def _landlock(given: Any) -> str:
    """The annotation of what `landlock` of the options says: a ctnr.Landlock, or its document."""
    if given is None:
        return ""
    from ctnr import jsonio
    from ctnr.runtime import landlock

    text: str = jsonio.dumps(given) if isinstance(given, dict) else given.json()
    landlock.parse(text, "landlock")
    return text


def _landlock_file(path: str) -> str:
    from ctnr.runtime import landlock

    try:
        text = files.read_file(path).decode("utf-8", "surrogateescape")
    except OSError as error:
        raise SyscallError("--security-opt: landlock: read", error.errno or 0, path) from None
    landlock.parse(text, f"--security-opt: landlock: {path}")
    return text


def _seccomp_file(path: str) -> dict[str, Any]:
    from ctnr import jsonio

    try:
        section = jsonio.loads(files.read_file(path))
    except OSError as error:
        raise SyscallError("--security-opt: seccomp: read", error.errno or 0, path) from None
    except ValueError as error:
        raise CtnrError(f"--security-opt: seccomp: {path}: {error}") from None
    if not isinstance(section, dict) or "defaultAction" not in section:
        raise CtnrError(f"--security-opt: seccomp: {path} is not a seccomp profile (no defaultAction)")
    return section


def build(options: Options, source: Source, id: str, state_dir: str) -> Config:
    """The runtime-spec document of a container. Raises CtnrError naming the option that is wrong."""
    rootless = posix.geteuid() != 0
    security = Security(options)
    hostname = _hostname(options, id)
    uid, gid, groups = users.find(source.look, options.user) if options.user is not None else (0, 0, [])
    uids: list[IDMapping] = []
    gids: list[IDMapping] = []
    if rootless:
        uids, gids = idmap.rootless_maps(posix.geteuid(), posix.getegid())
        if idmap.mapped(uids, uid) is None or idmap.mapped(gids, gid) is None:
            raise CtnrError(
                f"--user: {uid}:{gid} is not among the ids that you may use: add ranges for you to /etc/subuid and /etc/subgid"
                " and install newuidmap (Debian: package uidmap)"
            )
        groups = [g for g in groups if len(gids) > 1 and idmap.mapped(gids, g) is not None]
    host_network = options.network == "host"
    if options.network not in ("host", "none"):
        raise CtnrError(f"--network: {options.network!r} is not supported: host or none")
    namespaces = ["pid", "ipc", "uts", "mount", "cgroup"]
    if not host_network:
        namespaces.append("network")
    if rootless:
        namespaces.append("user")
    devices, rules = _devices(options)
    mounts = [*_root_mounts(source), *_mounts(options, state_dir, rootless, host_network)]
    if rootless:
        # mknod(2) of a device is not for user namespaces, and what is bound may have another name here
        mounts += [_device_bind(text, device) for text in options.devices for device in reading.parse_device(text)]
    if options.read_only:
        mounts += _read_only_points(source, {mount["destination"] for mount in mounts})
    config: Config = {
        "ociVersion": OCI_VERSION,
        "process": {
            "terminal": options.tty,
            "user": {"uid": uid, "gid": gid, "additionalGids": groups},
            "args": _arguments(options),
            "env": _environment(options, hostname),
            "cwd": _workdir(options),
            "capabilities": _capabilities(options),  # type: ignore[typeddict-item]
            "noNewPrivileges": security.no_new_privileges,
            "rlimits": [reading.parse_ulimit(text) for text in options.ulimits],
        },
        "root": {"path": source.root(state_dir), "readonly": options.read_only},
        "hostname": hostname,
        "mounts": mounts,
        "linux": {
            "namespaces": [{"type": name} for name in namespaces],  # type: ignore[typeddict-item]
            "resources": _resources(options, rules),  # type: ignore[typeddict-item]
            "devices": devices,
            "maskedPaths": security.keep(MASKED) + security.mask,
            "readonlyPaths": security.keep(READONLY),
        },
    }
    if security.landlock:
        config["annotations"] = {"io.ctnr.landlock": security.landlock}
    if security.seccomp is not None:
        config["linux"]["seccomp"] = security.seccomp  # type: ignore[typeddict-item]
    if rootless:
        config["linux"]["uidMappings"] = uids
        config["linux"]["gidMappings"] = gids
    return config


def _hostname(options: Options, id: str) -> str:
    if options.hostname is None:
        return "".join(c if c.isalnum() or c in "-." else "-" for c in id[:12]).strip("-.") or "ctnr"
    name = options.hostname
    # it becomes a line of /etc/hosts and an environment variable
    if not 0 < len(name) <= 64 or not set(name) <= _HOST_NAME or not (name[0] + name[-1]).replace("_", "a").isalnum():
        raise CtnrError(f"--hostname: {name!r} is not a host name: up to 64 letters, digits, - and .")
    return name


def _arguments(options: Options) -> list[str]:
    if options.entrypoint is not None:
        args = [word for word in options.entrypoint if word] + options.command
        return args or [SHELL]
    return options.command or [SHELL]


def _environment(options: Options, hostname: str) -> list[str]:
    env = {"PATH": PATH, "HOSTNAME": hostname, "container": "ctnr"}
    if options.tty:
        env["TERM"] = "xterm"
    env.update(options.env)
    for name, value in env.items():
        if not isinstance(value, str) or "\0" in value:
            raise CtnrError(f"--env: {name}: its value is not text without NUL characters: {value!r}")
        if not name or "=" in name or "\0" in name:
            raise CtnrError(f"--env: {name!r} is not the name of a variable")
    return [f"{name}={value}" for name, value in env.items()]


def _workdir(options: Options) -> str:
    path = options.workdir or "/"
    if not path.startswith("/"):
        raise CtnrError(f"--workdir: {path!r} must be an absolute path")
    return path


def _capabilities(options: Options) -> dict[str, list[str]]:
    names = set(CAPABILITIES if options.privileged else DEFAULT_CAPABILITIES)
    drop = {text.upper() for text in options.cap_drop}
    if "ALL" in drop:
        names = set()
    for text in options.cap_add:
        if text.upper() == "ALL":
            names |= set(CAPABILITIES)
        else:
            names.add(reading.parse_capability(text, "--cap-add"))
    for text in options.cap_drop:
        if text.upper() != "ALL":
            names.discard(reading.parse_capability(text, "--cap-drop"))
    granted = [name for name in CAPABILITIES if name in names and _available(CAPABILITIES[name])]
    return {"bounding": granted, "effective": granted, "permitted": granted}


def _available(capability: int) -> bool:
    """Whether this process could hand the capability on at all: the user did not ask for each by name, so no warning."""
    from ctnr import _native

    try:
        return posix.geteuid() != 0 or _native.prctl(23, capability) == 1  # PR_CAPBSET_READ
    except OSError:
        return False  # unknown to this kernel


def _mounts(options: Options, state_dir: str, rootless: bool, host_network: bool) -> list[Mount]:
    sys_mode = "rw" if options.privileged else "ro"
    mounts: list[Mount] = [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
        {
            "destination": "/dev",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
        },
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": [
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                *(() if rootless else ("gid=5",)),
            ],
        },
        {
            "destination": "/dev/shm",
            "type": "tmpfs",
            "source": "shm",
            "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        },
        {
            "destination": "/dev/mqueue",
            "type": "mqueue",
            "source": "mqueue",
            "options": ["nosuid", "noexec", "nodev"],
        },
    ]
    if rootless and host_network:
        # sysfs belongs to the network namespace, which is not ours: the host's, read-only
        mounts.append(
            {
                "destination": "/sys",
                "type": "bind",
                "source": "/sys",
                "options": ["rbind", "rnosuid", "rnoexec", "rnodev", "rro", "rslave"],
            }
        )
    else:
        mounts.append(
            {
                "destination": "/sys",
                "type": "sysfs",
                "source": "sysfs",
                "options": ["nosuid", "noexec", "nodev", sys_mode],
            }
        )
    mounts.append(
        {
            "destination": "/sys/fs/cgroup",
            "type": "cgroup",
            "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "relatime", sys_mode],
        }
    )
    for name in ("resolv.conf", "hosts", "hostname"):
        mounts.append(
            {
                "destination": f"/etc/{name}",
                "type": "bind",
                "source": f"{state_dir}/{name}",
                "options": ["bind", "nosuid", "nodev", "noexec", "rprivate"],
            }
        )
    asked: list[tuple[str, Mount]] = [(f"--volume: {text!r}", _volume(text)) for text in options.volumes]
    asked += [(f"--mount: {text!r}", _mount(text)) for text in options.mounts]
    asked += [(f"--tmpfs: {text!r}", reading.parse_tmpfs(text)) for text in options.tmpfs]
    wanted: set[str] = set()
    for option, mount in asked:
        where = mount["destination"] = files.normpath(mount["destination"])
        if where == "/":
            raise CtnrError(f"{option}: / is the root filesystem itself")
        if where in wanted:
            raise CtnrError(f"{option}: something else is to be mounted at {where}, too")
        wanted.add(where)
    # parents before what is mounted in them, whatever order they were asked for in
    asked.sort(key=lambda row: row[1]["destination"].count("/"))
    return [mount for mount in mounts if mount["destination"] not in wanted] + [mount for _, mount in asked]


def _root_mounts(source: Source) -> list[Mount]:
    """What makes the root whole, where it is put together from parts of the machine's."""
    mounts: list[Mount] = []
    for path in source.links:
        options = ["bind", "copy-symlink"]
        mounts.append({"destination": path, "type": "bind", "source": path, "options": options})
    for path in source.binds:
        options = ["rbind", "rnosuid", "rnodev", "rro", "rprivate"]
        mounts.append({"destination": path, "type": "bind", "source": path, "options": options})
    for path, mode in source.fresh:
        options = ["nosuid", "nodev", f"mode={mode}"]
        mounts.append({"destination": path, "type": "tmpfs", "source": "tmpfs", "options": options})
    return mounts


def _read_only_points(source: Source, taken: set[str]) -> list[Mount]:
    """root.readonly is for the mount at / only: the other overlays of a root, after what had to be made in them."""
    options = ["remount", "ro"]
    return [
        {"destination": point, "type": "overlay", "source": "overlay", "options": options}
        for point, _ in source.lower
        if point and point not in taken
    ]


def _volume(text: str) -> Mount:
    mount = reading.parse_volume(text)
    source = mount["source"]
    if source == "~" or source.startswith("~/"):
        source = (files.getenv("HOME") or "/") + source[1:]
    mount["source"] = files.abspath(source)
    return mount


def _mount(text: str) -> Mount:
    mount = reading.parse_mount(text)
    if mount["type"] == "bind":
        source = mount["source"] = files.abspath(mount["source"])
        try:
            posix.stat(source)
        except OSError as error:
            raise SyscallError(f"--mount: {text!r}: source", error.errno or 0, source) from None
    return mount


def make_volumes(options: Options) -> None:
    """Make the sources of --volume that are not there: directories, as docker does."""
    for text in options.volumes:
        source = _volume(text)["source"]
        try:
            posix.stat(source)
        except FileNotFoundError:
            try:
                files.makedirs(source)
            except OSError as error:
                raise SyscallError("--volume: make", error.errno or 0, source) from None
        except OSError as error:
            raise SyscallError("--volume: source", error.errno or 0, source) from None


def _devices(options: Options) -> tuple[list[Device], list[DeviceCgroup]]:
    """linux.devices, and linux.resources.devices: who may do what with them."""
    devices: list[Device] = []
    rules: list[DeviceCgroup] = [{"allow": bool(options.privileged), "access": "rwm"}]
    for text in options.devices:
        for found in reading.parse_device(text):
            if posix.geteuid() == 0:
                devices.append(found.device())
            rules.append(found.rule())
    if options.privileged:
        have = {found.inside for text in options.devices for found in reading.parse_device(text)}
        devices += [found.device() for found in _host_devices("/dev") if found.inside not in have]
    return devices, rules


def _device_bind(text: str, found: HostDevice) -> Mount:
    if not posix.access(found.host, posix.F_OK):
        raise CtnrError(f"--device: {text!r}: {found.host} is out of your reach")
    options = ["bind", "nosuid", "noexec"]
    return {"destination": found.inside, "type": "bind", "source": found.host, "options": options}


def _host_devices(directory: str) -> list[HostDevice]:
    found: list[HostDevice] = []
    for entry in posix.scandir(directory):
        path = f"{directory}/{entry.name}"
        if path in _DEVICE_SKIP or entry.is_symlink():
            continue
        try:
            if entry.is_dir(follow_symlinks=False):
                found += _host_devices(path)
            elif not entry.is_file(follow_symlinks=False):
                found += reading.parse_device(path)
        except (OSError, CtnrError):
            continue  # a socket or a fifo, or a directory that is not ours to read
    return found


def _resources(options: Options, rules: list[DeviceCgroup]) -> dict[str, Any]:
    resources: dict[str, Any] = {"devices": rules}
    if options.memory is not None:
        limit = parse_size(options.memory, "--memory")
        if limit < 6 << 20:
            raise CtnrError(f"--memory: {options.memory!r} is too little: at least 6m")
        resources["memory"] = {"limit": limit}
        if _swap_is_counted():
            resources["memory"]["swap"] = 2 * limit  # of both together, docker's default
    if options.cpus is not None:
        resources["cpu"] = {"period": 100000, "quota": reading.parse_cpus(options.cpus)}
    if options.pids_limit is not None:
        resources["pids"] = {"limit": reading.parse_pids_limit(options.pids_limit)}
    return resources


def _swap_is_counted() -> bool:
    """Whether the kernel can limit memory and swap together."""
    from ctnr.runtime.cgroups.layout import layout

    memory = layout().v1.get("memory")
    return exists(f"{memory}/memory.memsw.limit_in_bytes" if memory else "/proc/swaps")


def etc_files(options: Options, hostname: str) -> dict[str, bytes]:
    """/etc/{resolv.conf,hosts,hostname} of a container."""
    hosts = _host_file("/etc/hosts") if options.network == "host" else b""
    if b"localhost" not in hosts:
        hosts = b"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" + hosts
    if hostname.encode() not in hosts.split():
        hosts += (b"" if hosts.endswith(b"\n") else b"\n") + f"127.0.1.1\t{hostname}\n".encode()
    return {"resolv.conf": _host_file("/etc/resolv.conf"), "hosts": hosts, "hostname": hostname.encode() + b"\n"}


def _host_file(path: str) -> bytes:
    try:
        return files.read_file(path, 1 << 20)
    except OSError:
        return b""  # a machine without one
