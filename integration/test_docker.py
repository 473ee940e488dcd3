# SPDX-License-Identifier: Apache-2.0
"""dockerd with `--add-runtime`, and docker-compose: containers by ctnr-oci, as docker's users know them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import machine, runtimes, users
from support.bundles import new_id
from support.docker import IMAGE, Docker
from support.terminals import Behind

COMPOSE = """\
version: "2.4"
services:
  base: &base
    image: box:1
    runtime: ctnr
    network_mode: none
    command: ["sh", "-c", "echo base is up; exec sleep 1000"]
    volumes: ["shared:/shared"]
    healthcheck:
      test: ["CMD", "test", "-e", "/shared/well"]
      interval: 1s
      retries: 60
  writer:
    <<: *base
    command: ["sh", "-c", "touch /shared/well; exec sleep 1000"]
    healthcheck: {disable: true}
    read_only: true
    mem_limit: 64m
    cap_drop: [ALL]
  last:
    <<: *base
    command: ["sh", "-c", "echo last is up; ls /shared; exec sleep 1000"]
    healthcheck: {disable: true}
    depends_on:
      base: {condition: service_healthy}
volumes:
  shared:
"""


@pytest.fixture(scope="module")
def docker(_session: None) -> Iterator[Docker]:
    """One daemon for all tests, made before they look at what is left behind."""
    if machine.cgroup_mode() == "none":
        machine.missing("dockerd needs cgroups")
    found = Docker(machine.scratch())
    yield found
    found.close()
    shutil.rmtree(found.work)


@pytest.fixture
def box(docker: Docker) -> Iterator[Callable[..., str]]:
    """Makes containers in the background, `box("sleep", "1", flags=(...))`; they are removed at the end."""
    made = []

    def make(*words: str, flags: tuple[str, ...] = ()) -> str:
        name = new_id()
        made.append(name)
        docker.run("--detach", "--name", name, *flags, IMAGE, *words).ok()
        return name

    yield make
    for name in made:
        docker("rm", "--force", name)


def inspect(docker: Docker, name: str, template: str) -> str:
    return docker("inspect", "--format", template, name).ok().out.strip()


def until(check: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    assert machine.poll(check, seconds, every=0.1), what


def test_run(docker: Docker) -> None:
    done = docker.run("--rm", "-i", IMAGE, "sh", "-c", "cat; echo wrong >&2; exit 7", stdin="in\n")
    assert (done.code, done.out, done.err) == (7, "in\n", "wrong\n")


@pytest.mark.parametrize(("program", "code"), [("/not-executable", 126), ("/nowhere", 127), ("nowhere", 127)])
def test_exit_codes_of_what_cannot_be_executed(docker: Docker, program: str, code: int) -> None:
    """docker makes them of our words."""
    assert docker.run("--rm", IMAGE, program).code == code


def test_the_runtime_is_ours_and_the_sandbox_dockers(docker: Docker, box: Callable[..., str]) -> None:
    name = box("sleep", "1000", flags=("--cap-drop=all", "--security-opt=no-new-privileges", "--read-only"))
    assert inspect(docker, name, "{{.HostConfig.Runtime}}") == "ctnr"
    said = docker(
        "exec",
        name,
        "sh",
        "-c",
        "grep -E 'Seccomp:|NoNewPrivs|CapEff' /proc/self/status; touch /x 2>/dev/null || echo ro",
    )
    assert said.ok().out.split() == ["CapEff:", "0" * 16, "NoNewPrivs:", "1", "Seccomp:", "2", "ro"]


def test_exec(docker: Docker, box: Callable[..., str]) -> None:
    name = box("sleep", "1000")
    assert docker("exec", name, "sh", "-c", "exit 3").code == 3
    assert docker("exec", "-i", name, "cat", stdin="through\n").ok().out == "through\n"
    assert docker(
        "exec", "--user", "1000", "--workdir", "/tmp", "--env", "A=b", name, "sh", "-c", "id -u; pwd; echo $A"
    ).out == ("1000\n/tmp\nb\n")
    # docker 20.10 makes 126 of both, with runc too
    assert docker("exec", name, "nowhere").code in (126, 127)
    assert docker("exec", name, "/not-executable").code == 126


def test_a_terminal(docker: Docker, box: Callable[..., str]) -> None:
    name = box("sleep", "1000")
    for words in (("run", "--rm", "--network", "none", "-it", IMAGE, "sh"), ("exec", "-it", name, "sh")):
        shell = Behind(docker.argv(*words), users.me(), env=docker.env, rows=33, cols=111)
        try:
            # docker tells the size when the program runs already
            shell.send("tty; until [ \"$(stty size)\" = '33 111' ]; do :; done; echo si''zed\n")
            shell.expect("/dev/pts/")
            shell.expect("sized")
            shell.send("exit 5\n")
            assert shell.wait() == 5
        finally:
            shell.close()


def test_limits_update_and_stats(docker: Docker, box: Callable[..., str]) -> None:
    name = box(
        "sleep", "1000", flags=("--memory", "64m", "--memory-swap", "64m", "--pids-limit", "40", "--cpus", "0.5")
    )
    memory = "memory/memory.limit_in_bytes" if machine.cgroup_mode() != "v2" else "memory.max"
    limit = ("exec", name, "cat", f"/sys/fs/cgroup/{memory}")
    assert docker(*limit).ok().out == f"{64 << 20}\n"
    docker("update", "--memory", "80m", "--memory-swap", "80m", name).ok()
    assert docker(*limit).ok().out == f"{80 << 20}\n"
    found = json.loads(docker("stats", "--no-stream", "--format", "{{json .}}", name).ok().out)
    assert found["PIDs"] == "1"
    assert found["MemUsage"].endswith("80MiB")


def test_pause(docker: Docker, box: Callable[..., str]) -> None:
    name = box("sh", "-c", "while :; do sleep 0.05; done")
    docker("pause", name).ok()
    assert inspect(docker, name, "{{.State.Status}}") == "paused"
    assert "paused" in docker("exec", name, "true").err
    docker("unpause", name).ok()
    docker("exec", name, "true").ok()


def test_stop_kill_restart(docker: Docker, box: Callable[..., str]) -> None:
    name = box("sh", "-c", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done")
    until(lambda: docker("logs", name).out == "ready\n", "no log")
    docker("stop", "--time", "20", name).ok()
    assert inspect(docker, name, "{{.State.ExitCode}}") == "9"
    docker("start", name).ok()
    docker("kill", name).ok()
    assert docker("wait", name).ok().out == "137\n"
    docker("restart", "--time", "0", name).ok()
    assert inspect(docker, name, "{{.State.Status}}") == "running"


def test_an_oom_is_told(docker: Docker, box: Callable[..., str]) -> None:
    """dockerd hears of it from the shim, which watches the cgroup that we made."""
    if machine.cgroup_mode() == "v2" and "memory" not in Path("/sys/fs/cgroup/cgroup.controllers").read_text():
        pytest.skip("not applicable: no memory controller")
    eat = "x=a; while :; do x=$x$x; done"
    name = box("sh", "-c", eat, flags=("--memory", "16m", "--memory-swap", "16m"))
    assert docker("wait", name).ok().out.strip() in ("137", "2")
    until(lambda: inspect(docker, name, "{{.State.OOMKilled}}") == "true", "no oom told")


def test_top_and_cp(docker: Docker, box: Callable[..., str]) -> None:
    name = box("sleep", "12345")
    assert "sleep 12345" in docker("top", name).ok().out
    (docker.work / "file").write_text("of the host\n")
    docker("cp", str(docker.work / "file"), f"{name}:/file").ok()
    assert docker("exec", name, "cat", "/file").ok().out == "of the host\n"


def test_health_and_restart_policy(docker: Docker, box: Callable[..., str]) -> None:
    flags = ("--health-cmd", "test -e /well", "--health-interval", "200ms", "--health-retries", "2")
    name = box("sh", "-c", "touch /well; exec sleep 1000", flags=flags)
    until(lambda: inspect(docker, name, "{{.State.Health.Status}}") == "healthy", "never healthy")
    docker("exec", name, "rm", "/well").ok()
    until(lambda: inspect(docker, name, "{{.State.Health.Status}}") == "unhealthy", "never unhealthy")
    again = box("sh", "-c", "exit 3", flags=("--restart", "on-failure:2"))
    until(lambda: inspect(docker, again, "{{.RestartCount}} {{.State.Status}}") == "2 exited", "no restarts")


def test_build(docker: Docker) -> None:
    context = docker.work / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(
        f"FROM {IMAGE}\nRUN id -u >/made && chown 1000:1000 /made\nCMD stat -c %u /made\n"
    )
    name = new_id()
    done = runtimes.call(
        docker.argv("build", "--network", "none", "--tag", name, str(context)),
        users.me(),
        env={**docker.env, "DOCKER_BUILDKIT": "0"},
        timeout=120,
    )
    done.ok()
    assert docker.run("--rm", name).ok().out == "1000\n"
    docker("rmi", "--force", name).ok()


def test_compose(docker: Docker) -> None:
    """Several services, one waiting for another's health, a volume between them."""
    [compose] = machine.need("docker-compose")
    project = docker.work / "project"
    project.mkdir()
    (project / "docker-compose.yml").write_text(COMPOSE)

    def call(*words: str) -> runtimes.Result:
        argv = [compose, "--project-name", machine.TOKEN, *words]
        return runtimes.call(argv, users.me(), env=docker.env, cwd=project, timeout=120)

    try:
        call("up", "--detach").ok()
        said = call("logs", "--no-color").ok().out
        assert "base is up" in said
        until(lambda: "well" in call("logs", "--no-color", "last").out, "the volume is not shared")
        ids = call("ps", "--quiet").ok().out.split()
        assert len(ids) == 3
        assert {inspect(docker, id, "{{.HostConfig.Runtime}} {{.State.Status}}") for id in ids} == {"ctnr running"}
        assert call("exec", "-T", "writer", "sh", "-c", "touch /x || echo read-only").out == "read-only\n"
    finally:
        call("down", "--volumes", "--timeout", "0").ok()
    assert docker("ps", "--quiet").out == ""
