# SPDX-License-Identifier: Apache-2.0
"""The commands as their callers call them: conmon's and containerd's argv, the words they look for, exit codes, logs.

What is in runc's language holds for runc as well: CTNR_OCI=/usr/sbin/runc runs it on that.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import runtimes
from support.bundles import MakeBundle, new_id
from support.runtimes import MakeRuntime, Result, Runtime, finished, parse_probe, read_line
from support.users import User


def ours(runtime: Runtime) -> None:
    if runtime.name != "ctnr":
        pytest.skip("not applicable: not in runc's language")


def can_list_processes(runtime: Runtime) -> None:
    if runtime.name == "runc" and runtime.user.rootless:
        pytest.skip("not applicable: runc lists processes by their cgroup only")


def last_error(log: Path) -> str:
    """What containerd's shim shows its user: the message of the last line of level error."""
    found = ""
    for line in log.read_text().splitlines():
        record = json.loads(line)
        assert {"msg", "level", "time"} <= set(record)
        if record["level"] == "error":
            found = record["msg"]
    return found


@pytest.fixture
def sleeper(runtime: Runtime, bundle: MakeBundle) -> str:
    """A running container that waits."""
    return runtime.start_detached(bundle("/probe", "--wait"))


# --- the callers' ways


def test_as_conmon_calls(runtime: Runtime, bundle: MakeBundle, work: Path, user: User) -> None:
    made = bundle("/probe", "--wait")
    id, pid_file, log = new_id(), work / "pidfile", work / "oci-log"
    for file in (pid_file.parent,):
        os.chmod(file, 0o777)
    logged = ("--log-format=json", "--log", str(log))
    runtime.quiet(*logged, "create", "--bundle", str(made.path), "--pid-file", str(pid_file), id).ok()
    pid = int(pid_file.read_text())
    state = runtime.state(id)
    assert (state["id"], state["pid"], state["status"]) == (id, pid, "created")
    assert state["bundle"] == str(made.path)
    runtime(*logged, "start", id).ok()
    assert runtime.status(id) == "running"
    process = dict(made.process, args=["/bin/sh", "-c", "exit 3"])
    exec_pid_file, document = work / "exec-pid", work / "exec.json"
    document.write_text(json.dumps(process))
    document.chmod(0o644)
    done = runtime.quiet(*logged, "exec", "--pid-file", str(exec_pid_file), "--process", str(document), "--detach", id)
    done.ok()
    runtime.wait_pid_gone(int(exec_pid_file.read_text()))
    runtime("kill", id, "9").ok()
    runtime.wait_status(id, "stopped")
    assert runtime.state(id)["pid"] == 0
    runtime("delete", "--force", id).ok()
    assert runtime.ids() == []
    assert not log.exists() or last_error(log) == ""


def test_as_containerd_calls(runtime: Runtime, bundle: MakeBundle, work: Path) -> None:
    can_list_processes(runtime)
    made = bundle("/probe", "--wait")
    os.chmod(work, 0o777)
    id, log = new_id(), work / "log.json"
    flags = ("--log", str(log), "--log-format", "json")
    runtime.quiet(*flags, "create", "--bundle", str(made.path), "--pid-file", str(work / "init.pid"), id).ok()
    runtime(*flags, "start", id).ok()
    pids = json.loads(runtime(*flags, "ps", "--format", "json", id).ok().out)
    assert pids == [runtime.pid(id)]
    # the shim stops a container twice, and understands the answer by these words
    runtime(*flags, "kill", id, "9").ok()
    runtime.wait_status(id, "stopped")
    done = runtime(*flags, "kill", id, "9")
    assert done.code == 1
    assert "container not running" in done.err
    assert "container not running" in last_error(log)
    runtime(*flags, "delete", id).ok()
    done = runtime(*flags, "delete", id)
    assert done.code == 1
    assert "does not exist" in last_error(log)
    runtime(*flags, "delete", "--force", id).ok()


def test_a_failure_is_in_the_log_and_on_stderr(runtime: Runtime, work: Path) -> None:
    os.chmod(work, 0o777)
    log = work / "log.json"
    done = runtime("--log", str(log), "--log-format", "json", "create", "--bundle", str(work / "nope"), new_id())
    assert done.code == 1
    assert "no such file or directory" in last_error(log)
    assert "no such file or directory" in done.error_line
    log.unlink()
    done = runtime("--log", str(log), "create", "--bundle", str(work / "nope"), new_id())
    assert re.fullmatch(r'time="\S+" level=error msg=".*no such file or directory"\n', log.read_text())
    # without a log the line of the log is what is said
    done = runtime("state", "no-such-container")
    assert re.fullmatch(r'time="\S+" level=error msg=".* does not exist"', done.error_line)
    assert runtime.ids() == []


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("nope", "executable file not found in $PATH"),
        ("/nope", "no such file or directory"),
        ("/not-executable", "permission denied"),
    ],
)
def test_words_that_make_podman_say_126_or_127(
    runtime: Runtime, bundle: MakeBundle, sleeper: str, program: str, words: str
) -> None:
    done = runtime.quiet("create", "--bundle", str(bundle(program).save().path), new_id())
    assert done.code == 1
    assert words in done.err
    done = runtime("exec", sleeper, program)
    assert done.code == 255
    assert words in done.err
    assert runtime.ids() == [sleeper]


def test_version(runtime: Runtime) -> None:
    lines = runtime("--version").ok().out.splitlines()
    assert re.fullmatch(r"\S+ version \d+\.\d+\.\d+\S*", lines[0])
    assert any(re.fullmatch(r"spec: 1\.\d+\.\d+\S*", line) for line in lines)


# --- state, list, ps


def test_state_as_runc_shows_it(runtime: Runtime, bundle: MakeBundle) -> None:
    made = bundle("/probe", "--wait")
    made.config["annotations"] = {"org.example.a": "1"}
    id = runtime.create(made)
    state = runtime.state(id)
    keys = ["ociVersion", "id", "pid", "status", "bundle", "rootfs", "created", "annotations", "owner"]
    assert [key for key in state if key in keys] == keys
    assert state["annotations"]["org.example.a"] == "1"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", state["created"])
    assert state["rootfs"] == str(made.root)
    assert runtime("state", id).out.startswith('{\n  "ociVersion": ')


def test_list(runtime: Runtime, bundle: MakeBundle, user: User) -> None:
    made = bundle("/probe", "--wait")
    first, second = runtime.start_detached(made), runtime.create(made)
    title, *rows = runtime("list").ok().out.splitlines()
    assert title.split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    found = {row.split()[0]: row.split() for row in rows}
    assert set(found) == {first, second}
    assert found[first][1:4] == [str(runtime.pid(first)), "running", str(made.path)]
    assert found[second][2] == "created"
    assert found[first][5] == user.name
    # the columns are under their titles
    assert [row.index(found[first][1]) for row in rows if row.startswith(first + " ")] == [title.index("PID")]
    assert sorted(runtime("list", "-q").ok().out.split()) == sorted([first, second])
    listed = {one["id"]: one for one in json.loads(runtime("list", "--format", "json").ok().out)}
    assert listed[first]["status"] == "running"
    assert listed[first]["owner"] == user.name
    done = runtime("list", "--format", "xml")
    assert done.code == 1


def test_ps(runtime: Runtime, sleeper: str) -> None:
    can_list_processes(runtime)
    pid = runtime.pid(sleeper)
    assert json.loads(runtime("ps", "-f", "json", sleeper).ok().out) == [pid]
    lines = runtime("ps", sleeper).ok().out.splitlines()
    assert lines[0].split()[:3] == ["UID", "PID", "PPID"]
    assert [line.split()[1] for line in lines[1:]] == [str(pid)]
    lines = runtime("ps", sleeper, "-e", "-o", "pid,args").ok().out.splitlines()
    assert [line.split() for line in lines] == [["PID", "COMMAND"], [str(pid), "/probe", "--wait"]]


# --- run


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 42", 42), ("kill -9 $$", 137), ("kill -15 $$", 143)]
)
def test_run_exits_as_its_program(runtime: Runtime, bundle: MakeBundle, script: str, code: int) -> None:
    made = bundle("/bin/sh", "-c", f"sh -c '{script}'; exit $?")
    assert runtime.run(made).code == code
    assert runtime.ids() == []


def test_run_passes_stdio(runtime: Runtime, bundle: MakeBundle) -> None:
    done = runtime.run(bundle("/bin/sh", "-c", "cat; echo err >&2"), stdin="in\n")
    assert (done.code, done.out, done.err) == (0, "in\n", "err\n")


def test_run_sends_signals_on(runtime: Runtime, bundle: MakeBundle) -> None:
    script = "trap 'echo usr1' USR1; trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done"
    made = bundle("/bin/sh", "-c", script).save()
    process = runtime.popen("run", "--bundle", str(made.path), new_id(), stdout=subprocess.PIPE)
    assert process.stdout
    assert read_line(process) == "ready"
    process.send_signal(signal.SIGUSR1)
    assert read_line(process) == "usr1"
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 9
    process.stdout.close()
    finished(process)
    assert runtime.ids() == []


def test_run_that_somebody_else_deletes(runtime: Runtime, bundle: MakeBundle) -> None:
    ours(runtime)
    made = bundle("/bin/sh", "-c", "echo ready; exec /probe --wait").save()
    id = new_id()
    process = runtime.popen("run", "--bundle", str(made.path), id, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout
    assert process.stderr
    assert read_line(process) == "ready"
    runtime("delete", "--force", id).ok()
    assert process.wait(20) == 137
    assert process.stderr.read() == b""
    for stream in (process.stdout, process.stderr):
        stream.close()
    finished(process)
    assert runtime.ids() == []


def test_run_keep(runtime: Runtime, bundle: MakeBundle) -> None:
    if "keep" not in runtime("run", "--help").out:
        pytest.skip("not applicable: this peer has no --keep")
    made = bundle("/bin/true")
    id = new_id()
    runtime.run(made, "--keep", id=id).ok()
    assert runtime.status(id) == "stopped"
    runtime("delete", id).ok()


def test_run_with_a_pid_file(runtime: Runtime, bundle: MakeBundle, work: Path) -> None:
    os.chmod(work, 0o777)
    id = runtime.start_detached(bundle("/probe", "--wait"), "--pid-file", str(work / "pid"))
    assert int((work / "pid").read_text()) == runtime.pid(id)


def test_run_with_another_config(runtime: Runtime, bundle: MakeBundle, work: Path) -> None:
    ours(runtime)
    made = bundle("/bin/false")
    other = dict(made.config, process=dict(made.process, args=["/bin/echo", "other"]))
    (made.path / "other.json").write_text(json.dumps(other))
    # a relative name is seen from the current directory, as crun has it
    done = runtime("run", "-f", "other.json", "--bundle", str(made.path), new_id(), cwd=made.path).ok()
    assert done.out == "other\n"
    (work / "x.json").write_text(json.dumps(other))
    done = runtime("run", "--config", "x.json", "--bundle", str(made.path), new_id(), cwd=work).ok()
    assert done.out == "other\n"


def test_run_of_the_current_directory(runtime: Runtime, bundle: MakeBundle) -> None:
    made = bundle("/bin/echo", "here").save()
    assert runtime("run", new_id(), cwd=made.path).ok().out == "here\n"


def test_preserved_descriptors(runtime: Runtime, bundle: MakeBundle, work: Path) -> None:
    (work / "file").write_text("kept\n")
    made = bundle("/bin/sh", "-c", "cat <&3").save()
    argv = runtime.argv("run", "--preserve-fds", "1", "--bundle", str(made.path), new_id())
    shell = ["/bin/sh", "-c", 'exec "$@" 3<"$0"', str(work / "file"), *argv]
    assert runtimes.call(shell, runtime.user).ok().out == "kept\n"


# --- kill, delete


@pytest.mark.parametrize("name", ["USR1", "SIGUSR1", "usr1", "sigusr1", "10"])
def test_signals_by_name(runtime: Runtime, bundle: MakeBundle, work: Path, name: str) -> None:
    made = bundle("/bin/sh", "-c", "trap 'exit 10' USR1; echo ready; while :; do sleep 0.05; done").save()
    id = new_id()
    process = runtime.popen("run", "--bundle", str(made.path), id, stdout=subprocess.PIPE)
    assert process.stdout
    assert read_line(process) == "ready"
    runtime("kill", id, name).ok()
    assert process.wait(20) == 10
    process.stdout.close()
    finished(process)


def test_kill_refuses_what_is_no_signal(runtime: Runtime, sleeper: str) -> None:
    done = runtime("kill", sleeper, "FOO")
    assert done.code == 1
    assert re.search(r'unknown signal \\?"FOO', done.err)
    assert runtime.status(sleeper) == "running"


def test_delete_refuses_a_running_container(runtime: Runtime, sleeper: str) -> None:
    done = runtime("delete", sleeper)
    assert done.code == 1
    assert f"cannot delete container {sleeper} that is not stopped: running" in done.err
    runtime("delete", "--force", sleeper).ok()
    assert runtime.ids() == []


def test_delete_force_of_what_is_not_there(runtime: Runtime) -> None:
    runtime("delete", "--force", new_id()).ok()
    done = runtime("delete", new_id())
    assert done.code == 1
    assert "does not exist" in done.err


# --- exec


def seen_by_exec(runtime: Runtime, id: str, *flags: str) -> dict[str, Any]:
    return parse_probe(runtime("exec", *flags, id, "/probe").ok().out)


def test_exec_has_the_containers_process(runtime: Runtime, bundle: MakeBundle) -> None:
    made = bundle("/probe", "--wait")
    made.process["cwd"] = "/work"
    made.process["env"].append("CONTAINERS=own")
    id = runtime.start_detached(made)
    seen = seen_by_exec(runtime, id)
    assert seen["cwd"] == "/work"
    assert "CONTAINERS=own" in seen["env"]
    seen = seen_by_exec(runtime, id, "--cwd", "/tmp", "-e", "A=1", "-e", "CONTAINERS=mine")
    assert seen["cwd"] == "/tmp"
    assert "A=1" in seen["env"]
    assert [entry for entry in seen["env"] if entry.startswith("CONTAINERS=")] == ["CONTAINERS=mine"]


def test_exec_as_somebody(runtimes_of: MakeRuntime, bundle_of: MakeBundle, root: User) -> None:
    runtime = runtimes_of(root)
    id = runtime.start_detached(bundle_of(root, "/probe", "--wait"))
    seen = seen_by_exec(runtime, id, "--user", "1000")
    assert (seen["uids"][0], seen["gids"][0]) == (1000, 0)
    seen = seen_by_exec(runtime, id, "-u", "1000:1001", "--additional-gids", "5", "--additional-gids", "6")
    assert (seen["uids"][0], seen["gids"][0], seen["groups"]) == (1000, 1001, [5, 6])


# CVE-2026-30892: a runtime took the first of these, and then all of them, for uid 0
@pytest.mark.parametrize("user_option", ["01", "", "4294967295", " 1", "-1", "1:", "1:01", "root"])
def test_exec_user_is_strict(runtimes_of: MakeRuntime, bundle_of: MakeBundle, root: User, user_option: str) -> None:
    runtime = runtimes_of(root)
    ours(runtime)
    id = runtime.start_detached(bundle_of(root, "/probe", "--wait"))
    done = runtime("exec", "--user", user_option, id, "/probe")
    assert (done.code, done.out) == (1, "")
    assert "is a whole number from 0 to 4294967294" in done.error_line


def test_exec_privileges(runtime: Runtime, bundle: MakeBundle) -> None:
    made = bundle("/probe", "--wait")
    made.process["capabilities"] = {}
    made.process["noNewPrivileges"] = False
    id = runtime.start_detached(made)

    def status(*flags: str) -> dict[str, str]:
        lines = seen_by_exec(runtime, id, *flags)["status"].splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    plain = status()
    assert (plain["NoNewPrivs"], int(plain["CapEff"], 16)) == ("0", 0)
    changed = status("--no-new-privs", "--cap", "CAP_KILL")
    assert changed["NoNewPrivs"] == "1"
    assert [int(changed[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")] == [0, 32, 32, 32, 0]


def test_exec_exit_codes(runtime: Runtime, sleeper: str) -> None:
    assert runtime("exec", sleeper, "/bin/sh", "-c", "exit 7").code == 7
    assert runtime("exec", sleeper, "/bin/sh", "-c", "kill -9 $$").code == 137
    assert runtime("exec", "no-such-container", "/bin/true").code == 255
    assert runtime("exec", sleeper).code != 0
    assert runtime("exec", "--cwd", "/nope", sleeper, "/bin/true").code == 255
    # -c is the program's: the options end with the container's name
    assert runtime("exec", sleeper, "sh", "-c", "echo --env").ok().out == "--env\n"


def test_exec_detached(runtime: Runtime, sleeper: str, work: Path) -> None:
    can_list_processes(runtime)
    os.chmod(work, 0o777)
    runtime.quiet("exec", "--detach", "--pid-file", str(work / "pid"), sleeper, "/probe", "--wait").ok()
    pid = int((work / "pid").read_text())
    assert Path(f"/proc/{pid}/cmdline").read_bytes() == b"/probe\0--wait\0"
    assert sorted(json.loads(runtime("ps", "-f", "json", sleeper).ok().out)) == sorted([pid, runtime.pid(sleeper)])
    # its parent has gone, so it is ours to reap; a zombie would hold the cgroup
    os.kill(pid, signal.SIGKILL)
    runtime.wait_pid_gone(pid)


def test_exec_sends_signals_on(runtime: Runtime, sleeper: str) -> None:
    script = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done"
    process = runtime.popen("exec", sleeper, "/bin/sh", "-c", script, stdout=subprocess.PIPE)
    assert process.stdout
    assert read_line(process) == "ready"
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 9
    process.stdout.close()
    finished(process)
    assert runtime.status(sleeper) == "running"


def test_exec_into_what_does_not_run(runtime: Runtime, bundle: MakeBundle) -> None:
    id = runtime.create(bundle("/bin/true"))
    runtime("start", id).ok()
    runtime.wait_status(id, "stopped")
    done = runtime("exec", id, "/bin/true")
    assert done.code == 255
    assert "cannot exec in a stopped container" in done.err


# --- documents


def test_a_bundle_made_by_spec_runs(runtime: Runtime, user: User, bundle: MakeBundle) -> None:
    made = bundle()
    (made.path / "config.json").unlink()
    os.chown(made.path, user.uid, user.gid) if os.getuid() == 0 else None
    flags = ["--rootless"] if user.rootless else []
    runtime("spec", "--bundle", str(made.path), *flags).ok()
    config = json.loads((made.path / "config.json").read_text())
    assert config["process"]["args"] == ["sh"]
    # its terminal needs one of ours; that is for test_tty.py
    config["process"] |= {"terminal": False, "args": ["cat", "/proc/self/comm"]}
    made.config = config
    assert runtime.run(made).ok().out == "cat\n"
    done = runtime("spec", "--bundle", str(made.path), *flags)
    assert done.code == 1
    assert "File config.json exists. Remove it first" in done.err


def test_features_are_json(runtime: Runtime) -> None:
    features = runtime("features").ok().json()
    assert features["ociVersionMin"] == "1.0.0"
    assert set(features["hooks"]) >= {"prestart", "createRuntime", "poststop"}
    assert features["linux"]["cgroup"]["v1"] is True


def test_a_plan_is_words(runtime: Runtime, bundle: MakeBundle) -> None:
    ours(runtime)
    made = bundle("/bin/true").save()
    done = runtime("plan", str(made.path)).ok()
    assert "process.args" in done.out
    assert len(done.out.splitlines()) > 10
    assert runtime.ids() == []
    # nothing has been made, so nobody is needed who might
    assert runtime("plan", cwd=made.path).ok().out == done.out


# --- `ctnr`


@pytest.fixture
def ctnr(ctnr_bin: Path, runtime: Runtime) -> Callable[..., Result]:
    ours(runtime)

    def call(*args: str, **how: Any) -> Result:
        return runtimes.call([str(ctnr_bin), "--root", str(runtime.state_root), *args], runtime.user, **how)

    return call


def test_ctnr_sees_the_same_containers(ctnr: Callable[..., Result], runtime: Runtime, sleeper: str) -> None:
    assert ctnr("state", sleeper).ok().json() == runtime.state(sleeper)
    assert sleeper in ctnr("ps").ok().out
    assert (
        ctnr("ps", "--format", "{{.ID}} {{.State}} {{.Pid}}").ok().out == f"{sleeper} running {runtime.pid(sleeper)}\n"
    )
    ctnr("kill", sleeper, "KILL").ok()
    runtime.wait_status(sleeper, "stopped")
    assert ctnr("ps", "-q").ok().out == ""
    assert ctnr("ps", "-aq").ok().out == f"{sleeper}\n"
    ctnr("delete", sleeper).ok()
    assert ctnr("state", sleeper).error_line == "ctnr: container does not exist"


def test_ctnr_exec_speaks_dockers_language(ctnr: Callable[..., Result], sleeper: str) -> None:
    assert ctnr("exec", "-eA=1", "-w", "/tmp", sleeper, "sh", "-c", "echo $A; pwd").ok().out == "1\n/tmp\n"
    # stdin is closed unless asked for
    assert ctnr("exec", sleeper, "cat", stdin="x").ok().out == ""
    assert ctnr("exec", "-i", sleeper, "cat", stdin="x").ok().out == "x"
    assert ctnr("exec", sleeper, "sh", "-c", "exit 42").code == 42
    assert ctnr("exec", sleeper, "nope").code == 127
    assert ctnr("exec", sleeper, "/not-executable").code == 126
    assert ctnr("exec", "no-such-container", "true").code == 125


def test_ctnr_exec_knows_the_containers_users(
    ctnr_bin: Path, runtimes_of: MakeRuntime, bundle_of: MakeBundle, root: User
) -> None:
    runtime = runtimes_of(root)
    ours(runtime)
    id = runtime.start_detached(bundle_of(root, "/probe", "--wait"))

    def exec_as(user: str) -> Result:
        return runtimes.call([str(ctnr_bin), "--root", str(runtime.state_root), "exec", "-u", user, id, "/probe"], root)

    def seen(user: str) -> tuple[int, int, list[int]]:
        probe = parse_probe(exec_as(user).ok().out)
        return probe["uids"][0], probe["gids"][0], probe["groups"]

    # of the root filesystem's own passwd and group
    assert seen("alice") == (1000, 1000, [10])
    assert seen("alice:daemon") == (1000, 1, [])
    assert seen("1000") == (1000, 1000, [10])
    assert seen("77:78") == (77, 78, [])
    done = exec_as("bob")
    assert done.code == 125
    assert "unable to find user bob" in done.error_line


def test_nothing_but_one_line_is_said(ctnr: Callable[..., Result], runtime: Runtime, sleeper: str) -> None:
    for args in (
        ["nope"],
        ["state"],
        ["state", "nope"],
        ["start", sleeper],
        ["create", "-b", "/nope", "x"],
        ["--nope"],
    ):
        done = ctnr(*args)
        assert done.code == 1, str(done)
        assert done.out == ""
        assert done.error_line.startswith("ctnr: ")
