# SPDX-License-Identifier: Apache-2.0
"""Where containers are written down: ROOT/ID/{state.json,config.json,start.sock,creating,held}.

HOT. A file says what is; what is running is asked of the kernel: nothing here can go stale. Every directory is 0700.

`creating` exists, locked, while create is at work; a dead creator's lock is gone. The directory itself is the lock
(flock(2)) of the verbs that change the container.
"""

from __future__ import annotations

import posix
from errno import ECONNREFUSED, EEXIST, ENOENT, ENOTEMPTY, ESRCH
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN, flock
from time import gmtime

from ctnr import _native, files, jsonio
from ctnr.errors import CtnrError, StateError, SyscallError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

STATE, CONFIG, SOCKET, CREATING, HELD = "state.json", "config.json", "start.sock", "creating", "held"
MAX_ID = 1024
_TMPFS_MAGIC = 0x01021994

_ALLOWED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-.")


_boot: list[str] = []


def check_id(id: str) -> None:
    """Raise unless `id` is one that every caller can use as a name: runc's grammar, and crun's: no dot first."""
    if not id or len(id) > MAX_ID or id[0] == "." or not _ALLOWED.issuperset(id):
        wrong = next((f" invalid character {c!r}," for c in id if c not in _ALLOWED), "")
        raise StateError(
            f"invalid container ID format: {id!r}:{wrong} use letters, digits and _ + - . only, no . first", id
        )


def default_root() -> str:
    """/run/ctnr for root; for anybody else $XDG_RUNTIME_DIR/ctnr, or a directory that is only theirs."""
    uid = posix.geteuid()
    base = files.getenv("XDG_RUNTIME_DIR")
    if uid == 0 and not (base and in_user_namespace()):
        return "/run/ctnr"
    if base:
        return f"{base}/ctnr"
    try:
        st = posix.stat(f"/run/user/{uid}")
        if st.st_uid == uid:
            return f"/run/user/{uid}/ctnr"
    except OSError:
        pass  # no login manager made one
    return f"/tmp/ctnr-{uid}"


def in_user_namespace() -> bool:
    """Whether this process is in one that has not all of the machine's ids."""
    return files.read_file("/proc/self/uid_map").split() != [b"0", b"0", b"4294967295"]


def make_root(root: str) -> None:
    """Make the state root, if it is not there. CtnrError for one that is not to be trusted, see check_root()."""
    try:
        files.makedirs(root, 0o700)
    except OSError as error:
        raise SyscallError("--root: make", error.errno or 0, root) from None
    check_root(root)


def check_root(root: str) -> bool:
    """Whether the state root is there. CtnrError for one that others can write to or have put there (in /tmp): a container
    planted in it would have its hooks run, and what it says it owns removed."""
    ours = (posix.geteuid(), 0)
    try:
        st = posix.lstat(root)
        if st.st_mode & 0o170000 == 0o120000 and st.st_uid in ours:
            st = posix.stat(root)
    except OSError as error:
        if error.errno == ENOENT:
            return False
        raise SyscallError("--root: look at", error.errno or 0, root) from None
    if st.st_uid not in ours or st.st_mode & 0o022:
        raise CtnrError(f"--root: {root} is writable by others or not yours: use another directory, or chmod go-w it")
    return True


def user_name(uid: int) -> str:
    """The name of a user, or the uid in decimal."""
    if uid == 0:
        return "root"  # no need to read the user database, which may be somewhere in the network
    from pwd import getpwuid

    try:
        return getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def boot_id() -> str:
    """Which boot of the machine this is; read once (it takes 0.2 ms)."""
    if not _boot:
        _boot.append(files.read_file("/proc/sys/kernel/random/boot_id").decode().strip())
    return _boot[0]


def stat(pid: int) -> list[bytes]:
    """The fields of /proc/PID/stat (proc(5)) from the third, the state's letter, on; that alone of one that is gone."""
    try:
        text = files.read_file(f"/proc/{pid}/stat")
    except OSError as error:
        if error.errno in (ENOENT, ESRCH):
            return [b"X"]
        raise
    return text[text.rindex(b")") + 2 :].split()


def start_time(pid: int) -> int:
    """When the process started, in clock ticks since boot; 0 if it is gone or a zombie."""
    fields = stat(pid)
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


def is_stopped(pid: int) -> bool:
    """Whether a signal has stopped the process (or a tracer) and nobody has continued it."""
    return stat(pid)[0] in (b"T", b"t")


def rfc3339(nanoseconds: int) -> str:
    """UTC, as Go prints it."""
    t = gmtime(nanoseconds // 10**9)
    day = f"{t.tm_year:04}-{t.tm_mon:02}-{t.tm_mday:02}"
    return f"{day}T{t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02}.{nanoseconds % 10**9:09}Z"


class StateDir:
    """One container's directory, by fd: renaming or replacing it under us changes nothing."""

    __slots__ = ("fd", "path")

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self.fd = fd

    def close(self) -> None:
        if self.fd >= 0:
            posix.close(self.fd)
            self.fd = -1

    def outlives_boot(self) -> bool:
        """Whether the directory may be from before the machine's last start: not on a tmpfs, as /run mostly is."""
        return _native.fstatfs_type(self.fd) != _TMPFS_MAGIC

    def lock(self) -> None:
        """Wait for the verbs of other processes; StateError if the container has gone meanwhile."""
        flock(self.fd, LOCK_EX)
        if posix.fstat(self.fd).st_nlink == 0:
            raise StateError("container does not exist")

    def try_lock(self) -> bool:
        """As lock(), but False at once where it would have to wait."""
        try:
            flock(self.fd, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            return False
        if posix.fstat(self.fd).st_nlink == 0:
            raise StateError("container does not exist")
        return True

    def unlock(self) -> None:
        """Let the others; no longer is the lock of a container held that runs in the foreground."""
        if self.fd >= 0:
            flock(self.fd, LOCK_UN)

    def write(self, name: str, data: bytes, mode: int = 0o600) -> None:
        fd = posix.open(
            name + ".tmp", posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_CLOEXEC, mode, dir_fd=self.fd
        )
        try:
            posix.fchmod(fd, mode)  # whatever the umask: the container's users read some of these
            files.write_fd(fd, data)
        finally:
            posix.close(fd)
        posix.rename(name + ".tmp", name, src_dir_fd=self.fd, dst_dir_fd=self.fd)

    def read(self, name: str) -> bytes:
        return files.read_file(name, dir_fd=self.fd)

    def write_state(self, state: dict[str, Any]) -> None:
        self.write(STATE, jsonio.dumps(state).encode("utf-8", "surrogateescape"))

    def _locked(self, name: str) -> int:
        fd = posix.open(name, posix.O_WRONLY | posix.O_CREAT | posix.O_CLOEXEC, 0o600, dir_fd=self.fd)
        flock(fd, LOCK_EX)
        return fd

    def hold(self) -> int:
        """Note that the container is somebody's; the fd returned is the note's lock."""
        return self._locked(HELD)

    def held(self) -> bool:
        return self._is_locked(HELD) is True

    def begin(self) -> int:
        """Mark the container as being created; the fd returned is the mark's lock."""
        return self._locked(CREATING)

    def end(self, fd: int) -> None:
        posix.unlink(CREATING, dir_fd=self.fd)
        posix.close(fd)

    def creating(self) -> bool | None:
        """True while create is at work, None if it died before it was done, False if it was done."""
        return self._is_locked(CREATING)

    def _is_locked(self, name: str) -> bool | None:
        """None: the file is there, but nobody has it locked."""
        try:
            fd = posix.open(name, posix.O_RDONLY | posix.O_CLOEXEC, dir_fd=self.fd)
        except OSError as error:
            if error.errno == ENOENT:
                return False
            raise
        try:
            flock(fd, LOCK_SH | LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            posix.close(fd)
        # between the open and the lock it may have been removed by a create that succeeded
        return None if _exists(name, self.fd) else False

    def waits_for_start(self) -> bool:
        """Whether the init still listens for `start`: the kernel's word, whatever became of whoever started it."""
        try:
            posix.close(_native.unix_connect(self.fd, SOCKET))
        except OSError as error:
            if error.errno in (ENOENT, ECONNREFUSED):
                return False
            raise
        return True

    def remove(self) -> None:
        parent = files.open_dir(files.dirname(self.path))
        try:
            # first out of the way under a name no container can have: what is left after a crash is no container
            name = f"~gone-{posix.getpid()}-{posix.urandom(4).hex()}"
            try:
                posix.rename(files.basename(self.path), name, src_dir_fd=parent, dst_dir_fd=parent)
            except OSError as error:
                if error.errno == ENOENT:
                    return
                raise
            files.remove_tree_at(parent, name)
            _sweep(parent)
        finally:
            posix.close(parent)


def sweep(root: str) -> None:
    """Remove what processes that were killed in new() or remove() have left."""
    try:
        root_fd = files.open_dir(root)
    except OSError:
        return  # there is no root, so nothing is left in it
    try:
        _sweep(root_fd)
    finally:
        posix.close(root_fd)


def _sweep(root_fd: int) -> None:
    for name in posix.listdir(root_fd):
        kind, _, rest = name.partition("-")
        if kind in ("~gone", "~new") and not _exists("/proc/" + rest.partition("-")[0], -1):
            try:
                files.remove_tree_at(root_fd, name)
            except FileNotFoundError:
                continue  # somebody else was faster


def _exists(name: str, dir_fd: int) -> bool:
    try:
        posix.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except OSError:
        return False
    return True


def new(root: str, id: str) -> tuple[StateDir, int]:
    """The directory of a new container, marked as being created: it appears with the mark in it. The fd is the mark's.

    StateError if the id is taken.
    """
    check_id(id)
    if not check_root(root):
        make_root(root)
    path = files.join(root, id)
    # a name that no container can have: what is left after a crash is swept with the next removal
    hidden = files.join(root, f"~new-{posix.getpid()}-{posix.urandom(4).hex()}")
    try:
        posix.mkdir(hidden, 0o700)
    except OSError as error:
        raise SyscallError("--root: make", error.errno or 0, path) from None
    dir = StateDir(path, files.open_dir(hidden))
    try:
        mark = dir.begin()
        try:
            posix.rename(hidden, path)  # fails if there is one, which is never empty
        except OSError as error:
            posix.close(mark)
            files.remove_tree(hidden)
            if error.errno in (EEXIST, ENOTEMPTY):
                raise StateError(f"container with given ID already exists: {id}", id) from None
            raise SyscallError("--root: make", error.errno or 0, path) from None
    except BaseException:
        dir.close()
        raise
    return dir, mark


def open(root: str, id: str) -> StateDir:
    """The directory of an existing container. StateError if there is none."""
    check_id(id)
    check_root(root)
    path = files.join(root, id)
    try:
        return StateDir(path, files.open_dir(path))
    except OSError as error:
        if error.errno == ENOENT:
            sweep(root)
            raise StateError("container does not exist", id) from None
        raise SyscallError("--root: open", error.errno or 0, path) from None


def ids(root: str) -> list[str]:
    """The ids of all containers under a root, sorted; none if the root is not there."""
    if not check_root(root):
        return []
    try:
        names = posix.listdir(root)
    except OSError as error:
        if error.errno == ENOENT:
            return []
        raise SyscallError("--root: list", error.errno or 0, root) from None
    return sorted(name for name in names if _ALLOWED.issuperset(name))
