# SPDX-License-Identifier: Apache-2.0
"""ctnr.runtime.cgroups on a real kernel: the machine's own cgroup tree, and where it is hybrid also as pure v1 and as v2 only.

The scenarios are in support/cgroup_*.py; each runs as a program of its own, in a mount namespace with the view.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import bundles, machine, users, views

SCENARIOS = Path(__file__).parent / "support" / "cgroup_scenarios.py"

AS_ROOT = [
    "the_life_of_a_cgroup",
    "add_moves_a_running_process",
    "joining_is_cheap",
    "limits_are_what_was_asked_for",
    "limits_bite",
    "shares_out_of_range",
    "every_controller_that_is_not_there",
    "the_kernel_answers_as_the_policy_says",
    "default_devices_only",
    "a_cgroup_that_is_there_already",
    "children_of_the_container",
    "no_internal_processes",
    "threaded",
    "many_at_once",
    "a_deep_nest",
    "default_places",
    "kill_minus_nine_of_us",
]
WITH_A_USER = [
    "owners",
    "rootless_without_delegation",
    "rootless_with_a_delegated_cgroup2",
    "rootless_with_delegated_v1",
]


def play(view: str, scenario: str, *args: str) -> str:
    """Run a scenario; its output. Skips when it says that this machine cannot tell."""
    argv = [sys.executable, str(SCENARIOS), scenario, bundles.new_id(), *args]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        views.wrap(argv, views.view_script(view)), env=env, capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode == 77:
        pytest.skip(f"not applicable: {view}: {done.stdout.strip()}")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("scenario", AS_ROOT)
def test_as_root(view: str, scenario: str) -> None:
    machine.need_root()
    play(view, scenario)


@pytest.mark.parametrize("way", ["as it is", "with the freezer", "without a freezer"])
def test_a_fork_bomb(view: str, way: str) -> None:
    machine.need_root()
    play(view, "a_fork_bomb", way)


@pytest.mark.parametrize("scenario", WITH_A_USER)
def test_with_a_user(view: str, scenario: str) -> None:
    machine.need_root()
    user = users.get(users.ONE_ID)
    play(view, scenario, str(user.uid), str(user.gid))
