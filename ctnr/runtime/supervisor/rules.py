# SPDX-License-Identifier: Apache-2.0
"""on_syscall in a configuration: the rules that make the kernel ask, and the numbers by which it does."""

from __future__ import annotations

import platform
from errno import ENOSYS

from ctnr import _native
from ctnr.errors import CtnrError, SpecError
from ctnr.spec.seccomp import ARCHITECTURES, FLAGS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from ctnr.spec.types import Config, Seccomp

# what programs of 32 bits, and of x32, call as well; any other architecture is killed by the filter
_COMPATIBLE = {
    "x86_64": ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"),
    "aarch64": ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"),
}
# these do without system calls what others are asked about
_IO_URING = ["io_uring_setup", "io_uring_enter", "io_uring_register"]
_SPEC_ALLOW, _WAIT_KILLABLE = "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"
_X32, _X86_64 = ARCHITECTURES["SCMP_ARCH_X32"], ARCHITECTURES["SCMP_ARCH_X86_64"]
# as in seccomp_build.py: what is multiplexed has a pseudo number there
_MULTIPLEXERS = (("socketcall", 100), ("ipc", 200))


class Numbers:
    """`direct`: (AUDIT_ARCH_*, number) -> name; `multiplexed`: (AUDIT_ARCH_*, number) -> {first argument: name}."""

    __slots__ = ("direct", "multiplexed")

    def __init__(self) -> None:
        self.direct: dict[tuple[int, int], str] = {}
        self.multiplexed: dict[tuple[int, int], dict[int, str]] = {}


def with_notifications(config: Config, names: Iterable[str], path: str) -> Config:
    """The config with a rule for each name, before all other rules for it; who is asked listens at `path`.

    Raises CtnrError for a name that is no system call, or that cannot be asked about.
    """
    names = sorted(names)
    if "write" in names:
        raise CtnrError("on_syscall: 'write' cannot be asked about")
    linux = {**(config.get("linux") or {})}
    section: Seccomp
    if found := linux.get("seccomp"):
        section = {**found}  # type: ignore[typeddict-item]
    else:
        section = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": list(_COMPATIBLE.get(platform.machine(), ()))}
    if section.get("listenerPath") or any(r["action"] == "SCMP_ACT_NOTIFY" for r in section.get("syscalls") or ()):
        raise SpecError("linux.seccomp.listenerPath", "somebody else is asked already, so on_syscall cannot be")
    unasked = [name for name in _IO_URING if name not in names]
    rules: list[Any] = [
        {"names": names, "action": "SCMP_ACT_NOTIFY"},
        *([{"names": unasked, "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS}] if unasked else ()),
    ]
    section["syscalls"] = [*rules, *(section.get("syscalls") or ())]
    section["listenerPath"] = path
    supported = _resolve([], [])["flags"]
    if supported & FLAGS[_WAIT_KILLABLE]:
        # a signal does not end a call that a callback works on already: it would be made, and done, twice
        flags = section.get("flags")
        if flags is None:
            flags = [_SPEC_ALLOW] if supported & FLAGS[_SPEC_ALLOW] else []
        section["flags"] = [*flags, *([] if _WAIT_KILLABLE in flags else [_WAIT_KILLABLE])]
    linux["seccomp"] = section
    changed: Config = {**config, "linux": linux}  # type: ignore[typeddict-item]
    return changed


def numbers(section: Seccomp, names: Iterable[str]) -> Numbers:
    """What the kernel will call `names` by, on the architectures of the section. CtnrError for no system call."""
    names = list(names)
    found = Numbers()
    known = _resolve(
        [ARCHITECTURES[name] for name in section.get("architectures") or ()], [*names, *(m[0] for m in _MULTIPLEXERS)]
    )["archs"]
    seen = set()
    for token, (values, direct) in known.items():
        arch = _X86_64 if token == _X32 else token
        multiplexers = values[len(names) :]
        for name, value in zip(names, values, strict=False):
            own = direct.get(name, value)
            if own >= 0:
                found.direct[arch, own] = name
            for (_, base), number in zip(_MULTIPLEXERS, multiplexers, strict=True):
                if number >= 0 and base < -value < base + 100:
                    found.multiplexed.setdefault((arch, number), {})[-value - base] = name
            if value != -1:
                seen.add(name)
    for name in names:
        if name not in seen:
            raise CtnrError(f"on_syscall: {name!r} is not a system call that this version of libseccomp knows")
    return found


def _resolve(tokens: list[int], names: list[str]) -> dict[str, Any]:
    try:
        return _native.seccomp_resolve(tokens, names)
    except ImportError as error:
        raise CtnrError(f"on_syscall: {error}") from None
