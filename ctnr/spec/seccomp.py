# SPDX-License-Identifier: Apache-2.0
"""linux.seccomp: its names with libseccomp's numbers, and its rules (runtime-spec config-linux.md#seccomp).

HOT: imported by create, run and start of a container that has any.
"""

from __future__ import annotations

from ctnr.errors import SpecError
from ctnr.spec.schema import NAME, TEXT, U64, check, integer, list_of, one_of, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from ctnr.spec.types import Seccomp

RECEIVER = "run.oci.seccomp.receiver"  # crun's annotation

# seccomp.h of libseccomp; the low 16 bits of ERRNO and TRACE are for the errno
ACTIONS = {
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_NOTIFY": 0x7FC00000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
}

# actions that take an errno, and the largest the kernel passes on
ERRNO_MAX = {"SCMP_ACT_ERRNO": 4095, "SCMP_ACT_TRACE": 0xFFFF}

# linux/audit.h
ARCHITECTURES = {
    "SCMP_ARCH_X86": 0x40000003,
    "SCMP_ARCH_X86_64": 0xC000003E,
    "SCMP_ARCH_X32": 0x4000003E,
    "SCMP_ARCH_ARM": 0x40000028,
    "SCMP_ARCH_AARCH64": 0xC00000B7,
    "SCMP_ARCH_MIPS": 0x00000008,
    "SCMP_ARCH_MIPS64": 0x80000008,
    "SCMP_ARCH_MIPS64N32": 0xA0000008,
    "SCMP_ARCH_MIPSEL": 0x40000008,
    "SCMP_ARCH_MIPSEL64": 0xC0000008,
    "SCMP_ARCH_MIPSEL64N32": 0xE0000008,
    "SCMP_ARCH_PPC": 0x00000014,
    "SCMP_ARCH_PPC64": 0x80000015,
    "SCMP_ARCH_PPC64LE": 0xC0000015,
    "SCMP_ARCH_S390": 0x00000016,
    "SCMP_ARCH_S390X": 0x80000016,
    "SCMP_ARCH_PARISC": 0x0000000F,
    "SCMP_ARCH_PARISC64": 0x8000000F,
    "SCMP_ARCH_RISCV64": 0xC00000F3,
    "SCMP_ARCH_LOONGARCH64": 0xC0000102,
    "SCMP_ARCH_M68K": 0x00000004,
    "SCMP_ARCH_SH": 0x4000002A,
    "SCMP_ARCH_SHEB": 0x0000002A,
}

OPERATORS = {
    "SCMP_CMP_NE": 1,
    "SCMP_CMP_LT": 2,
    "SCMP_CMP_LE": 3,
    "SCMP_CMP_EQ": 4,
    "SCMP_CMP_GE": 5,
    "SCMP_CMP_GT": 6,
    "SCMP_CMP_MASKED_EQ": 7,
}

# linux/seccomp.h, for seccomp(2)
FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 1 << 0,
    "SECCOMP_FILTER_FLAG_LOG": 1 << 1,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 1 << 2,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 1 << 5,
}

_ACTION = one_of(ACTIONS, "seccomp action")
_ERRNO = integer(0, 0xFFFF)
_SECCOMP = record(
    {
        "defaultAction": _ACTION,
        "defaultErrnoRet": _ERRNO,
        "architectures": list_of(one_of(ARCHITECTURES, "seccomp architecture")),
        "flags": list_of(one_of(FLAGS, "seccomp flag")),
        "listenerPath": TEXT,
        "listenerMetadata": TEXT,
        "syscalls": list_of(
            record(
                {
                    "names": list_of(NAME),
                    "action": _ACTION,
                    "errnoRet": _ERRNO,
                    "args": list_of(
                        record(
                            {
                                "index": integer(0, 5),
                                "value": U64,
                                "valueTwo": U64,
                                "op": one_of(OPERATORS, "seccomp operator"),
                            },
                            ("index", "value", "op"),
                        )
                    ),
                },
                ("names", "action"),
            )
        ),
    },
    ("defaultAction",),
)


def listener(seccomp: Seccomp, annotations: Mapping[str, str] | None) -> str:
    """The path of the socket of who answers notifications; "" if there are none to answer, as in runc.

    Without listenerPath crun's annotation says it.
    """
    if all(rule["action"] != "SCMP_ACT_NOTIFY" for rule in seccomp.get("syscalls") or ()):
        return ""
    return seccomp.get("listenerPath") or (annotations or {}).get(RECEIVER, "")


def check_seccomp(seccomp: Seccomp, path: str = "linux.seccomp", receiver: str = "") -> None:
    """SpecError for what is no seccomp configuration, or one that could not work.

    `receiver`: who listens for notifications if listenerPath does not say.
    """
    check(seccomp, _SECCOMP, path)
    default = seccomp["defaultAction"]
    _check_errno(default, seccomp.get("defaultErrnoRet"), f"{path}.defaultErrnoRet")
    if default == "SCMP_ACT_NOTIFY":
        # the process could not even send the listener's fd to the agent
        raise SpecError(f"{path}.defaultAction", "SCMP_ACT_NOTIFY cannot be used as default action")
    if seccomp.get("listenerMetadata") and not seccomp.get("listenerPath"):
        raise SpecError(f"{path}.listenerMetadata", "must not be set without listenerPath")
    for i, rule in enumerate(seccomp.get("syscalls", ())):
        where = f"{path}.syscalls[{i}]"
        action = rule["action"]
        if not rule["names"]:
            raise SpecError(f"{where}.names", "must hold at least one system call")
        _check_errno(action, rule.get("errnoRet"), f"{where}.errnoRet")
        if action == "SCMP_ACT_NOTIFY":
            if not (seccomp.get("listenerPath") or receiver):
                raise SpecError(f"{where}.action", "SCMP_ACT_NOTIFY needs linux.seccomp.listenerPath")
            if "write" in rule["names"]:
                raise SpecError(f"{where}.names", "SCMP_ACT_NOTIFY cannot be used for the write syscall")


def _check_errno(action: str, errno: int | None, path: str) -> None:
    if errno is None:
        return
    highest = ERRNO_MAX.get(action)
    if highest is None:
        raise SpecError(path, f"{action} takes no errno")
    if errno > highest:
        raise SpecError(path, f"must be from 0 to {highest}, not {errno}")
