# SPDX-License-Identifier: Apache-2.0
"""The state machine by the command line: what each verb does in each state, in runc's words, and what it leaves: nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support import leaks, machine, runtimes, terminals, users, views
from support.bundles import Bundle, MakeBundle, new_id
from support.runtimes import MakeRuntime, Runtime, finished, parse_probe, read_line
from support.users import User

# ---------------------------------------------------------------- the good path


def test_create_start_kill_delete(runtime: Runtime, bundle: MakeBundle) -> None:
    box = bundle("/probe", "--wait")
    id = runtime.create(box)
    assert runtime.status(id) == "created"
    pid = runtime.pid(id)
    runtime("start", id).ok()
    assert runtime.status(id) == "running"
    assert runtime.pid(id) == pid
    assert machine.poll(lambda: Path(f"/proc/{pid}/cmdline").read_bytes() == b"/probe\0--wait\0", 5)
    runtime("kill", id, "KILL").ok()
    runtime.wait_status(id, "stopped")
    runtime("delete", id).ok()
    assert "does not exist" in runtime("state", id).err
    assert runtime.ids() == []


def test_create_does_not_run_the_program(runtime: Runtime, bundle: MakeBundle) -> None:
    box = bundle("/bin/sh", "-c", "echo ran >/ran").writable()
    id = runtime.create(box)
    assert not (box.root / "ran").exists()
    runtime("start", id).ok()
    runtime.wait_status(id, "stopped")
    assert (box.root / "ran").read_text() == "ran\n"
    runtime("delete", id).ok()


def test_without_a_program_there_is_nothing_to_start(runtime: Runtime, bundle: MakeBundle) -> None:
    """runtime.md#start: an error of start, not of create; exec works."""
    box = bundle()
    process = box.config.pop("process")
    id = runtime.create(box)
    assert runtime.status(id) == "created"
    runtime.exec(id, {**process, "args": ["/bin/true"]}).ok()
    assert "process" in runtime("start", id).error_line
    assert machine.poll(lambda: runtime.status(id) == "stopped", 10)
    runtime("delete", id).ok()


def test_a_config_changed_after_create_changes_nothing(runtime: Runtime, bundle: MakeBundle) -> None:
    box = bundle("/bin/sh", "-c", "echo first >/ran").writable()
    id = runtime.create(box)
    box.process["args"] = ["/bin/sh", "-c", "echo second >/ran"]
    box.save()
    runtime("start", id).ok()
    runtime.wait_status(id, "stopped")
    assert (box.root / "ran").read_text() == "first\n"
    runtime("delete", id).ok()


def test_state_says_what_runc_says(runtime: Runtime, bundle: MakeBundle, user: User) -> None:
    box = bundle("/probe", "--wait")
    box.config["annotations"] = {"com.example.key": "value"}
    id = runtime.create(box)
    state = runtime.state(id)
    pid = state.pop("pid")
    created = state.pop("created")
    version = state.pop("ociVersion")
    assert version.startswith("1.")
    assert created[:2] == "20" and created.endswith("Z") and "T" in created
    assert state == {
        "id": id,
        "status": "created",
        "bundle": str(box.path),
        "rootfs": str(box.root),
        "annotations": {"com.example.key": "value"},
        "owner": state["owner"],
    }
    assert state["owner"] in ("", user.name)
    assert os.readlink(f"/proc/{pid}/ns/pid") != os.readlink("/proc/self/ns/pid") or user.rootless
    runtime("kill", id, "KILL").ok()
    runtime.wait_status(id, "stopped")
    assert runtime.pid(id) == 0
    runtime("delete", id).ok()


def test_the_state_directory_is_nobody_elses(runtime: Runtime, bundle: MakeBundle) -> None:
    id = runtime.create(bundle("/probe", "--wait"))
    status = (runtime.state_root / id).stat()
    assert status.st_mode & 0o077 == 0 or runtime.name != "ctnr"
    assert status.st_uid == runtime.user.uid
    runtime("delete", "--force", id).ok()


@pytest.mark.parametrize(("args", "code"), [(("--exit", "0"), 0), (("--exit", "7"), 7), (("--exit", "255"), 255)])
def test_run_exits_with_the_programs_code(
    args: tuple[str, ...], code: int, runtime: Runtime, bundle: MakeBundle
) -> None:
    assert runtime.run(bundle("/probe", *args)).code == code
    assert runtime.ids() == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_run_exits_with_128_and_the_signal(number: int, runtime: Runtime, bundle: MakeBundle, user: User) -> None:
    # without a pid namespace the program is no pid 1 and can die of its own signal
    box = bundle("/bin/sh", "-c", f"kill -{number} $$; sleep 100")
    box.without_namespace("pid")
    if user.rootless:
        # a new proc needs a pid namespace of the user's own
        box.config["mounts"] = [m for m in box.config["mounts"] if m["destination"] != "/proc"]
        box.mount("/proc", "bind", "/proc", "rbind")
        box.linux["maskedPaths"], box.linux["readonlyPaths"] = [], []
    assert runtime.run(box).code == 128 + number


def test_exec_exits_with_the_programs_code(runtime: Runtime, bundle: MakeBundle) -> None:
    id = runtime.start_detached(bundle("/probe", "--wait"))
    assert runtime("exec", id, "/probe", "--exit", "7").code == 7
    assert runtime("exec", id, "/probe", "--signal", "9").code == 137
    assert runtime("exec", id, "/bin/sh", "-c", "exit 255").code == 255
    runtime.stop(id)


def test_dev_null_as_stdio_is_the_containers_own(runtime: Runtime, bundle: MakeBundle) -> None:
    """A descriptor of the host's file would be one that CRIU cannot find in the container."""
    look = "for fd in 0 1 2; do [ /proc/$$/fd/$fd -ef /dev/null ] && echo $fd >>/seen; done"
    box = bundle("/bin/sh", "-c", look).writable().save()
    with open(os.devnull, "r+b") as null:
        process = runtime.popen("run", "--bundle", str(box.path), new_id(), stdin=null, stdout=null, stderr=null)
        process.wait(60)
    finished(process)
    assert (box.root / "seen").read_text() == "0\n1\n2\n"


def test_stdio_is_the_callers(runtime: Runtime, bundle: MakeBundle) -> None:
    done = runtime.run(bundle("/bin/sh", "-c", "read line; echo out $line; echo err $line >&2"), stdin="hello\n").ok()
    assert (done.out, done.err) == ("out hello\n", "err hello\n")
    id = runtime.start_detached(bundle("/probe", "--wait"))
    done = runtime("exec", id, "/bin/sh", "-c", "read line; echo out $line; echo err $line >&2", stdin="hello\n").ok()
    assert (done.out, done.err) == ("out hello\n", "err hello\n")
    runtime.stop(id)


def test_pipes_are_the_programs(runtime: Runtime, bundle: MakeBundle, user: User) -> None:
    """A program of another id may open /dev/stdout, a pipe of the caller's."""
    if user.rootless:
        pytest.skip("not applicable: the pipe is of whoever runs the tests")
    box = bundle("/bin/sh", "-c", "stat -L -c %u:%g /dev/stdout; echo opened >/dev/stdout")
    box.process["user"] = {"uid": 7, "gid": 8}
    assert runtime.run(box).ok().out.split() == ["7:8", "opened"]


def test_pid_files(runtime: Runtime, bundle: MakeBundle, work: Path, user: User) -> None:
    directory = work / "pids"
    directory.mkdir(mode=0o777)
    directory.chmod(0o777)
    id = runtime.create(bundle("/probe", "--wait"), "--pid-file", str(directory / "create"))
    assert int((directory / "create").read_text()) == runtime.pid(id)
    runtime("start", id).ok()
    runtime.quiet("exec", "--detach", "--pid-file", str(directory / "exec"), id, "/probe", "--wait").ok()
    second = int((directory / "exec").read_text())
    assert machine.poll(lambda: os.readlink(f"/proc/{second}/exe").endswith("/probe"), 10)
    assert os.stat(f"/proc/{second}/ns/pid").st_ino == os.stat(f"/proc/{runtime.pid(id)}/ns/pid").st_ino
    runtime.stop(id)


def test_detached_run_returns_while_the_container_runs(runtime: Runtime, bundle: MakeBundle) -> None:
    id = runtime.start_detached(bundle("/probe", "--wait"))
    assert runtime.status(id) == "running"
    runtime.stop(id)


def test_signals_reach_the_program_of_a_foreground_run(runtime: Runtime, bundle: MakeBundle) -> None:
    script = "trap 'echo got TERM; exit 3' TERM; trap 'echo got USR1' USR1; echo ready; while :; do sleep 0.05; done"
    box = bundle("/bin/sh", "-c", script).save()
    # setpriv and sh exec what they start: the process is the runtime itself
    process = runtime.popen(
        "run", "--bundle", str(box.path), new_id(), stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    assert read_line(process) == "ready"
    # at once: nothing the program does may come before the runtime listens
    process.send_signal(signal.SIGUSR1)
    assert read_line(process) == "got USR1"
    process.send_signal(signal.SIGTERM)
    assert read_line(process) == "got TERM"
    assert process.stdout
    process.stdout.close()
    finished(process)
    assert process.returncode == 3
    assert runtime.ids() == []


def test_kill_takes_names_and_numbers(runtime: Runtime, bundle: MakeBundle) -> None:
    script = 'for s in HUP INT USR1 USR2 WINCH; do trap "echo $s >>/got" $s; done; echo >/ready; while :; do sleep 0.05; done'
    box = bundle("/bin/sh", "-c", script).writable()
    id = runtime.start_detached(box)
    assert machine.poll((box.root / "ready").exists, 10)
    got = box.root / "got"
    expected = ""
    for word, name in [("HUP", "HUP"), ("SIGINT", "INT"), ("10", "USR1"), ("usr2", "USR2"), ("sigwinch", "WINCH")]:
        runtime("kill", id, word).ok()
        expected += f"{name}\n"
        assert machine.poll(lambda wanted=expected: got.exists() and got.read_text() == wanted, 10), (word, expected)  # type: ignore[misc]
    refused = runtime("kill", id, "NOSUCH")
    assert refused.code == 1 and "NOSUCH" in refused.err.upper()
    runtime.stop(id)


def test_kill_defaults_to_term(runtime: Runtime, bundle: MakeBundle) -> None:
    box = bundle("/probe", "--wait")
    id = runtime.start_detached(box)
    pid = runtime.pid(id)
    assert machine.poll(lambda: Path(f"/proc/{pid}/status").read_text().split("SigCgt:")[1].split()[0] != "0" * 16, 5)
    runtime("kill", id).ok()
    runtime.wait_status(id, "stopped")
    runtime("delete", id).ok()


def test_kill_all_reaches_every_process_without_a_pid_namespace(
    runtimes_of: MakeRuntime, bundle_of: MakeBundle, root: User
) -> None:
    machine.need_root()
    runtime = runtimes_of(root)
    box = bundle_of(root, "/bin/sh", "-c", "sleep 1000 & sleep 1000 & wait")
    box.without_namespace("pid")
    id = runtime.start_detached(box)
    main = runtime.pid(id)
    assert machine.poll(lambda: len(Path(f"/proc/{main}/task/{main}/children").read_text().split()) == 2, 10)
    runtime("kill", "--all", id, "KILL").ok()
    runtime.wait_status(id, "stopped")
    runtime("delete", id).ok()


def test_death_by_somebody_elses_hand_is_seen(runtime: Runtime, bundle: MakeBundle) -> None:
    id = runtime.start_detached(bundle("/probe", "--wait"))
    os.kill(runtime.pid(id), signal.SIGKILL)
    runtime.wait_status(id, "stopped")
    runtime("delete", id).ok()


def test_a_config_by_another_name(runtime: Runtime, bundle: MakeBundle, work: Path) -> None:
    """crun's --config."""
    if runtime.name == "runc":
        pytest.skip("not applicable: crun's option")
    box = bundle("/probe", "--exit", "9")
    box.save()
    other = box.path / "other.json"
    (box.path / "config.json").rename(other)
    assert runtime("run", "--config", str(other), "--bundle", str(box.path), new_id()).code == 9


# ---------------------------------------------------------------- wrong transitions


def nobody(runtime: Runtime, box: Bundle) -> str:
    return new_id()


def created(runtime: Runtime, box: Bundle) -> str:
    return runtime.create(box)


def running(runtime: Runtime, box: Bundle) -> str:
    return runtime.start_detached(box)


def stopped(runtime: Runtime, box: Bundle) -> str:
    id = runtime.start_detached(box)
    os.kill(runtime.pid(id), signal.SIGKILL)
    runtime.wait_status(id, "stopped")
    return id


REFUSED = [
    (nobody, ("state",), "container does not exist"),
    (nobody, ("start",), "container does not exist"),
    (nobody, ("kill",), "container does not exist"),
    (nobody, ("delete",), "container does not exist"),
    (nobody, ("exec", "ID", "/bin/true"), "container does not exist"),
    (nobody, ("ps",), "container does not exist"),
    (running, ("start",), "cannot start an already running container"),
    (stopped, ("start",), "cannot start a container that has stopped"),
    (stopped, ("kill",), "container not running"),
    (running, ("delete",), "cannot delete container {id} that is not stopped: running"),
    (stopped, ("exec", "ID", "/bin/true"), "cannot exec in a stopped container"),
    (created, ("create", "--bundle", "BUNDLE", "ID"), "container with given ID already exists"),
    (running, ("run", "--bundle", "BUNDLE", "ID"), "container with given ID already exists"),
    (stopped, ("create", "--bundle", "BUNDLE", "ID"), "container with given ID already exists"),
]


@pytest.mark.parametrize(("state", "words", "text"), REFUSED, ids=[f"{w[0]}-{s.__name__}" for s, w, _ in REFUSED])
def test_wrong_transitions(
    state: Callable[[Runtime, Bundle], str], words: tuple[str, ...], text: str, runtime: Runtime, bundle: MakeBundle
) -> None:
    box = bundle("/probe", "--wait").save()
    id = state(runtime, box)
    before = runtime.state(id) if state is not nobody else None
    if len(words) == 1:
        words = (*words, "ID")
    refused = runtime.quiet(*(id if w == "ID" else str(box.path) if w == "BUNDLE" else w for w in words))
    assert refused.code == (255 if words[0] == "exec" else 1), str(refused)
    assert text.format(id=id) in refused.error_line
    if before is not None:
        assert runtime.state(id) == before
        runtime("delete", "--force", id).ok()


def test_delete_force_of_nobody_is_no_error(runtime: Runtime) -> None:
    runtime("delete", "--force", new_id()).ok()


@pytest.mark.parametrize("state", [created, running, stopped])
def test_delete_force(state: Callable[[Runtime, Bundle], str], runtime: Runtime, bundle: MakeBundle) -> None:
    id = state(runtime, bundle("/probe", "--wait"))
    runtime("delete", "--force", id).ok()
    assert runtime.ids() == []


def test_exec_in_a_created_container(runtime: Runtime, bundle: MakeBundle) -> None:
    """runc lets exec in before start."""
    id = runtime.create(bundle("/probe", "--wait"))
    seen = parse_probe(runtime("exec", id, "/probe").ok().out)
    assert seen["pid"] != 1
    runtime("delete", "--force", id).ok()


BAD_IDS = ["a/b", "..", ".", ".hidden", "../x", "a b", "a\nb", "ä", "a:b", "a%b", "x" * 256, ""]


@pytest.mark.parametrize("id", BAD_IDS)
def test_bad_ids(id: str, runtime: Runtime, bundle: MakeBundle) -> None:
    box = bundle("/bin/true").save()
    for words in (
        ("create", "--bundle", str(box.path)),
        ("run", "--bundle", str(box.path)),
        ("state",),
        ("delete", "--force"),
        ("start",),
    ):
        refused = runtime.quiet(*words, id)
        if refused.code == 0 and words[0] == "delete":
            continue  # nobody of that name: fine
        assert refused.code == 1, str(refused)
        assert len(refused.err.strip().splitlines()) == 1 or id == "", str(refused)
    assert runtime.ids() == []


@pytest.mark.parametrize("id", ["a", "A-b_c.d+e", "0", "-" if False else "a-", "x.hidden", "x" * 200])
def test_good_ids(id: str, runtime: Runtime, bundle: MakeBundle) -> None:
    assert runtime.run(bundle("/probe", "--exit", "4"), id=id).code == 4


# ---------------------------------------------------------------- bundles of others


@pytest.mark.parametrize("kind", users.KINDS)
def test_a_bundle_by_runc_spec_runs_unchanged(kind: str, runtimes_of: MakeRuntime, bundle_of: MakeBundle) -> None:
    user = users.get(kind)
    runc = runtimes.peer("runc")
    runtime = runtimes_of(user)
    box = bundle_of(user)
    (box.path / "config.json").unlink()
    runtimes.call([str(runc), "spec", *(["--rootless"] if user.rootless else [])], user, cwd=box.path).ok()
    made = (box.path / "config.json").read_text()
    assert json.loads(made)["process"]["terminal"] is True
    shell = terminals.Behind(runtime.argv("run", "--bundle", str(box.path), new_id()), user)
    try:
        shell.expect("# ")
        shell.send("echo in $((40+2)) $(hostname) $(id -u)\n")
        shell.expect("in 42 runc 0")
        shell.send("exit 7\n")
        assert shell.wait() == 7
    finally:
        shell.close()
    assert (box.path / "config.json").read_text() == made
    assert runtime.ids() == []


@pytest.mark.parametrize("flags", ["-Ur", "-Urm"])
def test_inside_a_user_namespace(
    flags: str, rootless_user: User, runtimes_of: MakeRuntime, bundle_of: MakeBundle
) -> None:
    """podman and buildah call the runtime as root of their own user namespace, with and without a mount namespace."""
    box = bundle_of(rootless_user, "/probe")
    for ids in ("uidMappings", "gidMappings"):
        box.linux[ids] = [{"containerID": 0, "hostID": 0, "size": 1}]
    runtime = runtimes_of(rootless_user)
    [unshare] = machine.need("unshare")
    argv = [unshare, flags, *runtime.argv("run", "--bundle", str(box.save().path), new_id())]
    seen = parse_probe(runtimes.call(argv, rootless_user).ok().out)
    assert seen["uids"] == [0, 0, 0]
    assert seen["ns"]["user"] != os.readlink("/proc/self/ns/user")
    assert runtime.ids() == []


@pytest.mark.parametrize("propagation", ["", "private", "slave", "unbindable", "shared", "rprivate", "rslave"])
def test_a_shared_mount_that_holds_the_root_hears_nothing(
    propagation: str, root: User, runtimes_of: MakeRuntime, bundle_of: MakeBundle
) -> None:
    """As every mount is under systemd: what the container mounts must not appear there, and a pivot must be possible."""
    box = bundle_of(root, "/bin/true")
    if propagation:
        box.linux["rootfsPropagation"] = propagation
    box.save()
    runtime = runtimes_of(root)
    held = box.path.parent / "held"
    held.mkdir()
    id = new_id()
    script = (
        f"mount -t tmpfs -o mode=755 tmpfs {held} && mount --make-shared {held} && cp -a {box.path}/. {held} && "
        f"before=$(wc -l </proc/self/mountinfo) && {' '.join(runtime.argv('run', '--bundle', str(held), id))} && "
        "[ $(wc -l </proc/self/mountinfo) = $before ] && echo nothing"
    )
    [unshare, sh] = machine.need("unshare", "sh")
    argv = [unshare, "-m", "--propagation", "private", sh, "-c", script]
    assert runtimes.call(argv, root).ok().out == "nothing\n"


def test_inside_a_user_namespace_devices_are_the_hosts(
    rootless_user: User, runtimes_of: MakeRuntime, bundle_of: MakeBundle
) -> None:
    """As podman does it: the config names no user namespace, because the runtime is in podman's."""
    box = bundle_of(rootless_user, "/bin/sh", "-c", "echo here >/dev/null && stat -c %t:%T /dev/null && id -u")
    box.without_namespace("user")
    for ids in ("uidMappings", "gidMappings"):
        del box.linux[ids]
    runtime = runtimes_of(rootless_user)
    [unshare] = machine.need("unshare")
    argv = [unshare, "-Urm", *runtime.argv("run", "--bundle", str(box.save().path), new_id())]
    assert runtimes.call(argv, rootless_user).ok().out == "1:3\n0\n"


def test_root_of_a_user_namespace_keeps_state_with_the_user(rootless_user: User, runtimes_of: MakeRuntime) -> None:
    """Uid 0 in there may not write to /run: the default root is the one in XDG_RUNTIME_DIR, as runc's and crun's is."""
    runtime = runtimes_of(rootless_user)
    [unshare] = machine.need("unshare")
    done = runtimes.call([unshare, "-Ur", str(runtime.path), "list", "--quiet"], rootless_user).ok()
    assert done.out == ""
    done = runtimes.call([unshare, "-Ur", str(runtime.path), "state", new_id()], rootless_user)
    assert "does not exist" in done.err, str(done)
    box = Path(rootless_user.env()["XDG_RUNTIME_DIR"])
    assert not (box / runtime.name).exists() or not any((box / runtime.name).iterdir())


# ---------------------------------------------------------------- many


@pytest.mark.parametrize(("kind", "count"), [(users.ROOT, 300), (users.SUBIDS, 60), (users.ONE_ID, 60)])
def test_many_one_after_the_other_leave_nothing(
    kind: str, count: int, runtimes_of: MakeRuntime, bundle_of: MakeBundle
) -> None:
    user = users.get(kind)
    runtime = runtimes_of(user)
    box = bundle_of(user, "/bin/true")
    before = leaks.Snapshot.take()
    for _ in range(count):
        runtime.run(box).ok()
    assert leaks.settled(before) == {}


@pytest.mark.parametrize("kind", users.KINDS)
def test_fifty_at_once_leave_nothing(kind: str, runtimes_of: MakeRuntime, bundle_of: MakeBundle) -> None:
    user = users.get(kind)
    runtime = runtimes_of(user)
    box = bundle_of(user, "/bin/sh", "-c", "exit 5").save()
    before = leaks.Snapshot.take()
    log = machine.scratch() / "fifty"
    with open(log, "wb") as out:
        processes = [
            runtime.popen("run", "--bundle", str(box.path), new_id(), stdin=subprocess.DEVNULL, stdout=out, stderr=out)
            for _ in range(50)
        ]
        for process in processes:
            finished(process)
    said = log.read_text()
    log.unlink()
    assert [p.returncode for p in processes] == [5] * 50, said[-3000:]
    assert leaks.settled(before) == {}


def test_fifty_live_side_by_side(runtime: Runtime, bundle: MakeBundle) -> None:
    box = bundle("/probe", "--wait").save()
    ids = [runtime.start_detached(box) for _ in range(50)]
    pids = {runtime.pid(id) for id in ids}
    assert len(pids) == 50
    assert {runtime.status(id) for id in ids} == {"running"}
    for id in ids:
        runtime("delete", "--force", id).ok()
    assert runtime.ids() == []


def test_the_same_id_again_and_again(runtime: Runtime, bundle: MakeBundle) -> None:
    box = bundle("/bin/true")
    id = new_id()
    for _ in range(20):
        runtime.run(box, id=id).ok()


def test_two_of_the_same_id_at_once_make_one(runtime: Runtime, bundle: MakeBundle) -> None:
    """Whoever comes second is refused; nobody's container is damaged."""
    box = bundle("/probe", "--wait").save()
    for _ in range(5):
        id = new_id()
        log = machine.scratch() / "both"
        with open(log, "wb") as out:
            both = [
                runtime.popen("create", "--bundle", str(box.path), id, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
                for _ in range(2)
            ]
            for process in both:
                finished(process)
        said = log.read_text()
        log.unlink()
        assert sorted(p.returncode for p in both) == [0, 1], said
        assert "exists" in said
        assert runtime.status(id) == "created"
        runtime("delete", "--force", id).ok()
        assert runtime.ids() == []


@pytest.mark.parametrize("where", views.available())
def test_a_whole_life_in_each_view_of_the_cgroups(
    where: str, runtimes_of: MakeRuntime, bundle_of: MakeBundle, root: User
) -> None:
    runtime = runtimes_of(root, view=where)
    if runtime.name == "crun" and views.mode_of(where) == "hybrid":
        pytest.skip("not applicable: crun refuses hybrid hosts")
    id = runtime.create(bundle_of(root, "/probe", "--wait"))
    runtime("start", id).ok()
    assert parse_probe(runtime("exec", id, "/probe").ok().out)["pid"] != 1
    runtime.stop(id)
