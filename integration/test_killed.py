# SPDX-License-Identifier: Apache-2.0
"""SIGKILL to the command at every system call it makes: what is left is what `delete --force` cleans, and the id works again.

strace lists the system calls of one good run, then delivers the signal at each of them in turn: the same points every time.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from support import leaks, machine, users
from support.bundles import Bundle, MakeBundle, new_id
from support.runtimes import MakeRuntime, Runtime, finished, popen, read_line

# Points per verb; CTNR_TEST_KILLS=0 takes all of them. The users' ways differ from root's in few places.
POINTS = {
    users.ROOT: int(os.environ.get("CTNR_TEST_KILLS", "60")),
    users.SUBIDS: int(os.environ.get("CTNR_TEST_KILLS", "20")),
}
CALL = re.compile(rb"^(\d+ +)?([a-z_0-9]+)\(")


def traced(runtime: Runtime, words: list[str], *strace_flags: str) -> list[str]:
    [strace] = machine.need("strace")
    return [strace, "-qqq", *strace_flags, *runtime.argv(*words)]


def run_quietly(runtime: Runtime, argv: list[str]) -> int:
    """The command's exit code (negative for a signal), its words thrown away."""
    process = popen(argv, runtime.user, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    finally:
        finished(process)
    return int(process.returncode)


def points(runtime: Runtime, words: list[str], log: Path) -> list[tuple[str, int]]:
    """(system call, which one of its kind) for every call of a good run after the interpreter has started."""
    log.touch()
    log.chmod(0o666)
    assert run_quietly(runtime, traced(runtime, words, "-o", str(log))) == 0, log.read_text(errors="replace")[-2000:]
    seen: Counter[str] = Counter()
    found: list[tuple[str, int]] = []
    started = False
    for line in log.read_bytes().splitlines():
        match = CALL.match(line)
        if not match:
            continue
        name = match.group(2).decode()
        seen[name] += 1
        # the first thing a verb of ours does on its own is to look at the state root or the bundle
        started = started or str(runtime.state_root).encode() in line or b"config.json" in line
        if started and name not in ("exit_group", "execve"):
            found.append((name, seen[name]))
    log.unlink()
    assert found, "strace saw nothing of the verb's work"
    wanted = POINTS.get(runtime.user.kind, POINTS[users.SUBIDS])
    # from the end: the last calls of a verb are where it tidies up
    step = max(1, len(found) // wanted) if wanted else 1
    return found[::-step]


Prepare = Callable[[Runtime, Bundle], str]


def nothing(runtime: Runtime, box: Bundle) -> str:
    return new_id()


def created(runtime: Runtime, box: Bundle) -> str:
    return runtime.create(box)


def running(runtime: Runtime, box: Bundle) -> str:
    return runtime.start_detached(box)


def stopped(runtime: Runtime, box: Bundle) -> str:
    id = running(runtime, box)
    os.kill(runtime.pid(id), signal.SIGKILL)
    runtime.wait_status(id, "stopped")
    return id


VERBS: dict[str, tuple[Prepare, list[str]]] = {
    "create": (nothing, ["create", "--bundle", "BUNDLE", "ID"]),
    "run": (nothing, ["run", "--bundle", "BUNDLE", "ID"]),
    "run-detached": (nothing, ["run", "--detach", "--bundle", "BUNDLE", "ID"]),
    "start": (created, ["start", "ID"]),
    "exec": (running, ["exec", "ID", "/bin/true"]),
    "kill": (running, ["kill", "ID", "KILL"]),
    "delete": (stopped, ["delete", "ID"]),
    "delete-force": (running, ["delete", "--force", "ID"]),
}


def filled(words: list[str], id: str, box: Bundle) -> list[str]:
    return [id if w == "ID" else str(box.path) if w == "BUNDLE" else w for w in words]


@pytest.mark.parametrize("kind", users.KINDS)
@pytest.mark.parametrize("verb", VERBS)
def test_killed_at_each_system_call(
    verb: str, kind: str, runtimes_of: MakeRuntime, bundle_of: MakeBundle, work: Path
) -> None:
    user = users.get(kind)
    runtime = runtimes_of(user)
    if runtime.name != "ctnr":
        pytest.skip("not applicable: a Go program has its threads killed elsewhere each time; this is about ours")
    prepare, words = VERBS[verb]
    box = bundle_of(user, *(["/bin/true"] if verb == "run" else ["/probe", "--wait"])).save()
    id = prepare(runtime, box)
    places = points(runtime, filled(words, id, box), work / "trace")
    runtime("delete", "--force", id).ok()
    before = leaks.Snapshot.take()
    killed = 0
    wrong = []
    for number, (name, nth) in enumerate(places):
        id = prepare(runtime, box)
        flags = ["-e", f"trace={name}", "-e", f"inject={name}:signal=KILL:when={nth}", "-o", "/dev/null"]
        killed += run_quietly(runtime, traced(runtime, filled(words, id, box), *flags)) == -signal.SIGKILL
        problems = aftermath(runtime, id, before)
        # the id is free, whatever half of it there was
        if not problems and number % 7 == 0:
            again = runtime.quiet("run", "--detach", "--bundle", str(box.path), id)
            problems = [f"the id cannot be used again: {again}"] if again.code else []
            problems += aftermath(runtime, id, before)
        if problems:
            wrong.append("\n".join([f"{verb} killed at {name} number {nth}:", *problems]))
    assert not wrong, f"{len(wrong)} of {len(places)} points:\n" + "\n".join(wrong[:5])
    assert killed > len(places) // 2, f"only {killed} of {len(places)} runs were really killed"


def aftermath(runtime: Runtime, id: str, before: leaks.Snapshot) -> list[str]:
    """What is wrong after a kill: with `state`, with `delete --force`, with what is left then (which is removed)."""
    problems = []
    state = runtime("state", id)
    if state.code not in (0, 1) or (state.code == 1 and "does not exist" not in state.err) or "Traceback" in state.err:
        problems.append(str(state))
    deleted = runtime("delete", "--force", id)
    if deleted.code != 0:
        problems.append(str(deleted))
    left = leaks.settled(before, 3.0)
    if left:
        problems.append(leaks.report(left))
        leaks.clean_up(left)
        for entry in left.get("roots", []):
            shutil.rmtree(entry, ignore_errors=True)
    return problems


@pytest.mark.parametrize("kind", users.KINDS)
def test_killed_while_the_container_runs(kind: str, runtimes_of: MakeRuntime, bundle_of: MakeBundle) -> None:
    """The foreground command dies; its container can still be found and deleted."""
    user = users.get(kind)
    runtime = runtimes_of(user)
    box = bundle_of(user, "/bin/sh", "-c", "echo ready; exec sleep 1000").save()
    id = new_id()
    process = runtime.popen("run", "--bundle", str(box.path), id, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert read_line(process) == "ready"
    assert process.stdout
    process.kill()
    finished(process)
    process.stdout.close()
    assert runtime.status(id) in ("created", "running", "stopped")
    runtime("delete", "--force", id).ok()
    assert runtime.ids() == []
