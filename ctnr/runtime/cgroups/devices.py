# SPDX-License-Identifier: Apache-2.0
"""Which devices a container may use: `linux.resources.devices` as a policy, and the policy as v1 lines or as eBPF.

HOT: imported by `create` and `run`. Pure: nothing here touches the kernel.

The policy is the kernel's own v1 model (security/device_cgroup.c): a default (allow or deny) and a set of exceptions.
Under deny an access is allowed when one exception grants all of it; under allow it is refused when any exception names
part of it. The v2 program is made from the same policy, so both answer alike.

Rules apply in order and a later one wins. The kernel's v1 list does not quite do that: a rule that takes back a part of
an exception is dropped without a word, and so is one that covers several. Here the second takes back what it covers,
and the first, which neither v1 nor runc can express, is an error.
"""

from __future__ import annotations

from _struct import pack
from sys import byteorder

from ctnr.errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

FIELD = "linux.resources.devices"

# Access bits: BPF_DEVCG_ACC_* of linux/bpf.h, the same as DEVCG_ACC_* of the v1 controller
MKNOD = 1
READ = 2
WRITE = 4
ALL = MKNOD | READ | WRITE
_ACCESS = {"m": MKNOD, "r": READ, "w": WRITE}
_BPF_TYPE = {"b": 1, "c": 2}  # BPF_DEVCG_DEV_*
ANY = -1  # a major or minor of "*"
# dev_t has 12 bits of major and 20 of minor; more is a mistake, and 2^32-1 would mean "*" to the kernel
_MAX_MAJOR = (1 << 12) - 1
_MAX_MINOR = (1 << 20) - 1

# What every container gets after its own rules, as runc: type, major, minor, access, after the path by which an entry of
# linux.devices replaces it
DEFAULTS = (
    ("", "c", ANY, ANY, MKNOD),
    ("", "b", ANY, ANY, MKNOD),
    ("/dev/null", "c", 1, 3, ALL),
    ("/dev/random", "c", 1, 8, ALL),
    ("/dev/full", "c", 1, 7, ALL),
    ("/dev/tty", "c", 5, 0, ALL),
    ("/dev/zero", "c", 1, 5, ALL),
    ("/dev/urandom", "c", 1, 9, ALL),
    ("", "c", 136, ANY, ALL),  # /dev/pts/*
    ("", "c", 5, 2, ALL),  # /dev/ptmx
    ("", "c", 10, 200, ALL),  # /dev/net/tun, which Docker's users count on
)


class Policy:
    """A default and its exceptions: `exceptions` maps (type, major, minor) to access bits."""

    __slots__ = ("default_allow", "exceptions")

    def __init__(self, default_allow: bool = False) -> None:
        self.default_allow = default_allow
        self.exceptions: dict[tuple[str, int, int], int] = {}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Policy):
            return NotImplemented
        return self.default_allow == other.default_allow and self.exceptions == other.exceptions

    __hash__ = None  # type: ignore[assignment]

    def reset(self, allow: bool) -> None:
        """Apply a rule of type `a`: everything, without exception."""
        self.default_allow = allow
        self.exceptions = {}

    def apply(self, allow: bool, key: tuple[str, int, int], access: int, field: str, exact: bool = False) -> None:
        """Apply one rule for devices of type `b` or `c`.

        `exact` leaves narrower exceptions alone: a default must not take back what the config says of one device.
        Raises SpecError naming `field` where the rule would have to cut a hole into a wider one.
        """
        if allow != self.default_allow:
            self.exceptions[key] = self.exceptions.get(key, 0) | access
            return
        kind, major, minor = key
        for other, granted in list(self.exceptions.items()):
            if other[0] != kind or not granted & access:
                continue
            covers = major in (ANY, other[1]) and minor in (ANY, other[2])
            if not covers and not (_meet(major, other[1]) and _meet(minor, other[2])):
                continue
            if covers:
                if exact and other != key:
                    continue
                if granted & ~access:
                    self.exceptions[other] = granted & ~access
                else:
                    del self.exceptions[other]
            else:
                what = "allow" if allow else "deny"
                raise SpecError(
                    field,
                    f"cannot {what} a part of the earlier rule {line(other, granted)!r}: cgroup device lists have no"
                    " exceptions to an exception; write the earlier rule narrower",
                )


def policy(rules: Iterable[Mapping[str, Any]], devices: Sequence[Mapping[str, Any]] = ()) -> Policy:
    """The policy of `linux.resources.devices` and the default devices.

    `devices` is `linux.devices`: an entry for the path of a default device replaces that device, which is then not
    allowed by default. Raises SpecError.
    """
    result = Policy()
    for index, rule in enumerate(rules):
        field = f"{FIELD}[{index}]"
        allow = rule.get("allow")
        if not isinstance(allow, bool):
            raise SpecError(f"{field}.allow", "must be true or false")
        kind = rule.get("type") or "a"
        if kind == "a":
            # as the kernel and runc: "a" is everything, whatever major, minor and access say
            result.reset(allow)
            continue
        if kind not in _BPF_TYPE:
            raise SpecError(f"{field}.type", f"{kind!r} is not one of a, b, c")
        major = _number(rule.get("major"), f"{field}.major", _MAX_MAJOR)
        minor = _number(rule.get("minor"), f"{field}.minor", _MAX_MINOR)
        result.apply(allow, (kind, major, minor), _access(rule.get("access"), f"{field}.access"), field)
    replaced = {device.get("path") for device in devices}
    for path, kind, major, minor, access in DEFAULTS:
        if not path or path not in replaced:
            result.apply(True, (kind, major, minor), access, FIELD, exact=True)
    return result


def _meet(one: int, other: int) -> bool:
    return one == other or ANY in (one, other)


def _number(value: int | None, field: str, limit: int) -> int:
    if value is None or value == ANY:
        return ANY
    if not 0 <= value <= limit:
        raise SpecError(field, f"{value} is not a device number: 0 to {limit}, or -1 for all")
    return value


def _access(value: str | None, field: str) -> int:
    bits = 0
    for letter in value or "":
        if letter not in _ACCESS:
            raise SpecError(field, f"{value!r} is not made of r, w and m")
        bits |= _ACCESS[letter]
    if not bits:
        raise SpecError(field, "cannot be empty: give one or more of r, w, m")
    return bits


def line(key: tuple[str, int, int], access: int) -> str:
    """A rule as devices.allow, devices.deny and devices.list spell it, e.g. `c 1:3 rwm`."""
    kind, major, minor = key
    letters = "".join(letter for letter in "rwm" if _ACCESS[letter] & access)
    return f"{kind} {'*' if major == ANY else major}:{'*' if minor == ANY else minor} {letters}"


def parse_list(text: str) -> Policy:
    """The policy that a v1 `devices.list` shows. Under a default of allow the kernel does not list the exceptions."""
    result = Policy()
    for entry in text.splitlines():
        kind, numbers, letters = entry.split(" ")
        if kind == "a":
            return Policy(default_allow=True)
        major, _, minor = numbers.partition(":")
        key = (kind, ANY if major == "*" else int(major), ANY if minor == "*" else int(minor))
        result.exceptions[key] = _access(letters, "devices.list")
    return result


def transition(old: Policy, new: Policy) -> list[tuple[bool, str]]:
    """The (allow, line) writes that turn a v1 cgroup from `old` into `new`, disturbing running processes least."""
    writes: list[tuple[bool, str]] = []
    have = old.exceptions
    # the exceptions of a default of allow cannot be read back, so start it afresh
    if old.default_allow or new.default_allow:
        writes.append((new.default_allow, "a"))
        have = {}
    for key, access in have.items():
        dropped = access & ~new.exceptions.get(key, 0)
        if dropped:
            writes.append((new.default_allow, line(key, dropped)))
    for key, access in new.exceptions.items():
        gained = access & ~have.get(key, 0)
        if gained:
            writes.append((not new.default_allow, line(key, gained)))
    return writes


# --- eBPF. struct bpf_cgroup_dev_ctx { u32 access_type; u32 major; u32 minor; }, access_type is access << 16 | type

_LDX_W = 0x61  # BPF_LDX | BPF_MEM | BPF_W
_AND32_K = 0x54  # BPF_ALU | BPF_AND | BPF_K
_RSH32_K = 0x74
_MOV32_K = 0xB4
_MOV32_X = 0xBC
_JEQ_K = 0x15
_JNE_K = 0x55
_JNE_X = 0x5D
_EXIT = 0x95
_VERDICT, _CTX, _TYPE, _WANTED, _MAJOR, _MINOR = 0, 1, 2, 3, 4, 5  # registers
_TEMP = _CTX  # the context is read up once


def _insn(code: int, dst: int, src: int = 0, off: int = 0, imm: int = 0) -> bytes:
    registers = dst | src << 4 if byteorder == "little" else dst << 4 | src
    return pack("=BBhi", code, registers, off, imm)


def assemble(policy: Policy) -> bytes:
    """The program of type BPF_PROG_TYPE_CGROUP_DEVICE that answers as `policy` does. Returns struct bpf_insn[].

    Only instructions of Linux 4.15, where the program type came in.
    """
    out = [
        _insn(_LDX_W, _TYPE, _CTX, 0),
        _insn(_AND32_K, _TYPE, imm=0xFFFF),
        _insn(_LDX_W, _WANTED, _CTX, 0),
        _insn(_RSH32_K, _WANTED, imm=16),
        _insn(_LDX_W, _MAJOR, _CTX, 4),
        _insn(_LDX_W, _MINOR, _CTX, 8),
    ]
    for (kind, major, minor), access in policy.exceptions.items():
        # each test is (code, dst, src, imm) and jumps to the next block; the moves among them fall through
        tests = [(_JNE_K, _TYPE, 0, _BPF_TYPE[kind])]
        if policy.default_allow:
            # no part of what is wanted may be excepted
            tests += [(_MOV32_X, _TEMP, _WANTED, 0), (_AND32_K, _TEMP, 0, access), (_JEQ_K, _TEMP, 0, 0)]
        elif access != ALL:
            # all of what is wanted must be excepted
            tests += [(_MOV32_X, _TEMP, _WANTED, 0), (_AND32_K, _TEMP, 0, access), (_JNE_X, _TEMP, _WANTED, 0)]
        if major != ANY:
            tests.append((_JNE_K, _MAJOR, 0, major))
        if minor != ANY:
            tests.append((_JNE_K, _MINOR, 0, minor))
        for index, (code, dst, src, imm) in enumerate(tests):
            jump = len(tests) - index + 1 if code in (_JNE_K, _JNE_X, _JEQ_K) else 0
            out.append(_insn(code, dst, src, jump, imm))
        out.append(_insn(_MOV32_K, _VERDICT, imm=int(not policy.default_allow)))
        out.append(_insn(_EXIT, 0))
    out.append(_insn(_MOV32_K, _VERDICT, imm=int(policy.default_allow)))
    out.append(_insn(_EXIT, 0))
    return b"".join(out)
