# SPDX-License-Identifier: Apache-2.0
"""What seccomp filters are held against: a cBPF interpreter, libseccomp's own generator, and a model of the rules."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import struct
import sys
from collections.abc import Iterable, Sequence

from ctnr.spec.seccomp import ACTIONS, ARCHITECTURES

Condition = tuple[int, int, int, int]  # argument, enum scmp_compare, value, value2
Rule = tuple[str, int, list[list[Condition]]]

U64 = 2**64 - 1
KILL = ACTIONS["SCMP_ACT_KILL"]
ALLOW = ACTIONS["SCMP_ACT_ALLOW"]
ERRNO = ACTIONS["SCMP_ACT_ERRNO"]
ENOSYS = ERRNO | errno.ENOSYS
X86, X86_64, X32 = (ARCHITECTURES[f"SCMP_ARCH_{name}"] for name in ("X86", "X86_64", "X32"))
S390 = tuple(ARCHITECTURES[f"SCMP_ARCH_{name}"] for name in ("S390", "S390X"))
X32_BIT = 0x40000000
# those whose calls have arguments of 32 bits: not by a rule but by name
NARROW = {
    ARCHITECTURES[f"SCMP_ARCH_{name}"]
    for name in "X86 X32 ARM M68K MIPS MIPS64N32 MIPSEL MIPSEL64N32 PARISC PPC S390 SH SHEB".split()
}


def is_little(token: int) -> bool:
    return token & 0x40000000 != 0


def audit_arch(token: int) -> int:
    return X86_64 if token == X32 else token


# --- the interpreter


class Filter:
    """A seccomp program as the kernel runs it (linux/filter.h, kernel/seccomp.c). `little`: byte order of the data."""

    def __init__(
        self, program: bytes, little: bool = sys.byteorder == "little", code_little: bool | None = None
    ) -> None:
        assert len(program) % 8 == 0 and 0 < len(program) <= 8 * 4096
        self.data = "<" if little else ">"
        order = {None: "=", True: "<", False: ">"}[code_little]
        self.code = list(struct.iter_unpack(order + "HBBI", program))
        for at, (code, jt, jf, k) in enumerate(self.code):  # bpf_check_classic(): nobody leaves the program
            if code == 0x05:
                assert at + 1 + k < len(self.code)
            elif code & 7 == 5:
                assert at + 1 + max(jt, jf) < len(self.code)
        assert self.code[-1][0] == 0x06

    def run(self, arch: int, number: int, args: Sequence[int] = (0,) * 6) -> int:
        data = struct.pack(self.data + "IIQ6Q", number & 0xFFFFFFFF, arch, 0xDEADBEEF, *args)
        at = accumulator = 0
        while True:
            code, jt, jf, k = self.code[at]
            at += 1
            if code == 0x20:  # BPF_LD | BPF_W | BPF_ABS
                assert k % 4 == 0 and k < 64
                (accumulator,) = struct.unpack_from(self.data + "I", data, k)
            elif code == 0x54:  # BPF_ALU | BPF_AND | BPF_K
                accumulator &= k
            elif code == 0x05:  # BPF_JMP | BPF_JA
                at += k
            elif code == 0x15:  # ... BPF_JEQ
                at += jt if accumulator == k else jf
            elif code == 0x25:  # ... BPF_JGT
                at += jt if accumulator > k else jf
            elif code == 0x35:  # ... BPF_JGE
                at += jt if accumulator >= k else jf
            elif code == 0x45:  # ... BPF_JSET
                at += jt if accumulator & k else jf
            else:
                assert code == 0x06, hex(code)  # BPF_RET | BPF_K
                return int(k)


# --- libseccomp


class _Comparison(ctypes.Structure):
    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


_lib = ctypes.CDLL("libseccomp.so.2")
_lib.seccomp_init.restype = ctypes.c_void_p
_lib.seccomp_init.argtypes = [ctypes.c_uint32]
_lib.seccomp_release.argtypes = [ctypes.c_void_p]
_lib.seccomp_arch_native.restype = ctypes.c_uint32
_lib.seccomp_arch_resolve_name.restype = ctypes.c_uint32
_lib.seccomp_arch_resolve_name.argtypes = [ctypes.c_char_p]
for _name in ("seccomp_arch_add", "seccomp_arch_remove"):
    getattr(_lib, _name).argtypes = [ctypes.c_void_p, ctypes.c_uint32]
_lib.seccomp_attr_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]
_lib.seccomp_syscall_resolve_name_arch.argtypes = [ctypes.c_uint32, ctypes.c_char_p]
_lib.seccomp_rule_add_array.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p]
_lib.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]

NATIVE: int = _lib.seccomp_arch_native()


@functools.cache
def number_of(name: str, token: int = NATIVE) -> int:
    number: int = _lib.seccomp_syscall_resolve_name_arch(token, name.encode())
    return number


def token_of(name: str) -> int:
    token: int = _lib.seccomp_arch_resolve_name(name.encode())
    return token


def knows(token: int) -> bool:
    return number_of("read", token) != -1


def libseccomp_filter(rules: Iterable[Rule], default: int, tokens: Sequence[int], optimize: int = 2) -> Filter:
    """What libseccomp makes of the rules, for exactly these architectures; its generator is right for simple ones only."""
    context = _lib.seccomp_init(default)
    assert context
    try:
        if NATIVE not in tokens:
            assert _lib.seccomp_arch_remove(context, NATIVE) == 0
        for token in tokens:
            assert _lib.seccomp_arch_add(context, token) in (0, -errno.EEXIST), hex(token)
        assert _lib.seccomp_attr_set(context, 8, optimize) == 0  # SCMP_FLTATR_CTL_OPTIMIZE
        for name, action, alternatives in rules:
            number = number_of(name)
            if action == default or number == -1:
                continue
            for conditions in alternatives:
                array = (_Comparison * max(1, len(conditions)))(*(_Comparison(*condition) for condition in conditions))
                assert _lib.seccomp_rule_add_array(context, action, number, len(conditions), ctypes.byref(array)) == 0
        fd = os.memfd_create("bpf", os.MFD_CLOEXEC)
        try:
            assert _lib.seccomp_export_bpf(context, fd) == 0
            program = os.pread(fd, 1 << 20, 0)
        finally:
            os.close(fd)
    finally:
        _lib.seccomp_release(context)
    # for a foreign byte order it is written in that one
    return Filter(program, is_little(tokens[0]), is_little(tokens[0]))


# --- the model


def holds(condition: Condition, args: Sequence[int], narrow: bool) -> bool:
    index, op, a, b = condition
    x = args[index]
    if narrow:
        x, a, b = x & 0xFFFFFFFF, a & 0xFFFFFFFF, b & 0xFFFFFFFF
    # man 3 seccomp_rule_add: "when the masked argument value is equal to the masked datum value"
    return [x != a, x < a, x <= a, x == a, x >= a, x > a, x & a == b & a][op - 1]


def model(
    rules: Sequence[Rule], default: int, tokens: Sequence[int], arch: int, number: int, args: Sequence[int] = (0,) * 6
) -> int:
    """The answer for one call, for rules of calls that are not multiplexed."""
    token = arch
    if arch == X86_64 and number & X32_BIT:
        token = X32
    if token not in (NATIVE, *tokens):
        # the number with which a tracer skips a call is not taken for one of x32
        return default if arch in (NATIVE, *tokens) and number == 0xFFFFFFFF else KILL
    permissive = default & 0xFFFF0000 in (ALLOW, ACTIONS["SCMP_ACT_LOG"], ACTIONS["SCMP_ACT_TRACE"])
    last = max([0, *(number_of(name, token) for name, _, _ in rules)])
    if not permissive and last and (number > last or (token in S390 and number == 0)):
        return ENOSYS
    mine = [
        (action, conditions)
        for name, action, alternatives in rules
        if number_of(name, token) == number and action != default
        for conditions in alternatives
    ]
    for action, conditions in mine:
        if not conditions:
            return action
    for action, conditions in mine:
        if all(holds(condition, args, token in NARROW) for condition in conditions):
            return action
    return default
