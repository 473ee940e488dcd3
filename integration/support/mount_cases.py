# SPDX-License-Identifier: Apache-2.0
"""More rows for test_inside.py: mounts, and what each of their options does."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from . import rootfs
from .bundles import Bundle
from .cases import ROOT_AND_SUBIDS, Row, case, expect, nothing
from .kernel import Json, mount_at, mounts
from .users import KINDS, ONE_ID, ROOT, SUBIDS, User

NEW = {"runc": (1, 2), "crun": (1, 9)}
RECURSIVE = {"runc": (1, 2), "crun": (1, 20)}  # crun 1.8 knows nosymfollow for none of them


def source_dir(bundle: Bundle, name: str = "source") -> Path:
    """A directory on the host with a file in it, owned by whoever runs the container."""
    path = bundle.path / name
    path.mkdir(exist_ok=True)
    (path / "file").write_text("from the host\n")
    rootfs.give(path, bundle.user.uid, bundle.user.gid)
    return path


def _tmpfs(
    name: str,
    options: list[str],
    wanted: set[str],
    absent: Iterable[str] = (),
    data: Iterable[str] = (),
    peers: Mapping[str, tuple[int, ...]] | None = None,
) -> None:
    """A tmpfs at /mnt with `options`: the mount has `wanted`, not `absent`, and the file system has `data`."""

    def make() -> Row:
        def check(probe: Json, bundle: Bundle, user: User) -> None:
            seen = mount_at(probe, "/mnt")
            assert wanted <= seen.options, seen
            assert not set(absent) & (seen.options | seen.data), seen
            assert set(data) <= seen.data, seen

        return (lambda bundle: bundle.mount("/mnt", "tmpfs", "tmpfs", *options)), check

    make.__name__ = f"tmpfs_{name}"
    case(peers=peers)(make)


_tmpfs("nosuid_nodev_noexec_ro", ["nosuid", "nodev", "noexec", "ro"], {"nosuid", "nodev", "noexec", "ro"})
_tmpfs(
    "the_opposite_undoes",
    ["nosuid", "suid", "nodev", "dev", "noexec", "exec", "ro", "rw"],
    {"rw"},
    {"nosuid", "nodev", "noexec", "ro"},
)
_tmpfs("noatime", ["noatime"], {"noatime"}, {"relatime"})
_tmpfs("relatime", ["relatime"], {"relatime"}, {"noatime"})
_tmpfs("strictatime", ["strictatime"], set(), {"relatime", "noatime"})
_tmpfs("nodiratime", ["nodiratime"], {"nodiratime"})
_tmpfs("sync_and_dirsync", ["sync", "dirsync"], set(), data={"sync", "dirsync"})
_tmpfs("lazytime", ["lazytime"], set(), data={"lazytime"}, peers=NEW)
_tmpfs("nosymfollow", ["nosymfollow"], {"nosymfollow"}, peers=NEW)
_tmpfs("atime_options_undone", ["noatime", "nodiratime", "atime", "diratime"], {"relatime"}, {"noatime", "nodiratime"})
_tmpfs(
    "the_last_atime_option_counts",
    ["strictatime", "noatime", "relatime", "noatime"],
    {"noatime"},
    {"relatime"},
    peers={},
)
_tmpfs("norelatime_and_nostrictatime", ["noatime", "norelatime", "nostrictatime"], {"noatime"}, peers={})
_tmpfs(
    "properties_of_the_filesystem_undone",
    ["sync", "dirsync", "lazytime", "nosymfollow", "mand", "async", "nolazytime", "symfollow", "nomand"],
    {"rw"},
    {"sync", "lazytime", "nosymfollow", "mand"},
    {"dirsync"},  # it has no opposite
    peers={},
)
# the kernel shows neither
_tmpfs("iversion_and_silent", ["iversion", "silent", "nodev", "noatime"], {"nodev", "noatime"}, peers=NEW)
_tmpfs("noiversion_and_loud", ["iversion", "silent", "noiversion", "loud"], {"rw"}, peers=NEW)
_tmpfs(
    "size_mode_and_inodes",
    ["size=4096k", "mode=711", "nr_inodes=77"],
    set(),
    data={"size=4096k", "mode=711", "nr_inodes=77"},
)
_tmpfs(
    "defaults", ["defaults"], {"rw"}, {"nosuid", "nodev", "noexec"}, peers={"crun": (1, 8)}
)  # runc hands the word to the kernel


def _propagation(option: str, wanted: set[str]) -> None:
    def make() -> Row:
        return (
            lambda bundle: bundle.mount("/mnt", "tmpfs", "tmpfs", option),
            lambda probe, bundle, user: expect(set(mount_at(probe, "/mnt").propagation), wanted),
        )

    make.__name__ = f"mount_propagation_{option}"
    case()(make)


_propagation("private", set())
_propagation("rprivate", set())
_propagation("shared", {"shared"})
_propagation("rshared", {"shared"})
_propagation("unbindable", {"unbindable"})
_propagation("slave", set())  # of nobody: a private mount stays one
_propagation("rslave", set())
_propagation("runbindable", {"unbindable"})


@case("read:/mnt/file", "create:/mnt/x")
def a_bind_mount() -> Row:
    def check(probe: Json, bundle: Bundle, user: User) -> None:
        expect(probe["asked"], {"read:/mnt/file": "from the host\n", "create:/mnt/x": 0})

    return (lambda bundle: bundle.mount("/mnt", "bind", str(source_dir(bundle)), "bind")), check


@case("read:/mnt/file", "create:/mnt/x")
def a_bind_mount_without_a_type_that_is_readonly() -> Row:
    def change(bundle: Bundle) -> None:
        mount = {
            "destination": "/mnt",
            "source": str(source_dir(bundle)),
            "options": ["rbind", "ro", "nosuid", "nodev", "noexec"],
        }
        bundle.config["mounts"].append(mount)

    def check(probe: Json, bundle: Bundle, user: User) -> None:
        expect(probe["asked"], {"read:/mnt/file": "from the host\n", "create:/mnt/x": errno.EROFS})
        assert {"ro", "nosuid", "nodev", "noexec"} <= mount_at(probe, "/mnt").options

    return change, check


@case("read:/etc/one-file", "open:/etc/one-file")
def a_bind_mount_of_a_file_whose_destination_is_made() -> Row:
    def change(bundle: Bundle) -> None:
        bundle.mount("/etc/one-file", "bind", str(source_dir(bundle) / "file"), "bind", "ro")

    return change, lambda probe, bundle, user: expect(
        probe["asked"], {"read:/etc/one-file": "from the host\n", "open:/etc/one-file": errno.EROFS}
    )


@case("read:/deep/er/still/file")
def a_destination_that_has_to_be_made() -> Row:
    def change(bundle: Bundle) -> None:
        bundle.mount("/deep/er/still", "bind", str(source_dir(bundle)), "bind")

    return change, lambda probe, bundle, user: expect(probe["asked"]["read:/deep/er/still/file"], "from the host\n")


@case("read:/mnt/file", "list:/work")
def a_destination_behind_a_symlink_stays_in_the_root() -> Row:
    # an absolute link means the container's root; ../ cannot leave it
    def change(bundle: Bundle) -> None:
        (bundle.root / "way").symlink_to("/../../../../../mnt")
        bundle.mount("/way", "bind", str(source_dir(bundle)), "bind")

    def check(probe: Json, bundle: Bundle, user: User) -> None:
        expect(probe["asked"]["read:/mnt/file"], "from the host\n")
        expect(mount_at(probe, "/mnt").point, "/mnt")

    return change, check


@case("read:/mnt/file")
def a_source_relative_to_the_bundle() -> Row:
    def change(bundle: Bundle) -> None:
        source_dir(bundle, "nearby")
        bundle.mount("/mnt", "bind", "nearby", "bind")

    return change, lambda probe, bundle, user: expect(probe["asked"]["read:/mnt/file"], "from the host\n")


# /dev of the host has file systems of its own below it (/dev/shm): a tree of mounts without mounting anything on the host
def _dev(*options: str) -> Callable[[Bundle], None]:
    return lambda bundle: bundle.mount("/mnt", "bind", "/dev", *options)


@case("create:/mnt/shm/x-from-a-test", peers=RECURSIVE)
def recursive_readonly_reaches_submounts() -> Row:
    return _dev("rbind", "rro"), lambda probe, bundle, user: expect(
        probe["asked"]["create:/mnt/shm/x-from-a-test"], errno.EROFS
    )


@case("create:/mnt/shm/x-from-a-test", "create:/mnt/x-from-a-test")
def plain_readonly_does_not() -> Row:
    def check(probe: Json, bundle: Bundle, user: User) -> None:
        expect(probe["asked"]["create:/mnt/x-from-a-test"], errno.EROFS)
        expect(probe["asked"]["create:/mnt/shm/x-from-a-test"], 0)

    return _dev("rbind", "ro"), check


@case(kinds=(ROOT,))
def a_bind_without_r_leaves_submounts_behind() -> Row:
    return _dev("bind"), lambda probe, bundle, user: expect(
        [m.point for m in mounts(probe) if m.point.startswith("/mnt")], ["/mnt"]
    )


def _recursive(name: str, wanted: set[str], kinds: tuple[str, ...]) -> None:
    def make() -> Row:
        def check(probe: Json, bundle: Bundle, user: User) -> None:
            for point in ("/mnt", "/mnt/shm"):
                assert wanted <= mount_at(probe, point).options, mount_at(probe, point)

        return _dev("rbind", *(f"r{option}" for option in sorted(wanted))), check

    make.__name__ = name
    case(kinds=kinds, peers=RECURSIVE)(make)


_recursive("recursive_attributes_reach_submounts", {"nosuid", "nodev", "noexec", "nosymfollow"}, KINDS)
# the atime flags of the host's mounts are locked in a user namespace
_recursive("recursive_atime_attributes_reach_submounts", {"noatime", "nodiratime"}, (ROOT,))


@case(kinds=(ROOT,), peers=RECURSIVE)
def recursive_attributes_are_cleared_too() -> Row:
    # nothing is locked for root: rrelatime, rsuid, rdev, rexec, rrw undo what the host's mounts have
    def check(probe: Json, bundle: Bundle, user: User) -> None:
        for point in ("/mnt", "/mnt/shm"):
            seen = mount_at(probe, point).options
            assert "relatime" in seen and not seen & {"nosuid", "nodev", "noexec", "ro", "noatime"}, (point, seen)

    return _dev("rbind", "rsuid", "rdev", "rexec", "rrw", "rrelatime"), check


@case(kinds=(ROOT,), peers={})
def the_opposites_of_recursive_attributes() -> Row:
    # of the options before them in the list
    options = [
        "rnoatime",
        "ratime",
        "rnodiratime",
        "rdiratime",
        "rnosymfollow",
        "rsymfollow",
        "rro",
        "rrw",
        "rnodev",
        "rdev",
    ]

    def check(probe: Json, bundle: Bundle, user: User) -> None:
        for point in ("/mnt", "/mnt/shm"):
            seen = mount_at(probe, point).options
            assert not seen & {"noatime", "nodiratime", "nosymfollow", "ro", "nodev"}, (point, seen)

    return _dev("rbind", *options), check


@case(kinds=(ROOT,), peers={})
def recursive_strictatime_and_back() -> Row:
    def check(probe: Json, bundle: Bundle, user: User) -> None:
        seen = mount_at(probe, "/mnt").options, mount_at(probe, "/srv").options, mount_at(probe, "/srv/shm").options
        assert not seen[0] & {"relatime", "noatime"}, seen
        assert "relatime" in seen[1] & seen[2], seen

    def change(bundle: Bundle) -> None:
        _dev("rbind", "rstrictatime")(bundle)
        bundle.mount("/srv", "bind", "/dev", "rbind", "rstrictatime", "rnostrictatime", "rnorelatime")

    return change, check


@case("create:/mnt/x", peers={})
def a_remount_changes_what_is_there() -> Row:
    def change(bundle: Bundle) -> None:
        bundle.mount("/mnt", "tmpfs", "tmpfs", "size=1m")
        bundle.mount("/mnt", "tmpfs", "tmpfs", "remount", "ro", "size=2m")

    def check(probe: Json, bundle: Bundle, user: User) -> None:
        expect(probe["asked"]["create:/mnt/x"], errno.EROFS)
        assert "size=2048k" in mount_at(probe, "/mnt").data

    return change, check


@case("stat:/copy", "read:/copy", "read:/plain", peers={"crun": (1, 9)})
def a_source_that_is_a_symlink_is_copied() -> Row:
    def change(bundle: Bundle) -> None:
        bundle.file("/work/there", "within\n")
        source = source_dir(bundle)
        (source / "link").symlink_to("/work/there")
        bundle.mount("/copy", "bind", str(source / "link"), "bind", "copy-symlink")
        bundle.mount("/plain", "bind", str(source / "file"), "bind", "copy-symlink")  # none: bound as ever

    def check(probe: Json, bundle: Bundle, user: User) -> None:
        expect(probe["asked"]["stat:/copy"]["target"], "/work/there")
        expect(probe["asked"]["read:/copy"], "within\n")
        expect(probe["asked"]["read:/plain"], "from the host\n")

    return change, check


@case("read:/work/kept", "create:/work/x", "list:/work", peers={"runc": (1, 1), "crun": (1, 8)})
def a_tmpfs_that_copies_up() -> Row:
    def change(bundle: Bundle) -> None:
        bundle.file("/work/kept", "kept\n")
        bundle.file("/work/sub/deeper", "deeper\n")
        bundle.mount("/work", "tmpfs", "tmpfs", "tmpcopyup", "mode=755")

    def check(probe: Json, bundle: Bundle, user: User) -> None:
        asked = probe["asked"]
        expect(asked["read:/work/kept"], "kept\n")
        expect(asked["create:/work/x"], 0)
        expect(sorted(asked["list:/work"]), ["kept", "sub"])
        expect(mount_at(probe, "/work").type, "tmpfs")

    return change, check


@case("stat:/mnt/file", "create:/mnt/x", kinds=(ROOT,), peers={"runc": (1, 2), "crun": (1, 9)})
def an_idmapped_mount() -> Row:
    def change(bundle: Bundle) -> None:
        source_dir(bundle)
        bundle.config["mounts"].append(
            {
                "destination": "/mnt",
                "type": "bind",
                "source": str(bundle.path / "source"),
                "options": ["bind", "idmap"],
                "uidMappings": [{"containerID": 0, "hostID": 4000, "size": 1000}],
                "gidMappings": [{"containerID": 0, "hostID": 5000, "size": 1000}],
            }
        )

    def check(probe: Json, bundle: Bundle, user: User) -> None:
        seen = probe["asked"]["stat:/mnt/file"]
        expect((seen["uid"], seen["gid"]), (4000, 5000))

    return change, check


@case("read:/mnt/file", kinds=ROOT_AND_SUBIDS)
def an_overlay_mount() -> Row:
    def change(bundle: Bundle) -> None:
        lower = source_dir(bundle, "lower")
        for name in ("upper", "workdir"):
            (bundle.path / name).mkdir()
            rootfs.give(bundle.path / name, bundle.user.uid, bundle.user.gid)
        data = f"lowerdir={lower},upperdir={bundle.path}/upper,workdir={bundle.path}/workdir"
        bundle.mount("/mnt", "overlay", "overlay", data, *(["userxattr"] if bundle.user.rootless else []))

    def check(probe: Json, bundle: Bundle, user: User) -> None:
        expect(probe["asked"]["read:/mnt/file"], "from the host\n")
        expect(mount_at(probe, "/mnt").type, "overlay")

    return change, check


@case()
def mounts_in_the_order_of_the_config() -> Row:
    def change(bundle: Bundle) -> None:
        bundle.mount("/mnt", "tmpfs", "first")
        bundle.mount("/mnt", "tmpfs", "second")
        bundle.mount("/mnt/inner", "tmpfs", "third")

    def check(probe: Json, bundle: Bundle, user: User) -> None:
        seen = [(m.point, m.source) for m in mounts(probe) if m.point.startswith("/mnt")]
        expect(seen, [("/mnt", "first"), ("/mnt", "second"), ("/mnt/inner", "third")])

    return change, check


# the peers differ in what a directory has that had to be made
@case("stat:/given", "stat:/told", "stat:/made", peers={})
def a_tmpfs_has_the_mode_of_the_directory_below() -> Row:
    def change(bundle: Bundle) -> None:
        for name in ("given", "told"):
            path = bundle.root / name
            path.mkdir()
            rootfs.give(path, bundle.user.uid, bundle.user.gid)
            path.chmod(0o712)
        bundle.mount("/given", "tmpfs", "tmpfs")
        bundle.mount("/told", "tmpfs", "tmpfs", "mode=700")
        bundle.mount("/made", "tmpfs", "tmpfs")

    def check(probe: Json, bundle: Bundle, user: User) -> None:
        asked = probe["asked"]
        expect([asked[f"stat:/{name}"]["mode"] for name in ("given", "told", "made")], [0o712, 0o700, 0o1777])

    return change, check


# runc refuses; crun 1.8 looks for the program in what is below
@case("stat:/probe", "stat:/etc", "create:/new", peers={})
def a_bind_mount_on_the_root_is_the_root() -> Row:
    def change(bundle: Bundle) -> None:
        import shutil

        other = bundle.path / "other"
        other.mkdir()
        rootfs.give(other, bundle.user.uid, bundle.user.gid)
        shutil.copy2(bundle.root / "probe", other)
        bundle.config["mounts"].insert(
            0, {"destination": "/", "type": "bind", "source": str(other), "options": ["bind", "nosuid"]}
        )
        bundle.config["root"]["readonly"] = True

    def check(probe: Json, bundle: Bundle, user: User) -> None:
        assert {"nosuid", "ro"} <= mount_at(probe, "/").options
        expect(probe["asked"]["stat:/probe"]["type"], "file")
        expect(probe["asked"]["stat:/etc"], {"errno": errno.ENOENT})
        expect(probe["asked"]["create:/new"], errno.EROFS)

    return change, check


@case("read:/link", "stat:/links/other", peers={"crun": (1, 20)})
def a_destination_that_is_a_symlink_itself() -> Row:
    def change(bundle: Bundle) -> None:
        (bundle.path / "text").write_text("found")
        (bundle.path / "away").symlink_to("/nowhere")
        (bundle.root / "link").symlink_to("missing")
        (bundle.root / "links").mkdir()
        (bundle.root / "links" / "other").symlink_to("missing")
        bundle.mount("/link", "bind", str(bundle.path / "text"), "bind", "dest-nofollow")
        bundle.mount("/links/other", "bind", str(bundle.path / "away"), "bind", "dest-nofollow", "src-nofollow")

    def check(probe: Json, bundle: Bundle, user: User) -> None:
        expect(probe["asked"]["read:/link"], "found")
        expect(probe["asked"]["stat:/links/other"]["target"], "/nowhere")

    return change, check


@case("stat:/dev/null", "open:/dev/zero", kinds=(SUBIDS, ONE_ID), peers={"crun": (1, 20)})
def devices_that_are_bound_have_no_more_than_they_need() -> Row:
    def check(probe: Json, bundle: Bundle, user: User) -> None:
        for name in ("null", "zero", "full", "random", "urandom", "tty"):
            assert {"nosuid", "noexec"} <= mount_at(probe, f"/dev/{name}").options
        expect(probe["asked"]["open:/dev/zero"], 0)

    return nothing, check
