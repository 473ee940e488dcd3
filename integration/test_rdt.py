# SPDX-License-Identifier: Apache-2.0
"""linux.intelRdt on this machine: a class in resctrl where it is mounted, and a truthful refusal where it is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.bundles import MakeBundle
from support.runtimes import Runtime
from support.users import User

from ctnr.runtime import intelrdt

WITHOUT = "linux.intelRdt: intelRdt is specified in config, but Intel RDT is not enabled: no resctrl is mounted"


def test_a_class(root_runtime: Runtime, root: User, bundle_of: MakeBundle) -> None:
    bundle = bundle_of(root, "/probe", "--wait")
    bundle.linux["intelRdt"] = {}
    top = intelrdt.root()
    if not top:
        done = root_runtime.run(bundle)
        assert done.code == 1 and WITHOUT in done.error_line
        assert root_runtime.ids() == []
        return
    id = root_runtime.start_detached(bundle)
    tasks = Path(top, id, "tasks")
    assert str(root_runtime.pid(id)) in tasks.read_text().split()
    root_runtime.quiet("exec", "--detach", id, "/probe", "--wait").ok()
    pids = root_runtime("ps", "--format", "json", id).ok().json()
    assert set(map(str, pids)) == set(tasks.read_text().split())
    assert root_runtime("events", "--stats", id).ok().json()["data"]["intel_rdt"]["schemata"]
    root_runtime.stop(id)
    assert not tasks.parent.exists()


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--l3-cache-schema=L3:0=f", "Intel RDT/CAT: l3 cache schema is not enabled"),
        ("--mem-bw-schema=MB:0=50", "Intel RDT/MBA: memory bandwidth schema is not enabled"),
    ],
)
def test_update(option: str, words: str, root_runtime: Runtime, root: User, bundle_of: MakeBundle) -> None:
    id = root_runtime.start_detached(bundle_of(root, "/probe", "--wait"))
    done = root_runtime("update", option, id)
    wanted = "updating a non-existent Intel RDT configuration is not supported" if intelrdt.root() else words
    assert done.code == 1 and wanted in done.error_line
    root_runtime.stop(id)
