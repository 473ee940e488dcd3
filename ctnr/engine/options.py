# SPDX-License-Identifier: Apache-2.0
"""What `ctnr run` and ctnr.run() can be asked for, and the reading of docker's notations. HOT (run)."""

from __future__ import annotations

from posix import listdir, major, minor, stat

from ctnr.errors import CtnrError
from ctnr.files import normpath
from ctnr.spec.sizes import is_number, parse_size
from ctnr.spec.tables import CAPABILITIES, RLIM_INFINITY, RLIMITS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from posix import stat_result
    from typing import Any

    from ctnr.runtime.landlock import Landlock
    from ctnr.spec.types import Device, DeviceCgroup, Mount, Rlimit


class Options:
    """The options of one container. Defaults are docker's, but for what a daemonless and rootless engine cannot do.

    command: the program and its arguments, or None for a shell. env: NAME -> value. volumes, mounts, tmpfs, ulimits,
    devices, security_opt: docker's notations. memory: bytes or "512m". cpus: a number of processors. network: "host" or
    "none". landlock: a ctnr.Landlock. rm: remove the container at its end; None: if it has no name.
    """

    __slots__ = (
        "cap_add",
        "cap_drop",
        "command",
        "cpus",
        "devices",
        "entrypoint",
        "env",
        "hostname",
        "init",
        "landlock",
        "memory",
        "mounts",
        "name",
        "network",
        "pids_limit",
        "privileged",
        "read_only",
        "rm",
        "security_opt",
        "tmpfs",
        "tty",
        "ulimits",
        "user",
        "volumes",
        "workdir",
    )

    def __init__(
        self,
        command: Sequence[str] | None = None,
        *,
        cap_add: Sequence[str] = (),
        cap_drop: Sequence[str] = (),
        cpus: float | str | None = None,
        devices: Sequence[str] = (),
        entrypoint: Sequence[str] | str | None = None,
        env: Mapping[str, str] | None = None,
        hostname: str | None = None,
        init: bool = False,
        landlock: Landlock | dict[str, Any] | None = None,
        memory: int | str | None = None,
        mounts: Sequence[str] = (),
        name: str | None = None,
        network: str | None = None,
        pids_limit: int | str | None = None,
        privileged: bool = False,
        read_only: bool = False,
        rm: bool | None = None,
        security_opt: Sequence[str] = (),
        tmpfs: Sequence[str] = (),
        tty: bool = False,
        ulimits: Sequence[str] = (),
        user: str | None = None,
        volumes: Sequence[str] = (),
        workdir: str | None = None,
    ) -> None:
        for option, given in (
            ("command", command),
            ("cap_add", cap_add),
            ("cap_drop", cap_drop),
            ("devices", devices),
            ("mounts", mounts),
            ("security_opt", security_opt),
            ("tmpfs", tmpfs),
            ("ulimits", ulimits),
            ("volumes", volumes),
        ):
            if isinstance(given, str):  # a sequence of its letters, to Python
                raise CtnrError(f"{option}: {given!r} is text: give a list")
        self.command = list(command) if command else []
        self.cap_add = cap_add
        self.cap_drop = cap_drop
        self.cpus = cpus
        self.devices = devices
        self.entrypoint = [entrypoint] if isinstance(entrypoint, str) else entrypoint
        self.env = dict(env or {})
        self.hostname = hostname
        self.init = init
        self.landlock = landlock
        self.memory = memory
        self.mounts = mounts
        self.name = name
        self.network = network or "host"
        self.pids_limit = pids_limit
        self.privileged = privileged
        self.read_only = read_only
        self.rm = rm
        self.security_opt = security_opt
        self.tmpfs = tmpfs
        self.tty = tty
        self.ulimits = ulimits
        self.user = user
        self.volumes = volumes
        self.workdir = workdir


class HostDevice:
    """A device of this machine for a container: its path here and inside, and what the kernel knows it by."""

    __slots__ = ("access", "host", "inside", "status", "type")

    def __init__(self, host: str, inside: str, access: str, type: str, status: stat_result) -> None:
        self.host = host
        self.inside = inside
        self.access = access
        self.type = type
        self.status = status

    def device(self) -> Device:
        """An entry of linux.devices."""
        status = self.status
        return {
            "path": self.inside,
            "type": self.type,
            "major": major(status.st_rdev),
            "minor": minor(status.st_rdev),
            "fileMode": status.st_mode & 0o7777,
            "uid": status.st_uid,
            "gid": status.st_gid,
        }

    def rule(self) -> DeviceCgroup:
        """An entry of linux.resources.devices."""
        numbers = self.status.st_rdev
        return {
            "allow": True,
            "type": self.type,
            "major": major(numbers),
            "minor": minor(numbers),
            "access": self.access,
        }


def parse_cpus(text: float | str) -> int:
    """A number of processors as a quota of a 100 ms period, in microseconds."""
    word = str(text)
    value = float(word) if is_number(word) else 0.0
    if not 0.01 <= value <= 1 << 20:
        raise CtnrError(f"--cpus: {text!r} is not a number of processors: give one like 1.5 (at least 0.01)")
    return int(value * 100000 + 0.5)


def parse_pids_limit(text: int | str) -> int:
    """A number of processes; 0 and -1 mean no limit, which is -1 in a config."""
    word = str(text)
    if word == "-1" or (word.isascii() and word.isdigit() and int(word) < 1 << 63):
        return int(word) or -1
    raise CtnrError(f"--pids-limit: {text!r} is not a number (-1 for no limit)")


def parse_ulimit(text: str) -> Rlimit:
    """NAME=SOFT[:HARD]; -1 or `unlimited` is no limit."""
    name, _, value = text.partition("=")
    type = "RLIMIT_" + name.upper()
    soft, colon, hard = value.partition(":")
    limits = []
    for part in (soft, hard if colon else soft):
        if part in ("-1", "unlimited"):
            limits.append(RLIM_INFINITY)
        elif part.isascii() and part.isdigit() and int(part) <= RLIM_INFINITY:
            limits.append(int(part))
        else:
            raise CtnrError(f"--ulimit: {text!r} is not NAME=SOFT[:HARD] with numbers, -1 or unlimited")
    if type not in RLIMITS:
        names = ", ".join(sorted(n[7:].lower() for n in RLIMITS))
        raise CtnrError(f"--ulimit: {name!r} is no limit: {names}")
    if limits[0] > limits[1]:
        raise CtnrError(f"--ulimit: {text!r}: the soft limit is above the hard one")
    return {"type": type, "soft": limits[0], "hard": limits[1]}


def parse_capability(name: str, option: str) -> str:
    """`net_admin`, `NET_ADMIN` or `CAP_NET_ADMIN` as the last of these."""
    full = name.upper()
    if not full.startswith("CAP_"):
        full = "CAP_" + full
    if full not in CAPABILITIES:
        raise CtnrError(f"{option}: {name!r} is not a capability (capabilities(7))")
    return full


def parse_volume(text: str) -> Mount:
    """-v SRC:DST[:OPTIONS]; a source that is not there is made, as docker does."""
    parts = text.split(":")
    if len(parts) not in (2, 3) or not parts[0] or not parts[1]:
        raise CtnrError(
            f"--volume: {text!r} is not SOURCE:DESTINATION[:OPTIONS] (volumes without a source are to come)"
        )
    source, dest = parts[0], parts[1]
    if not source.startswith(("/", "./", "../", "~")) and source not in (".", ".."):
        raise CtnrError(f"--volume: {source!r} is neither absolute nor ./relative (named volumes are to come)")
    if not dest.startswith("/"):
        raise CtnrError(f"--volume: the destination {dest!r} must be absolute")
    options = ["rbind"]
    propagation = "rprivate"
    readonly = False
    for word in parts[2].split(",") if len(parts) == 3 and parts[2] else ():
        if word in ("private", "rprivate", "shared", "rshared", "slave", "rslave"):
            propagation = word
        elif word == "bind":
            options[0] = "bind"
        elif word in ("ro", "rro", "rw"):
            readonly = word != "rw"
        elif word in ("nosuid", "suid", "nodev", "dev", "noexec", "exec", "idmap", "ridmap"):
            options.append(word)
        elif word in ("z", "Z", "cached", "delegated", "consistent"):
            continue  # SELinux labels (none here) and docker's hints for other systems
        else:
            raise CtnrError(f"--volume: {text!r}: unknown option {word!r}")
    if readonly:
        options.append("rro")  # what is mounted in it too, as docker does since 25
    return {"type": "bind", "source": source, "destination": dest, "options": [*options, propagation]}


def parse_mount(text: str) -> Mount:
    """--mount type=bind|tmpfs,source=S,target=T[,readonly][,bind-propagation=P][,tmpfs-size=N][,tmpfs-mode=M].

    A field with a comma in it is written in double quotes, as in any list of comma-separated values.
    """
    type, source, target = "volume", "", ""
    readonly, propagation, recursive = False, "rprivate", True
    data: list[str] = []
    for field in _fields(text):
        key, _, value = field.partition("=")
        key = key.lower()
        if key == "type":
            type = value
        elif key in ("source", "src"):
            source = value
        elif key in ("target", "dst", "destination"):
            target = value
        elif key in ("readonly", "ro") and value in ("", "true", "1", "false", "0"):
            readonly = value in ("", "true", "1")
        elif key == "bind-propagation" and value in ("private", "rprivate", "shared", "rshared", "slave", "rslave"):
            propagation = value
        elif key == "bind-nonrecursive" and value in ("", "true", "1", "false", "0"):
            recursive = value not in ("", "true", "1")
        elif key == "tmpfs-size" and type == "tmpfs":
            data.append(f"size={parse_size(value, '--mount: tmpfs-size')}")
        elif key == "tmpfs-mode" and type == "tmpfs":
            if not value or not set(value) <= set("01234567") or int(value, 8) > 0o7777:
                raise CtnrError(f"--mount: tmpfs-mode: {value!r} is not an octal mode like 1777")
            data.append(f"mode={value}")
        else:
            raise CtnrError(f"--mount: {text!r}: unknown field {field!r}")
    if not target.startswith("/"):
        raise CtnrError(f"--mount: {text!r}: target must be an absolute path")
    if type == "tmpfs":
        options = ["nosuid", "nodev", *(["ro"] if readonly else ()), *data]
        return {"type": "tmpfs", "source": "tmpfs", "destination": target, "options": options}
    if type == "bind":
        if not source:
            raise CtnrError(f"--mount: {text!r}: a bind mount needs a source")
        options = ["rbind" if recursive else "bind", *(["rro"] if readonly else ()), propagation]
        return {"type": "bind", "source": source, "destination": target, "options": options}
    raise CtnrError(f"--mount: type {type!r} is not supported: use bind or tmpfs")


def _fields(text: str) -> list[str]:
    if '"' not in text:
        return text.split(",")
    import csv

    try:
        [fields] = csv.reader([text], strict=True)
    except (csv.Error, ValueError) as error:
        raise CtnrError(f"--mount: {text!r}: {error}") from None
    return fields


def parse_tmpfs(text: str) -> Mount:
    """--tmpfs /PATH[:OPTIONS], with docker's defaults."""
    path, _, words = text.partition(":")
    if not path.startswith("/"):
        raise CtnrError(f"--tmpfs: {path!r} must be an absolute path")
    options = ["noexec", "nosuid", "nodev", *(word for word in words.split(",") if word)]
    return {"type": "tmpfs", "source": "tmpfs", "destination": path, "options": options}


def parse_device(text: str) -> list[HostDevice]:
    """--device HOST[:CONTAINER][:rwm]; a directory stands for the devices in it."""
    parts = text.split(":")
    access = "rwm"
    if len(parts) > 1 and parts[-1] and set(parts[-1]) <= set("rwm"):
        access = parts.pop()
    if len(parts) > 2 or not all(part.startswith("/") for part in parts):
        raise CtnrError(f"--device: {text!r} is not HOST-PATH[:CONTAINER-PATH][:rwm]")
    host, inside = parts[0], normpath(parts[-1])
    try:
        names = listdir(host) if stat(host).st_mode & 0o170000 == 0o040000 else None
        if names is None:
            return [_device(host, inside, access)]
    except OSError as error:
        raise CtnrError(f"--device: {host}: {(error.strerror or '').lower()}") from None
    found = []
    for name in sorted(names):
        try:
            found.append(_device(f"{host}/{name}", f"{inside}/{name}", access))
        except (OSError, CtnrError):
            continue  # something else, or gone
    if not found:
        raise CtnrError(f"--device: {host}: no device is in that directory")
    return found


def _device(host: str, inside: str, access: str) -> HostDevice:
    status = stat(host)
    type = {0o020000: "c", 0o060000: "b"}.get(status.st_mode & 0o170000)
    if type is None:
        raise CtnrError(f"--device: {host} is not a device")
    return HostDevice(host, inside, access, type, status)
