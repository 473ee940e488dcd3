# SPDX-License-Identifier: Apache-2.0
"""The shape of a document: types, ranges, names, what is required. The rules between fields are their modules' business.

HOT: imported by create, run, start and exec.

A shape is a tuple, made by the functions and constants below. Checking a document also brings it into one form: a
member that is null is as good as absent (Go writes null for an empty slice), and so is an optional string that is
empty (Go has no other way to leave one out); both are removed. Members the shape does not know are left alone.
"""

from __future__ import annotations

from _json import encode_basestring_ascii

from ctnr.errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container
    from typing import Any

    Shape = tuple[Any, ...]

_TEXT, _NAME, _ABSOLUTE, _ENUM, _BOOL, _INT, _LIST, _MAP, _OBJECT, _ANY = range(10)

ANY: Shape = (_ANY,)
BOOL: Shape = (_BOOL,)
TEXT: Shape = (_TEXT,)
# not empty
NAME: Shape = (_NAME,)
# a path from /
ABSOLUTE: Shape = (_ABSOLUTE,)


def integer(low: int, high: int) -> Shape:
    return _INT, low, high


U16 = integer(0, 0xFFFF)
U32 = integer(0, 0xFFFFFFFF)
U64 = integer(0, (1 << 64) - 1)
I32 = integer(-(1 << 31), (1 << 31) - 1)
I64 = integer(-(1 << 63), (1 << 63) - 1)
# a uid or gid: 2^32-1 is -1, which the kernel takes for "leave as it is"
ID = integer(0, 0xFFFFFFFE)


def one_of(names: Container[str], what: str) -> Shape:
    """One of `names`; anything else is an unknown `what`."""
    return _ENUM, names, what


def list_of(item: Shape) -> Shape:
    return _LIST, item


def map_of(item: Shape) -> Shape:
    return _MAP, item


def record(members: dict[str, Shape], required: tuple[str, ...] = (), closed: str = "") -> Shape:
    """An object. `closed`: a member that is not known is an error, an unknown `closed`."""
    return _OBJECT, members, required, closed


STRINGS = list_of(TEXT)


class _Fault(Exception):
    """What is wrong with a value; the way to it grows while the call stack unwinds."""

    def __init__(self, why: str) -> None:
        self.why = why
        self.steps: list[str] = []


def check(value: Any, shape: Shape, path: str = "") -> None:
    """Raise SpecError, with its JSON path below `path`, for the first thing in `value` that is not of `shape`."""
    try:
        _check(value, shape)
    except _Fault as e:
        where = path + "".join(reversed(e.steps))
        raise SpecError(where.removeprefix("."), e.why) from None


def quote(text: str) -> str:
    """`text` for a message: in quotes, on one line, not too long."""
    return encode_basestring_ascii(text if len(text) <= 100 else text[:97] + "...")


def member(name: str) -> str:
    """The step of a JSON path to the entry `name` of a map."""
    return f"[{quote(name)}]"


def _check(value: Any, shape: Shape) -> None:
    kind = shape[0]
    if kind <= _ENUM:
        if not isinstance(value, str):
            raise _mismatch("a string", value)
        _text(value)
        if kind == _ENUM:
            if value not in shape[1]:
                raise _Fault(f"unknown {shape[2]} {quote(value)}")
        elif kind == _NAME:
            if not value:
                raise _Fault("must not be empty")
        elif kind == _ABSOLUTE and not value.startswith("/"):
            raise _Fault(f"must be an absolute path, not {quote(value)}")
    elif kind == _OBJECT:
        _record(value, shape)
    elif kind == _LIST:
        if not isinstance(value, list):
            raise _mismatch("an array", value)
        item = shape[1]
        for i, entry in enumerate(value):
            try:
                _check(entry, item)
            except _Fault as e:
                e.steps.append(f"[{i}]")
                raise
    elif kind == _INT:
        if type(value) is not int:
            raise _mismatch("an integer", value)
        if not shape[1] <= value <= shape[2]:
            raise _Fault(f"must be from {shape[1]} to {shape[2]}, not {_number(value)}")
    elif kind == _BOOL:
        if not isinstance(value, bool):
            raise _mismatch("true or false", value)
    elif kind == _MAP:
        _map(value, shape[1])


def _record(value: Any, shape: Shape) -> None:
    if not isinstance(value, dict):
        raise _mismatch("an object", value)
    _, members, required, closed = shape
    for name in list(value):
        inner = members.get(name)
        entry = value[name]
        if entry is None or (entry == "" and name not in required and inner is not None and inner[0] <= _ENUM):
            if inner is not None or closed:
                del value[name]
            continue
        if inner is None:
            if closed:
                raise _Fault(f"unknown {closed} {quote(str(name))}")
            continue
        try:
            _check(entry, inner)
        except _Fault as e:
            e.steps.append("." + name)
            raise
    for name in required:
        if name not in value:
            fault = _Fault("is required")
            fault.steps.append("." + name)
            raise fault


def _map(value: Any, item: Shape) -> None:
    if not isinstance(value, dict):
        raise _mismatch("an object", value)
    for name in list(value):
        if not isinstance(name, str):
            raise _mismatch("a string for each key", name)
        entry = value[name]
        if entry is None:
            del value[name]
            continue
        try:
            if not name:
                raise _Fault("a key must not be empty")
            _text(name)
            _check(entry, item)
        except _Fault as e:
            e.steps.append(member(name))
            raise


def _text(value: str) -> None:
    if "\0" in value:
        raise _Fault("must not contain a NUL byte")
    if not value.isascii():
        try:
            # what the kernel will be given; names that are no UTF-8 are as os.fsdecode makes them
            value.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise _Fault("is not valid Unicode") from None


def _number(value: int) -> str:
    # str() refuses what has more than some thousand digits
    return str(value) if value.bit_length() < 256 else "a number that large"


def _mismatch(wanted: str, value: Any) -> _Fault:
    if value is None:
        found = "null"
    elif isinstance(value, bool):
        found = "true" if value else "false"
    elif isinstance(value, int):
        found = _number(value)
    elif isinstance(value, float):
        found = repr(value)
    elif isinstance(value, str):
        found = f"the string {quote(value)}"
    elif isinstance(value, dict):
        found = "an object"
    elif isinstance(value, list):
        found = "an array"
    else:
        found = f"a {type(value).__name__}"
    return _Fault(f"must be {wanted}, not {found}")
