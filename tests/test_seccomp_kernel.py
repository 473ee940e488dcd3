# SPDX-License-Identifier: Apache-2.0
"""Seccomp filters in the kernel: child processes install them and see what their system calls meet."""

from __future__ import annotations

import errno
import json
import platform
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from seccomp_oracle import NATIVE, X86_64, holds, number_of

import ctnr
from ctnr.spec.seccomp import OPERATORS

PROFILE: dict[str, Any] = json.loads((Path(__file__).parent / "data/seccomp.json").read_text())
if NATIVE != X86_64:
    PROFILE["architectures"] = []

# Everything is imported before the filter comes. call() returns what the kernel did, -errno for an error
CHILD = f"""
import ctypes, errno, json, mmap, os, resource, signal, socket, subprocess, sys, threading
sys.path.insert(0, {str(Path(ctnr.__file__).parents[1])!r})
from ctnr.runtime import seccomp
from ctnr._native import seccomp_resolve

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
known = seccomp_resolve([], ["seccomp"])
(seccomp_number,), _ = known["archs"][known["native"]]

def call(number, *args):
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_ulong(arg) for arg in args))
    return -ctypes.get_errno() if result < 0 else result

class Fprog(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_char_p)]

def install(section):
    filter = seccomp.compile(section)
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    fprog = Fprog(len(filter.program) // 8, filter.program)
    assert libc.syscall(seccomp_number, 1, filter.flags, ctypes.byref(fprog)) == 0, os.strerror(ctypes.get_errno())

def tell(value):
    print(json.dumps(value), flush=True)

seccomp._ROOT_CACHE = "/nonexistent"
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
section = json.loads(sys.argv[1])
"""


def child(code: str, section: dict[str, Any]) -> tuple[int, list[Any]]:
    """The exit status of a child that runs `code` after CHILD, and what it told."""
    done = subprocess.run(
        [sys.executable, "-B", "-c", CHILD + code, json.dumps(section)],
        check=False,
        stdout=subprocess.PIPE,
        env={},
        timeout=60,
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def rule(*names: str, action: str = "SCMP_ACT_ERRNO", **members: Any) -> dict[str, Any]:
    return {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": list(names), "action": action, **members}]}


GETPPID = f"install(section)\ntell(call({number_of('getppid')}))\n"


@pytest.mark.parametrize("number", [None, 0, 100, 4095])
def test_errno(number: int | None) -> None:
    section = rule("getppid") if number is None else rule("getppid", errnoRet=number)
    assert child(GETPPID, section) == (0, [-(1 if number is None else number)])


@pytest.mark.parametrize("action", ["KILL", "KILL_THREAD", "KILL_PROCESS", "TRAP"])
def test_sigsys(action: str) -> None:
    assert child(GETPPID, rule("getppid", action=f"SCMP_ACT_{action}")) == (-signal.SIGSYS, [])


def test_trap_is_caught() -> None:
    code = "signal.signal(signal.SIGSYS, lambda *args: tell('trapped'))\n" + GETPPID
    status, told = child(code, rule("getppid", action="SCMP_ACT_TRAP"))
    assert (status, told[0]) == (0, "trapped")


def test_kill_takes_the_thread_or_the_process() -> None:
    # the thread dies with what it holds, so nobody waits for it: its end is read from /proc
    code = f"""
install(section)
def die():
    call({number_of("getppid")})
thread = threading.Thread(target=die, daemon=True)
thread.start()
while thread.native_id is None or os.path.exists(f"/proc/self/task/{{thread.native_id}}"):
    pass
tell("alive")
os._exit(0)
"""
    assert child(code, rule("getppid", action="SCMP_ACT_KILL_THREAD")) == (0, ["alive"])
    assert child(code, rule("getppid", action="SCMP_ACT_KILL_PROCESS")) == (-signal.SIGSYS, [])


def test_log_lets_pass() -> None:
    status, told = child("tell(os.getppid())\n" + GETPPID, rule("getppid", action="SCMP_ACT_LOG"))
    assert status == 0 and told[0] == told[1] > 0


def test_trace_without_a_tracer() -> None:
    assert child(GETPPID, rule("getppid", action="SCMP_ACT_TRACE", errnoRet=7)) == (0, [-errno.ENOSYS])


@pytest.mark.parametrize("flags", [[], ["LOG"], ["SPEC_ALLOW"], ["TSYNC"], ["LOG", "SPEC_ALLOW", "TSYNC"]], ids=str)
def test_flags(flags: list[str]) -> None:
    section = rule("getppid") | {"flags": [f"SECCOMP_FILTER_FLAG_{flag}" for flag in flags]}
    code = (
        GETPPID + "tell([line for line in open('/proc/self/status') if line.startswith('Speculation_Store_Bypass')])\n"
    )
    status, told = child(code, section)
    assert (status, told[0]) == (0, -1)
    # where the processor has the mitigation, SPEC_ALLOW leaves it off
    if "SPEC_ALLOW" in flags:
        assert "force mitigated" not in str(told[1])


WORDS = [0, 1, 38, 2**31, 2**32 - 1, 2**32, 2**32 + 38, 2**33, 2**63, 2**64 - 1]


@pytest.mark.parametrize("op", OPERATORS)
def test_arguments(op: str) -> None:
    """The first argument of a call that takes none: the filter sees all 64 bits of what is there."""
    value, value2 = (0xFFFFFFFF_FFFFFF00, 2**32) if op == "SCMP_CMP_MASKED_EQ" else (2**32 + 38, 0)
    section = rule("getppid", errnoRet=99, args=[{"index": 1, "value": value, "valueTwo": value2, "op": op}])
    status, told = child(
        f"install(section)\nfor word in {WORDS}: tell(call({number_of('getppid')}, 0, word) == -99)\n", section
    )
    assert status == 0
    assert told == [holds((0, OPERATORS[op], value, value2), [word], False) for word in WORDS]


def test_rules_of_order_together() -> None:
    """libseccomp's generator allows too much here, in 2.5.4."""
    section = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [
            {"names": ["getppid"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": value, "op": op}]}
            for value, op in ((0, "SCMP_CMP_LE"), (2**32, "SCMP_CMP_GT"))
        ],
    }
    code = f"install(section)\ntell([call({number_of('getppid')}, word) for word in (0, 1, 2 ** 32, 2 ** 32 + 1)])\n"
    status, ((le, one, word, gt),) = child(code, section)
    assert (status, le, gt) == (0, -1, -1)
    assert one > 0 and word > 0


def test_profile_lets_programs_run() -> None:
    """A usual profile: processes, threads, sockets and files work, and what it forbids does not."""
    numbers = {name: number_of(name) for name in ("mount", "clone3", "personality", "unshare")}
    code = f"""
install(section)
tell(subprocess.run(["/bin/sh", "-c", "echo $((6 * 7)) | cat"], stdout=subprocess.PIPE).stdout.decode())
thread = threading.Thread(target=tell, args=("thread",))
thread.start()
thread.join()
a, b = socket.socketpair()
a.send(b"socket")
tell(b.recv(10).decode())
# clone3 must not exist, for libc to fall back to clone, whose flags can be looked at
tell([call({numbers["mount"]}), call({numbers["clone3"]}), call({numbers["unshare"]}, 0x10000000)])
tell([call({numbers["personality"]}, value) for value in (0xffffffff, 8, 4)])
# a call newer than the profile
tell([call(number) for number in (700, 5000)])
for family in (38, 40):
    try:
        socket.socket(family)
    except OSError as e:
        tell(e.errno)
"""
    status, told = child(code, PROFILE)
    assert status == 0
    assert told == ["42\n", "thread", "socket", [-1, -38, -1], [0, 0, -1], [-38, -38], 1, 1]


@pytest.mark.parametrize("name", ["kexec_load", "open_by_handle_at"])
def test_profile_kills(name: str) -> None:
    assert child(f"install(section)\ncall({number_of(name)})\n", PROFILE) == (-signal.SIGSYS, [])


if platform.machine() == "x86_64":
    # int 0x80 with the number in eax, an argument in ebx and 0 in ecx: the call of a 32 bit program
    INT80 = """
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(bytes.fromhex("53 31 c9 89 f8 89 f3 cd 80 5b c3"))
int80 = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
tell(int80(20, 0) == os.getpid())
install(section)
tell(int80(64, 0))  # getppid
"""

    def test_32_bit_calls() -> None:
        section = rule("getppid", errnoRet=99)
        assert child(INT80, section | {"architectures": ["SCMP_ARCH_X86"]}) == (0, [True, -99])
        # an architecture that is not listed
        assert child(INT80, section) == (-signal.SIGSYS, [True])

    def test_32_bit_calls_of_the_profile() -> None:
        code = INT80 + "tell([int80(102, 1), int80(21, 0), int80(700, 0)])\n"  # socketcall(SYS_SOCKET), mount
        status, told = child(code, PROFILE)
        assert status == 0
        # socketcall reads its arguments from the null pointer
        assert told == [True, told[1], [-errno.EFAULT, -1, -errno.ENOSYS]] and told[1] > 0

    def test_x32_calls() -> None:
        code = f"install(section)\ntell(call({0x40000000 | 39}) in (-errno.ENOSYS, os.getpid()))\n"
        assert child(code, rule("getppid")) == (-signal.SIGSYS, [])
        assert child(code, rule("getppid") | {"architectures": ["SCMP_ARCH_X32"]}) == (0, [True])
