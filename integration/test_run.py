# SPDX-License-Identifier: Apache-2.0
"""`ctnr run` as people use it: every flag, seen from inside the container, as root and as both kinds of user."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import kernel, leaks, machine, rootfs, runtimes
from support.bundles import new_id
from support.runtimes import Json, Result, Runtime, finished, parse_probe, read_line
from support.users import ONE_ID


class Ctnr:
    """`ctnr` as a user, with a state root and a store of its own and a busybox tree that is the user's."""

    def __init__(self, runtime: Runtime, work: Path, tree: Path) -> None:
        self.runtime = runtime
        self.user = runtime.user
        self.work = work
        self.tree = tree
        self.store = work / "store"

    def argv(self, *words: str | Path) -> list[str]:
        return [str(runtimes.ctnr_bin()), "--root", str(self.runtime.state_root), *map(str, words)]

    def __call__(self, *words: str | Path, **how: Any) -> Result:
        how.setdefault("cwd", self.work)
        how["env"] = {"CTNR_STORE": str(self.store), **(how.get("env") or {})}
        return runtimes.call(self.argv(*words), self.user, **how)

    def run(self, *words: str | Path, **how: Any) -> Result:
        return self("run", *words, **how)

    def sh(self, script: str, *flags: str | Path, **how: Any) -> str:
        """What a shell script says in a container of the tree; it has to end with 0 and without a word on stderr."""
        done = self.run(*flags, self.tree, "sh", "-ec", script, **how).ok()
        assert done.err == "", str(done)
        return done.out

    def probe(self, *flags: str | Path, **how: Any) -> Json:
        return parse_probe(self.run(*flags, self.tree, "/probe", **how).ok().out)

    def refused(self, *words: str | Path, code: int = 125, **how: Any) -> str:
        """The one line of the error of a run that cannot be; nothing is left of it."""
        done = self.run(*words, **how)
        assert (done.code, done.out) == (code, ""), str(done)
        line = done.error_line
        assert line.startswith("ctnr: ")
        assert self.runtime.ids() == []
        assert self.stored() == []
        return line.removeprefix("ctnr: ")

    def stored(self) -> list[str]:
        """What is in the store."""
        return sorted(str(p.relative_to(self.store)) for p in self.store.glob("containers/*"))

    def popen(self, *words: str | Path, **how: Any) -> subprocess.Popen[bytes]:
        how.setdefault("stdin", subprocess.DEVNULL)
        return runtimes.popen(self.argv("run", *words), self.user, env={"CTNR_STORE": str(self.store)}, **how)


@pytest.fixture
def ctnr(runtime: Runtime, work: Path) -> Iterator[Ctnr]:
    if runtime.name != "ctnr":
        pytest.skip("not applicable: `ctnr run` is ours alone")
    home = work / "mine"
    home.mkdir()
    tree = rootfs.make_busybox(home / "tree", runtime.user.uid, runtime.user.gid)
    rootfs.give(home, runtime.user.uid, runtime.user.gid)
    made = Ctnr(runtime, home, tree)
    yield made
    for name in made.runtime.ids():
        made("delete", "--force", name)


@pytest.fixture
def root_ctnr(ctnr: Ctnr) -> Ctnr:
    if ctnr.user.rootless:
        pytest.skip("not applicable: this is root's")
    return ctnr


def cgroup_file(name: str, controller: str) -> str:
    """Where a container reads a limit of its own, on a machine like this one."""
    return f"/sys/fs/cgroup/{controller}/{name}" if machine.cgroup_mode() != "v2" else f"/sys/fs/cgroup/{name}"


# --- what everybody gets


def test_the_sandbox(ctnr: Ctnr) -> None:
    seen = ctnr.probe()
    new = {"pid", "ipc", "uts", "mnt", "cgroup"} | ({"user"} if ctnr.user.rootless else set())
    assert kernel.new_namespaces(seen) >= new
    assert "net" not in kernel.new_namespaces(seen)
    assert (seen["uids"][0], seen["gids"][0], seen["cwd"]) == (0, 0, "/")
    status = kernel.status(seen)
    from ctnr.engine.config import DEFAULT_CAPABILITIES

    sets = kernel.capabilities(seen)
    assert sets["effective"] == sets["permitted"] == sets["bounding"] == set(DEFAULT_CAPABILITIES)
    assert sets["inheritable"] == sets["ambient"] == set()
    assert status["NoNewPrivs"] == "0"
    names = {entry.split("=")[0] for entry in seen["env"]}
    assert names == {"PATH", "HOSTNAME", "container", "HOME"}
    assert kernel.mount_at(seen, "/proc").type == "proc"
    assert "ro" in kernel.mount_at(seen, "/proc/sys").options
    assert "ro" in kernel.mount_at(seen, "/sys").options


def test_pid_one(ctnr: Ctnr) -> None:
    assert ctnr.sh("echo $$; cd /proc; echo [0-9]*").split() == ["1", "1"]


def test_devices_there_are(ctnr: Ctnr) -> None:
    script = "for d in null zero full random urandom tty; do [ -c /dev/$d ] || echo no $d; done;"
    script += (
        "echo x >/dev/null; head -c 3 /dev/zero | wc -c; [ -L /dev/fd ]; [ -d /dev/shm ]; [ -L /dev/stdout ]; echo out"
    )
    assert ctnr.sh(script).split() == ["3", "out"]


def test_dev_null_can_be_created_by_anybody(ctnr: Ctnr) -> None:
    """open(O_CREAT) in a sticky /dev fails for somebody else's device; apt's gpgv then seems not to be installed."""
    if ctnr.user.kind != ONE_ID:
        assert ctnr.sh("echo x > /dev/null; echo fine", "--user", "1000") == "fine\n"
    assert ctnr.sh("echo x > /dev/null; echo fine") == "fine\n"


@pytest.mark.parametrize("network", ["host", "none"])
def test_names_just_work(ctnr: Ctnr, network: str) -> None:
    script = "hostname; cat /etc/hostname; cat /etc/resolv.conf; echo --; cat /etc/hosts"
    out = ctnr.sh(script, "--hostname", "web", "--network", network)
    names, hosts = out.split("--\n")
    assert names == "web\nweb\n" + Path("/etc/resolv.conf").read_text()
    assert "127.0.1.1\tweb" in hosts
    assert "localhost" in hosts


@pytest.mark.parametrize(
    "target", ["../run/systemd/resolve/stub-resolv.conf", "/run/x/y/resolv.conf", "nowhere", "/etc/../../../x"]
)
def test_resolv_conf_as_a_dangling_symlink(ctnr: Ctnr, target: str) -> None:
    (ctnr.tree / "etc/resolv.conf").symlink_to(target)
    assert ctnr.sh("cat /etc/resolv.conf") == Path("/etc/resolv.conf").read_text()
    assert not Path("/run/x").exists()


def test_a_tree_without_etc(ctnr: Ctnr) -> None:
    import shutil

    shutil.rmtree(ctnr.tree / "etc")
    assert ctnr.sh("cat /etc/hostname", "--hostname", "x") == "x\n"


# --- SOURCE


def test_a_directory_is_used_as_it_is(ctnr: Ctnr) -> None:
    ctnr.sh("echo kept > /file")
    assert (ctnr.tree / "file").read_text() == "kept\n"
    assert (ctnr.tree / "file").stat().st_uid == ctnr.user.uid
    # by a relative name
    assert ctnr.run("tree", "cat", "/file").ok().out == "kept\n"
    assert ctnr.run("./tree/", "cat", "/file").ok().out == "kept\n"


def test_a_directory_of_somebody_else_is_not_changed(ctnr: Ctnr, busybox_root: Path) -> None:
    if not ctnr.user.rootless:
        pytest.skip("not applicable: everything is root's")
    done = ctnr.run(
        busybox_root, "sh", "-ec", "mkdir /tmp/x; echo y > /tmp/x/y; cat /tmp/x/y; cat /etc/hostname", cwd="/"
    )
    assert done.ok().out.startswith("y\n")
    assert os.listdir(busybox_root / "tmp") == []


def pack(tree: Path, to: Path, program: str | None) -> Path:
    with tarfile.open(to, "w") as archive:
        archive.add(tree, ".", filter=owned_by_root)
    if program:
        [path] = machine.need(program)
        subprocess.run([path, "-q", str(to)], check=True)
        [to] = [p for p in to.parent.iterdir() if p.name.startswith(to.name) and p != to]
    to.chmod(0o644)
    return to


def owned_by_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 1000 if entry.name == "./home/alice" else 0
    entry.uname = entry.gname = ""
    return entry


@pytest.mark.parametrize("program", [None, "gzip", "xz", "bzip2", "zstd"])
def test_an_archive(ctnr: Ctnr, program: str | None) -> None:
    archive = pack(ctnr.tree, ctnr.work / "root.tar", program)
    script = "touch /new; stat -c %u /bin/busybox /home/alice; cat /etc/hostname; id -u"
    done = ctnr.run("--hostname", "x", archive, "sh", "-ec", script).ok()
    alice = "0" if ctnr.user.kind == ONE_ID else "1000"
    assert done.out.split() == ["0", alice, "x", "0"]
    assert ctnr.stored() == []
    # the name says nothing
    other = archive.rename(archive.with_name("thing"))
    assert ctnr.run(other, "true").ok().err == ""


def test_files_of_other_ids_go_with_the_container(ctnr: Ctnr) -> None:
    archive = pack(ctnr.tree, ctnr.work / "root.tar", None)
    script = "mkdir /a; touch /a/b; chown -R 5:5 /a; chmod 700 /a" if ctnr.user.kind != ONE_ID else "mkdir -m 0 /a"
    ctnr.run(archive, "sh", "-ec", script).ok()
    ctnr.run("host:", "sh", "-ec", script).ok()
    assert (ctnr.stored(), ctnr.runtime.ids()) == ([], [])
    assert list(ctnr.runtime.state_root.iterdir()) == []


def test_a_tight_umask_is_not_the_containers(ctnr: Ctnr) -> None:
    if ctnr.user.kind == ONE_ID:
        pytest.skip("not applicable: there is no other user")
    archive = pack(ctnr.tree, ctnr.work / "root.tar", None)
    for source in (archive, ctnr.tree, "host:"):
        words = shlex.join(ctnr.argv("run", "-u", "1000", source, "cat", "/etc/resolv.conf"))
        done = runtimes.call(
            ["/bin/sh", "-c", f"umask 077; exec {words}"], ctnr.user, env={"CTNR_STORE": str(ctnr.store)}
        )
        assert done.ok().out == Path("/etc/resolv.conf").read_text()


@pytest.mark.parametrize("size", [0, 10, 700, -20])
def test_what_is_no_archive(ctnr: Ctnr, size: int) -> None:
    archive = pack(ctnr.tree, ctnr.work / "root.tar", "gzip")
    data = archive.read_bytes() if size else b""
    (ctnr.work / "bad").write_bytes(data[:size])
    assert "bad" in ctnr.refused(ctnr.work / "bad", "true")
    (ctnr.work / "text").write_text("no archive at all\n" * 100)
    assert "text" in ctnr.refused(ctnr.work / "text", "true")


@pytest.mark.parametrize("name", ["../evil", "/etc/../../evil", "link/evil"])
def test_hostile_archives(ctnr: Ctnr, name: str) -> None:
    import io

    path = ctnr.work / "hostile.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(ctnr.tree, ".", filter=owned_by_root)
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, str(ctnr.work)
        archive.addfile(link)
        entry = tarfile.TarInfo(name)
        entry.size = 4
        archive.addfile(entry, io.BytesIO(b"evil"))
    before = sorted(os.listdir(ctnr.work))
    done = ctnr.run(path, "true")
    assert done.code in (0, 125), str(done)
    assert sorted(set(os.listdir(ctnr.work)) - {"store"}) == before
    assert ctnr.stored() == []
    assert not (ctnr.work / "evil").exists()


def test_the_machines_own_root(ctnr: Ctnr) -> None:
    script = "test -d /usr/bin; echo x > /usr/written; echo x > /etc/written; mkdir /written; echo x > /tmp/a; echo x > /run/a; "
    script += "cat /usr/written /etc/written; ls -A /tmp; stat -c %a /tmp"
    if ctnr.user.rootless:
        script = (
            script.replace("/usr/written", "/written/u")
            .replace("mkdir /written;", "")
            .replace("echo x > /written/u", "mkdir /written; echo x > /written/u")
        )
        script = script.replace("/etc/written", "/written/e")
    done = ctnr.run("host:", "sh", "-ec", script).ok()
    assert done.out.split() == ["x", "x", "a", "1777"]
    for path in ("/usr/written", "/etc/written", "/written", "/tmp/a", "/run/a"):
        assert not os.path.exists(path)


def test_the_machines_own_root_read_only(ctnr: Ctnr) -> None:
    script = "for d in / /etc /usr /usr/bin /var; do touch $d/written 2>/dev/null && echo $d; done; "
    script += "touch /tmp/x /run/x; cat /etc/hostname"
    assert ctnr.run("--read-only", "--hostname", "x", "host:", "sh", "-c", script).ok().out == "x\n"


# --- how it ends


@pytest.mark.parametrize(
    ("flags", "command", "code", "words"),
    [
        ([], ["sh", "-c", "exit 0"], 0, ""),
        ([], ["sh", "-c", "exit 42"], 42, ""),
        ([], ["sh", "-c", "exec 2>/dev/null; sleep 100 & kill -9 $!; wait $!"], 137, ""),
        (["--init"], ["sh", "-c", "kill -9 $$"], 137, ""),
        (["--init"], ["sh", "-c", "kill -15 $$"], 143, ""),
        (["--init"], ["sh", "-c", "exit 3"], 3, ""),
        ([], ["nope"], 127, 'exec: "nope": executable file not found in $PATH'),
        ([], ["/nope"], 127, 'exec: "/nope": no such file or directory'),
        (["--init"], ["/nope"], 127, 'exec: "/nope": no such file or directory'),
        ([], ["/not-executable"], 126, 'exec: "/not-executable": permission denied'),
        ([], ["/etc"], 126, 'exec: "/etc": is a directory'),
        ([], ["/no-interpreter"], 127, "exec /no-interpreter: no such file or directory: its interpreter is missing"),
        ([], ["/no-format"], 126, "exec /no-format: exec format error"),
        (["--workdir", "/etc/passwd"], ["true"], 125, "--workdir: chdir to cwd"),
        (["--entrypoint", "nope"], ["true"], 127, 'exec: "nope"'),
        (["--nope"], ["true"], 125, "unknown option --nope"),
        (["--memory", "x"], ["true"], 125, "--memory: 'x' is not a size"),
        (["--mount", "type=bind,source=/nope,target=/x"], ["true"], 125, "--mount: "),
    ],
)
def test_exit_codes(ctnr: Ctnr, flags: list[str], command: list[str], code: int, words: str) -> None:
    for name, text in (("no-interpreter", "#!/nope\n"), ("no-format", "\0\0\0\0")):
        (ctnr.tree / name).write_text(text)
        (ctnr.tree / name).chmod(0o755)
    done = ctnr.run(*flags, ctnr.tree, *command)
    assert done.code == code, str(done)
    if words:
        assert words in done.error_line, str(done)
    else:
        assert done.err == ""
    assert ctnr.runtime.ids() == []


def test_the_wrong_source(ctnr: Ctnr) -> None:
    assert "SOURCE is missing" in ctnr.refused()
    assert "no such file or directory: give host:" in ctnr.refused("/nope", "true")
    assert "unknown source 'docker://x'" in ctnr.refused("docker://x", "true")
    (ctnr.work / "top").symlink_to("/")
    assert "machine's own root" in ctnr.refused(ctnr.work / "top", "true") or ctnr.user.rootless


def test_the_end_of_stdin(ctnr: Ctnr) -> None:
    assert ctnr.run(ctnr.tree, "cat", stdin="text").ok().out == ""
    assert ctnr.run("-i", ctnr.tree, "cat", stdin="text").ok().out == "text"
    assert ctnr.sh("readlink /proc/self/fd/0", stdin="text") == "/dev/null\n"


def test_stdout_and_stderr_are_two(ctnr: Ctnr) -> None:
    done = ctnr.run(ctnr.tree, "sh", "-c", "echo out; echo err >&2")
    assert (done.out, done.err) == ("out\n", "err\n")


def test_words_after_the_command_are_its_own(ctnr: Ctnr) -> None:
    assert ctnr.run(ctnr.tree, "echo", "--rm", "-it", "--", "-x").ok().out == "--rm -it -- -x\n"
    assert ctnr.run("-e", "A=1", ctnr.tree, "env", "-u", "A", "env").ok().out.count("A=") == 0


def test_a_lot_of_output(ctnr: Ctnr) -> None:
    done = ctnr.run(ctnr.tree, "sh", "-c", "head -c 5000000 /dev/zero | tr '\\0' x").ok()
    assert len(done.out) == 5000000


@pytest.mark.parametrize("init", [False, True])
def test_signals_are_sent_on(ctnr: Ctnr, init: bool) -> None:
    script = "trap 'echo usr1' USR1; trap 'exit 9' TERM; trap 'echo hup' HUP; echo ready; while :; do sleep 0.05; done"
    process = ctnr.popen(*(["--init"] if init else []), ctnr.tree, "sh", "-c", script, stdout=subprocess.PIPE)
    assert read_line(process) == "ready"
    for number, word in ((signal.SIGUSR1, "usr1"), (signal.SIGHUP, "hup")):
        process.send_signal(number)
        assert read_line(process) == word
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 9
    process.stdout.close()
    finished(process)
    assert ctnr.runtime.ids() == []


def test_sigint_ends_what_has_no_handler_under_init(ctnr: Ctnr) -> None:
    process = ctnr.popen("--init", ctnr.tree, "sh", "-c", "echo ready; exec sleep 1000", stdout=subprocess.PIPE)
    assert read_line(process) == "ready"
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    process.stdout.close()
    finished(process)


# --- processes


def test_init_reaps(ctnr: Ctnr) -> None:
    script = "sh -c 'true & exec true'; i=0; "
    script += "while ps -o stat | grep -q Z; do i=$((i+1)); [ $i -lt 200 ] || exit 5; sleep 0.02; done; "
    script += "ps -o pid,args | head -2"
    out = ctnr.sh(script, "--init")
    assert " 1 " in out.splitlines()[1]
    assert "ctnr-init" in out.splitlines()[1]


def test_what_is_left_behind_ends_with_it(ctnr: Ctnr) -> None:
    assert ctnr.run(ctnr.tree, "sh", "-c", "sleep 1000 & echo done").ok().out == "done\n"


# --- flags


def test_env(ctnr: Ctnr) -> None:
    (ctnr.work / "vars").write_text('# comment\n\nFROM_FILE=a b\nA=file\nINHERITED\nQUOTED="x"\n')
    out = (
        ctnr.run(
            *("-e", "A=1", "--env=B=x=y", "-eC=", "-e", "INHERITED2", "-e", "NOT_THERE", "--env-file", "vars"),
            *(ctnr.tree, "env"),
            env={"INHERITED": "i", "INHERITED2": "j"},
        )
        .ok()
        .out
    )
    found = dict(line.split("=", 1) for line in out.splitlines())
    assert {name: found.get(name) for name in ("A", "B", "C", "FROM_FILE", "INHERITED", "INHERITED2", "QUOTED")} == {
        "A": "1",
        "B": "x=y",
        "C": "",
        "FROM_FILE": "a b",
        "INHERITED": "i",
        "INHERITED2": "j",
        "QUOTED": '"x"',
    }
    assert "NOT_THERE" not in found
    assert found["HOME"] == "/root"
    assert "nope" in ctnr.refused("--env-file", "nope", ctnr.tree, "true")
    (ctnr.work / "vars").write_text("A=1\n=2\n")
    assert "vars line 2" in ctnr.refused("--env-file", "vars", ctnr.tree, "true")


def test_nothing_of_the_callers_environment_is_inside(ctnr: Ctnr) -> None:
    assert "SECRET" not in ctnr.run(ctnr.tree, "env", env={"SECRET": "x"}).ok().out


def test_workdir(ctnr: Ctnr) -> None:
    assert ctnr.sh("pwd", "-w", "/work") == "/work\n"
    assert ctnr.sh("pwd; stat -c %u .", "-w", "/new/dir") == "/new/dir\n0\n"
    assert "must be an absolute path" in ctnr.refused("-w", "x", ctnr.tree, "true")


def test_user(ctnr: Ctnr) -> None:
    script = "id -u; id -g; id -G; echo $HOME"
    if ctnr.user.kind == ONE_ID:
        assert ctnr.sh(script, "-u", "0:0").split()[:2] == ["0", "0"]
        assert "/etc/subuid" in ctnr.refused("-u", "alice", ctnr.tree, "true")
        assert "/etc/subuid" in ctnr.refused("-u", "1", ctnr.tree, "true")
    else:
        assert ctnr.sh(script, "-u", "alice").split() == ["1000", "1000", "1000", "10", "/home/alice"]
        assert ctnr.sh(script, "-u", "alice:wheel").split() == ["1000", "10", "10", "/home/alice"]
        assert ctnr.sh(script, "-u", "1234:5").split()[:3] == ["1234", "5", "5"]
        assert ctnr.probe("-u", "alice")["uids"] == [1000] * 4 or ctnr.probe("-u", "alice")["uids"][0] == 1000
    for who in ("nobody-here", "01", "4294967295", "-1", "alice:nope"):
        assert "--user: " in ctnr.refused(f"--user={who}", ctnr.tree, "true")


def test_another_user_has_no_capabilities(ctnr: Ctnr) -> None:
    if ctnr.user.kind == ONE_ID:
        pytest.skip("not applicable: there is no other user")
    sets = kernel.capabilities(ctnr.probe("-u", "alice"))
    assert sets["effective"] == sets["permitted"] == sets["ambient"] == set()
    assert "CAP_CHOWN" in sets["bounding"]


def test_volumes(ctnr: Ctnr) -> None:
    (ctnr.work / "dir").mkdir()
    (ctnr.work / "dir/file").write_text("here\n")
    rootfs.give(ctnr.work / "dir", ctnr.user.uid, ctnr.user.gid)
    out = ctnr.sh("cat /a/file; echo new > /a/new; cat /f", "-v", f"{ctnr.work}/dir:/a", "-v", "./dir/file:/f")
    assert out == "here\nhere\n"
    assert (ctnr.work / "dir/new").read_text() == "new\n"
    assert (ctnr.work / "dir/new").stat().st_uid == ctnr.user.uid
    script = (
        "cat /a/file; (echo x > /a/ro) 2>/dev/null && echo written; :; (echo x > /f) 2>/dev/null && echo written; :"
    )
    assert ctnr.sh(script, "-v", "./dir:/a:ro", "-v", "./dir/file:/f:ro") == "here\n"
    # where nothing is, and below what the image has
    assert ctnr.sh("cat /x/y/z/file /usr/file", "-v", "./dir:/x/y/z", "-v", "./dir/file:/usr/file") == "here\nhere\n"


def test_a_missing_volume_is_made(ctnr: Ctnr) -> None:
    ctnr.sh("echo x > /a/b", "-v", "./new/er:/a")
    assert (ctnr.work / "new/er/b").read_text() == "x\n"
    line = ctnr.refused("-v", "/proc/nope/x:/a", ctnr.tree, "true")
    assert "--volume: make /proc/nope/x" in line


def test_read_only_volumes_are_so_below(root_ctnr: Ctnr) -> None:
    ctnr = root_ctnr
    (ctnr.work / "dir/sub").mkdir(parents=True)
    script = f"mount -t tmpfs none {ctnr.work}/dir/sub && exec " + shlex.join(
        ctnr.argv(
            "run", "-v", f"{ctnr.work}/dir:/a:ro", ctnr.tree, "sh", "-c", "touch /a/x || touch /a/sub/x || echo ro"
        )
    )
    [unshare] = machine.need("unshare")
    done = subprocess.run([unshare, "-m", "sh", "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "ro\n", done


def test_volumes_in_volumes(ctnr: Ctnr) -> None:
    for name in ("a", "b"):
        (ctnr.work / name).mkdir()
        (ctnr.work / name / "which").write_text(f"{name}\n")
        rootfs.give(ctnr.work / name, ctnr.user.uid, ctnr.user.gid)
    assert ctnr.sh("cat /v/which /v/sub/which", "-v", "./b:/v/sub", "-v", "./a:/v") == "a\nb\n"


def test_a_volume_whose_place_is_a_symlink_stays_inside(ctnr: Ctnr) -> None:
    (ctnr.work / "dir").mkdir()
    rootfs.give(ctnr.work / "dir", ctnr.user.uid, ctnr.user.gid)
    (ctnr.tree / "out").symlink_to("/../../../" + str(ctnr.work))
    ctnr.sh("touch /out/x", "-v", "./dir:/out")
    assert (ctnr.work / "dir/x").exists()
    assert not (ctnr.work / "x").exists()


def test_mount(ctnr: Ctnr) -> None:
    (ctnr.work / "a,b").mkdir()
    (ctnr.work / "a,b/file").write_text("here\n")
    flag = f'type=bind,"source={ctnr.work}/a,b",target=/a,readonly'
    script = "cat /a/file; if touch /a/x 2>/dev/null; then echo written; fi; stat -f -c %T /t; stat -c %a /t; df -k /t | tail -1"
    out = ctnr.sh(script, "--mount", flag, "--mount", "type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=700").splitlines()
    assert out[:3] == ["here", "tmpfs", "700"]
    assert out[3].split()[1] == "1024"
    assert (
        ctnr.sh("cat /a/file", "--mount", "type=bind,source=a,target=/a", cwd=ctnr.work)
        if (ctnr.work / "a").exists()
        else True
    )
    assert "source" in ctnr.refused("--mount", "type=bind,source=/nope,target=/x", ctnr.tree, "true")


def test_tmpfs(ctnr: Ctnr) -> None:
    (ctnr.tree / "work/file").write_text("covered")
    out = ctnr.sh("ls -A /work; grep ' /work ' /proc/mounts; echo x > /work/x", "--tmpfs", "/work:size=64k,mode=750")
    assert "nosuid,nodev,noexec" in out
    assert "size=64k,mode=750" in out
    assert ctnr.sh("cp /bin/busybox /t/echo; /t/echo ran", "--tmpfs", "/t:exec") == "ran\n"


def test_read_only(ctnr: Ctnr) -> None:
    script = "if touch /x 2>/dev/null; then echo written; fi; touch /dev/shm/x /t/x; cat /etc/hostname"
    assert ctnr.sh(script, "--read-only", "--tmpfs", "/t", "--hostname", "h") == "h\n"
    assert not (ctnr.tree / "x").exists()


def test_entrypoint(ctnr: Ctnr) -> None:
    assert ctnr.run("--entrypoint", "echo", ctnr.tree, "a", "b").ok().out == "a b\n"
    assert ctnr.run("--entrypoint", "", ctnr.tree, "echo", "c").ok().out == "c\n"


def test_capabilities(ctnr: Ctnr) -> None:
    seen = kernel.capabilities(ctnr.probe("--cap-drop", "ALL", "--cap-add", "net_raw"))
    assert seen["effective"] == seen["bounding"] == {"CAP_NET_RAW"}
    assert "CAP_CHOWN" not in kernel.capabilities(ctnr.probe("--cap-drop", "CAP_CHOWN"))["bounding"]
    if ctnr.user.rootless:
        assert len(kernel.capabilities(ctnr.probe("--cap-add", "ALL"))["effective"]) >= 38
    else:
        # as many as there are to give
        mine = int(
            next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("CapBnd")).split()[1], 16
        )
        numbers = kernel.capability_numbers()
        given = {name for name, bit in numbers.items() if mine >> bit & 1}
        assert kernel.capabilities(ctnr.probe("--cap-add", "ALL"))["effective"] == given


def test_privileged(ctnr: Ctnr) -> None:
    out = ctnr.sh(
        "mount -t tmpfs none /mnt; echo mounted; ls /dev | wc -l; head -c 1 /proc/sys/kernel/ostype", "--privileged"
    )
    words = out.split()
    assert words[0] == "mounted"
    assert int(words[1]) > 20
    seen = ctnr.probe("--privileged")
    assert "rw" in kernel.mount_at(seen, "/sys").options or ctnr.user.rootless
    assert not [m for m in kernel.mounts(seen) if m.point == "/proc/sys"]


def test_security_opt(ctnr: Ctnr) -> None:
    assert kernel.status(ctnr.probe("--security-opt", "no-new-privileges"))["NoNewPrivs"] == "1"
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}],
    }
    (ctnr.work / "profile.json").write_text(json.dumps(profile))
    out = ctnr.sh("if mkdir /tmp/x 2>&1; then :; fi", "--security-opt", "seccomp=profile.json")
    assert "not supported" in out.lower()
    assert ctnr.sh("wc -c < /proc/cpuinfo", "--security-opt", "mask=/proc/cpuinfo") == "0\n"
    assert ctnr.sh("grep -c ' /proc/' /proc/mounts || :", "--security-opt", "systempaths=unconfined") == "0\n"


def test_ulimits(ctnr: Ctnr) -> None:
    limits = kernel.limits(ctnr.probe("--ulimit", "nofile=64:128", "--ulimit", "core=0")["limits"])
    assert limits["RLIMIT_NOFILE"] == (64, 128)
    assert limits["RLIMIT_CORE"] == (0, 0)
    line = ctnr.refused("--ulimit", "nofile=1000000000", ctnr.tree, "true")
    assert "--ulimit: " in line


def limited(ctnr: Ctnr, controller: str) -> bool:
    """Whether the user may have a cgroup with that controller; where not, the flag is refused."""
    return not ctnr.user.rootless


def test_memory(ctnr: Ctnr) -> None:
    script = "x=$(head -c 100000000 /dev/zero | tr '\\0' x); echo survived"
    if not limited(ctnr, "memory"):
        assert "--memory" in ctnr.refused("--memory", "32m", ctnr.tree, "true")
        return
    done = ctnr.run("--memory", "32m", ctnr.tree, "sh", "-c", f"exec sh -c {shlex.quote(script)}")
    assert (done.code, done.out) == (137, ""), str(done)
    name = "memory.max" if machine.cgroup_mode() == "v2" else "memory.limit_in_bytes"
    assert ctnr.sh(f"cat {cgroup_file(name, 'memory')}", "-m", "32m") == f"{32 << 20}\n"
    assert "at least 6m" in ctnr.refused("--memory", "1k", ctnr.tree, "true")


def test_pids_limit(ctnr: Ctnr) -> None:
    script = "for i in 1 2 3 4 5 6 7 8 9; do sleep 1000 & done 2>/dev/null; echo all"
    if not limited(ctnr, "pids"):
        assert "--pids-limit" in ctnr.refused("--pids-limit", "5", ctnr.tree, "true")
        return
    done = ctnr.run("--pids-limit", "5", ctnr.tree, "sh", "-c", script)
    assert (done.code != 0, done.out) == (True, ""), str(done)
    assert ctnr.run("--pids-limit", "50", ctnr.tree, "sh", "-c", script).ok().out == "all\n"
    assert ctnr.run("--pids-limit", "-1", ctnr.tree, "sh", "-c", script).ok().out == "all\n"


def test_cpus(ctnr: Ctnr) -> None:
    if not limited(ctnr, "cpu"):
        assert "--cpus" in ctnr.refused("--cpus", "0.5", ctnr.tree, "true")
        return
    if machine.cgroup_mode() == "v2":
        assert ctnr.sh(f"cat {cgroup_file('cpu.max', 'cpu')}", "--cpus", "0.5") == "50000 100000\n"
    else:
        assert ctnr.sh(f"cat {cgroup_file('cpu.cfs_quota_us', 'cpu')}", "--cpus", "0.5") == "50000\n"


def test_device(ctnr: Ctnr) -> None:
    script = "stat -c %t:%T /dev/other; head -c 2 /dev/other | wc -c"
    assert ctnr.sh(script, "--device", "/dev/zero:/dev/other") == "1:5\n2\n"
    assert "--device: /dev/nope: no such file" in ctnr.refused("--device", "/dev/nope", ctnr.tree, "true")
    assert "is not a device" in ctnr.refused("--device", "/etc/passwd", ctnr.tree, "true")


def test_the_device_cgroup(root_ctnr: Ctnr) -> None:
    ctnr = root_ctnr
    # not among the default devices; anybody's open of it does nothing
    machine.need_that(os.path.exists("/dev/fuse"), "/dev/fuse is not there")
    node = "mknod /dev/n c 10 229; if (: < /dev/n) 2>/dev/null; then echo opened; else echo refused; fi"
    assert ctnr.sh(node, "--cap-add", "MKNOD") == "refused\n"
    assert ctnr.sh(node, "--cap-add", "MKNOD", "--device", "/dev/fuse:r") == "opened\n"
    assert ctnr.sh("(echo x > /dev/fuse) 2>/dev/null && echo written; :", "--device", "/dev/fuse:r") == ""


def test_network_none(ctnr: Ctnr) -> None:
    out = ctnr.sh(
        "cd /sys/class/net; echo *; cat /sys/class/net/lo/operstate; ping -c 1 -W 2 127.0.0.1 >/dev/null && echo pong",
        "--network",
        "none",
        "--cap-add",
        "NET_RAW",
    )
    assert out.split() == ["lo", "unknown", "pong"]


def test_hostname(ctnr: Ctnr) -> None:
    assert ctnr.sh("hostname; echo $HOSTNAME", "-h", "a.b") == "a.b\na.b\n"
    name = new_id()
    assert ctnr.sh("hostname", "--rm", "--name", name) == name[:12].rstrip("-") + "\n"
    assert "--hostname: " in ctnr.refused("--hostname", "a b", ctnr.tree, "true")


# --- names


def test_nameless_containers_vanish(ctnr: Ctnr) -> None:
    ctnr.run(ctnr.tree, "true").ok()
    assert ctnr("ps", "-aq").ok().out == ""


def test_named_ones_stay(ctnr: Ctnr) -> None:
    name = new_id()
    assert ctnr.run("--name", name, ctnr.tree, "sh", "-c", "exit 3").code == 3
    assert ctnr("ps", "-q").ok().out == ""
    row = json.loads(ctnr("ps", "-a", "--format", "json").ok().out)
    assert (row["Names"], row["State"], row["Command"], row["Image"]) == (
        name,
        "exited",
        '"sh -c exit 3"',
        str(ctnr.tree),
    )
    assert ctnr("state", name).ok().json()["status"] == "stopped"
    done = ctnr.run("--name", name, ctnr.tree, "true")
    assert done.code == 125
    assert f"--name: {name} is taken" in done.error_line
    ctnr("delete", name).ok()
    assert ctnr("ps", "-aq").ok().out == ""


def test_named_ones_vanish_with_rm(ctnr: Ctnr) -> None:
    ctnr.run("--rm", "--name", new_id(), ctnr.tree, "true").ok()
    assert ctnr.runtime.ids() == []


def test_an_archive_stays_with_its_name(ctnr: Ctnr) -> None:
    archive = pack(ctnr.tree, ctnr.work / "root.tar", None)
    name = new_id()
    ctnr.run("--name", name, archive, "sh", "-c", "echo x > /written").ok()
    assert (ctnr.store / "containers" / name / "rootfs/written").exists() or ctnr.user.rootless
    assert ctnr.stored() == [f"containers/{name}"]
    ctnr("delete", name).ok()
    assert ctnr.stored() == []


@pytest.mark.parametrize("name", ["a/b", "..", ".x", "-x", "a b", "ä"])
def test_bad_names(ctnr: Ctnr, name: str) -> None:
    ctnr.refused(f"--name={name}", ctnr.tree, "true")


def test_ps_and_exec_beside_it(ctnr: Ctnr) -> None:
    name = new_id()
    process = ctnr.popen(
        "--rm", "--name", name, ctnr.tree, "sh", "-c", "echo ready; exec sleep 1000", stdout=subprocess.PIPE
    )
    assert read_line(process) == "ready"
    assert ctnr("ps", "--format", "{{.ID}} {{.Image}} {{.State}}").ok().out == f"{name} {ctnr.tree} running\n"
    assert ctnr("exec", name, "hostname").ok().out == name[:12].rstrip("-") + "\n"
    ctnr("kill", name, "KILL").ok()
    assert process.wait(20) == 137
    process.stdout.close()
    finished(process)
    assert ctnr.runtime.ids() == []


# --- --explain


def test_explain_makes_nothing(ctnr: Ctnr) -> None:
    archive = pack(ctnr.tree, ctnr.work / "root.tar", "gzip")
    before = leaks.Snapshot.take()
    for source in ("host:", str(ctnr.tree), str(archive)):
        done = (
            ctnr.run(
                "--explain", "-v", "./missing:/x", "--memory", "64m" if not ctnr.user.rootless else "0", source, "id"
            )
            if not ctnr.user.rootless
            else ctnr.run("--explain", "-v", "./missing:/x", source, "id")
        )
        assert "[process.args]" in done.ok().out
        assert "[mounts[0]]" in done.out
    # names are in the archive, which is not looked into
    assert "[process.user]" in ctnr.run("--explain", "--user", "0:0", archive, "id").ok().out
    assert "--user: unable to find user alice" in ctnr.refused("--explain", "--user", "alice", archive, "id")
    assert not (ctnr.work / "missing").exists()
    assert ctnr.runtime.ids() == []
    assert not ctnr.store.exists()
    assert leaks.Snapshot.take().left_behind(before) == {}


# --- kill -9


def test_killed_while_it_runs(ctnr: Ctnr) -> None:
    """The container goes on, in view of ps, and delete --force is enough; once it has ended the next run removes it."""
    archive = pack(ctnr.tree, ctnr.work / "root.tar", None)
    process = ctnr.popen(archive, "sh", "-c", "echo $$; exec sleep 1000", stdout=subprocess.PIPE)
    assert read_line(process) == "1"
    process.kill()
    process.stdout.close()
    finished(process)
    [id] = ctnr.runtime.ids()
    assert ctnr("ps", "-q").ok().out == f"{id}\n"
    ctnr.run(ctnr.tree, "true").ok()
    assert ctnr.runtime.ids() == [id]  # it runs, and somebody may want it
    ctnr("kill", id, "KILL").ok()
    ctnr.runtime.wait_status(id, "stopped")
    ctnr.run(ctnr.tree, "true").ok()
    assert ctnr.runtime.ids() == []
    assert ctnr.stored() == []


def test_killed_with_a_name(ctnr: Ctnr) -> None:
    name = new_id()
    for flags in (["--rm"], []):
        process = ctnr.popen(
            *flags, "--name", name, ctnr.tree, "sh", "-c", "echo ready; sleep 1000", stdout=subprocess.PIPE
        )
        assert read_line(process) == "ready"
        process.kill()
        process.stdout.close()
        finished(process)
        if flags:
            ctnr("kill", name, "KILL").ok()
            ctnr.runtime.wait_status(name, "stopped")
            ctnr.run("--rm", "--name", name, ctnr.tree, "true").ok()  # the name is free again
        else:
            ctnr("delete", "--force", name).ok()
    assert ctnr.runtime.ids() == []


def test_killed_at_any_time(root_ctnr: Ctnr) -> None:
    """SIGKILL at system calls spread over a whole run; then one more run, and delete --force of what is still in view."""
    ctnr = root_ctnr
    archive = pack(ctnr.tree, ctnr.work / "root.tar", None)
    [strace] = machine.need("strace")
    log = ctnr.work / "strace"
    words = ctnr.argv("run", archive, "true")
    env = {"CTNR_STORE": str(ctnr.store)}
    runtimes.call([strace, "-qqq", "-o", str(log), *words], ctnr.user, env=env).ok()
    calls = [line.split("(")[0] for line in log.read_text(errors="replace").splitlines() if "(" in line]
    seen: dict[str, int] = {}
    points = []
    for name in calls:
        seen[name] = seen.get(name, 0) + 1
        points.append((name, seen[name]))
    count = int(os.environ.get("CTNR_TEST_KILLS", "30")) or len(points)
    for name, number in points[len(points) // 3 :: max(1, len(points) * 2 // 3 // count)]:
        done = runtimes.call(
            [strace, "-qqq", "-o", "/dev/null", "-e", f"inject={name}:signal=KILL:when={number}", *words],
            ctnr.user,
            env=env,
        )
        assert done.code in (-9, 0, 137), str(done)
        ctnr.run(ctnr.tree, "true").ok()
        for id in ctnr.runtime.ids():
            ctnr("delete", "--force", id).ok()
        leaks.reap()
        assert ctnr.stored() == [], (name, number)


# --- one more way in


def test_a_terminal_of_its_own(ctnr: Ctnr) -> None:
    from support.terminals import Behind

    behind = Behind(
        ctnr.argv("run", "-it", ctnr.tree, "sh", "-c", "tty; stty size; echo $TERM; exit 5"),
        ctnr.user,
        rows=33,
        cols=111,
    )
    out = behind.read_all()
    assert behind.process.wait(20) == 5
    finished(behind.process)
    behind.close()
    assert out.split() == ["/dev/pts/0", "33", "111", "xterm"]


def test_many_at_once(ctnr: Ctnr) -> None:
    processes = [ctnr.popen(ctnr.tree, "sh", "-c", f"exit {n}") for n in range(12)]
    assert [process.wait(60) for process in processes] == list(range(12))
    for process in processes:
        finished(process)
    assert ctnr.runtime.ids() == []
