# SPDX-License-Identifier: Apache-2.0
"""An ordinary user with a delegated cgroup2: a container's life, its pause, its limits, what it uses, all in there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import machine, runtimes, users
from support.bundles import MakeBundle, new_id
from support.runtimes import MakeRuntime, Result, Runtime
from support.users import User

FILES = ("", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control")


class Delegation:
    """`top` is the user's; the commands run in `top`/own, as in a user's session."""

    def __init__(self, top: Path, runtime: Runtime) -> None:
        self.top = top
        self.runtime = runtime

    def __call__(self, *args: str, into: str = "&1", **how: str) -> Result:
        """`into`: where the output goes, which a container that stays holds open."""
        inner = runtimes.full_argv(self.runtime.argv(*args), self.runtime.user)
        script = f'echo $$ >{self.top}/own/cgroup.procs; exec "$@" >{into} 2>&1'
        return runtimes.call(["sh", "-c", script, "sh", *inner], users.me(), env=self.runtime.user.env(), **how)  # type: ignore[arg-type]


@pytest.fixture
def delegated(rootless_user: User, runtimes_of: MakeRuntime) -> Iterator[Delegation]:
    machine.need_root()
    mounts = machine.cgroup_mounts()
    if "" not in mounts:
        pytest.skip("not applicable: no cgroup2 is mounted")
    top = Path(mounts[""], new_id())
    (top / "own").mkdir(parents=True)
    for directory in (top, top / "own"):
        for name in FILES:
            os.chown(directory / name, rootless_user.uid, rootless_user.gid)
    yield Delegation(top, runtimes_of(rootless_user))
    if "memory" in (top / "cgroup.controllers").read_text().split():
        (top / "cgroup.subtree_control").write_text("-memory")
    for path in (top / "own", top):
        assert machine.poll(lambda path=path: not (path / "cgroup.procs").read_text(), 5)  # type: ignore[misc]
        path.rmdir()


def test_a_life(delegated: Delegation, bundle_of: MakeBundle) -> None:
    user = delegated.runtime.user
    bundle = bundle_of(user, "/probe", "--wait").save()
    id = new_id()
    delegated("run", "--detach", "--bundle", str(bundle.path), id, into="/dev/null").ok()
    state = json.loads((delegated.runtime.state_root / id / "state.json").read_text())
    group = delegated.top / id
    assert state["cgroup"]["paths"] == {"": str(group)}
    pid = delegated("state", id).ok().json()["pid"]
    assert (group / "cgroup.procs").read_text().split() == [str(pid)]
    delegated("pause", id).ok()
    assert (group / "cgroup.freeze").read_text() == "1\n"
    assert delegated("state", id).ok().json()["status"] == "paused"
    delegated("resume", id).ok()
    delegated("update", "-r", "-", id, stdin='{"unified": {"cgroup.max.depth": "4"}}').ok()
    assert (group / "cgroup.max.depth").read_text() == "4\n"
    data = delegated("events", "--stats", id).ok().json()["data"]
    assert data["pids"]["current"] == 1 and data["cpu"]["usage"]["total"] > 0
    have = (delegated.top / "cgroup.controllers").read_text().split()
    for controller, options in (("cpuset", ("--cpuset-cpus", "0")), ("pids", ("--pids-limit", "9"))):
        if controller not in have:
            refused = delegated("update", *options, id)
            assert refused.code == 1 and "is not available" in refused.out, str(refused)
    delegated("delete", "--force", id).ok()
    assert not group.exists()
