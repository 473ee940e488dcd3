# SPDX-License-Identifier: Apache-2.0
"""Ordinary users without a delegated cgroup: what an rlimit holds, what they are told, and how to have it refused."""

from __future__ import annotations

import json

import pytest
from support import kernel, runtimes
from support.bundles import Bundle, MakeBundle
from support.runtimes import MakeRuntime, Runtime, parse_probe
from support.users import User


@pytest.fixture
def undelegated(rootless_user: User, runtimes_of: MakeRuntime, bundle_of: MakeBundle) -> Runtime:
    """A runtime of a user who gets no cgroup here."""
    runtime = runtimes_of(rootless_user)
    id = runtime.start_detached(bundle_of(rootless_user, "/probe", "--wait"))
    state = json.loads((runtime.state_root / id / "state.json").read_text())
    runtime.stop(id)
    if state.get("cgroup"):
        pytest.skip("not applicable: a cgroup is delegated to this user")
    return runtime


def limited(bundle_of: MakeBundle, user: User, *args: str) -> Bundle:
    bundle = bundle_of(user, *args)
    bundle.linux.setdefault("resources", {}).update({"memory": {"limit": 64 << 20}, "pids": {"limit": 5}})
    return bundle


def test_what_holds_and_what_is_told(undelegated: Runtime, bundle_of: MakeBundle) -> None:
    done = undelegated.run(limited(bundle_of, undelegated.user, "/probe")).ok()
    assert kernel.limits(parse_probe(done.out)["limits"])["RLIMIT_NPROC"] == (5, 5)
    assert done.err.count("\n") == 1
    assert "not enforced: memory.limit; pids.limit holds" in done.err and "Delegate=yes" in done.err


def test_it_bites(undelegated: Runtime, bundle_of: MakeBundle) -> None:
    """As pids.max does: with five processes there is no sixth, in the container or for an exec."""
    id = undelegated.start_detached(
        limited(bundle_of, undelegated.user, "sh", "-c", "for i in 1 2 3 4; do sleep 1000 & done; wait")
    )
    from support import machine

    def count() -> int:
        return len(undelegated("ps", "--format", "json", id).ok().json())

    assert machine.poll(lambda: count() == 5, 10)
    seen = undelegated("exec", id, "sh", "-c", "sleep 0 & wait")
    assert seen.code != 0 and "fork" in seen.err
    assert count() == 5
    undelegated("delete", "--force", id).ok()


def test_an_exec_has_it_too(undelegated: Runtime, bundle_of: MakeBundle) -> None:
    id = undelegated.start_detached(limited(bundle_of, undelegated.user, "/probe", "--wait"))
    seen = parse_probe(undelegated("exec", id, "/probe").ok().out)
    assert kernel.limits(seen["limits"])["RLIMIT_NPROC"] == (5, 5)
    for options, field in (
        (("--memory", "32m"), "linux.resources.memory.limit"),
        (("--pids-limit", "3"), "linux.resources.pids.limit"),
    ):
        refused = undelegated("update", *options, id)
        assert refused.code == 1 and f"{field}: cannot be changed: the container has no cgroup" in refused.error_line
    undelegated.stop(id)


def test_refused_where_that_is_wanted(undelegated: Runtime, runtimes_of: MakeRuntime, bundle_of: MakeBundle) -> None:
    strict = runtimes_of(undelegated.user, flags=("--rootless=false",))
    done = strict.run(limited(bundle_of, undelegated.user, "/probe"))
    assert done.code == 1 and "denied" in done.error_line and "cgroup" in done.error_line
    assert strict.ids() == []
    # a place of its own is a wish that nothing else can fulfil
    bundle = bundle_of(undelegated.user, "/probe")
    bundle.linux["cgroupsPath"] = "/nowhere/box"
    done = undelegated.run(bundle)
    assert done.code == 1 and "linux.cgroupsPath: create the cgroup" in done.error_line


def test_a_person_who_gives_a_flag_means_it(undelegated: Runtime) -> None:
    ctnr = str(runtimes.ctnr_bin())
    argv = [ctnr, "--root", str(undelegated.state_root), "run", "--pids-limit", "5", "host:", "true"]
    done = runtimes.call(argv, undelegated.user, env={"CTNR_STORE": str(undelegated.state_root)})
    assert done.code == 125 and "--pids-limit: create the cgroup" in done.err
