# SPDX-License-Identifier: Apache-2.0
"""The harness itself: the leak check sees each kind of leak, the users are what they say, the payload tells the truth."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from support import leaks, machine, rootfs, runtimes, users, views
from support.users import User


def _left(before: leaks.Snapshot) -> dict[str, list[str]]:
    return leaks.Snapshot.take().left_behind(before)


def test_leak_check_sees_an_orphan() -> None:
    before = leaks.Snapshot.take()
    # the middle process ends: its child comes to us, the subreaper
    middle = subprocess.Popen(["sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!"], stdout=subprocess.PIPE, text=True)
    leaks.own(middle.pid)
    assert middle.stdout
    pid = int(middle.stdout.read())
    middle.stdout.close()
    middle.wait()
    left = _left(before)
    assert list(left) == ["processes"]
    assert left["processes"][0].startswith(f"{pid} sleep 1000")
    leaks.clean_up(left)
    assert leaks.settled(before) == {}


def test_leak_check_sees_an_fd_and_a_state_entry(work: Path) -> None:
    leaks.watched_roots.add(str(work / "state"))
    before = leaks.Snapshot.take()
    fd = os.open("/dev/null", os.O_RDONLY)
    (work / "state/box").mkdir(parents=True)
    left = _left(before)
    os.close(fd)
    (work / "state/box").rmdir()
    assert left == {"fds": [f"{fd} -> /dev/null"], "roots": [f"{work}/state/box"]}
    assert _left(before) == {}


def test_leak_check_sees_a_mount_and_a_cgroup(work: Path) -> None:
    machine.need_root()
    mounts = machine.cgroup_mounts()
    machine.need_that(bool(mounts), "no cgroups are mounted")
    cgroup = Path(next(iter(mounts.values())), f"{machine.TOKEN}-leak")
    target = work / "mounted"
    target.mkdir()
    before = leaks.Snapshot.take()
    cgroup.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", target], check=True)
    try:
        left = _left(before)
    finally:
        subprocess.run(["umount", target], check=True)
    assert left["cgroups"] == [str(cgroup)]
    assert left["mounts"] == [f"{target} tmpfs tmpfs"]
    leaks.clean_up(left)
    assert _left(before) == {}


def test_users_are_what_they_say(user: User) -> None:
    probe = runtimes.parse_probe(runtimes.call([str(rootfs.probe())], user).ok().out)
    assert probe["uids"] == [user.uid] * 3
    assert probe["gids"] == [user.gid] * 3
    capabilities = next(line for line in probe["status"].splitlines() if line.startswith("CapEff"))
    assert (int(capabilities.split()[1], 16) != 0) == (user.kind == users.ROOT)
    assert (user.sub is not None) == (user.kind == users.SUBIDS)
    if user.rootless:
        assert os.stat(user.env()["XDG_RUNTIME_DIR"]).st_mode & 0o777 == 0o700


def test_a_checkout_in_a_closed_directory_is_within_reach(work: Path) -> None:
    machine.need_root()
    user = users.get(users.ONE_ID)
    tool = work / "closed/deeper/tool"
    tool.parent.mkdir(parents=True)
    tool.write_text("#!/bin/sh\necho here\n")
    tool.chmod(0o755)
    (work / "closed").chmod(0o700)
    assert users.closed_ancestors(tool, user) == [work / "closed"]
    assert runtimes.call([str(tool)], user).ok().out == "here\n"


def test_views_are_what_they_say(view: str, root: User) -> None:
    done = runtimes.call(
        ["sh", "-c", "grep -c ' - cgroup ' /proc/self/mountinfo; grep -c ' - cgroup2 ' /proc/self/mountinfo"],
        root,
        view=view,
    )
    v1, v2 = (int(n) for n in done.out.split())
    assert {"v1": v1 > 0 and v2 == 0, "v2": v1 == 0 and v2 == 1, "hybrid": v1 > 0 and v2 == 1, "none": v1 + v2 == 0}[
        views.mode_of(view)
    ]


def test_a_missing_prerequisite_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "MUST_WORK", False)
    with pytest.raises(pytest.skip.Exception):
        machine.need("no-such-program")
    monkeypatch.setattr(machine, "MUST_WORK", True)
    with pytest.raises(pytest.fail.Exception):
        machine.need("no-such-program")
