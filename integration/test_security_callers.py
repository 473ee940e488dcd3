# SPDX-License-Identifier: Apache-2.0
"""Attacks from beside: a hostile environment of the command, other users of the machine, stale state, text that is no text."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import leaks, machine, rootfs, runtimes, users
from support.bundles import MakeBundle, new_id
from support.runtimes import Result, Runtime, parse_probe
from support.users import ONE_ID, SUBIDS, User


def verbs(runtime: Runtime, bundle: MakeBundle, tree: Path, id: str) -> dict[str, list[str]]:
    """The installed commands' ways in, each of them good."""
    engine = [str(runtimes.ctnr_bin()), "--root", str(runtime.state_root)]
    return {
        "run": runtime.argv("run", "--bundle", str(bundle("/bin/true").save().path), new_id()),
        "exec": runtime.argv("exec", id, "/bin/true"),
        "state": runtime.argv("state", id),
        "list": runtime.argv("list"),
        "ctnr run": [*engine, "run", "--rm", str(tree), "true"],
        "ctnr ps": [*engine, "ps"],
    }


# --- the environment of the command


@pytest.fixture
def evil(work: Path, user: User) -> Path:
    """A directory of modules that whoever imports one by accident runs: each leaves a mark."""
    directory = work / "evil"
    names = [
        "json",
        "os",
        "re",
        "site",
        "sitecustomize",
        "usercustomize",
        "codecs",
        "io",
        "abc",
        "stat",
        "typing",
        "zlib",
    ]
    packages = ["ctnr", "ctnr/cli", "ctnr/runtime", "encodings", "collections", "importlib"]
    base = directory / ".local/lib/python3.11/site-packages"
    for place in (directory, base):
        for package in packages:
            (place / package).mkdir(parents=True)
        for name in (*names, *(f"{package}/__init__" for package in packages), "ctnr/cli/boot"):
            (place / f"{name}.py").write_text(f"open('{directory}/mark', 'w')\nraise SystemExit(66)\n")
    (directory / "pyvenv.cfg").write_text(f"home = {directory}\n")
    rootfs.give(directory, user.uid, user.gid)
    return directory


def test_python_takes_nothing_from_the_environment(
    runtime: Runtime, bundle: MakeBundle, evil: Path, work: Path, user: User
) -> None:
    """-I: neither PYTHON* nor the current directory nor the home say what a tool that root runs is made of."""
    tree = rootfs.make_busybox(work / "mine", user.uid, user.gid)
    id = runtime.start_detached(bundle("/probe", "--wait"))
    names = "PATH HOME STARTUP USERBASE PLATLIBDIR PYCACHEPREFIX EXECUTABLE CASEOK".split()
    env = {f"PYTHON{name}": str(evil) for name in names}
    env |= {"PYTHONSTARTUP": str(evil / "json.py"), "PYTHONINSPECT": "1", "PYTHONVERBOSE": "3", "PYTHONDEVMODE": "1"}
    env |= {
        "PYTHONWARNINGS": "error::ImportWarning:json",
        "PYTHONBREAKPOINT": "json.x",
        "HOME": str(evil),
        "VIRTUAL_ENV": str(evil),
    }
    env |= {
        "PYTHONHASHSEED": "no number",
        "PYTHONMALLOC": "nonsense",
        "PYTHONIOENCODING": "rot13",
        "PYTHONDUMPREFS": "1",
    }
    for verb, argv in verbs(runtime, bundle, tree, id).items():
        done = runtimes.call(argv, user, cwd=evil, env=env).ok()
        assert "import" not in done.err, f"{verb}: {done}"
    assert not (evil / "mark").exists()
    runtime.stop(id)


def test_env_leaks_2020_14370_2021_3602_the_program_has_no_variable_of_the_callers(
    runtime: Runtime, bundle: MakeBundle, work: Path, user: User
) -> None:
    env = {"SECRET": "of the caller", "LD_PRELOAD": "/nonexistent.so", "LD_LIBRARY_PATH": "/nonexistent", "CTNR_X": "1"}
    box = bundle()
    box.process["env"] = ["ONLY=this"]
    wanted = {"ONLY=this", "HOME=/root"}
    assert set(runtime.probe(box, env=env)["env"]) == wanted
    box.process["args"] = ["/probe", "--wait"]
    id = runtime.start_detached(box)
    assert set(parse_probe(runtime("exec", id, "/probe", env=env).ok().out)["env"]) == wanted
    init = Path(f"/proc/{runtime.pid(id)}/environ").read_bytes().split(b"\0")
    assert {entry.decode() for entry in init if entry} == wanted
    runtime.stop(id)
    tree = rootfs.make_busybox(work / "mine", user.uid, user.gid)
    argv = [
        str(runtimes.ctnr_bin()),
        "--root",
        str(runtime.state_root),
        "run",
        "--rm",
        "--env",
        "SECRET",
        str(tree),
        "/probe",
    ]
    names = {entry.split("=")[0] for entry in parse_probe(runtimes.call(argv, user, env=env).ok().out)["env"]}
    assert names == {"PATH", "HOSTNAME", "container", "HOME", "SECRET"}  # asked for by name


def test_cve_2026_57231_an_entry_without_a_value(runtime: Runtime, bundle: MakeBundle) -> None:
    """NAME alone took the host's value."""
    box = bundle("/probe")
    box.process["env"] = ["SECRET"]
    assert "process.env[0]" in runtime.run(box, env={"SECRET": "of the caller"}).error_line


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&-", "1>&- 2>&-", "0<&- 1>&- 2>&-"])
@pytest.mark.parametrize("verb", ["run", "exec"])
def test_closed_stdio_is_not_what_was_opened_next(
    closed: str, verb: str, runtime: Runtime, bundle: MakeBundle, work: Path, user: User
) -> None:
    """The caller has closed 0, 1 or 2: the program's are /dev/null then, no file of the state, no socket."""
    box = bundle("/probe", "--wait").save()
    (work / "pids").mkdir()
    rootfs.give(work / "pids", user.uid, user.gid)
    flags = ("--detach", "--pid-file", str(work / "pids/pid"))
    id = new_id() if verb == "run" else runtime.start_detached(box)
    words = ("--bundle", str(box.path), id) if verb == "run" else (id, "/probe", "--wait")
    script = ["/bin/sh", "-c", f'exec "$@" {closed}', "sh", *runtime.argv(verb, *flags, *words)]
    null = subprocess.DEVNULL
    process = runtimes.popen(script, user, stdin=null, stdout=null, stderr=null)
    assert process.wait(20) == 0
    runtimes.finished(process)
    pid = int((work / "pids/pid").read_text())
    assert [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in range(3)] == ["/dev/null"] * 3
    assert sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"]
    runtime.stop(id)


@pytest.mark.parametrize("verb", ["run", "failing", "ctnr run"])
def test_sigchld_ignored(verb: str, runtime: Runtime, bundle: MakeBundle, work: Path, user: User) -> None:
    """A caller that ignores SIGCHLD hands that down: the kernel then throws exit codes away and forgets children."""
    box = bundle("/bin/sh", "-c", "exit 7")
    wanted = 7
    argv = runtime.argv("run", "--bundle", str(box.path), new_id())
    if verb == "failing":
        box.process["args"] = ["/nothing"]
        wanted = 1
    elif verb == "ctnr run":
        tree = rootfs.make_busybox(work / "mine", user.uid, user.gid)
        argv = [
            str(runtimes.ctnr_bin()),
            "--root",
            str(runtime.state_root),
            "run",
            "--rm",
            str(tree),
            "sh",
            "-c",
            "exit 7",
        ]
    box.save()
    done = runtimes.call(["/bin/sh", "-c", "trap '' CHLD; exec \"$@\"", "sh", *argv], user)
    assert done.code == wanted, str(done)
    assert runtime.ids() == []


@pytest.mark.parametrize("mask", ["077", "0"])
def test_cve_2024_25621_modes_whatever_the_umask(
    mask: str, runtime: Runtime, bundle: MakeBundle, work: Path, user: User
) -> None:
    """The state is its owner's alone under a umask of 0; under 077 the container's users can read what is theirs."""
    root = work / "new"
    root.mkdir()
    rootfs.give(root, user.uid, user.gid)
    box = bundle("/bin/true").save()
    wrap = ["/bin/sh", "-c", f'umask {mask}; exec "$@"', "sh"]
    own = Runtime(runtime.path, root / "a/state", user)
    create = runtimes.popen(
        [*wrap, *own.argv("create", "--bundle", str(box.path), "x")],
        user,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert create.wait(20) == 0
    runtimes.finished(create)
    for path in (root / "a/state", root / "a/state/x"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    for path in (root / "a/state/x").iterdir():
        assert stat.S_ISSOCK(path.stat().st_mode) or not path.stat().st_mode & 0o077, path
    own("delete", "--force", "x").ok()
    tree = rootfs.make_busybox(work / "mine", user.uid, user.gid)
    script = "cat /etc/hosts /etc/hostname >/dev/null; stat -c %a / /etc/hosts /etc/resolv.conf /etc/hostname; umask"
    flags = [] if user.kind == ONE_ID else ["--user", "1000"]
    argv = [
        str(runtimes.ctnr_bin()),
        "--root",
        str(runtime.state_root),
        "run",
        "--rm",
        *flags,
        str(tree),
        "sh",
        "-ec",
        script,
    ]
    assert runtimes.call([*wrap, *argv], user).ok().out.split() == ["755", "644", "644", "644", "0022"]


@pytest.mark.parametrize("limit", ["-n 11", "-f 0", "-s 64", "-v 40000", "-u 0", "-t 1"])
def test_limits_of_the_caller(limit: str, runtime: Runtime, bundle: MakeBundle, user: User) -> None:
    """With too little of something it works or says so, and nothing is left."""
    box = bundle("/bin/true").save()
    argv = runtime.argv("run", "--bundle", str(box.path), new_id())
    done = runtimes.call(["/bin/sh", "-c", f'ulimit {limit} 2>/dev/null; exec "$@"', "sh", *argv], user)
    assert done.code == 0 or (done.code > 0 and done.err), str(done)
    assert "Traceback" not in done.err
    assert runtime.ids() == []


# --- other users


@pytest.fixture
def others() -> tuple[User, User]:
    machine.need_root()
    return users.get(SUBIDS), users.get(ONE_ID)


PLANTED = {"id": "web", "pid": 0, "hooks": ["poststop"], "bundle": "/"}


@pytest.fixture
def planted(work: Path, others: tuple[User, User]) -> Iterator[Path]:
    """A state root that one user has put where another's will be looked for, with a container whose end runs a hook."""
    attacker = others[0]
    public = work / "tmp"
    public.mkdir()
    public.chmod(0o1777)
    root = public / "ctnr"
    (root / "web").mkdir(parents=True)
    hook = {"path": "/bin/sh", "args": ["sh", "-c", f"id >{public}/mark"]}
    config = {"ociVersion": "1.3.0", "root": {"path": "r"}, "hooks": {"poststop": [hook]}}
    (root / "web/config.json").write_text(json.dumps(config))
    (root / "web/state.json").write_text(json.dumps({**PLANTED, "owned": str(public / "victims")}))
    (public / "victims").mkdir()
    rootfs.give(root, attacker.uid, attacker.gid)
    for path in (root, root / "web"):
        path.chmod(0o777)
    rootfs.give(public / "victims", others[1].uid, others[1].gid)
    yield root
    assert not (public / "mark").exists(), "the planted hook was run"
    assert (public / "victims").exists(), "what it said it owned was removed"


@pytest.mark.parametrize("how", ["directory", "closed directory", "link", "mine but open"])
@pytest.mark.parametrize("victim", ["root", "user"])
def test_a_state_root_that_another_user_planted(
    how: str, victim: str, planted: Path, others: tuple[User, User], bundle_of: MakeBundle
) -> None:
    """In /tmp, where the state of users without a session is: every verb refuses it, not only the one that makes it."""
    user = users.get(users.ROOT) if victim == "root" else others[1]
    if how == "closed directory":
        planted.chmod(0o755)
    elif how == "link":
        real = planted.rename(planted.with_name("real"))
        rootfs.give(real, user.uid, user.gid)
        os.chown(real, user.uid, user.gid)
        real.chmod(0o700)
        planted.symlink_to(real)
        os.lchown(planted, others[0].uid, others[0].gid)
    elif how == "mine but open":
        os.chown(planted, user.uid, user.gid)
    runtime = Runtime(runtimes.ctnr_oci(), planted, user)
    leaks.watched_roots.discard(str(planted))
    box = bundle_of(user, "/bin/true").save()
    for words in (
        ("delete", "--force", "web"),
        ("delete", "web"),
        ("state", "web"),
        ("start", "web"),
        ("kill", "web", "KILL"),
        ("exec", "web", "/bin/true"),
        ("list",),
        ("ps", "web"),
        ("run", "--bundle", str(box.path), "new"),
        ("create", "--bundle", str(box.path), "new"),
    ):
        done = runtime(*words)
        assert done.code != 0 and done.out == "", f"{words}: {done}"
        assert "is writable by others or not yours" in done.error_line
    engine = [str(runtimes.ctnr_bin()), "--root", str(planted)]
    for more in (("ps",), ("run", "--rm", "host:", "true"), ("run", "--name", "web", "host:", "true")):
        done = runtimes.call([*engine, *more], user, env={"CTNR_STORE": str(box.path / "store")})
        assert done.code != 0 and "is writable by others or not yours" in done.error_line, str(done)


def test_cve_2020_15257_no_socket_that_others_can_reach(
    root_runtime: Runtime, bundle_of: MakeBundle, root: User, others: tuple[User, User]
) -> None:
    """A created container waits on a socket: not an abstract one, and in a directory that is its owner's alone."""
    before = set(re.findall(r"@\S+", Path("/proc/net/unix").read_text()))
    id = root_runtime.create(bundle_of(root, "/bin/true"))
    sockets = Path("/proc/net/unix").read_text()
    assert not {name for name in set(re.findall(r"@\S+", sockets)) - before if "ctnr" in name or "start" in name}
    path = root_runtime.state_root / id / "start.sock"
    assert stat.S_ISSOCK(path.stat().st_mode)
    root_runtime.state_root.chmod(0o755)  # even then
    try:
        for user in others:
            script = f"ls {path.parent}; cat {path.parent}/state.json; echo x | nc -U {path}; true"
            assert runtimes.call(["/bin/sh", "-c", script], user).out == ""
    finally:
        root_runtime.state_root.chmod(0o700)
    assert root_runtime.status(id) == "created"
    root_runtime("delete", "--force", id).ok()


# --- stale state


@pytest.mark.parametrize("what", ["start time", "boot", "nothing"])
def test_a_pid_that_is_another_process_by_now(what: str, runtime: Runtime, bundle: MakeBundle, user: User) -> None:
    """The container's pid was taken by a stranger: it is not signalled, entered or waited for."""
    id = runtime.start_detached(bundle("/probe", "--wait"))
    runtime("kill", id, "KILL").ok()
    runtime.wait_status(id, "stopped")
    stranger = runtimes.popen(["/bin/sleep", "1000"], user, stdin=subprocess.DEVNULL)
    try:
        assert machine.poll(lambda: b"1000" in Path(f"/proc/{stranger.pid}/cmdline").read_bytes(), 5)
        file = runtime.state_root / id / "state.json"
        document = json.loads(file.read_text())
        document["pid"] = stranger.pid
        fields = Path(f"/proc/{stranger.pid}/stat").read_text().rpartition(")")[2].split()
        if what != "start time":
            document["start"] = int(fields[19])
        if what == "boot":
            document["boot"] = "00000000-0000-0000-0000-000000000000"
        file.write_text(json.dumps(document))
        if what == "nothing":  # the control: this is what tells them apart
            assert runtime.status(id) == "running"
            document["start"] += 1
            file.write_text(json.dumps(document))
        assert runtime.status(id) == "stopped"
        for words in (("kill", id, "KILL"), ("exec", id, "/bin/true"), ("start", id)):
            assert runtime(*words).code != 0
        runtime("kill", "--all", id, "KILL")
        runtime("delete", "--force", id).ok()
        assert stranger.poll() is None
    finally:
        stranger.send_signal(signal.SIGKILL)
        runtimes.finished(stranger)


# --- text


ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e\u2028\r\x7f"


def clean(done: Result) -> None:
    assert done.code != 0, str(done)
    for c in done.err.rstrip("\n"):
        assert c.isprintable(), f"{c!r} in {done.err!r}"
    assert "owned" in done.err


@pytest.mark.parametrize(
    "where", ["args", "cwd", "mount", "source", "rlimit", "masked", "sysctl", "env", "id", "bundle"]
)
def test_errors_do_not_write_to_the_terminal(where: str, runtime: Runtime, bundle: MakeBundle, work: Path) -> None:
    """What a configuration, an image or a caller says is quoted in errors, and moves no cursor there."""
    box = bundle("/bin/true")
    if where == "args":
        box.process["args"] = [f"/{ESCAPES}"]
    elif where == "cwd":
        box.file("x", "")
        box.process["cwd"] = f"/x/{ESCAPES}"
    elif where == "mount":
        box.mount(f"/not-executable/{ESCAPES}", "tmpfs", "tmpfs")
    elif where == "source":
        box.mount("/mnt", "bind", f"/nonexistent/{ESCAPES}", "bind")
    elif where == "rlimit":
        box.process["rlimits"] = [{"type": ESCAPES, "soft": 1, "hard": 1}]
    elif where == "masked":
        box.linux["maskedPaths"] = [ESCAPES]
    elif where == "sysctl":
        box.linux["sysctl"] = {ESCAPES: "1"}
    elif where == "env":
        box.process["env"] = [ESCAPES]
    if where == "bundle":
        clean(runtime("run", "--bundle", f"/nonexistent/{ESCAPES}", "x"))
    elif where == "id":
        clean(runtime("state", ESCAPES))
        engine = [str(runtimes.ctnr_bin()), "--root", str(runtime.state_root), "run", "--rm"]
        clean(runtimes.call([*engine, f"/nonexistent/{ESCAPES}"], runtime.user))
        clean(runtimes.call([*engine, f"--{ESCAPES}", "host:"], runtime.user))
    else:
        clean(runtime.run(box))
        log = runtime.state_root.parent / f"log-{new_id()}"
        log.touch()
        rootfs.give(log, runtime.user.uid, runtime.user.gid)
        runtime("--log", str(log), "--log-format", "json", "run", "--bundle", str(box.path), "x")
        [line] = log.read_text().splitlines()
        assert "owned" in json.loads(line)["msg"]


@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer", "startContainer"])
def test_what_a_hook_says_does_not_write_to_the_terminal(kind: str, runtime: Runtime, bundle: MakeBundle) -> None:
    box = bundle("/bin/true")
    script = r"printf 'owned \033]0;x\007\033[2J\302\233\342\200\256\r\n' >&2; exit 3"
    shell = "/bin/sh"
    box.config["hooks"] = {kind: [{"path": shell, "args": ["sh", "-c", script]}]}
    clean(runtime.run(box))
