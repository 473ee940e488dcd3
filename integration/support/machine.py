# SPDX-License-Identifier: Apache-2.0
"""What this machine has: tools, cgroup hierarchies, places to put files. Probed, never assumed."""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

INTEGRATION = Path(__file__).resolve().parents[1]
CHECKOUT = INTEGRATION.parent
MUST_WORK = os.environ.get("CI") == "true" or os.environ.get("CTNR_MUST_WORK") == "1"
# Every name this test process gives to the outside (ids, cgroups, directories) starts so: leaks can be told from the neighbours'.
TOKEN = f"ct{os.getpid()}"
# Set where other people work on the machine at the same time: the leak check then looks only at what carries our token.
SHARED = os.environ.get("CTNR_TEST_SHARED") == "1"


def missing(reason: str) -> None:
    """A prerequisite is not there: a skip on somebody's laptop, a failure in CI, where everything has to be there."""
    if MUST_WORK:
        pytest.fail(f"needed here: {reason}", pytrace=False)
    pytest.skip(reason)


def need(*programs: str) -> list[str]:
    """The paths of `programs`; skips (fails in CI) when one is not installed."""
    search = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    paths = []
    for program in programs:
        path = shutil.which(program, path=search)
        if path is None:
            missing(f"{program} is not installed")
            raise AssertionError  # missing() does not return
        paths.append(path)
    return paths


def need_root() -> None:
    """Skips for an ordinary user, in CI too: CI runs as root and then as users of its own making."""
    if os.getuid() != 0:
        pytest.skip("needs root")


def need_that(condition: bool, reason: str) -> None:
    """A prerequisite that is not a program."""
    if not condition:
        missing(reason)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file: several pytest workers share the caches."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def cache_dir() -> Path:
    """Where what is slow to make (a Debian tree, the compiled payload) is kept between runs."""
    given = os.environ.get("CTNR_TEST_CACHE")
    if given:
        path = Path(given)
    elif os.getuid() == 0:
        path = Path("/var/cache/ctnr-tests")
    else:
        path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ctnr-tests"
    path.mkdir(parents=True, exist_ok=True)
    return path


def _usable(directory: str) -> bool:
    try:
        flags = os.statvfs(directory).f_flag
        free = os.statvfs(directory).f_bavail * os.statvfs(directory).f_frsize
        mode = os.stat(directory).st_mode
    except OSError:
        return False
    return not flags & os.ST_NOEXEC and free > 1 << 30 and bool(mode & stat.S_IXOTH) and os.access(directory, os.W_OK)


def scratch_parent() -> str:
    """The fastest place for throw-away files that every user can reach and programs may run from."""
    for directory in (os.environ.get("CTNR_TEST_TMP", ""), "/dev/shm", "/var/tmp", "/tmp"):
        if directory and _usable(directory):
            return directory
    raise RuntimeError("no usable directory for temporary files: set CTNR_TEST_TMP")


@functools.cache
def scratch() -> Path:
    """This process's directory for bundles, state and temporary files, passable for every user. Removed at the end."""
    parent = Path(scratch_parent())
    for stale in parent.glob("ct[0-9]*"):
        # of a test process that was killed; pids come again, ours too
        if stale.name[2:].isdigit() and (stale.name == TOKEN or not Path(f"/proc/{stale.name[2:]}").exists()):
            shutil.rmtree(stale, ignore_errors=True)
    path = parent / TOKEN
    path.mkdir(mode=0o755)
    path.chmod(0o755)
    (path / "tmp").mkdir()
    (path / "tmp").chmod(0o1777)
    return path


def cgroup_mounts() -> dict[str, str]:
    """Mounted cgroup hierarchies: controllers as the mount table writes them ("" for cgroup2) -> mount point."""
    mounts: dict[str, str] = {}
    with open("/proc/self/mountinfo") as table:
        for line in table:
            left, right = line.rstrip("\n").split(" - ", 1)
            mount_point = left.split(" ")[4]
            fs_type, _, options = right.split(" ", 2)
            if fs_type == "cgroup2":
                mounts.setdefault("", mount_point)
            elif fs_type == "cgroup":
                names = [
                    o for o in options.split(",") if o not in ("rw", "ro", "xattr", "clone_children", "release_agent")
                ]
                mounts.setdefault(",".join(names), mount_point)
    return mounts


def cgroup_mode() -> str:
    """ "v1", "v2", "hybrid" or "none": how the cgroup hierarchies are mounted where we stand."""
    mounts = cgroup_mounts()
    if not mounts:
        return "none"
    if "" not in mounts:
        return "v1"
    return "v2" if len(mounts) == 1 else "hybrid"


def poll(check: Callable[[], bool], seconds: float, every: float = 0.005) -> bool:
    """Wait until `check` holds; False when it does not within `seconds`."""
    import time

    end = time.monotonic() + seconds
    while not check():
        if time.monotonic() > end:
            return False
        time.sleep(every)
    return True
