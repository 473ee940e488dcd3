# SPDX-License-Identifier: Apache-2.0
"""What `spec` and `features` write."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from ctnr import jsonio
from ctnr.spec import runtime, tables
from ctnr.spec.default import default_config
from ctnr.spec.features import features
from ctnr.spec.mounts import parse_options
from ctnr.spec.seccomp import FLAGS

DATA = Path(__file__).parent / "data" / "configs"


@pytest.mark.parametrize("rootless", [False, True])
@pytest.mark.parametrize("cgroup_namespace", [False, True])
def test_the_default_passes_without_a_warning(rootless: bool, cgroup_namespace: bool) -> None:
    config = default_config(rootless, 1000, 1000, cgroup_namespace=cgroup_namespace)
    before = copy.deepcopy(config)
    assert runtime.validate(config) == []
    assert config == before
    # and survives being written to a file
    assert runtime.parse(jsonio.dumps(config, 4).encode()) == config


@pytest.mark.parametrize(("name", "rootless"), [("runc", False), ("runc-rootless", True)])
def test_the_default_is_what_runc_spec_writes(name: str, rootless: bool) -> None:
    """runc 1.1.5's, on a host with cgroup v1, but for what later releases changed."""
    theirs: dict[str, Any] = json.loads((DATA / f"{name}.json").read_bytes())
    ours: dict[str, Any] = json.loads(jsonio.dumps(default_config(rootless, cgroup_namespace=False)))
    assert ours.pop("ociVersion") == "1.3.0" and theirs.pop("ociVersion") == "1.0.2-dev"
    assert ours.pop("hostname") == "ctnr" and theirs.pop("hostname") == "runc"
    # dropped by runc 1.2: an ambient set is of no use to root
    assert theirs["process"]["capabilities"].pop("ambient")
    assert ours == theirs


def test_rootless_ids() -> None:
    linux = default_config(True, 1000, 100)["linux"]
    assert linux["uidMappings"] == [{"containerID": 0, "hostID": 1000, "size": 1}]
    assert linux["gidMappings"] == [{"containerID": 0, "hostID": 100, "size": 1}]


def test_each_default_is_new() -> None:
    default_config()["mounts"].clear()
    assert default_config()["mounts"]


def _features(**changes: Any) -> Any:
    facts: dict[str, Any] = {
        "version": "0.1",
        "cgroup_v1": True,
        "cgroup_v2": True,
        "systemd": False,
        "systemd_user": False,
        "rdma": False,
        "seccomp": True,
        "seccomp_flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "seccomp_archs": ["SCMP_ARCH_X86_64"],
        "libseccomp": "2.5.4",
        "apparmor": False,
        "selinux": False,
        "intel_rdt": False,
        "memory_policy": False,
        "idmap": True,
        "net_devices": False,
        "checkpoint": False,
    }
    return features(**{**facts, **changes})


def test_features() -> None:
    document = _features(commit="abc", unsafe_annotations=["org.systemd.property.", "bundle"])
    assert document["ociVersionMin"] == "1.0.0"
    assert document["ociVersionMax"] == "1.3.0"
    assert document["hooks"] == [
        "prestart",
        "createRuntime",
        "createContainer",
        "startContainer",
        "poststart",
        "poststop",
    ]
    assert document["mountOptions"] == sorted(set(document["mountOptions"]))
    linux = document["linux"]
    assert linux["namespaces"] == ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"]
    assert linux["capabilities"][0] == "CAP_CHOWN" and len(linux["capabilities"]) == 41
    assert linux["cgroup"] == {"v1": True, "v2": True, "systemd": False, "systemdUser": False, "rdma": False}
    assert linux["seccomp"]["enabled"] is True
    assert linux["seccomp"]["knownFlags"] == list(FLAGS)
    assert linux["seccomp"]["supportedFlags"] == ["SECCOMP_FILTER_FLAG_LOG"]
    for name in ("actions", "operators", "archs"):
        assert linux["seccomp"][name] == sorted(linux["seccomp"][name]) != []
    assert linux["mountExtensions"] == {"idmap": {"enabled": True}}
    assert "memoryPolicy" not in linux
    assert document["annotations"] == {
        "io.ctnr.version": "0.1",
        "io.ctnr.commit": "abc",
        "io.github.seccomp.libseccomp.version": "2.5.4",
        "org.opencontainers.runc.checkpoint.enabled": "false",
    }
    assert document["potentiallyUnsafeConfigAnnotations"] == ["bundle", "org.systemd.property."]


def test_features_that_are_not_there() -> None:
    document = _features(seccomp=False, idmap=False, memory_policy=True, checkpoint=True)
    assert document["linux"]["seccomp"] == {"enabled": False}
    assert not {"idmap", "ridmap"} & set(document["mountOptions"])
    assert document["linux"]["mountExtensions"] == {"idmap": {"enabled": False}}
    assert document["linux"]["memoryPolicy"]["modes"] == sorted(tables.MEMORY_POLICIES)
    assert document["annotations"]["org.opencontainers.runc.checkpoint.enabled"] == "true"


def test_features_promise_only_what_is_recognised() -> None:
    for option in _features()["mountOptions"]:
        assert parse_options([option], "x").data == "", option
