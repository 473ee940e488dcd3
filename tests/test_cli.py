# SPDX-License-Identifier: Apache-2.0
"""The commands, on a stand-in for the runtime: what they ask of it, what they print, what they exit with."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_runtime import Fake, fake  # noqa: F401  # the fixture

from ctnr import log
from ctnr.errors import CtnrError, SpecError, StateError, SyscallError

# runs a command line, gives exit code, stdout, stderr
Run = Callable[[str | list[str]], tuple[int, str, str]]


@pytest.fixture
def real(capfd: pytest.CaptureFixture[str]) -> Run:
    """Without the stand-in: for what asks nothing of the runtime."""

    def run(line: str | list[str]) -> tuple[int, str, str]:
        from ctnr.cli.boot import main

        code = main(line.split() if isinstance(line, str) else line)
        return (code, *capfd.readouterr())

    return run


@pytest.fixture
def run(fake: Fake, capfd: pytest.CaptureFixture[str]) -> Run:  # noqa: F811
    def run(line: str | list[str]) -> tuple[int, str, str]:
        from ctnr.cli.boot import main

        code = main(line.split() if isinstance(line, str) else line)
        return (code, *capfd.readouterr())

    return run


CREATE = {
    "root": None,
    "config_path": None,
    "console_socket": None,
    "pid_file": None,
    "preserve_fds": 0,
    "no_pivot": False,
    "no_new_keyring": False,
    "cgroup_manager": "cgroupfs",
    "rootless": None,
    "detach": True,
}


# --- the verbs


@pytest.mark.parametrize(
    ("line", "asked"),
    [
        ("create c", {}),
        # conmon
        (
            "--systemd-cgroup create --bundle /b --pid-file /p --no-pivot --no-new-keyring --console-socket /s c",
            {
                "bundle": "/b",
                "pid_file": "/p",
                "no_pivot": True,
                "no_new_keyring": True,
                "console_socket": "/s",
                "cgroup_manager": "systemd",
            },
        ),
        # containerd's shim
        (
            "--root /r --log LOG --log-format json create --bundle /b --pid-file /p -no-subreaper c",
            {"root": "/r", "bundle": "/b", "pid_file": "/p"},
        ),
        # ... with --rootless
        ("--rootless=true create c", {"rootless": True}),
        ("--rootless false create c", {"rootless": False}),
        # crun's tests
        (
            "--cgroup-manager disabled --root r create -f config.json --preserve-fds 2 c",
            {"root": "CWD/r", "config_path": "config.json", "preserve_fds": 2, "cgroup_manager": "disabled"},
        ),
    ],
)
@pytest.mark.parametrize("program", ["ctnr", "ctnr-oci", "/usr/bin/runc"])
def test_create(run: Run, fake: Fake, tmp_path: Path, program: str, line: str, asked: dict[str, Any]) -> None:  # noqa: F811
    line = line.replace("LOG", str(tmp_path / "log"))
    asked = {key: str(tmp_path) + value[3:] if str(value)[:3] == "CWD" else value for key, value in asked.items()}
    assert run(f"{program} {line}") == (0, "", "")
    assert fake.calls == [("create", {"id": "c", "bundle": "."} | CREATE | asked)]


def test_run_of_a_bundle(run: Run, fake: Fake) -> None:  # noqa: F811
    fake.exit_code = 42
    assert run("ctnr-oci run -b /b c") == (42, "", "")
    assert fake.calls == [
        ("create", CREATE | {"id": "c", "bundle": "/b", "detach": False}),
        ("start", {"id": "c"}),
        ("delete", {"id": "c", "force": True}),
    ]


def test_run_keep(run: Run, fake: Fake) -> None:  # noqa: F811
    assert run("ctnr-oci run --keep c") == (0, "", "")
    assert [call for call, _ in fake.calls] == ["create", "start"]


def test_run_detached(run: Run, fake: Fake) -> None:  # noqa: F811
    fake.exit_code = 42
    assert run("ctnr-oci run -d c") == (0, "", "")
    assert [call for call, _ in fake.calls] == ["create", "start"]
    assert fake.calls[0][1]["detach"] is True


def test_run_that_fails_leaves_nothing(run: Run, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    from ctnr.cli import oci

    def fail(self: object) -> None:
        raise CtnrError("no")

    monkeypatch.setattr(oci.Container, "start", fail)
    code, _, stderr = run("ctnr-oci run c")
    assert (code, stderr.rstrip().endswith(' level=error msg="no"')) == (1, True)
    assert [call for call, _ in fake.calls] == ["create", "delete"]


def test_start_and_kill(run: Run, fake: Fake) -> None:  # noqa: F811
    fake.add("c")
    for line in (
        "start c",
        "kill c",
        "kill c 9",
        "kill --all c SIGUSR1",
        "kill c -a usr2",
        "kill c rtmin+3",
        "kill c 0",
    ):
        assert run(f"ctnr-oci {line}") == (0, "", ""), line
    assert fake.calls[0] == ("start", {"id": "c"})
    kills = [(arguments["signal"], arguments["all"]) for _, arguments in fake.calls[1:]]
    assert kills == [(15, False), (9, False), (10, True), (12, True), (37, False), (0, False)]


@pytest.mark.parametrize("signal", ["65", "FOO", "SIG", "1x", "RTMIN+31", "''", "-9"])
def test_unknown_signals(run: Run, fake: Fake, signal: str) -> None:  # noqa: F811
    fake.add("c")
    code, _, stderr = run(f"ctnr-oci kill c {signal}")
    assert (code, fake.calls) == (1, [])
    assert ("unknown signal" if signal != "-9" else "unknown option") in stderr


def test_state(run: Run, fake: Fake) -> None:  # noqa: F811
    fake.add("c", annotations={"a": 'b"'})
    code, stdout, _ = run("ctnr-oci state c")
    assert code == 0
    assert stdout.startswith('{\n  "ociVersion": "1.3.0",\n  "id": "c",\n  "pid": 4711,\n')
    assert json.loads(stdout) == fake.states["c"]


def test_delete(run: Run, fake: Fake) -> None:  # noqa: F811
    fake.add("c")
    assert run("ctnr-oci delete c") == (0, "", "")
    assert run("ctnr-oci delete --force c") == (0, "", "")
    assert fake.calls == [("delete", {"id": "c", "force": False}), ("delete", {"id": "c", "force": True})]


def test_delete_of_none(run: Run) -> None:
    code, _, stderr = run("ctnr-oci delete c")
    assert (code, "container does not exist" in stderr) == (1, True)
    assert run("ctnr-oci delete --force c") == (0, "", "")


def test_list(run: Run, fake: Fake) -> None:  # noqa: F811
    assert run("ctnr-oci list") == (0, "ID          PID         STATUS      BUNDLE      CREATED     OWNER\n", "")
    assert run("ctnr-oci list -f json") == (0, "[]\n", "")
    fake.add("a-container")
    fake.add("b", "stopped")
    assert run("ctnr-oci list")[1] == (
        "ID            PID         STATUS      BUNDLE      CREATED                  OWNER\n"
        "a-container   4711        running     /bundle     2026-11-21T22:48:01.5Z   root\n"
        "b             0           stopped     /bundle     2026-11-21T22:48:01.5Z   root\n"
    )
    assert run("ctnr-oci list -q")[1] == "a-container\nb\n"
    assert json.loads(run("ctnr list --format=json")[1]) == list(fake.states.values())


def test_list_of_no_root(run: Run, tmp_path: Path) -> None:
    code, stdout, stderr = run(f"ctnr-oci --root {tmp_path}/nope list")
    assert (code, stdout) == (1, "")
    assert f'msg="{tmp_path}/nope: no such file or directory"' in stderr


def test_ps_of_a_container(run: Run, fake: Fake) -> None:  # noqa: F811
    fake.add("c")
    assert run("ctnr-oci ps --format json c") == (0, f"[1,{os.getpid()}]\n", "")
    code, stdout, stderr = run("ctnr-oci ps c")
    title, *lines = stdout.splitlines()
    assert (code, stderr, title.split()[:3]) == (0, "", ["UID", "PID", "PPID"])
    assert [line.split()[1] for line in lines] == ["1", str(os.getpid())]
    code, stdout, _ = run("ctnr-oci ps c -e -o pid,ppid")
    assert [line.split()[0] for line in stdout.splitlines()] == ["PID", "1", str(os.getpid())]


def test_ps_that_fails(run: Run, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    fake.add("c")
    code, stdout, stderr = run("ctnr-oci ps c -o comm")
    assert (code, stdout) == (1, "")
    assert "couldn't find PID field in ps output" in stderr
    code, stdout, stderr = run("ctnr-oci ps c --no-such-option")
    assert (code, stdout) == (1, "")
    assert "ps failed: error: unknown gnu long option" in stderr
    monkeypatch.setenv("PATH", os.fspath(Path.cwd()))
    code, stdout, stderr = run("ctnr-oci ps c")
    assert (code, stdout) == (1, "")
    assert "ps is not installed" in stderr


def test_plan(run: Run, fake: Fake) -> None:  # noqa: F811
    assert run("ctnr plan -f x.json /b") == (0, "1. clone3\n", "")
    assert run("ctnr-oci plan --no-pivot") == (0, "1. clone3\n", "")
    assert fake.calls == [
        ("plan", {"bundle": "/b", "config_path": "x.json", "no_pivot": False}),
        ("plan", {"bundle": ".", "config_path": None, "no_pivot": True}),
    ]


# --- exec


def exec_process(fake: Fake) -> dict[str, Any]:  # noqa: F811
    ((call, arguments),) = fake.calls
    assert call == "exec"
    process: dict[str, Any] = arguments["process"]
    return process


def test_exec_takes_the_process_of_the_container(run: Run, fake: Fake) -> None:  # noqa: F811
    fake.add("c")
    fake.exit_code = 3
    before = json.dumps(fake.config)
    assert run("ctnr-oci exec c id -u") == (3, "", "")
    ((_, arguments),) = fake.calls
    assert arguments == {
        "id": "c",
        "process": {
            "terminal": False,
            "cwd": "/work",
            "args": ["id", "-u"],
            "env": ["PATH=/bin", "TERM=xterm"],
            "user": {"uid": 5, "gid": 6, "additionalGids": [7]},
            "capabilities": fake.config["process"]["capabilities"],
        },
        "stdin": 0,
        "console_socket": None,
        "pid_file": None,
        "pidfd_socket": None,
        "preserve_fds": 0,
        "cgroup": "",
        "ignore_paused": False,
        "detach": False,
    }
    assert json.dumps(fake.config) == before


def test_exec_options(run: Run, fake: Fake) -> None:  # noqa: F811
    fake.add("c")
    before = json.dumps(fake.config)
    code, _, _ = run(
        "ctnr-oci exec -d --tty --cwd / --env A=1 -e PATH=/x -eB --user 8:9 -g 10 --additional-gids 11 --cap CAP_FOWNER "
        "-c CAP_KILL --no-new-privs --process-label L --apparmor P --cgroup c --ignore-paused "
        "--console-socket S --pid-file F --preserve-fds 1 c sh -c x"
    )
    assert code == 0
    ((_, arguments),) = fake.calls
    caps = ["CAP_KILL", "CAP_FOWNER"]
    assert arguments == {
        "id": "c",
        "process": {
            "terminal": True,
            "cwd": "/",
            "args": ["sh", "-c", "x"],
            "env": ["PATH=/x", "TERM=xterm", "A=1", "B"],
            "user": {"uid": 8, "gid": 9, "additionalGids": [7, 10, 11]},
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
            "noNewPrivileges": True,
            "selinuxLabel": "L",
            "apparmorProfile": "P",
        },
        "stdin": 0,
        "console_socket": "S",
        "pid_file": "F",
        "pidfd_socket": None,
        "preserve_fds": 1,
        "cgroup": "c",
        "ignore_paused": True,
        "detach": True,
    }
    assert json.dumps(fake.config) == before


def test_exec_cgroups(run: Run, fake: Fake) -> None:  # noqa: F811
    fake.add("c")
    assert run("ctnr-oci exec --cgroup cpu,cpuacct:/a --cgroup pids:b c id")[0] == 0
    ((_, arguments),) = fake.calls
    assert arguments["cgroup"] == {"cpu": "/a", "cpuacct": "/a", "pids": "b"}
    for wrong, why in (
        ("--cgroup a --cgroup b", "missing <controller>: prefix"),
        ("--cgroup :a", "empty <controller> prefix"),
        ("--cgroup cpu:a --cgroup cpu:b", "controller cpu specified multiple times"),
    ):
        code, _, stderr = run(f"ctnr-oci exec {wrong} c id")
        assert code == 1 and why in stderr


def test_exec_user_keeps_the_group(run: Run, fake: Fake) -> None:  # noqa: F811
    fake.add("c")
    run("ctnr-oci exec -u 8 c id")
    assert exec_process(fake)["user"] == {"uid": 8, "gid": 6, "additionalGids": [7]}


@pytest.mark.parametrize(
    "user", ["01", "", "4294967295", " 1", "1 ", "-1", "1:", ":1", "1:01", "1:2:3", "root", "+1", "1_0"]
)
def test_exec_refuses_odd_users(run: Run, fake: Fake, user: str) -> None:  # noqa: F811
    fake.add("c")
    result, _, stderr = run(["ctnr-oci", "exec", "--user", user, "c", "id"])
    assert (result, fake.calls) == (1, [])
    assert "id is a whole number from 0 to 4294967294" in stderr


def test_exec_finds_users_as_run_does(run: Run, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    from ctnr.engine import users

    monkeypatch.setattr(users, "find", lambda root, text: (1000, 1001, [len(root), len(text)]))
    fake.add("c")
    run("ctnr exec -u alice -g 5 c id")
    assert exec_process(fake)["user"] == {"uid": 1000, "gid": 1001, "additionalGids": [len("/proc/4711/root"), 5, 5]}


def test_exec_cap_is_ambient_only_beside_inheritable_ones(run: Run, fake: Fake) -> None:  # noqa: F811
    fake.add("c")
    fake.config["process"]["capabilities"] = {"inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"]}
    run("ctnr-oci exec --cap CAP_FOWNER c id")
    new = ["CAP_FOWNER"]
    assert exec_process(fake)["capabilities"] == {
        "bounding": new,
        "effective": new,
        "permitted": new,
        "inheritable": ["CAP_KILL"],
        "ambient": ["CAP_KILL", "CAP_FOWNER"],
    }


def test_exec_of_a_process_file(run: Run, fake: Fake) -> None:  # noqa: F811
    fake.add("c")
    process = {"cwd": "/", "args": ["true"], "user": {"uid": 1, "gid": 1}}
    Path("p.json").write_text(json.dumps(process))
    for program in ("ctnr", "ctnr-oci"):
        fake.calls.clear()
        assert run(f"{program} exec --pid-file F --process p.json --detach c") == (0, "", "")
        ((_, arguments),) = fake.calls
        assert (arguments["process"], arguments["stdin"], arguments["detach"]) == (process, 0, True)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("{", "p.json: line 1 column 2: "),
        ("[]", "p.json: not a JSON object"),
        (None, "p.json: no such file or directory"),
    ],
)
def test_exec_of_a_bad_process_file(run: Run, fake: Fake, document: str | None, message: str) -> None:  # noqa: F811
    fake.add("c")
    if document is not None:
        Path("p.json").write_text(document)
    code, _, stderr = run("ctnr-oci exec -p p.json c")
    assert (code, fake.calls) == (255, [])
    assert f'msg="exec failed: {message}' in stderr


def test_exec_without_a_command(run: Run, fake: Fake) -> None:  # noqa: F811
    fake.add("c")
    assert "COMMAND or --process is missing" in run("ctnr-oci exec c")[2]
    assert "there is a --process" in run("ctnr-oci exec -p p.json c true")[2]


def test_exec_as_docker_has_it(run: Run, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setitem(os.environ, "HERE", "yes")
    fake.add("c")
    Path("env").write_text("# comment\nA=from file\n\n  B=2\nABSENT\n")
    fake.exit_code = 7
    code, _, _ = run("ctnr exec --env-file env -e A=1 -w /tmp --privileged c true")
    assert code == 7
    process = exec_process(fake)
    assert process["env"] == ["PATH=/bin", "TERM=xterm", "A=1", "B=2"]
    assert process["cwd"] == "/tmp"
    assert len(process["capabilities"]["effective"]) == 41
    # no -i: stdin is empty
    stdin = fake.calls[0][1]["stdin"]
    assert os.readlink(f"/proc/self/fd/{stdin}") == "/dev/null"
    os.close(stdin)
    fake.calls.clear()
    run("ctnr exec -i -e HERE -e ABSENT c true")
    assert fake.calls[0][1]["stdin"] == 0


def test_exec_environment_errors_name_the_line(run: Run, fake: Fake) -> None:  # noqa: F811
    fake.add("c")
    Path("env").write_text("A=1\n=2\n")
    code, _, stderr = run("ctnr exec --env-file env c true")
    assert (code, stderr) == (125, "ctnr: env line 2: '=2' is not NAME=VALUE (see 'ctnr exec --help')\n")
    Path("env").write_bytes(b"A=\xff\n")
    assert run("ctnr exec --env-file env c true")[2].startswith("ctnr: env: not UTF-8 (byte 2)")
    assert run("ctnr exec --env-file nope c true")[2] == "ctnr: nope: no such file or directory\n"
    assert run("ctnr exec -e =1 c true")[2].startswith("ctnr: -e: '=1' is not NAME=VALUE")


def test_exec_gives_a_terminal_our_size(run: Run, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    from ctnr.cli import io

    fake.add("c")
    monkeypatch.setattr(io, "window_size", lambda: b"\x21\0\x6f\0\0\0\0\0")
    run("ctnr-oci exec -t c sh")
    assert exec_process(fake)["consoleSize"] == {"height": 33, "width": 111}


# --- docker's ps


def test_docker_ps(run: Run, fake: Fake) -> None:  # noqa: F811
    def before(seconds: int) -> str:
        return time.strftime("%Y-%m-%dT%H:%M:%S.25Z", time.gmtime(time.time() - seconds))

    fake.add("web", created=before(3 * 3600 + 5), source="host:")
    fake.add("0123456789abcdef" * 4, "paused", created=before(330))
    fake.add("old", "stopped", created=before(86400))
    rows = [re.split(" {3,}", line) for line in run("ctnr ps")[1].splitlines()]
    # the newest first
    assert rows == [
        ["CONTAINER ID", "SOURCE", "COMMAND", "CREATED", "STATUS"],
        ["0123456789ab", "rootfs", '"sh -c while true; do …"', "5 minutes ago", "Up (Paused)"],
        ["web", "host:", '"sh -c while true; do …"', "3 hours ago", "Up"],
    ]
    assert run("ctnr ps -q")[1] == "0123456789ab\nweb\n"
    assert run("ctnr ps -a -q --no-trunc")[1].splitlines() == ["0123456789abcdef" * 4, "web", "old"]
    assert run(["ctnr", "ps", "-a", "--format", "{{.ID}} {{ .State }}"])[1] == (
        "0123456789ab paused\nweb running\nold exited\n"
    )
    stdout = run("ctnr ps --no-trunc --format json")[1]
    web = [json.loads(line) for line in stdout.splitlines()][1]
    assert web["Command"] == '"sh -c while true; do date; done"'
    assert (web["Names"], web["Pid"], web["Status"]) == ("web", 4711, "Up")
    assert run(["ctnr", "ps", "--format", r"table {{.Names}}\t{{json .State}}"])[1].startswith("NAMES ")


@pytest.mark.parametrize(
    "format", ["{{.Nope}}", "{{ID}}", "{{.ID", "{{}}", "{{json}}", "{{upper .ID}}", "{{json .ID .ID}}"]
)
def test_docker_ps_refuses_other_templates(run: Run, format: str) -> None:
    code, _, stderr = run(["ctnr", "ps", "--format", format])
    assert code == 1
    assert stderr.startswith("ctnr: --format: {{")
    assert "one of .ID, .Image, " in stderr


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-5, "Less than a second"),
        (0.9, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (120, "2 minutes"),
        (3599, "59 minutes"),
        (3600, "About an hour"),
        (47 * 3600, "47 hours"),
        (48 * 3600, "2 days"),
        (14 * 86400, "2 weeks"),
        (63 * 86400, "2 months"),
        (800 * 86400, "2 years"),
    ],
)
def test_durations_in_dockers_words(seconds: float, words: str) -> None:
    from ctnr.cli.containers import ago

    assert ago(seconds) == words


# --- spec


def test_spec_is_not_overwritten(run: Run) -> None:
    assert run("ctnr-oci spec") == (0, "", "")
    before = Path("config.json").read_text()
    assert json.loads(before)["ociVersion"] == "1.3.0"
    code, _, stderr = run("ctnr-oci spec")
    assert (code, 'msg="File config.json exists. Remove it first"' in stderr) == (1, True)
    assert Path("config.json").read_text() == before


def test_spec_elsewhere(run: Run, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    assert run("ctnr spec --rootless -b b") == (0, "", "")
    config = json.loads((tmp_path / "b/config.json").read_text())
    assert {"type": "user"} in config["linux"]["namespaces"]
    assert config["linux"]["uidMappings"] == [{"containerID": 0, "hostID": os.geteuid(), "size": 1}]
    (tmp_path / "x.json").write_text("x" * 100000)
    assert run("ctnr spec -f x.json") == (0, "", "")
    json.loads((tmp_path / "x.json").read_text())
    assert run("ctnr spec -b nope")[2] == "ctnr: nope/config.json: no such file or directory\n"


# --- errors and exit codes


ERRORS = [
    (StateError("container not running"), "container not running", 125),
    (SpecError("process.cwd", "must be absolute"), "process.cwd: must be absolute", 125),
    (SyscallError("exec", 2, "/x", exit_code=127), "exec /x: no such file or directory", 127),
    (PermissionError(13, "Permission denied", "/x"), "/x: permission denied", 125),
    (OSError(22, "Invalid argument"), "invalid argument", 125),
    (OSError(18, "Invalid cross-device link", "/x", None, "/y"), "/x -> /y: invalid cross-device link", 125),
    (OSError("odd"), "odd", 125),
]


@pytest.mark.parametrize(("error", "message", "engine_code"), ERRORS)
def test_an_error_is_one_line(run: Run, fake: Fake, error: Exception, message: str, engine_code: int) -> None:  # noqa: F811
    fake.add("c")
    fake.error = error
    assert run("ctnr start c") == (1, "", f"ctnr: {message}\n")
    code, stdout, stderr = run("ctnr-oci start c")
    assert (code, stdout, stderr.count("\n")) == (1, "", 1)
    assert stderr.startswith('time="')
    assert stderr.endswith(f' level=error msg="{message}"\n')
    assert run("ctnr exec c x") == (engine_code, "", f"ctnr: {message}\n")
    code, stdout, stderr = run("ctnr-oci exec c x")
    assert (code, stdout, stderr.count("\n")) == (255, "", 1)
    assert stderr.endswith(f' level=error msg="exec failed: {message}"\n')


@pytest.mark.parametrize(("program", "said"), [("ctnr", "ctnr: no\n"), ("ctnr-oci", "no\n")])
def test_an_error_is_in_the_log_as_well(run: Run, fake: Fake, tmp_path: Path, program: str, said: str) -> None:  # noqa: F811
    fake.add("c")
    fake.error = CtnrError("no")
    log = tmp_path / "log"
    assert run(f"{program} --log {log} --log-format json start c") == (1, "", said)
    line = log.read_text()
    assert line.count("\n") == 1
    assert list(json.loads(line)) == ["msg", "level", "time"]
    assert (json.loads(line)["msg"], json.loads(line)["level"]) == ("no", "error")
    log.unlink()
    assert run(f"{program} --log file:{log} start c") == (1, "", said)
    assert log.read_text().endswith(' level=error msg="no"\n')


def test_warnings(run: Run, fake: Fake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # noqa: F811
    from ctnr.cli import oci

    monkeypatch.setattr(oci.Container, "start", lambda self: log.warning("odd\n"))
    fake.add("c")
    assert run("ctnr start c") == (0, "", "ctnr: warning: odd\\n\n")
    assert run("ctnr --log-level error start c") == (0, "", "")
    stderr = run("ctnr-oci start c")[2]
    assert (stderr.startswith('time="'), stderr.endswith(' level=warning msg="odd\\n"\n')) == (True, True)
    assert run(f"ctnr --log {tmp_path}/log start c") == (0, "", "")
    assert (tmp_path / "log").read_text().endswith(' level=warning msg="odd\\n"\n')


def test_a_log_that_cannot_be_opened(run: Run, fake: Fake) -> None:  # noqa: F811
    assert run("ctnr --log nope/x state c") == (1, "", "ctnr: nope/x: no such file or directory\n")


@pytest.mark.parametrize("program", ["ctnr", "ctnr-oci"])
def test_what_errors_say_cannot_move_the_cursor(run: Run, fake: Fake, program: str) -> None:  # noqa: F811
    fake.add("c")
    fake.error = CtnrError("a\x1b[2Jb\nc\u202ed")
    _, _, stderr = run(f"{program} start c")
    assert r"a\u001b[2Jb\nc\u202ed" in stderr
    assert stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("ctnr nope", 1, "unknown command 'nope' (see 'ctnr --help')"),
        ("ctnr --nope", 1, "unknown option --nope (see 'ctnr --help')"),
        ("ctnr create", 1, "CONTAINER is missing (see 'ctnr create --help')"),
        ("ctnr create --nope c", 1, "unknown option --nope (see 'ctnr create --help')"),
        ("ctnr state a b", 1, "unexpected argument 'b' (see 'ctnr state --help')"),
        ("ctnr exec --nope c", 125, "unknown option --nope (see 'ctnr exec --help')"),
        ("ctnr ps c", 1, "unexpected argument 'c' (see 'ctnr ps --help')"),
        ("ctnr pause", 1, "CONTAINER is missing (see 'ctnr pause --help')"),
        ("ctnr --root / state c", 1, "--root may not be / (see 'ctnr --help')"),
        (
            "ctnr --log journald: state c",
            1,
            "--log journald: needs a name of letters, as in journald:NAME (see 'ctnr --help')",
        ),
        (
            "ctnr --log syslog:a]b state c",
            1,
            "--log syslog: needs a name of letters, as in syslog:NAME (see 'ctnr --help')",
        ),
        (
            "ctnr --systemd-cgroup --cgroup-manager cgroupfs state c",
            1,
            "--systemd-cgroup contradicts --cgroup-manager cgroupfs (see 'ctnr --help')",
        ),
    ],
)
def test_usage_errors(run: Run, line: str, code: int, message: str) -> None:
    assert run(line) == (code, "", f"ctnr: {message}\n")
    result, stdout, stderr = run(line.replace("ctnr ", "ctnr-oci ", 1))
    if "ctnr ps" not in line:
        assert (result, stdout, stderr.count("\n")) == (1, "", 1)


def test_an_unexpected_exception_shows_no_traceback(run: Run, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    fake.add("c")
    fake.error = KeyError("x\n")
    expected = "internal error, please report it: KeyError: 'x\\\\n' (CTNR_DEBUG=1 shows where)"
    assert run("ctnr start c") == (1, "", f"ctnr: {expected.replace(chr(92) * 2, chr(92))}\n")
    assert run("ctnr exec c x")[0] == 125
    assert run("ctnr-oci exec c x")[0] == 255
    for line in ("ctnr --debug start c", "CTNR_DEBUG"):
        if line == "CTNR_DEBUG":
            monkeypatch.setenv("CTNR_DEBUG", "1")
            line = "ctnr start c"
        _, _, stderr = run(line)
        assert stderr.startswith("Traceback (most recent call last):\n")
        assert stderr.endswith("ctnr: internal error, please report it: KeyError: 'x\\n'\n")


# --- help, version


@pytest.mark.parametrize("program", ["ctnr", "ctnr-oci"])
def test_help(real: Run, program: str) -> None:
    code, stdout, stderr = real(f"{program} --help")
    assert (code, stderr) == (0, "")
    assert stdout.startswith(f"Usage: {program} [OPTIONS] COMMAND")
    verbs = (
        "checkpoint completion create delete events exec features kill list mounts pause plan ps restore resume run spec start "
        "state update"
    ).split()
    if program == "ctnr":
        verbs = sorted([*verbs, *"history image images load login logout pull push rmi save tag".split()])
    commands = stdout.split("Commands:\n")[1].split("\n\n")[0].splitlines()
    assert [line.split()[0] for line in commands] == verbs
    assert real(f"{program} help") == real(program) == real(f"{program} -h") == (0, stdout, "")
    for verb in verbs:
        code, stdout, stderr = real(f"{program} {verb} --help")
        assert (code, stderr) == (0, "")
        assert stdout.startswith(f"Usage: {program} {verb} [OPTIONS]")
        assert max(len(line) for line in stdout.splitlines()) <= 100
        assert real(f"{program} help {verb}") == (0, stdout, "")


@pytest.mark.parametrize(
    ("verb", "line"),
    [
        ("delete", "delete CONTAINER"),
        ("exec", "exec CONTAINER cmd"),
        ("mounts", "mounts [add|remove] CONTAINER FILE"),
        ("start", "start CONTAINER"),
    ],
)
def test_by_the_name_of_crun_its_usage_lines(real: Run, verb: str, line: str) -> None:
    assert real(f"crun {verb} --help")[1].startswith(f"Usage: crun [OPTION...] {line}\n")
    assert real("crun --version")[1].startswith("crun version 0.")


def test_version(run: Run) -> None:
    code, stdout, _ = run("ctnr-oci --version")
    assert code == 0
    # what podman, docker and containerd look for
    assert stdout.splitlines()[0].startswith("ctnr-oci version 0.")
    assert stdout.splitlines()[1] == "spec: 1.3.0"
    assert run("ctnr-oci -v") == (0, stdout, "")
    assert run("ctnr version") == run("ctnr --version")


# --- the process around it


def script(*argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
    code = "import sys; from ctnr.cli.boot import script; script(sys.argv[1:])"
    return subprocess.run([sys.executable, "-P", "-c", code, *argv], text=True, timeout=60, check=False, **options)


def test_the_process_exits_with_the_code() -> None:
    done = script("ctnr", "nope", capture_output=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "ctnr: unknown command 'nope' (see 'ctnr --help')\n"


def test_output_that_nobody_reads() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = script("ctnr", "--help", stdout=write_end, stderr=subprocess.PIPE)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (-13, "")


def test_output_that_cannot_be_written() -> None:
    with open("/dev/full", "w") as full:
        done = script("ctnr", "--help", stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (1, "ctnr: no space left on device\n")


def test_closed_standard_descriptors_are_not_reused() -> None:
    code = (
        "import os; os.close(0); os.close(1); os.close(2)\n"
        "from ctnr.cli import boot\n"
        "boot.main = lambda argv: 0 if [os.readlink(f'/proc/self/fd/{i}') for i in (0, 1, 2)] == ['/dev/null'] * 3 else 9\n"
        "boot.script(['ctnr'])"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_interrupt_dies_of_the_signal() -> None:
    code = (
        "import os, signal\n"
        "from ctnr.cli import boot\n"
        "boot._version = lambda g: os.kill(os.getpid(), signal.SIGINT)\n"
        "boot.script(['ctnr', '--version'])"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=60, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (-2, "", "")


@pytest.mark.parametrize("pattern", ["a{99999999999}", "(" * 3000 + ")" * 3000, "[[a", "("])
def test_a_regular_expression_that_python_chokes_on_is_one_line(pattern: str, real: Run, tmp_path: Path) -> None:
    code, out, err = real(["ctnr-oci", "--root", str(tmp_path), "delete", "--regex", pattern])
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "invalid regular expression" in err
