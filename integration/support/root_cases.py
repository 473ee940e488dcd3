# SPDX-License-Identifier: Apache-2.0
"""Rows for test_inside.py: the root, paths, sysctls, devices."""

from __future__ import annotations

import errno
import platform
from collections.abc import Mapping

from .bundles import Bundle
from .cases import Row, case, expect
from .kernel import Json, mount_at
from .users import ROOT, User


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


def _propagation(kind: str, wanted: set[str], peers: Mapping[str, tuple[int, ...]] | None = None) -> None:
    def make() -> Row:
        def check(probe: Json, bundle: Bundle, user: User) -> None:
            expect(set(mount_at(probe, "/").propagation) - {"propagate_from"}, wanted)

        return (lambda bundle: bundle.linux.__setitem__("rootfsPropagation", kind)), check

    make.__name__ = f"rootfs_propagation_{kind}"
    case(kinds=(ROOT,), peers=peers)(make)


_propagation("private", set())
_propagation("unbindable", {"unbindable"})
# the file system that the root comes from is unbindable too: too early, it could not be bound
_propagation("runbindable", {"unbindable"}, peers={})


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


@case("stat:/dev/mine", "open:/dev/mine", kinds=(ROOT,), peers={"crun": (1, 20)})
def devices_in_a_user_namespace() -> Row:
    def change(bundle: Bundle) -> None:
        bundle.namespace("user")
        ids = [{"containerID": 0, "hostID": 0, "size": 100000}]
        bundle.linux["uidMappings"] = bundle.linux["gidMappings"] = ids
        bundle.linux["devices"] = [
            {"path": "/dev/mine", "type": "c", "major": 1, "minor": 3, "fileMode": 0o646, "uid": 7, "gid": 8}
        ]

    def check(probe: Json, bundle: Bundle, user: User) -> None:
        mine = probe["asked"]["stat:/dev/mine"]
        expect((mine["type"], mine["rdev"]), ("char", "1:3"))
        if tuple(map(int, platform.release().split(".")[:2])) >= (6, 15):
            expect((mine["mode"], mine["uid"], mine["gid"]), (0o646, 7, 8))
        assert {"nosuid", "noexec"} <= mount_at(probe, "/dev/mine").options

    return change, check
