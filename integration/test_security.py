# SPDX-License-Identifier: Apache-2.0
"""How container runtimes were broken: each attack is made, on a container of each kind of user. Here: what an image, a
volume or a configuration can do by its paths. Names and numbers are in
test_security_names.py, processes in test_security_processes.py, callers and neighbours in test_security_callers.py."""

from __future__ import annotations

import ctypes
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import rootfs, runtimes
from support.bundles import Bundle, MakeBundle
from support.runtimes import MakeRuntime, Runtime, parse_probe
from support.terminals import ConsoleSocket
from support.users import User

AT_FDCWD, RENAME_EXCHANGE = -100, 2


def ancestry(path: Path | str) -> str:
    """`path` from any directory of a container, should ".." lead out of it."""
    return "../" * 40 + str(path).lstrip("/")


def contents(directory: Path) -> dict[str, tuple[int, int, bytes]]:
    """Everything below a directory: mode, owner, content."""
    found = {}
    for path in sorted(directory.rglob("*")):
        status = path.lstat()
        data = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found[str(path.relative_to(directory))] = (status.st_mode, status.st_uid, data)
    return found


@pytest.fixture
def host(work: Path, user: User) -> Iterator[Path]:
    """A directory of the host's that the attacker is after; whoever runs the container could write to it. It stays as it is."""
    directory = work / "host"
    directory.mkdir(mode=0o777)
    directory.chmod(0o777)
    for name in ("null", "ptmx", "secret", "console", "resolv.conf", "hosts"):
        (directory / name).write_text("the host's\n")
        (directory / name).chmod(0o666)
    (directory / "below").mkdir(mode=0o777)
    rootfs.give(directory, user.uid, user.gid)
    before = contents(directory)
    yield directory
    assert contents(directory) == before


def replace(bundle: Bundle, name: str, target: str) -> None:
    """A symlink in the image, instead of what is there."""
    path = bundle.root / name
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.symlink_to(target)
    os.lchown(path, bundle.user.uid, bundle.user.gid) if os.getuid() == 0 else None


def without_mount(bundle: Bundle, *destinations: str) -> None:
    bundle.config["mounts"] = [m for m in bundle.config["mounts"] if m["destination"] not in destinations]


def in_private(script: str, argv: list[str]) -> list[str]:
    """`argv` in a mount namespace where `script` has been run."""
    return ["unshare", "--mount", "--propagation", "private", "sh", "-ec", f'{script}; exec "$@"', "sh", *argv]


def both_ways(path: Path) -> list[str]:
    return [str(path), ancestry(path)]


# --- /proc and /sys


@pytest.mark.parametrize("name", ["proc", "sys"])
@pytest.mark.parametrize("target", ["tmp", "/tmp", "../../../../tmp", "/etc/nothing"])
def test_cve_2019_16884_2019_18837_2019_19921_proc_over_a_symlink(
    name: str, target: str, runtime: Runtime, bundle: MakeBundle
) -> None:
    """The image's /proc or /sys is a link: what is mounted there would not be where writes to it are meant to go."""
    box = bundle("/bin/true")
    if name == "sys" and runtime.user.rootless:
        pytest.skip("not applicable: an ordinary user's /sys is the host's, bound: no writes are meant to go there")
    replace(box, name, target)
    done = runtime.run(box)
    assert done.code == 1
    assert f"mount {name}" in done.error_line and "symbolic links" in done.error_line
    assert runtime.ids() == []


def test_cve_2023_27561_proc_by_way_of_a_volume(runtime: Runtime, bundle: MakeBundle, work: Path, user: User) -> None:
    """A parent of the destination is a link, to a volume that the attacker filled (the return of 2019-19921)."""
    box = bundle("/bin/true")
    volume = work / "volume"
    (volume / "proc").mkdir(parents=True)
    rootfs.give(volume, user.uid, user.gid)
    box.config["mounts"] = [
        {"destination": "/vol", "type": "bind", "source": str(volume), "options": ["bind"]},
        {"destination": "/inner/proc", "type": "proc", "source": "proc"},
        *box.config["mounts"],
    ]
    (box.root / "vol").mkdir()
    replace(box, "inner", "/vol")
    assert "symbolic links" in runtime.run(box).error_line
    assert runtime.ids() == []


def test_cve_2023_28642_a_link_to_proc_masks_nothing_less(runtime: Runtime, bundle: MakeBundle) -> None:
    """Masked paths by way of a link in the image: the file behind it is the one that is masked."""
    box = bundle()
    replace(box, "etc/alias", "/proc/timer_list")
    box.linux["maskedPaths"] = ["/etc/alias", "/proc/acpi"]
    seen = runtime.probe(box, "stat:/proc/timer_list", "read:/proc/timer_list")
    assert (seen["asked"]["stat:/proc/timer_list"]["rdev"], seen["asked"]["read:/proc/timer_list"]) == ("1:3", "")


def test_cve_2025_52881_sysctl_into_a_fake_proc(
    runtimes_of: MakeRuntime, bundle_of: MakeBundle, work: Path, root: User
) -> None:
    """Something else lies over /proc/sys when the sysctls are written: they go to the kernel all the same."""
    runtime = runtimes_of(root)
    fake = work / "fake"
    target = fake / "net/ipv4/ip_unprivileged_port_start"
    target.parent.mkdir(parents=True)
    target.write_text("fake\n")
    box = bundle_of(root)
    box.mount("/proc/sys", "bind", str(fake), "bind")
    box.mount("/other", "proc", "proc")
    (box.root / "other").mkdir()
    box.linux["readonlyPaths"] = []
    box.linux["sysctl"] = {"net.ipv4.ip_unprivileged_port_start": "77"}
    name = "sys/net/ipv4/ip_unprivileged_port_start"
    seen = runtime.probe(box, f"read:/proc/{name}", f"read:/other/{name}")
    assert seen["asked"] == {f"read:/proc/{name}": "fake\n", f"read:/other/{name}": "77\n"}
    assert target.read_text() == "fake\n"


def test_cve_2025_52881_something_over_the_hosts_sysctls(
    root_runtime: Runtime, bundle_of: MakeBundle, root: User, work: Path
) -> None:
    """What lies over the runtime's own /proc/sys is not written to instead: what is below it is, or it is refused."""
    name = "net/ipv4/ip_unprivileged_port_start"
    box = bundle_of(root, "/bin/cat", f"/proc/sys/{name}")
    box.linux["sysctl"] = {name: "77"}
    fake = work / "sys"
    (fake / "kernel/random").mkdir(parents=True)
    shutil.copy("/proc/sys/kernel/random/boot_id", fake / "kernel/random")
    (fake / "net/ipv4").mkdir(parents=True)
    (fake / name).write_text("fake\n")
    box.save()
    argv = in_private(f"mount --bind {fake} /proc/sys", root_runtime.argv("run", "--bundle", str(box.path), "fake"))
    done = runtimes.call(argv, root)
    assert done.out == "77\n" or "linux.sysctl" in done.error_line, str(done)
    assert (fake / name).read_text() == "fake\n"


# --- /dev


@pytest.mark.parametrize("way", [0, 1])
@pytest.mark.parametrize("mounted", [True, False])
def test_cve_2026_41579_2026_47766_a_dev_that_leads_out(
    way: int, mounted: bool, runtime: Runtime, bundle: MakeBundle, host: Path
) -> None:
    """The image's /dev is a link to a directory of the host's: no node is made there, nothing is replaced (`host`)."""
    box = bundle("/bin/sh", "-c", "ls /dev/ >/dev/null").writable()
    replace(box, "dev", both_ways(host)[way])
    without_mount(box, "/dev/pts", "/dev/shm", "/dev/mqueue", *(() if mounted else ("/dev",)))
    done = runtime.run(box)
    assert done.code == 0 or done.error_line, str(done)
    assert runtime.ids() == []


@pytest.mark.parametrize("name", ["null", "ptmx", "fd", "console", "pts", "shm"])
def test_cve_2026_41579_a_name_in_dev_that_leads_out(
    name: str, runtime: Runtime, bundle: MakeBundle, host: Path
) -> None:
    """Without a tmpfs on /dev its names are the image's."""
    box = bundle("/bin/true").writable()
    without_mount(box, "/dev", *(("/dev/pts",) if name != "pts" else ()), *(("/dev/shm",) if name != "shm" else ()))
    target = host / ("below" if name in ("pts", "shm", "fd") else name if name != "console" else "secret")
    replace(box, f"dev/{name}", str(target))
    done = runtime.run(box)
    assert done.code == 0 or done.error_line, str(done)


@pytest.mark.parametrize("name", ["null", "ptmx"])
def test_cve_2025_31133_a_masked_path_with_the_images_null(
    name: str, runtime: Runtime, bundle: MakeBundle, host: Path
) -> None:
    """The image's /dev/null is a link to what it wants to have bound over the masked path: it gets the true one or nothing."""
    box = bundle("/probe", "stat:/proc/timer_list", "read:/proc/timer_list", "stat:/masked").writable()
    without_mount(box, "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue")
    box.linux["maskedPaths"] = ["/proc/timer_list", "/masked"]
    box.file("masked", "what is to be masked\n")
    replace(box, f"dev/{name}", "/proc/sys/kernel/core_pattern")
    done = runtime.run(box)
    if done.code == 0:
        asked = parse_probe(done.out)["asked"]
        assert asked["read:/proc/timer_list"] == ""
        assert {asked[f"stat:{path}"]["rdev"] for path in ("/proc/timer_list", "/masked")} == {"1:3"}
    else:
        assert "/dev/null" in done.error_line


@pytest.mark.parametrize("fake", ["ln -s /etc/passwd", "cp /etc/passwd", "mkfifo", "mknod -m 666 NULL c 1 5"])
def test_cve_2025_31133_the_hosts_null_is_a_fake(
    fake: str, bundle_of: MakeBundle, root_runtime: Runtime, root: User, work: Path
) -> None:
    """What masks files is bound from the runtime's /dev/null: if that is no such device it is refused."""
    box = bundle_of(root, "/bin/true")
    box.linux["maskedPaths"] = ["/etc/hostname"]
    box.save()
    dev = work / "dev"
    dev.mkdir()
    command = fake.replace("NULL", f"{dev}/null") if "NULL" in fake else f"{fake} {dev}/null"
    script = f"exec </dev/null; mount -t tmpfs none {dev}; mkdir {dev}/shm; mount --bind /dev/shm {dev}/shm; {command};"
    script += f"mount --rbind {dev} /dev"
    argv = in_private(script, root_runtime.argv("run", "--bundle", str(box.path), "fake"))
    line = runtimes.call(argv, root).error_line
    assert "linux.maskedPaths[0]" in line and "/dev/null is not what it must be" in line


@pytest.mark.parametrize("fake", ["file", "fifo", "link", "node"])
def test_cve_2025_52565_a_console_that_is_none(
    fake: str, runtime: Runtime, bundle: MakeBundle, host: Path, work: Path, user: User
) -> None:
    """The image's own /dev/pts/ptmx, where no devpts is mounted: not a terminal, so refused; what it leads to is not touched."""
    box = bundle("/bin/true").writable()
    box.process["terminal"] = True
    without_mount(box, "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue")
    (box.root / "dev/pts").mkdir()
    ptmx = box.root / "dev/pts/ptmx"
    if fake == "file":
        ptmx.write_text("")
    elif fake == "fifo":
        os.mkfifo(ptmx)
    elif fake == "link":
        replace(box, "dev/pts/ptmx", str(host / "ptmx"))
    elif user.rootless:
        pytest.skip("not applicable: a device node takes root")
    else:
        os.mknod(ptmx, 0o20666, os.makedev(1, 5))
    rootfs.give(box.root / "dev", user.uid, user.gid)
    console = ConsoleSocket(work / "console.sock", user)
    try:
        done = runtime.run(box, "--detach", "--console-socket", str(console.path))
        assert done.code == 1
        assert "/dev/pts/ptmx" in done.error_line
    finally:
        console.close()
    assert runtime.ids() == []


@pytest.mark.parametrize("way", [0, 1])
def test_cve_2025_52565_a_console_over_a_link(
    way: int, runtime: Runtime, bundle: MakeBundle, host: Path, work: Path, user: User
) -> None:
    """/dev/console of the image leads to a file of the host's: the terminal is not bound over it, nor made there."""
    box = bundle("/bin/true").writable()
    box.process["terminal"] = True
    without_mount(box, "/dev")
    for name in ("pts", "shm", "mqueue"):
        (box.root / "dev" / name).mkdir()
    replace(box, "dev/console", both_ways(host / "console")[way])
    rootfs.give(box.root / "dev", user.uid, user.gid)
    console = ConsoleSocket(work / "console.sock", user)
    try:
        done = runtime.run(box, "--detach", "--console-socket", str(console.path))
        assert done.code == 1
        assert "/dev/console" in done.error_line
    finally:
        console.close()


# --- destinations of mounts


@pytest.mark.parametrize("way", [0, 1])
@pytest.mark.parametrize("name", ["etc/resolv.conf", "etc", "a/b/c"])
def test_cve_2025_24965_nothing_is_made_outside(
    name: str, way: int, runtime: Runtime, bundle: MakeBundle, host: Path, work: Path, user: User
) -> None:
    """A file or a directory to be mounted on is missing, and the way to it leads out of the root."""
    box = bundle("/probe", "read:/etc/resolv.conf").writable()
    source = work / "resolv.conf"
    source.write_text("nameserver\n")
    rootfs.give(source, user.uid, user.gid)
    if name == "etc/resolv.conf":
        replace(box, name, both_ways(host / "new")[way])
    elif name == "etc":
        replace(box, name, both_ways(host / "below")[way])
    else:
        (box.root / "a").mkdir()
        rootfs.give(box.root / "a", user.uid, user.gid)
        replace(box, "a/b", both_ways(host / "below")[way])
    box.mount("/" + (name + "/resolv.conf" if name != "etc/resolv.conf" else name), "bind", str(source), "bind", "ro")
    box.mount("/" + name.split("/")[0] + "/dir", "tmpfs", "tmpfs")
    done = runtime.run(box)
    if done.code == 0 and name.startswith("etc"):
        assert parse_probe(done.out)["asked"]["read:/etc/resolv.conf"] == "nameserver\n"
    assert done.code == 0 or done.error_line


class Swapping:
    """Two names that change places all the time, each change atomic."""

    def __init__(self, one: Path, other: Path) -> None:
        self.names = os.fsencode(one), os.fsencode(other)
        self.ended = threading.Event()
        self.rounds = 0
        self.thread = threading.Thread(target=self._swap)

    def _swap(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        while not self.ended.is_set():
            assert libc.renameat2(AT_FDCWD, self.names[0], AT_FDCWD, self.names[1], RENAME_EXCHANGE) == 0
            self.rounds += 1

    def __enter__(self) -> Swapping:
        self.thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.ended.set()
        self.thread.join()


@pytest.mark.parametrize("what", ["bind", "tmpfs", "file"])
def test_cve_2021_30465_2024_45310_a_destination_that_changes(
    what: str, runtime: Runtime, bundle: MakeBundle, host: Path, work: Path, user: User
) -> None:
    """A volume that another container has, too: it swaps a directory on the way for a link while this one starts."""
    volume = work / "volume"
    (volume / "dir").mkdir(parents=True)
    (volume / "link").symlink_to(host)
    source = work / "source"
    source.write_text("mounted\n") if what == "file" else source.mkdir()
    rootfs.give(volume, user.uid, user.gid)
    box = bundle("/bin/true").writable()
    (box.root / "vol").mkdir()
    box.mount("/vol", "bind", str(volume), "bind")
    for i in range(20):
        if what == "tmpfs":
            box.mount(f"/vol/dir/below/new{i}", "tmpfs", "tmpfs")
        else:
            box.mount(f"/vol/dir/below/new{i}", "bind", str(source), "bind")
    good = 0
    with Swapping(volume / "dir", volume / "link") as swapping:
        for _ in range(10):
            done = runtime.run(box)
            good += done.code == 0
            assert done.code == 0 or done.error_line
    assert swapping.rounds > 100
    assert not list((host / "below").iterdir())


def test_cve_2021_30465_a_source_below_a_volume_of_a_container_stays_below_it(
    runtime: Runtime, bundle: MakeBundle, host: Path
) -> None:
    """dest-nofollow refuses a link that another would follow within the root."""
    box = bundle("/bin/true").writable()
    replace(box, "mnt", "/etc")
    box.mount("/mnt", "bind", str(host), "bind", "dest-nofollow")
    assert "symbolic links" in runtime.run(box).error_line
