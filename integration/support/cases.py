# SPDX-License-Identifier: Apache-2.0
"""The tables of test_inside.py: what a config asks for, and how the kernel must show it.

A case changes a bundle and says what the payload has to see. `asks` are questions to the payload (payload/probe.c).
"""

from __future__ import annotations

import errno
import resource
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from . import kernel
from .bundles import RANGE, Bundle
from .kernel import Json, mount_at, status
from .users import KINDS, ONE_ID, ROOT, SUBIDS, User


@dataclass
class Case:
    """One row. `kinds`: the users it makes sense for. `peers`: which version of a peer does it too ({} for none)."""

    name: str
    change: Callable[[Bundle], object]
    check: Callable[[Json, Bundle, User], object]
    asks: tuple[str, ...] = ()
    kinds: tuple[str, ...] = KINDS
    peers: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: {"runc": (1, 1), "crun": (1, 8)})
    exec_too: bool = True

    def __str__(self) -> str:
        return self.name


CASES: list[Case] = []
ROOT_AND_SUBIDS = (ROOT, SUBIDS)


def case(
    *asks: str,
    kinds: tuple[str, ...] = KINDS,
    peers: Mapping[str, tuple[int, ...]] | None = None,
    exec_too: bool = True,
) -> Callable[[Callable[[], tuple[Callable[[Bundle], object], Callable[[Json, Bundle, User], object]]]], None]:
    """Registers a function that returns (change, check) as a row named after it."""

    def register(make: Callable[[], tuple[Callable[[Bundle], object], Callable[[Json, Bundle, User], object]]]) -> None:
        change, check = make()
        row = Case(make.__name__, change, check, asks, kinds, exec_too=exec_too)
        if peers is not None:
            row.peers = peers
        CASES.append(row)

    return register


Change = Callable[[Bundle], object]
Check = Callable[[Json, Bundle, User], object]
Row = tuple[Change, Check]


def nothing(bundle: Bundle) -> None:
    """The default config as it is."""


def expect(what: object, wanted: object) -> None:
    assert what == wanted, f"{what!r} is not {wanted!r}"


# ---------------------------------------------------------------- the default config


@case()
def the_default_capabilities_and_no_new_privileges() -> Row:
    def check(probe: Json, bundle: Bundle, user: User) -> None:
        asked = bundle.process["capabilities"]
        expect(kernel.capabilities(probe), kernel.after_exec(asked, 0))
        expect(status(probe)["NoNewPrivs"], "1")

    return nothing, check


@case()
def the_default_identity() -> Row:
    def check(probe: Json, bundle: Bundle, user: User) -> None:
        expect(probe["uids"], [0, 0, 0])
        expect(probe["gids"], [0, 0, 0])
        # the caller's groups must not come along where they can be dropped; one id cannot drop them
        if user.kind != ONE_ID:
            expect(probe["groups"], [])
        expect(probe["umask"], 0o022)
        expect(probe["cwd"], "/")

    return nothing, check


@case()
def stdio_is_all_that_is_open() -> Row:
    def check(probe: Json, bundle: Bundle, user: User) -> None:
        # 1 is where the payload writes its answer, which it leaves out
        expect(set(probe["fds"]), {"0", "2"})

    return nothing, check


@case()
def signals_are_default_and_unblocked() -> Row:
    def check(probe: Json, bundle: Bundle, user: User) -> None:
        lines = status(probe)
        expect(int(lines["SigBlk"], 16), 0)
        # Python ignores SIGPIPE and SIGXFSZ for itself: a program must not inherit that
        expect(int(lines["SigIgn"], 16), 0)
        expect(probe["pdeathsig"], 0)
        expect(probe["subreaper"], 0)
        expect(probe["securebits"], 0)

    return nothing, check


@case(peers={})
def the_dumpable_flag_is_back_for_the_program() -> Row:
    return nothing, lambda probe, bundle, user: expect(probe["dumpable"], 1)


@case()
def the_default_namespaces_and_no_others() -> Row:
    def check(probe: Json, bundle: Bundle, user: User) -> None:
        expect(kernel.new_namespaces(probe), {kernel.NS_FILES[n["type"]] for n in bundle.linux["namespaces"]})

    return nothing, check


@case()
def the_default_mounts() -> Row:
    def check(probe: Json, bundle: Bundle, user: User) -> None:
        expect(mount_at(probe, "/proc").type, "proc")
        dev = mount_at(probe, "/dev")
        expect(dev.type, "tmpfs")
        assert {"nosuid"} <= dev.options and {"mode=755", "size=65536k"} <= dev.data, dev
        assert not dev.options & {"relatime", "noatime", "ro"}, dev  # strictatime
        pts = mount_at(probe, "/dev/pts")
        expect(pts.type, "devpts")
        assert {"nosuid", "noexec"} <= pts.options and {"mode=620", "ptmxmode=666"} <= pts.data, pts
        shm = mount_at(probe, "/dev/shm")
        assert {"nosuid", "noexec", "nodev"} <= shm.options and "size=65536k" in shm.data, shm
        expect(mount_at(probe, "/dev/mqueue").type, "mqueue")
        sys = mount_at(probe, "/sys")
        expect(sys.type, "sysfs")
        assert {"nosuid", "noexec", "nodev", "ro"} <= sys.options, sys
        assert "ro" in mount_at(probe, "/").options

    return nothing, check


DEVICES = {"null": "1:3", "zero": "1:5", "full": "1:7", "random": "1:8", "urandom": "1:9", "tty": "5:0"}
LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}


@case("open:/dev/null", "open:/dev/full", "create:/dev/shm/x", "open:/dev/ptmx")
def the_default_devices_and_links() -> Row:
    def check(probe: Json, bundle: Bundle, user: User) -> None:
        for name, number in DEVICES.items():
            entry = probe["dev"][name]
            expect((entry["type"], entry["rdev"], entry["mode"]), ("char", number, 0o666))
        for name, target in LINKS.items():
            expect((probe["dev"][name]["type"], probe["dev"][name].get("target")), ("link", target))
        wanted = set(DEVICES) | set(LINKS) | {"pts", "shm", "mqueue"}
        assert wanted <= set(probe["dev"]) <= wanted | {"core", "console"}, sorted(probe["dev"])
        expect(probe["asked"], dict.fromkeys(probe["asked"], 0))

    return nothing, check


@case(
    "read:/proc/kcore",
    "read:/proc/keys",
    "read:/proc/timer_list",
    "list:/sys/firmware",
    "list:/proc/acpi",
    "open:/proc/sys/kernel/shmmax",
    "open:/proc/sysrq-trigger",
    "create:/sys/x",
    kinds=(ROOT,),
)
def the_default_masked_and_readonly_paths() -> Row:
    def check(probe: Json, bundle: Bundle, user: User) -> None:
        asked = probe["asked"]
        for path in ("/proc/kcore", "/proc/keys", "/proc/timer_list"):
            assert asked[f"read:{path}"] in ("", {"errno": errno.ENOENT}), (path, asked)
        for path in ("/sys/firmware", "/proc/acpi"):
            assert asked[f"list:{path}"] in ([], {"errno": errno.ENOENT}), (path, asked)
        expect(asked["open:/proc/sys/kernel/shmmax"], errno.EROFS)
        assert asked["open:/proc/sysrq-trigger"] in (errno.EROFS, errno.ENOENT)
        assert asked["create:/sys/x"] in (errno.EROFS, errno.EPERM, errno.EACCES), asked

    return nothing, check


@case()
def the_loopback_is_up_in_a_network_of_its_own() -> Row:
    return (lambda bundle: bundle.namespace("network")), lambda probe, bundle, user: expect(probe["loopback_up"], True)


@case(exec_too=False)
def pid_one_in_a_session_of_its_own() -> Row:
    def check(probe: Json, bundle: Bundle, user: User) -> None:
        expect((probe["pid"], probe["ppid"]), (1, 0))
        expect((probe["sid"], probe["pgid"]), (1, 1))

    return nothing, check


# ---------------------------------------------------------------- process


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


# ---------------------------------------------------------------- names, namespaces, ids


@case()
def hostname() -> Row:
    return (lambda bundle: bundle.config.__setitem__("hostname", "a-host.example")), lambda probe, bundle, user: expect(
        probe["hostname"], "a-host.example"
    )


@case(peers={"runc": (1, 2), "crun": (1, 8)})
def domainname() -> Row:
    return (lambda bundle: bundle.config.__setitem__("domainname", "a.domain")), lambda probe, bundle, user: expect(
        probe["domainname"], "a.domain"
    )


def _without(kind: str, **more: object) -> None:
    def make() -> Row:
        def change(bundle: Bundle) -> None:
            bundle.without_namespace(kind)
            if kind == "uts":
                bundle.config.pop("hostname", None)
            if kind == "network":
                # sysfs shows a network namespace: its owner only may mount it
                bundle.config["mounts"] = [
                    m for m in bundle.config["mounts"] if m["destination"] not in ("/sys", "/sys/fs/cgroup")
                ]
            if kind == "ipc":
                bundle.config["mounts"] = [m for m in bundle.config["mounts"] if m["type"] != "mqueue"]

        def check(probe: Json, bundle: Bundle, user: User) -> None:
            assert kernel.NS_FILES[kind] not in kernel.new_namespaces(probe)

        return change, check

    make.__name__ = f"the_hosts_{kind}_namespace"
    case()(make)


for _kind in ("network", "ipc", "uts"):
    _without(_kind)


@case()
def a_cgroup_namespace() -> Row:
    def check(probe: Json, bundle: Bundle, user: User) -> None:
        assert "cgroup" in kernel.new_namespaces(probe)
        for line in probe["cgroup"].splitlines():
            expect(line.split(":", 2)[2], "/")

    return (lambda bundle: bundle.namespace("cgroup")), check


@case(peers={"runc": (1, 2), "crun": (1, 8)})
def a_time_namespace_with_offsets() -> Row:
    def change(bundle: Bundle) -> None:
        bundle.namespace("time")
        bundle.linux["timeOffsets"] = {"monotonic": {"secs": 172800, "nanosecs": 5}, "boottime": {"secs": 604800}}

    def check(probe: Json, bundle: Bundle, user: User) -> None:
        assert "time" in kernel.new_namespaces(probe)
        seen = [line.split() for line in probe["timens_offsets"].splitlines()]
        expect(seen, [["monotonic", "172800", "5"], ["boottime", "604800", "0"]])

    return change, check


@case(kinds=(ROOT,))
def a_user_namespace_for_root() -> Row:
    def change(bundle: Bundle) -> None:
        bundle.namespace("user")
        ids = [{"containerID": 0, "hostID": 100000, "size": 1000}, {"containerID": 1000, "hostID": 300000, "size": 500}]
        bundle.linux["uidMappings"] = ids
        bundle.linux["gidMappings"] = ids
        bundle.config["mounts"] = [m for m in bundle.config["mounts"] if m["type"] != "cgroup"]

    def check(probe: Json, bundle: Bundle, user: User) -> None:
        expect(kernel.id_map(probe["uid_map"]), [(0, 100000, 1000), (1000, 300000, 500)])
        expect(kernel.id_map(probe["gid_map"]), [(0, 100000, 1000), (1000, 300000, 500)])
        expect(probe["setgroups"], "allow\n")
        expect(probe["uids"], [0, 0, 0])
        # device nodes cannot be made in there: they are the host's, bound
        expect((probe["dev"]["null"]["type"], probe["dev"]["null"]["rdev"]), ("char", "1:3"))

    return change, check


@case(kinds=(SUBIDS, ONE_ID))
def id_maps_of_a_user() -> Row:
    def check(probe: Json, bundle: Bundle, user: User) -> None:
        uids = [(m["containerID"], m["hostID"], m["size"]) for m in bundle.linux["uidMappings"]]
        gids = [(m["containerID"], m["hostID"], m["size"]) for m in bundle.linux["gidMappings"]]
        if user.sub:
            expect(uids, [(0, user.uid, 1), (1, user.sub[0], RANGE)])
        expect(kernel.id_map(probe["uid_map"]), uids)
        expect(kernel.id_map(probe["gid_map"]), gids)
        # a single gid can be mapped by its owner only when setgroups is off (user_namespaces(7))
        expect(probe["setgroups"], "allow\n" if user.sub else "deny\n")

    return nothing, check


# ---------------------------------------------------------------- root, paths, sysctl


@case("create:/x", "create:/tmp/x")
def a_readonly_root() -> Row:
    def check(probe: Json, bundle: Bundle, user: User) -> None:
        expect(probe["asked"], {"create:/x": errno.EROFS, "create:/tmp/x": errno.EROFS})

    return (lambda bundle: bundle.config["root"].__setitem__("readonly", True)), check


@case("create:/x", "create:/tmp/x")
def a_writable_root() -> Row:
    def check(probe: Json, bundle: Bundle, user: User) -> None:
        expect(probe["asked"], {"create:/x": 0, "create:/tmp/x": 0})
        assert "ro" not in mount_at(probe, "/").options

    return Bundle.writable, check


@case("read:/etc/secret", "list:/home/secrets", "open:/etc/secret", "read:/etc/open")
def masked_paths_of_files_and_directories() -> Row:
    def change(bundle: Bundle) -> None:
        bundle.file("/etc/secret", "secret")
        bundle.file("/etc/open", "open")
        bundle.file("/home/secrets/one", "secret")
        bundle.linux["maskedPaths"] = ["/etc/secret", "/home/secrets", "/not/there"]

    def check(probe: Json, bundle: Bundle, user: User) -> None:
        expect(probe["asked"]["read:/etc/secret"], "")
        expect(probe["asked"]["list:/home/secrets"], [])
        expect(probe["asked"]["read:/etc/open"], "open")

    return change, check


@case("create:/work/frozen/x", "create:/work/x", "open:/work/file", "create:/work/frozen/deep/x")
def readonly_paths_of_files_and_directories() -> Row:
    def change(bundle: Bundle) -> None:
        bundle.writable()
        bundle.file("/work/frozen/deep/one", "x")
        bundle.file("/work/file", "x", 0o666)
        bundle.linux["readonlyPaths"] = ["/work/frozen", "/work/file", "/not/there"]

    def check(probe: Json, bundle: Bundle, user: User) -> None:
        asked = probe["asked"]
        expect(asked["create:/work/frozen/x"], errno.EROFS)
        expect(asked["create:/work/frozen/deep/x"], errno.EROFS)
        expect(asked["open:/work/file"], errno.EROFS)
        expect(asked["create:/work/x"], 0)  # the caller's own directory: 0 inside

    return change, check


def _propagation(kind: str, wanted: set[str]) -> None:
    def make() -> Row:
        def check(probe: Json, bundle: Bundle, user: User) -> None:
            expect(set(mount_at(probe, "/").propagation) - {"propagate_from"}, wanted)

        return (lambda bundle: bundle.linux.__setitem__("rootfsPropagation", kind)), check

    make.__name__ = f"rootfs_propagation_{kind}"
    case(kinds=(ROOT,))(make)


_propagation("private", set())
_propagation("unbindable", {"unbindable"})


@case(kinds=(ROOT,))
def rootfs_propagation_shared() -> Row:
    def check(probe: Json, bundle: Bundle, user: User) -> None:
        assert "shared" in mount_at(probe, "/").propagation

    return (lambda bundle: bundle.linux.__setitem__("rootfsPropagation", "shared")), check


@case("read:/proc/sys/net/ipv4/ip_forward", "read:/proc/sys/kernel/msgmax", "read:/proc/sys/net/ipv4/ping_group_range")
def sysctls_of_the_containers_namespaces() -> Row:
    def change(bundle: Bundle) -> None:
        bundle.namespace("network")
        bundle.linux["sysctl"] = {
            "net.ipv4.ip_forward": "1",
            "kernel.msgmax": "4321",
            "net.ipv4.ping_group_range": "0 0",
        }

    def check(probe: Json, bundle: Bundle, user: User) -> None:
        asked = {k: v.split() for k, v in probe["asked"].items()}
        expect(
            asked,
            {
                "read:/proc/sys/net/ipv4/ip_forward": ["1"],
                "read:/proc/sys/kernel/msgmax": ["4321"],
                "read:/proc/sys/net/ipv4/ping_group_range": ["0", "0"],
            },
        )

    return change, check


@case("open:/dev/mine", "open:/dev/sub/dir/zero", kinds=(ROOT,))
def devices() -> Row:
    def change(bundle: Bundle) -> None:
        bundle.linux["devices"] = [
            {"path": "/dev/mine", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 7, "gid": 8},
            {"path": "/dev/sub/dir/zero", "type": "c", "major": 1, "minor": 5, "fileMode": 0o666},
            {"path": "/dev/pipe", "type": "p", "fileMode": 0o600},
        ]

    def check(probe: Json, bundle: Bundle, user: User) -> None:
        mine = probe["dev"]["mine"]
        expect((mine["type"], mine["rdev"], mine["mode"], mine["uid"], mine["gid"]), ("char", "1:3", 0o640, 7, 8))
        expect((probe["dev"]["pipe"]["type"], probe["dev"]["pipe"]["mode"]), ("fifo", 0o600))

    return change, check


@case("open:/dev/null", "mknod:/dev/mine:c:1:3", "mknod:/dev/mem:c:1:1", "mknod:/dev/disk:b:7:0", kinds=(ROOT,))
def the_device_cgroup_lets_default_devices_through_only() -> Row:
    def change(bundle: Bundle) -> None:
        for name in ("bounding", "permitted", "effective"):
            bundle.process["capabilities"][name] = [*bundle.process["capabilities"][name], "CAP_MKNOD", "CAP_SYS_RAWIO"]
        bundle.linux["resources"] = {"devices": [{"allow": False, "access": "rwm"}]}

    def check(probe: Json, bundle: Bundle, user: User) -> None:
        expect(probe["asked"]["open:/dev/null"], 0)
        expect(probe["asked"]["mknod:/dev/mine:c:1:3"], 0)
        expect(probe["asked"]["mknod:/dev/mem:c:1:1"], errno.EPERM)
        expect(probe["asked"]["mknod:/dev/disk:b:7:0"], errno.EPERM)

    return change, check


# ---------------------------------------------------------------- seccomp

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
