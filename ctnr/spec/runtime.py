# SPDX-License-Identifier: Apache-2.0
"""config.json: read it, and check all that the runtime-spec 1.3 says of it for Linux and that needs no look at the host.

HOT: imported by create, run, start and exec. Pure: no file is opened here.
"""

from __future__ import annotations

from ctnr import jsonio
from ctnr.errors import SpecError
from ctnr.spec.mounts import parse_options
from ctnr.spec.process import check_env, check_process, number_list
from ctnr.spec.schema import (
    ABSOLUTE,
    ANY,
    BOOL,
    I64,
    ID,
    NAME,
    STRINGS,
    TEXT,
    U32,
    check,
    integer,
    list_of,
    map_of,
    member,
    one_of,
    quote,
    record,
)
from ctnr.spec.tables import (
    HOOKS,
    MEMORY_POLICIES,
    MEMORY_POLICY_FLAGS,
    MOUNT_PROPAGATION,
    NAMESPACES,
    OCI_VERSION,
    PERSONALITIES,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from ctnr.spec.types import Config, Device, IDMapping, Linux, Mount

# --- shapes

_MAPPINGS = list_of(
    record({"containerID": ID, "hostID": ID, "size": integer(1, 0xFFFFFFFF)}, ("containerID", "hostID", "size"))
)

_HOOK_LIST = list_of(
    record({"path": ABSOLUTE, "args": STRINGS, "env": STRINGS, "timeout": integer(1, (1 << 31) - 1)}, ("path",))
)

_LINUX = record(
    {
        "uidMappings": _MAPPINGS,
        "gidMappings": _MAPPINGS,
        "sysctl": map_of(TEXT),
        "resources": ANY,
        "cgroupsPath": TEXT,
        "namespaces": list_of(record({"type": one_of(NAMESPACES, "namespace type"), "path": ABSOLUTE}, ("type",))),
        "devices": list_of(
            record(
                {
                    "type": one_of(("c", "b", "u", "p"), "device type"),
                    "path": ABSOLUTE,
                    "major": integer(0, (1 << 12) - 1),
                    "minor": integer(0, (1 << 20) - 1),
                    "fileMode": U32,
                    "uid": ID,
                    "gid": ID,
                },
                ("type", "path"),
            )
        ),
        "netDevices": map_of(record({"name": TEXT})),
        "seccomp": ANY,
        "rootfsPropagation": one_of(MOUNT_PROPAGATION, "mount propagation"),
        "maskedPaths": list_of(ABSOLUTE),
        "readonlyPaths": list_of(ABSOLUTE),
        "mountLabel": TEXT,
        "intelRdt": record(
            {
                "closID": TEXT,
                "schemata": STRINGS,
                "l3CacheSchema": TEXT,
                "memBwSchema": TEXT,
                "enableMonitoring": BOOL,
            }
        ),
        "memoryPolicy": record(
            {
                "mode": one_of(MEMORY_POLICIES, "memory policy"),
                "nodes": TEXT,
                "flags": list_of(one_of(MEMORY_POLICY_FLAGS, "memory policy flag")),
            },
            ("mode",),
        ),
        "personality": record(
            {"domain": one_of(PERSONALITIES, "personality domain"), "flags": list_of(one_of((), "personality flag"))},
            ("domain",),
        ),
        "timeOffsets": map_of(record({"secs": I64, "nanosecs": integer(0, 999_999_999)})),
    }
)

_MOUNTS = list_of(
    record(
        {
            "destination": NAME,
            "type": TEXT,
            "source": TEXT,
            "options": STRINGS,
            "uidMappings": _MAPPINGS,
            "gidMappings": _MAPPINGS,
        },
        ("destination",),
    )
)

_CONFIG = record(
    {
        "ociVersion": NAME,
        "root": record({"path": NAME, "readonly": BOOL}, ("path",)),
        "hostname": TEXT,
        "domainname": TEXT,
        "mounts": _MOUNTS,
        "process": ANY,
        "hooks": record(dict.fromkeys(HOOKS, _HOOK_LIST), closed="hook"),
        "annotations": map_of(TEXT),
        "linux": _LINUX,
    },
    ("ociVersion", "root"),
)


# --- the document


def parse(data: bytes | str) -> Config:
    """The document in a config.json, not yet validated. Raises SpecError if it is no JSON object."""
    try:
        config = jsonio.loads(data)
    except ValueError as e:
        raise SpecError("", f"config.json is not JSON: {e}") from None
    if config is None:
        # runc's words
        raise SpecError("", "config cannot be null")
    if not isinstance(config, dict):
        raise SpecError("", "config.json must hold an object")
    document: Config = config  # type: ignore[assignment]  # it is one once validated
    return document


def validate(config: Config) -> list[str]:
    """Check a whole configuration (runtime-spec config.md, config-linux.md); the warnings to log.

    `config` itself is brought into one form on the way: nulls and empty optional strings are removed, a relative
    mount destination is taken from /, a mount of type "bind" gets that option, a device's fileMode loses its file
    type, and a seccomp section that says nothing is dropped.

    Raises SpecError. What only the host can tell is left to the runtime: whether a network namespace to join is its
    own, whether a user namespace to join has the mappings given with it.
    """
    check(config, _CONFIG)
    _check_version(config["ociVersion"])
    warnings: list[str] = []
    linux = config.get("linux", {})
    namespaces: dict[str, str] = {}
    for i, namespace in enumerate(linux.get("namespaces", ())):
        kind = namespace["type"]
        if kind in namespaces:
            raise SpecError(f"linux.namespaces[{i}].type", f"duplicated namespace {quote(kind)}")
        namespaces[kind] = namespace.get("path", "")

    if "process" in config:
        warnings += check_process(config["process"])
    for name, value in (("hostname", config.get("hostname", "")), ("domainname", config.get("domainname", ""))):
        if value and "uts" not in namespaces:
            raise SpecError(name, f"unable to set {name} without a private UTS namespace")
        if len(value.encode("utf-8", "surrogateescape")) > 64:
            # __NEW_UTS_LEN
            raise SpecError(name, "must not be longer than 64 bytes")
    for i, mount in enumerate(config.get("mounts", ())):
        warnings += _check_mount(mount, f"mounts[{i}]", "user" in namespaces)
    hooks: Any = config.get("hooks", {})
    for kind in hooks:
        for i, hook in enumerate(hooks[kind]):
            check_env(hook.get("env", ()), f"hooks.{kind}[{i}].env")
    warnings += _check_linux(linux, namespaces, config.get("annotations") or {})
    check_user_namespace(config)
    return warnings


def check_mounts(mounts: Any, user_namespace: bool) -> list[str]:
    """Check a config's list of mounts by itself, as validate() does within the config; the warnings. Raises SpecError."""
    check(mounts, _MOUNTS, "mounts")
    warnings = []
    for i, mount in enumerate(mounts):
        warnings += _check_mount(mount, f"mounts[{i}]", user_namespace)
    return warnings


# --- rules


def _check_version(version: str) -> None:
    """A version of the runtime-spec: semantic versioning 2.0.0, of which we know major version 1."""
    core, plus, build = version.partition("+")
    core, dash, pre = core.partition("-")
    well = [_is_number(n) for n in core.split(".")] == [True, True, True]
    if dash:
        well = well and all(_is_identifier(p) and (_is_number(p) or not p.isdigit()) for p in pre.split("."))
    if plus:
        well = well and all(_is_identifier(p) for p in build.split("."))
    if not well:
        raise SpecError("ociVersion", f"must be a version like {OCI_VERSION}, not {quote(version)}")
    if not core.startswith("1."):
        raise SpecError("ociVersion", f"{quote(version)} is not supported: only version 1 of the runtime-spec is")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and (text == "0" or text[0] != "0")


def _is_identifier(text: str) -> bool:
    return text.isascii() and text.replace("-", "0").isalnum()


def _check_mount(mount: Mount, path: str, user_namespace: bool) -> list[str]:
    warnings = []
    destination = mount["destination"]
    if not destination.startswith("/"):
        warnings.append(f"{path}.destination: relative path {quote(destination)} is deprecated, taken from /")
        mount["destination"] = "/" + destination
    kind = mount.get("type", "")
    options = parse_options(mount.get("options", []), f"{path}.options")
    if kind in ("bind", "rbind") and not options.bind:
        warnings.append(f'{path}.options: neither "bind" nor "rbind" is there, taking the type\'s "{kind}"')
        mount["options"] = [*mount.get("options", ()), kind]
        options = parse_options(mount["options"], f"{path}.options")
    if options.bind:
        if not mount.get("source"):
            raise SpecError(f"{path}.source", "is required for a bind mount")
        if options.data:
            warnings.append(f"{path}.options: {quote(options.data)} has no effect on a bind mount")
    elif not kind and not options.remount:
        raise SpecError(f"{path}.type", "is required for what is not a bind mount")
    if options.tmpcopyup and (options.bind or kind != "tmpfs"):
        raise SpecError(f"{path}.options", "tmpcopyup is for mounts of type tmpfs")

    uid_mappings, gid_mappings = mount.get("uidMappings"), mount.get("gidMappings")
    if bool(uid_mappings) != bool(gid_mappings):
        missing = "gidMappings" if uid_mappings else "uidMappings"
        raise SpecError(f"{path}.{missing}", "uidMappings and gidMappings must be specified together")
    if uid_mappings or options.idmap:
        if not uid_mappings and not options.idmap_maps and not user_namespace:
            raise SpecError(f"{path}.options", f"{options.idmap} needs uidMappings and gidMappings or a user namespace")
        _check_mappings(uid_mappings or (), f"{path}.uidMappings")
        _check_mappings(gid_mappings or (), f"{path}.gidMappings")
    return warnings


def _check_linux(linux: Linux, namespaces: dict[str, str], annotations: dict[str, str]) -> list[str]:
    """Everything of the linux section but its namespaces and id mappings."""
    warnings: list[str] = []
    if "mount" not in namespaces:
        for name, paths in (("maskedPaths", linux.get("maskedPaths")), ("readonlyPaths", linux.get("readonlyPaths"))):
            if paths:
                raise SpecError(f"linux.{name}", "unable to restrict sys entries without a private MNT namespace")
    for i, device in enumerate(linux.get("devices", ())):
        _check_device(device, f"linux.devices[{i}]")
    if linux.get("netDevices") and "network" not in namespaces:
        raise SpecError("linux.netDevices", "unable to move network devices without a NET namespace")
    for name, net_device in linux.get("netDevices", {}).items():
        for new in (name, net_device.get("name", name)):
            if not _is_interface(new):
                raise SpecError(f"linux.netDevices{member(name)}", f"invalid network device name {quote(new)}")
    if linux.get("sysctl"):
        from ctnr.spec.sysctl import check_sysctl

        check_sysctl(linux["sysctl"], namespaces, "linux.sysctl")
    if "resources" in linux:
        from ctnr.spec.resources import check_resources

        warnings += check_resources(linux["resources"], "linux.resources")
    seccomp = linux.get("seccomp")
    if isinstance(seccomp, dict) and not seccomp.get("defaultAction") and not seccomp.get("syscalls"):
        # as runc does: it is what Go writes of a structure left empty
        warnings.append("linux.seccomp: has no defaultAction and no syscalls, so there is no filter")
        del linux["seccomp"]
    elif seccomp is not None:
        from ctnr.spec.seccomp import RECEIVER, check_seccomp

        check_seccomp(seccomp, "linux.seccomp", annotations.get(RECEIVER, ""))
    _check_time(linux, namespaces)
    _check_intel_rdt(linux)
    _check_memory_policy(linux)
    return warnings


def _check_device(device: Device, path: str) -> None:
    if device["type"] != "p":
        for name in ("major", "minor"):
            if name not in device:
                raise SpecError(f"{path}.{name}", "is required")
    if "fileMode" in device:
        # some callers leave the S_IFMT bits of the stat(2) they made in it; type has that already
        device["fileMode"] &= 0o7777


def _is_interface(name: str) -> bool:
    """dev_valid_name() of the kernel's net/core/dev.c."""
    size = len(name.encode("utf-8", "surrogateescape"))
    return 0 < size < 16 and name not in (".", "..") and not any(c in "/:" or c.isspace() for c in name)


def _check_time(linux: Linux, namespaces: dict[str, str]) -> None:
    offsets = linux.get("timeOffsets")
    if not offsets:
        return
    for clock in offsets:
        if clock not in ("monotonic", "boottime"):
            raise SpecError(f"linux.timeOffsets{member(clock)}", "unknown clock: monotonic and boottime are")
    if "time" not in namespaces:
        why = "time namespace offsets specified, but time namespace isn't enabled in the config"
        raise SpecError("linux.timeOffsets", why)
    if namespaces["time"]:
        why = "time namespace enabled, but both namespace path and time offsets specified -- you may only provide one"
        raise SpecError("linux.timeOffsets", why)


def _check_intel_rdt(linux: Linux) -> None:
    rdt = linux.get("intelRdt", {})
    clos = rdt.get("closID", "")
    if clos in (".", "..") or (len(clos) > 1 and "/" in clos):
        # it becomes a directory's name
        raise SpecError("linux.intelRdt.closID", f"invalid closID {quote(clos)}")
    if "memBwSchema" in rdt and not rdt["memBwSchema"].startswith("MB:"):
        raise SpecError("linux.intelRdt.memBwSchema", 'must start with "MB:"')
    for path, line in (
        ("memBwSchema", rdt.get("memBwSchema", "")),
        ("l3CacheSchema", rdt.get("l3CacheSchema", "")),
        *((f"schemata[{i}]", line) for i, line in enumerate(rdt.get("schemata", ()))),
    ):
        if "\n" in line:
            raise SpecError(f"linux.intelRdt.{path}", "must be one line")


def _check_memory_policy(linux: Linux) -> None:
    """set_mempolicy(2), as runc checks it."""
    if "memoryPolicy" not in linux:
        return
    policy = linux["memoryPolicy"]
    mode = policy["mode"]
    nodes = number_list(policy.get("nodes", ""), "linux.memoryPolicy.nodes")
    if mode in ("MPOL_DEFAULT", "MPOL_LOCAL"):
        if nodes:
            raise SpecError("linux.memoryPolicy.nodes", f"{mode} requires 0 nodes but got {len(nodes)}")
    elif mode != "MPOL_PREFERRED" and not nodes:
        raise SpecError("linux.memoryPolicy.nodes", f"{mode} requires at least one node but got 0")


# --- id mappings


def _check_mappings(mappings: Sequence[IDMapping], path: str) -> None:
    """user_namespaces(7): ranges that do not overlap on either side, at most 340."""
    if len(mappings) > 340:
        raise SpecError(path, f"holds {len(mappings)} ranges, the kernel takes 340")
    inside: list[tuple[int, int]] = []
    outside: list[tuple[int, int]] = []
    for i, m in enumerate(mappings):
        for name, start, taken in (("containerID", m["containerID"], inside), ("hostID", m["hostID"], outside)):
            end = start + m["size"]
            if end > 0xFFFFFFFF:
                raise SpecError(f"{path}[{i}].size", f"goes beyond the last id, 4294967294, from {name} {start}")
            for other, until in taken:
                if start < until and other < end:
                    raise SpecError(f"{path}[{i}].{name}", "the range overlaps one before it")
            taken.append((start, end))


def check_user_namespace(config: Config) -> None:
    """The mappings by themselves, and whether they have the ids of the process. Raises SpecError."""
    linux = config.get("linux", {})
    namespaces = {n["type"]: n.get("path", "") for n in linux.get("namespaces") or ()}
    uid_mappings, gid_mappings = linux.get("uidMappings", []), linux.get("gidMappings", [])
    _check_mappings(uid_mappings, "linux.uidMappings")
    _check_mappings(gid_mappings, "linux.gidMappings")
    if "user" not in namespaces:
        if uid_mappings or gid_mappings:
            name = "uidMappings" if uid_mappings else "gidMappings"
            why = "user namespace mappings specified, but user namespace isn't enabled in the config"
            raise SpecError(f"linux.{name}", why)
        return
    if namespaces["user"]:
        # containerd and cri-o repeat the mappings of the namespace to join; the runtime compares them
        return
    if not uid_mappings and not gid_mappings:
        return  # the runtime's choice
    if not uid_mappings or not gid_mappings:
        missing = "gidMappings" if uid_mappings else "uidMappings"
        raise SpecError(f"linux.{missing}", "a user namespace needs both uidMappings and gidMappings")
    if "process" not in config:
        return
    user = config["process"].get("user", {})
    for name, id, mappings in (
        ("uid", user.get("uid", 0), uid_mappings),
        ("gid", user.get("gid", 0), gid_mappings),
        *((f"additionalGids[{i}]", gid, gid_mappings) for i, gid in enumerate(user.get("additionalGids", ()))),
    ):
        if not any(m["containerID"] <= id < m["containerID"] + m["size"] for m in mappings):
            raise SpecError(f"process.user.{name}", f"{id} is not mapped in the user namespace")
