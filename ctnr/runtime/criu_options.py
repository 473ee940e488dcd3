# SPDX-License-Identifier: Apache-2.0
"""What checkpoint and restore tell CRIU in the same way, from their options and the config."""

from __future__ import annotations

import posix

from ctnr.errors import CtnrError, SpecError, SyscallError
from ctnr.runtime import criu_rpc
from ctnr.runtime.criu_program import privileged
from ctnr.spec.tables import CLONE_NEWNET

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from ctnr.spec.types import Config

# as much as is needed to find out why something failed
LOG_LEVEL = 4
DESCRIPTORS = "descriptors.json"
# of namespaces that were joined by path: CRIU leaves them out, and finds them under these names at restore
EXTERNAL = {"network": ("net", "extRootNetNS"), "pid": ("pid", "extRootPidNS")}
_CONFIG_FILES = ("/etc/criu/ctnr.conf", "/etc/criu/crun.conf", "/etc/criu/runc.conf")


def need_root(what: str) -> None:
    """Refuse for those for whom CRIU cannot do it."""
    if not privileged():
        raise CtnrError(f"{what} takes root outside of any user namespace: CRIU needs it for a container's namespaces")


def cgroup_mode(word: str) -> int:
    mode = criu_rpc.CGROUP_MODES.get(word)
    if mode is None:
        raise CtnrError(f"invalid manage-cgroups-mode value {word!r}: it is one of soft, full, strict, ignore")
    return mode


def lock_method(word: str | None) -> int | None:
    """How CRIU stops packets meanwhile; None: as it likes best."""
    if word is None:
        return None
    method = criu_rpc.NETWORK_LOCKS.get(word)
    if method is None:
        raise CtnrError(f"--network-lock: {word!r} is not one of {', '.join(criu_rpc.NETWORK_LOCKS)}")
    return method


def empty_namespaces(words: Iterable[str]) -> int:
    """The mask of namespaces that are made anew and left empty: the network's always, its devices are not the runtime's."""
    for word in words:
        if word != "network":
            raise CtnrError(f"--empty-ns: namespace {word} is not supported: only network is")
    return CLONE_NEWNET


def own_terminals(config: Config, shell_job: bool) -> bool:
    """Whether a terminal without a master inside is one whose master is ours to hand on, and not the caller's own."""
    return not shell_job or bool((config.get("process") or {}).get("terminal"))


def configuration(config: Config) -> str | None:
    """CRIU's configuration file, whose words go before ours: the one that the annotation org.criu.config names ("": none)."""
    named = (config.get("annotations") or {}).get("org.criu.config")
    if named is not None:
        return named or None
    for path in _CONFIG_FILES:
        if posix.access(path, posix.F_OK):
            return path
    return None


def external_namespaces(config: Config) -> list[str]:
    """Namespaces that the container has joined, which CRIU is to leave as they are."""
    found = []
    for i, namespace in enumerate((config.get("linux") or {}).get("namespaces") or ()):
        path = namespace.get("path", "")
        if path and namespace["type"] in EXTERNAL:
            name, key = EXTERNAL[namespace["type"]]
            try:
                found.append(f"{name}[{posix.stat(path).st_ino}]:{key}")
            except OSError as error:
                raise SyscallError(f"linux.namespaces[{i}].path: look at", error.errno or 0, path) from None
        elif path and namespace["type"] == "cgroup":
            raise SpecError(f"linux.namespaces[{i}]", "CRIU cannot restore a process into an existing cgroup namespace")
    return found
