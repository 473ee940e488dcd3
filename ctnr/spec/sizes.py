# SPDX-License-Identifier: Apache-2.0
"""Sizes as people write them: bytes with docker's units.

HOT: `update` and `ctnr run` import it.
"""

from __future__ import annotations

from ctnr.errors import CtnrError

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}


def is_number(text: str) -> bool:
    """Digits with at most one dot among them; float() knows more ways to write one."""
    whole, _, fraction = text.partition(".")
    return (whole + fraction).isdigit() and text.isascii()


def parse_size(text: int | str, option: str) -> int:
    """Bytes: a number, or one with a unit (b, k, m, g, t, p; KiB and kb too; powers of 1024, as docker)."""
    word = str(text).strip().lower()
    number = word.rstrip("abcdefghijklmnopqrstuvwxyz")
    unit = word[len(number) :]
    if unit[1:] in ("ib", "b") and unit[0] != "b":
        unit = unit[0]
    value = -1
    if is_number(number) and unit in _UNITS:
        whole, _, fraction = number.partition(".")
        value = int((whole + fraction) or 0) * _UNITS[unit] // 10 ** len(fraction)
    if not 0 <= value < 1 << 63:
        raise CtnrError(f"{option}: {text!r} is not a size: give a number of bytes, or one like 512m or 2g")
    return value
