# SPDX-License-Identifier: Apache-2.0
"""checkpoint and restore as CRIU sees them, with a CRIU that only speaks the protocol (payload/fake_criu.py): what it is asked,
what is done when it calls, what is left when it fails."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import criu, machine, runtimes, terminals, users
from support.bundles import Bundle, MakeBundle, new_id
from support.criu import Fake
from support.runtimes import MakeRuntime, Runtime, finished
from support.users import User

import ctnr

Json = dict[str, Any]
CLONE_NEWNET = 0x40000000


@pytest.fixture
def fake(work: Path) -> Fake:
    return criu.fake(work)


@pytest.fixture
def runtime(fake: Fake, runtimes_of: MakeRuntime) -> Runtime:
    return runtimes_of(fake.user())


@pytest.fixture
def box(fake: Fake, bundle_of: MakeBundle) -> Bundle:
    return bundle_of(fake.user(), "/probe", "--wait")


@pytest.fixture
def images(work: Path) -> Path:
    """What a dump would have left."""
    path = work / "images"
    path.mkdir(mode=0o700)
    (path / "descriptors.json").write_text('["/dev/null","/dev/null","/dev/null"]')
    return path


Call = Callable[..., tuple[int, str]]


@pytest.fixture
def call(runtime: Runtime, work: Path) -> Call:
    """A verb whose stdio is /dev/null, as that of the container it leaves: its exit code and its log."""

    def run(*args: str, **how: Any) -> tuple[int, str]:
        log, null = work / "log", subprocess.DEVNULL
        log.write_text("")
        process = runtime.popen("--log", str(log), *args, **{"stdin": null, "stdout": null, "stderr": null, **how})
        process.wait(60)
        finished(process)
        return process.returncode, log.read_text()

    return run


def sources(opts: Json) -> dict[str, str]:
    return {one["key"]: one["val"] for one in opts["ext_mnt"]}


# ---------------------------------------------------------------- checkpoint: what is asked

FLAGS = [
    ("--leave-running", {"leave_running": True}),
    ("--tcp-established", {"tcp_established": True}),
    ("--tcp-skip-in-flight", {"tcp_skip_in_flight": True}),
    ("--tcp-close", {"tcp_close": True}),
    ("--ext-unix-sk", {"ext_unix_sk": True}),
    ("--shell-job", {"shell_job": True, "orphan_pts_master": False}),
    ("--file-locks", {"file_locks": True}),
    ("--link-remap", {"link_remap": True}),
    ("--auto-dedup", {"auto_dedup": True}),
    ("--manage-cgroups-mode=ignore", {"manage_cgroups_mode": 0}),
    ("--manage-cgroups-mode=soft", {"manage_cgroups_mode": 3}),
    ("--manage-cgroups-mode=full", {"manage_cgroups_mode": 4}),
    ("--manage-cgroups-mode=strict", {"manage_cgroups_mode": 5}),
    ("--network-lock=iptables", {"network_lock": 1}),
    ("--network-lock=nftables", {"network_lock": 2}),
    ("--network-lock=skip", {"network_lock": 3}),
    ("--empty-ns=network", {"empty_ns": CLONE_NEWNET}),
    ("--page-server=192.0.2.1:99", {"ps": {"address": "192.0.2.1", "port": 99}}),
    ("--page-server=[2001:db8::1]:99", {"ps": {"address": "2001:db8::1", "port": 99}}),
]


def test_each_flag_is_an_option_of_criu(runtime: Runtime, box: Bundle, fake: Fake, work: Path) -> None:
    id = runtime.start_detached(box)
    plain = ("checkpoint", "--image-path", str(work / "images"), id)
    runtime(*plain, "--leave-running").ok()
    [without] = fake.requests("dump")
    for flag, wanted in FLAGS:
        runtime(*plain, "--leave-running", flag).ok()
        opts = fake.requests("dump")[-1]
        assert {name: opts.get(name) for name in wanted} == wanted, flag
        changed = {name for name in opts if opts[name] != without.get(name)} - {"images_dir_fd", "leave_running"}
        assert changed <= set(wanted), flag
    assert without["orphan_pts_master"] and without["notify_scripts"] and without["manage_cgroups_mode"] == 6
    assert without["pid"] == runtime.pid(id) and without["root"] == str(box.root)
    assert without["images_dir"] == str(work / "images") and without["log_file"] == "dump.log"
    assert (work / "images").stat().st_mode & 0o777 == 0o700
    runtime.stop(id)


def test_the_container_is_gone_after_it(runtime: Runtime, box: Bundle, fake: Fake, work: Path) -> None:
    log = work / "hook"
    box.config["hooks"] = {"poststop": [{"path": "/bin/sh", "args": ["sh", "-c", f"cat >{log}"]}]}
    id = runtime.start_detached(box)
    pid = runtime.pid(id)
    runtime("checkpoint", "--image-path", str(work / "images"), id).ok()
    assert not Path(f"/proc/{pid}/exe").exists()
    assert runtime.ids() == []
    assert json.loads(log.read_text())["status"] == "stopped"


def test_mounts_from_outside_are_named(runtime: Runtime, box: Bundle, fake: Fake, work: Path) -> None:
    (work / "volume").mkdir()
    (box.root / "link").symlink_to("/mnt")
    box.mount("/link/volume", "bind", str(work / "volume"), "rbind")
    box.mount("/scratch", "tmpfs", "tmpfs")
    box.writable()
    box.linux["maskedPaths"] = ["/proc/timer_list", "/sys/firmware", "/proc/nothing"]
    id = runtime.start_detached(box)
    runtime("checkpoint", "--image-path", str(work / "images"), "--leave-running", id).ok()
    assert sources(fake.requests("dump")[0]) == {"/mnt/volume": "/mnt/volume", "/proc/timer_list": "/dev/null"}
    runtime.stop(id)


def test_cgroups_without_their_namespace_are_mounts_from_outside(
    runtime: Runtime, box: Bundle, fake: Fake, work: Path
) -> None:
    box.without_namespace("cgroup")
    id = runtime.start_detached(box)
    runtime("checkpoint", "--image-path", str(work / "images"), "--leave-running", id).ok()
    opts = fake.requests("dump")[0]
    points = {name for name in sources(opts) if name.startswith("/sys/fs/cgroup")}
    lines = Path(f"/proc/{runtime.pid(id)}/mountinfo").read_text().splitlines()
    mounted = {line.split()[4] for line in lines if line.partition(" - ")[2].startswith("cgroup")}
    assert points == mounted and points
    assert Path(opts["freeze_cgroup"], "cgroup.procs").read_text().split() == [str(runtime.pid(id))]
    runtime.stop(id)


def test_device_nodes_of_a_user_namespace(runtime: Runtime, box: Bundle, fake: Fake, work: Path) -> None:
    box.namespace("user")
    box.linux["uidMappings"] = box.linux["gidMappings"] = [{"containerID": 0, "hostID": 0, "size": 1000}]
    id = runtime.start_detached(box)
    runtime("checkpoint", "--image-path", str(work / "images"), "--leave-running", id).ok()
    assert {"/dev/null", "/dev/zero", "/dev/tty"} <= set(sources(fake.requests("dump")[0]))
    runtime.stop(id)


def test_descriptors_as_runc_writes_them(runtime: Runtime, box: Bundle, fake: Fake, work: Path) -> None:
    box.save()
    id = new_id()
    process = runtime.popen(
        "run", "--detach", "--bundle", str(box.path), id, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    assert process.stdout
    finished(process)
    with process.stdout:
        runtime("checkpoint", "--image-path", str(work / "images"), "--leave-running", id).ok()
        links = json.loads((work / "images/descriptors.json").read_text())
        assert links[:2] == ["/dev/null", f"pipe:[{os.fstat(process.stdout.fileno()).st_ino}]"]
        runtime.stop(id)


def test_namespaces_by_path_stay_outside(runtime: Runtime, box: Bundle, fake: Fake, work: Path) -> None:
    holder = subprocess.Popen(["unshare", "--net", "--ipc", "sleep", "1000"])
    from support import leaks

    leaks.own(holder.pid)
    try:
        path = f"/proc/{holder.pid}/ns"
        own = os.stat("/proc/self/ns/net").st_ino
        assert machine.poll(lambda: os.stat(f"{path}/net").st_ino != own, 10)
        box.namespace("network", f"{path}/net")
        box.namespace("ipc", f"{path}/ipc")
        id = runtime.start_detached(box)
        runtime("checkpoint", "--image-path", str(work / "images"), "--leave-running", id).ok()
        external = [one for one in fake.requests("dump")[0]["external"] if not one.startswith("file[")]
        assert external == [f"net[{os.stat(path + '/net').st_ino}]:extRootNetNS"]
        runtime.stop(id)
        where = ("--image-path", str(work / "images"), "--bundle", str(box.path))
        id = new_id()
        runtime.quiet("restore", "--detach", *where, id)
        [opts] = fake.requests("restore")
        assert opts["join_ns"] == [{"ns": "ipc", "ns_file": f"{path}/ipc"}]
        inherited = {one["key"]: one["link"] for one in opts["inherit_fd"]}
        assert inherited["extRootNetNS"] == f"net:[{os.stat(path + '/net').st_ino}]"
        runtime("delete", "--force", id).ok()
    finally:
        holder.kill()
        holder.wait()
        leaks.disown(holder.pid)


def test_configuration_files(runtime: Runtime, box: Bundle, fake: Fake, work: Path) -> None:
    files = (f"/etc/criu/{name}.conf" for name in ("ctnr", "crun", "runc"))
    default = next(filter(os.path.exists, files), None)
    for given, wanted in ((None, default), ("", None), ("/etc/own.conf", "/etc/own.conf")):
        if given is not None:
            box.config["annotations"] = {"org.criu.config": given}
        id = runtime.start_detached(box)
        runtime("checkpoint", "--image-path", str(work / "images"), id).ok()
        assert fake.requests("dump")[-1].get("config_file") == wanted


def test_pre_dump_and_parent(runtime: Runtime, box: Bundle, fake: Fake, work: Path) -> None:
    id = runtime.start_detached(box)
    runtime("checkpoint", "--image-path", str(work / "one"), "--pre-dump", id).ok()
    [opts] = fake.requests("pre-dump")
    assert opts["track_mem"] and "parent_img" not in opts
    assert not (work / "one/descriptors.json").exists()
    runtime("checkpoint", "--image-path", str(work / "two"), "--parent-path", "../one", "--leave-running", id).ok()
    [opts] = fake.requests("dump")
    assert opts["track_mem"] and opts["parent_img"] == "../one"
    fake.behave(features={"mem_track": False})
    for flags in (("--pre-dump",), ("--parent-path", "../one")):
        refused = runtime("checkpoint", "--image-path", str(work / "two"), *flags, id)
        assert refused.code == 1 and "it lacks mem_track" in refused.error_line
    assert runtime.status(id) == "running"
    runtime.stop(id)


def test_lazy_pages_and_the_status_fd(runtime: Runtime, box: Bundle, fake: Fake, work: Path) -> None:
    fake.behave(notify=["network-lock", "status-ready", "post-dump"])
    id = runtime.start_detached(box)
    reader, writer = os.pipe()
    with open(reader, "rb") as told, open(writer, "wb") as given:
        flags = ("--lazy-pages", "--page-server", "127.0.0.1:1", "--leave-running", "--status-fd", str(writer))
        runtime("checkpoint", "--image-path", str(work / "images"), *flags, id, pass_fds=(writer,)).ok()
        given.close()
        assert told.read() == b"\0"
    assert fake.requests("dump")[0]["lazy_pages"]
    fake.behave(features={"lazy_pages": False})
    refused = runtime("checkpoint", "--image-path", str(work / "images"), *flags[:3], id)
    assert refused.code == 1 and "--lazy-pages" in refused.error_line and "lazy_pages" in refused.error_line
    runtime.stop(id)


# ---------------------------------------------------------------- checkpoint: what is refused


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--parent-path", "/absolute"), "--parent-path must be relative"),
        (("--parent-path", "../nowhere"), "invalid --parent-path ../nowhere: no such file or directory"),
        (("--page-server", "host"), "Use --page-server ADDRESS:PORT"),
        (("--page-server", "host:0"), "Use --page-server ADDRESS:PORT"),
        (("--page-server", ":7"), "Use --page-server ADDRESS:PORT"),
        (("--manage-cgroups-mode", "odd"), "--manage-cgroups-mode is soft or full or strict or ignore, not 'odd'"),
        (("--network-lock", "odd"), "--network-lock is iptables or nftables or skip, not 'odd'"),
        (("--empty-ns", "pid"), "--empty-ns: namespace pid is not supported"),
        (("--status-fd", "x"), "--status-fd is a whole number"),
        (("--status-fd", "77"), "invalid --status-fd argument 77: bad file descriptor"),
        (("--lazy-pages",), "--lazy-pages: --page-server ADDRESS:PORT"),
        (("--lazy-pages", "--pre-dump"), "--pre-dump and --lazy-pages exclude each other"),
        (("--work-path", "/proc/no/where"), "--work-path: make /proc/no/where"),
    ],
)
def test_wrong_flags(runtime: Runtime, box: Bundle, fake: Fake, work: Path, flags: tuple[str, ...], said: str) -> None:
    id = runtime.start_detached(box)
    refused = runtime("checkpoint", "--image-path", str(work / "images"), *flags, id)
    assert refused.code == 1 and said in refused.error_line
    assert fake.requests("dump") == [] and runtime.status(id) == "running"
    runtime.stop(id)


def test_states_that_have_nothing_to_checkpoint(runtime: Runtime, box: Bundle, fake: Fake, work: Path) -> None:
    where = ("--image-path", str(work / "images"))
    id = runtime.create(box)
    assert "Container cannot be checkpointed in created state" in runtime("checkpoint", *where, id).error_line
    runtime("kill", id, "KILL").ok()
    runtime.wait_status(id, "stopped")
    assert "Container cannot be checkpointed in stopped state" in runtime("checkpoint", *where, id).error_line
    runtime("delete", id).ok()
    assert "container does not exist" in runtime("checkpoint", *where, id).error_line
    assert not (work / "images").exists()


def test_a_container_without_a_bundle(runtimes_of: MakeRuntime, fake: Fake, work: Path) -> None:
    """What could not be restored is not ended."""
    runtime = runtimes_of(fake.user(), path=runtimes.ctnr_bin())
    id, null = new_id(), subprocess.DEVNULL
    process = runtime.popen("run", "--name", id, "host:", "sleep", "1000", stdin=null, stdout=null, stderr=null)
    assert machine.poll(lambda: '"running"' in runtime("state", id).out, 20, 0.1)
    refused = runtime("checkpoint", "--image-path", str(work / "images"), id)
    assert refused.code == 1 and "was made by `ctnr run`: there is no bundle to restore it from" in refused.error_line
    assert runtime.status(id) == "running" and not (work / "images").exists()
    runtime("delete", "--force", id).ok()
    process.wait(20)
    finished(process)


@pytest.mark.parametrize("kind", [users.SUBIDS, users.ONE_ID])
def test_users_are_told_that_it_takes_root(runtimes_of: MakeRuntime, bundle_of: MakeBundle, kind: str) -> None:
    machine.need_root()
    user = users.get(kind)
    runtime = runtimes_of(user)
    box = bundle_of(user, "/probe", "--wait")
    id = runtime.start_detached(box)
    for verb in (("checkpoint", id), ("restore", "--bundle", str(box.path), new_id())):
        refused = runtime(*verb)
        assert refused.code == 1 and f"{verb[0]} takes root" in refused.error_line
    assert runtime.status(id) == "running"
    runtime.stop(id)


# ---------------------------------------------------------------- when CRIU fails

FAILURES = [
    ("fail", "Error", "FAKE", "images/{}.log)"),
    ("die", "", "CRIU has ended without an answer", ""),
    ("garbage", "", "CRIU speaks another language: wire type 7", ""),
    ("truncated", "", "CRIU speaks another language: a member is longer than its message", ""),
]


@pytest.mark.parametrize(("answer", "_", "said", "where"), FAILURES, ids=[row[0] for row in FAILURES])
def test_a_dump_that_fails(
    runtime: Runtime, box: Bundle, fake: Fake, work: Path, answer: str, _: str, said: str, where: str
) -> None:
    fake.behave(answer=answer)
    id = runtime.start_detached(box)
    refused = runtime("checkpoint", "--image-path", str(work / "images"), id)
    assert refused.code == 1 and said in refused.error_line and where.format("dump") in refused.error_line
    assert runtime.status(id) == "running"
    runtime.stop(id)


@pytest.mark.parametrize(("answer", "_", "said", "where"), FAILURES, ids=[row[0] for row in FAILURES])
def test_a_restore_that_fails(
    runtime: Runtime, box: Bundle, fake: Fake, images: Path, answer: str, _: str, said: str, where: str
) -> None:
    fake.behave(answer=answer)
    refused = runtime("restore", "--image-path", str(images), "--bundle", str(box.path), new_id())
    assert refused.code == 1 and said in refused.err.splitlines()[-1] and where.format("restore") in refused.err
    assert runtime.ids() == []


def test_versions(runtime: Runtime, box: Bundle, fake: Fake, images: Path) -> None:
    fake.behave(version=[3, 10, 0])
    refused = runtime("restore", "--image-path", str(images), "--bundle", str(box.path), new_id())
    assert "takes CRIU 3.11 or newer" in refused.error_line
    fake.behave(version=[3, 15, 0])
    flags = ("--lsm-profile", "apparmor:x")
    refused = runtime("restore", *flags, "--image-path", str(images), "--bundle", str(box.path), new_id())
    assert "--lsm-profile takes CRIU 3.16 or newer" in refused.error_line


# ---------------------------------------------------------------- restore


def test_as_containerd_calls_it(
    runtime: Runtime, box: Bundle, fake: Fake, images: Path, work: Path, call: Call
) -> None:
    box.linux["resources"] = {"pids": {"limit": 57}}
    box.save()
    id, pid_file, work_path = new_id(), work / "pid", work / "criu-work"
    flags = ("--detach", "--pid-file", str(pid_file), "-no-subreaper", "--bundle", str(box.path))
    assert call("restore", "--image-path", str(images), "--work-path", str(work_path), *flags, id) == (0, "")
    [opts] = fake.requests("restore")
    assert opts["images_dir"] == str(images) and opts["work_dir"] == str(work_path)
    assert opts["mounted"] and not opts["same_mounts"] and opts["rst_sibling"] and opts["evasive_devices"]
    assert opts["log_file"] == "restore.log"
    # CRIU, and so what it makes, is in the container's cgroup, which is limited
    assert any(line.endswith(f"/{id}") for line in opts["cgroup"].splitlines())
    assert {one["path"].rpartition("/")[2] for one in opts["cg_root"]} == {id}
    pid = runtime.pid(id)
    assert pid_file.read_text() == str(pid)
    assert runtime.status(id) == "running"
    assert not Path(opts["root"]).exists()
    with open("/proc/self/mountinfo") as file:
        assert opts["root"] not in file.read()
    lo = subprocess.run(["nsenter", "-t", str(pid), "-n", "ip", "link"], capture_output=True, text=True, check=True)
    assert "<LOOPBACK,UP" in lo.stdout
    runtime("kill", id, "TERM").ok()
    runtime.wait_status(id, "stopped")
    runtime("delete", id).ok()


def test_restore_flags(runtime: Runtime, box: Bundle, fake: Fake, images: Path, call: Call) -> None:
    flags = {
        "--tcp-established": {"tcp_established": True},
        "--tcp-close": {"tcp_close": True},
        "--ext-unix-sk": {"ext_unix_sk": True},
        "--shell-job": {"shell_job": True, "orphan_pts_master": False},
        "--file-locks": {"file_locks": True},
        "--auto-dedup": {"auto_dedup": True},
        "--lazy-pages": {"lazy_pages": True},
        "--manage-cgroups-mode=strict": {"manage_cgroups_mode": 5},
        "--network-lock=skip": {"network_lock": 3},
        "--lsm-profile=selinux:a:b:c:s0:c1,c2": {"lsm_profile": "selinux:a:b:c:s0:c1,c2"},
        "--lsm-mount-context=a:b:c": {"lsm_mount_context": "a:b:c"},
        "--no-pivot": {},
    }
    for flag, wanted in flags.items():
        id = new_id()
        where = ("--image-path", str(images), "--bundle", str(box.path))
        assert call("restore", "--detach", flag, *where, id) == (0, "")
        opts = fake.requests("restore")[-1]
        assert {name: opts.get(name) for name in wanted} == wanted, flag
        runtime("delete", "--force", id).ok()


def test_the_configs_mounts_are_those_of_the_bundle(
    runtime: Runtime, box: Bundle, fake: Fake, images: Path, work: Path, call: Call
) -> None:
    (work / "volume").mkdir()
    (work / "volume/inner").mkdir()
    (work / "file").touch()
    box.mount("/new/volume", "bind", str(work / "volume"), "bind")
    box.mount("/new/volume/deeper/place", "bind", str(work / "volume/inner"), "bind")
    box.mount("/new/file", "bind", str(work / "file"), "bind")
    box.mount("/new/tmp", "tmpfs", "tmpfs")
    box.mount("/new/tmp/in", "bind", str(work / "volume"), "bind")
    box.linux["maskedPaths"] = ["/proc/timer_list"]
    box.save()
    id = new_id()
    assert call("restore", "--detach", "--image-path", str(images), "--bundle", str(box.path), id) == (0, "")
    [opts] = fake.requests("restore")
    assert sources(opts) == {
        "/new/volume": str(work / "volume"),
        "/new/volume/deeper/place": str(work / "volume/inner"),
        "/new/file": str(work / "file"),
        "/new/tmp/in": str(work / "volume"),
        "/dev/null": "/dev/null",
    }
    # the places where they go are there, as a start makes them
    assert (box.root / "new/volume").is_dir() and (box.root / "new/file").is_file()
    assert (work / "volume/deeper/place").is_dir()
    assert list((box.root / "new/tmp").iterdir()) == []
    runtime("delete", "--force", id).ok()


def test_places_of_mounts_stay_in_the_root(
    runtime: Runtime, box: Bundle, fake: Fake, images: Path, work: Path, call: Call
) -> None:
    """The root filesystem is not trusted: its symlinks lead nowhere else (CVE-2021-30465)."""
    outside = Path(f"/run/{new_id()}")
    outside.mkdir()
    try:
        (box.root / "escape").symlink_to(outside)
        box.mount("/escape/made", "bind", str(work), "bind")
        box.save()
        id = new_id()
        assert call("restore", "--detach", "--image-path", str(images), "--bundle", str(box.path), id) == (0, "")
        assert list(outside.iterdir()) == []
        assert f"{outside}/made" in sources(fake.requests("restore")[0])
        assert (box.root / f"{outside}/made".lstrip("/")).is_dir()
        runtime("delete", "--force", id).ok()
    finally:
        outside.rmdir()


def test_pipes_are_given_back_by_their_names(
    runtime: Runtime, box: Bundle, fake: Fake, images: Path, work: Path
) -> None:
    (images / "descriptors.json").write_text('["/dev/null","pipe:[11]","file[1:2]","pipe:[33]"]')
    id, pipe, null = new_id(), subprocess.PIPE, subprocess.DEVNULL
    process = runtime.popen(
        "restore", "--image-path", str(images), "--bundle", str(box.path), id, stdin=null, stdout=pipe, stderr=null
    )
    assert process.stdout
    with process.stdout:
        assert process.stdout.readline() == b"restored\n"
        [opts] = fake.requests("restore")
        inherited = {one["key"]: one["fd"] for one in opts["inherit_fd"]}
        assert inherited == {"pipe:[11]": 1, "file[1:2]": 2}
        process.terminate()
        assert process.wait(20) == 7
    finished(process)
    assert runtime.ids() == []


def test_a_terminal_goes_to_the_console_socket(
    box: Bundle, fake: Fake, images: Path, work: Path, runtime: Runtime, call: Call
) -> None:
    box.process["terminal"] = True
    box.save()
    fake.behave(master=True)
    where = ("--image-path", str(images), "--bundle", str(box.path))
    code, log = call("restore", "--detach", *where, new_id())
    assert code == 1 and "cannot allocate tty if runc will detach without setting console socket" in log
    console = terminals.ConsoleSocket(work / "console.sock", fake.user())
    try:
        id = new_id()
        assert call("restore", "--detach", *where, "--console-socket", str(console.path), id) == (0, "")
        terminal = console.receive()
        assert os.isatty(terminal.master)
        terminal.close()
    finally:
        console.close()
    runtime("delete", "--force", id).ok()


def test_hooks_and_their_failure(
    runtime: Runtime, box: Bundle, fake: Fake, images: Path, work: Path, call: Call
) -> None:
    log = work / "hooks"
    script = f"cat >>{log}; echo >>{log}"
    box.config["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]}
    box.save()
    where = ("--image-path", str(images), "--bundle", str(box.path))
    id = new_id()
    assert call("restore", "--detach", *where, id) == (0, "")
    state = json.loads(log.read_text())
    assert (state["id"], state["pid"], state["status"]) == (id, runtime.pid(id), "creating")
    runtime("delete", "--force", id).ok()
    box.config["hooks"]["createRuntime"][0] = {"path": "/bin/false"}
    box.save()
    code, said = call("restore", "--detach", *where, new_id())
    assert code == 1 and "error running createRuntime hook #0" in said
    assert runtime.ids() == []


def test_what_is_less_confined_than_the_config_does_not_run(
    runtime: Runtime, box: Bundle, fake: Fake, images: Path, call: Call
) -> None:
    fake.behave(confined=False)
    code, said = call("restore", "--detach", "--image-path", str(images), "--bundle", str(box.path), new_id())
    assert code == 1 and "the image does not fit the bundle: its process is in the host's pid namespace" in said
    assert runtime.ids() == []


def test_the_root_of_a_user_namespace_may_read_the_images(
    runtime: Runtime, box: Bundle, fake: Fake, images: Path, call: Call
) -> None:
    """In CRIU's mount namespace, and nowhere else."""
    box.namespace("user")
    box.linux["uidMappings"] = box.linux["gidMappings"] = [{"containerID": 0, "hostID": 100000, "size": 1000}]
    box.save()
    for file in images.iterdir():
        file.chmod(0o600)
    (images / "parent").symlink_to("../earlier")
    (images.parent / "earlier").mkdir()
    where = ("--image-path", str(images), "--bundle", str(box.path))
    code, said = call("restore", "--detach", *where, new_id())
    assert code == 1 and "its process is in the host's user namespace" in said  # this CRIU makes none
    [opts] = fake.requests("restore")
    assert opts["images_dir"] == str(images) and opts["modes"]["descriptors.json"] == 0o644
    assert (images / "descriptors.json").stat().st_mode & 0o777 == 0o600
    fake.behave(answer="fail")
    code, said = call("restore", "--detach", *where, new_id())
    assert code == 1 and "FAKE" in said and "FAKE" in (images / "restore.log").read_text()
    assert runtime.ids() == []


def bad_json(images: Path, box: Bundle) -> str:
    (images / "descriptors.json").write_text("{")
    return "--image-path: "


def no_list(images: Path, box: Bundle) -> str:
    (images / "descriptors.json").write_text('{"0": "pipe:[1]"}')
    return "descriptors.json: not a list of strings"


def no_descriptors(images: Path, box: Bundle) -> str:
    (images / "descriptors.json").unlink()
    return "is this the image of a checkpoint?"


def huge(images: Path, box: Bundle) -> str:
    (images / "descriptors.json").write_text(json.dumps(["x" * (1 << 17)]))
    return "file too large"


def no_images(images: Path, box: Bundle) -> str:
    (images / "descriptors.json").unlink()
    images.rmdir()
    return "--image-path: open"


def no_mount_namespace(images: Path, box: Bundle) -> str:
    box.without_namespace("mount")
    box.linux["maskedPaths"] = box.linux["readonlyPaths"] = []
    return "linux.namespaces"


def cgroup_by_path(images: Path, box: Bundle) -> str:
    box.namespace("cgroup", "/proc/self/ns/cgroup")
    return "CRIU cannot restore a process into an existing cgroup namespace"


def no_bundle(images: Path, box: Bundle) -> str:
    (box.path / "config.json").unlink()
    return "read the bundle's configuration"


@pytest.mark.parametrize(
    "harm", [bad_json, no_list, no_descriptors, huge, no_images, no_mount_namespace, cgroup_by_path, no_bundle]
)
def test_what_cannot_be_restored(
    runtime: Runtime, box: Bundle, fake: Fake, images: Path, call: Call, harm: Callable[[Path, Bundle], str]
) -> None:
    box.save()
    said = harm(images, box)
    if (box.path / "config.json").exists():
        box.save()
    code, log = call("restore", "--detach", "--image-path", str(images), "--bundle", str(box.path), new_id())
    assert code == 1 and said in log and len(log.splitlines()) == 1
    assert fake.requests("restore") == [] and runtime.ids() == []


def test_an_id_that_is_taken(runtime: Runtime, box: Bundle, fake: Fake, images: Path, call: Call) -> None:
    id = runtime.start_detached(box)
    code, log = call("restore", "--detach", "--image-path", str(images), "--bundle", str(box.path), id)
    assert code == 1 and "container with given ID already exists" in log
    assert runtime.status(id) == "running"
    runtime.stop(id)


# ---------------------------------------------------------------- the library


@pytest.fixture(scope="module")
def _warm(_session: None) -> None:
    """What a process keeps open once it has started a container (the init's image) is no leak."""
    machine.need_root()
    path = machine.scratch() / "warm"
    ctnr.run("host:", ["true"], root=str(path))
    path.rmdir()


@pytest.fixture
def in_process(_warm: None, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> Iterator[User]:
    monkeypatch.setenv("PATH", fake.user().env()["PATH"])
    yield fake.user()


def test_from_python(in_process: User, box: Bundle, work: Path, fake: Fake) -> None:
    root = str(work / "lib-state")
    null = os.open("/dev/null", os.O_RDWR)
    try:
        stdio = {"stdin": null, "stdout": null, "stderr": null}
        container = ctnr.Container.create(new_id(), str(box.save().path), root=root, detach=False, **stdio)
        container.start()
        id = container.id
        container.checkpoint(str(work / "images"), leave_running=True)
        assert container.status() == "running"
        container.checkpoint(str(work / "images"))
        again = ctnr.Container.restore(id, str(box.path), str(work / "images"), root=root, **stdio)
        assert again.status() == "running"
        again.kill(15)
        assert again.wait(20) == 7
        again.delete()
    finally:
        os.close(null)
