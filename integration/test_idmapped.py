# SPDX-License-Identifier: Apache-2.0
"""Idmapped mounts of every kind, and what the runtime opens for a container in a user namespace: owners as seen inside."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import machine, runtimes
from support.bundles import RANGE, Bundle, MakeBundle, new_id
from support.kernel import mount_at
from support.runtimes import MakeRuntime, Result, Runtime, parse_probe
from support.users import User

Json = dict[str, Any]
HOST = 100000
OVERFLOW = 65534


def maps(*ranges: tuple[int, int, int]) -> list[Json]:
    return [{"containerID": a, "hostID": b, "size": n} for a, b, n in ranges]


def in_user_namespace(box: Bundle) -> Bundle:
    box.namespace("user")
    for kind in ("uid", "gid"):
        box.linux[f"{kind}Mappings"] = maps((0, HOST, RANGE))
    for path in (box.root, *box.root.rglob("*")):
        os.chown(path, HOST, HOST, follow_symlinks=False)
    return box


@pytest.fixture
def source(work: Path) -> Path:
    """Files of several owners, and a directory `below` to mount something on."""
    path = work / "source"
    (path / "below").mkdir(parents=True)
    for n in range(3):
        (path / f"file{n}").touch()
        os.chown(path / f"file{n}", n, 10 + n)
    return path


def bind(box: Bundle, source: Path, *options: str, **mappings: list[Json]) -> Bundle:
    box.config["mounts"].append(
        {"destination": "/mnt", "type": "bind", "source": str(source), "options": ["bind", *options], **mappings}
    )
    return box


def owners(runtime: Runtime, box: Bundle, *paths: str, script: str = "") -> list[tuple[int, int]]:
    """Who owns them inside."""
    seen = run(runtime, box, *(f"stat:{path}" for path in paths), script=script)
    return [(entry["uid"], entry["gid"]) for entry in seen["asked"].values()]


def run(runtime: Runtime, box: Bundle, *asks: str, script: str = "") -> Json:
    """The container, in a mount namespace that a script has changed."""
    box.process["args"] = ["/probe", *asks]
    return parse_probe(outside(runtime, box, script).ok().out)


def outside(runtime: Runtime, box: Bundle, script: str) -> Result:
    box.save()
    argv = runtime.argv("run", "--bundle", str(box.path), new_id())
    [unshare, sh] = machine.need("unshare", "sh")
    wrapped = [unshare, "-m", "--propagation", "private", sh, "-ec", f'{script}\nexec "$@"', "sh", *argv]
    return runtimes.call(wrapped, runtime.user)


# ---------------------------------------------------------------- bind mounts


@pytest.mark.parametrize("option", ["idmap", "ridmap", None])
def test_with_mappings(
    option: str | None, root: User, root_runtime: Runtime, bundle_of: MakeBundle, source: Path
) -> None:
    """The files' ids are taken for the mapping's container ids; what has no mapping is nobody's."""
    options = [option] if option else []
    box = bind(
        bundle_of(root), source, *options, uidMappings=maps((0, 4000, 2)), gidMappings=maps((10, 5000, 1), (11, 70, 1))
    )
    seen = owners(root_runtime, box, "/mnt/file0", "/mnt/file1", "/mnt/file2")
    assert seen == [(4000, 5000), (4001, 70), (OVERFLOW, OVERFLOW)]


def test_in_a_user_namespace(root: User, root_runtime: Runtime, bundle_of: MakeBundle, source: Path) -> None:
    """Both mappings after one another: the mount's to the host's ids, the container's back."""
    box = in_user_namespace(bundle_of(root))
    mappings = {"uidMappings": maps((0, HOST + 7, 3)), "gidMappings": maps((10, HOST + 70, 3))}
    bind(box, source, "idmap", **mappings)
    assert owners(root_runtime, box, "/mnt/file0", "/mnt/file2") == [(7, 70), (9, 72)]


@pytest.mark.parametrize("option", ["idmap", "ridmap"])
def test_the_containers_own_mappings(
    option: str, root: User, root_runtime: Runtime, bundle_of: MakeBundle, source: Path
) -> None:
    """idmap with nothing else: files of root on the host are files of root in the container, and what it writes is root's."""
    box = bind(in_user_namespace(bundle_of(root)), source, option)
    seen = run(root_runtime, box, "stat:/mnt/file0", "stat:/mnt/file2", "create:/mnt/new")
    asked = list(seen["asked"].values())
    assert [(entry["uid"], entry["gid"]) for entry in asked[:2]] == [(0, 10), (2, 12)]
    assert asked[2] == 0
    # without it they are nobody's
    box = bind(in_user_namespace(bundle_of(root)), source)
    assert owners(root_runtime, box, "/mnt/file0") == [(OVERFLOW, OVERFLOW)]


def test_what_is_written_through_it_has_the_other_id(
    root: User, root_runtime: Runtime, bundle_of: MakeBundle, source: Path
) -> None:
    box = bind(in_user_namespace(bundle_of(root)), source, "idmap")
    box.process["user"] = {"uid": 5, "gid": 6}
    (source / "open").mkdir()
    (source / "open").chmod(0o777)
    box.process["args"] = ["/probe", "--out", "/mnt/open/made"]
    assert root_runtime.run(box).code == 0
    made = (source / "open/made").stat()
    assert (made.st_uid, made.st_gid) == (5, 6)


@pytest.fixture
def other_namespace(request: pytest.FixtureRequest, root: User) -> Iterator[int]:
    """The pid of a process in a user namespace of its own, where 0 is 300000 of the host."""
    machine.need_root()
    [unshare, sleep] = machine.need("unshare", "sleep")
    process = runtimes.popen([unshare, "-U", sleep, "1000"], root, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    host = os.readlink("/proc/self/ns/user")

    def there() -> bool:
        return os.readlink(f"/proc/{process.pid}/ns/user") != host

    assert machine.poll(there, 10)
    for name in ("uid_map", "gid_map"):
        with open(f"/proc/{process.pid}/{name}", "w") as file:
            file.write("0 300000 1000\n")
    yield process.pid
    process.kill()
    runtimes.finished(process)


@pytest.mark.parametrize("option", ["idmap", "ridmap"])
def test_the_mappings_of_a_namespace_by_path(
    option: str, root: User, root_runtime: Runtime, bundle_of: MakeBundle, source: Path, other_namespace: int
) -> None:
    box = bundle_of(root)
    box.namespace("user", f"/proc/{other_namespace}/ns/user")
    for path in (box.root, *box.root.rglob("*")):
        os.chown(path, 300000, 300000, follow_symlinks=False)
    bind(box, source, option)
    seen = run(root_runtime, box, "stat:/mnt/file0", "stat:/mnt/file2")
    assert seen["uid_map"].split() == ["0", "300000", "1000"]
    assert [(entry["uid"], entry["gid"]) for entry in seen["asked"].values()] == [(0, 10), (2, 12)]


@pytest.mark.parametrize(
    ("option", "wanted"),
    [
        ("idmap=uids=0-4000-1#1-9-1;gids=10-5000-2", [(4000, 5000), (9, 5001)]),
        ("ridmap=uids=0-4000-2;gids=10-5000-2", [(4000, 5000), (4001, 5001)]),
    ],
)
def test_mappings_in_the_option(
    option: str,
    wanted: list[tuple[int, int]],
    root: User,
    root_runtime: Runtime,
    bundle_of: MakeBundle,
    source: Path,
) -> None:
    """As crun has them."""
    assert owners(root_runtime, bind(bundle_of(root), source, option), "/mnt/file0", "/mnt/file1") == wanted


def test_mappings_in_the_option_relative_to_the_container(
    root: User, root_runtime: Runtime, bundle_of: MakeBundle, source: Path
) -> None:
    box = bind(in_user_namespace(bundle_of(root)), source, "idmap=uids=@0-33-3;gids=@10-44-3")
    assert owners(root_runtime, box, "/mnt/file0", "/mnt/file1") == [(33, 44), (34, 45)]


TREE = """\
mount -t tmpfs -o mode=755,uid=1,gid=11 tmpfs {source}/below
touch {source}/below/deep; chown 1:11 {source}/below/deep
"""


@pytest.mark.parametrize(
    ("options", "deep"),
    [
        (["rbind", "ridmap"], (4001, 5001)),
        # of the tree only its top
        (["rbind", "idmap"], (1, 11)),
    ],
)
def test_a_tree_of_mounts(
    options: list[str],
    deep: tuple[int, int],
    root: User,
    root_runtime: Runtime,
    bundle_of: MakeBundle,
    source: Path,
) -> None:
    box = bundle_of(root)
    bind(box, source, *options, uidMappings=maps((0, 4000, 10)), gidMappings=maps((10, 5000, 10)))
    script = TREE.format(source=shlex.quote(str(source)))
    seen = owners(root_runtime, box, "/mnt/file0", "/mnt/below/deep", script=script)
    assert seen == [(4000, 5000), deep]


def test_other_options_of_it(root: User, root_runtime: Runtime, bundle_of: MakeBundle, source: Path) -> None:
    box = in_user_namespace(bundle_of(root))
    bind(box, source, "idmap", "ro", "nosuid", "nodev", "noexec", "shared")
    mount = mount_at(run(root_runtime, box), "/mnt")
    assert {"ro", "nosuid", "nodev", "noexec", "idmapped"} <= mount.options
    assert "shared" in mount.propagation


@pytest.mark.parametrize("idmap", [True, False])
@pytest.mark.parametrize("userns", [True, False])
def test_nothing_mounted_in_it_reaches_the_host(
    userns: bool, idmap: bool, root: User, root_runtime: Runtime, bundle_of: MakeBundle, source: Path
) -> None:
    """The runtime opened the source in the host's mount namespace, where it may be shared."""
    box = in_user_namespace(bundle_of(root)) if userns else bundle_of(root)
    mappings = {"uidMappings": maps((0, 0, 10)), "gidMappings": maps((0, 0, 10))} if idmap else {}
    bind(box, source, "rbind", **mappings)
    box.mount("/mnt/below", "tmpfs", "from-inside")
    quoted = shlex.quote(str(source))
    script = f"mount --bind {quoted} {quoted}; mount --make-shared {quoted}"
    box.process["args"] = ["/probe", "read:/proc/self/mountinfo"]
    box.save()
    argv = [*root_runtime.argv("run", "--bundle", str(box.path), new_id())]
    [unshare, sh] = machine.need("unshare", "sh")
    # --keep is not needed: a mount that came through stays on the host when the container is gone
    look = f'{script}\n"$@" >{quoted}/seen\nexec cat /proc/self/mountinfo'
    wrapped = [unshare, "-m", "--propagation", "private", sh, "-ec", look, "sh", *argv]
    table = runtimes.call(wrapped, root).ok().out
    inside = mount_at(parse_probe((source / "seen").read_text()), "/mnt")
    assert inside.propagation == {"master"}
    assert "from-inside" not in table


# ---------------------------------------------------------------- filesystems of their own


@pytest.mark.parametrize("userns", [True, False])
def test_a_tmpfs(userns: bool, root: User, root_runtime: Runtime, bundle_of: MakeBundle) -> None:
    """Its ids are the host's; what they are inside is the mapping's affair."""
    box = in_user_namespace(bundle_of(root)) if userns else bundle_of(root)
    first = HOST if userns else 0
    box.config["mounts"].append(
        {
            "destination": "/mnt",
            "type": "tmpfs",
            "source": "mine",
            "options": ["idmap", "mode=711", "uid=3", "gid=4", "size=1m", "nosuid", "noatime"],
            "uidMappings": maps((0, first, 3), (3, first + 33, 1)),
            "gidMappings": maps((0, first, 4), (4, first + 44, 1)),
        }
    )
    seen = run(root_runtime, box, "stat:/mnt")
    entry = seen["asked"]["stat:/mnt"]
    assert (entry["uid"], entry["gid"], entry["mode"]) == (33, 44, 0o711)
    mount = mount_at(seen, "/mnt")
    assert (mount.type, mount.source) == ("tmpfs", "mine")
    assert {"idmapped", "nosuid", "noatime"} <= mount.options and "size=1024k" in mount.data


def test_a_tmpfs_with_the_containers_mappings(root: User, root_runtime: Runtime, bundle_of: MakeBundle) -> None:
    box = in_user_namespace(bundle_of(root))
    box.mount("/mnt", "tmpfs", "tmpfs", "idmap", "mode=755")
    seen = run(root_runtime, box, "stat:/mnt", "create:/mnt/x")
    entry = seen["asked"]["stat:/mnt"]
    assert (entry["uid"], entry["gid"], entry["mode"]) == (0, 0, 0o755)
    assert seen["asked"]["create:/mnt/x"] == 0


# ---------------------------------------------------------------- what cannot be


def refused(done: Result, *words: str) -> None:
    assert done.code == 1, str(done)
    for word in words:
        assert word in done.error_line, f"{word!r} is not in {done.error_line}"


def test_a_filesystem_that_the_kernel_cannot_idmap(root: User, root_runtime: Runtime, bundle_of: MakeBundle) -> None:
    box = bundle_of(root)
    mappings = {"uidMappings": maps((0, 4000, 1)), "gidMappings": maps((0, 4000, 1))}
    bind(box, Path("/proc/sys"), "idmap", **mappings)
    refused(root_runtime.run(box), "mounts[", ": idmap ", "/proc/sys", "invalid argument", "cannot idmap proc")
    box.config["mounts"][-1] = {
        "destination": "/mnt",
        "type": "ramfs",
        "source": "ramfs",
        "options": ["idmap"],
        **mappings,
    }
    refused(root_runtime.run(box), "mounts[", "invalid argument", "cannot idmap ramfs")
    box.config["mounts"][-1]["type"] = "sysfs"
    refused(root_runtime.run(box), "mounts[", "sysfs cannot be idmapped")
    assert root_runtime.ids() == []


def test_a_tree_with_one_that_cannot(root: User, root_runtime: Runtime, bundle_of: MakeBundle, source: Path) -> None:
    box = bundle_of(root)
    bind(box, source, "rbind", "ridmap", uidMappings=maps((0, 4000, 1)), gidMappings=maps((0, 4000, 1)))
    script = f"mount -t proc proc {shlex.quote(str(source))}/below"
    refused(outside(root_runtime, box, script), "mounts[", "or one that is mounted below it")


IDMAP_ONCE = """\
import sys
from ctnr import _native
from ctnr.runtime import userns
maps = [{"containerID": 0, "hostID": 7000, "size": 10}]
tree = _native.open_tree(-100, sys.argv[1], 1)
_native.mount_setattr(tree, "", 0x1000, 0x100000, 0, 0, userns.namespace_fd(maps, maps))
_native.move_mount(tree, "", -100, sys.argv[1], 4)
"""


def test_idmapped_already(root: User, root_runtime: Runtime, bundle_of: MakeBundle, source: Path) -> None:
    """A mount has one mapping: the second is refused, whoever made the first."""
    box = bundle_of(root)
    bind(box, source, "idmap", uidMappings=maps((0, 4000, 1)), gidMappings=maps((0, 4000, 1)))
    script = shlex.join([sys.executable, "-I", "-c", IDMAP_ONCE, str(source)])
    refused(outside(root_runtime, box, script), "mounts[", "operation not permitted", "it is idmapped already")


def test_an_overlap_names_the_mount(root: User, root_runtime: Runtime, bundle_of: MakeBundle, source: Path) -> None:
    box = bundle_of(root)
    bind(box, source, "idmap", uidMappings=maps((0, 1, 10), (20, 5, 10)), gidMappings=maps((0, 1, 10)))
    refused(root_runtime.run(box), "mounts[", ".uidMappings[1].hostID", "overlaps")


@pytest.mark.parametrize("option", ["idmap", "ridmap"])
@pytest.mark.parametrize("type", ["bind", "tmpfs"])
def test_users_cannot(
    type: str, option: str, rootless_user: User, runtimes_of: MakeRuntime, bundle_of: MakeBundle
) -> None:
    box = bundle_of(rootless_user)
    box.mount("/mnt", type, "/etc", option, *(["bind"] if type == "bind" else []))
    runtime = runtimes_of(rootless_user)
    refused(runtime.run(box), "mounts[", "id-mapped mounts are not supported for rootless containers", "root")
    assert runtime.ids() == []
