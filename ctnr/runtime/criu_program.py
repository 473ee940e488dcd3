# SPDX-License-Identifier: Apache-2.0
"""Where CRIU is, and who can use it.

HOT: imported by features.
"""

from __future__ import annotations

import posix

from ctnr import files
from ctnr.runtime import state

_SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def search_path() -> str:
    """$PATH, and where CRIU and the iptables that it calls are for those whose PATH has no sbin."""
    path = files.getenv("PATH") or _DEFAULT_PATH
    have = path.split(":")
    return ":".join([path, *(name for name in _SBIN if name not in have)])


def find(name: str = "criu") -> str | None:
    """The path of a program there; None if it is nowhere."""
    for directory in search_path().split(":"):
        if directory.startswith("/") and posix.access(f"{directory}/{name}", posix.X_OK):
            return f"{directory}/{name}"
    return None


def privileged() -> bool:
    """Whether CRIU can handle containers: for all of their namespaces it needs the machine's root."""
    return posix.geteuid() == 0 and not state.in_user_namespace()


def checkpoint_possible() -> bool:
    """Whether checkpoint and restore can be tried here: CRIU is there, for one who may use it. CRIU alone knows the rest."""
    return privileged() and find() is not None
