# SPDX-License-Identifier: Apache-2.0
"""The fields of tar headers: numbers, times, PAX records, sparse maps. Pure functions; FieldError for all bad data."""

from __future__ import annotations

from array import array
from functools import lru_cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# 16 MiB of map
SEGMENTS_MAX = 1 << 20
DIGITS_MAX = 20
KEYS_MAX = 10_000
XATTR = b"SCHILY.xattr."
_LIBARCHIVE_XATTR = b"LIBARCHIVE.xattr."


class FieldError(Exception):
    """What is wrong with a field."""


def printable(name: bytes, limit: int = 200) -> str:
    """A hostile name as text for a message: one line, no control characters, no longer than `limit` characters."""
    text = name[: 5 * limit].decode("utf-8", "backslashreplace")
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def name_of(value: bytes) -> bytes:
    """A name of an extended header, which unlike one in a header may have a NUL in it: refused."""
    if b"\0" in value:
        raise FieldError("a name with a NUL in it")
    return value


@lru_cache(1024)
def number_of(field: bytes) -> int:
    """A numeric field: octal digits among blanks, up to a NUL; or base 256 if the highest bit is set (GNU, star)."""
    if field[0] & 0x80:
        bits = 8 * len(field) - 1
        number = int.from_bytes(field, "big") & ((1 << bits) - 1)
        if number >> (bits - 1):
            number -= 1 << bits
        if -(1 << 62) < number < 1 << 62:
            return number
        raise FieldError("a number out of range")
    digits = field.partition(b"\0")[0].strip(b" ")
    if not digits:
        return 0
    if not digits.isdigit() or b"8" in digits or b"9" in digits:
        raise FieldError("a field that is no number")
    return int(digits, 8)


@lru_cache(1024)
def adler_of(field: bytes) -> int:
    """What adler32's lower half must be for a header with this checksum field (which counts as eight blanks)."""
    return (1 + number_of(field) + sum(field) - 8 * ord(" ")) % 65521


@lru_cache(1024)
def owner_of(field: bytes) -> tuple[int, int, int]:
    """mode, uid and gid: 24 bytes that are the same for most entries."""
    return number_of(field[:8]) & 0o7777, number_of(field[8:16]), number_of(field[16:])


def decimal_of(text: bytes) -> int:
    """A number of an extended header or a sparse map, not negative."""
    if text.isdigit() and len(text) <= DIGITS_MAX and (number := int(text)) < 1 << 62:
        return number
    raise FieldError(f"bad number '{printable(text[:40])}'")


def time_of(text: bytes) -> int:
    """Nanoseconds of `[-]SECONDS[.FRACTION]`; what is finer is cut off."""
    seconds, _, fraction = text.removeprefix(b"-").partition(b".")
    if fraction and not fraction.isdigit():
        raise FieldError(f"bad time '{printable(text[:40])}'")
    time = decimal_of(seconds) * 10**9 + int(fraction[:9].ljust(9, b"0"))
    return -time if text.startswith(b"-") else time


def pax_records(data: bytes) -> dict[bytes, bytes]:
    """The records `LENGTH KEY=VALUE\\n` of an extended header (POSIX pax); the last of a key counts.

    The map of GNU's sparse format 0.0, a record per number, is joined into that of 0.1; libarchive's extended attributes
    become star's, which it writes too.
    """
    records: dict[bytes, bytes] = {}
    sparse: list[bytes] = []
    pos = 0
    while pos < len(data):
        blank = data.find(b" ", pos, pos + DIGITS_MAX)
        if blank < 0 or not data[pos:blank].isdigit():
            raise FieldError("bad extended header")
        end = pos + int(data[pos:blank])
        equals = data.find(b"=", blank, end)
        if end > len(data) or equals <= blank + 1 or data[end - 1] != ord("\n"):
            raise FieldError("bad extended header")
        key = data[blank + 1 : equals]
        value = data[equals + 1 : end - 1]
        if key == b"GNU.sparse.offset" or key == b"GNU.sparse.numbytes":
            sparse.append(value)
        elif key.startswith(_LIBARCHIVE_XATTR):
            name, value = _libarchive_xattr(key[len(_LIBARCHIVE_XATTR) :], value)
            records.setdefault(XATTR + name, value)
        else:
            records[key] = value
        if len(records) > KEYS_MAX:
            raise FieldError(f"an extended header of more than {KEYS_MAX} keys")
        pos = end
    if sparse:
        records[b"GNU.sparse.map"] = b",".join(sparse)
    return records


def xattr_name(key: bytes) -> bytes:
    """The attribute's name of a SCHILY.xattr key; GNU tar writes = as %3D and % as %25 in it (its xattrs.c)."""
    return name_of(key[len(XATTR) :].replace(b"%3D", b"=").replace(b"%25", b"%"))


def _libarchive_xattr(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    from binascii import Error, a2b_base64
    from urllib.parse import unquote_to_bytes

    try:
        return unquote_to_bytes(name), a2b_base64(value + b"=" * (-len(value) % 4))
    except Error:
        raise FieldError(f"bad extended attribute '{printable(name[:40])}'") from None


def numbers_of(texts: Iterable[bytes]) -> array[int]:
    return array("q", map(decimal_of, texts))


def checked_segments(numbers: array[int], size: int, archived: int) -> array[int]:
    """A sparse map: in order, inside the file, as long as the data in the archive. Empty segments are taken out."""
    if size < 0 or len(numbers) % 2 or len(numbers) > 2 * SEGMENTS_MAX:
        raise FieldError("bad map of a sparse file")
    end = total = kept = 0
    for i in range(0, len(numbers), 2):
        offset, length = numbers[i], numbers[i + 1]
        if not length:
            continue
        if offset < end or length < 0 or offset + length > size:
            raise FieldError("bad map of a sparse file")
        end = offset + length
        total += length
        numbers[kept] = offset
        numbers[kept + 1] = length
        kept += 2
    if total != archived:
        raise FieldError(f"a sparse file with {archived} bytes of data whose map says {total}")
    del numbers[kept:]
    return numbers
