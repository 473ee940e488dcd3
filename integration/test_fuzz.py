# SPDX-License-Identifier: Apache-2.0
"""Configs that were changed at random (tests/config_mutations.py) through `run`: whatever becomes of them, it ends, says so in
one line, and leaves no container, cgroup, mount or process (conftest.py looks). CTNR_FUZZ=START:COUNT runs others.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import users
from support.bundles import Bundle, MakeBundle, base_config
from support.runtimes import Runtime
from support.users import ROOT, User

sys.path.append(str(Path(__file__).parent.parent / "tests"))

import config_mutations

MakeRuntime = Callable[..., Runtime]
START, COUNT = (int(n) for n in os.environ.get("CTNR_FUZZ", "0:48").split(":"))
CHUNK = 12


def harmless(config: Any, user: User) -> None:
    """What would never end, and what root could do to this machine, is not asked for."""
    process = config.get("process")
    if isinstance(process, dict) and isinstance(process.get("args"), list) and process["args"]:
        process["args"] = ["/bin/true"]
    if user.kind != ROOT:
        return  # the kernel holds them
    config["root"] = {"path": "rootfs", "readonly": True}
    config.pop("hooks", None)
    linux = config.get("linux")
    if isinstance(linux, dict):
        for name in ("netDevices", "intelRdt", "sysctl"):
            linux.pop(name, None)
        namespaces = linux.get("namespaces")
        if isinstance(namespaces, list):
            linux["namespaces"] = [n for n in namespaces if not (isinstance(n, dict) and n.get("path"))]
    mounts = config.get("mounts")
    if isinstance(mounts, list):
        # what is mounted below a bind mount is made in its source
        config["mounts"] = [m for m in mounts if not (isinstance(m, dict) and str(m.get("source", "")).startswith("/"))]


def changed(bundle: Bundle, user: User, seed: int) -> None:
    draw = random.Random(seed)
    config = base_config(user)
    other = draw.choice(config_mutations.seeds())
    for _ in range(draw.randrange(1, 5)):
        config_mutations.mutate(config, other, draw)
    harmless(config, user)
    bundle.config = config


@pytest.mark.parametrize("kind", users.KINDS)
@pytest.mark.parametrize("first", range(START, START + COUNT, CHUNK))
def test_changed_configs(first: int, kind: str, runtimes_of: MakeRuntime, bundle_of: MakeBundle) -> None:
    user = users.get(kind)
    runtime = runtimes_of(user)
    bundle = bundle_of(user)
    harmless(bundle.config, user)
    runtime.run(bundle).ok()  # unchanged it works
    for seed in range(first, first + CHUNK):
        changed(bundle, user, seed)
        done = runtime.run(bundle)
        where = f"CTNR_FUZZ={seed}:1: {done}"
        assert done.code >= 0 and "Traceback" not in done.err and "internal error" not in done.err, where
        errors = [line for line in done.err.splitlines() if "level=error" in line]
        assert len(errors) == (1 if done.code else 0), where
        assert runtime.ids() == [], where
