# SPDX-License-Identifier: Apache-2.0
"""Rows for test_inside.py: config.process, and seccomp."""

from __future__ import annotations

import errno
import resource

from . import kernel
from .bundles import Bundle
from .cases import ROOT_AND_SUBIDS, Row, case, expect, nothing
from .kernel import Json, status
from .users import ROOT, User


@case(exec_too=True)
def argv_as_it_was_written() -> Row:
    words = ["", "two words", "quo'te\"s", "tab\there", "new\nline", "grüße ☃", "$HOME", "-x", "--", "*"]
    return (lambda bundle: bundle.process.__setitem__("extra_argv", words)), lambda probe, bundle, user: expect(
        probe["argv"][1 : 1 + len(words)], words
    )


@case()
def env_as_it_was_written_and_nothing_else() -> Row:
    env = ["PATH=/bin", "HOME=/work", "EMPTY=", "EQUALS=a=b", "LINES=a\nb", "UNI=grüße ☃", "SPACE=a b", "lower=1"]
    return (lambda bundle: bundle.process.__setitem__("env", env)), lambda probe, bundle, user: expect(
        sorted(probe["env"]), sorted(env)
    )


@case()
def home_comes_from_the_containers_passwd() -> Row:
    def check(probe: Json, bundle: Bundle, user: User) -> None:
        assert "HOME=/root" in probe["env"], probe["env"]

    return (lambda bundle: bundle.process.__setitem__("env", ["PATH=/bin"])), check


@case()
def cwd() -> Row:
    return (lambda bundle: bundle.process.__setitem__("cwd", "/work")), lambda probe, bundle, user: expect(
        probe["cwd"], "/work"
    )


@case(exec_too=False)
def a_cwd_that_is_missing_in_a_readonly_root() -> Row:
    def change(bundle: Bundle) -> None:
        bundle.config["root"]["readonly"] = True
        bundle.process["cwd"] = "/new/place"

    return change, lambda probe, bundle, user: expect(probe["cwd"], "/new/place")


@case()
def umask() -> Row:
    return (lambda bundle: bundle.process["user"].__setitem__("umask", 0o137)), lambda probe, bundle, user: expect(
        probe["umask"], 0o137
    )


@case()
def umask_of_zero_is_not_no_umask() -> Row:
    return (lambda bundle: bundle.process["user"].__setitem__("umask", 0)), lambda probe, bundle, user: expect(
        probe["umask"], 0
    )


@case(kinds=ROOT_AND_SUBIDS)
def another_user_with_groups() -> Row:
    def check(probe: Json, bundle: Bundle, user: User) -> None:
        expect(probe["uids"], [1000] * 3)
        expect(probe["gids"], [1001] * 3)
        expect(sorted(probe["groups"]), [10, 2000])

    def change(bundle: Bundle) -> None:
        bundle.process["user"] = {"uid": 1000, "gid": 1001, "additionalGids": [10, 2000]}

    return change, check


@case(kinds=ROOT_AND_SUBIDS)
def another_user_has_no_capabilities_but_ambient_ones() -> Row:
    def change(bundle: Bundle) -> None:
        bundle.process["user"] = {"uid": 1000, "gid": 1000}
        everything = ["CAP_KILL", "CAP_CHOWN", "CAP_NET_BIND_SERVICE"]
        bundle.process["capabilities"] = {
            "bounding": everything,
            "permitted": everything,
            "effective": everything,
            "inheritable": ["CAP_NET_BIND_SERVICE"],
            "ambient": ["CAP_NET_BIND_SERVICE"],
        }

    def check(probe: Json, bundle: Bundle, user: User) -> None:
        expect(kernel.capabilities(probe), kernel.after_exec(bundle.process["capabilities"], 1000))

    return change, check


def _capabilities(name: str, **sets: list[str]) -> None:
    def make() -> Row:
        def check(probe: Json, bundle: Bundle, user: User) -> None:
            expect(kernel.capabilities(probe), kernel.after_exec(sets, 0))

        return (lambda bundle: bundle.process.__setitem__("capabilities", sets)), check

    make.__name__ = name
    case()(make)


_capabilities("no_capabilities_at_all", bounding=[], permitted=[], effective=[], inheritable=[], ambient=[])
_capabilities(
    "five_different_capability_sets",
    bounding=["CAP_KILL", "CAP_CHOWN", "CAP_NET_BIND_SERVICE", "CAP_SETUID"],
    permitted=["CAP_KILL", "CAP_CHOWN", "CAP_NET_BIND_SERVICE"],
    effective=["CAP_KILL"],
    inheritable=["CAP_CHOWN", "CAP_KILL"],
    ambient=["CAP_KILL"],
)
_capabilities(
    "capabilities_above_bit_31",
    bounding=["CAP_SYSLOG", "CAP_AUDIT_READ", "CAP_BPF", "CAP_CHECKPOINT_RESTORE"],
    permitted=["CAP_SYSLOG", "CAP_AUDIT_READ", "CAP_BPF", "CAP_CHECKPOINT_RESTORE"],
    effective=["CAP_SYSLOG", "CAP_BPF"],
)


@case(peers={"crun": (1, 8)}, exec_too=False)
def no_capabilities_property_means_none() -> Row:
    # the specification says nothing; runc lets the program keep all of the caller's, crun and we give none
    def check(probe: Json, bundle: Bundle, user: User) -> None:
        expect(kernel.capabilities(probe)["inheritable"], set())
        expect(kernel.capabilities(probe)["ambient"], set())
        expect(kernel.capabilities(probe)["effective"], set())
        expect(kernel.capabilities(probe)["bounding"], set())

    return (lambda bundle: bundle.process.pop("capabilities")), check


@case()
def new_privileges_allowed() -> Row:
    def check(probe: Json, bundle: Bundle, user: User) -> None:
        expect(probe["no_new_privs"], 0)
        expect(
            kernel.capabilities(probe), kernel.after_exec(bundle.process["capabilities"], 0, no_new_privileges=False)
        )

    return (lambda bundle: bundle.process.__setitem__("noNewPrivileges", False)), check


def _limit_cases() -> dict[str, tuple[int, int]]:
    """Limits within what the machine lets everybody set: lower than the hard ones of now."""

    def below(which: int, soft: int, hard: int) -> tuple[int, int]:
        now = resource.getrlimit(which)[1]
        if now != resource.RLIM_INFINITY:
            hard = min(hard, now)
        return min(soft, hard), hard

    return {
        "RLIMIT_NOFILE": below(resource.RLIMIT_NOFILE, 512, 1000),
        "RLIMIT_CORE": (0, 0),
        "RLIMIT_FSIZE": below(resource.RLIMIT_FSIZE, 1 << 33, 1 << 34),
        "RLIMIT_STACK": below(resource.RLIMIT_STACK, 4 << 20, 6 << 20),
        "RLIMIT_NPROC": below(resource.RLIMIT_NPROC, 4000, 5000),
        "RLIMIT_MEMLOCK": below(resource.RLIMIT_MEMLOCK, 4096, 65536),
        "RLIMIT_SIGPENDING": below(resource.RLIMIT_SIGPENDING, 100, 200),
        "RLIMIT_MSGQUEUE": below(resource.RLIMIT_MSGQUEUE, 4096, 8192),
        "RLIMIT_CPU": below(resource.RLIMIT_CPU, 1000, 2000),
    }


@case()
def rlimits() -> Row:
    wanted = _limit_cases()

    def change(bundle: Bundle) -> None:
        bundle.process["rlimits"] = [
            {"type": name, "soft": soft, "hard": hard} for name, (soft, hard) in wanted.items()
        ]

    def check(probe: Json, bundle: Bundle, user: User) -> None:
        seen = kernel.limits(probe["limits"])
        expect({name: seen[name] for name in wanted}, wanted)

    return change, check


@case()
def an_unlimited_rlimit() -> Row:
    def change(bundle: Bundle) -> None:
        bundle.process["rlimits"] = [{"type": "RLIMIT_AS", "soft": 2**64 - 1, "hard": 2**64 - 1}]

    return change, lambda probe, bundle, user: expect(kernel.limits(probe["limits"])["RLIMIT_AS"], (None, None))


@case()
def limits_that_nobody_asked_to_change_are_the_callers() -> Row:
    def check(probe: Json, bundle: Bundle, user: User) -> None:
        with open("/proc/self/limits") as file:
            expect(kernel.limits(probe["limits"]), kernel.limits(file.read()))

    return (lambda bundle: bundle.process.__setitem__("rlimits", [])), check


@case()
def oom_score_adj() -> Row:
    # of an exec too, unlike runc's
    return (lambda bundle: bundle.process.__setitem__("oomScoreAdj", 555)), lambda probe, bundle, user: expect(
        probe["oom_score_adj"], "555\n"
    )


@case("self:keyring", peers={})
def a_session_keyring_of_the_containers() -> Row:
    # as runc's it can be found by name, so that an exec'd process has the same one; crun's cannot
    def check(probe: Json, bundle: Bundle, user: User) -> None:
        kind, uid, gid, permissions, name = probe["asked"]["self:keyring"].split(";")
        expect((kind, uid, gid), ("keyring", "0", "0"))
        expect(permissions, "3f1b0000" if user.kind == ROOT else "3f1b0008")
        assert name.startswith("_ses."), name

    return nothing, check


# crun 1.8 fails
@case(kinds=(ROOT,), peers={"runc": (1, 1)})
def seccomp_that_refuses_getcwd_before_no_new_privileges() -> Row:
    def change(bundle: Bundle) -> None:
        bundle.process["noNewPrivileges"] = False
        bundle.linux["seccomp"] = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["getcwd"], "action": "SCMP_ACT_ERRNO"}],
        }

    return change, lambda probe, bundle, user: expect(status(probe)["Seccomp"], "2")


MKDIRAT, GETPRIORITY, UNAME = 258, 140, 63  # x86-64 numbers; the case is for that machine only


@case(f"call:{GETPRIORITY}", "call:39")
def seccomp_answers_with_the_errno_asked_for() -> Row:
    def change(bundle: Bundle) -> None:
        bundle.linux["seccomp"] = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{"names": ["getpriority"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOTNAM}],
        }

    def check(probe: Json, bundle: Bundle, user: User) -> None:
        expect(probe["asked"], {f"call:{GETPRIORITY}": errno.ENOTNAM, "call:39": 0})
        expect(status(probe)["Seccomp"], "2")

    return change, check


@case(kinds=(ROOT,))
def seccomp_without_no_new_privileges() -> Row:
    def change(bundle: Bundle) -> None:
        bundle.process["noNewPrivileges"] = False
        bundle.linux["seccomp"] = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["getpriority"], "action": "SCMP_ACT_ERRNO"}],
        }

    def check(probe: Json, bundle: Bundle, user: User) -> None:
        expect(status(probe)["Seccomp"], "2")
        expect(status(probe)["NoNewPrivs"], "0")
        # loading a filter without no_new_privs takes CAP_SYS_ADMIN: the program must not keep it
        expect(
            kernel.capabilities(probe), kernel.after_exec(bundle.process["capabilities"], 0, no_new_privileges=False)
        )

    return change, check
