# SPDX-License-Identifier: Apache-2.0
"""Landlock in containers: programs inside try, and are refused, whoever runs them and however they came there."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import machine, rootfs, runtimes, users
from support.bundles import Bundle, MakeBundle
from support.runtimes import Runtime

import ctnr
from ctnr._native import landlock_abi

ANNOTATION = "io.ctnr.landlock"


@pytest.fixture(autouse=True, scope="module")
def _kernel(_session: None) -> None:
    machine.need_that(landlock_abi() >= 6, "a kernel with Landlock ABI 6")
    if os.getuid() == 0:  # what a process keeps open once it has started a container (the init's image) is no leak
        path = machine.scratch() / "warm"
        ctnr.run("host:", ["true"], root=str(path))
        path.rmdir()


def ruled(bundle: Bundle, **document: Any) -> None:
    bundle.config["annotations"] = {ANNOTATION: json.dumps(document)}


def a_bundle(bundle: MakeBundle, *args: str) -> Bundle:
    made = bundle(*args)
    made.writable()
    shutil.copy(rootfs.compiled("caller"), made.root / "caller")
    (made.root / "caller").chmod(0o755)
    return made


RULES: dict[str, Any] = {"fs": {"/": ["read", "execute"], "/tmp": ["read", "write"], "/dev/null": ["read", "write"]}}
SCRIPT = "cat /etc/hostname; echo x > /dev/null && echo null; echo x > /tmp/x && echo tmp; echo $HOME; echo x > /etc/x"


@pytest.mark.parametrize("no_new_privileges", [True, False])
@pytest.mark.parametrize("profile", [True, False])
def test_files(runtime: Runtime, bundle: MakeBundle, no_new_privileges: bool, profile: bool) -> None:
    made = a_bundle(bundle, "sh", "-c", SCRIPT)
    made.process["noNewPrivileges"] = no_new_privileges
    if profile:  # the rules are there before the filter, which may know nothing of Landlock
        names = ["landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"]
        rule = {"names": names, "action": "SCMP_ACT_KILL_PROCESS"}
        made.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}
    ruled(made, **RULES)
    result = runtime.run(made)
    assert result.out == "rootfs\nnull\ntmp\n/root\n", str(result)
    assert "/etc/x: Permission denied" in result.err
    assert result.code == 1


def test_exec_has_the_same_rules(runtime: Runtime, bundle: MakeBundle) -> None:
    made = a_bundle(bundle, "sleep", "1000")
    ruled(made, **RULES)
    id = runtime.start_detached(made)
    process = {"args": ["/bin/sh", "-c", SCRIPT], "cwd": "/", "env": ["PATH=/bin"]}
    result = runtime.exec(id, process)
    assert result.out == "rootfs\nnull\ntmp\n/root\n", str(result)
    assert "/etc/x: Permission denied" in result.err
    runtime.stop(id)


def test_what_may_be_executed(runtime: Runtime, bundle: MakeBundle) -> None:
    made = a_bundle(bundle, "/caller", "call", "39")
    ruled(made, fs={"/bin": ["execute", "read"]})
    result = runtime.run(made)
    assert result.code == 1 and "permission denied" in result.error_line, str(result)
    made.process["args"] = ["sh", "-c", "echo $HOME; /caller"]
    result = runtime.run(made)
    assert result.out == "/root\n"  # from a file that is out of reach by then
    assert "Permission denied" in result.err


def test_setuid_programs_too(runtime: Runtime, bundle: MakeBundle) -> None:
    made = a_bundle(bundle, "/setuid/sh", "-c", "echo x > /etc/x")
    (made.root / "setuid").mkdir()
    shutil.copy(made.root / "bin/busybox", made.root / "setuid/sh")
    rootfs.give(made.root / "setuid", runtime.user.uid, runtime.user.gid)
    (made.root / "setuid/sh").chmod(0o4755)
    made.process["user"] = {"uid": 0, "gid": 0}
    made.process["noNewPrivileges"] = False
    ruled(made, **RULES)
    assert "Permission denied" in runtime.run(made).err


def test_ports(runtime: Runtime, bundle: MakeBundle) -> None:
    made = a_bundle(bundle)
    made.without_namespace("network")
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        good, bad = one.getsockname()[1], other.getsockname()[1]
        ruled(made, connect_tcp=[good], bind_tcp=[])
        answers = []
        for words in (("connect", good), ("connect", bad), ("bind", 0)):
            made.process["args"] = ["/caller", *map(str, words)]
            answers.append(int(runtime.run(made).ok().out))
        assert answers == [0, errno.EACCES, errno.EACCES]


def test_scopes(runtime: Runtime, bundle: MakeBundle) -> None:
    name = f"ctnr-test-{os.getpid()}"
    made = a_bundle(bundle, "/caller", "abstract", name)
    made.without_namespace("network")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("\0" + name)
        server.listen(8)
        assert runtime.run(made).ok().out == "0\n"
        ruled(made, scoped=["abstract_unix_socket"])
        assert runtime.run(made).ok().out == f"{errno.EPERM}\n"
    if not runtime.user.rootless:
        made.without_namespace("pid")
        made.process["args"] = ["/caller", "kill", str(os.getpid()), "0"]
        assert runtime.run(made).ok().out == "0\n"
        ruled(made, scoped=["signal"])
        assert runtime.run(made).ok().out == f"{errno.EPERM}\n"


def test_hooks_inside_are_ruled_too(runtime: Runtime, bundle: MakeBundle) -> None:
    made = a_bundle(bundle, "true")
    made.config["hooks"] = {"startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "echo x > /etc/x"]}]}
    ruled(made, **RULES)
    result = runtime.run(made)
    assert result.code == 1 and "startContainer hook" in result.error_line and "Permission denied" in result.error_line


def test_refusals(runtime: Runtime, bundle: MakeBundle) -> None:
    made = a_bundle(bundle, "true")
    for document, words in (
        ({"fs": {"/nowhere": ["read"]}}, 'fs["/nowhere"]'),
        ({"fs": {"/": ["fly"]}}, 'unknown Landlock right'),
        ({}, "handles nothing"),
    ):  # fmt: skip
        ruled(made, **document)
        result = runtime.run(made)
        assert result.code == 1
        assert f"{ANNOTATION}" in result.error_line and words.replace('"', '\\"') in result.error_line, str(result)
        assert runtime.ids() == []
    ruled(made, fs={"/": ["read", "execute"], "/nowhere": ["read"]}, best_effort=True)
    runtime.run(made).ok()


def test_paths_are_the_container_s(runtime: Runtime, bundle: MakeBundle) -> None:
    """A link in the root filesystem leads nowhere on the host."""
    made = a_bundle(bundle, "cat", "/data/file")
    (made.root / "data").mkdir()
    (made.root / "data/file").write_text("inside\n")
    rootfs.give(made.root / "data", runtime.user.uid, runtime.user.gid)
    (made.root / "link").symlink_to("/data")
    (made.root / "out").symlink_to("/../../../../etc")
    ruled(made, fs={"/bin": ["read", "execute"], "/link": ["read"], "/out": ["read"]})
    assert runtime.run(made).ok().out == "inside\n"


@pytest.mark.parametrize("how", ["option", "file"])
def test_ctnr_run(how: str, work: Path, busybox_root: Path, ctnr_bin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.need_root()
    state = work / "state"
    monkeypatch.setenv("CTNR_STORE", str(work / "store"))
    rules = ctnr.Landlock({"/": "rx", "/tmp": "rw"})
    if how == "option":
        result = ctnr.run(
            str(busybox_root),
            ["sh", "-c", "touch /tmp/x && touch /x"],
            root=str(state),
            landlock=rules,
            stderr=ctnr.PIPE,
        )
        assert (result.exit_code, result.stderr) == (1, b"touch: /x: Permission denied\n")
        with pytest.raises(ctnr.CtnrError, match="landlock"):
            ctnr.run(str(busybox_root), ["true"], root=str(state), landlock={"fs": 1})
        return
    (work / "rules.json").write_text(rules.json())
    call: Callable[..., runtimes.Result] = runtimes.call
    argv = [
        str(ctnr_bin),
        "--root",
        str(state),
        "run",
        "--security-opt",
        f"landlock={work}/rules.json",
        str(busybox_root),
    ]
    out = call([*argv, "sh", "-c", "touch /tmp/x && touch /x"], users.get(users.ROOT))
    assert (out.code, out.err) == (1, "touch: /x: Permission denied\n"), str(out)
