# SPDX-License-Identifier: Apache-2.0
"""JSON in and out, without the price of importing `json` (it pulls in `re` and `enum`).

HOT: imported by every verb. `json` itself is loaded only to word an error.
"""

from __future__ import annotations

from _json import encode_basestring_ascii, make_scanner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

_BLANKS = " \t\n\r"


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


class _Context:
    """What `_json.make_scanner` reads of a `json.JSONDecoder`."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = staticmethod(_refuse_constant)


_scan = make_scanner(_Context())  # type: ignore[arg-type]  # typeshed knows JSONDecoder only


def loads(data: bytes | str) -> Any:
    """The value of one JSON document (RFC 8259); bytes must be UTF-8. A repeated key's last value wins, as in Go.

    Raises ValueError("line L column C: why"), nothing else, for whatever is not JSON. NaN and Infinity are not JSON.
    """
    try:
        text = data if isinstance(data, str) else str(data, "utf-8")
    except UnicodeDecodeError as e:
        line, column = _position(data, e.start)
        raise ValueError(f"line {line} column {column}: not UTF-8") from None
    start = 0
    # the scanner does not skip blanks before the document and does not mind what comes after it
    while text[start : start + 1] in _BLANKS and start < len(text):
        start += 1
    try:
        value, end = _scan(text, start)
    except (StopIteration, ValueError, RecursionError, SystemError):
        # SystemError: 3.11's scanner, at truncated input, when json.decoder is not loaded
        return _explain(text)
    if end != len(text) and text[end:].strip(_BLANKS):
        return _explain(text)
    return value


def _explain(text: str) -> Any:
    """Parse again with the standard library, for its message; should it find no fault, its value is the answer."""
    import json

    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as e:
        why = e.msg[:1].lower() + e.msg[1:]
        raise ValueError(f"line {e.lineno} column {e.colno}: {why}") from None
    except RecursionError:
        raise ValueError("line 1 column 1: nested too deeply") from None
    except ValueError as e:
        # a constant, or an integer of too many digits: neither says where
        raise ValueError(f"line 1 column 1: {e}") from None


def _position(data: bytes | str, offset: int) -> tuple[int, int]:
    raw = bytes(data[:offset]) if not isinstance(data, str) else data[:offset].encode()
    return raw.count(b"\n") + 1, offset - (raw.rfind(b"\n") + 1) + 1


def dumps(obj: Any, indent: int = 0) -> str:
    """The JSON text of dicts (str keys, in their own order), lists, tuples, str, int, float, bool and None.

    `indent` is in spaces; 0 writes one line without blanks. The text is ASCII (the rest is escaped), so that it can be
    shown on any terminal and holds names that are no valid Unicode. Raises TypeError for any other type and ValueError
    for NaN, infinities and structures too deep or circular.
    """
    parts: list[str] = []
    try:
        _encode(obj, "\n" if indent else "", " " * indent, parts)
    except RecursionError:
        raise ValueError("circular, or nested too deeply") from None
    return "".join(parts)


def _encode(obj: Any, newline: str, step: str, parts: list[str]) -> None:
    if isinstance(obj, str):
        parts.append(encode_basestring_ascii(obj))
    elif obj is None:
        parts.append("null")
    elif obj is True:
        parts.append("true")
    elif obj is False:
        parts.append("false")
    elif isinstance(obj, int):
        parts.append(int.__repr__(obj))
    elif isinstance(obj, dict):
        if not obj:
            parts.append("{}")
            return
        inner = newline + step
        colon = ": " if step else ":"
        lead = "{" + inner
        for key, value in obj.items():
            if not isinstance(key, str):
                raise TypeError(f"a JSON key must be a string, not {type(key).__name__}")
            parts.append(lead + encode_basestring_ascii(key) + colon)
            _encode(value, inner, step, parts)
            lead = "," + inner
        parts.append(newline + "}")
    elif isinstance(obj, (list, tuple)):
        if not obj:
            parts.append("[]")
            return
        inner = newline + step
        lead = "[" + inner
        for value in obj:
            parts.append(lead)
            _encode(value, inner, step, parts)
            lead = "," + inner
        parts.append(newline + "]")
    elif isinstance(obj, float):
        if obj - obj != 0.0:
            raise ValueError(f"{obj!r} is not JSON")
        parts.append(float.__repr__(obj))
    else:
        raise TypeError(f"{type(obj).__name__} is not JSON")
