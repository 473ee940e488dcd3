# SPDX-License-Identifier: Apache-2.0
"""Where newer system calls are refused, as by the seccomp profiles of other container engines, older ones serve, or a line
says what cannot be done. CTNR_TEST_REFUSE runs any other file of this directory the same way (support/refusals.py).
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support import default_cases, mount_cases, process_cases, refusals, root_cases, terminals, users
from support.bundles import Bundle, new_id
from support.cases import CASES, Case
from support.runtimes import Runtime, parse_probe

assert default_cases and process_cases and root_cases and mount_cases  # their rows are in CASES

MakeRuntime = Callable[..., Runtime]
MakeBundle = Callable[..., Bundle]

ERRORS = ("ENOSYS", "EPERM")
MOUNT_CALLS = refusals.GROUPS["mount-api"]
# rows of the table of test_inside.py in which every way to make a mount is
ROWS = (
    "tmpfs_nosuid_nodev_noexec_ro",
    "tmpfs_strictatime",
    "tmpfs_sync_and_dirsync",
    "tmpfs_size_mode_and_inodes",
    "mount_propagation_rshared",
    "mount_propagation_unbindable",
    "a_bind_mount_without_a_type_that_is_readonly",
    "a_bind_mount_of_a_file_whose_destination_is_made",
    "a_destination_behind_a_symlink_stays_in_the_root",
    "plain_readonly_does_not",
    "a_tmpfs_that_copies_up",
    "an_overlay_mount",
    "mounts_in_the_order_of_the_config",
    "a_time_namespace_with_offsets",
    "an_idmapped_mount",
)
# what no older call can do, and the words for it
IMPOSSIBLE = {"an_idmapped_mount": "needs "}


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    return lambda what: monkeypatch.setenv("CTNR_TEST_REFUSE", what)


def rows() -> list[object]:
    found = {row.name: row for row in CASES}
    return [pytest.param(found[name], kind, id=f"{name}-{kind}") for name in ROWS for kind in found[name].kinds]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize(("row", "kind"), rows())
def test_mounts_without_the_mount_api(
    row: Case, kind: str, error: str, refuse: Callable[[str], None], runtimes_of: MakeRuntime, bundle_of: MakeBundle
) -> None:
    user = users.get(kind)
    runtime = runtimes_of(user)
    bundle = bundle_of(user)
    row.change(bundle)
    bundle.process["args"] = ["/probe", *row.asks]
    refuse(f"{error}:mount-api")
    done = runtime.run(bundle)
    if row.name in IMPOSSIBLE:
        assert IMPOSSIBLE[row.name] in done.error_line and "mounts[" in done.error_line
        assert runtime.ids() == []
        return
    row.check(parse_probe(done.ok().out), bundle, user)


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("call", MOUNT_CALLS)
def test_mounts_with_one_call_missing(
    call: str, error: str, refuse: Callable[[str], None], root_runtime: Runtime, bundle_of: MakeBundle, root: users.User
) -> None:
    """What was begun with the others is done anew without them."""
    bundle = bundle_of(root)
    source = mount_cases.source_dir(bundle)
    bundle.mount("/mnt", "bind", str(source), "rbind", "ro", "nosuid", "rprivate")
    bundle.mount("/work", "tmpfs", "tmpfs", "noexec", "tmpcopyup")
    bundle.config["root"]["readonly"] = True
    plain = sight(root_runtime, bundle)
    refuse(f"{error}:{call}")
    seen = sight(root_runtime, bundle)
    assert [line for line in seen if line not in plain] == [line for line in plain if line not in seen] == []


def sight(runtime: Runtime, bundle: Bundle) -> list[str]:
    """What a program sees of its mounts, devices, masked and read-only paths."""
    script = (
        "awk '{print $5, $6, $9}' /proc/self/mountinfo; ls -l /dev | awk '{print $1, $3, $5, $6, $10, $11, $12}';"
        " cat /proc/kcore /mnt/file /proc/keys | wc -c; ls /sys/firmware; echo no > /proc/sys/kernel/domainname;"
        " echo no > /mnt/x; echo yes > /work/x && cat /work/x; echo no > /x; stat -c '%a %t %T' /dev/null /dev/tty"
    )
    bundle.process["args"] = ["/bin/sh", "-c", script]
    done = runtime.run(bundle)
    assert done.code == 0, done
    return done.out.splitlines() + done.err.splitlines()


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("group", refusals.GROUPS)
@pytest.mark.parametrize("kind", users.KINDS)
def test_a_whole_life_without(
    group: str,
    error: str,
    kind: str,
    refuse: Callable[[str], None],
    runtimes_of: MakeRuntime,
    bundle_of: MakeBundle,
) -> None:
    user = users.get(kind)
    runtime = runtimes_of(user)
    refuse(f"{error}:{group}")
    assert runtime.run(bundle_of(user, "/bin/sh", "-c", "echo here; exit 7")).code == 7
    id = runtime.create(bundle_of(user, "/probe", "--wait"))
    assert runtime.status(id) == "created"
    runtime("start", id).ok()
    assert runtime.status(id) == "running"
    assert runtime("exec", id, "/bin/sh", "-c", "exit 3").code == 3
    # in every namespace of the container
    pid = runtime.pid(id)
    seen = parse_probe(runtime("exec", id, "/probe").ok().out)
    for name, link in seen["ns"].items():
        assert link == os.readlink(f"/proc/{pid}/ns/{name}"), name
    # a namespace that is joined takes a second clone, by the init
    box = bundle_of(user, "/bin/sh", "-c", "readlink /proc/self/ns/ipc")
    if not user.rootless:
        box.namespace("pid", f"/proc/{pid}/ns/pid")
        assert runtime.run(box).ok().out.startswith("ipc:")
    assert runtime("delete", id).code != 0
    runtime("kill", id, "TERM").ok()
    runtime.stop(id)
    assert "does not exist" in runtime("state", id).error_line


@pytest.mark.parametrize("view", ["v1", "v2"], indirect=True)
@pytest.mark.parametrize("error", ERRORS)
def test_cgroups_without_anything_new(
    error: str,
    view: str,
    root: users.User,
    refuse: Callable[[str], None],
    runtimes_of: MakeRuntime,
    bundle_of: MakeBundle,
) -> None:
    runtime = runtimes_of(root, view=view)
    refuse(f"{error}:all")
    box = bundle_of(root, "/bin/sh", "-c", "cat /proc/self/cgroup; ls -d /sys/fs/cgroup")
    box.namespace("cgroup")
    box.mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev", "ro")
    seen = runtime.run(box).ok().out.split()
    assert seen.pop() == "/sys/fs/cgroup"
    id = runtime.start_detached(bundle_of(root, "/probe", "--wait"))
    assert runtime("exec", id, "/bin/true").code == 0
    runtime("kill", "--all", id, "KILL").ok()
    runtime.wait_status(id, "stopped")
    runtime("delete", id).ok()


@pytest.mark.parametrize("error", ERRORS)
def test_a_hook_ends_in_time_without_pidfds(
    error: str, refuse: Callable[[str], None], root_runtime: Runtime, bundle_of: MakeBundle, root: users.User
) -> None:
    refuse(f"{error}:all")
    box = bundle_of(root, "/bin/echo", "there")
    hook = {"path": "/bin/sh", "args": ["sh", "-c", "exit 0"], "timeout": 20}
    box.config["hooks"] = {"createContainer": [hook], "startContainer": [{**hook}], "createRuntime": [hook]}
    assert root_runtime.run(box).ok().out == "there\n"
    hook["args"] = ["sh", "-c", "exec sleep 1000"]
    hook["timeout"] = 1
    del box.config["hooks"]["createRuntime"]
    assert "did not end in time" in root_runtime.run(box).error_line


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("group", ["mount-api", "clone-pidfd", "all"])
def test_a_terminal_without(
    group: str, error: str, refuse: Callable[[str], None], user: users.User, runtime: Runtime, bundle: MakeBundle
) -> None:
    refuse(f"{error}:{group}")
    box = bundle("/bin/sh", "-c", "tty; stat -c %F /dev/console; read line; echo got $line; exit 5")
    box.process["terminal"] = True
    person = terminals.Behind(runtime.argv("run", "--bundle", str(box.save().path), new_id()), user)
    try:
        person.expect("character special file")
        person.send("hello\r")
        person.expect("got hello")
        assert person.wait() == 5
    finally:
        person.close()


def test_who_asks_for_a_pidfd_is_told_that_there_is_none(
    refuse: Callable[[str], None], root_runtime: Runtime, bundle_of: MakeBundle, root: users.User, work: Path
) -> None:
    refuse("ENOSYS:clone-pidfd")
    done = root_runtime.quiet(
        "create", "--pidfd-socket", str(work / "s"), "--bundle", str(bundle_of(root).path), id := new_id()
    )
    assert "--pidfd-socket: needs pidfd_open" in done.error_line
    assert id not in root_runtime.ids()


def test_the_shim_refuses() -> None:
    """Else the tests above would show nothing."""
    probe = (
        "import ctypes; libc = ctypes.CDLL(None, use_errno=True)\n"
        "for n in (428, 429, 430, 431, 432, 442, 435, 437, 436, 434, 424): print(libc.syscall(n, -1, -1), ctypes.get_errno())"
    )
    argv = [*refusals.prefix("EPERM:all"), sys.executable, "-c", probe]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout == f"-1 {errno.EPERM}\n" * 11, done.stderr
