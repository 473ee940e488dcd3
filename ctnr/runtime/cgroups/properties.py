# SPDX-License-Identifier: Apache-2.0
"""linux.resources and `org.systemd.property.*` annotations as properties of a systemd unit. HOT: systemd manager only. Pure.

systemd is told what it has words for, so that its own view and a daemon-reload agree with ours; all of it, and the rest, is
written to the cgroup's files as well, where the kernel's answer is an error and not a line in the journal.
Source: systemd.resource-control(5), org.freedesktop.systemd1(5).
"""

from __future__ import annotations

from ctnr.errors import SpecError
from ctnr.runtime.cgroups.devices import ALL, ANY, MKNOD, READ, WRITE
from ctnr.runtime.cgroups.resources import FIELD, io_weight, swap_only, unified_field, weight_of_shares

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from ctnr.runtime.cgroups.devices import Policy

    Resources = Mapping[str, Any]
    Variant = tuple[str, Any]
    Property = tuple[str, Variant]

PREFIX = "org.systemd.property."
INFINITY = (1 << 64) - 1
_PERIOD = 100_000  # the kernel's default, in microseconds
_MAX_CPU = 1 << 16
# What says where the processes are: the runtime's business
_OURS = ("ControlGroup", "Delegate", "PIDs", "Slice", "Wants")
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


def resource_properties(resources: Resources, v2: bool) -> list[Property]:
    """The properties for `linux.resources`. Raises SpecError."""
    found: dict[str, Variant] = {}
    memory = resources.get("memory") or {}
    if memory.get("limit"):
        found["MemoryMax" if v2 else "MemoryLimit"] = _size(memory["limit"])
    if v2:
        if memory.get("reservation"):
            found["MemoryLow"] = _size(memory["reservation"])
        swap = swap_only(memory)
        if swap != -2:
            found["MemorySwapMax"] = _size(swap)
    cpu = resources.get("cpu") or {}
    if cpu.get("shares"):
        found["CPUWeight" if v2 else "CPUShares"] = ("t", weight_of_shares(cpu["shares"]) if v2 else cpu["shares"])
    if cpu.get("idle") == 1 and v2:
        found["CPUWeight"] = ("t", 0)  # systemd's word for idle, since 252
    _quota(found, cpu.get("quota") or 0, cpu.get("period") or 0)
    for name, property in (("cpus", "AllowedCPUs"), ("mems", "AllowedMemoryNodes")):
        if cpu.get(name):
            found[property] = ("ay", cpu_mask(cpu[name], f"{FIELD}.cpu.{name}"))
    limit = (resources.get("pids") or {}).get("limit")
    if limit is not None:
        found["TasksMax"] = _size(limit or 1)  # as ctnr.runtime.cgroups.v1.pids_max
    weight = (resources.get("blockIO") or {}).get("weight")
    if weight:
        field = f"{FIELD}.blockIO.weight"
        found["IOWeight" if v2 else "BlockIOWeight"] = ("t", io_weight(weight, field) if v2 else weight)
    for key, value in (resources.get("unified") or {}).items():
        _unified(found, key, value)
    return list(found.items())


def _size(value: int) -> Variant:
    return "t", INFINITY if value < 0 else value


def _quota(found: dict[str, Variant], quota: int, period: int) -> None:
    if period:
        found["CPUQuotaPeriodUSec"] = ("t", period)
    if not quota and not period:
        return
    per_second = INFINITY
    if quota > 0:
        # systemd calculates in percent: rounded up as runc does, so that the container gets what it was promised
        per_second = -(-(quota * 1_000_000 // (period or _PERIOD)) // 10_000) * 10_000
    found["CPUQuotaPerSecUSec"] = ("t", per_second)


_UNIFIED = {
    "memory.high": "MemoryHigh",
    "memory.low": "MemoryLow",
    "memory.max": "MemoryMax",
    "memory.min": "MemoryMin",
    "memory.swap.max": "MemorySwapMax",
    "pids.max": "TasksMax",
}
_MASKS = {"cpuset.cpus": "AllowedCPUs", "cpuset.mems": "AllowedMemoryNodes"}


def _unified(found: dict[str, Variant], key: str, value: str) -> None:
    # what is not known here is written to the file alone; so is what the kernel is to judge
    words = value.split()
    if key in _UNIFIED and len(words) == 1 and (words[0] == "max" or words[0].isdecimal()):
        number = INFINITY if words[0] == "max" else int(words[0])
        if number <= INFINITY:
            found[_UNIFIED[key]] = ("t", number or 1 if key == "pids.max" else number)
    elif key in _MASKS and words:
        found[_MASKS[key]] = ("ay", cpu_mask(value, unified_field(key)))
    elif key == "cpu.max" and words and all(word == "max" or word.isdecimal() for word in words[:2]):
        quota = -1 if words[0] == "max" else int(words[0])
        _quota(found, quota, int(words[1]) if len(words) > 1 and words[1] != "max" else _PERIOD)
    elif key == "cpu.weight" and len(words) == 1 and words[0].isdecimal() and 1 <= int(words[0]) <= 10000:
        found.setdefault("CPUWeight", ("t", int(words[0])))
    elif key == "cpu.idle" and words == ["1"]:
        found["CPUWeight"] = ("t", 0)


def cpu_mask(text: str, field: str) -> bytes:
    """A list like `0-2,4` as systemd wants it: a bit for each number, the first in the lowest. Raises SpecError."""
    bits = 0
    for part in text.split(","):
        part = part.strip()
        if not part:
            continue
        first, dash, last = part.partition("-")
        if not (first.isdecimal() and first.isascii() and (not dash or (last.isdecimal() and last.isascii()))):
            raise SpecError(field, f"{text!r} is not a list of numbers and ranges")
        low, high = int(first), int(last or first)
        if low > high or high >= _MAX_CPU:
            raise SpecError(field, f"{part!r} is not a range")
        bits |= ((1 << (high - low + 1)) - 1) << low
    if not bits:
        raise SpecError(field, f"{text!r} names none")
    return bits.to_bytes((bits.bit_length() + 7) // 8, "little")


def device_properties(policy: Policy) -> list[Property]:
    """DevicePolicy= and DeviceAllow= for the device list; where systemd has no words for it, everything: the list itself is
    enforced by what the runtime writes, or attaches, after systemd.
    """
    allowed: list[tuple[str, str]] = []
    exact = not policy.default_allow
    for (kind, major, minor), access in policy.exceptions.items():
        group = "block" if kind == "b" else "char"
        if major == ANY:
            exact = exact and minor == ANY
            path = f"{group}-*"
        elif minor == ANY:
            path = f"{group}-{major}"
        else:
            path = f"/dev/{group}/{major}:{minor}"
        letters = "".join(letter for letter, bit in (("r", READ), ("w", WRITE), ("m", MKNOD)) if access & ALL & bit)
        allowed.append((path, letters))
    # an empty list takes back what was there before
    properties: list[Property] = [("DeviceAllow", ("a(ss)", []))]
    if not exact:
        return [*properties, ("DevicePolicy", ("s", "auto"))]
    return [*properties, ("DevicePolicy", ("s", "strict")), ("DeviceAllow", ("a(ss)", allowed))]


# --- annotations: GVariant text, as runc and crun take it


def annotated(annotations: Mapping[str, str]) -> list[Property]:
    """The properties that annotations ask for: `org.systemd.property.NAME` = a value in GVariant's text form.

    A name that ends in Sec is given in seconds and becomes systemd's NameUSec. Raises SpecError.
    """
    found: list[Property] = []
    for key, text in annotations.items():
        if not key.startswith(PREFIX):
            continue
        field = f'annotations["{key}"]'
        name = key[len(PREFIX) :]
        if len(name) < 3 or not _LETTERS.issuperset(name):
            raise SpecError(field, f"annotation {key} name incorrect: three or more letters, and nothing else")
        if name in _OURS:
            raise SpecError(field, f"{name} is the runtime's own: linux.cgroupsPath says where the container goes")
        try:
            value = parse_variant(text)
            if name.endswith("Sec") and name[-4:-3].islower():
                name, value = name[:-3] + "USec", _microseconds(value)
        except ValueError as error:
            raise SpecError(field, f"annotation {key}={text} value parse error: {error}") from None
        found.append((name, value))
    return found


def _microseconds(value: Variant) -> Variant:
    code, number = value
    if code not in ("y", "n", "q", "i", "u", "x", "t", "d"):
        raise ValueError("not a number")
    result = int(number * 1_000_000)
    if not 0 <= result <= INFINITY:
        raise ValueError("out of range")
    return "t", result


_RANGES = {
    "y": (0, 0xFF),
    "n": (-(1 << 15), (1 << 15) - 1),
    "q": (0, 0xFFFF),
    "i": (-(1 << 31), (1 << 31) - 1),
    "u": (0, (1 << 32) - 1),
    "x": (-(1 << 63), (1 << 63) - 1),
    "t": (0, INFINITY),
}
_KEYWORDS = {
    "boolean": "b",
    "byte": "y",
    "double": "d",
    "int16": "n",
    "int32": "i",
    "int64": "x",
    "objectpath": "o",
    "signature": "g",
    "string": "s",
    "uint16": "q",
    "uint32": "u",
    "uint64": "t",
}
_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def parse_variant(text: str) -> Variant:
    """One value: (signature, value). Strings, numbers, booleans, arrays and tuples, with `uint32` and the like, or `@as`, before
    them where the type cannot be seen. Raises ValueError.

    Source: <https://docs.gtk.org/glib/gvariant-text-format.html>.
    """
    parser = _Text(text)
    value = parser.value(None, 0)
    parser.blank()
    if parser.at != len(text):
        raise ValueError(f"unexpected {text[parser.at :]!r} at the end")
    return value


class _Text:
    __slots__ = ("at", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def blank(self) -> None:
        while self.text[self.at : self.at + 1].isspace():
            self.at += 1

    def peek(self) -> str:
        self.blank()
        return self.text[self.at : self.at + 1]

    def word(self) -> str:
        start = self.at
        while self.at < len(self.text) and not self.text[self.at].isspace() and self.text[self.at] not in ",[]()<>'\"":
            self.at += 1
        return self.text[start : self.at]

    def value(self, type: str | None, depth: int) -> Variant:
        """`type`: what it must be, if that is known."""
        if depth > 8:
            raise ValueError("nested too deep")
        first = self.peek()
        if first in ("'", '"'):
            if type not in (None, "s", "o", "g"):
                raise ValueError(f"a string, where {type} is wanted")
            return type or "s", self.string(first)
        if first == "[":
            return self.array(type, depth)
        if first == "(":
            return self.tuple(type, depth)
        if first == "@":
            self.at += 1
            return self.value(self.signature(), depth)
        word = self.word()
        if word in ("true", "false"):
            if type not in (None, "b"):
                raise ValueError(f"a boolean, where {type} is wanted")
            return "b", word == "true"
        if word in _KEYWORDS:
            return self.value(_KEYWORDS[word], depth)
        return self.number(word, type)

    def signature(self) -> str:
        from ctnr.runtime.dbus import next_type

        end = next_type(self.text, self.at)
        found = self.text[self.at : end]
        self.at = end
        return found

    def string(self, quote: str) -> str:
        self.at += 1
        out = ""
        while True:
            c = self.text[self.at : self.at + 1]
            self.at += 1
            if not c:
                raise ValueError("a string does not end")
            if c == quote:
                if "\0" in out:
                    raise ValueError("a string has a NUL")
                return out
            if c != "\\":
                out += c
                continue
            c = self.text[self.at : self.at + 1]
            self.at += 1
            if c in ("u", "U"):
                digits = self.text[self.at : self.at + (4 if c == "u" else 8)]
                self.at += len(digits)
                try:
                    number = int(digits, 16)
                    out += chr(number)
                    out.encode()
                except (ValueError, OverflowError):
                    raise ValueError(f"not a character: \\{c}{digits}") from None
            else:
                out += _ESCAPES.get(c, c)

    def array(self, type: str | None, depth: int) -> Variant:
        if type is not None and not type.startswith("a"):
            raise ValueError(f"an array, where {type} is wanted")
        inner = type[1:] if type else None
        items: list[Any] = []
        self.at += 1
        while self.peek() != "]":
            if items:
                self.expect(",")
            inner, item = self.value(inner, depth + 1)
            items.append(item)
        self.at += 1
        if inner is None:
            raise ValueError("an empty array: say of what, as in `@as []`")
        return "a" + inner, bytes(items) if inner == "y" else items

    def tuple(self, type: str | None, depth: int) -> Variant:
        from ctnr.runtime.dbus import split_types

        if type is not None and not type.startswith("("):
            raise ValueError(f"a tuple, where {type} is wanted")
        wanted: list[str] | list[None] = split_types(type[1:-1]) if type else []
        found = ""
        items: list[Any] = []
        self.at += 1
        while self.peek() != ")":
            if items:
                self.expect(",")
                if self.peek() == ")":
                    break
            if type and len(items) == len(wanted):
                raise ValueError("a tuple is too long")
            inner, item = self.value(wanted[len(items)] if type else None, depth + 1)
            found += inner
            items.append(item)
        self.at += 1
        if not items or (type and len(items) != len(wanted)):
            raise ValueError("a tuple is too short")
        return f"({found})", tuple(items)

    def expect(self, what: str) -> None:
        if self.peek() != what:
            raise ValueError(f"{what} is missing at {self.text[self.at :]!r}")
        self.at += 1

    def number(self, word: str, type: str | None) -> Variant:
        try:
            if type == "d" or (type is None and ("." in word or ("e" in word and "x" not in word))):
                return "d", float(word)
            number = int(word, 0) if "_" not in word else None
        except ValueError:
            number = None
        if number is None:
            raise ValueError(f"{word!r} is not a value" if word else "the value is missing")
        type = type or "i"
        low, high = _RANGES.get(type, (1, 0))
        if not low <= number <= high:
            raise ValueError(f"{word} is out of the range of {type}")
        return type, number
