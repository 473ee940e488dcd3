# SPDX-License-Identifier: Apache-2.0
"""Landlock (landlock(7)), by the annotation io.ctnr.landlock or `ctnr.Landlock`: what is handled, and what of it is allowed.

HOT imports only, but loaded for a container that has any. Strict unless it says best_effort: what this kernel does not know is
an error, not a hole.
"""

from __future__ import annotations

from ctnr import jsonio, log
from ctnr._native import landlock_abi
from ctnr.errors import SpecError
from ctnr.runtime import plan as p
from ctnr.spec.schema import BOOL, U16, check, list_of, map_of, member, one_of, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from ctnr.runtime.plan import Plan

ANNOTATION = "io.ctnr.landlock"

# linux/landlock.h: LANDLOCK_ACCESS_FS_*, in the order of their bits, and the ABI that brought each
_FS = {
    "execute": 1,
    "write_file": 1,
    "read_file": 1,
    "read_dir": 1,
    "remove_dir": 1,
    "remove_file": 1,
    "make_char": 1,
    "make_dir": 1,
    "make_reg": 1,
    "make_sock": 1,
    "make_fifo": 1,
    "make_block": 1,
    "make_sym": 1,
    "refer": 2,
    "truncate": 3,
    "ioctl_dev": 5,
}
ACCESS_FS = {name: 1 << bit for bit, name in enumerate(_FS)}
READ = ("read_file", "read_dir")
WRITE = tuple(name for name in _FS if name not in (*READ, "execute"))
# what a rule may say for several
GROUPS = {"read": READ, "write": WRITE}
_LETTERS = {"r": "read", "w": "write", "x": "execute"}
BIND_TCP, CONNECT_TCP, _NET_ABI = 1, 2, 4
SCOPES = {"abstract_unix_socket": 1, "signal": 2}
_SCOPE_ABI = 6
LOG = {"same_exec_off": 1, "new_exec_on": 2, "subdomains_off": 4}
_LOG_ABI = 7
# struct landlock_ruleset_attr as each ABI has it
_SIZES = ((6, 24), (4, 16), (1, 8))

_RIGHT = one_of((*_FS, *GROUPS), "Landlock right")
_DOCUMENT = record(
    {
        "fs": map_of(list_of(_RIGHT)),
        "handled_fs": list_of(_RIGHT),
        "bind_tcp": list_of(U16),
        "connect_tcp": list_of(U16),
        "scoped": list_of(one_of(SCOPES, "Landlock scope")),
        "log": list_of(one_of(LOG, "Landlock log flag")),
        "best_effort": BOOL,
    },
    (),
    "member",
)


class Landlock:
    """What a container's processes may still do of what is handled.

    fs: path in the container -> rights below it, "rx" in letters (read, write, execute) or names (landlock(7), in lower case);
    with it everything of handled_fs (default: all there is) is denied elsewhere. bind_tcp, connect_tcp: ports; None: any.
    scoped: "abstract_unix_socket", "signal": not beyond the container's processes. log: "same_exec_off", "new_exec_on",
    "subdomains_off". best_effort: leave out what this kernel does not know, and paths that are not there; else that is
    an error.
    """

    __slots__ = ("document",)

    def __init__(
        self,
        fs: Mapping[str, str | Iterable[str]] | None = None,
        *,
        handled_fs: Iterable[str] | None = None,
        bind_tcp: Iterable[int] | None = None,
        connect_tcp: Iterable[int] | None = None,
        scoped: Iterable[str] = (),
        log: Iterable[str] = (),
        best_effort: bool = False,
    ) -> None:
        self.document: dict[str, Any] = {}
        if fs is not None:
            self.document["fs"] = {path: _names(rights) for path, rights in fs.items()}
        for name, value in (("handled_fs", handled_fs), ("bind_tcp", bind_tcp), ("connect_tcp", connect_tcp)):
            if value is not None:
                self.document[name] = list(value)
        self.document.update(scoped=list(scoped), log=list(log), best_effort=best_effort)
        check(self.document, _DOCUMENT, "landlock")

    def json(self) -> str:
        """The annotation's value."""
        return jsonio.dumps(self.document)


def _names(rights: str | Iterable[str]) -> list[str]:
    return [_LETTERS.get(letter, letter) for letter in rights] if isinstance(rights, str) else list(rights)


def _mask(rights: Iterable[str]) -> int:
    mask = 0
    for right in rights:
        for name in GROUPS.get(right, (right,)):
            mask |= ACCESS_FS[name]
    return mask


def parse(text: str, path: str) -> dict[str, Any]:
    """The document, checked. SpecError."""
    try:
        document = jsonio.loads(text)
    except ValueError as error:
        raise SpecError(path, f"is not JSON: {error}") from None
    check(document, _DOCUMENT, path)
    for where in document.get("fs", ()):
        if not where.startswith("/"):
            raise SpecError(f"{path}.fs{member(where)}", "must be an absolute path in the container")
    return document  # type: ignore[no-any-return]


def compile(plan: Plan, text: str, uid: int, path: str = f'annotations["{ANNOTATION}"]') -> None:
    """Add the steps. SpecError for what is wrong, or, strictly, more than this kernel knows."""
    document = parse(text, path)
    best_effort = document.get("best_effort", False)
    abi = landlock_abi()
    if not abi:
        if not best_effort:
            raise SpecError(path, "this kernel has no Landlock, or it is not among the LSMs that it was booted with")
        log.warning(f"{path}: this kernel has no Landlock: nothing is enforced")
        return

    def known(what: str, needs: int) -> bool:
        if needs <= abi:
            return True
        if not best_effort:
            raise SpecError(f"{path}.{what}", f"needs Landlock ABI {needs}, this kernel has {abi}: or say best_effort")
        log.warning(f"{path}.{what}: needs Landlock ABI {needs}, this kernel has {abi}: not enforced")
        return False

    handled = 0
    if "fs" in document or "handled_fs" in document:
        wanted = _mask(document.get("handled_fs", _FS))
        for name, needs in _FS.items():
            if wanted & ACCESS_FS[name] and known("handled_fs" if "handled_fs" in document else f"fs: {name}", needs):
                handled |= ACCESS_FS[name]
    net = 0
    for name, access in (("bind_tcp", BIND_TCP), ("connect_tcp", CONNECT_TCP)):
        if name in document and known(name, _NET_ABI):
            net |= access
    scoped = 0
    if document.get("scoped") and known("scoped", _SCOPE_ABI):
        for name in document["scoped"]:
            scoped |= SCOPES[name]
    flags = 0
    if document.get("log") and known("log", _LOG_ABI):
        for name in document["log"]:
            flags |= LOG[name]
    if not (handled or net or scoped):
        if not best_effort:
            raise SpecError(path, "handles nothing: fs, bind_tcp, connect_tcp or scoped")
        return
    size = next(size for since, size in _SIZES if abi >= since)
    plan.add(p.LANDLOCK, path, args=(handled, net, scoped, size))
    for where, rights in document.get("fs", {}).items():
        field = f"{path}.fs{member(where)}"
        allowed = _mask(rights)
        if "handled_fs" in document and (beyond := allowed & ~_mask(document["handled_fs"])):
            if any(right in _FS and ACCESS_FS[right] & beyond for right in rights):
                raise SpecError(field, "allows what is not among handled_fs")
        if allowed & handled:
            optional = p.LANDLOCK_OPTIONAL if best_effort else 0
            plan.add(p.LANDLOCK_PATH, field, where, args=(allowed & handled,), flags=optional)
    for name, access in (("bind_tcp", BIND_TCP), ("connect_tcp", CONNECT_TCP)):
        for i, port in enumerate(document.get(name, ()) if net & access else ()):
            plan.add(p.LANDLOCK_PORT, f"{path}.{name}[{i}]", args=(access, port))
    plan.add(p.LANDLOCK_SELF, path, args=(flags, uid))
