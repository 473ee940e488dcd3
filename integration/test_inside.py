# SPDX-License-Identifier: Apache-2.0
"""The inside is what was asked for, read from the kernel: a table of configs, each run and exec'd, for three kinds of user."""

from __future__ import annotations

import functools
import os
import platform
import re
from pathlib import Path

import pytest
from support import (
    default_cases,
    kernel,
    machine,
    mount_cases,
    process_cases,
    root_cases,
    runtimes,
    tuning_cases,
    users,
    views,
)
from support.bundles import Bundle, MakeBundle, new_id
from support.cases import CASES, Case
from support.facts import facts
from support.runtimes import MakeRuntime, Runtime, parse_probe
from support.users import User

assert default_cases and process_cases and root_cases and mount_cases and tuning_cases  # their rows are in CASES

TABLE = [pytest.param(row, kind, id=f"{row.name}-{kind}") for row in CASES for kind in users.KINDS if kind in row.kinds]
EXEC_TABLE = [p for p in TABLE if p.values[0].exec_too]  # type: ignore[union-attr]


def kernel_version() -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", platform.release())[:2])


def asked_args(row: Case, bundle: Bundle) -> list[str]:
    return ["/probe", *bundle.process.pop("extra_argv", []), *row.asks]


def needs_of(row: Case) -> None:
    if row.name == "an_idmapped_mount" and kernel_version() < (6, 3):
        pytest.skip("not applicable: the bundles are on a tmpfs, which can be idmapped since Linux 6.3")
    if "seccomp" in row.name and platform.machine() != "x86_64":
        pytest.skip("not applicable: the row has x86-64 syscall numbers")


@pytest.mark.parametrize(("row", "kind"), TABLE)
def test_run(row: Case, kind: str, runtimes_of: MakeRuntime, bundle_of: MakeBundle) -> None:
    needs_of(row)
    user = users.get(kind)
    runtime = runtimes_of(user)
    bundle = bundle_of(user)
    row.change(bundle)
    bundle.process["args"] = asked_args(row, bundle)
    row.check(parse_probe(runtime.run(bundle).ok().out), bundle, user)
    assert runtime.ids() == []


@pytest.mark.parametrize(("row", "kind"), EXEC_TABLE)
def test_exec(row: Case, kind: str, runtimes_of: MakeRuntime, bundle_of: MakeBundle) -> None:
    """The same inside for a second process: the container has the row's config, the exec its process."""
    needs_of(row)
    user = users.get(kind)
    runtime = runtimes_of(user)
    bundle = bundle_of(user)
    plain = dict(bundle.process)
    row.change(bundle)
    process = dict(bundle.process)
    process["args"] = asked_args(row, bundle)
    process.pop("extra_argv", None)
    # the container's first process is the default one: what exec gives must come from its own document
    bundle.config["process"] = {**plain, "args": ["/probe", "--wait"]}
    id = runtime.start_detached(bundle)
    seen = parse_probe(runtime.exec(id, process).ok().out)
    bundle.config["process"] = process
    row.check(seen, bundle, user)
    runtime.stop(id)


# ---------------------------------------------------------------- beside the peers


@functools.cache
def peer_version(path: str) -> tuple[int, ...]:
    said = runtimes.call([path, "--version"], users.me()).ok().out
    found = re.search(r"version (\d+)\.(\d+)", said)
    assert found, said
    return tuple(int(n) for n in found.groups())


@pytest.mark.parametrize(("row", "kind"), TABLE)
def test_like_the_peers(row: Case, kind: str, runtimes_of: MakeRuntime, bundle_of: MakeBundle) -> None:
    """The same bundle under runc and crun shows the same facts; where the two differ, ours is like one of them."""
    needs_of(row)
    paths = {name: runtimes.peer(name) for name in ("runc", "crun")}
    user = users.get(kind)
    # crun refuses a hybrid host
    view = views.V1 if views.V1 in views.available() else views.HOST
    bundle = bundle_of(user)
    bundle.config["ociVersion"] = "1.0.2"
    row.change(bundle)
    bundle.process["args"] = asked_args(row, bundle)
    theirs = []
    for name, path in paths.items():
        if name in row.peers and peer_version(str(path)) >= row.peers[name]:
            done = runtimes_of(user, path, view=view).run(bundle)
            if done.code == 0:
                theirs.append(facts(parse_probe(done.out), bundle))
    if not theirs:
        pytest.skip("not applicable: no peer here can do it")
    ours = facts(parse_probe(runtimes_of(user, view=view).run(bundle).ok().out), bundle)
    assert all(ours.keys() == their.keys() for their in theirs)
    for name, value in ours.items():
        assert value in [their[name] for their in theirs], name


# ---------------------------------------------------------------- joining namespaces


def holder_of(kind: str, user: User, request: pytest.FixtureRequest) -> int:
    """A process in a new namespace of `kind` (for users inside a user namespace of theirs); its pid."""
    import subprocess

    flags = {"network": "-n", "ipc": "-i", "uts": "-u", "cgroup": "-C"}
    [unshare, sleep] = machine.need("unshare", "sleep")
    argv = [unshare, flags[kind], *(["-U", "-r"] if user.rootless else []), sleep, "1000"]
    process = runtimes.popen(argv, user, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def end() -> None:
        process.kill()
        runtimes.finished(process)

    request.addfinalizer(end)
    link = f"/proc/{process.pid}/ns/{kernel.NS_FILES[kind]}"
    host = kernel.host_namespaces()[kernel.NS_FILES[kind]]

    def there() -> bool:
        try:
            with open(f"/proc/{process.pid}/comm") as comm:
                return os.readlink(link) != host and comm.read() == "sleep\n"
        except OSError:
            return False

    assert machine.poll(there, 10)
    return process.pid


@pytest.mark.parametrize("kind", ["network", "ipc", "uts", "cgroup"])
@pytest.mark.parametrize("how", ["run", "exec"])
def test_join_a_namespace_by_path(
    kind: str, how: str, user: User, runtime: Runtime, bundle: MakeBundle, request: pytest.FixtureRequest
) -> None:
    pid = holder_of(kind, user, request)
    box = bundle()
    if user.rootless:
        box.namespace("user", f"/proc/{pid}/ns/user")
        box.linux.pop("uidMappings")
        box.linux.pop("gidMappings")
    box.namespace(kind, f"/proc/{pid}/ns/{kernel.NS_FILES[kind]}")
    if kind == "uts":
        box.config.pop("hostname")
    if how == "run":
        seen = runtime.probe(box)
    else:
        box.process["args"] = ["/probe", "--wait"]
        id = runtime.start_detached(box)
        seen = parse_probe(runtime.exec(id, {**box.process, "args": ["/probe"]}).ok().out)
        runtime.stop(id)
    assert seen["ns"][kernel.NS_FILES[kind]] == os.readlink(f"/proc/{pid}/ns/{kernel.NS_FILES[kind]}")
    if user.rootless:
        assert seen["ns"]["user"] == os.readlink(f"/proc/{pid}/ns/user")


def test_exec_is_in_every_namespace_of_the_container(user: User, runtime: Runtime, bundle: MakeBundle) -> None:
    box = bundle("/probe", "--wait")
    box.namespace("cgroup")
    box.namespace("time")
    id = runtime.start_detached(box)
    pid = runtime.pid(id)
    seen = parse_probe(runtime("exec", id, "/probe").ok().out)
    for name, link in seen["ns"].items():
        assert link == os.readlink(f"/proc/{pid}/ns/{name}"), name
    assert seen["pid"] != 1
    runtime.stop(id)


# ---------------------------------------------------------------- exec's own flags


def test_exec_takes_its_flags(runtime: Runtime, user: User, bundle: MakeBundle) -> None:
    box = bundle("/probe", "--wait")
    box.process["noNewPrivileges"] = False
    id = runtime.start_detached(box)
    words = ["--cwd", "/work", "--env", "A=b c", "--env", "X=", "--cap", "CAP_CHOWN", "--no-new-privs"]
    others = user.kind != users.ONE_ID
    if others:
        words += ["--user", "1000:1001", "--additional-gids", "10", "--additional-gids", "2000"]
    seen = parse_probe(runtime("exec", *words, id, "/probe", "env:A", "env:X").ok().out)
    assert seen["cwd"] == "/work"
    assert seen["asked"] == {"env:A": "b c", "env:X": ""}
    assert seen["no_new_privs"] == 1
    assert seen["uids"] == ([1000] * 3 if others else [0] * 3)
    assert seen["gids"] == ([1001] * 3 if others else [0] * 3)
    if others:
        assert sorted(seen["groups"]) == [10, 2000]
    assert "CAP_CHOWN" in kernel.capabilities(seen)["bounding"]
    runtime.stop(id)


def test_exec_without_flags_is_like_the_config_process(runtime: Runtime, bundle: MakeBundle) -> None:
    box = bundle("/probe", "--wait")
    box.process["cwd"] = "/work"
    box.process["env"] = ["PATH=/bin", "HOME=/x", "FROM=config"]
    box.process["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 333, "hard": 444}]
    id = runtime.start_detached(box)
    seen = parse_probe(runtime("exec", id, "/probe").ok().out)
    assert seen["cwd"] == "/work"
    assert "FROM=config" in seen["env"]
    assert kernel.capabilities(seen) == kernel.after_exec(box.process["capabilities"], 0)
    assert kernel.limits(seen["limits"])["RLIMIT_NOFILE"] == (333, 444)
    runtime.stop(id)


def test_exec_without_capabilities_has_those_of_the_config(runtime: Runtime, bundle: MakeBundle) -> None:
    """As with runc and crun: a process document that is silent about them."""
    box = bundle("/probe", "--wait")
    id = runtime.start_detached(box)
    process = {name: value for name, value in box.process.items() if name != "capabilities"}
    seen = parse_probe(runtime.exec(id, {**process, "args": ["/probe"]}).ok().out)
    assert kernel.capabilities(seen) == kernel.after_exec(box.process["capabilities"], 0)
    runtime.stop(id)


def test_preserve_fds(runtime: Runtime, user: User, bundle: MakeBundle, work: Path) -> None:
    """--preserve-fds N passes 3..3+N-1 and nothing above."""
    given = work / "given"
    given.write_text("x")
    given.chmod(0o666)
    # a shell puts them where the runtime looks
    script = f'exec 3<{given} 4<{given} 5<{given}; exec "$@"'
    box = bundle("/probe").save()
    argv = [
        "sh",
        "-c",
        script,
        "sh",
        *runtime.argv("run", "--preserve-fds", "2", "--bundle", str(box.path), new_id()),
    ]
    seen = parse_probe(runtimes.call(argv, user).ok().out)
    assert {"3", "4"} <= set(seen["fds"]) and "5" not in seen["fds"], seen["fds"]
    # a gap is no error, and nothing of the runtime's comes in its place
    argv[2] = f'exec 3<{given} 4<&- 5<{given} 6<&-; exec "$@"'
    argv[-1] = new_id()
    argv[argv.index("--preserve-fds") + 1] = "9"
    done = runtimes.call(argv, user).ok()
    assert "--preserve-fds" in done.err
    assert set(parse_probe(done.out)["fds"]) == {"0", "2", "3", "5"}


def test_the_callers_groups_stay_if_the_annotation_says_so(runtime: Runtime, user: User, bundle: MakeBundle) -> None:
    if user.rootless:
        pytest.skip("not applicable: an ordinary user's groups are not his to choose")
    [setpriv] = machine.need("setpriv")
    box = bundle("/probe")
    for given, groups in (({"run.oci.keep_original_groups": "1"}, [7, 8]), ({}, [])):
        box.config["annotations"] = given
        box.save()
        argv = [setpriv, "--groups", "7,8", "--", *runtime.argv("run", "--bundle", str(box.path), new_id())]
        assert parse_probe(runtimes.call(argv, user).ok().out)["groups"] == groups


def test_a_dev_that_leads_elsewhere_gets_no_devices(runtime: Runtime, bundle: MakeBundle) -> None:
    box = bundle("/bin/true")
    box.config["mounts"] = [m for m in box.config["mounts"] if not m["destination"].startswith("/dev")]
    (box.root / "dev").rmdir()
    (box.root / "dev").symlink_to("/tmp")
    assert "/dev in" in runtime.run(box).error_line
    assert not list((box.root / "tmp").iterdir())
