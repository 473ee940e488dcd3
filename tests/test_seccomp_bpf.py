# SPDX-License-Identifier: Apache-2.0
"""ctnr.runtime.seccomp_build and seccomp_bpf: the programs, run by an interpreter, answer what the rules say.

What is simple enough for libseccomp's generator is compared with that, for every architecture and number; the rest with
a model.
"""

from __future__ import annotations

import json
import random
import types
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from seccomp_oracle import (
    ALLOW,
    ENOSYS,
    ERRNO,
    KILL,
    NATIVE,
    S390,
    U64,
    X32,
    X32_BIT,
    X86,
    X86_64,
    Condition,
    Filter,
    Rule,
    audit_arch,
    is_little,
    knows,
    libseccomp_filter,
    model,
    number_of,
    token_of,
)

from ctnr.runtime import seccomp_bpf, seccomp_build
from ctnr.runtime.seccomp_bpf import EQ, GE, GT, LE, LT, MASKED_EQ, NE
from ctnr.spec.seccomp import ACTIONS, ARCHITECTURES

PROFILE: dict[str, Any] = json.loads((Path(__file__).parent / "data/seccomp.json").read_text())
ARCHS = {name: token for name, token in ARCHITECTURES.items() if knows(token)}
# architectures that a program of this machine can have beside the native one
HERE = [token for token in ARCHS.values() if is_little(token) == is_little(NATIVE)]
# numbers of no call, and of the other half of x86_64
ODD = [0x3FFFFFFF, 0x40000000, 0x400003FF, 0x7FFFFFFF, 0xC0000000, 0xFFFFFFFE, 0xFFFFFFFF]
WORDS = [0, 1, 2, 8, 37, 38, 39, 40, 41, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**32 + 38, 2**33, U64 - 1, U64]


def resolved(tokens: list[int], rules: list[Rule]) -> dict[int, Any]:
    known = seccomp_build._resolve(tokens, [*(rule[0] for rule in rules), "socketcall", "ipc"])
    return {token: known["archs"][token] for token in tokens}


def ours(rules: list[Rule], default: int, tokens: list[int], monkeypatch: pytest.MonkeyPatch | None = None) -> Filter:
    """The filter for exactly `tokens`, as if the first were this machine's."""
    if monkeypatch is not None:
        order = "little" if is_little(tokens[0]) else "big"
        monkeypatch.setattr(seccomp_bpf, "sys", types.SimpleNamespace(byteorder=order))
    program = seccomp_build.filter_of(rules, default, tokens[0], resolved(tokens, rules))
    return Filter(program, is_little(tokens[0]))


def parts(section: dict[str, Any]) -> tuple[list[Rule], int]:
    return seccomp_build._rules(section, ""), seccomp_build._action(  # type: ignore[arg-type]
        section["defaultAction"], section.get("defaultErrnoRet"), ""
    )


def is_foreign(token: int, number: int) -> bool:
    """Whether the call is one of the other architecture that has this one's AUDIT_ARCH_*."""
    return token in (X86_64, X32) and (number & X32_BIT != 0) != (token == X32)


# --- against libseccomp


def compare(rules: list[Rule], default: int, tokens: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    filter, theirs = ours(rules, default, tokens, monkeypatch), libseccomp_filter(rules, default, tokens)
    pick = random.Random(1)
    for token in tokens:
        numbers, direct = resolved([token], rules)[token]
        named = dict(zip([rule[0] for rule in rules], numbers, strict=False))
        last = max([0, *numbers[: len(rules)], *(n for name, n in direct.items() if name in named)])
        # with conditions, or multiplexed, or multiplexing
        tricky = {named.get(rule[0]) for rule in rules if rule[2] != [[]]} | set(direct.values()) | set(numbers[-2:])
        base = max(0, number_of("exit", token)) // 1000 * 1000
        for number in {*range(base, base + 700), *numbers, last, last + 1, *ODD}:
            if number < 0 or (is_foreign(token, number) and len(tokens) > 1):
                continue
            tries = [[0] * 6]
            if number in tricky:
                # socketcall's and ipc's first argument is a small number
                tries += [[some, *pick.choices(WORDS, k=5)] for some in [*WORDS, *range(27)] for _ in range(4)]
            for args in tries:
                expected = theirs.run(audit_arch(token), number, args)
                newer = number > last or (token in S390 and number == 0)
                if seccomp_build._wants_enosys(default) and newer and not is_foreign(token, number):
                    expected = ENOSYS
                answer = filter.run(audit_arch(token), number, args)
                # libseccomp writes the constants of a foreign byte order in either one
                same = answer == expected or answer == int.from_bytes(expected.to_bytes(4, "little"), "big")
                assert same, f"{token:#x} {number} {args}: {answer:#x}, not {expected:#x}"
    for token in ARCHS.values():
        if audit_arch(token) not in map(audit_arch, tokens):
            assert filter.run(token, 1) == theirs.run(token, 1) == KILL


@pytest.mark.parametrize("arch", ARCHS)
def test_profile_is_libseccomps_on_every_architecture(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rules, default = parts(PROFILE)
    compare(rules, default, [ARCHS[arch]], monkeypatch)
    compare(rules, ALLOW, [ARCHS[arch]], monkeypatch)


@pytest.mark.parametrize("tokens", [[X86_64, X86, X32], [X86_64, X86], [X86_64, X32], [X32, X86]], ids=str)
def test_profile_is_libseccomps_on_several_architectures(tokens: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    rules, default = parts(PROFILE)
    compare(rules, default, tokens, monkeypatch)


def test_multiplexed_calls_without_their_multiplexer(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["read", "exit", "accept4", "socketpair", "sendmsg", "shmat", "semtimedop", "msgget"]
    rules: list[Rule] = [(name, ALLOW, [[]]) for name in names]
    rules.append(("socket", ALLOW, [[(0, EQ, 2, 0), (1, NE, 3, 0)]]))
    rules.append(("semget", ERRNO | 7, [[(2, EQ, 0o1000, 0)]]))
    for token in ARCHS.values():
        compare(rules, ERRNO | 1, [token], monkeypatch)


@pytest.mark.parametrize("name", ["read", "lseek", "mmap"])
@pytest.mark.parametrize("arch", ARCHS)
def test_one_condition_is_libseccomps(arch: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(6):
        for op in range(1, 8):
            values = (
                [(mask, datum & mask) for mask in WORDS for datum in WORDS[-4:]]
                if op == MASKED_EQ
                else [(value, 0) for value in WORDS]
            )
            for value, value2 in random.Random(index).sample(values, 4):
                rules: list[Rule] = [(name, ERRNO | 2, [[(index, op, value, value2)]])]
                token = ARCHS[arch]
                filter = ours(rules, ALLOW, [token], monkeypatch)
                theirs = libseccomp_filter(rules, ALLOW, [token])
                number = number_of(name, token)
                for word in {*WORDS, value, (value + 1) & U64, (value - 1) & U64}:
                    args = [7] * 6
                    args[index] = word
                    expected = theirs.run(audit_arch(token), number, args)
                    answers = (expected, int.from_bytes(expected.to_bytes(4, "little"), "big"))
                    assert filter.run(audit_arch(token), number, args) in answers, (rules, args)


def test_profile_is_short() -> None:
    rules, default = parts(PROFILE)
    tokens = [X86_64, X86, X32]
    assert len(ours(rules, default, tokens).code) * 2 < len(libseccomp_filter(rules, default, tokens).code)


# --- against the model

# not multiplexed anywhere, near each other and far apart, with and without neighbours that have rules
NAMES = [
    "read",
    "write",
    "close",
    "ioctl",
    "getpid",
    "personality",
    "prctl",
    "openat",
    "clone",
    "tgkill",
    "statx",
    "nope",
]
words = st.one_of(st.sampled_from(WORDS), st.integers(0, U64))
actions = st.sampled_from(
    [ALLOW, KILL, ERRNO | 1, ERRNO | 13, ACTIONS["SCMP_ACT_LOG"], ACTIONS["SCMP_ACT_KILL_PROCESS"]]
)
conditions = st.tuples(st.integers(0, 2), st.integers(1, 7), words, words)
rule_lists = st.lists(
    st.tuples(st.sampled_from(NAMES), actions, st.lists(st.lists(conditions, max_size=3), min_size=1, max_size=3)),
    max_size=12,
)


def near(rules: list[Rule]) -> list[int]:
    """Values around those that the rules compare with."""
    found = {0, U64}
    for _, _, alternatives in rules:
        for some in alternatives:
            for _, _, a, b in some:
                found |= {(x + d) & U64 for x in (a, b, a & b, a | b) for d in (-1, 0, 1)}
    return sorted(found)


def check(rules: list[Rule], default: int, tokens: list[int], arch: int, seed: int) -> None:
    pick = random.Random(seed)
    filter = ours(rules, default, [NATIVE, *tokens])
    values = near(rules)
    token_numbers = [number_of(name, arch) for name in NAMES]
    for number in {*token_numbers, *(n + 1 for n in token_numbers), *ODD, 0, 1000, X32_BIT + 1, X32_BIT + 59}:
        if number < 0:
            continue
        for _ in range(6):
            args = pick.choices(values, k=6)
            answer = filter.run(audit_arch(arch), number, args)
            expected = model(rules, default, tokens, audit_arch(arch), number, args)
            assert answer == expected, f"{arch:#x} {number} {args}: {answer:#x}, not {expected:#x}"


@settings(deadline=None, max_examples=150)
@given(
    rule_lists,
    actions,
    st.lists(st.sampled_from(HERE), max_size=3, unique=True),
    st.sampled_from(HERE),
    st.integers(0, 999),
)
# these two libseccomp 2.5.4 gets wrong
@example(
    [("read", ALLOW, [[(0, LE, 0, 0)]]), ("read", ALLOW, [[(0, GT, 2**32, 0)]])],
    ERRNO | 1,
    [],
    NATIVE,
    1,
)
@example(
    [("read", ALLOW, [[(1, NE, 2, 0), (2, EQ, U64, 0)]]), ("read", ALLOW, [[(1, EQ, 0, 0)]])],
    ERRNO | 1,
    [],
    NATIVE,
    1,
)
def test_rules_hold(rules: list[Rule], default: int, tokens: list[int], arch: int, seed: int) -> None:
    check(rules, default, [token for token in tokens if token != NATIVE], arch, seed)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 7), words, words, words)
@example(MASKED_EQ, 0xFF, 0x1FF, 0xFF)  # of the second value, too, only what is in the mask counts
@example(GE, 0, 0, 0)
@example(LT, 2**32, 0, 2**32 - 1)
def test_conditions_hold_on_both_halves(op: int, a: int, b: int, x: int) -> None:
    condition: Condition = (3, op, a, b)
    for word in {x, a, b, a & b, (a + 1) & U64, (a - 1) & U64, a ^ 2**32, a ^ 1}:
        check([("read", ALLOW, [[condition]])], ERRNO | 1, [], NATIVE, word)
        args = [0, 0, 0, word, 0, 0]
        rules: list[Rule] = [("read", ALLOW, [[condition]])]
        answer = ours(rules, ERRNO | 1, [NATIVE]).run(audit_arch(NATIVE), number_of("read"), args)
        assert answer == model(rules, ERRNO | 1, [], audit_arch(NATIVE), number_of("read"), args)


def test_jumps_farther_than_a_byte() -> None:
    """Many rules of one call, then many calls: every jump that is too far takes a stepping stone."""
    name = "personality"
    rules: list[Rule] = [(name, ERRNO | i, [[(0, EQ, i << 32, 0), (1, GT, i, 0)]]) for i in range(1, 200)]
    rules += [(other, ERRNO | 300 + i, [[(0, EQ, i, 0)]]) for i, other in enumerate(NAMES) if other != name]
    filter = ours(rules, ALLOW, [NATIVE])
    assert len(filter.code) > 1000
    for i in (1, 2, 100, 198, 199, 200):
        for second in (i, i + 1):
            args = [i << 32, second, 0, 0, 0, 0]
            assert filter.run(audit_arch(NATIVE), number_of(name), args) == model(
                rules, ALLOW, [], audit_arch(NATIVE), number_of(name), args
            )
    check(rules, ALLOW, [], NATIVE, 1)
    check([(name, ALLOW, alternatives) for name, _, alternatives in rules], ERRNO | 1, [], NATIVE, 1)


# --- precedence, ENOSYS, corners

READ, LAST = number_of("read"), number_of("statx")


def answers(rules: list[Rule], default: int, number: int = READ, first: int = 0) -> int:
    return ours(rules, default, [NATIVE]).run(audit_arch(NATIVE), number, [first, 0, 0, 0, 0, 0])


def test_a_rule_without_conditions_comes_first() -> None:
    some: Rule = ("read", ERRNO | 2, [[(0, EQ, 1, 0)]])
    every: Rule = ("read", ERRNO | 3, [[]])
    other: Rule = ("read", ERRNO | 4, [[]])
    assert answers([some, every], ALLOW, first=1) == answers([every, some], ALLOW, first=1) == ERRNO | 3
    assert answers([every, other], ALLOW) == ERRNO | 3


def test_of_rules_with_conditions_the_first_that_holds() -> None:
    rules: list[Rule] = [("read", ERRNO | 2, [[(0, LT, 5, 0)]]), ("read", ERRNO | 3, [[(0, GE, 3, 0)]])]
    assert [answers(rules, ALLOW, first=x) for x in (2, 4, 5)] == [ERRNO | 2, ERRNO | 2, ERRNO | 3]
    assert answers(rules[::-1], ALLOW, first=4) == ERRNO | 3


def test_rules_of_the_default_action_are_skipped() -> None:
    rules: list[Rule] = [("read", ERRNO | 1, [[]]), ("read", ALLOW, [[(0, EQ, 1, 0)]])]
    assert [answers(rules, ERRNO | 1, first=x) for x in (0, 1)] == [ERRNO | 1, ALLOW]


def test_no_rules() -> None:
    assert answers([], ALLOW) == ALLOW
    assert answers([], ERRNO | 1, 5000) == ERRNO | 1
    assert ours([], ALLOW, [NATIVE]).run(0x12345678, 1) == KILL


@pytest.mark.parametrize(
    ("default", "answer"),
    [
        (ERRNO | 1, ENOSYS),
        (ERRNO, ENOSYS),
        (KILL, ENOSYS),
        (ACTIONS["SCMP_ACT_KILL_PROCESS"], ENOSYS),
        (ACTIONS["SCMP_ACT_TRAP"], ENOSYS),
        (ENOSYS, ENOSYS),
        (ALLOW, ALLOW),
        (ACTIONS["SCMP_ACT_LOG"], ACTIONS["SCMP_ACT_LOG"]),
        (ACTIONS["SCMP_ACT_TRACE"] | 1, ACTIONS["SCMP_ACT_TRACE"] | 1),
    ],
)
def test_newer_calls_do_not_exist(default: int, answer: int) -> None:
    rules: list[Rule] = [("read", ERRNO | 9, [[]]), ("statx", ERRNO | 9, [[]])]
    assert answers(rules, default, LAST + 1) == answers(rules, default, 5000) == answer
    assert answers(rules, default, LAST - 1) == default
    # named, if only to say the same as the default
    for before in ("read", "write"):
        rules = [(before, ERRNO | 9, [[]]), ("close", default, [[]])]
        number = max(number_of(name) for name, _, _ in rules)
        assert answers(rules, default, number_of("close")) == default
        assert answers(rules, default, number + 1) == answer


@pytest.mark.parametrize("token", [token for token in S390 if knows(token)])
def test_s390_setup(token: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rules: list[Rule] = [("read", ALLOW, [[]])]
    assert ours(rules, ERRNO | 1, [token], monkeypatch).run(token, 0) == ENOSYS
    assert ours(rules, ACTIONS["SCMP_ACT_LOG"], [token], monkeypatch).run(token, 0) == ACTIONS["SCMP_ACT_LOG"]


def test_x32() -> None:
    rules: list[Rule] = [("read", ALLOW, [[]]), ("getpid", ALLOW, [[]])]
    alone, both = ours(rules, ERRNO | 1, [X86_64]), ours(rules, ERRNO | 1, [X86_64, X32])
    assert alone.run(X86_64, X32_BIT | 39) == KILL
    assert both.run(X86_64, X32_BIT | 39) == ALLOW
    assert both.run(X86_64, X32_BIT | 40) == both.run(X86_64, 40) == alone.run(X86_64, 40) == ENOSYS
    assert both.run(X86_64, X32_BIT | 38) == ERRNO | 1
    # what a tracer leaves to have a call skipped
    assert alone.run(X86_64, 0xFFFFFFFF) == ERRNO | 1


def test_names_that_are_none() -> None:
    rules: list[Rule] = [(name, ALLOW, [[]]) for name in ("nope", "read\0x", "", "READ", "\\udc80", "a" * 10000)]
    assert answers(rules, ERRNO | 1) == ERRNO | 1


def test_architectures_are_libseccomps() -> None:
    for name, token in ARCHITECTURES.items():
        # 0: newer than this libseccomp
        assert token_of(name.removeprefix("SCMP_ARCH_").lower()) == (token if knows(token) else 0)
