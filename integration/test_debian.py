# SPDX-License-Identifier: Apache-2.0
"""A real distribution: Debian made by debootstrap, as a directory and as .tar.xz; busybox beside it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support import machine, rootfs, runtimes
from support.runtimes import Result, Runtime
from support.users import ONE_ID, User

LONG = 300.0
Ctnr = Callable[..., Result]


@pytest.fixture
def ctnr(runtime: Runtime, work: Path) -> Ctnr:
    """`ctnr` as each kind of user, with a store of the user's."""
    store = work / "store"
    store.mkdir(mode=0o700)
    rootfs.give(store, runtime.user.uid, runtime.user.gid)

    def call(*words: str | Path) -> Result:
        argv = [str(runtimes.ctnr_bin()), "--root", str(runtime.state_root), *map(str, words)]
        done = runtimes.call(argv, runtime.user, env={"CTNR_STORE": str(store)}, timeout=LONG)
        assert list(store.glob("containers/*")) == []
        return done

    return call


def archive_of(tree: Path, name: str, *flags: str) -> Path:
    """The tree as an archive, made once by GNU tar and kept."""
    path = machine.cache_dir() / name
    with machine.locked(machine.cache_dir() / f"{name}.lock"):
        if not path.exists():
            tar, _ = machine.need("tar", "xz")
            new = path.with_name(f"new-{name}")
            env = {**os.environ, "XZ_OPT": "-1 -T0"}
            subprocess.run([tar, *flags, "-caf", new, "-C", tree, "--numeric-owner", "."], check=True, env=env)
            new.chmod(0o644)
            new.rename(path)
    return path


@pytest.fixture
def debian_xz(debian_root: Path) -> Path:
    return archive_of(debian_root, "debian.tar.xz")


@pytest.fixture
def debian_tree(debian_root: Path, work: Path, user: User) -> Path:
    """A Debian directory that is the user's own, all of it: what an unprivileged debootstrap or tar leaves."""
    tree = work / "debian"
    [cp] = machine.need("cp")
    subprocess.run([cp, "-a", debian_root, tree], check=True)
    rootfs.give(tree, user.uid, user.gid)
    return tree


def test_an_archive(ctnr: Ctnr, debian_xz: Path, user: User) -> None:
    done = ctnr("run", debian_xz, "cat", "/etc/os-release").ok()
    assert 'NAME="Debian GNU/Linux"' in done.out
    assert done.err == ""
    script = "apt-get --version | head -1; stat -c %u:%a /etc/shadow /usr/bin/passwd; perl -e 'print 6*7, qq(\\n)'"
    lines = ctnr("run", debian_xz, "sh", "-ec", script).ok().out.splitlines()
    assert lines[0].startswith("apt ")
    assert lines[1:] == ["0:640", "0:4755", "42"]


def test_a_directory(ctnr: Ctnr, debian_tree: Path, debian_root: Path) -> None:
    done = ctnr(
        "run", debian_tree, "sh", "-ec", "cat /etc/os-release; cat /etc/resolv.conf; touch /made /tmp/made"
    ).ok()
    assert "Debian" in done.out
    assert done.out.endswith(Path("/etc/resolv.conf").read_text())
    assert (debian_tree / "made").exists()
    assert not (debian_root / "made").exists()


def test_a_directory_of_roots(ctnr: Ctnr, debian_root: Path, user: User) -> None:
    """Somebody else's directory: the container works, writes where everybody may, and the directory stays as it was."""
    if not user.rootless:
        pytest.skip("not applicable: everything is root's")
    script = "cat /etc/os-release /etc/resolv.conf; hostname; echo x > /tmp/made; echo x > /var/tmp/made; cat /tmp/made"
    done = ctnr("run", "--hostname", "inside", debian_root, "sh", "-ec", script).ok()
    assert "Debian" in done.out
    assert done.out.endswith("inside\nx\n")
    assert done.err == ""
    assert not (debian_root / "tmp/made").exists()


def test_dpkg_installs(ctnr: Ctnr, debian_xz: Path, work: Path, user: User) -> None:
    """A package made inside, installed and removed: chown, rename and fsync as dpkg does them."""
    if user.kind == ONE_ID:
        pytest.skip("not applicable: one id cannot own what a package owns")
    script = """
        mkdir -p /p/DEBIAN /p/usr/share/thing
        printf 'Package: thing\\nVersion: 1\\nArchitecture: all\\nMaintainer: x <x@x.org>\\nDescription: x\\n' > /p/DEBIAN/control
        echo here > /p/usr/share/thing/file
        chown -R games:games /p/usr/share/thing
        dpkg-deb --build /p /thing.deb >/dev/null
        dpkg -i /thing.deb >/dev/null
        cat /usr/share/thing/file; stat -c %U /usr/share/thing/file
        dpkg -P thing >/dev/null; test ! -e /usr/share/thing
    """
    assert ctnr("run", debian_xz, "sh", "-ec", script).ok().out == "here\ngames\n"


def test_apt_installs(ctnr: Ctnr, debian_xz: Path, user: User) -> None:
    if user.rootless:
        pytest.skip("not applicable: apt's own user and its mirror take root here")
    script = """
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -qq && apt-get install -y -qq --no-install-recommends hello >/dev/null 2>&1
        hello
    """
    done = ctnr("run", debian_xz, "sh", "-ec", script)
    if done.code and ("Temporary failure" in done.err or "Could not" in done.err or "Unable to" in done.err):
        here = subprocess.run(["apt-get", "update", "-qq"], capture_output=True, text=True, check=False)
        machine.need_that(here.returncode == 0, f"the machine's own apt-get update fails: {here.stderr[-200:]}")
    assert "Hello, world!" in done.ok().out


def test_apt_as_a_user_with_subuids(ctnr: Ctnr, debian_xz: Path, user: User) -> None:
    """apt drops to _apt with setgroups, seteuid and a chown: what a single id cannot do, a range can."""
    if not user.rootless or user.kind == ONE_ID:
        pytest.skip("not applicable: for a user with a range")
    script = "apt-get update -qq 2>&1 | grep -i -E 'setgroups|seteuid|setuid|chown' || echo fine"
    assert ctnr("run", debian_xz, "sh", "-c", script).ok().out == "fine\n"


def test_busybox(ctnr: Ctnr, work: Path, user: User) -> None:
    tree = rootfs.make_busybox(work / "busybox", user.uid, user.gid)
    script = "echo $0; id -u; hostname; ls /proc/1 >/dev/null && echo proc"
    for source in (tree, pack_busybox(tree)):
        done = ctnr("run", "--hostname", "bb", source, "sh", "-ec", script).ok()
        assert done.out.split() == ["sh", "0", "bb", "proc"]


def pack_busybox(tree: Path) -> Path:
    tar, _ = machine.need("tar", "xz")
    path = tree.with_name("busybox.tar.xz")
    subprocess.run([tar, "-caf", path, "-C", tree, "--owner=0", "--group=0", "."], check=True)
    path.chmod(0o644)
    return path


def test_the_host_as_its_own_container_keeps_its_files(ctnr: Ctnr, user: User) -> None:
    before = Path("/etc/os-release").read_bytes()
    script = "cat /etc/os-release; rm -f /etc/os-release; rm -rf /usr/share/doc 2>/dev/null; true"
    done = ctnr("run", "host:", "sh", "-c", script).ok()
    assert done.out.encode() == before
    assert Path("/etc/os-release").read_bytes() == before
    assert Path("/usr/share/doc").is_dir()
