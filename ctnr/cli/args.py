# SPDX-License-Identifier: Apache-2.0
"""Command lines: options from a table, and the help from the same table. It knows no command.

HOT: imported by every verb (argparse alone would cost more than a whole `state`).

Both habits are understood: Go's flag package (`-no-subreaper`, `--bundle=DIR`, `--tty=false`) as callers of runc write it,
and getopt's (`-it`, `-eA=B`, `--bundle DIR`) as people do.
"""

from __future__ import annotations

from ctnr.errors import EXIT_FAILURE, CtnrError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    # (kind, long name, short name or "", metavar or "", help): a row of a table. Without help it is taken, but not shown.
    Option = tuple[int, str, str, str, str]

# What an option takes. FLAG also takes a value after "=", a boolean. NUMBER is a decimal one from 0. CHOICE is one of the
# words in its metavar ("text|json"). LATER is one of runc or crun that ctnr has not got yet: refused by name, not ignored.
FLAG, VALUE, LIST, NUMBER, CHOICE, LATER = range(6)

_TRUE = ("true", "t", "1", "yes")
_FALSE = ("false", "f", "0", "no")
_WIDTH = 100


class UsageError(CtnrError):
    """The command line is wrong."""


class Command:
    """One verb: what the parser, the help and the dispatcher need to know of it."""

    __slots__ = ("exit_code", "intermixed", "name", "options", "positionals", "summary", "text")

    def __init__(
        self,
        name: str,
        positionals: str,
        summary: str,
        options: Sequence[Option] = (),
        text: str = "",
        intermixed: bool = True,
        exit_code: int = EXIT_FAILURE,
    ) -> None:
        """`positionals` as in the usage line; `intermixed` False: options end at the first positional (exec, ps).

        `exit_code` is what a failure exits with; EXIT_ENGINE: what the error says, docker's 125, 126 or 127.
        """
        self.name = name
        self.positionals = positionals
        self.summary = summary
        self.options = options
        self.text = text
        self.intermixed = intermixed
        self.exit_code = exit_code


class Parsed:
    """A command line taken apart: the options given, by long name, and the rest."""

    __slots__ = ("args", "options")

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}
        self.args: list[str] = []

    def flag(self, name: str) -> bool:
        return bool(self.options.get(name))

    def value(self, name: str) -> str | None:
        value: str | None = self.options.get(name)
        return value

    def values(self, name: str) -> list[str]:
        return self.options.get(name) or []

    def number(self, name: str) -> int:
        return self.options.get(name) or 0


def parse(argv: Sequence[str], command: Command) -> Parsed:
    """Take `argv` (without the command's name) apart. Raises UsageError; `--help` is the option "help"."""
    parsed = Parsed()
    options = command.options
    rest = list(argv)
    rest.reverse()
    while rest:
        token = rest.pop()
        if token == "--":
            break
        if len(token) < 2 or token[0] != "-":
            parsed.args.append(token)
            if command.intermixed:
                continue
            break
        name, equals, value = token[2 if token[1] == "-" else 1 :].partition("=")
        # one dash is enough for a long name, as Go has it; so -env is --env and not -e nv
        option = _find(options, name) if len(name) > 1 or token[1] == "-" else None
        if option is not None:
            _take(parsed, option, "--" + name, value if equals else None, rest)
        elif token[1] == "-":
            raise UsageError(f"unknown option --{name}{_hint(options, name)}")
        else:
            _cluster(parsed, options, token, rest)
    rest.reverse()
    parsed.args += rest
    return parsed


def _cluster(parsed: Parsed, options: Sequence[Option], token: str, rest: list[str]) -> None:
    """Short options in one token: flags, the last of which may take what is left of it (-it, -eA=B, -t=false)."""
    at = 1
    while at < len(token):
        letter = token[at]
        option = _find_short(options, letter)
        if option is None:
            if at == 1 and len(token) > 2:
                raise UsageError(f"unknown option {token}{_hint(options, token[1:].partition('=')[0])}")
            raise UsageError(f"unknown option -{letter}" + (f" in {token}" if len(token) > 2 else ""))
        at += 1
        left = token[at:]
        if option[0] == FLAG and left[:1] != "=":
            _take(parsed, option, "-" + letter, None, rest)
            continue
        _take(parsed, option, "-" + letter, (left[1:] if left[0] == "=" else left) if left else None, rest)
        return


def _find(options: Sequence[Option], name: str) -> Option | None:
    for option in options:
        if option[1] == name:
            return option
    return _HELP if name == "help" else None


def _find_short(options: Sequence[Option], letter: str) -> Option | None:
    for option in options:
        if option[2] == letter:
            return option
    return _HELP if letter == "h" else None


def _take(parsed: Parsed, option: Option, shown: str, value: str | None, rest: list[str]) -> None:
    kind, name, _, metavar, _ = option
    if kind == LATER:
        raise UsageError(f"{shown} is not supported by this version of ctnr")
    if kind == FLAG:
        parsed.options[name] = True if value is None else _boolean(shown, value)
        return
    if value is None:
        if not rest:
            raise UsageError(f"{shown} needs a value: {metavar}")
        value = rest.pop()
    if kind == LIST:
        parsed.options.setdefault(name, []).append(value)
    elif kind == NUMBER:
        parsed.options[name] = whole_number(value, shown)
    elif kind == CHOICE and value not in metavar.split("|"):
        raise UsageError(f"{shown} is {metavar.replace('|', ' or ')}, not {value!r}")
    else:
        parsed.options[name] = value


def _boolean(shown: str, word: str) -> bool:
    if word.lower() in _TRUE:
        return True
    if word.lower() in _FALSE:
        return False
    raise UsageError(f"{shown} is true or false, not {word!r}")


def whole_number(text: str, what: str, top: int = (1 << 31) - 1) -> int:
    """A decimal number from 0 to `top` and nothing else: no sign, blank, underscore, leading zero or foreign digit.

    Raises UsageError. Ids and counts go through here: "1" read as 0 was CVE-2026-30892.
    """
    if text.isascii() and text.isdigit() and len(text) <= 20 and (text[0] != "0" or text == "0"):
        number = int(text)
        if number <= top:
            return number
    raise UsageError(f"{what} is a whole number from 0 to {top}, not {text!r}")


def _hint(options: Sequence[Option], name: str) -> str:
    near = [o[1] for o in options if o[4] and len(name) > 1 and (o[1].startswith(name) or name.startswith(o[1]))]
    return f"; did you mean --{near[0]}?" if near else ""


def expect(parsed: Parsed, command: Command) -> None:
    """Raise UsageError unless the positional arguments are as many as the usage line says."""
    words = command.positionals.split()
    least = sum(not word.startswith("[") for word in words)
    if len(parsed.args) < least:
        raise UsageError(f"{words[len(parsed.args)]} is missing")
    if len(parsed.args) > len(words) and not command.positionals.rstrip("]").endswith("..."):
        raise UsageError(f"unexpected argument {parsed.args[len(words)]!r}")


# --- help

_HELP: Option = (FLAG, "help", "h", "", "show this help")


# called by its name we say crun's usage lines
_CRUN = {"exec": "CONTAINER cmd", "mounts": "[add|remove] CONTAINER FILE"}


def usage(program: str, command: Command, below: Sequence[Command] = ()) -> str:
    """The help of a command, with the commands `below` it listed."""
    line = f"{program} {command.name}".rstrip() + f" [OPTIONS] {command.positionals}"
    if program == "crun":
        line = f"crun [OPTION...] {command.name} {_CRUN.get(command.name, command.positionals)}"
    lines = [f"Usage: {line}".rstrip(), ""]
    lines += _wrap(command.summary[:1].upper() + command.summary[1:] + ".", 0)
    if below:
        lines += ["", "Commands:"]
        width = max(len(one.name) for one in below)
        for one in below:
            lines += _row(one.name, one.summary, width)
    own = any(option[2] == _HELP[2] for option in command.options)
    shown = [o for o in (*command.options, (*_HELP[:2], "", *_HELP[3:]) if own else _HELP) if o[4]]
    heads = [_head(o) for o in shown]
    lines += ["", "Options:"]
    width = min(max(len(head) for head in heads), 34)
    for option, head in zip(shown, heads, strict=True):
        lines += _row(head, option[4], width)
    if command.text:
        lines += ["", *_wrap(command.text, 0)]
    return "\n".join(lines) + "\n"


def _head(option: Option) -> str:
    _, name, short, metavar, _ = option
    head = f"-{short}, --{name}" if short else f"    --{name}"
    return f"{head} {metavar}" if metavar else head


def _row(head: str, text: str, width: int) -> list[str]:
    indent = width + 4
    lines = _wrap(text, indent)
    if len(head) > width:
        return [f"  {head}", *lines]
    lines[0] = f"  {head.ljust(width)}  {lines[0].lstrip()}"
    return lines


def _wrap(text: str, indent: int) -> list[str]:
    lines: list[str] = []
    line = ""
    for word in text.split():
        if line and indent + len(line) + 1 + len(word) > _WIDTH:
            lines.append(" " * indent + line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    lines.append(" " * indent + line)
    return lines
