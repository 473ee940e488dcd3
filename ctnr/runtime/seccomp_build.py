# SPDX-License-Identifier: Apache-2.0
"""From a runtime-spec `linux.seccomp` section to a filter: what runc makes of one.

HOT imports only, but loaded for a filter that is not in the cache (ctnr/runtime/seccomp.py).
"""

from __future__ import annotations

import errno
import sys

from ctnr import log
from ctnr.errors import CtnrError, SpecError
from ctnr.runtime import seccomp_bpf as bpf
from ctnr.spec.seccomp import ACTIONS, ARCHITECTURES, FLAGS, OPERATORS, RECEIVER, check_seccomp, listener

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ctnr.runtime.seccomp_bpf import Answer, Condition, Range
    from ctnr.spec.types import Seccomp

    # the name of a call, the action, and lists of conditions, all of one of which must hold
    Rule = tuple[str, int, list[list[Condition]]]

_KILL = ACTIONS["SCMP_ACT_KILL_THREAD"]
_ERRNO = ACTIONS["SCMP_ACT_ERRNO"]
_ENOSYS = _ERRNO | errno.ENOSYS
# the kernel lets these pass, if only by the leave of a tracer
_PERMISSIVE = [ACTIONS[name] for name in ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE")]
_HAS_ERRNO = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")

_SPEC_ALLOW = FLAGS["SECCOMP_FILTER_FLAG_SPEC_ALLOW"]

_X86_64 = ARCHITECTURES["SCMP_ARCH_X86_64"]
_X32 = ARCHITECTURES["SCMP_ARCH_X32"]
_X32_BIT = 0x40000000
_S390 = (ARCHITECTURES["SCMP_ARCH_S390"], ARCHITECTURES["SCMP_ARCH_S390X"])
# of an AUDIT_ARCH_* (linux/audit.h)
_LITTLE_ENDIAN = 0x40000000
_64_BIT = 0x80000000
_N32 = 0x20000000

# libseccomp's pseudo numbers of what is multiplexed: minus the number in socketcall(2) or ipc(2), and that
_SOCKETCALL = 100
_IPC = 200
_MULTIPLEXED = 100

_MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS


class Built:
    """A compiled section. `library` is the path libseccomp was loaded from."""

    __slots__ = ("flags", "library", "program")

    def __init__(self, program: bytes, flags: int, library: str) -> None:
        self.program = program
        self.flags = flags
        self.library = library


def build(section: Seccomp, path: str, fail_unknown: bool = False) -> Built:
    """Compile `section`, which stands at the JSON path `path`; `fail_unknown`: an unknown system call is an error.

    Raises SpecError naming the field that is wrong or that libseccomp or the kernel does not know, CtnrError without
    libseccomp.
    """
    check_seccomp(section, path, "unknown here")
    default = _action(section["defaultAction"], section.get("defaultErrnoRet"), f"{path}.defaultAction")
    rules = _rules(section, path)
    architectures = section.get("architectures") or []
    names = [rule[0] for rule in rules]
    known = _resolve([ARCHITECTURES[name] for name in architectures], [*names, "socketcall", "ipc"])
    for i, name in enumerate(architectures):
        _check_arch(ARCHITECTURES[name], name, known["archs"], f"{path}.architectures[{i}]")
    flags = _flags(section, path, known["flags"])
    program = filter_of(rules, default, known["native"], known["archs"])
    size = len(program) // bpf.SIZE
    if size > _MAX_INSTRUCTIONS:
        raise SpecError(path, f"makes {size} instructions, the kernel takes {_MAX_INSTRUCTIONS}: use fewer rules")
    for name, number in zip(names, known["archs"][known["native"]][0], strict=False):
        if number == -1:
            # a call newer, or older, than this libseccomp
            if fail_unknown:
                raise SpecError(f"{path}.syscalls", f"this version of libseccomp does not know {name!r}")
            log.debug(f"unknown seccomp syscall {name!r} ignored")
    return Built(program, flags, known["library"])


def library_version() -> str:
    """libseccomp's version, e.g. "2.5.4". Raises CtnrError if there is none."""
    version: str = _resolve([], [])["version"]
    return version


def supported_flags() -> list[str]:
    """Those of FLAGS that this kernel knows. Raises CtnrError without libseccomp."""
    mask: int = _resolve([], [])["flags"]
    return [name for name, flag in FLAGS.items() if mask & flag]


def supported_architectures() -> list[str]:
    """Those of ARCHITECTURES that a filter can be made for here: this libseccomp knows them, and the byte order is the
    machine's. Raises CtnrError without libseccomp."""
    known = _resolve(list(ARCHITECTURES.values()), [])["archs"]
    little = sys.byteorder == "little"
    return [n for n, token in ARCHITECTURES.items() if token in known and (token & _LITTLE_ENDIAN != 0) == little]


def _resolve(tokens: list[int], names: list[str]) -> dict[str, Any]:
    from ctnr._native import seccomp_resolve

    try:
        known: dict[str, Any] = seccomp_resolve(tokens, names)
    except ImportError as e:
        raise CtnrError(f"cannot make the seccomp filter: {e}") from e
    return known


# --- the section's parts


def _action(name: str, errno_ret: int | None, path: str) -> int:
    """The SECCOMP_RET_* value of an action with its errno, by default EPERM."""
    if name not in _HAS_ERRNO:
        return ACTIONS[name]
    return ACTIONS[name] | (errno.EPERM if errno_ret is None else errno_ret)


def _rules(section: Seccomp, path: str) -> list[Rule]:
    rules: list[Rule] = []
    for i, entry in enumerate(section.get("syscalls") or []):
        action = _action(entry["action"], entry.get("errnoRet"), f"{path}.syscalls[{i}].action")
        conditions = [
            (arg["index"], OPERATORS[arg["op"]], arg["value"], arg.get("valueTwo") or 0)
            for arg in entry.get("args") or []
        ]
        alternatives = [conditions]
        if len({condition[0] for condition in conditions}) < len(conditions):
            # libseccomp takes one condition for an argument; runc and crun make all of the entry's alternatives then
            alternatives = [[condition] for condition in conditions]
        # what is no ASCII is no system call, and may be no UTF-8
        rules += [(name if name.isascii() else ascii(name), action, alternatives) for name in entry["names"]]
    return rules


def _check_arch(token: int, name: str, known: dict[int, Any], path: str) -> None:
    # as libseccomp: a program has one byte order
    if (token & _LITTLE_ENDIAN != 0) != (sys.byteorder == "little"):
        raise SpecError(path, f"{name} has not this machine's byte order")
    if token not in known:
        raise SpecError(path, f"this version of libseccomp does not know {name}")


def _flags(section: Seccomp, path: str, supported: int) -> int:
    names = section.get("flags")
    if names is None:
        # runc's and crun's default: no mitigation of speculative store bypass for what did not ask for a filter itself
        return _SPEC_ALLOW & supported
    flags = 0
    for i, name in enumerate(names):
        at = f"{path}.flags[{i}]"
        if not FLAGS[name] & supported:
            raise SpecError(at, f"this kernel does not know {name}")
        if name == "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" and not listener(section, {RECEIVER: "/"}):
            raise SpecError(at, f"the kernel takes {name} only with SCMP_ACT_NOTIFY")
        # as runc: the program is of one thread, and all that come inherit the filter
        if name != "SECCOMP_FILTER_FLAG_TSYNC":
            flags |= FLAGS[name]
    return flags


# --- the filter


def filter_of(
    rules: list[Rule], default: int, native: int, archs: dict[int, tuple[list[int], dict[str, int]]]
) -> bytes:
    """The program for `archs`, as seccomp_resolve has them of the rules' names, "socketcall" and "ipc".

    Of the rules for one call the first without conditions decides; else the first whose conditions hold; else `default`.
    """
    spaces = {token: _space(token, rules, default, *archs[token]) for token in archs}
    parts: dict[int, list[Range]] = {}
    for token in [native, *archs]:
        if token not in (_X86_64, _X32):
            parts[token] = spaces[token]
        else:
            # one to the kernel: the calls of x32 have a bit of their own. -1 is what a tracer leaves to skip a call
            low = spaces.get(_X86_64) or [(0, _KILL, True)]
            high = spaces.get(_X32) or [(_X32_BIT, _KILL, True), (0xFFFFFFFF, default, True)]
            parts[_X86_64] = low + high
    return bpf.assemble(parts, default, _KILL)


def _space(token: int, rules: list[Rule], default: int, numbers: list[int], direct: dict[str, int]) -> list[Range]:
    """What the system calls of an architecture meet."""
    calls: dict[int, Answer] = {}
    socketcall, ipc = numbers[len(rules) :]
    last = 0
    for (name, action, alternatives), number in zip(rules, numbers, strict=False):
        own = direct.get(name, number)
        last = max(last, own)
        if action == default:
            continue
        if own >= 0:
            _add(calls, own, action, alternatives)
        for base, call in ((_SOCKETCALL, socketcall), (_IPC, ipc)):
            if call >= 0 and base < -number < base + _MULTIPLEXED:
                # the arguments themselves are in memory, out of a filter's reach; as libseccomp, the other conditions
                # look at socketcall's and ipc's own
                chosen = (0, bpf.EQ, -number - base, 0)
                _add(calls, call, action, [[chosen, *(c for c in some if c[0] != 0)] for some in alternatives])
    enosys = _wants_enosys(default) and last > 0
    if enosys and token in _S390:
        # a large number reaches the kernel in a register; what it does not know looks like setup(2), number 0
        calls[0] = _ENOSYS
    wide = token & _64_BIT != 0 and token & _N32 == 0
    start = _X32_BIT if token == _X32 else 0
    ranges: list[Range] = []
    for number in sorted(calls):
        if number > start:
            ranges.append((start, default, wide))
        answer = calls[number]
        if not ranges or ranges[-1][1] != answer:
            ranges.append((number, answer, wide))
        start = number + 1
    if start <= last or not enosys:
        ranges.append((start, default, wide))
    if enosys:
        ranges.append((last + 1, _ENOSYS, wide))
    return ranges


def _add(calls: dict[int, Answer], number: int, action: int, alternatives: list[list[Condition]]) -> None:
    answer = calls.setdefault(number, [])
    for conditions in alternatives:
        if isinstance(answer, int):
            return
        if not conditions:
            answer = calls[number] = action
        elif (conditions, action) not in answer:
            answer.append((conditions, action))


def _wants_enosys(default: int) -> bool:
    """Whether calls newer than any that the profile names, by their number, are to answer ENOSYS.

    As runc (libcontainer/seccomp/patchbpf): a libc tries the newest call first and falls back on ENOSYS, not on EPERM, so
    a profile older than the libc would break it (opencontainers/runc#2151).
    """
    return default & 0xFFFF0000 not in _PERMISSIVE
