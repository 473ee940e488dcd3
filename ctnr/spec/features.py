# SPDX-License-Identifier: Apache-2.0
"""The document that `features` prints (runtime-spec features.md, features-linux.md).

HOT: imported by features. The names are those of the tables; what of it works is the caller's to say.
"""

from __future__ import annotations

from ctnr.spec.seccomp import ACTIONS, FLAGS, OPERATORS
from ctnr.spec.tables import (
    CAPABILITIES,
    HOOKS,
    MEMORY_POLICIES,
    MEMORY_POLICY_FLAGS,
    MOUNT_EXTENSIONS,
    MOUNT_FLAGS,
    MOUNT_PROPAGATION,
    MOUNT_RECURSIVE,
    NAMESPACES,
    OCI_VERSION,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from ctnr.spec.types import Features


def features(
    *,
    version: str,
    commit: str = "",
    cgroup_v1: bool,
    cgroup_v2: bool,
    systemd: bool,
    systemd_user: bool,
    rdma: bool,
    seccomp: bool,
    seccomp_flags: Iterable[str] = (),
    seccomp_archs: Iterable[str] = (),
    libseccomp: str = "",
    apparmor: bool,
    selinux: bool,
    intel_rdt: bool,
    memory_policy: bool,
    idmap: bool,
    net_devices: bool,
    checkpoint: bool,
    unsafe_annotations: Iterable[str] = (),
) -> Features:
    """What this runtime can do, the host aside, as runc's features document says it.

    seccomp_archs: those of `ctnr.spec.seccomp.ARCHITECTURES` that libseccomp knows.
    seccomp_flags: those of `ctnr.spec.seccomp.FLAGS` that the kernel and libseccomp (of version `libseccomp`) know.
    unsafe_annotations: annotations that change what the runtime does; one that ends in "." is a prefix.
    """
    mount_options = [*MOUNT_FLAGS, *MOUNT_RECURSIVE, *MOUNT_PROPAGATION, *MOUNT_EXTENSIONS]
    if not idmap:
        mount_options = [o for o in mount_options if o not in ("idmap", "ridmap")]
    supported = set(seccomp_flags)
    document: Features = {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": OCI_VERSION,
        "hooks": list(HOOKS),
        "mountOptions": sorted(mount_options),
        "linux": {
            "namespaces": sorted(NAMESPACES),
            "capabilities": list(CAPABILITIES),
            "cgroup": {
                "v1": cgroup_v1,
                "v2": cgroup_v2,
                "systemd": systemd,
                "systemdUser": systemd_user,
                "rdma": rdma,
            },
            "seccomp": {"enabled": False},
            "apparmor": {"enabled": apparmor},
            "selinux": {"enabled": selinux},
            "intelRdt": {"enabled": intel_rdt, "schemata": intel_rdt, "monitoring": intel_rdt},
            "mountExtensions": {"idmap": {"enabled": idmap}},
            "netDevices": {"enabled": net_devices},
        },
        "annotations": {
            "io.ctnr.version": version,
            # the name under which containerd and podman look
            "org.opencontainers.runc.checkpoint.enabled": "true" if checkpoint else "false",
        },
        "potentiallyUnsafeConfigAnnotations": sorted(unsafe_annotations),
    }
    if commit:
        document["annotations"]["io.ctnr.commit"] = commit
    if memory_policy:
        document["linux"]["memoryPolicy"] = {"modes": sorted(MEMORY_POLICIES), "flags": sorted(MEMORY_POLICY_FLAGS)}
    if seccomp:
        document["linux"]["seccomp"] = {
            "enabled": True,
            "actions": sorted(ACTIONS),
            "operators": sorted(OPERATORS),
            "archs": sorted(seccomp_archs),
            "knownFlags": list(FLAGS),
            "supportedFlags": [flag for flag in FLAGS if flag in supported],
        }
        if libseccomp:
            document["annotations"]["io.github.seccomp.libseccomp.version"] = libseccomp
    return document
