# SPDX-License-Identifier: Apache-2.0
"""The directories and files of a cgroup file system, v1 and v2 alike: make, read, write, walk, remove.

HOT: imported by every verb that has a cgroup. Files are opened relative to a directory's fd, written with one write(2)
(the kernel parses each write on its own) and never created: a knob that is not there is an error.
"""

from __future__ import annotations

from errno import EACCES, EBUSY, EINVAL, ENODEV, ENOENT, ENOTEMPTY, EOPNOTSUPP, EPERM, EROFS
from posix import (
    O_CLOEXEC,
    O_DIRECTORY,
    O_NOFOLLOW,
    O_RDONLY,
    O_WRONLY,
    chmod,
    close,
    dup,
    fstat,
    lstat,
    mkdir,
    open,
    rmdir,
    scandir,
)
from posix import read as read_fd
from posix import write as write_fd
from time import monotonic, sleep

from ctnr.errors import CtnrError, SyscallError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_DIR_FLAGS = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC
_DENIED = (EACCES, EPERM, EROFS)
_GONE = (ENOENT, ENODEV)
# How long delete() waits for processes that are being killed to leave, in seconds
REMOVE_TIMEOUT = 5.0


class Dir:
    """An open cgroup directory; a context manager. `path` is for messages only."""

    __slots__ = ("fd", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = open(path, _DIR_FLAGS)

    def __enter__(self) -> Dir:
        return self

    def __exit__(self, *exc: object) -> None:
        close(self.fd)

    def read(self, name: str) -> str:
        """The content of a file. Raises OSError."""
        return read(name, self.fd)

    def write(self, name: str, value: str) -> None:
        """Write to a file. Raises OSError."""
        write(name, value, self.fd)

    def put(self, name: str, value: str, field: str) -> None:
        """Write what the config's `field` asks for. Raises SyscallError naming the field, the value and the file."""
        try:
            self.write(name, value)
        except OSError as e:
            raise self.error(e, name, value, field) from e

    def put_or_later(self, name: str, value: str, field: str, later: bool) -> bool:
        """As put(); but when the kernel answers EINVAL and `later` is true, return False: the value conflicts with
        another knob that is still to be written, and the caller comes back afterwards.
        """
        try:
            self.write(name, value)
        except OSError as e:
            if later and e.errno == EINVAL:
                return False
            raise self.error(e, name, value, field) from e
        return True

    def has(self, name: str) -> bool:
        """Whether the file is there."""
        try:
            lstat(name, dir_fd=self.fd)
        except FileNotFoundError:
            return False
        return True

    def error(self, e: OSError, name: str, value: str, field: str) -> SyscallError:
        """The SyscallError for a failed write of `value` to `name`."""
        hint = ""
        if e.errno == ENOENT:
            hint = "the kernel has no such knob, or its controller is not enabled here"
        elif e.errno in _DENIED:
            hint = "this user may not change it"
        return SyscallError(f"{field}: write {value!r} to", e.errno or 0, f"{self.path}/{name}", hint)


def read(name: str, dir_fd: int | None = None) -> str:
    """The whole content of a file as text. Raises OSError."""
    fd = open(name, O_RDONLY | O_CLOEXEC, dir_fd=dir_fd)
    try:
        data = chunk = read_fd(fd, 65536)
        while chunk:
            chunk = read_fd(fd, 65536)
            data += chunk
    finally:
        close(fd)
    return data.decode("utf-8", "surrogateescape")


def write(name: str, value: str, dir_fd: int | None = None) -> None:
    """Write `value` to an existing file with one write(2). Raises OSError."""
    fd = open(name, O_WRONLY | O_CLOEXEC, dir_fd=dir_fd)
    try:
        write_fd(fd, value.encode("utf-8", "surrogateescape"))
    finally:
        close(fd)


def parent(path: str) -> str:
    """The directory above an absolute, normal path."""
    return path[: path.rindex("/")] or "/"


def exists(path: str) -> bool:
    """Whether there is such a directory entry."""
    try:
        lstat(path)
    except OSError:
        return False
    return True


def make(path: str, made: list[str]) -> bool:
    """mkdir -p, appending each directory this call created to `made`, outermost first. Raises OSError.

    Returns False when `path` was there already. Another process removing a parent at the same time (a container that
    failed to start cleans up after itself) is no error: the parent is made again.
    """
    todo = [path]
    for _ in range(path.count("/") * 2 + 64):
        target = todo[-1]
        try:
            mkdir(target, 0o755)
        except FileExistsError:
            todo.pop()
            if not todo:
                return False
        except FileNotFoundError:
            if target == "/":
                raise
            todo.append(parent(target))
        else:
            made.append(todo.pop())
            if not todo:
                return True
    raise FileNotFoundError(ENOENT, "its parent keeps vanishing", path)


def unmask(made: list[str]) -> None:
    """Modes as make() meant them, whatever the umask, which was the same for all. Raises OSError.

    Under a umask of 077 the container's own root could not enter its cgroup.
    """
    # looked at once: lstat of a new cgroup takes as long as its mkdir
    if made and lstat(made[0]).st_mode & 0o777 != 0o755:
        for path in made:
            chmod(path, 0o755)


def unmake(made: list[str]) -> None:
    """Take back what make() made, as far as nobody has made something below it since."""
    for path in reversed(made):
        try:
            rmdir(path)
        except OSError:
            continue  # it is in use by now, or gone: either way not ours any more


def children(fd: int) -> list[str]:
    """The names of the cgroups directly below. A cgroup removed meanwhile has none."""
    try:
        # cgroupfs counts subdirectories in st_nlink as ext4 does: 2 is a leaf, whose 40 files need not be listed
        if fstat(fd).st_nlink == 2:
            return []
        with scandir(fd) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError as e:
        if e.errno in _GONE:
            return []
        raise


def descendants(top_fd: int) -> Iterator[tuple[int, str]]:
    """Yield (fd of the parent, name) of each cgroup below, children before their parents.

    A container that owns its cgroup may nest deeper than PATH_MAX, Python's stack and RLIMIT_NOFILE allow: this climbs
    with `..`, one directory open at a time. The fd is the generator's own: valid until the next step.
    """
    fd = dup(top_fd)
    names: list[str] = []
    pending = [children(fd)]
    try:
        while True:
            if pending[-1]:
                name = pending[-1].pop()
                try:
                    child = open(name, _DIR_FLAGS, dir_fd=fd)
                except OSError as e:
                    if e.errno in _GONE:
                        continue
                    raise
                close(fd)
                fd = child
                names.append(name)
                pending.append(children(fd))
            elif names:
                up = open("..", _DIR_FLAGS, dir_fd=fd)
                close(fd)
                fd = up
                pending.pop()
                yield fd, names.pop()
            else:
                return
    finally:
        close(fd)


def _procs(directory: str, dir_fd: int) -> list[int]:
    try:
        text = read(directory + "cgroup.procs", dir_fd)
    except OSError as e:
        if e.errno != EOPNOTSUPP:
            raise
        # a threaded cgroup (v2) lists threads only
        text = read(directory + "cgroup.threads", dir_fd)
    return [int(line) for line in text.split()]


def pids(path: str) -> list[int]:
    """The processes of a cgroup and of all below it, sorted. One that is gone has none. Raises OSError."""
    try:
        top = Dir(path)
    except OSError as e:
        if e.errno in _GONE:
            return []
        raise
    with top:
        found: set[int] = set()
        try:
            found.update(_procs("", top.fd))
        except OSError as e:
            if e.errno not in _GONE:
                raise
        for fd, name in descendants(top.fd):
            try:
                found.update(_procs(name + "/", fd))
            except OSError as e:
                if e.errno not in _GONE:
                    raise
    # 0 stands for a process outside of our pid namespace
    found.discard(0)
    return sorted(found)


def remove(path: str, timeout: float = REMOVE_TIMEOUT) -> None:
    """Remove a cgroup and all below it, waiting up to `timeout` seconds for dying processes to leave.

    One that is not there is no error. Raises SyscallError.
    """
    deadline = monotonic() + timeout
    pause = 0.0001
    while True:
        try:
            rmdir(path)
            return
        except FileNotFoundError:
            return
        except OSError as e:
            # EROFS comes before ENOENT in the kernel: a read-only mount says so even of what is not there
            if e.errno in _DENIED and not exists(path):
                return
            if e.errno not in (EBUSY, ENOTEMPTY):
                raise SyscallError("remove the cgroup", e.errno or 0, path) from e
        try:
            with Dir(path) as top:
                for fd, name in descendants(top.fd):
                    try:
                        rmdir(name, dir_fd=fd)
                    except OSError as e:
                        if e.errno not in (EBUSY, ENOTEMPTY, *_GONE):
                            raise
                busy = bool(children(top.fd))
            if not busy:
                rmdir(path)
                return
        except OSError as e:
            if e.errno in _GONE:
                return
            if e.errno not in (EBUSY, ENOTEMPTY):
                raise SyscallError("remove the cgroups below", e.errno or 0, path) from e
        if monotonic() >= deadline:
            left = " ".join(map(str, pids(path)[:5]))
            raise SyscallError("remove the cgroup", EBUSY, path, f"it still has processes: {left}" if left else "")
        sleep(pause)
        pause = min(pause * 2, 0.05)


def no_freezer() -> tuple[Any, str]:
    """Raises CtnrError, in runc's words."""
    raise CtnrError("cannot toggle freezer: cgroups not configured for container")


def setup_error(e: OSError) -> SyscallError:
    """The error for one that no field is to blame for."""
    return SyscallError("linux.resources: set up the cgroup: access", e.errno or 0, str(e.filename or ""))
