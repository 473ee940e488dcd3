# SPDX-License-Identifier: Apache-2.0
"""Root filesystems to run: busybox (made in milliseconds, one per bundle) and a Debian by debootstrap (made once, kept)."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path

from . import machine

PAYLOAD = machine.INTEGRATION / "payload"
_PASSWD = (
    "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/:/bin/false\nalice:x:1000:1000:Alice:/home/alice:/bin/sh\n"
)
_GROUP = "root:x:0:\ndaemon:x:1:\nwheel:x:10:alice\nalice:x:1000:\n"
_DIRS = ("bin", "dev", "etc", "home/alice", "mnt", "proc", "root", "run", "sys", "tmp", "usr/bin", "var", "work")


def probe() -> Path:
    """The compiled payload (payload/probe.c)."""
    return compiled("probe")


@functools.cache
def compiled(name: str) -> Path:
    """A static program of payload/, built once per source."""
    import hashlib

    source = PAYLOAD / f"{name}.c"
    binary = machine.cache_dir() / f"{name}-{hashlib.sha256(source.read_bytes()).hexdigest()[:16]}"
    with machine.locked(machine.cache_dir() / f"{name}.lock"):
        if not binary.exists():
            [cc] = machine.need(os.environ.get("CC", "gcc"))
            new = binary.with_suffix(".new")
            flags = ["-std=gnu11", "-O1", "-static", "-pthread", "-Wall", "-Wextra", "-Werror", "-s"]
            subprocess.run([cc, *flags, "-o", new, source], check=True)
            new.chmod(0o755)
            new.rename(binary)
    return binary


@functools.cache
def _busybox() -> tuple[Path, tuple[str, ...]]:
    """The static busybox of the machine and its applets."""
    [busybox] = machine.need("busybox")
    with open(busybox, "rb") as file:
        machine.need_that(b"/ld-linux" not in file.read(4096), "busybox must be static (package busybox-static)")
    applets = subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True).stdout.split()
    return Path(busybox), tuple(a for a in applets if a != "busybox")


def make_busybox(root: Path, uid: int = 0, gid: int = 0, probe_too: bool = True) -> Path:
    """A busybox root filesystem at `root`, its files owned by `uid`:`gid`, with the payload as /probe."""
    busybox, applets = _busybox()
    for directory in _DIRS:
        (root / directory).mkdir(parents=True)
    root.chmod(0o755)
    (root / "tmp").chmod(0o1777)
    (root / "root").chmod(0o700)
    shutil.copyfile(busybox, root / "bin/busybox")
    (root / "bin/busybox").chmod(0o755)
    for applet in applets:
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text(_PASSWD)
    (root / "etc/group").write_text(_GROUP)
    (root / "etc/hostname").write_text("rootfs\n")
    (root / "not-executable").write_text("#!/bin/sh\n")
    (root / "not-executable").chmod(0o644)
    if probe_too:
        shutil.copyfile(probe(), root / "probe")
        (root / "probe").chmod(0o755)
    give(root, uid, gid)
    return root


def give(tree: Path, uid: int, gid: int) -> None:
    """chown -R, as root only."""
    if os.getuid() != 0 or (uid, gid) == (0, 0):
        return
    os.lchown(tree, uid, gid)
    for directory, below, files in os.walk(tree):
        for name in (*below, *files):
            os.lchown(os.path.join(directory, name), uid, gid)


def debian() -> Path:
    """A Debian minbase tree, made once by debootstrap (a minute, 130 MB) and kept. Read-only by agreement: copy or overlay it."""
    root = machine.cache_dir() / "debian"
    with machine.locked(machine.cache_dir() / "debian.lock"):
        if not root.exists():
            machine.need_root()
            [debootstrap] = machine.need("debootstrap")
            new = root.with_suffix(".new")
            shutil.rmtree(new, ignore_errors=True)
            suite = os.environ.get("CTNR_TEST_SUITE", "bookworm")
            mirror = [m] if (m := os.environ.get("CTNR_TEST_MIRROR")) else []
            done = subprocess.run(
                [debootstrap, "--variant=minbase", suite, str(new), *mirror],
                check=False,
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
            )
            if done.returncode != 0:
                shutil.rmtree(new, ignore_errors=True)
                machine.missing(
                    f"debootstrap failed (no Debian mirror?): {(done.stderr or done.stdout)[-300:].strip()}"
                )
            for archive in (new / "var/cache/apt/archives").glob("*.deb"):
                archive.unlink()
            new.chmod(0o755)
            new.rename(root)
    return root
