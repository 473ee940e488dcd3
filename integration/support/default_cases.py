# SPDX-License-Identifier: Apache-2.0
"""Rows for test_inside.py: what the default config gives; names, namespaces, ids."""

from __future__ import annotations

import errno

from . import kernel
from .bundles import RANGE, Bundle
from .cases import Row, case, expect, nothing
from .kernel import Json, mount_at, status
from .users import ONE_ID, ROOT, SUBIDS, User


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


def without_mount(bundle: Bundle, destination: str) -> None:
    bundle.config["mounts"] = [m for m in bundle.config["mounts"] if m["destination"] != destination]


def _without(kind: str, **more: object) -> None:
    def make() -> Row:
        def change(bundle: Bundle) -> None:
            bundle.without_namespace(kind)
            if kind == "uts":
                bundle.config.pop("hostname", None)
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


# crun 1.8 makes the namespace and sets no offsets
@case(peers={"runc": (1, 2), "crun": (1, 20)})
def a_time_namespace_with_offsets() -> Row:
    def change(bundle: Bundle) -> None:
        bundle.namespace("time")
        bundle.linux["timeOffsets"] = {"monotonic": {"secs": 172800, "nanosecs": 5}, "boottime": {"secs": 604800}}

    def check(probe: Json, bundle: Bundle, user: User) -> None:
        assert "time" in kernel.new_namespaces(probe)
        seen = [line.split() for line in probe["timens_offsets"].splitlines()]
        expect(seen, [["monotonic", "172800", "5"], ["boottime", "604800", "0"]])

    return change, check


# crun 1.8 gives the host's /dev/null to the container's root
@case(kinds=(ROOT,), peers={"runc": (1, 1)})
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


# runc wants all spelled out; crun 1.8 is older than what is tested here of the two
@case(
    "list:/sys/fs/cgroup",
    "create:/sys/x",
    "open:/sys/class/net/lo/mtu",
    kinds=(SUBIDS, ONE_ID),
    peers={"crun": (1, 20)},
)
def sysfs_without_a_network_namespace() -> Row:
    def change(bundle: Bundle) -> None:
        bundle.without_namespace("network")
        without_mount(bundle, "/sys/fs/cgroup")
        # the config of `spec --rootless` knows that sysfs cannot be mounted
        without_mount(bundle, "/sys")
        bundle.mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", "ro")

    def check(probe: Json, bundle: Bundle, user: User) -> None:
        assert {"nosuid", "noexec", "nodev", "ro"} <= mount_at(probe, "/sys").options
        expect(probe["asked"]["list:/sys/fs/cgroup"], [])
        expect(probe["asked"]["create:/sys/x"], errno.EROFS)

    return change, check


def _users_own_map(probe: Json, bundle: Bundle, user: User) -> None:
    """Root is the user; the rest are his subordinate ids."""
    for name, own, sub in (("uid_map", user.uid, 0), ("gid_map", user.gid, 1)):
        first, *rest = kernel.id_map(probe[name])
        expect(first, (0, own, 1))
        if user.sub:
            expect(rest[0][:2], (1, user.sub[sub]))
        elif user.kind == ONE_ID:
            expect(rest, [])
    expect(probe["uids"], [0, 0, 0])
    assert "user" in kernel.new_namespaces(probe)


@case(kinds=(SUBIDS, ONE_ID), peers={})
def a_user_namespace_that_nobody_asked_for() -> Row:
    def change(bundle: Bundle) -> None:
        bundle.without_namespace("user")
        del bundle.linux["uidMappings"], bundle.linux["gidMappings"]

    return change, _users_own_map


@case(kinds=(ROOT, SUBIDS, ONE_ID), peers={})
def a_user_namespace_without_mappings() -> Row:
    def change(bundle: Bundle) -> None:
        bundle.namespace("user")
        bundle.linux.pop("uidMappings", None)
        bundle.linux.pop("gidMappings", None)
        # root has no subordinate ids but on some machines: a single id, and no gid 5
        without_mount(bundle, "/dev/pts")
        bundle.mount("/dev/pts", "devpts", "devpts", "newinstance", "ptmxmode=0666", "mode=0620")

    return change, _users_own_map
