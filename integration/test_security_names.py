# SPDX-License-Identifier: Apache-2.0
"""Attacks by names, numbers and strings: what is no id, no user, no cgroup below one's own is refused, not guessed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support import machine, users
from support.bundles import MakeBundle
from support.runtimes import MakeRuntime, Runtime
from support.users import ROOT, User


def contents(directory: Path) -> list[str]:
    return sorted(str(path) for path in directory.rglob("*"))


@pytest.mark.parametrize(
    "id", ["../x", "a/b", "..", ".", "", "/etc", "a\nb", "a b", "é", "x" * 1025, "\x1b[31m", "a\\b", "$(id)"]
)
def test_names_of_containers_are_no_paths(id: str, runtime: Runtime, bundle: MakeBundle, work: Path) -> None:
    before = contents(work / "state-0")
    for verb in (("run", "--bundle", str(bundle("/bin/true").path)), ("delete", "--force"), ("state",), ("kill",)):
        done = runtime(*verb, "--", id)
        assert done.code == 1 and "\x1b" not in done.err, str(done)
    assert contents(work / "state-0") == before


@pytest.mark.parametrize("path", ["../../../../up", "/../../up", "a/../../../../up", "/../../../../../../../../up"])
def test_names_of_cgroups_stay_in_their_hierarchy(
    path: str, root_runtime: Runtime, bundle_of: MakeBundle, root: User
) -> None:
    box = bundle_of(root, "/bin/cat", "/proc/self/cgroup")
    box.without_namespace("cgroup")
    box.linux["cgroupsPath"] = path
    before = {mount: sorted(os.listdir(os.path.dirname(mount))) for mount in machine.cgroup_mounts().values()}
    done = root_runtime.run(box)
    assert (done.code == 1 and "cgroupsPath" in done.error_line) or "/../" not in done.out, str(done)
    assert {mount: sorted(os.listdir(os.path.dirname(mount))) for mount in before} == before


def test_a_cgroup_that_others_are_in_is_left_alone(root_runtime: Runtime, bundle_of: MakeBundle, root: User) -> None:
    """cgroupsPath names the cgroup of another container: refused, and nobody in it is killed by the cleaning up."""
    path = f"/{machine.TOKEN}-shared"
    first, second = bundle_of(root, "/probe", "--wait"), bundle_of(root, "/bin/true")
    first.linux["cgroupsPath"] = second.linux["cgroupsPath"] = path
    id = root_runtime.start_detached(first)
    for verb in ("run", "create"):
        second.save()
        done = root_runtime(verb, "--bundle", str(second.path), "second")
        assert "container's cgroup is not empty" in done.error_line
        root_runtime("delete", "--force", "second").ok()
        assert root_runtime.status(id) == "running"
    for up in ("/", ""):
        second.linux["cgroupsPath"] = up + "." if up else "/"
        second.save()
        assert root_runtime("run", "--bundle", str(second.path), "second").code == 1
    assert root_runtime.status(id) == "running"
    root_runtime.stop(id)


@pytest.mark.parametrize("sub", ["..", "../..", "/..", "a/../..", "../../../../../../tmp"])
def test_exec_cgroup_stays_below_the_containers(
    sub: str, root_runtime: Runtime, bundle_of: MakeBundle, root: User
) -> None:
    id = root_runtime.start_detached(bundle_of(root, "/probe", "--wait"))
    done = root_runtime("exec", "--cgroup", sub, id, "/bin/true")
    assert done.code == 255 and "--cgroup" in done.error_line, str(done)
    root_runtime.stop(id)


@pytest.mark.parametrize(
    "text",
    ["01", "1:", ":1", " 1", "1 ", "-1", "+1", "1_0", "0x1", "", "1:2:3", "4294967295", "4294967296", "root", "٠"],
)
def test_cve_2026_30892_no_user_is_guessed(text: str, runtime: Runtime, bundle: MakeBundle) -> None:
    """crun took `-u 1` for root; what is no id is an error."""
    id = runtime.start_detached(bundle("/probe", "--wait"))
    done = runtime("exec", "--user", text, id, "/bin/id", "-u")
    assert (done.out, done.code != 0) == ("", True), str(done)
    assert done.error_line
    runtime.stop(id)


@pytest.mark.parametrize(("text", "wanted"), [("1", "1 0"), ("1:2", "1 2"), ("0", "0 0"), ("1000:0", "1000 0")])
def test_cve_2026_30892_the_user_asked_for(
    text: str, wanted: str, runtimes_of: MakeRuntime, bundle_of: MakeBundle
) -> None:
    for kind in (ROOT, users.SUBIDS):
        user = users.get(kind)
        runtime = runtimes_of(user)
        id = runtime.start_detached(bundle_of(user, "/probe", "--wait"))
        script = ("/bin/sh", "-c", "echo $(id -u) $(id -g)")
        assert runtime("exec", "--user", text, id, *script).ok().out.strip() == wanted
        runtime.stop(id)


@pytest.mark.parametrize("uid", [1 << 31, (1 << 31) + 1, (1 << 32) - 2])
def test_cve_2024_40635_large_ids_are_no_small_ones(
    uid: int, root_runtime: Runtime, bundle_of: MakeBundle, root: User
) -> None:
    box = bundle_of(root)
    box.process["user"] = {"uid": uid, "gid": uid, "additionalGids": [uid]}
    seen = root_runtime.probe(box)
    assert (set(seen["uids"]), set(seen["gids"]), seen["groups"]) == ({uid}, {uid}, [uid])


@pytest.mark.parametrize("uid", [-1, (1 << 32) - 1, 1 << 32, 1 << 64, 1.5, "0", True])
def test_cve_2024_40635_ids_beyond_the_last_one(uid: object, runtime: Runtime, bundle: MakeBundle) -> None:
    box = bundle("/bin/true")
    box.process["user"] = {"uid": uid, "gid": 0}
    assert "process.user.uid" in runtime.run(box).error_line


def test_cve_2021_43784_lengths_do_not_wrap(runtime: Runtime, bundle: MakeBundle) -> None:
    """Strings and lists beyond 16 bits' worth of bytes come through as they are, none of their bytes as something else."""
    long = "x" * 70000
    many = [str(i) for i in range(70000)]
    box = bundle("/bin/sh", "-c", "echo $# ${#1} $2 ${#LONG} $LAST; eval echo \\${70001}", "sh", long, *many)
    box.process["env"] += [f"LONG={long}", "LAST=last"]
    assert runtime.run(box).ok().out.split() == ["70001", "70000", "0", "70000", "last", "69999"]


@pytest.mark.parametrize("where", ["args", "env", "cwd", "mount", "masked"])
def test_a_nul_makes_no_second_word(where: str, runtime: Runtime, bundle: MakeBundle) -> None:
    """JSON can hold a NUL, a C string cannot: what comes after it must not become an argument or a variable of its own."""
    box = bundle("/bin/true")
    if where == "args":
        box.process["args"] = ["/bin/echo", "a\0b"]
    elif where == "env":
        box.process["env"].append("A=b\0LD_PRELOAD=/evil.so")
    elif where == "cwd":
        box.process["cwd"] = "/\0/etc"
    elif where == "mount":
        box.mount("/etc\0/x", "tmpfs", "tmpfs")
    else:
        box.linux["maskedPaths"].append("/proc/\0x")
    done = runtime.run(box)
    assert done.code == 1 and done.error_line


# --- cgroups


def test_cve_2023_25809_the_hosts_cgroups_are_out_of_reach(runtimes_of: MakeRuntime, bundle_of: MakeBundle) -> None:
    """An ordinary user's own cgroup (here: one that root gave him) is not writable in a container that shares the namespace."""
    machine.need_root()
    user = users.get(users.SUBIDS)
    mount_point = machine.cgroup_mounts().get("")
    if mount_point is None:
        pytest.skip("not applicable: no cgroup2 here")
    group = Path(mount_point) / f"{machine.TOKEN}-theirs"
    group.mkdir()
    try:
        for path in (group, group / "cgroup.procs"):
            os.chown(path, user.uid, user.gid)
        for namespace in (False, True):
            box = bundle_of(user)
            if not namespace:
                box.without_namespace("cgroup")
            seen = runtimes_of(user).probe(box, f"create:{group}/new", "create:/sys/fs/cgroup/new")
            assert 0 not in seen["asked"].values(), seen["asked"]
    finally:
        group.rmdir()
