# SPDX-License-Identifier: Apache-2.0
"""The table of test_bad_input.py: what is wrong with a config, and the words its one-line error has to have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Json = dict[str, Any]
CONFIGS: dict[str, tuple[Callable[[Json], object], tuple[str, ...]]] = {
    "wrong type of args": (lambda c: c["process"].update(args="/bin/true"), ("process.args",)),
    "wrong type inside args": (lambda c: c["process"].update(args=["/bin/true", 1]), ("process.args[1]",)),
    "wrong type of uid": (lambda c: c["process"]["user"].update(uid="0"), ("process.user.uid",)),
    "a uid that is no integer": (lambda c: c["process"]["user"].update(uid=1.5), ("process.user.uid",)),
    "a negative uid": (lambda c: c["process"]["user"].update(uid=-1), ("process.user.uid",)),
    "a uid past 32 bits": (lambda c: c["process"]["user"].update(uid=4294967296), ("process.user.uid",)),
    "a boolean for a uid": (lambda c: c["process"]["user"].update(uid=True), ("process.user.uid",)),
    "wrong type of mounts": (lambda c: c.update(mounts={}), ("mounts",)),
    "a mount without destination": (lambda c: c["mounts"].append({"type": "tmpfs"}), ("mounts[", "destination")),
    "wrong type of linux": (lambda c: c.update(linux=[]), ("linux",)),
    "no args": (lambda c: c["process"].update(args=[]), ("process.args",)),
    "no cwd": (lambda c: c["process"].pop("cwd"), ("process.cwd",)),
    "a relative cwd": (lambda c: c["process"].update(cwd="work"), ("process.cwd", "work")),
    "no root": (lambda c: c.pop("root"), ("root",)),
    "no ociVersion": (lambda c: c.pop("ociVersion"), ("ociVersion",)),
    "an ociVersion that is none": (lambda c: c.update(ociVersion="new"), ("ociVersion", "new")),
    "an ociVersion of the future": (lambda c: c.update(ociVersion="2.0.0"), ("ociVersion", "2.0.0")),
    "an unknown namespace": (
        lambda c: c["linux"]["namespaces"].append({"type": "space"}),
        ("linux.namespaces[", "space"),
    ),
    "a namespace twice": (lambda c: c["linux"]["namespaces"].append({"type": "pid"}), ("linux.namespaces[", "pid")),
    "a relative namespace path": (
        lambda c: c["linux"].update(namespaces=[{"type": "mount"}, {"type": "network", "path": "ns/net"}]),
        ("linux.namespaces[1].path", "ns/net"),
    ),
    "a namespace path that is not there": (
        lambda c: _replace(c, "ipc", "/no/such/namespace"),
        ("linux.namespaces[", "/no/such/namespace", "no such file"),
    ),
    "a namespace path of another kind": (
        lambda c: _replace(c, "ipc", "/proc/self/ns/uts"),
        ("linux.namespaces[", "/proc/self/ns/uts"),
    ),
    "a namespace path that is no namespace": (
        lambda c: _replace(c, "ipc", "/etc/passwd"),
        ("linux.namespaces[", "/etc/passwd"),
    ),
    "an unknown rlimit": (
        lambda c: c["process"].update(rlimits=[{"type": "RLIMIT_LUCK", "soft": 1, "hard": 1}]),
        ("process.rlimits[0].type", "RLIMIT_LUCK"),
    ),
    "an rlimit twice": (
        lambda c: c["process"].update(rlimits=[{"type": "RLIMIT_CORE", "soft": 1, "hard": 1}] * 2),
        ("process.rlimits[1]", "RLIMIT_CORE"),
    ),
    "a soft limit above the hard one": (
        lambda c: c["process"].update(rlimits=[{"type": "RLIMIT_CORE", "soft": 2, "hard": 1}]),
        ("process.rlimits[0]",),
    ),
    "a negative rlimit": (
        lambda c: c["process"].update(rlimits=[{"type": "RLIMIT_CORE", "soft": -1, "hard": 1}]),
        ("process.rlimits[0].soft",),
    ),
    "an unknown hook kind is ignored, a wrong hook is not": (
        lambda c: c.update(hooks={"prestart": {}}),
        ("hooks.prestart",),
    ),
    "a relative hook": (
        lambda c: c.update(hooks={"poststop": [{"path": "bin/hook"}]}),
        ("hooks.poststop[0].path", "bin/hook"),
    ),
    "a hook without path": (
        lambda c: c.update(hooks={"createRuntime": [{"args": ["x"]}]}),
        ("hooks.createRuntime[0]", "path"),
    ),
    "a hook without time": (
        lambda c: c.update(hooks={"createRuntime": [{"path": "/bin/true", "timeout": 0}]}),
        ("hooks.createRuntime[0].timeout",),
    ),
    "an unknown bind option": (
        lambda c: c["mounts"].append(
            {"destination": "/mnt", "source": "/etc", "type": "bind", "options": ["bind", "sparkling"]}
        ),
        ("mounts[", "options", "sparkling"),
    ),
    "an option the file system does not know": (
        lambda c: c["mounts"].append(
            {"destination": "/mnt", "source": "tmpfs", "type": "tmpfs", "options": ["sparkling"]}
        ),
        ("mounts[", "/mnt"),
    ),
    "an unknown file system": (
        lambda c: c["mounts"].append({"destination": "/mnt", "source": "x", "type": "sparklefs"}),
        ("mounts[", "sparklefs"),
    ),
    "a bind source that is not there": (
        lambda c: c["mounts"].append(
            {"destination": "/mnt", "source": "/no/such/source", "type": "bind", "options": ["bind"]}
        ),
        ("mounts[", "/no/such/source", "no such file"),
    ),
    "an unknown propagation": (
        lambda c: c["linux"].update(rootfsPropagation="sideways"),
        ("linux.rootfsPropagation", "sideways"),
    ),
    "a device of an unknown type": (
        lambda c: c["linux"].update(devices=[{"path": "/dev/x", "type": "z", "major": 1, "minor": 3}]),
        ("linux.devices[0].type",),
    ),
    "a device with a relative path": (
        lambda c: c["linux"].update(devices=[{"path": "dev/x", "type": "c", "major": 1, "minor": 3}]),
        ("linux.devices[0].path",),
    ),
    "a sysctl of the whole machine": (
        lambda c: c["linux"].update(sysctl={"vm.swappiness": "1"}),
        ("linux.sysctl", "vm.swappiness"),
    ),
    "a sysctl that leads elsewhere": (
        lambda c: c["linux"].update(sysctl={"net/../kernel/panic": "1"}),
        ("linux.sysctl",),
    ),
    "an unknown seccomp action": (
        lambda c: c["linux"].update(seccomp={"defaultAction": "SCMP_ACT_SING"}),
        ("linux.seccomp", "SCMP_ACT_SING"),
    ),
    "an unknown seccomp architecture": (
        lambda c: c["linux"].update(seccomp={"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_Z80"]}),
        ("linux.seccomp.architectures[0]", "SCMP_ARCH_Z80"),
    ),
    "a hostname without a namespace for it": (
        lambda c: c["linux"].update(namespaces=[n for n in c["linux"]["namespaces"] if n["type"] != "uts"]),
        ("hostname",),
    ),
    "a cgroup path that leads elsewhere": (
        lambda c: c["linux"].update(cgroupsPath="/../../etc"),
        ("linux.cgroupsPath",),
    ),
    "an id map that overlaps": (
        lambda c: c["linux"].update(
            uidMappings=[{"containerID": 0, "hostID": 1000, "size": 10}, {"containerID": 5, "hostID": 3000, "size": 10}]
        ),
        ("linux.uidMappings",),
    ),
    "a NUL in an argument": (lambda c: c["process"].update(args=["/bin/true", "a\0b"]), ("process.args[1]",)),
    "env without an equals sign": (lambda c: c["process"].update(env=["PATH"]), ("process.env[0]",)),
    "a masked path that is relative": (
        lambda c: c["linux"].update(maskedPaths=["proc/kcore"]),
        ("linux.maskedPaths[0]",),
    ),
    "a domainname without a namespace for it": (
        lambda c: _no_uts(c, domainname="x"),
        ("domainname",),
    ),
    "time offsets without a namespace": (
        lambda c: c["linux"].update(timeOffsets={"monotonic": {"secs": 1}}),
        ("linux.timeOffsets",),
    ),
}


def _drop(config: Json, kind: str) -> None:
    config["linux"]["namespaces"] = [n for n in config["linux"]["namespaces"] if n["type"] != kind]


def _no_uts(config: Json, **more: str) -> None:
    _drop(config, "uts")
    config.pop("hostname")
    config.update(more)


def _replace(config: Json, kind: str, path: str) -> None:
    _drop(config, kind)
    config["linux"]["namespaces"].append({"type": kind, "path": path})
