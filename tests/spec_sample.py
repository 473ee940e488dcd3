# SPDX-License-Identifier: Apache-2.0
"""A configuration that uses every field of the runtime-spec for Linux, and the means to walk and change one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

_DEVICE_RATE = {"major": 8, "minor": 16, "rate": 600}

_FULL: dict[str, Any] = {
    "ociVersion": "1.3.0",
    "root": {"path": "rootfs", "readonly": True},
    "hostname": "mrsdalloway",
    "domainname": "foobarbaz.test",
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {
            "destination": "/data",
            "type": "none",
            "source": "/volumes/testing",
            "options": ["rbind", "ro", "ridmap"],
            "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}],
            "gidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}],
        },
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "tmpcopyup"]},
    ],
    "process": {
        "terminal": True,
        "consoleSize": {"height": 25, "width": 80},
        "user": {"uid": 1, "gid": 1, "umask": 63, "additionalGids": [5, 6]},
        "args": ["sh", "-c", "true"],
        "env": ["PATH=/bin", "TERM=xterm", "EMPTY="],
        "cwd": "/root",
        "capabilities": {
            "bounding": ["CAP_KILL", "CAP_NET_BIND_SERVICE"],
            "permitted": ["CAP_KILL"],
            "inheritable": ["CAP_KILL"],
            "effective": ["CAP_KILL"],
            "ambient": ["CAP_KILL"],
        },
        "rlimits": [
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 18446744073709551615},
            {"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 1024},
        ],
        "noNewPrivileges": True,
        "apparmorProfile": "acme_secure_profile",
        "oomScoreAdj": 100,
        "scheduler": {
            "policy": "SCHED_DEADLINE",
            "nice": 0,
            "priority": 0,
            "flags": ["SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_DL_OVERRUN"],
            "runtime": 10,
            "deadline": 20,
            "period": 30,
        },
        "selinuxLabel": "system_u:system_r:svirt_lxc_net_t:s0:c124,c675",
        "ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 4},
        "execCPUAffinity": {"initial": "7", "final": "0-3,7"},
    },
    "hooks": {
        kind: [{"path": "/usr/bin/hook", "args": ["hook", "arg1"], "env": ["key1=value1"], "timeout": 5}]
        for kind in ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
    },
    "annotations": {"com.example.gpu-cores": "2", "org.example.empty": ""},
    "linux": {
        "uidMappings": [
            {"containerID": 0, "hostID": 1000, "size": 1},
            {"containerID": 1, "hostID": 100000, "size": 65535},
        ],
        "gidMappings": [{"containerID": 0, "hostID": 1000, "size": 32000}],
        "sysctl": {"net.ipv4.ip_forward": "1", "kernel.shmmax": "1", "user.max_net_namespaces": "7"},
        "resources": {
            "devices": [
                {"allow": False, "access": "rwm"},
                {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"},
            ],
            "memory": {
                "limit": 536870912,
                "reservation": 536870912,
                "swap": -1,
                "kernel": -1,
                "kernelTCP": -1,
                "swappiness": 0,
                "disableOOMKiller": False,
                "useHierarchy": True,
                "checkBeforeUpdate": True,
            },
            "cpu": {
                "shares": 1024,
                "quota": 1000000,
                "burst": 1000000,
                "period": 500000,
                "realtimeRuntime": 950000,
                "realtimePeriod": 1000000,
                "cpus": "2-3",
                "mems": "0-7",
                "idle": 0,
            },
            "pids": {"limit": 32771},
            "blockIO": {
                "weight": 10,
                "leafWeight": 10,
                "weightDevice": [{"major": 8, "minor": 0, "weight": 500, "leafWeight": 300}],
                "throttleReadBpsDevice": [_DEVICE_RATE],
                "throttleWriteBpsDevice": [_DEVICE_RATE],
                "throttleReadIOPSDevice": [_DEVICE_RATE],
                "throttleWriteIOPSDevice": [_DEVICE_RATE],
            },
            "hugepageLimits": [{"pageSize": "2MB", "limit": 209715200}, {"pageSize": "64KB", "limit": 1000000}],
            "network": {"classID": 1048577, "priorities": [{"name": "eth0", "priority": 500}]},
            "rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10000}},
            "unified": {"io.max": "259:0 rbps=2097152 wiops=120", "hugetlb.1GB.max": "1073741824"},
        },
        "cgroupsPath": "/myRuntime/myContainer",
        "namespaces": [
            {"type": "pid", "path": "/proc/1234/ns/pid"},
            {"type": "network"},
            {"type": "mount"},
            {"type": "ipc"},
            {"type": "uts"},
            {"type": "user"},
            {"type": "cgroup"},
            {"type": "time"},
        ],
        "devices": [
            {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 438, "uid": 0, "gid": 0},
            {"path": "/dev/pipe", "type": "p"},
        ],
        "netDevices": {"eth0": {"name": "container_eth0"}, "eth1": {}},
        "seccomp": {
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 38,
            "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "listenerPath": "/run/listener",
            "listenerMetadata": "MKNOD=/dev/null",
            "syscalls": [
                {
                    "names": ["getcwd", "chmod"],
                    "action": "SCMP_ACT_ERRNO",
                    "errnoRet": 1,
                    "args": [{"index": 0, "value": 2080505856, "valueTwo": 18446744073709551615, "op": "SCMP_CMP_EQ"}],
                },
                {"names": ["mount"], "action": "SCMP_ACT_NOTIFY"},
            ],
        },
        "rootfsPropagation": "slave",
        "maskedPaths": ["/proc/kcore"],
        "readonlyPaths": ["/proc/sys"],
        "mountLabel": "system_u:object_r:svirt_sandbox_file_t:s0:c715,c811",
        "intelRdt": {
            "closID": "guaranteed_group",
            "schemata": ["L3:0=7f0;1=1f", "MB:0=20;1=70"],
            "l3CacheSchema": "L3:0=7f0;1=1f",
            "memBwSchema": "MB:0=20;1=70",
            "enableMonitoring": True,
        },
        "memoryPolicy": {"mode": "MPOL_INTERLEAVE", "nodes": "0-1,3", "flags": ["MPOL_F_STATIC_NODES"]},
        "personality": {"domain": "LINUX32", "flags": []},
        "timeOffsets": {"monotonic": {"secs": -5, "nanosecs": 1}, "boottime": {"secs": 172800}},
    },
}

_TEXT = json.dumps(_FULL)

# members that are maps: their keys are anybody's
MAPS = {"annotations", "sysctl", "rdma", "unified", "netDevices", "timeOffsets"}

Steps = tuple[str | int, ...]


def full() -> dict[str, Any]:
    """A fresh copy, of which no part is there twice."""
    document: dict[str, Any] = json.loads(_TEXT)
    return document


def json_path(steps: Steps) -> str:
    """linux.namespaces[2].type, linux.sysctl["net.ipv4.ip_forward"]"""
    text = ""
    for i, step in enumerate(steps):
        if isinstance(step, int):
            text += f"[{step}]"
        elif i and steps[i - 1] in MAPS:
            text += f"[{json.dumps(step)}]"
        else:
            text += f".{step}"
    return text.removeprefix(".")


def parse_path(path: str) -> Steps:
    """The steps of a path like linux.namespaces[2].type or linux.sysctl[net.core.somaxconn]."""
    steps: list[str | int] = []
    for part in path.split("["):
        step, closed, rest = part.partition("]")
        if closed:
            steps.append(step if steps[-1] in MAPS else int(step))
        else:
            rest = step
        steps.extend(name for name in rest.split(".") if name)
    return tuple(steps)


def walk(value: Any, steps: Steps = ()) -> Iterator[tuple[Steps, Any]]:
    """Every value below, with the way to it; the document itself not."""
    entries: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, entry in entries:
        yield (*steps, step), entry
        yield from walk(entry, (*steps, step))


def parent(config: Any, steps: Steps) -> Any:
    for step in steps[:-1]:
        config = config[step]
    return config


def change(config: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Set what is at `path`, or remove it for `...`; `config` itself, for convenience."""
    steps = parse_path(path)
    where = parent(config, steps)
    if value is ...:
        del where[steps[-1]]
    elif isinstance(where, list) and steps[-1] == len(where):
        where.append(value)
    else:
        where[steps[-1]] = value
    return config
