# SPDX-License-Identifier: Apache-2.0
"""What this runtime can do, for `features` (runtime-spec features.md): what later versions will add is false here.

HOT: imported by features.
"""

from __future__ import annotations

from ctnr import __version__
from ctnr._native import landlock_abi
from ctnr.errors import CtnrError
from ctnr.runtime import seccomp_build
from ctnr.runtime.criu_program import checkpoint_possible
from ctnr.spec.features import features as document

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctnr.spec.types import Features


def features() -> Features:
    """The document. Seccomp is there if libseccomp is, which is loaded when it is needed."""
    try:
        library, flags = seccomp_build.library_version(), seccomp_build.supported_flags()
        architectures = seccomp_build.supported_architectures()
    except CtnrError:
        library, flags, architectures = "", [], []
    found = document(
        version=__version__,
        cgroup_v1=True,
        cgroup_v2=True,
        systemd=True,
        systemd_user=True,
        rdma=True,
        seccomp=bool(library),
        seccomp_flags=flags,
        seccomp_archs=architectures,
        libseccomp=library,
        apparmor=True,
        selinux=True,
        intel_rdt=True,
        memory_policy=True,
        idmap=True,
        net_devices=True,
        checkpoint=checkpoint_possible(),
        unsafe_annotations=("run.oci.", "org.criu.config", "org.systemd.property."),
    )
    found["annotations"]["io.ctnr.landlock.abi"] = str(landlock_abi())
    return found
