# SPDX-License-Identifier: Apache-2.0
"""podman, root's and a user's, with ctnr-oci as its only runtime: the life of a container as its users know it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator

import pytest
from support import machine, runtimes, users
from support.bundles import new_id
from support.podman import IMAGE, Podman, remove_cgroups
from support.terminals import Behind

TICKS = "i=0; while sleep 0.05; do i=$((i+1)); echo tick $i; done"

# A kube document as `podman kube generate` writes them
KUBE = """\
apiVersion: v1
kind: Pod
metadata:
  name: {pod}
spec:
  hostNetwork: true
  restartPolicy: Never
  containers:
  - name: one
    image: {image}
    command: ["sh", "-c", "echo from one; exec sleep 100"]
    securityContext:
      readOnlyRootFilesystem: true
      capabilities:
        drop: [ALL]
  - name: two
    image: {image}
    command: ["sh", "-c", "echo from two; exec sleep 100"]
"""


@pytest.fixture(scope="module", params=(users.ROOT, users.SUBIDS))
def podman(request: pytest.FixtureRequest, _session: None) -> Iterator[Podman]:
    """Made once: its storage and its pause process are there before a test looks at what is left behind."""
    found = Podman(machine.scratch(), users.get(request.param))
    yield found
    found.close()
    shutil.rmtree(found.work)


@pytest.fixture(autouse=True)
def tidy(no_leaks: None) -> Iterator[None]:
    """podman never removes its parent of all cgroups, nor, on v1, a pod's where it asked for none; runc leaves them, too."""
    yield
    remove_cgroups("libpod_parent")


@pytest.fixture
def box(podman: Podman) -> Iterator[Callable[..., str]]:
    """Makes containers in the background: `box("sh", "-c", ...)`, or with podman's flags first; they are removed at the end."""
    made = []

    def make(*words: str, flags: tuple[str, ...] = ()) -> str:
        name = new_id()
        podman.run("--detach", "--name", name, *flags, IMAGE, *words).ok()
        made.append(name)
        return name

    yield make
    for name in made:
        podman("rm", "--force", "--time", "0", name).ok()


def state(podman: Podman, name: str) -> str:
    return podman("inspect", "--format", "{{.State.Status}}", name).ok().out.strip()


def until(check: Callable[[], bool], what: str) -> None:
    assert machine.poll(check, 20.0, every=0.1), what


def test_run_says_what_the_program_says(podman: Podman) -> None:
    done = podman.run("--rm", "-i", IMAGE, "sh", "-c", "cat; echo wrong >&2; exit 7", stdin="in\n")
    assert (done.code, done.out, done.err) == (7, "in\n", "wrong\n")


@pytest.mark.parametrize(("program", "code"), [("/not-executable", 126), ("/etc", 126), ("/nowhere", 127)])
def test_exit_codes_of_what_cannot_be_executed(podman: Podman, program: str, code: int) -> None:
    """podman makes them of our words."""
    assert podman.run("--rm", IMAGE, program).code == code


def test_the_runtime_is_ours(podman: Podman, box: Callable[..., str]) -> None:
    name = box("sleep", "100")
    assert podman("inspect", "--format", "{{.OCIRuntime}}", name).ok().out.strip() == "ctnr-oci"


def test_exec(podman: Podman, box: Callable[..., str]) -> None:
    name = box("sleep", "100", flags=("--env", "A=b"))
    assert podman("exec", name, "sh", "-c", "echo $A; exit 3").code == 3
    said = podman(
        "exec", "--user", "1000:1000", "--workdir", "/tmp", "--env", "X=y", name, "sh", "-c", "id -u; pwd; echo $X"
    )
    assert said.ok().out == "1000\n/tmp\ny\n"
    assert podman("exec", "-i", name, "cat", stdin="through\n").ok().out == "through\n"
    assert podman("exec", name, "/nowhere").code == 127
    assert podman("exec", name, "/not-executable").code == 126
    podman("exec", "--detach", name, "touch", "/tmp/detached").ok()
    until(lambda: podman("exec", name, "test", "-e", "/tmp/detached").code == 0, "exec --detach did nothing")


def terminal(podman: Podman, *words: str) -> Behind:
    return Behind(podman.argv(*words), podman.user, env=podman.env, rows=33, cols=111)


def test_a_terminal(podman: Podman, box: Callable[..., str]) -> None:
    """run -it and exec -it: a terminal of its own, the caller's size, the exit code."""
    name = box("sleep", "100")
    for words in (("run", "--rm", "--network", "none", "-it", IMAGE, "sh"), ("exec", "-it", name, "sh")):
        shell = terminal(podman, *words)
        try:
            shell.send("tty; stty size\n")
            shell.expect("/dev/pts/")
            shell.expect("33 111")
            shell.send("exit 5\n")
            assert shell.wait() == 5
        finally:
            shell.close()


def test_logs_and_attach(podman: Podman, box: Callable[..., str]) -> None:
    name = box("sh", "-c", TICKS)
    until(lambda: "tick 3\n" in podman("logs", name).ok().out, "no logs")
    assert podman("logs", "--tail", "1", name).ok().out.startswith("tick ")


def test_stop_says_how_it_ended(podman: Podman, box: Callable[..., str]) -> None:
    name = box("sh", "-c", "trap 'exit 9' TERM; while :; do sleep 0.05; done")
    podman("stop", "--time", "20", name).ok()
    assert podman("wait", name).ok().out == "9\n"
    podman("start", name).ok()
    assert state(podman, name) == "running"
    podman("kill", "--signal", "KILL", name).ok()
    assert podman("wait", name).ok().out == "137\n"
    podman("restart", "--time", "0", name).ok()
    assert state(podman, name) == "running"


def test_top_and_stats(podman: Podman, box: Callable[..., str]) -> None:
    name = box("sleep", "100")
    assert "sleep 100" in podman("top", name, "args").ok().out
    if podman.user.rootless and machine.cgroup_mode() != "v2":
        return  # podman itself refuses stats of users without cgroup v2
    found = json.loads(podman("stats", "--no-stream", "--format", "json", name).ok().out)
    assert found[0]["pids"] == "1"


def test_pause(podman: Podman, box: Callable[..., str]) -> None:
    if podman.user.rootless and machine.cgroup_mode() != "v2":
        pytest.skip("not applicable: podman pauses a user's containers on cgroup v2 only")
    name = box("sh", "-c", TICKS)
    podman("pause", name).ok()
    assert state(podman, name) == "paused"
    assert podman("exec", name, "true").code == 255
    podman("unpause", name).ok()
    assert state(podman, name) == "running"
    podman("exec", name, "true").ok()


def test_limits_and_update(podman: Podman, box: Callable[..., str]) -> None:
    if podman.user.rootless:
        pytest.skip("not applicable: no cgroup was delegated to the user")
    name = box("sleep", "100", flags=("--memory", "64m", "--pids-limit", "40", "--cpu-shares", "512"))
    memory = "memory/memory.limit_in_bytes" if machine.cgroup_mode() != "v2" else "memory.max"
    asked = podman("exec", name, "cat", f"/sys/fs/cgroup/{memory}")
    assert asked.ok().out == f"{64 << 20}\n"
    podman("update", "--memory", "80m", name).ok()
    assert podman("exec", name, "cat", f"/sys/fs/cgroup/{memory}").ok().out == f"{80 << 20}\n"


def test_healthcheck(podman: Podman, box: Callable[..., str]) -> None:
    """Run by hand: without systemd nobody runs it in intervals."""
    flags = ("--health-cmd", "test -e /tmp/well", "--health-interval", "disable")
    name = box("sh", "-c", "touch /tmp/well; exec sleep 100", flags=flags)
    until(lambda: podman("healthcheck", "run", name).code == 0, "never healthy")
    podman("exec", name, "rm", "/tmp/well").ok()
    assert podman("healthcheck", "run", name).code == 1


def test_a_pod_shares_its_namespaces(podman: Podman) -> None:
    pod = new_id()
    podman("pod", "create", "--name", pod, "--network", "none", "--share", "ipc,uts,net,pid").ok()
    try:
        podman("run", "--detach", "--pod", pod, "--name", f"{pod}-a", IMAGE, "sleep", "12345").ok()
        seen = podman(
            "run",
            "--rm",
            "--pod",
            pod,
            IMAGE,
            "sh",
            "-c",
            "ps; hostname; readlink /proc/1/ns/net; readlink /proc/self/ns/net",
        )
        lines = seen.ok().out.splitlines()
        assert any("sleep 12345" in line for line in lines), lines
        assert pod in lines
        assert lines[-1] == lines[-2]
        if not podman.user.rootless or machine.cgroup_mode() == "v2":
            podman("pod", "pause", pod).ok()
            podman("pod", "unpause", pod).ok()
        podman("pod", "stop", "--time", "0", pod).ok()
    finally:
        podman("pod", "rm", "--force", "--time", "0", pod).ok()


def test_kube_play(podman: Podman) -> None:
    pod = new_id()
    document = podman.work / "pod.yaml"
    document.write_text(KUBE.format(pod=pod, image=IMAGE))
    podman("play", "kube", str(document)).ok()
    try:
        for name in ("one", "two"):
            until(lambda name=name: podman("logs", f"{pod}-{name}").out == f"from {name}\n", name)  # type: ignore[misc]
        assert podman(
            "exec", f"{pod}-one", "sh", "-c", "touch /x 2>/dev/null || grep CapEff /proc/self/status"
        ).ok().out.split() == [
            "CapEff:",
            "0" * 16,
        ]
    finally:
        podman("play", "kube", "--down", str(document)).ok()


def test_build(podman: Podman) -> None:
    context = podman.work / "context"
    context.mkdir(exist_ok=True)
    (context / "file").write_text("from the context\n")
    (context / "Dockerfile").write_text(
        f"FROM {IMAGE}\nCOPY file /file\nRUN cat /file && id -u >/made && chown 1000:1000 /made\n"
        'USER 1000\nENTRYPOINT ["stat", "-c", "%u"]\nCMD ["/made"]\n'
    )
    name = f"localhost/{new_id()}"
    words = ("build", "--isolation", "oci", "--network", "none", "--tag", name, str(context))
    assert "from the context" in podman(*words).ok().out
    try:
        assert podman.run("--rm", name).ok().out == "1000\n"
    finally:
        podman("rmi", "--force", name).ok()


def test_volumes_secrets_and_devices(podman: Podman) -> None:
    host = podman.work / "host"
    host.mkdir(exist_ok=True)
    (host / "file").write_text("of the host\n")
    flags = (
        f"--volume={host}:/host:ro",
        "--tmpfs=/scratch:size=1m,mode=1777",
        "--read-only",
        "--hostname=named",
        "--cap-drop=all",
        "--cap-add=CHOWN",
        "--security-opt=no-new-privileges",
        "--shm-size=2m",
        "--sysctl=net.ipv4.ip_unprivileged_port_start=81",
        "--ulimit=nofile=100:100",
        "--ulimit=nproc=1000:1000",
        "--init",
    )
    script = "; ".join(
        (
            "cat /host/file",
            "touch /host/no /no 2>/dev/null",
            "touch /scratch/yes && hostname",
            "ulimit -n",
            "df -k /dev/shm | tail -1 | awk '{print $2}'",
            "grep -E 'CapEff|NoNewPrivs' /proc/self/status",
            "cat /proc/sys/net/ipv4/ip_unprivileged_port_start",
        )
    )
    done = podman.run("--rm", *flags, IMAGE, "sh", "-c", script).ok()
    assert done.out.split() == [
        *"of the host named 100 2048".split(),
        *("CapEff:", f"{1:016x}", "NoNewPrivs:", "1", "81"),
    ]


def test_many_at_once(podman: Podman) -> None:
    """Starts beside each other: podman holds locks, we hold ours."""
    words = podman.argv("run", "--rm", "--network", "none", IMAGE, "true")
    how = {"env": podman.env, "cwd": podman.work, "stdin": subprocess.DEVNULL}
    started = [runtimes.popen(words, podman.user, **how) for _ in range(4)]
    for process in started:
        runtimes.finished(process)
    assert [process.returncode for process in started] == [0] * 4
