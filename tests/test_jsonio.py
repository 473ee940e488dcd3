# SPDX-License-Identifier: Apache-2.0
"""ctnr.jsonio against the standard library's json."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctnr import jsonio

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=25,
)


@given(values, st.sampled_from([None, 0, 1, "\t"]), st.booleans(), st.sampled_from(["", " ", "\n\t \r"]))
def test_loads_agrees_with_json(value: Any, indent: Any, ascii_only: bool, blanks: str) -> None:
    text = blanks + json.dumps(value, indent=indent, ensure_ascii=ascii_only) + blanks
    assert jsonio.loads(text) == value
    assert jsonio.loads(text.encode()) == value


def _reference(data: bytes | str) -> Any:
    """What json says, or None in a tuple for refused."""
    try:
        return (json.loads(data),)
    except (ValueError, RecursionError):
        return None


# bytes that look like JSON reach further than arbitrary ones
jsonish = st.lists(st.sampled_from([*'{}[]:,"\\ \n019-+.eEtrufalsn/\0\x1f', "\\u", "é", "NaN", "\ud800"])).map("".join)


@given(st.binary() | jsonish.map(lambda s: s.encode("utf-8", "surrogatepass")))
def test_arbitrary_bytes_agree_or_raise_valueerror(data: bytes) -> None:
    try:
        value = jsonio.loads(data)
    except ValueError as e:
        assert str(e).startswith("line ")
        return
    assert _reference(data) == (value,)


@given(jsonish)
def test_arbitrary_text_is_refused_just_as_json_refuses_it(text: str) -> None:
    expected = _reference(text)
    try:
        value = jsonio.loads(text)
    except ValueError:
        # the one thing json takes and the standard does not
        assert expected is None or "NaN" in text
    else:
        assert expected == (value,)


@given(values)
def test_truncation_is_a_valueerror(value: Any) -> None:
    text = json.dumps([value])
    for end in range(len(text)):
        with pytest.raises(ValueError):
            jsonio.loads(text[:end])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "line 1 column 1: expecting value"),
        (b" \n ", "line 2 column 2: expecting value"),
        (b"{", "line 1 column 2: expecting property name enclosed in double quotes"),
        (b'{"a": }', "line 1 column 7: expecting value"),
        (b'{"a": 1}\n}', "line 2 column 1: extra data"),
        (b"[1, NaN]", "line 1 column 1: NaN is not JSON"),
        (b"-Infinity", "line 1 column 1: -Infinity is not JSON"),
        (b'{\n"a": "\xff"}', "line 2 column 7: not UTF-8"),
        (b"[" * 200_000, "line 1 column 1: nested too deeply"),
        (b"[" * 200_000 + b"]" * 200_000, "line 1 column 1: nested too deeply"),
    ],
)
def test_errors_say_where_and_why(data: bytes, message: str) -> None:
    with pytest.raises(ValueError) as e:
        jsonio.loads(data)
    assert str(e.value) == message


def test_byte_order_mark_is_refused() -> None:
    with pytest.raises(ValueError, match="line 1 column 1"):
        jsonio.loads(b"\xef\xbb\xbf{}")


def test_too_many_digits() -> None:
    with pytest.raises(ValueError, match="line 1 column 1"):
        jsonio.loads(b"1" * 10_000)


def test_json_is_not_imported_until_an_error_needs_it() -> None:
    """Also the trap of 3.11: truncated input, with json.decoder not loaded, is a SystemError inside."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from ctnr import jsonio\n"
        "assert jsonio.loads(b' {\"a\": [1, 2.5, null, true]} ') == {'a': [1, 2.5, None, True]}\n"
        "assert jsonio.loads(jsonio.dumps({'a': [1, 'x']}, 2)) == {'a': [1, 'x']}\n"
        "assert not {'json', 're', 'enum', 'os'} & set(sys.modules), sorted(sys.modules)\n"
        "for bad in (b'{\"a\": ', b'[1,', b'\"abc', b'{\"a\": 1} x', b'', b'nul'):\n"
        "    try:\n"
        "        jsonio.loads(bad)\n"
        "    except ValueError as e:\n"
        "        assert str(e).startswith('line 1 column '), e\n"
        "    else:\n"
        "        raise AssertionError(bad)\n"
    )
    root = __file__.rsplit("/", 2)[0]
    subprocess.run([sys.executable, "-I", "-S", "-c", program, root], check=True, timeout=60)


@given(values)
def test_dumps_is_what_json_writes(value: Any) -> None:
    assert jsonio.dumps(value) == json.dumps(value, separators=(",", ":"))
    assert jsonio.dumps(value, indent=2) == json.dumps(value, indent=2)


@given(st.text(st.characters(exclude_categories=())))
def test_any_python_string_makes_the_round_trip_in_ascii(text: str) -> None:
    encoded = jsonio.dumps(text)
    assert encoded.isascii() and encoded.isprintable()
    # a pair of surrogates comes back as the character it means
    assert jsonio.loads(encoded).encode("utf-16", "surrogatepass") == text.encode("utf-16", "surrogatepass")


def test_dumps_keeps_the_order_and_takes_tuples() -> None:
    assert jsonio.dumps({"b": (1, 2), "a": {}}) == '{"b":[1,2],"a":{}}'


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, [{"a": math.nan}]])
def test_dumps_refuses_what_is_no_number(value: Any) -> None:
    with pytest.raises(ValueError, match="is not JSON"):
        jsonio.dumps(value)


@pytest.mark.parametrize("value", [b"x", {1: 2}, object(), {"a": {2}}])
def test_dumps_refuses_other_types(value: Any) -> None:
    with pytest.raises(TypeError):
        jsonio.dumps(value)


def test_dumps_refuses_a_circle() -> None:
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(ValueError, match="circular"):
        jsonio.dumps(circle)
