# SPDX-License-Identifier: Apache-2.0
"""Classic BPF for seccomp (linux/filter.h, seccomp(2)): from what each system call shall meet to instructions.

HOT imports only, but loaded for a filter that is not in the cache (ctnr/runtime/seccomp.py).

Why not libseccomp's own generator: it merges the rules of a call into one tree of comparisons, and for several rules with
conditions, above all of order, the tree can be wrong, also in the direction of allowing more (seen in 2.5.4, e.g. "x <= 0"
or "x > 2**32" allows 3; GHSA-4q85-33p6-j5g6 is one of the causes), or building it does not end. Here each rule is a list
of comparisons of its own. The calls are found by halving over ranges of numbers with the same answer, so that a usual
profile takes a fifth of the instructions, which the kernel checks and compiles at every start of a container.
"""

from __future__ import annotations

import sys
from _struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    # (index of the argument, enum scmp_compare, value, value2)
    Condition = tuple[int, int, int, int]
    # an action (SECCOMP_RET_* with its data), or in order of precedence conditions that must all hold, and the action then
    Answer = int | list[tuple[list[Condition], int]]
    # numbers from this on, up to the next range, with their answer; whether arguments have 64 bits
    Range = tuple[int, Answer, bool]

# enum scmp_compare (seccomp.h)
NE, LT, LE, EQ, GE, GT, MASKED_EQ = range(1, 8)

_INSTRUCTION = Struct("=HBBI")  # struct sock_filter: code, jt, jf, k
SIZE = _INSTRUCTION.size
_LD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
_JA = 0x05  # BPF_JMP | ...
_JEQ = 0x15
_JGT = 0x25
_JGE = 0x35
_RET = 0x06

# struct seccomp_data: nr, arch, instruction_pointer, args[6]
_NR = 0
_ARCH = 4
_ARGS = 16

_WORD = 0xFFFFFFFF
# the farthest a conditional jump goes, less the one instruction that may still come in between
_NEAR = 254


class Program:
    """A program under construction, from its end to its beginning: jumps only go forward, so their targets are there.

    A label is the number of instructions from the one it stands for to the end.
    """

    __slots__ = ("_code", "_returns")

    def __init__(self) -> None:
        self._code: list[tuple[int, int, int, int]] = []  # the last one first
        self._returns: dict[int, int] = {}

    def encode(self) -> bytes:
        return b"".join([_INSTRUCTION.pack(*instruction) for instruction in reversed(self._code)])

    def answer(self, action: int) -> int:
        """The label of an instruction that ends with `action`."""
        label = self._returns.get(action)
        if label is None:
            label = self._returns[action] = self._emit(_RET, 0, 0, action)
        return label

    def load(self, offset: int, then: int) -> int:
        """Load a word of struct seccomp_data and go on at the label `then`."""
        self._fall_to(then)
        return self._emit(_LD, 0, 0, offset)

    def branch(self, code: int, k: int, true: int, false: int) -> int:
        """Compare what was loaded."""
        if true == false:
            return true
        true = self._near(true)
        false = self._near(false)
        return self._emit(code, len(self._code) - true, len(self._code) - false, k)

    def search(self, ranges: list[Range], default: int) -> int:
        """Find the range that the loaded number is in, and give its answer; `default` where the conditions fail."""
        if len(ranges) == 1:
            _, answer, wide = ranges[0]
            return self.answer(answer) if isinstance(answer, int) else self._rules(answer, default, wide)
        middle = len(ranges) // 2
        high = self.search(ranges[middle:], default)
        low = self.search(ranges[:middle], default)
        return self.branch(_JGE, ranges[middle][0], high, low)

    def _emit(self, code: int, jt: int, jf: int, k: int) -> int:
        self._code.append((code, jt, jf, k))
        return len(self._code)

    def _near(self, label: int) -> int:
        """A label within reach that is as good."""
        if len(self._code) - label <= _NEAR:
            return label
        return self._relay(label)

    def _fall_to(self, label: int) -> None:
        """Make what is at `label` the next thing that happens."""
        if label != len(self._code):
            self._relay(label)

    def _relay(self, label: int) -> int:
        code, _, _, k = self._code[label - 1]
        if code == _RET:
            self._returns[k] = self._emit(_RET, 0, 0, k)
            return self._returns[k]
        return self._emit(_JA, 0, 0, len(self._code) - label)

    def _rules(self, rules: list[tuple[list[Condition], int]], default: int, wide: bool) -> int:
        label = self.answer(default)
        for conditions, action in reversed(rules):
            match = self.answer(action)
            for condition in reversed(conditions):
                match = self._condition(condition, wide, match, label)
            label = match
        return label

    def _condition(self, condition: Condition, wide: bool, true: int, false: int) -> int:
        index, op, value, value2 = condition
        high, low = _ARGS + 8 * index, _ARGS + 8 * index + 4
        if sys.byteorder == "little":
            high, low = low, high
        if op in (NE, LT, LE):
            op = {NE: EQ, LT: GE, LE: GT}[op]
            true, false = false, true
        if op in (EQ, MASKED_EQ):
            mask, datum = (value, value2) if op == MASKED_EQ else (2**64 - 1, value)
            if wide:
                true = self._equal(high, mask >> 32, datum >> 32, true, false)
            return self._equal(low, mask & _WORD, datum & _WORD, true, false)
        if true == false:
            return true
        label = self.load(low, self.branch(_JGE if op == GE else _JGT, value & _WORD, true, false))
        if wide:
            label = self.branch(_JEQ, value >> 32, label, false)
            label = self.load(high, self.branch(_JGT, value >> 32, true, label))
        return label

    def _equal(self, offset: int, mask: int, datum: int, true: int, false: int) -> int:
        """Whether a word is `datum` in the bits of `mask`."""
        if mask == 0 or true == false:
            return true
        label = self.branch(_JEQ, datum & mask, true, false)
        if mask != _WORD:
            label = self._emit(_AND, 0, 0, mask)
        return self.load(offset, label)


def assemble(archs: dict[int, list[Range]], default: int, bad_arch: int) -> bytes:
    """The program for the ranges of each AUDIT_ARCH_*, the first of which starts at the smallest number there is.

    `default` is the action where the conditions of all rules fail, `bad_arch` that of any other architecture.
    """
    program = Program()
    # the first one last, so that its way is the shortest
    entries = [(arch, program.load(_NR, program.search(ranges, default))) for arch, ranges in reversed(archs.items())]
    label = program.answer(bad_arch)
    for arch, entry in entries:
        label = program.branch(_JEQ, arch, entry, label)
    program.load(_ARCH, label)
    return program.encode()
