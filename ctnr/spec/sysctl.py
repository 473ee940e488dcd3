# SPDX-License-Identifier: Apache-2.0
"""linux.sysctl: which kernel parameters belong to a namespace of the container, and where they are in /proc/sys.

HOT: imported by create and run of a container that has any.
"""

from __future__ import annotations

from ctnr.errors import SpecError
from ctnr.spec.schema import member, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container

_IPC = (
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
)
_SWAP = {ord("."): "/", ord("/"): "."}


def sysctl_path(key: str) -> str:
    """The file below /proc/sys of a parameter named with dots or with slashes (sysctl.d(5)).

    The first separator says which of the two it is; the other one then is part of a name:
    `net.ipv4.conf.eno2/100.rp_filter` and `net/ipv4/conf/eno2.100/rp_filter` are the same.
    Raises ValueError for what would leave /proc/sys or is no name.
    """
    dot, slash = key.find("."), key.find("/")
    path = key if slash >= 0 and (dot < 0 or slash < dot) else key.translate(_SWAP)
    if "/" not in path or any(part in ("", ".", "..") for part in path.split("/")):
        raise ValueError(f"{quote(key)} does not name a sysctl")
    return path


def check_sysctl(sysctl: dict[str, str], namespaces: Container[str], path: str) -> None:
    """SpecError for a parameter that is not the container's own, in runc's words.

    Whether a network namespace that is joined is the runtime's own (which must not be changed) takes a look at it.
    """
    for key in sysctl:
        where = path + member(key)
        try:
            file = sysctl_path(key)
        except ValueError as e:
            raise SpecError(where, str(e)) from None
        name = file.translate(_SWAP)
        if name in _IPC or name.startswith("fs.mqueue."):
            if "ipc" not in namespaces:
                raise SpecError(where, f"sysctl {quote(name)} is not allowed in the hosts ipc namespace")
        elif name.startswith("net."):
            if "network" not in namespaces:
                raise SpecError(where, f"sysctl {quote(name)} not allowed in host network namespace")
        elif name == "kernel.hostname" and "uts" in namespaces:
            raise SpecError(where, f'sysctl {quote(name)} is not allowed as it conflicts with the OCI "hostname" field')
        elif name == "kernel.domainname" and "uts" in namespaces:
            pass
        elif name.startswith("user."):
            if "user" not in namespaces:
                raise SpecError(where, f"setting ucounts without a user namespace not allowed: {quote(name)}")
        else:
            raise SpecError(where, f"sysctl {quote(name)} is not in a separate kernel namespace")
