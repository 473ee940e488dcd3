# SPDX-License-Identifier: Apache-2.0
"""What CRIU has restored, compared with the config: the image may be another container's than the bundle's.

Imported only by restore. It guards against mistakes, not against a forged image: that can say anything about a process.
"""

from __future__ import annotations

import posix

from ctnr import files
from ctnr.errors import CtnrError
from ctnr.runtime.compile import capability_mask
from ctnr.spec.tables import NAMESPACES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctnr.spec.types import Config

_FILES = {"network": "net", "mount": "mnt"}


def check(config: Config, pid: int) -> None:
    """Raise CtnrError unless the process is as confined as the config says."""
    for namespace in (config.get("linux") or {}).get("namespaces") or ():
        name = namespace["type"]
        assert name in NAMESPACES
        kind = _FILES.get(name, name)
        if not namespace.get("path") and _link(pid, kind) == _link(posix.getpid(), kind):
            raise CtnrError(
                f"the image does not fit the bundle: its process is in the host's {name} namespace,"
                " and linux.namespaces says it has its own"
            )
    status = dict(
        line.split(":", 1) for line in files.read_file(f"/proc/{pid}/status").decode().splitlines() if ":" in line
    )
    process = config.get("process") or {}
    allowed = capability_mask((process.get("capabilities") or {}).get("bounding"))
    more = int(status["CapBnd"], 16) & ~allowed
    if more:
        raise CtnrError(
            "the image does not fit the bundle: its process has more capabilities"
            f" than process.capabilities.bounding ({more:#x})"
        )
    if process.get("noNewPrivileges") and status.get("NoNewPrivs", "").strip() != "1":
        raise CtnrError("the image does not fit the bundle: its process may gain privileges (process.noNewPrivileges)")
    if (config.get("linux") or {}).get("seccomp") and status.get("Seccomp", "").strip() == "0":
        raise CtnrError("the image does not fit the bundle: its process has no seccomp filter (linux.seccomp)")


def _link(pid: int, kind: str) -> str:
    return posix.readlink(f"/proc/{pid}/ns/{kind}")
