# SPDX-License-Identifier: Apache-2.0
"""Bad input: a one-line error that names what was wrong and where, the right exit code, and nothing left behind."""

from __future__ import annotations

import io
import json
import os
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import leaks, machine, rootfs, runtimes, users
from support.bad_configs import CONFIGS
from support.bundles import Bundle, MakeBundle, new_id
from support.runtimes import MakeRuntime, Result, Runtime
from support.users import User

Json = dict[str, Any]


def refused(done: Result, code: int, *wanted: str) -> None:
    """One line on stderr, nothing on stdout, the exit code, and every word that was wanted."""
    assert done.code == code, str(done)
    line = done.error_line
    for word in wanted:
        assert word in line, f"{word!r} is not in: {line}"
    assert done.out == "", str(done)


# ---------------------------------------------------------------- config.json


@pytest.fixture
def ours(ctnr_oci: Path) -> None:
    if Path(ctnr_oci).name in ("runc", "crun"):
        pytest.skip("not applicable: peers have other words, and take some of it")


@pytest.mark.parametrize("verb", ["create", "run"])
@pytest.mark.parametrize("what", CONFIGS)
def test_config(what: str, verb: str, ours: None, root_runtime: Runtime, root: User, bundle_of: MakeBundle) -> None:
    change, words = CONFIGS[what]
    box = bundle_of(root)
    change(box.config)
    box.save()
    refused(root_runtime.quiet(verb, "--bundle", str(box.path), new_id()), 1, *words)
    assert root_runtime.ids() == []


@pytest.mark.parametrize(
    "what", ["a namespace path that is not there", "an unknown file system", "a bind source that is not there"]
)
def test_config_of_a_user(
    what: str, ours: None, rootless_user: User, runtimes_of: MakeRuntime, bundle_of: MakeBundle
) -> None:
    """What only the kernel can say, said inside a user namespace."""
    change, words = CONFIGS[what]
    box = bundle_of(rootless_user)
    change(box.config)
    box.save()
    runtime = runtimes_of(rootless_user)
    refused(runtime.quiet("run", "--bundle", str(box.path), new_id()), 1, *words)
    assert runtime.ids() == []


JSON_TEXTS = {
    "empty": b"",
    "a list": b"[]",
    "a string": b'"x"',
    "cut off": b'{"ociVersion": "1.0.2", "process": {',
    "trailing": b'{"ociVersion": "1.0.2"} {}',
    "no utf-8": b'{"ociVersion": "\xff"}',
    "NaN": b'{"ociVersion": NaN}',
    "very deep": b'{"a":' * 100000,
    "binary": bytes(range(256)),
}


@pytest.mark.parametrize("what", JSON_TEXTS)
def test_json(what: str, ours: None, root_runtime: Runtime, root: User, bundle_of: MakeBundle) -> None:
    box = bundle_of(root)
    (box.path / "config.json").write_bytes(JSON_TEXTS[what])
    refused(root_runtime.quiet("run", "--bundle", str(box.path), new_id()), 1)
    assert root_runtime.ids() == []


def test_no_bundle(ours: None, runtime: Runtime, work: Path) -> None:
    refused(runtime.quiet("run", "--bundle", str(work / "nowhere"), new_id()), 1, str(work / "nowhere"), "no such file")
    (work / "empty").mkdir()
    refused(runtime.quiet("create", "--bundle", str(work / "empty"), new_id()), 1, "config.json", "no such file")
    assert runtime.ids() == []


def test_a_bundle_that_is_a_file(ours: None, runtime: Runtime, work: Path) -> None:
    (work / "file").touch()
    refused(runtime.quiet("run", "--bundle", str(work / "file"), new_id()), 1, str(work / "file"))


def test_a_config_nobody_may_read(
    ours: None, rootless_user: User, runtimes_of: MakeRuntime, bundle_of: MakeBundle
) -> None:
    machine.need_root()
    box = bundle_of(rootless_user)
    (box.path / "config.json").chmod(0)
    runtime = runtimes_of(rootless_user)
    refused(runtime.quiet("run", "--bundle", str(box.path), new_id()), 1, "config.json", "permission denied")


def test_an_unknown_capability_is_a_warning(ours: None, runtime: Runtime, bundle: MakeBundle) -> None:
    box = bundle("/probe", "--exit", "4")
    box.process["capabilities"]["bounding"].append("CAP_TO_FLY")
    done = runtime.run(box)
    assert done.code == 4
    assert "CAP_TO_FLY" in done.error_line and "warning" in done.error_line


def test_unknown_properties_are_ignored(ours: None, runtime: Runtime, bundle: MakeBundle) -> None:
    box = bundle("/probe", "--exit", "4")
    box.config["newer"] = {"than": ["us"]}
    box.process["newer"] = 1
    box.linux["newer"] = None
    done = runtime.run(box)
    assert (done.code, done.err) == (4, "")


# ---------------------------------------------------------------- root filesystem and program


def test_a_missing_rootfs(ours: None, runtime: Runtime, bundle: MakeBundle) -> None:
    box = bundle()
    box.config["root"]["path"] = "nothing"
    box.save()
    refused(runtime.quiet("run", "--bundle", str(box.path), new_id()), 1, "root.path", "nothing", "no such file")


def test_a_rootfs_that_is_a_file(ours: None, runtime: Runtime, bundle: MakeBundle) -> None:
    box = bundle()
    box.config["root"]["path"] = "config.json"
    box.save()
    refused(runtime.quiet("run", "--bundle", str(box.path), new_id()), 1, "root.path", "not a directory")


@pytest.mark.parametrize("path", ["link", "/", "rootfs/../../../../../../../../.."])
def test_a_rootfs_that_is_the_machines_own(path: str, ours: None, runtime: Runtime, bundle: MakeBundle) -> None:
    box = bundle()
    (box.path / "link").symlink_to("/")
    box.config["root"]["path"] = path
    box.save()
    refused(runtime.quiet("run", "--bundle", str(box.path), new_id()), 1, "root.path")
    assert runtime.ids() == []


PROGRAMS = {
    "absolute, not there": ("/no/such/program", "no such file or directory"),
    "by name, not there": ("no-such-program", "executable file not found in $PATH"),
    "not executable": ("/not-executable", "permission denied"),
    "a directory": ("/etc", "is a directory"),
    "without its interpreter": ("/no-interpreter", "no such file or directory"),
    "no format anybody knows": ("/no-format", "exec format error"),
}


def program_bundle(bundle: MakeBundle, *args: str) -> Bundle:
    box = bundle(*args)
    box.file("/no-interpreter", "#!/no/such/interpreter\n", 0o755)
    box.file("/no-format", "\x01\x02", 0o755)
    return box


@pytest.mark.parametrize("what", PROGRAMS)
def test_programs(what: str, runtime: Runtime, bundle: MakeBundle) -> None:
    """podman makes 126 and 127 of these words."""
    program, words = PROGRAMS[what]
    box = program_bundle(bundle, program)
    done = runtime.run(box)
    assert words in done.err, str(done)
    if runtime.name == "ctnr":  # runc's init says some of it too late for its 1
        assert done.code == 1, str(done)
        assert program in done.error_line
    assert runtime.ids() == []


@pytest.mark.parametrize("what", PROGRAMS)
def test_programs_of_exec(what: str, runtime: Runtime, bundle: MakeBundle) -> None:
    program, words = PROGRAMS[what]
    id = runtime.start_detached(program_bundle(bundle, "/probe", "--wait"))
    done = runtime("exec", id, program)
    assert done.code == 255, str(done)
    assert words in done.err, str(done)
    assert runtime.status(id) == "running"
    runtime.stop(id)


def test_a_program_is_looked_for_in_the_containers_path(runtime: Runtime, bundle: MakeBundle) -> None:
    box = bundle("probe", "--exit", "6")
    box.process["env"] = ["PATH=/nowhere:/:/bin"]
    assert runtime.run(box).code == 6


def test_a_user_without_a_mapping(ours: None, runtimes_of: MakeRuntime, bundle_of: MakeBundle) -> None:
    user = users.get(users.ONE_ID)
    box = bundle_of(user)
    box.process["user"]["uid"] = 1000
    box.save()
    runtime = runtimes_of(user)
    refused(runtime.quiet("run", "--bundle", str(box.path), new_id()), 1, "process.user", "1000")


def test_ids_the_user_does_not_have(ours: None, runtimes_of: MakeRuntime, bundle_of: MakeBundle) -> None:
    user = users.get(users.ONE_ID)
    box = bundle_of(user)
    box.linux["uidMappings"].append({"containerID": 1, "hostID": 100000, "size": 65536})
    box.save()
    runtime = runtimes_of(user)
    refused(runtime.quiet("run", "--bundle", str(box.path), new_id()), 1, "uid")
    assert runtime.ids() == []


# ---------------------------------------------------------------- the command line

ARGUMENTS: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    (("run",), ()),
    (("create", "--no-such-option", "x"), ("--no-such-option",)),
    (("fly", "x"), ("fly",)),
    (("kill", "ID", "NOSUCH"), ("NOSUCH",)),
    (("create", "--preserve-fds", "many", "x"), ("--preserve-fds", "many")),
    (("--log-format", "xml", "list"), ("--log-format", "xml")),
    (("state",), ()),
    (("state", "a", "b"), ()),
    (("create", "--pid-file"), ("--pid-file",)),
]


@pytest.mark.parametrize(("words", "wanted"), ARGUMENTS, ids=lambda v: "-".join(v) if isinstance(v, tuple) else None)
def test_arguments(
    words: tuple[str, ...],
    wanted: tuple[str, ...],
    ours: None,
    root_runtime: Runtime,
    root: User,
    bundle_of: MakeBundle,
) -> None:
    box = bundle_of(root, "/probe", "--wait")
    id = root_runtime.start_detached(box) if "ID" in words else ""
    done = root_runtime.quiet(*(id if w == "ID" else w for w in words))
    assert done.code == 1, str(done)
    assert "Traceback" not in done.err and done.err.strip(), str(done)
    for word in wanted:
        assert word in done.err, str(done)


def test_errors_in_the_json_log(runtime: Runtime, bundle: MakeBundle, work: Path) -> None:
    """The shim reads the last line of level error."""
    box = bundle("/no/such/program").save()
    directory = work / "log"
    directory.mkdir()
    directory.chmod(0o777)
    log = directory / "log.json"
    done = runtime.quiet("--log", str(log), "--log-format", "json", "run", "--bundle", str(box.path), new_id())
    assert done.code == 1
    last = [json.loads(line) for line in log.read_text().splitlines()][-1]
    assert last["level"] == "error" and "no such file or directory" in last["msg"] and last["time"][:2] == "20"
    assert set(last) == {"level", "msg", "time"}


# ---------------------------------------------------------------- no permission, no user namespaces


def test_a_state_root_of_somebody_else(
    ours: None, rootless_user: User, runtimes_of: MakeRuntime, bundle_of: MakeBundle, work: Path
) -> None:
    machine.need_root()
    runtime = runtimes_of(rootless_user)
    locked = work / "locked"
    locked.mkdir(mode=0o700)
    box = bundle_of(rootless_user).save()
    argv = [str(runtime.path), "--root", str(locked / "state"), "run", "--bundle", str(box.path), new_id()]
    refused(runtimes.call(argv, rootless_user), 1, "permission denied", str(locked))


# Becomes an ordinary user of a user namespace whose limit of user namespaces is 0: the machine stays as it is.
NO_USERNS = """
import ctypes, os, sys
uid, gid = int(sys.argv[1]), int(sys.argv[2])
ready, go = os.pipe(), os.pipe()
if not (pid := os.fork()):
    os.read(ready[0], 1)
    for kind, id in (("uid", uid), ("gid", gid)):
        with open(f"/proc/{os.getppid()}/{kind}_map", "w") as file:
            file.write(f"0 0 1\\n{id} {id} 1\\n")
    os._exit(0)
if ctypes.CDLL(None, use_errno=True).unshare(0x10000000):
    raise OSError(ctypes.get_errno(), "unshare")
os.write(ready[1], b"x")
if os.waitpid(pid, 0)[1]:
    sys.exit("no id map")
with open("/proc/sys/user/max_user_namespaces", "w") as file:
    file.write("0")
os.setgroups([])
os.setresgid(gid, gid, gid)
os.setresuid(uid, uid, uid)
os.execv(sys.argv[3], sys.argv[3:])
"""


def test_no_user_namespaces_names_the_knob(
    ours: None, root: User, runtimes_of: MakeRuntime, bundle_of: MakeBundle
) -> None:
    user = users.get(users.ONE_ID)
    runtime = runtimes_of(user)
    box = bundle_of(user).save()
    words = runtime.argv("run", "--bundle", str(box.path), new_id())
    argv = [sys.executable, "-c", NO_USERNS, str(user.uid), str(user.gid), *words]
    done = runtimes.call(argv, root, env=user.env())
    refused(done, 1, "user.max_user_namespaces")
    assert runtime.ids() == []


# ---------------------------------------------------------------- ctnr run SOURCE


@pytest.fixture
def ctnr(ctnr_bin: Path, work: Path) -> Callable[..., Result]:
    """`ctnr run --rm ARGS` with a state root of the test's own."""

    def call(user: User, *args: str) -> Result:
        state = work / f"ctnr-{user.uid}"
        state.mkdir(mode=0o700, exist_ok=True)
        if os.getuid() == 0:
            os.chown(state, user.uid, user.gid)
        leaks.watched_roots.add(str(state))
        return runtimes.call([str(ctnr_bin), "--root", str(state), *args], user)

    return call


Ctnr = Callable[..., Result]


def test_run_exit_codes(ctnr: Ctnr, user: User, work: Path) -> None:
    root = rootfs.make_busybox(work / "root", user.uid, user.gid)
    assert ctnr(user, "run", "--rm", str(root), "/probe", "--exit", "3").code == 3
    refused(ctnr(user, "run", "--rm", str(root), "/no/such"), 127, "/no/such")
    refused(ctnr(user, "run", "--rm", str(root), "no-such"), 127, "no-such")
    refused(ctnr(user, "run", "--rm", str(root), "/not-executable"), 126, "/not-executable")
    refused(ctnr(user, "run", "--rm", str(work / "nothing"), "true"), 125, "nothing")
    refused(ctnr(user, "run", "--rm", "--no-such-flag", str(root), "true"), 125, "--no-such-flag")


def test_run_of_the_machines_root_by_a_symlink(ctnr: Ctnr, user: User, work: Path) -> None:
    (work / "link").symlink_to("/")
    refused(ctnr(user, "run", "--rm", str(work / "link"), "true"), 125, str(work / "link"))


def archive(path: Path, *members: tuple[str, bytes, str, str]) -> Path:
    """A tar of (name, type, link target, content)."""
    with tarfile.open(path, "w") as tar:
        for name, kind, target, content in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            info.linkname = target
            info.mode = 0o755
            info.devmajor, info.devminor = 1, 1
            info.size = len(content) if kind == tarfile.REGTYPE else 0
            tar.addfile(info, io.BytesIO(content.encode()) if info.size else None)
    path.chmod(0o644)
    return path


def test_archives_that_are_none(ctnr: Ctnr, user: User, work: Path) -> None:
    good = archive(work / "good.tar", ("etc", tarfile.DIRTYPE, "", ""), ("etc/x", tarfile.REGTYPE, "", "y" * 100000))
    cut = work / "cut.tar"
    cut.write_bytes(good.read_bytes()[:50000])
    refused(ctnr(user, "run", "--rm", str(cut), "true"), 125, "cut.tar")
    nothing = work / "nothing.tar"
    nothing.write_bytes(b"this is not an archive\n" * 100)
    refused(ctnr(user, "run", "--rm", str(nothing), "true"), 125, "nothing.tar")
    empty = work / "empty.tar"
    empty.write_bytes(b"")
    refused(ctnr(user, "run", "--rm", str(empty), "true"), 125, "empty.tar")
    for suffix, magic in (
        (".gz", b"\x1f\x8b\x08\0"),
        (".xz", b"\xfd7zXZ\0"),
        (".zst", b"\x28\xb5\x2f\xfd"),
        (".bz2", b"BZh9"),
    ):
        broken = work / f"broken.tar{suffix}"
        broken.write_bytes(magic + b"broken" * 100)
        refused(ctnr(user, "run", "--rm", str(broken), "true"), 125, broken.name)


@pytest.mark.parametrize(
    ("name", "members"),
    [
        ("dotdot", [("../escaped", tarfile.REGTYPE, "", "x")]),
        ("deep-dotdot", [("a/../../escaped", tarfile.REGTYPE, "", "x")]),
        ("link-then-file", [("out", tarfile.SYMTYPE, "WORK", ""), ("out/escaped", tarfile.REGTYPE, "", "x")]),
        ("hardlink-out", [("passwd", tarfile.LNKTYPE, "../../../../etc/passwd", "")]),
    ],
)
def test_hostile_archives_write_nothing_outside(
    name: str, members: list[tuple[str, bytes, str, str]], ctnr: Ctnr, user: User, work: Path
) -> None:
    victim = work / "victim"
    victim.mkdir()
    victim.chmod(0o777)
    members = [(n, t, target.replace("WORK", str(victim)), c) for n, t, target, c in members]
    path = archive(work / f"{name}.tar", *members)
    done = ctnr(user, "run", "--rm", str(path), "true")
    # refused, or kept within the root, where there is no program then
    assert done.code in (125, 127), str(done)
    assert "Traceback" not in done.err and len(done.err.strip().splitlines()) == 1, str(done)
    assert list(victim.iterdir()) == []
    assert not (work / "escaped").exists()


def test_an_archive_with_device_nodes(ctnr: Ctnr, user: User, work: Path) -> None:
    """A device node of an archive gives nobody access to a device: refused, left out, or on a nodev mount."""
    busybox = rootfs.make_busybox(work / "root")
    path = work / "devices.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(busybox, ".")
        info = tarfile.TarInfo("./mem")
        info.type = tarfile.CHRTYPE
        info.mode = 0o666
        info.devmajor, info.devminor = 1, 1
        tar.addfile(info)
    path.chmod(0o644)
    done = ctnr(user, "run", "--rm", str(path), "sh", "-c", "head -c 1 /mem >/dev/null 2>&1 && echo READ; echo done")
    assert "READ" not in done.out
    assert done.code in (0, 125), str(done)
