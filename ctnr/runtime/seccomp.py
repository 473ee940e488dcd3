# SPDX-License-Identifier: Apache-2.0
"""The seccomp filter of a container: from the cache, or compiled (ctnr/runtime/seccomp_build.py) and cached.

HOT. libseccomp takes up to 10 ms for a usual profile, reading one file 0.1 ms. An entry is named by a hash of the
section, and good for the libseccomp and the kernel it was made with. Whoever can write an entry decides on the filter,
so only files of our own that nobody else may write are read.
"""

from __future__ import annotations

import marshal
import posix
import sys
from _struct import Struct

from ctnr import files, log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctnr.spec.types import Seccomp

try:
    from _sha256 import sha256  # type: ignore[import-not-found, unused-ignore]  # to 3.11
except ImportError:
    try:
        from _sha2 import sha256  # type: ignore[import-not-found, unused-ignore]  # from 3.12
    except ImportError:
        # a Python built without its own hashes
        from hashlib import sha256

_ROOT_CACHE = "/var/cache"
# an entry: MAGIC, sha256 of key and the rest, then _HEAD (flags, length of the stamp), the stamp, the program
_MAGIC = b"ctnrbpf1"
_HEAD = Struct("=II")
_PROLOGUE = len(_MAGIC) + 32
_MAX_ENTRY = 64 << 10  # a program has at most 4096 instructions of 8 bytes
_MAX_ENTRIES = 128
_MAX_MEMO = 64

_memo: dict[bytes, Filter] = {}


class Filter:
    """A seccomp filter: `program`, an array of struct sock_filter, and `flags`, SECCOMP_FILTER_FLAG_* (seccomp(2))."""

    __slots__ = ("flags", "program")

    def __init__(self, program: bytes, flags: int) -> None:
        self.program = program
        self.flags = flags


def compile(section: Seccomp, path: str = "linux.seccomp", fail_unknown: bool = False) -> Filter:
    """The filter of a runtime-spec `linux.seccomp` object (config-linux.md#seccomp).

    `path` is its JSON path, for the messages; `fail_unknown`: an unknown system call is an error. Raises SpecError for a
    section that is wrong or that libseccomp or the kernel refuses, CtnrError if there is no libseccomp and the filter is
    not cached.
    """
    if "listenerPath" in section or "listenerMetadata" in section:
        # who listens makes no other filter
        section = {**section}
        section.pop("listenerPath", None)
        section.pop("listenerMetadata", None)
    if fail_unknown:
        from ctnr.runtime.seccomp_build import build

        built = build(section, path, fail_unknown=True)
        return Filter(built.program, built.flags)
    try:
        key = _key(section)
    except ValueError:
        # not plain JSON values: nothing to tell two sections apart by
        found = _compile(section, path, b"", "")
    else:
        found = _memo.get(key) or _remember(key, _cached(section, path, key))
    log.debug(f"seccomp filter flags: {found.flags}")
    return found


def _remember(key: bytes, found: Filter) -> Filter:
    if len(_memo) >= _MAX_MEMO:
        _memo.clear()
    _memo[key] = found
    return found


def _cached(section: Seccomp, path: str, key: bytes) -> Filter:
    file = _cache_file(key)
    return (_read(file, key) if file else None) or _compile(section, path, key, file)


def _compile(section: Seccomp, path: str, key: bytes, file: str) -> Filter:
    from ctnr.runtime.seccomp_build import build

    built = build(section, path)
    if file:
        _store(file, key, built.program, built.flags, built.library)
    return Filter(built.program, built.flags)


# --- the cache


def _digest(data: bytes) -> bytes:
    digest: bytes = sha256(_MAGIC + data).digest()
    return digest


def _key(section: Seccomp) -> bytes:
    """What the filter depends on, hashed. Raises ValueError for values that are not JSON's."""
    # marshal is the fastest canonical form there is (version 2: without references, which depend on the objects'
    # identity), and never read back; a key order of its own makes an entry of its own, which does no harm
    abi = f"{posix.uname().machine} {sys.byteorder} {sys.maxsize:x}\n"
    return _digest(abi.encode() + marshal.dumps(section, 2))  # type: ignore[arg-type]  # a TypedDict is a dict


def _cache_file(key: bytes) -> str:
    """Where the entry of `key` is or would be, "" for no cache."""
    directory = ""
    if posix.geteuid() == 0:
        directory = _ROOT_CACHE
        try:
            if posix.stat(directory).st_uid != 0:
                # root of a user namespace
                directory = ""
        except OSError:
            # not there yet, or not for us to look at: writing to it will tell
            pass
    if not directory:
        directory = files.getenv("XDG_CACHE_HOME") or ""
        # XDG base directory specification: a relative path is to be ignored
        if not files.isabs(directory):
            home = files.getenv("HOME") or ""
            if not files.isabs(home):
                return ""
            directory = home + "/.cache"
    return f"{directory}/ctnr/seccomp/{key.hex()}"


def _stamp(library: str) -> bytes:
    """What an entry was made with: the library's file and the kernel, which decide on actions and flags known."""
    st = posix.stat(library)
    text = f"{library}\0{st.st_dev} {st.st_ino} {st.st_size} {st.st_mtime_ns}\0{posix.uname().release}\0"
    stamp = files.fsencode(text)
    return stamp + b"\0" * (-len(stamp) % 8)


def _read(file: str, key: bytes) -> Filter | None:
    """The entry `file`, None if there is none that is good."""
    flags = posix.O_RDONLY | posix.O_NOFOLLOW | posix.O_NONBLOCK | posix.O_NOCTTY | posix.O_CLOEXEC
    try:
        fd = posix.open(file, flags)
        try:
            st = posix.fstat(fd)
            regular = st.st_mode & 0o170000 == 0o100000
            if not regular or st.st_uid != posix.geteuid() or st.st_mode & 0o022:
                log.debug(f"{file}: ignored, not a file that only we can write")
                return None
            if st.st_size > _MAX_ENTRY or st.st_size % 8:
                log.debug(f"{file}: ignored, damaged")
                return None
            data = posix.read(fd, _MAX_ENTRY)
        finally:
            posix.close(fd)
        return _decode(file, key, data)
    except FileNotFoundError:
        # no entry, or no more the library it was made with
        return None
    except OSError as e:
        log.debug(f"{file}: {e.strerror}")
        return None


def _decode(file: str, key: bytes, data: bytes) -> Filter | None:
    body = data[_PROLOGUE:]
    start = _HEAD.size
    if data[:_PROLOGUE] != _MAGIC + _digest(key + body):
        log.debug(f"{file}: ignored, damaged")
        return None
    flags, length = _HEAD.unpack_from(body)
    stamp = body[start : start + length]
    library = files.fsdecode(stamp[: stamp.index(b"\0")])
    if stamp != _stamp(library):
        # libseccomp or the kernel is another
        return None
    return Filter(body[start + length :], flags)


def _store(file: str, key: bytes, program: bytes, flags: int, library: str) -> None:
    """Write the entry `file`. That it cannot be written is no error: it will be compiled again."""
    directory = files.dirname(file)
    try:
        stamp = _stamp(library)
        files.makedirs(directory, 0o700)
        st = posix.lstat(directory)
        if st.st_mode & 0o170000 != 0o040000 or st.st_uid != posix.geteuid() or st.st_mode & 0o022:
            log.debug(f"{directory}: not a directory that only we can write, the seccomp filter is not cached")
            return
        body = _HEAD.pack(flags, len(stamp)) + stamp + program
        files.write_atomic(file, _MAGIC + _digest(key + body) + body, 0o600)
        _prune(directory)
    except OSError as e:
        log.debug(f"cannot cache the seccomp filter in {directory}: {e.strerror}")


def _prune(directory: str) -> None:
    """Keep the newer half of the entries when there are too many, also of what killed writers left."""
    names = posix.listdir(directory)
    if len(names) <= _MAX_ENTRIES:
        return
    try:
        paths = [f"{directory}/{name}" for name in names]
        paths.sort(key=lambda path: posix.lstat(path).st_mtime_ns)
        for path in paths[: len(paths) // 2]:
            posix.unlink(path)
    except FileNotFoundError:
        # somebody else is at it
        pass
