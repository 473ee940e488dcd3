# SPDX-License-Identifier: Apache-2.0
"""A reader of tar streams: v7, ustar, GNU and PAX (tar(5); POSIX pax, "ustar Interchange Format"; GNU tar manual, D).

It trusts nothing: checksums, numbers, sizes and maps are checked, what it keeps is bounded whatever the archive says,
and ArchiveError is the only error for bad data. Nothing is ever sought: the input is a function that gives chunks.
"""

from __future__ import annotations

import struct
import zlib
from array import array

from ctnr.image.compression import ArchiveError
from ctnr.image.fields import (
    DIGITS_MAX,
    KEYS_MAX,
    SEGMENTS_MAX,
    XATTR,
    FieldError,
    adler_of,
    checked_segments,
    decimal_of,
    name_of,
    number_of,
    numbers_of,
    owner_of,
    pax_records,
    time_of,
    xattr_name,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

BLOCK = 512
# name, mode uid gid, size, mtime, checksum, type, linkname, magic+version, major minor, prefix
_HEADER = struct.Struct("100s24s12s12s8sB100s8s64x16s155s12x")
_ZEROS = bytes(BLOCK)
_NOTHING = memoryview(b"")
_NO_ARCHIVE = "no tar archive (plain or compressed with gzip, xz, bzip2, zstd)"

FILE = ord("0")
HARDLINK = ord("1")
SYMLINK = ord("2")
CHARDEV = ord("3")
BLOCKDEV = ord("4")
DIRECTORY = ord("5")
FIFO = ord("6")

_FILES = frozenset(b"0\x007")
_WITHOUT_DATA = frozenset(b"123456")
_GNU_SPARSE = ord("S")
_GNU_DUMPDIR = ord("D")
_GNU_VOLUME = ord("V")
_GNU_LONG_NAME = ord("L")
_GNU_LONG_LINK = ord("K")
_PAX = frozenset(b"xX")
_PAX_GLOBAL = ord("g")
_META = frozenset(b"xXgLK")

# Go's archive/tar has the same limit on what describes one entry
META_MAX = 1 << 20


class Entry:
    """One member. Names are the archive's bytes as they are, unchecked but for NULs.

    `kind` is FILE, HARDLINK, SYMLINK, CHARDEV, BLOCKDEV, DIRECTORY or FIFO; `mtime` and `atime` are nanoseconds since 1970;
    `size` is the file's, `sparse` its data segments as offset, length, offset, length ... (None: all is data);
    `xattrs` None or {name: value}; `device` (major, minor). uid and gid may be any number, even a negative one.
    """

    __slots__ = (
        "atime",
        "device",
        "gid",
        "kind",
        "linkname",
        "mode",
        "mtime",
        "name",
        "size",
        "sparse",
        "uid",
        "xattrs",
    )

    def __init__(
        self, name: bytes, kind: int, mode: int, uid: int, gid: int, size: int, mtime: int, linkname: bytes
    ) -> None:
        self.name = name
        self.kind = kind
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.size = size
        self.mtime = self.atime = mtime
        self.linkname = linkname
        self.device = (0, 0)
        self.sparse: array[int] | None = None
        self.xattrs: dict[bytes, bytes] | None = None


class Reader:
    """Reads a tar stream entry by entry: next(), then data() as often as it gives something, then next() again.

    `read` gives the next chunk of the stream, b"" at its end. A `strict` reader wants the end-of-archive marker, and
    nothing but zeros behind it; the other is as lenient as Go's, which image layers are made for. `name` is that of the
    entry being read, as soon as it is known.
    """

    def __init__(self, read: Callable[[], bytes], strict: bool = True) -> None:
        self._read = read
        self._strict = strict
        self._buffer = b""
        self._view = _NOTHING
        self._pos = 0
        self._end = 0
        # position of the buffer in the stream
        self._base = 0
        # bytes of the current entry not read yet, and the padding behind them
        self._left = 0
        self._padding = 0
        self._globals: dict[bytes, bytes] = {}
        self._seen_header = False
        self.name = b""

    @property
    def position(self) -> int:
        """How much of the stream has been used: after next(), where the entry's data begins."""
        return self._base + self._pos

    def next(self) -> Entry | None:
        """The next entry, or None at the end of the archive."""
        self.name = b""
        if self._left or self._padding:
            self._skip(self._left + self._padding)
            self._left = self._padding = 0
        pax: dict[bytes, bytes] = {}
        long_name = long_link = b""
        while (block := self._block()) is not None:
            try:
                name, owner, size_field, mtime, checksum, kind, linkname, magic, device, prefix = _HEADER.unpack(block)
                if (zlib.adler32(block) & 0xFFFF) != adler_of(checksum):
                    self._check_signed(block, checksum)
                self._seen_header = True
                size = number_of(size_field)
                if size < 0:
                    raise FieldError("negative size")
                if kind in _META:
                    data = self._meta(size)
                    if kind in _PAX:
                        pax = pax_records(data)
                    elif kind == _PAX_GLOBAL:
                        self._add_globals(pax_records(data))
                    elif kind == _GNU_LONG_NAME:
                        long_name = data.partition(b"\0")[0]
                    else:
                        long_link = data.partition(b"\0")[0]
                    continue
                name = name.partition(b"\0")[0]
                if prefix[0] and magic[:6] == b"ustar\0":
                    name = prefix.partition(b"\0")[0] + b"/" + name
                self.name = name = long_name or name
                mode, uid, gid = owner_of(owner)
                linkname = long_link or linkname.partition(b"\0")[0]
                entry = Entry(name, kind, mode, uid, gid, size, number_of(mtime) * 10**9, linkname)
                records = {**self._globals, **pax} if self._globals else pax
                if records:
                    self._apply(entry, records)
                if kind in _WITHOUT_DATA:
                    # whatever the size field says, as GNU tar and Go have it
                    entry.size = 0
                    if kind in (CHARDEV, BLOCKDEV):
                        entry.device = (number_of(device[:8]), number_of(device[8:]))
                    return entry
                self._left = entry.size
                self._padding = -entry.size % BLOCK
                if kind in _FILES:
                    self._file(entry, records)
                    return entry
                if kind == _GNU_SPARSE:
                    self._sparse_old(entry, block)
                    return entry
                if kind == _GNU_DUMPDIR:
                    # its data is the list of names of an incremental dump: skipped
                    entry.kind = DIRECTORY
                    entry.size = 0
                    return entry
                if kind != _GNU_VOLUME:
                    raise FieldError(f"entry type {chr(kind)!a} is not supported")
                self._skip(self._left + self._padding)
                self._left = self._padding = 0
                pax, long_name, long_link = {}, b"", b""
            except FieldError as e:
                raise (self._damaged(str(e)) if self._seen_header else ArchiveError(_NO_ARCHIVE)) from None
        if pax or long_name or long_link:
            raise self._damaged("the last entry is missing")
        return None

    def data(self, limit: int) -> memoryview:
        """Some of the current entry's data, no more than `limit` bytes; empty when there is no more."""
        left = self._left
        if not left:
            return _NOTHING
        if self._pos == self._end and not self._refill():
            raise self._truncated()
        pos = self._pos
        n = min(self._end - pos, left, limit)
        self._left = left - n
        self._pos = pos + n
        return self._view[pos : pos + n]

    def finish(self) -> None:
        """Read the stream to its end, so that its own checksums are checked."""
        while self._pos < self._end or self._refill():
            rest = self._view[self._pos : self._end]
            if self._strict and rest != bytes(len(rest)):
                raise self._damaged("garbage after the end of the archive")
            self._pos = self._end

    def _damaged(self, why: str) -> ArchiveError:
        return ArchiveError(f"damaged tar archive (near byte {self._base + self._pos}): {why}")

    def _truncated(self) -> ArchiveError:
        return ArchiveError(f"truncated: the archive ends at byte {self._base + self._pos}")

    # --- the stream

    def _refill(self) -> bool:
        chunk = self._read()
        if not chunk:
            return False
        self._base += self._end
        self._buffer = chunk
        self._view = memoryview(chunk)
        self._pos = 0
        self._end = len(chunk)
        return True

    def _block(self) -> bytes | None:
        """The next header, or None at the end of the archive."""
        block = self._header_bytes()
        if not block:
            if self._strict or not self._seen_header:
                raise self._truncated() if self._seen_header else ArchiveError("no tar archive: it is empty")
            return None
        if block[0] or block != _ZEROS:
            return block
        self._seen_header = True
        if self._header_bytes() not in (b"", _ZEROS):
            raise self._damaged("data after a block of zeros")
        return None

    def _header_bytes(self) -> bytes:
        pos = self._pos
        if self._end - pos >= BLOCK:
            self._pos = pos + BLOCK
            return self._buffer[pos : pos + BLOCK]
        return self._take(BLOCK, at_end=True)

    def _take(self, size: int, at_end: bool = False) -> bytes:
        """Exactly `size` bytes; b"" if there is none at all and the stream may end here."""
        parts = []
        missing = size
        while missing:
            if self._pos == self._end and not self._refill():
                if at_end and missing == size:
                    return b""
                raise self._truncated() if self._seen_header else ArchiveError(_NO_ARCHIVE)
            part = self._buffer[self._pos : self._pos + missing]
            parts.append(part)
            self._pos += len(part)
            missing -= len(part)
        return b"".join(parts)

    def _skip(self, size: int) -> None:
        while (available := self._end - self._pos) < size:
            size -= available
            self._pos = self._end
            if not self._refill():
                raise self._truncated()
        self._pos += size

    # --- headers

    def _check_signed(self, block: bytes, checksum: bytes) -> None:
        """The second chance of a header: some old tars summed signed chars (tar(5))."""
        if _signed_sum(block, checksum) != number_of(checksum):
            raise FieldError("wrong header checksum")

    def _meta(self, size: int) -> bytes:
        """The data of a header that describes another."""
        if size > META_MAX:
            raise FieldError(f"an extended header of {size} bytes, more than {META_MAX}")
        data = self._take(size)
        self._skip(-size % BLOCK)
        return data

    def _add_globals(self, records: dict[bytes, bytes]) -> None:
        self._globals.update(records)
        size = sum(len(key) + len(value) for key, value in self._globals.items())
        if size > META_MAX or len(self._globals) > KEYS_MAX:
            raise FieldError(f"global extended headers of more than {META_MAX} bytes, or {KEYS_MAX} keys")

    def _apply(self, entry: Entry, records: dict[bytes, bytes]) -> None:
        """What the extended headers say. An empty value is as none (POSIX pax): what the header says stands."""
        for key, value in records.items():
            if key.startswith(XATTR):
                if entry.xattrs is None:
                    entry.xattrs = {}
                entry.xattrs[xattr_name(key)] = value
            elif not value:
                continue
            elif key == b"path":
                entry.name = self.name = name_of(value)
            elif key == b"linkpath":
                entry.linkname = name_of(value)
            elif key == b"size":
                entry.size = decimal_of(value)
            elif key == b"uid":
                entry.uid = decimal_of(value)
            elif key == b"gid":
                entry.gid = decimal_of(value)
            elif key == b"mtime":
                entry.mtime = time_of(value)
                if not records.get(b"atime"):
                    entry.atime = entry.mtime
            elif key == b"atime":
                entry.atime = time_of(value)

    def _file(self, entry: Entry, records: dict[bytes, bytes]) -> None:
        entry.kind = FILE
        if entry.name.endswith(b"/"):
            # v7 has no other directories
            if entry.size:
                raise FieldError("a file with data whose name ends in a slash")
            entry.kind = DIRECTORY
        elif b"GNU.sparse.major" in records or b"GNU.sparse.map" in records:
            self._sparse_pax(entry, records)

    # --- sparse files: GNU tar manual, D.2

    def _sparse_pax(self, entry: Entry, records: dict[bytes, bytes]) -> None:
        if name := records.get(b"GNU.sparse.name"):
            entry.name = self.name = name_of(name)
        size = records.get(b"GNU.sparse.realsize") or records.get(b"GNU.sparse.size")
        if not size:
            raise FieldError("a sparse file without its size")
        entry.size = decimal_of(size)
        version = records.get(b"GNU.sparse.major", b"0") + b"." + records.get(b"GNU.sparse.minor", b"0")
        if version == b"1.0":
            numbers = self._sparse_map_in_data()
        elif version in (b"0.0", b"0.1"):
            sparse_map = records.get(b"GNU.sparse.map")
            numbers = numbers_of(sparse_map.split(b",") if sparse_map else ())
        else:
            raise FieldError("a sparse file of an unknown format")
        entry.sparse = checked_segments(numbers, entry.size, self._left)

    def _sparse_map_in_data(self) -> array[int]:
        """Format 1.0: decimal numbers, a line each, their count first, padded to whole blocks, before the data."""
        numbers = array("q")
        wanted: int | None = None
        tail = b""
        while True:
            if self._left < BLOCK:
                raise FieldError("the map of a sparse file is longer than its data")
            self._left -= BLOCK
            lines = (tail + self._take(BLOCK)).split(b"\n")
            tail = lines.pop()
            for line in lines:
                number = decimal_of(line)
                if wanted is None:
                    if number > SEGMENTS_MAX:
                        raise FieldError(f"a sparse file of {number} segments, more than {SEGMENTS_MAX}")
                    wanted = 2 * number
                else:
                    numbers.append(number)
                if len(numbers) == wanted:
                    return numbers
            if len(tail) > DIGITS_MAX:
                raise FieldError("bad map of a sparse file")

    def _sparse_old(self, entry: Entry, block: bytes) -> None:
        """The old GNU format: four segments in the header, 21 in each extension block that follows."""
        entry.kind = FILE
        entry.size = number_of(block[483:495])
        numbers = array("q")
        start, slots, more = 386, 4, block[482]
        while True:
            for at in range(start, start + 24 * slots, 24):
                numbers.append(number_of(block[at : at + 12]))
                numbers.append(number_of(block[at + 12 : at + 24]))
            if not more:
                break
            if len(numbers) > 2 * SEGMENTS_MAX:
                raise FieldError(f"a sparse file of more than {SEGMENTS_MAX} segments")
            block = self._take(BLOCK)
            start, slots, more = 0, 21, block[504]
        entry.sparse = checked_segments(numbers, entry.size, self._left)


def _signed_sum(block: bytes, checksum: bytes) -> int:
    return sum(block) - 256 * sum(byte > 127 for byte in block) - sum(checksum) + 8 * ord(" ")


def is_header(block: bytes) -> bool:
    """Whether the 512 bytes are the header of a tar archive's entry, by their checksum."""
    if len(block) != BLOCK or block == _ZEROS:
        return False
    checksum = block[148:156]
    try:
        return (zlib.adler32(block) & 0xFFFF) == adler_of(checksum) or (
            _signed_sum(block, checksum) == number_of(checksum)
        )
    except FieldError:
        return False
