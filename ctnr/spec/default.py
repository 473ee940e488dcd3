# SPDX-License-Identifier: Apache-2.0
"""The configuration that `spec` writes: runc's, so that whoever knows `runc spec` finds nothing new.

HOT: imported by spec and by `ctnr run`.
"""

from __future__ import annotations

from ctnr.spec.tables import OCI_VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctnr.spec.types import Config, Mount, Namespace, NamespaceType


def default_config(rootless: bool = False, uid: int = 0, gid: int = 0, *, cgroup_namespace: bool = True) -> Config:
    """A new configuration of `sh` at a terminal in the bundle's `rootfs`, read-only, with few rights.

    rootless: for a caller who is not root: `uid` and `gid`, the caller's own effective ones, become 0 in a new user
        namespace; the network and /sys are the host's, and no resources are set.
    cgroup_namespace: whether to have one; runc has it where the host's cgroups are all version 2.
    """
    kinds: list[NamespaceType] = ["pid", "network", "ipc", "uts", "mount"]
    if cgroup_namespace:
        kinds.append("cgroup")
    config: Config = {
        "ociVersion": OCI_VERSION,
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {
                "bounding": ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"],
                "effective": ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"],
                "permitted": ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"],
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "ctnr",
        "mounts": _mounts(),
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": kind} for kind in kinds],
            "maskedPaths": [
                "/proc/acpi",
                "/proc/asound",
                "/proc/kcore",
                "/proc/keys",
                "/proc/latency_stats",
                "/proc/timer_list",
                "/proc/timer_stats",
                "/proc/sched_debug",
                "/sys/firmware",
                "/proc/scsi",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    }
    return _rootless(config, uid, gid) if rootless else config


def _mounts() -> list[Mount]:
    return [
        {"destination": "/proc", "type": "proc", "source": "proc"},
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
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
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
        {
            "destination": "/sys",
            "type": "sysfs",
            "source": "sysfs",
            "options": ["nosuid", "noexec", "nodev", "ro"],
        },
        {
            "destination": "/sys/fs/cgroup",
            "type": "cgroup",
            "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "relatime", "ro"],
        },
    ]


def _rootless(config: Config, uid: int, gid: int) -> Config:
    linux = config["linux"]
    del linux["resources"]
    namespaces: list[Namespace] = [n for n in linux["namespaces"] if n["type"] != "network"]
    config["linux"] = {
        "uidMappings": [{"containerID": 0, "hostID": uid, "size": 1}],
        "gidMappings": [{"containerID": 0, "hostID": gid, "size": 1}],
        **linux,
        "namespaces": [*namespaces, {"type": "user"}],
    }
    for mount in config["mounts"]:
        if mount["destination"] == "/sys":
            # a new sysfs needs a network namespace of one's own
            mount["type"] = "none"
            mount["source"] = "/sys"
            mount["options"] = ["rbind", "nosuid", "noexec", "nodev", "ro"]
        elif "options" in mount:
            # only one id is mapped: devpts could not have its gid=5
            mount["options"] = [o for o in mount["options"] if not o.startswith(("uid=", "gid="))]
    return config
