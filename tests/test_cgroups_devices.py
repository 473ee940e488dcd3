# SPDX-License-Identifier: Apache-2.0
"""ctnr.runtime.cgroups.devices: the policy, its v1 lines and its eBPF program, against two models written here.

One is the kernel's list (security/device_cgroup.c), fed with the lines that v1 gets: v1 and v2 must answer alike. The other
is "the last rule that matches decides", which is what the runtime spec says, for one access bit at a time.
"""

from __future__ import annotations

import struct
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctnr.errors import SpecError
from ctnr.runtime.cgroups import devices
from ctnr.runtime.cgroups.devices import ALL, ANY, MKNOD, READ, WRITE, Policy

Rule = dict[str, Any]
Access = tuple[str, int, int, int]  # type, major, minor, access bits


class Interpreter:
    """As much of eBPF as a device program may use; anything else, and whatever the verifier would refuse, is an error."""

    def __init__(self, program: bytes) -> None:
        assert len(program) % 8 == 0
        self.program = []
        for code, registers, off, imm in struct.iter_unpack("=BBhi", program):
            low, high = registers & 15, registers >> 4
            dst, src = (low, high) if sys.byteorder == "little" else (high, low)
            self.program.append((code, dst, src, off, imm))

    def run(self, kind: str, major: int, minor: int, access: int) -> int:
        context = struct.pack("=III", access << 16 | {"b": 1, "c": 2}[kind], major, minor)
        registers: dict[int, Any] = {1: "context"}
        at = 0
        while True:
            code, dst, src, off, imm = self.program[at]
            at += 1
            wide = imm & (1 << 64) - 1  # sign-extended
            if code == 0x61:  # r = *(u32 *)(r + off)
                assert registers[src] == "context" and off in (0, 4, 8)
                registers[dst] = struct.unpack_from("=I", context, off)[0]
            elif code == 0x54:
                registers[dst] = registers[dst] & imm & 0xFFFFFFFF
            elif code == 0x74:
                registers[dst] = (registers[dst] & 0xFFFFFFFF) >> imm
            elif code == 0xB4:
                registers[dst] = imm & 0xFFFFFFFF
            elif code == 0xBC:
                registers[dst] = registers[src] & 0xFFFFFFFF
            elif code in (0x15, 0x55, 0x5D):
                assert off >= 0, "a loop"
                other = registers[src] if code == 0x5D else wide
                if (registers[dst] == other) == (code == 0x15):
                    at += off
            elif code == 0x95:
                verdict = registers[0]
                assert verdict in (0, 1)
                return int(verdict)
            else:
                raise AssertionError(f"instruction {code:#x}")

    def reachable_ends(self) -> None:
        """Every jump lands in the program, every instruction can be reached, the last ones are exits: the verifier's rules."""
        seen: set[int] = set()
        todo = [0]
        while todo:
            at = todo.pop()
            if at in seen:
                continue
            seen.add(at)
            assert at < len(self.program)
            code, _, _, off, _ = self.program[at]
            if code == 0x95:
                continue
            todo.append(at + 1)
            if code in (0x15, 0x55, 0x5D):
                todo.append(at + 1 + off)
        assert seen == set(range(len(self.program)))


class KernelList:
    """A v1 devices cgroup as security/device_cgroup.c has it; a new one below a root that allows everything."""

    def __init__(self) -> None:
        self.allow = True
        self.exceptions: list[list[Any]] = []  # type, major, minor, access

    def write(self, allow: bool, line: str) -> None:
        if line == "a":
            self.allow = allow
            self.exceptions = []
            return
        kind, numbers, letters = line.split(" ")
        major, minor = (ANY if n == "*" else int(n) for n in numbers.split(":"))
        access = sum({"r": READ, "w": WRITE, "m": MKNOD}[c] for c in letters)
        if allow == self.allow:
            for entry in self.exceptions:
                if entry[:3] == [kind, major, minor]:
                    entry[3] &= ~access
            self.exceptions = [entry for entry in self.exceptions if entry[3]]
            return
        for entry in self.exceptions:
            if entry[:3] == [kind, major, minor]:
                entry[3] |= access
                return
        self.exceptions.append([kind, major, minor, access])

    def text(self) -> str:
        if self.allow:
            return "a *:* rwm\n"
        return "".join(f"{devices.line((k, a, b), access)}\n" for k, a, b, access in self.exceptions)

    def allows(self, kind: str, major: int, minor: int, access: int) -> bool:
        matching = [
            granted for k, a, b, granted in self.exceptions if k == kind and a in (ANY, major) and b in (ANY, minor)
        ]
        if self.allow:
            return not any(access & granted for granted in matching)
        return any(not access & ~granted for granted in matching)


def last_match(rules: list[Rule], kind: str, major: int, minor: int, bit: int) -> bool:
    """The runtime spec, literally: entries in the listed order, nothing allowed at first."""
    allowed = False
    for rule in rules:
        if rule.get("type", "a") == "a" or (
            rule["type"] == kind
            and rule.get("major", ANY) in (ANY, major)
            and rule.get("minor", ANY) in (ANY, minor)
            and bit in [{"r": READ, "w": WRITE, "m": MKNOD}[c] for c in rule["access"]]
        ):
            allowed = rule["allow"]
    return allowed


# few numbers, so that rules meet each other and the accesses meet them
numbers = st.sampled_from([ANY, 0, 1, 3, 5, 10, 136])
letters = st.sets(st.sampled_from("rwm"), min_size=1).map(lambda s: "".join(sorted(s)))
narrow = st.fixed_dictionaries(
    {"allow": st.booleans(), "type": st.sampled_from("bc"), "access": letters},
    optional={"major": numbers, "minor": numbers},
)
wide = st.fixed_dictionaries({"allow": st.booleans()}, optional={"type": st.just("a"), "access": st.just("rwm")})
rule_lists = st.lists(st.one_of(narrow, narrow, narrow, wide), max_size=8)
accesses = st.tuples(
    st.sampled_from("bc"),
    st.sampled_from([0, 1, 2, 3, 5, 10, 136, 4095]),
    st.sampled_from([0, 1, 2, 3, 5, 7, 10, 200, 229, (1 << 20) - 1]),
    st.integers(0, ALL),
)


def policy_of(rules: list[Rule]) -> Policy | None:
    try:
        return devices.policy(rules)
    except SpecError as e:
        assert e.path.startswith("linux.resources.devices")
        return None


@settings(max_examples=150, deadline=None)
@given(rule_lists, st.lists(accesses, min_size=1, max_size=30))
def test_v1_and_v2_answer_alike(rules: list[Rule], asked: list[Access]) -> None:
    policy = policy_of(rules)
    if policy is None:
        return
    v1 = KernelList()
    for allow, line in devices.transition(devices.parse_list(v1.text()), policy):
        v1.write(allow, line)
    program = Interpreter(devices.assemble(policy))
    program.reachable_ends()
    for access in asked:
        assert program.run(*access) == v1.allows(*access), (access, v1.text())


@settings(max_examples=150, deadline=None)
@given(rule_lists, accesses)
def test_the_last_rule_that_matches_decides(rules: list[Rule], access: Access) -> None:
    kind, major, minor, bits = access
    policy = policy_of(rules)
    if policy is None or bits not in (MKNOD, READ, WRITE):
        return
    program = Interpreter(devices.assemble(policy))
    defaults: list[Rule] = [
        {
            "allow": True,
            "type": kind,
            "major": major,
            "minor": minor,
            "access": devices.line((kind, 0, 0), bits).split()[-1],
        }
        for _, kind, major, minor, bits in devices.DEFAULTS
    ]
    own = last_match(rules, kind, major, minor, bits)
    wanted = last_match(rules + defaults, kind, major, minor, bits)
    got = bool(program.run(kind, major, minor, bits))
    # a default may be withheld from a device that the config denies by a rule of its own, never the other way round
    assert got in (own, wanted) and (got or not own)
    if not policy.default_allow:
        assert got == wanted


@settings(max_examples=60, deadline=None)
@given(rule_lists, rule_lists, st.lists(accesses, min_size=1, max_size=20))
def test_a_transition_ends_where_it_should(before: list[Rule], after: list[Rule], asked: list[Access]) -> None:
    old, new = policy_of(before), policy_of(after)
    if old is None or new is None:
        return
    group = KernelList()
    for target in (old, new):
        for allow, line in devices.transition(devices.parse_list(group.text()), target):
            group.write(allow, line)
    fresh = KernelList()
    for allow, line in devices.transition(Policy(default_allow=True), new):
        fresh.write(allow, line)
    assert [group.allows(*a) for a in asked] == [fresh.allows(*a) for a in asked]
    assert devices.transition(devices.parse_list(group.text()), new) == (
        [] if not new.default_allow else devices.transition(Policy(True), new)
    )


@settings(max_examples=60, deadline=None)
@given(rule_lists)
def test_the_list_reads_back(rules: list[Rule]) -> None:
    policy = policy_of(rules)
    if policy is None or policy.default_allow:
        return
    text = "".join(devices.line(key, access) + "\n" for key, access in policy.exceptions.items())
    assert devices.parse_list(text) == policy


def answers(rules: list[Rule], *asked: Access, nodes: list[Rule] | None = None) -> list[int]:
    program = Interpreter(devices.assemble(devices.policy(rules, nodes or ())))
    return [program.run(*access) for access in asked]


NULL = ("c", 1, 3, READ | WRITE)
MEM = ("c", 1, 1, READ)
FUSE = ("c", 10, 229, READ | WRITE)
DISK = ("b", 8, 0, READ)


@pytest.mark.parametrize("rules", [[], [{"allow": False, "access": "rwm"}], [{"allow": False, "type": "a"}]])
def test_nothing_but_the_default_devices(rules: list[Rule]) -> None:
    assert answers(rules, NULL, MEM, FUSE, DISK, ("c", 5, 2, ALL), ("c", 136, 7, ALL)) == [1, 0, 0, 0, 1, 1]
    # making a node is harmless: opening it is what is refused
    assert answers(rules, ("b", 8, 0, MKNOD), ("c", 1, 1, MKNOD), ("b", 8, 0, MKNOD | READ)) == [1, 1, 0]


def test_privileged() -> None:
    assert answers([{"allow": True, "type": "a", "access": "rwm"}], NULL, MEM, FUSE, DISK) == [1, 1, 1, 1]


def test_one_device_more() -> None:
    rules = [{"allow": False}, {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "r"}]
    assert answers(rules, ("c", 10, 229, READ), FUSE, ("c", 10, 228, READ), ("b", 10, 229, READ)) == [1, 0, 0, 0]


def test_all_but_one_and_not_a_part_of_it_either() -> None:
    rules = [{"allow": True}, {"allow": False, "type": "c", "major": 10, "minor": 229, "access": "w"}]
    assert answers(rules, ("c", 10, 229, READ), ("c", 10, 229, WRITE), FUSE, MEM) == [1, 0, 0, 1]


def test_the_defaults_do_not_give_back_a_part_of_what_is_denied() -> None:
    """`c *:* m` is a default: it must not make the node of a device that was denied by its number."""
    rules = [{"allow": True}, {"allow": False, "type": "c", "major": 10, "minor": 229, "access": "rwm"}]
    assert answers(rules, ("c", 10, 229, MKNOD), ("c", 10, 228, MKNOD)) == [0, 1]


def test_a_later_wider_rule_takes_back_an_earlier_narrower_one() -> None:
    rules = [
        {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rwm"},
        {"allow": False, "type": "c", "major": 10, "access": "rw"},
    ]
    assert answers(rules, FUSE, ("c", 10, 229, MKNOD)) == [0, 1]


def test_rights_of_equal_rules_add_up() -> None:
    rules = [{"allow": True, "type": "c", "major": 10, "minor": 229, "access": x} for x in ("r", "w")]
    assert answers(rules, FUSE) == [1]


def test_an_own_node_in_place_of_a_default_one_needs_a_rule_of_its_own() -> None:
    node = {"path": "/dev/null", "type": "c", "major": 10, "minor": 229}
    assert answers([], NULL, nodes=[node]) == [0]
    assert answers([], NULL, nodes=[{**node, "path": "/dev/other"}]) == [1]


@pytest.mark.parametrize(
    ("rules", "path", "words"),
    [
        ([{"type": "c"}], "linux.resources.devices[0].allow", "true or false"),
        ([{"allow": True, "type": "p", "access": "r"}], "linux.resources.devices[0].type", "'p' is not one of"),
        ([{"allow": True, "type": "c"}], "linux.resources.devices[0].access", "cannot be empty"),
        ([{"allow": True, "type": "c", "access": ""}], "linux.resources.devices[0].access", "cannot be empty"),
        ([{"allow": True, "type": "c", "access": "rx"}], "linux.resources.devices[0].access", "'rx'"),
        ([{"allow": True, "type": "c", "major": 4096, "access": "r"}], "linux.resources.devices[0].major", "4096"),
        # (u32)-1 is "*" to the kernel
        ([{"allow": True, "type": "c", "minor": 2**32 - 1, "access": "r"}], "linux.resources.devices[0].minor", "4294967295"),
        ([{"allow": True, "type": "c", "major": -2, "access": "r"}], "linux.resources.devices[0].major", "-2"),
        (
            [{"allow": True, "type": "c", "access": "rw"}, {"allow": False, "type": "c", "major": 1, "access": "w"}],
            "linux.resources.devices[1]",
            "cannot deny a part of the earlier rule 'c *:* rw'",
        ),
        (
            [{"allow": True}, {"allow": False, "type": "c", "major": 1, "access": "w"}],
            "linux.resources.devices",
            "cannot allow a part of the earlier rule 'c 1:* w'",
        ),
    ],
)  # fmt: skip
def test_refused(rules: list[Rule], path: str, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        devices.policy(rules)
    assert caught.value.path == path
    assert words in caught.value.why


def test_no_program_is_longer_than_the_smallest_limit() -> None:
    """4096 instructions is the limit before Linux 5.2; a long list of devices keeps clear of it."""
    rules = [{"allow": True, "type": "c", "major": n, "minor": n, "access": "rw"} for n in range(400)]
    assert len(devices.assemble(devices.policy(rules))) // 8 < 4096
