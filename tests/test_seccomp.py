# SPDX-License-Identifier: Apache-2.0
"""ctnr.runtime.seccomp: the section's fields, the errors that name them, and the extension's part."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from seccomp_oracle import ALLOW, ENOSYS, ERRNO, NATIVE, Filter, audit_arch, number_of

import ctnr
from ctnr import log
from ctnr._native import seccomp_resolve
from ctnr.errors import CtnrError, SpecError
from ctnr.runtime import seccomp, seccomp_build
from ctnr.spec.seccomp import ACTIONS, ARCHITECTURES, FLAGS, OPERATORS

PACKAGE_ROOT = Path(ctnr.__file__).parents[1]
PROFILE: dict[str, Any] = json.loads((Path(__file__).parent / "data/seccomp.json").read_text())
PROFILE["architectures"] = []
SIMPLE: dict[str, Any] = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO"}],
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The directory of the cache, for root and for anybody else; it is not there yet."""
    monkeypatch.setattr(seccomp, "_ROOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    seccomp._memo.clear()
    yield tmp_path / "cache/ctnr/seccomp"
    seccomp._memo.clear()


def compiled(section: dict[str, Any]) -> seccomp.Filter:
    return seccomp.compile(section)  # type: ignore[arg-type]


def answer(section: dict[str, Any], name: str = "read", first: int = 0) -> int:
    return Filter(compiled(section).program).run(audit_arch(NATIVE), number_of(name), [first, 0, 0, 0, 0, 0])


def with_rule(**members: Any) -> dict[str, Any]:
    return {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], **members}]}


# --- the section


@pytest.mark.parametrize("name", [name for name in ACTIONS if name not in ("SCMP_ACT_NOTIFY", "SCMP_ACT_ALLOW")])
def test_actions(name: str) -> None:
    expected = ACTIONS[name]
    if name in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"):
        assert answer(with_rule(action=name, errnoRet=100)) == expected | 100
        expected |= errno.EPERM
    assert answer(with_rule(action=name)) == expected
    assert answer({"defaultAction": name}) == expected


def test_errno() -> None:
    assert answer(with_rule(action="SCMP_ACT_ERRNO", errnoRet=0)) == ERRNO
    assert answer(with_rule(action="SCMP_ACT_ERRNO", errnoRet=4095)) == ERRNO | 4095
    assert answer(with_rule(action="SCMP_ACT_TRACE", errnoRet=0xFFFF)) == ACTIONS["SCMP_ACT_TRACE"] | 0xFFFF
    section = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["statx"], "action": "SCMP_ACT_ALLOW"}]}
    assert answer(section | {"defaultErrnoRet": 6}) == ERRNO | 6
    assert [answer(section, name) for name in ("read", "statx", "clone3")] == [ERRNO | 1, ALLOW, ENOSYS]


@pytest.mark.parametrize(("op", "true", "false"), [
    ("SCMP_CMP_NE", 4, 5),
    ("SCMP_CMP_LT", 4, 5),
    ("SCMP_CMP_LE", 5, 6),
    ("SCMP_CMP_EQ", 5, 6),
    ("SCMP_CMP_GE", 5, 4),
    ("SCMP_CMP_GT", 6, 5),
])  # fmt: skip
def test_operators(op: str, true: int, false: int) -> None:
    section = with_rule(action="SCMP_ACT_ERRNO", args=[{"index": 0, "value": 5, "op": op}])
    assert (answer(section, first=true), answer(section, first=false)) == (ERRNO | 1, ALLOW)


def test_masked_equal_takes_the_mask_first() -> None:
    arg = {"index": 0, "value": 0xF0, "valueTwo": 0x50, "op": "SCMP_CMP_MASKED_EQ"}
    section = with_rule(action="SCMP_ACT_ERRNO", args=[arg])
    assert [answer(section, first=x) for x in (0x50, 0x15F, 0x60)] == [ERRNO | 1, ERRNO | 1, ALLOW]


def test_conditions_on_different_arguments_must_all_hold() -> None:
    args = [{"index": 0, "value": 5, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 1, "op": "SCMP_CMP_EQ"}]
    assert answer(with_rule(action="SCMP_ACT_ERRNO", args=args), first=5) == ALLOW


def test_conditions_on_the_same_argument_are_alternatives() -> None:
    """What runc and crun make of it: all of them, also those on other arguments."""
    args = [
        {"index": 0, "value": 5, "op": "SCMP_CMP_EQ"},
        {"index": 0, "value": 7, "op": "SCMP_CMP_EQ"},
        {"index": 1, "value": 1, "op": "SCMP_CMP_EQ"},
    ]
    section = with_rule(action="SCMP_ACT_ERRNO", args=args)
    assert [answer(section, first=x) for x in (5, 6, 7)] == [ERRNO | 1, ALLOW, ERRNO | 1]
    assert Filter(compiled(section).program).run(audit_arch(NATIVE), number_of("read"), [0, 1, 0, 0, 0, 0]) == ERRNO | 1


def test_flags() -> None:
    def flags(*names: str) -> int:
        return compiled(SIMPLE | {"flags": [f"SECCOMP_FILTER_FLAG_{name}" for name in names]}).flags

    assert compiled(SIMPLE).flags == FLAGS["SECCOMP_FILTER_FLAG_SPEC_ALLOW"] == 4
    assert (flags(), flags("LOG"), flags("SPEC_ALLOW"), flags("LOG", "SPEC_ALLOW")) == (0, 2, 4, 6)
    # runc takes and ignores it
    assert (flags("TSYNC"), flags("TSYNC", "LOG")) == (0, 2)
    assert seccomp_build.supported_flags() == list(FLAGS)


def test_flags_of_an_older_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve = seccomp_build._resolve
    monkeypatch.setattr(seccomp_build, "_resolve", lambda *args: resolve(*args) | {"flags": 3})
    assert compiled(SIMPLE).flags == 0
    with pytest.raises(SpecError, match=r"^linux\.seccomp\.flags\[1\]: this kernel does not know .*_SPEC_ALLOW$"):
        compiled(SIMPLE | {"flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]})


def test_architectures_add_to_the_native_one() -> None:
    for name, token in ARCHITECTURES.items():
        if token in seccomp_resolve([token], [])["archs"] and token & 0x40000000 == NATIVE & 0x40000000:
            section = SIMPLE | {"architectures": [name, name]}
            assert answer(section) == ERRNO | 1
            assert Filter(compiled(section).program).run(audit_arch(token), number_of("read", token)) == ERRNO | 1


FOREIGN = "SCMP_ARCH_PPC64" if NATIVE & 0x40000000 else "SCMP_ARCH_PPC64LE"
BAD: list[tuple[Any, str]] = [
    ([], "linux.seccomp: "),
    ({}, "linux.seccomp.defaultAction: is required"),
    ({"defaultAction": "ALLOW"}, 'linux.seccomp.defaultAction: unknown seccomp action "ALLOW"'),
    ({"defaultAction": "SCMP_ACT_KILL", "defaultErrnoRet": 1}, "linux.seccomp.defaultErrnoRet: "),
    ({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 4096}, "linux.seccomp.defaultErrnoRet: "),
    (SIMPLE | {"architectures": ["x86"]}, "linux.seccomp.architectures[0]: "),
    (
        SIMPLE | {"architectures": [FOREIGN]},
        f"linux.seccomp.architectures[0]: {FOREIGN} has not this machine's byte order",
    ),
    (SIMPLE | {"flags": ["SECCOMP_FILTER_FLAG_NEW_LISTENER"]}, "linux.seccomp.flags[0]: unknown"),
    (
        SIMPLE | {"flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]},
        "linux.seccomp.flags[0]: the kernel takes SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV only with SCMP_ACT_NOTIFY",
    ),
    (with_rule(action="SCMP_ACT_ALLOW", errnoRet=1), "linux.seccomp.syscalls[0].errnoRet: "),
    (with_rule(action="SCMP_ACT_ERRNO", errnoRet=-1), "linux.seccomp.syscalls[0].errnoRet: "),
    (with_rule(action="SCMP_ACT_ERRNO", names=[]), "linux.seccomp.syscalls[0].names: "),
    (with_rule(action="SCMP_ACT_ERRNO", names=["read", ""]), "linux.seccomp.syscalls[0].names[1]: "),
    (
        with_rule(action="SCMP_ACT_ERRNO", args=[{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]),
        "linux.seccomp.syscalls[0].args[0].index: ",
    ),
    (
        with_rule(action="SCMP_ACT_ERRNO", args=[{"index": 0, "value": 2**64, "op": "SCMP_CMP_EQ"}]),
        "linux.seccomp.syscalls[0].args[0].value: ",
    ),
    (
        with_rule(action="SCMP_ACT_ERRNO", args=[{"index": 0, "value": 1, "op": "=="}]),
        "linux.seccomp.syscalls[0].args[0].op: ",
    ),
    (
        {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [
                {
                    "names": ["read"],
                    "action": "SCMP_ACT_ERRNO",
                    "args": [{"index": 0, "value": i << 32 | i, "op": "SCMP_CMP_EQ"}],
                }
                for i in range(2000)
            ],
        },
        "linux.seccomp: makes 8",
    ),
]


@pytest.mark.parametrize(("section", "message"), BAD, ids=range(len(BAD)))
def test_errors_name_the_field(section: Any, message: str, cache: Path) -> None:
    with pytest.raises(SpecError) as e:
        compiled(section)
    assert str(e.value).startswith(message)
    assert "\n" not in str(e.value)
    assert not cache.exists()


def test_errors_say_where_the_section_is() -> None:
    with pytest.raises(SpecError, match=r"^profile\.json\.defaultAction: "):
        seccomp.compile({"defaultAction": "no"}, "profile.json")


def test_an_architecture_newer_than_libseccomp(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve = seccomp_build._resolve
    name, token = "SCMP_ARCH_RISCV64", ARCHITECTURES["SCMP_ARCH_RISCV64"]
    if token == NATIVE:
        name, token = "SCMP_ARCH_AARCH64", ARCHITECTURES["SCMP_ARCH_AARCH64"]

    def older(tokens: list[int], names: list[str]) -> dict[str, Any]:
        known = resolve(tokens, names)
        del known["archs"][token]
        return known

    monkeypatch.setattr(seccomp_build, "_resolve", older)
    with pytest.raises(
        SpecError, match=r"^linux\.seccomp\.architectures\[0\]: this version of libseccomp does not know"
    ):
        compiled(SIMPLE | {"architectures": [name]})


def test_unknown_calls_are_skipped_with_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(log, "debug", said.append)
    names = ["nope", "read", "gr\xfc\xdfe", "\udc80"]
    section = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": names, "action": "SCMP_ACT_ERRNO"}]}
    known = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO"}]}
    assert seccomp_build.build(section, "").program == seccomp_build.build(known, "").program  # type: ignore[arg-type]
    assert said[0] == "unknown seccomp syscall 'nope' ignored"
    assert len(said) == 3


# --- the extension


def test_resolve() -> None:
    known = seccomp_resolve([], ["read", "nope", "re\0ad"])
    assert known["archs"] == {NATIVE: ([number_of("read"), -1, -1], {})} or NATIVE not in (
        ARCHITECTURES["SCMP_ARCH_X86_64"],
        ARCHITECTURES["SCMP_ARCH_AARCH64"],
    )
    assert known["native"] == NATIVE
    assert Path(known["library"]).is_file()
    assert [part.isdigit() for part in known["version"].split(".")] == [True] * 3
    assert seccomp_build.library_version() == known["version"]


def test_resolve_multiplexed_calls() -> None:
    x86 = ARCHITECTURES["SCMP_ARCH_X86"]
    numbers, direct = seccomp_resolve([x86], ["socket", "socketcall", "recv"])["archs"][x86]
    assert numbers == [-101, 102, -110]
    assert direct["socket"] == 359
    assert "recv" not in direct and "read" not in direct


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ([],),
        ([], [], []),
        ((), []),
        ([], ()),
        (["x86"], []),
        ([-1], []),
        ([2**70], []),
        ([], [1]),
        ([], ["\udc80"]),
    ],
)
def test_resolve_refuses(arguments: Any) -> None:
    with pytest.raises((TypeError, OverflowError, UnicodeEncodeError)):
        seccomp_resolve(*arguments)


def test_resolve_knows_no_such_architecture() -> None:
    assert set(seccomp_resolve([1, 0xFFFFFFFF, 2**40], ["read"])["archs"]) == {NATIVE}


def test_resolve_does_not_leak() -> None:
    tokens = list(ARCHITECTURES.values())
    names = [name for entry in PROFILE["syscalls"] for name in entry["names"]]

    def some() -> int:
        for _ in range(30):
            seccomp_resolve(tokens, names)
            with pytest.raises(UnicodeEncodeError):
                seccomp_resolve(tokens, [*names, "\udc80"])
        return resident()

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    some()
    blocks, before = sys.getallocatedblocks(), resident()
    after = some()
    assert sys.getallocatedblocks() - blocks < 500
    # one leaked name for each call would be 400 kB, one dict for each architecture more
    assert after - before < 200 << 10


def without_libseccomp(library: Path) -> str:
    program = f"""
import sys
sys.path.insert(0, {str(PACKAGE_ROOT)!r})
from ctnr.errors import CtnrError
from ctnr.runtime import seccomp
seccomp._ROOT_CACHE = "/nonexistent"
try:
    seccomp.compile({SIMPLE!r})
except CtnrError as e:
    print(type(e).__name__, e)
"""
    environment = {"LD_LIBRARY_PATH": str(library.parent)}
    done = subprocess.run(
        [sys.executable, "-B", "-c", program], check=True, stdout=subprocess.PIPE, text=True, env=environment
    )
    return done.stdout


def test_without_libseccomp(tmp_path: Path) -> None:
    (tmp_path / "libseccomp.so.2").write_text("no library")
    said = without_libseccomp(tmp_path / "libseccomp.so.2")
    assert said.startswith("CtnrError cannot make the seccomp filter: cannot load libseccomp (")
    assert "install the package libseccomp2 (Debian, Ubuntu) or libseccomp" in said
    assert said.count("\n") == 1


def test_with_a_libseccomp_that_lacks_a_function(tmp_path: Path) -> None:
    import ctypes

    ctypes.CDLL("libm.so.6")
    (libm,) = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "/libm" in line}
    (tmp_path / "libseccomp.so.2").write_bytes(Path(libm).read_bytes())
    assert without_libseccomp(tmp_path / "libseccomp.so.2") == (
        "CtnrError cannot make the seccomp filter: libseccomp.so.2 has no seccomp_version: libseccomp 2.3 or later is needed\n"
    )


def test_tables_are_complete() -> None:
    """runtime-spec 1.3 config-linux.md#seccomp."""
    assert len(ACTIONS) == 9 and len(OPERATORS) == 7 and len(ARCHITECTURES) == 23 and len(FLAGS) == 4
    assert issubclass(SpecError, CtnrError)
