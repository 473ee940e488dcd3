# SPDX-License-Identifier: Apache-2.0
"""Users by name, from the container's own /etc/passwd and /etc/group: attacker-made files, read as data. HOT (run)."""

from __future__ import annotations

import posix
from errno import ENOSYS, EPERM

from ctnr import _native, files
from ctnr.errors import CtnrError, SyscallError

_RESOLVE_IN_ROOT, _RESOLVE_NO_MAGICLINKS = 0x10, 0x02
_LIMIT = 8 << 20
MAX_ID = (1 << 32) - 2


def read_in_root(root: str, path: str) -> bytes:
    """A regular file of the container, b"" if there is none, or no root yet; symlinks are followed within the root only."""
    if not root:
        return b""
    root_fd = files.open_dir(root)
    try:
        found = _native.openat2(root_fd, path, posix.O_PATH, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    except OSError as error:
        if error.errno not in (ENOSYS, EPERM):
            return b""
        from ctnr.image.paths import open_dir

        directory, _, name = path.encode().rpartition(b"/")
        try:
            parent_fd = open_dir(root_fd, directory, in_root=True)
        except OSError:
            return b""
        try:  # a name that is a symlink itself is not followed there
            found = posix.open(name, posix.O_PATH | posix.O_NOFOLLOW | posix.O_CLOEXEC, dir_fd=parent_fd)
        except OSError:
            return b""
        finally:
            posix.close(parent_fd)
    finally:
        posix.close(root_fd)
    try:
        if posix.fstat(found).st_mode & 0o170000 != 0o100000:
            return b""  # not opened: a device might not like it
        fd = posix.open(f"/proc/self/fd/{found}", posix.O_RDONLY | posix.O_NONBLOCK | posix.O_CLOEXEC)
    finally:
        posix.close(found)
    try:
        return files.read_fd(fd, _LIMIT)
    except OSError as error:
        raise SyscallError("--user: read the container's", error.errno or 0, f"/{path}") from None
    finally:
        posix.close(fd)


def _rows(data: bytes, fields: int) -> list[list[str]]:
    # by newlines only: what else splitlines() knows (U+2028 ...) users can have in their own full names
    rows = (line.split(":") for line in data.decode("utf-8", "replace").split("\n"))
    return [row for row in rows if len(row) >= fields]


def parse_id(text: str) -> int | None:
    """A decimal uid or gid, strictly: None for anything else (CVE-2026-30892, CVE-2024-40635)."""
    if not text.isascii() or not text.isdigit() or len(text) > 10 or (text[0] == "0" and len(text) > 1):
        return None
    number = int(text)
    return number if number <= MAX_ID else None


def find(root: str, text: str) -> tuple[int, int, list[int]]:
    """USER[:GROUP], names or numbers, as (uid, gid, supplementary gids). Raises CtnrError for an unknown name."""
    user, colon, group = text.partition(":")
    passwd = _rows(read_in_root(root, "etc/passwd"), 4)
    groups = _rows(read_in_root(root, "etc/group"), 4)
    uid = parse_id(user)
    row = None
    if uid is None:
        row = next((r for r in passwd if r[0] == user), None)
        uid = parse_id(row[2]) if row else None
        if uid is None:
            raise CtnrError(f"--user: unable to find user {user}: no matching entries in the container's passwd file")
    else:
        row = next((r for r in passwd if r[2] == user), None)
    gid = parse_id(row[3]) if row else 0
    more: list[int] = []
    if colon:
        gid = parse_id(group)
        if gid is None:
            found = next((r for r in groups if r[0] == group), None)
            gid = parse_id(found[2]) if found else None
            if gid is None:
                raise CtnrError(
                    f"--user: unable to find group {group}: no matching entries in the container's group file"
                )
    elif gid is None:
        raise CtnrError(f"--user: the container's passwd file has no group id for {user}")
    elif row:
        more = [number for r in groups if row[0] in r[3].split(",") and (number := parse_id(r[2])) is not None]
    return uid, gid, more
