# SPDX-License-Identifier: Apache-2.0
"""What `ctnr run` and ctnr.run() can be asked for, and the reading of docker's notations. HOT (run)."""

from __future__ import annotations

from ctnr.errors import CtnrError
from ctnr.spec.tables import CAPABILITIES, RLIM_INFINITY, RLIMITS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ctnr.spec.types import Device, DeviceCgroup, Mount, Rlimit

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}


class Options:
    """The options of one container. Defaults are docker's, but for what a daemonless and rootless engine cannot do.

    command: the program and its arguments, or None for a shell. env: NAME -> value. volumes, mounts, tmpfs, ulimits,
    devices, security_opt: docker's notations. memory: bytes or "512m". cpus: a number of processors. network: "host" or
    "none". rm: remove the container at its end; None: if it has no name.
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
        self.command = list(command) if command else []
        self.cap_add = cap_add
        self.cap_drop = cap_drop
        self.cpus = cpus
        self.devices = devices
        self.entrypoint = [entrypoint] if isinstance(entrypoint, str) else entrypoint
        self.env = dict(env or {})
        self.hostname = hostname
        self.init = init
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


def parse_size(text: int | str, option: str) -> int:
    """Bytes: a number, or one with a unit (b, k, m, g, t, p; KiB and kb too; powers of 1024, as docker)."""
    if isinstance(text, int):
        return text
    word = text.strip().lower()
    number = word.rstrip("abcdefghijklmnopqrstuvwxyz")
    unit = word[len(number) :]
    for tail in ("ib", "b"):
        if len(unit) > 1 and unit.endswith(tail):
            unit = unit[: -len(tail)]
            break
    try:
        value = float(number) * _UNITS[unit]
    except (KeyError, ValueError):
        value = -1.0
    if not 0 <= value < 1 << 63:
        raise CtnrError(f"{option}: {text!r} is not a size: give a number of bytes, or one like 512m or 2g")
    return int(value)


def parse_cpus(text: float | str) -> int:
    """A number of processors as a quota of a 100 ms period, in microseconds."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.01 <= value <= 1 << 20:
        raise CtnrError(f"--cpus: {text!r} is not a number of processors: give one like 1.5 (at least 0.01)")
    return int(value * 100000 + 0.5)


def parse_ulimit(text: str) -> Rlimit:
    """NAME=SOFT[:HARD]; -1 or `unlimited` is no limit."""
    name, _, value = text.partition("=")
    type = "RLIMIT_" + name.upper()
    soft, colon, hard = value.partition(":")
    limits = []
    for part in (soft, hard if colon else soft):
        if part in ("-1", "unlimited"):
            limits.append(RLIM_INFINITY)
        elif part.isdigit() and int(part) <= RLIM_INFINITY:
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
    for word in parts[2].split(",") if len(parts) == 3 and parts[2] else ():
        if word in ("private", "rprivate", "shared", "rshared", "slave", "rslave"):
            propagation = word
        elif word == "bind":
            options[0] = "bind"
        elif word in (
            "ro",
            "rw",
            "nosuid",
            "suid",
            "nodev",
            "dev",
            "noexec",
            "exec",
            "rbind",
            "rro",
            "idmap",
            "ridmap",
        ):
            options.append(word)
        elif word in ("z", "Z", "cached", "delegated", "consistent"):
            continue  # SELinux labels (none here) and docker's hints for other systems
        else:
            raise CtnrError(f"--volume: {text!r}: unknown option {word!r}")
    return {"type": "bind", "source": source, "destination": dest, "options": [*options, propagation]}


def parse_mount(text: str) -> Mount:
    """--mount type=bind|tmpfs,source=S,target=T[,readonly][,bind-propagation=P][,tmpfs-size=N][,tmpfs-mode=M]."""
    type, source, target = "volume", "", ""
    readonly, propagation, recursive = False, "rprivate", True
    data: list[str] = []
    for field in text.split(","):
        key, _, value = field.partition("=")
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
        elif key == "tmpfs-size":
            data.append(f"size={parse_size(value, '--mount: tmpfs-size')}")
        elif key == "tmpfs-mode":
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
        options = ["rbind" if recursive else "bind", *(["ro"] if readonly else ()), propagation]
        return {"type": "bind", "source": source, "destination": target, "options": options}
    raise CtnrError(f"--mount: type {type!r} is not supported: use bind or tmpfs")


def parse_tmpfs(text: str) -> Mount:
    """--tmpfs /PATH[:OPTIONS], with docker's defaults."""
    path, _, words = text.partition(":")
    if not path.startswith("/"):
        raise CtnrError(f"--tmpfs: {path!r} must be an absolute path")
    options = ["noexec", "nosuid", "nodev", *(word for word in words.split(",") if word)]
    return {"type": "tmpfs", "source": "tmpfs", "destination": path, "options": options}


def parse_device(text: str) -> tuple[list[Device], list[DeviceCgroup]]:
    """--device HOST[:CONTAINER][:rwm]; a directory stands for the devices in it."""
    import posix

    parts = text.split(":")
    access = "rwm"
    if len(parts) > 1 and parts[-1] and set(parts[-1]) <= set("rwm"):
        access = parts.pop()
    if len(parts) > 2 or not all(part.startswith("/") for part in parts):
        raise CtnrError(f"--device: {text!r} is not HOST-PATH[:CONTAINER-PATH][:rwm]")
    host, inside = parts[0], parts[-1]
    try:
        st = posix.stat(host)
        names = posix.listdir(host) if st.st_mode & 0o170000 == 0o040000 else None
    except OSError as error:
        raise CtnrError(f"--device: {host}: {(error.strerror or '').lower()}") from None
    devices: list[Device] = []
    rules: list[DeviceCgroup] = []
    for path, there in [(host, inside)] if names is None else [(f"{host}/{n}", f"{inside}/{n}") for n in sorted(names)]:
        st = posix.stat(path)
        type = {0o020000: "c", 0o060000: "b"}.get(st.st_mode & 0o170000)
        if type is None:
            if names is not None:
                continue
            raise CtnrError(f"--device: {path} is not a device")
        major, minor = posix.major(st.st_rdev), posix.minor(st.st_rdev)
        mode = st.st_mode & 0o7777
        devices.append(
            {
                "path": there,
                "type": type,
                "major": major,
                "minor": minor,
                "fileMode": mode,
                "uid": st.st_uid,
                "gid": st.st_gid,
            }
        )
        rules.append({"allow": True, "type": type, "major": major, "minor": minor, "access": access})
    return devices, rules
