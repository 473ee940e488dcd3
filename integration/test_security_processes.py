# SPDX-License-Identifier: Apache-2.0
"""Attacks by processes: on whoever enters a container or waits in it, by what is left open, by what privileges are left."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import kernel, machine, rootfs, runtimes, users
from support.bundles import Bundle, MakeBundle
from support.runtimes import Json, MakeRuntime, Runtime, parse_probe
from support.terminals import Behind, ConsoleSocket
from support.users import ROOT, SUBIDS, User

# In the container, as its root: whatever of the runtime's shows up is stopped and looked into, or killed.
# A process that may not be traced shows its cmdline (proc(5)), and nothing else that is tried here.
# What was found counts if it was still the runtime's at the end: a signal takes its time, and an exec may have been under way.
LOOK = r"""
found() { r="$r$1
"; }
while :; do
    for p in /proc/[0-9]*; do
        n=${p#/proc/}
        [ $n = 1 ] && continue
        c=; read -r c 2>/dev/null <$p/cmdline
        case "$c" in *python*) echo "PYTHON $c" >>/dev/shm/log;; esac
        case "$c" in ctnr-init*) ;; *) continue;; esac
        kill -STOP $n 2>/dev/null || continue
        r=
        found seen
        for x in $p/fd/*; do [ -e "$x" ] && found "FD $x $(readlink $x)"; done
        for x in root cwd; do [ -e $p/$x/. ] && found "DIRECTORY $x $(readlink $p/$x)"; done
        for x in mem exe; do (: >>$p/$x) 2>/dev/null && found "WRITE $x"; done
        for x in environ maps mem exe auxv; do (head -c 1 $p/$x) >/dev/null 2>&1 && found "READ $x"; done
        c=; read -r c 2>/dev/null <$p/cmdline
        case "$c" in ctnr-init*) echo -n "$r" >>/dev/shm/log;; esac
        kill -CONT $n
    done
done
"""
KILL = r"""
while :; do
    for p in /proc/[0-9]*; do
        read -r c 2>/dev/null <$p/cmdline
        case "$c" in ctnr-init*) kill -KILL ${p#/proc/} && echo seen >>/dev/shm/log;; esac
    done
done
"""


def identity(path: Path) -> tuple[int, int, int, int, str]:
    """What tells whether a program of the host's was tampered with."""
    real = Path(path).resolve()
    status = real.stat()
    digest = hashlib.sha256(real.read_bytes()).hexdigest()
    return status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns, digest


@pytest.fixture
def programs() -> Iterator[None]:
    """The host's programs that take part in a start stay as they are (CVE-2019-5736)."""
    taking_part = [runtimes.ctnr_oci(), runtimes.ctnr_bin(), Path("/usr/bin/python3"), Path(sys.executable)]
    before = [identity(path) for path in taking_part]
    yield
    assert [identity(path) for path in taking_part] == before


@pytest.fixture
def secret(work: Path, user: User) -> Path:
    """A directory of the host's, with a file and a program."""
    directory = work / "host"
    directory.mkdir(mode=0o755)
    (directory / "secret").write_text("the host's\n")
    shutil.copyfile(rootfs.probe(), directory / "prog")
    (directory / "prog").chmod(0o755)
    return directory


@pytest.fixture
def leaked(secret: Path) -> Iterator[tuple[int, ...]]:
    """Fds of that directory that a careless caller passes on, some low, some high."""
    first = os.open(secret, os.O_RDONLY)
    fds = (first, *(fcntl.fcntl(first, fcntl.F_DUPFD, n) for n in (7, 9, 10, 12, 19, 77, 300)))
    yield fds
    for fd in fds:
        os.close(fd)


def with_tracing(bundle: Bundle) -> None:
    """CAP_SYS_PTRACE over the container's own user namespace: not enough to look into who comes from outside of it."""
    for kind in ("bounding", "effective", "permitted"):
        bundle.process["capabilities"][kind].append("CAP_SYS_PTRACE")


# --- entering


def hostile(runtime: Runtime, make: Callable[..., Bundle], script: str) -> str:
    box = make("/bin/sh", "-c", script)
    if runtime.user.rootless:
        with_tracing(box)
    return runtime.start_detached(box)


def log_of(runtime: Runtime, id: str) -> list[str]:
    pid = runtime.pid(id)
    log = Path(f"/proc/{pid}/root/dev/shm/log")
    return sorted(set(log.read_text().splitlines())) if log.exists() else []


@pytest.mark.parametrize("score", [None, 500])
def test_cve_2016_9962_2019_5736_whoever_enters_cannot_be_looked_into(
    score: int | None, runtime: Runtime, bundle: MakeBundle, leaked: tuple[int, ...], programs: None
) -> None:
    machine.need_root()
    id = hostile(runtime, bundle, LOOK)
    process: Json = {"args": ["/bin/true"], "cwd": "/", "user": {"uid": 0, "gid": 0}}
    if score is not None:
        process["oomScoreAdj"] = score  # written by way of the host's /proc, before the container is entered
    for i in range(100):
        runtime.exec(id, process, pass_fds=leaked).ok()
        if i > 10 and log_of(runtime, id):
            break
    assert log_of(runtime, id) == ["seen"]
    runtime.stop(id)


def test_cve_2016_9962_whoever_enters_may_be_killed_but_leaves_nothing(runtime: Runtime, bundle: MakeBundle) -> None:
    machine.need_root()
    id = hostile(runtime, bundle, KILL)
    process = {"args": ["/bin/true"], "cwd": "/", "user": {"uid": 0, "gid": 0}}
    for i in range(60):
        if i > 10 and log_of(runtime, id):
            break
        done = runtime.exec(id, process, timeout=20)
        # killed after the parent's last word it is a process that was killed
        assert done.code in (0, 137) or done.error_line, str(done)
    assert log_of(runtime, id) == ["seen"]
    assert runtime.status(id) == "running"
    runtime.stop(id)


@pytest.mark.parametrize("kind", [ROOT, SUBIDS])
def test_cve_2016_9962_a_pods_neighbour_that_waits_for_start(
    kind: str, runtimes_of: MakeRuntime, bundle_of: MakeBundle
) -> None:
    """A created container in the pid namespace of one that runs: with no more privileges than its neighbour."""
    machine.need_root()
    user = users.get(kind)
    runtime = runtimes_of(user)
    first = runtime.start_detached(bundle_of(user, "/bin/sh", "-c", LOOK))
    pid = runtime.pid(first)
    box = bundle_of(user, "/bin/true")
    box.namespace("pid", f"/proc/{pid}/ns/pid")
    if user.rootless:
        box.namespace("user", f"/proc/{pid}/ns/user")
        box.linux.pop("uidMappings"), box.linux.pop("gidMappings")
    second = runtime.create(box)
    assert machine.poll(lambda: bool(log_of(runtime, first)), 10)
    assert log_of(runtime, first) == ["seen"]
    runtime("delete", "--force", second).ok()
    runtime.stop(first)


def test_cve_2016_9962_in_the_hosts_pid_namespace(root_runtime: Runtime, bundle_of: MakeBundle, root: User) -> None:
    """A container that sees all pids finds nothing of the host's in another that waits for start."""
    waiting = root_runtime.create(bundle_of(root, "/bin/true"))
    pid = root_runtime.pid(waiting)
    box = bundle_of(root)
    box.without_namespace("pid")
    sysctl = [f"open:/proc/{pid}/fd/{fd}/sys/kernel/core_pattern" for fd in range(3, 30)]
    seen = root_runtime.probe(box, f"list:/proc/{pid}/root", *sysctl)
    assert seen["asked"].pop(f"list:/proc/{pid}/root") == {"errno": 13}
    assert set(seen["asked"].values()) == {2, 13}, seen["asked"]  # EACCES where there is one
    root_runtime("delete", "--force", waiting).ok()


def test_cve_2016_9962_nothing_of_the_hosts_is_open_while_it_waits(runtime: Runtime, bundle: MakeBundle) -> None:
    machine.need_root()
    box = bundle("/bin/true")
    box.process["oomScoreAdj"] = 500
    id = runtime.create(box)
    pid = runtime.pid(id)
    root = os.stat(f"/proc/{pid}/root")
    for fd in os.listdir(f"/proc/{pid}/fd"):
        status = os.stat(f"/proc/{pid}/fd/{fd}")
        if stat.S_ISDIR(status.st_mode):
            assert (status.st_dev, status.st_ino) == (root.st_dev, root.st_ino), os.readlink(f"/proc/{pid}/fd/{fd}")
        else:
            assert int(fd) < 3 or stat.S_ISSOCK(status.st_mode), os.readlink(f"/proc/{pid}/fd/{fd}")
    runtime("delete", "--force", id).ok()


# --- the host's programs


@pytest.mark.parametrize("script", [False, True])
def test_cve_2019_5736_the_program_is_proc_self_exe(
    script: bool, runtime: Runtime, bundle: MakeBundle, programs: None
) -> None:
    """Who executes itself from within finds the init, sealed, and never python3."""
    box = bundle("/evil" if script else "/proc/self/exe")
    box.file("evil", "#!/proc/self/exe\n", 0o755)
    done = runtime.run(box)
    assert done.code == 1 and "started by ctnr only" in done.err, str(done)
    id = runtime.start_detached(bundle("/probe", "--wait"))
    entered = runtime("exec", id, "/proc/self/exe")
    assert entered.code == 1 and "started by ctnr only" in entered.err, str(entered)
    runtime.stop(id)


def test_cve_2019_5736_the_reapers_image_cannot_be_written(
    user: User, runtime: Runtime, work: Path, programs: None
) -> None:
    """--init: the init stays as pid 1, within reach."""
    tree = rootfs.make_busybox(work / "mine", user.uid, user.gid)
    script = "readlink /proc/1/exe; (: >>/proc/1/exe) 2>&1; (echo x >/proc/1/exe) 2>&1; cp /proc/1/exe /tmp/x; head -c 4 /tmp/x"
    argv = [str(runtimes.ctnr_bin()), "--root", str(runtime.state_root), "run", "--rm", "--init", str(tree)]
    done = runtimes.call([*argv, "sh", "-c", script], user).ok()
    assert done.out.startswith("/memfd:ctnr-init") and done.out.endswith("\x7fELF")
    assert done.out.count("busy") + done.out.count("not permitted") + done.out.count("denied") == 2, done.out


@pytest.mark.parametrize("action", ["SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW"])
def test_the_reaper_holds_nothing_whatever_seccomp_refuses(
    action: str, user: User, runtime: Runtime, work: Path
) -> None:
    """A filter older than close_range(2) refused to have the init's fds closed; the host's /proc was among them."""
    tree = rootfs.make_busybox(work / "mine", user.uid, user.gid)
    profile = work / "seccomp.json"
    rule = f'{{"names": ["close_range"], "action": "{action}"}}'
    profile.write_text(f'{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{rule}]}}')
    argv = [str(runtimes.ctnr_bin()), "--root", str(runtime.state_root), "run", "--rm", "--init"]
    argv += ["--security-opt", f"seccomp={profile}", str(tree)]
    script = "until head -c 1 /proc/1/maps >/dev/null; do :; done 2>/dev/null; echo /proc/1/fd/*;"
    script += "grep -c memfd:ctnr-plan /proc/1/maps; readlink /proc/1/fd/1 | head -c 5"
    done = runtimes.call([*argv, "sh", "-c", script], user)
    assert done.out == "/proc/1/fd/0 /proc/1/fd/1 /proc/1/fd/2\n0\npipe:", str(done)


# --- what is left open


CWDS = [f"/proc/self/fd/{n}" for n in (*range(3, 21), 77, 300)]


def test_cve_2024_21626_a_working_directory_that_was_left_open(
    runtime: Runtime, bundle: MakeBundle, leaked: tuple[int, ...], secret: Path
) -> None:
    """process.cwd, or a link of the image that it names, is an fd that the runtime or its caller forgot."""
    box = bundle(
        "/bin/sh", "-c", "cat secret ../host/secret ../../../../../../../../../../../etc/hostname; pwd"
    ).writable()
    box.config["root"]["readonly"] = True
    for cwd in CWDS:
        for path in (cwd, f"{cwd}/../host", "/link"):
            if path == "/link":
                (box.root / "link").unlink(missing_ok=True)
                (box.root / "link").symlink_to(cwd)
            box.process["cwd"] = path
            done = runtime.run(box, pass_fds=leaked)
            assert "the host's" not in done.out and str(secret) not in done.out, str(done)
            assert done.code != 0 or done.out == "rootfs\n/\n", str(done)


def test_cve_2024_21626_exec_in_a_directory_that_was_left_open(
    runtime: Runtime, bundle: MakeBundle, leaked: tuple[int, ...], secret: Path
) -> None:
    id = runtime.start_detached(bundle("/probe", "--wait"))
    process = {
        "args": ["/bin/sh", "-c", "cat secret ../host/secret; pwd"],
        "user": {"uid": 0, "gid": 0},
        "oomScoreAdj": 1,
    }
    for cwd in CWDS:
        for path in (cwd, f"{cwd}/../host"):
            done = runtime.exec(id, {**process, "cwd": path}, pass_fds=leaked)
            assert "the host's" not in done.out and str(secret) not in done.out, str(done)
            assert done.code != 0 or done.out == "/\n", str(done)
    runtime.stop(id)


def test_cve_2024_21626_a_program_by_way_of_what_was_left_open(
    runtime: Runtime, bundle: MakeBundle, leaked: tuple[int, ...]
) -> None:
    """The program, its interpreter, the PATH: looked up while the init's own fds are open."""
    box = bundle("/x")
    id = runtime.start_detached(bundle("/probe", "--wait"))
    for cwd in CWDS:
        for path in (f"{cwd}/prog", f"{cwd}/../host/prog", f"{cwd}/self/exe", f"{cwd}/../proc/self/exe"):
            box.process["args"] = [path]
            done = runtime.run(box, pass_fds=leaked)
            assert done.code == 1 and '"uids"' not in done.out, str(done)
            box.file("script", f"#!{path}\n", 0o755)
            box.process["args"] = ["/script"]
            assert runtime.run(box, pass_fds=leaked).code == 1
        process = {"args": [f"{cwd}/prog"], "cwd": "/", "user": {"uid": 0, "gid": 0}, "oomScoreAdj": 1}
        assert runtime.exec(id, process, pass_fds=leaked).code == 255
    runtime.stop(id)


def test_cve_2024_21626_the_program_has_its_stdio_and_nothing_else(
    runtime: Runtime, bundle: MakeBundle, leaked: tuple[int, ...]
) -> None:
    seen = runtime.probe(bundle(), pass_fds=leaked)
    assert set(seen["fds"]) <= {"0", "1", "2"}
    id = runtime.start_detached(bundle("/probe", "--wait"))
    entered = parse_probe(runtime("exec", id, "/probe", pass_fds=leaked).ok().out)
    assert set(entered["fds"]) <= {"0", "1", "2"}
    runtime.stop(id)


@pytest.mark.parametrize(
    "kind", ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]
)
def test_a_hook_has_its_stdio_and_nothing_else(
    kind: str, runtime: Runtime, bundle: MakeBundle, leaked: tuple[int, ...]
) -> None:
    """What the caller leaked, what the runtime has open, what the init has open."""
    box = bundle("/bin/true")
    # -e: the directory that the glob had open is closed by then
    script = "for x in /proc/self/fd/*; do [ -e $x ] && echo FD=${x##*/}; done; exit 3"
    box.config["hooks"] = {kind: [{"path": "/bin/sh", "args": ["sh", "-c", script]}]}
    done = runtime.run(box, pass_fds=leaked)
    assert re.findall(r"FD=(\d+)", done.err) == ["0", "1", "2"], str(done)  # what a failed hook said is shown


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 4000])
def test_preserved_fds_are_the_callers(count: int, runtime: Runtime, bundle: MakeBundle) -> None:
    """More asked for than was given: the runtime's own fds (the state directory) are not what is meant."""
    script = "for n in 3 4 5 6 7 8 9; do ls -a /proc/self/fd/$n/ /proc/self/fd/$n/../ 2>/dev/null; done; true"
    box = bundle("/bin/sh", "-c", script)
    box.save()
    given = ["/bin/sh", "-c", 'exec 3</etc/hostname; exec "$@"', "sh"]
    id = runtime.start_detached(bundle("/probe", "--wait"))
    flag = f"--preserve-fds={count}"
    for argv in (
        runtime.argv("run", flag, "--bundle", str(box.path), "new"),
        runtime.argv("exec", flag, id, "/bin/true"),
    ):
        done = runtimes.call([*given, *argv], runtime.user)
        assert done.ok().out == ""
        if count > 1:
            assert f"--preserve-fds: of the {count} from 3 on 1 are open" in done.err
    runtime.stop(id)


# --- what privileges are left


@pytest.mark.parametrize("uid", [0, 1000])
def test_cve_2022_24769_2022_29162_nothing_is_inheritable(
    uid: int, runtimes_of: MakeRuntime, bundle_of: MakeBundle
) -> None:
    """Of a run, of an exec, and of an exec that is given one more: no capability can be regained from a file."""
    for kind in (ROOT, SUBIDS):
        user = users.get(kind)
        runtime = runtimes_of(user)
        box = bundle_of(user)
        box.process["user"] = {"uid": uid, "gid": uid}
        box.process["noNewPrivileges"] = False
        asked = {"CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"}
        sets = kernel.capabilities(runtime.probe(box))
        assert (sets["inheritable"], sets["ambient"], sets["bounding"]) == (set(), set(), asked)
        id = runtime.start_detached(bundle_of(user, "/probe", "--wait"))
        for flags, more in (((), set()), (("--cap", "CAP_NET_RAW"), {"CAP_NET_RAW"})):
            words = ("exec", *flags, "--user", f"{uid}:{uid}", id, "/probe")
            sets = kernel.capabilities(parse_probe(runtime(*words).ok().out))
            assert (sets["inheritable"], sets["ambient"], sets["bounding"]) == (set(), set(), asked | more)
            assert sets["effective"] <= asked | more
        runtime.stop(id)


def test_the_callers_privileges_are_not_the_containers(
    root_runtime: Runtime, bundle_of: MakeBundle, root: User
) -> None:
    """A caller with inheritable and ambient capabilities, and supplementary groups."""
    box = bundle_of(root)
    box.save()
    inherit = ["setpriv", "--inh-caps=+net_raw,+sys_chroot", "--ambient-caps=+net_raw", "--groups=7,8,9", "--"]
    argv = [*inherit, *root_runtime.argv("run", "--bundle", str(box.path), "new")]
    seen = parse_probe(runtimes.call(argv, root).ok().out)
    sets = kernel.capabilities(seen)
    assert (sets["inheritable"], sets["ambient"], seen["groups"]) == (set(), set(), [])
    assert sets["permitted"] == {"CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"}


def test_cve_2017_5226_the_callers_terminal_is_not_the_containers(runtime: Runtime, bundle: MakeBundle) -> None:
    """Without a terminal of its own a container has the caller's as stdio at most: TIOCSTI takes a controlling terminal."""
    script = "(: </dev/tty) 2>/dev/null && echo controlling; tty; cut -d' ' -f7 /proc/self/stat; echo end"
    box = bundle("/bin/sh", "-c", script)
    box.save()
    there = Behind(runtime.argv("run", "--bundle", str(box.path), "new"), runtime.user)
    try:
        said = there.expect("end").split()
        assert "controlling" not in said and "0" in said, said  # tty_nr of proc(5)
        assert there.wait() == 0
    finally:
        there.close()


def test_cve_2025_52565_exec_with_the_containers_own_idea_of_a_terminal(
    root_runtime: Runtime, bundle_of: MakeBundle, root: User, work: Path
) -> None:
    """Something else was mounted over /dev/pts/ptmx by the container."""
    box = bundle_of(root, "/bin/sh", "-c", "mount --bind /dev/full /dev/pts/ptmx && exec /probe --wait")
    for kind in ("bounding", "effective", "permitted"):
        box.process["capabilities"][kind].append("CAP_SYS_ADMIN")
    id = root_runtime.start_detached(box)
    assert machine.poll(lambda: "probe" in Path(f"/proc/{root_runtime.pid(id)}/cmdline").read_text(), 10)
    console = ConsoleSocket(work / "console.sock", root)
    try:
        done = root_runtime("exec", "--tty", "--detach", "--console-socket", str(console.path), id, "/bin/true")
        assert done.code == 255 and "/dev/pts/ptmx is not what it must be" in done.error_line, str(done)
    finally:
        console.close()
    root_runtime.stop(id)


@pytest.mark.parametrize("kind", ["block device", "character device", "file", "fifo"])
def test_what_stdin_is_keeps_its_owner(
    kind: str, root_runtime: Runtime, bundle_of: MakeBundle, root: User, work: Path
) -> None:
    """Pipes and terminals are handed to the container's user, so that it may open /dev/stdin; a disk is not."""
    box = bundle_of(root, "/bin/true")
    box.process["user"] = {"uid": 1000, "gid": 1000}
    path = work / "stdin"
    if kind == "block device":
        os.mknod(path, 0o60600, os.makedev(7, 0))
    elif kind == "character device":
        os.mknod(path, 0o20600, os.makedev(10, 229))
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.write_text("")
    try:
        fd = os.open(path, os.O_RDWR if kind != "block device" else os.O_RDONLY)
    except OSError as error:
        pytest.skip(f"not applicable: no such device here: {error}")
    try:
        root_runtime.run(box, stdin=fd).ok()
        assert path.stat().st_uid == (1000 if kind == "fifo" else 0)
    finally:
        os.close(fd)
