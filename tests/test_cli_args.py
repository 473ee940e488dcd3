# SPDX-License-Identifier: Apache-2.0
"""ctnr.cli.args: the table-driven parser, and the help made from the same table."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctnr.cli.args import (
    CHOICE,
    FLAG,
    LATER,
    LIST,
    NUMBER,
    VALUE,
    Command,
    UsageError,
    expect,
    parse,
    usage,
    whole_number,
)

OPTIONS = (
    (VALUE, "bundle", "b", "DIR", "the bundle"),
    (VALUE, "pid-file", "", "FILE", "where to write the process id"),
    (FLAG, "interactive", "i", "", "let it read"),
    (FLAG, "tty", "t", "", "a terminal"),
    (FLAG, "no-subreaper", "", "", "no effect"),
    (LIST, "env", "e", "NAME=VALUE", "a variable"),
    (NUMBER, "preserve-fds", "", "N", "more descriptors"),
    (CHOICE, "format", "f", "text|json", "how"),
    (LATER, "pidfd-socket", "", "SOCKET", ""),
)
INTERMIXED = Command("create", "CONTAINER [MORE...]", "make it", OPTIONS)
FIRST = Command("exec", "CONTAINER [COMMAND [ARGS...]]", "run it", OPTIONS, intermixed=False)


@pytest.mark.parametrize(
    ("argv", "options", "args"),
    [
        ("", {}, []),
        ("--bundle /b id", {"bundle": "/b"}, ["id"]),
        ("--bundle=/b id", {"bundle": "/b"}, ["id"]),
        ("--bundle= id", {"bundle": ""}, ["id"]),
        ("--bundle=a=b id", {"bundle": "a=b"}, ["id"]),
        # Go's flag package, as containerd writes them
        ("-bundle /b -no-subreaper -pid-file=p id", {"bundle": "/b", "no-subreaper": True, "pid-file": "p"}, ["id"]),
        ("-b /b id", {"bundle": "/b"}, ["id"]),
        ("-b/b id", {"bundle": "/b"}, ["id"]),
        ("-b=/b id", {"bundle": "/b"}, ["id"]),
        ("-it id", {"interactive": True, "tty": True}, ["id"]),
        ("-iteA=B id", {"interactive": True, "tty": True, "env": ["A=B"]}, ["id"]),
        ("-eA=B -e C=D --env E=F --env=G=H -e=I=J id", {"env": ["A=B", "C=D", "E=F", "G=H", "I=J"]}, ["id"]),
        ("--tty=false --interactive=1 id", {"tty": False, "interactive": True}, ["id"]),
        ("-t=false -i=T id", {"tty": False, "interactive": True}, ["id"]),
        ("-it=no id", {"tty": False, "interactive": True}, ["id"]),
        # a value may look like an option
        ("--bundle --tty id", {"bundle": "--tty"}, ["id"]),
        ("-b -- id", {"bundle": "--"}, ["id"]),
        ("--preserve-fds 3 id", {"preserve-fds": 3}, ["id"]),
        ("-f json id", {"format": "json"}, ["id"]),
        ("-- -b id", {}, ["-b", "id"]),
        ("- id", {}, ["-", "id"]),
        ("-h id", {"help": True}, ["id"]),
        ("--help", {"help": True}, []),
        ("-help", {"help": True}, []),
    ],
)
def test_options(argv: str, options: dict[str, Any], args: list[str]) -> None:
    for command in (INTERMIXED, FIRST):
        parsed = parse(argv.split(), command)
        assert (parsed.options, parsed.args) == (options, args)


def test_the_last_of_several_counts() -> None:
    assert parse("-b 1 --bundle 2 --tty --tty=false".split(), INTERMIXED).options == {"bundle": "2", "tty": False}


def test_options_after_a_positional() -> None:
    argv = "id -t -- -i".split()
    parsed = parse(argv, INTERMIXED)
    assert (parsed.options, parsed.args) == ({"tty": True}, ["id", "-i"])
    # of exec they are the command's, and so is its --
    parsed = parse(argv, FIRST)
    assert (parsed.options, parsed.args) == ({}, argv)
    parsed = parse("-i -- -t -i".split(), FIRST)
    assert (parsed.options, parsed.args) == ({"interactive": True}, ["-t", "-i"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--nope", "unknown option --nope"),
        ("--nope=1", "unknown option --nope"),
        ("-x", "unknown option -x"),
        ("-nope", "unknown option -nope"),
        ("-ix", "unknown option -x in -ix"),
        ("-9", "unknown option -9"),
        ("--bund", "unknown option --bund; did you mean --bundle?"),
        ("--b", "unknown option --b"),
        ("---bundle=1", "unknown option ---bundle"),
        ("--=", "unknown option --"),
        ("--bundle", "--bundle needs a value: DIR"),
        ("-e", "-e needs a value: NAME=VALUE"),
        ("-ite", "-e needs a value: NAME=VALUE"),
        ("--tty=maybe", "--tty is true or false, not 'maybe'"),
        ("--tty=", "--tty is true or false, not ''"),
        ("--preserve-fds=-1", "--preserve-fds is a whole number from 0 to 2147483647, not '-1'"),
        ("--preserve-fds ١", "--preserve-fds is a whole number from 0 to 2147483647, not '١'"),
        ("--format xml", "--format is text or json, not 'xml'"),
        ("-f=", "-f is text or json, not ''"),
        ("--pidfd-socket s", "--pidfd-socket is not supported by this version of ctnr"),
    ],
)
def test_wrong_options(argv: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(argv.split(), INTERMIXED)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "text", ["", " 1", "1 ", "-1", "+1", "01", "00", "1_0", "0x1", "1.0", "4294967295", "९", "1:", "²"]
)
def test_no_whole_number(text: str) -> None:
    with pytest.raises(UsageError, match=r"^an id is a whole number from 0 to 4294967294, not "):
        whole_number(text, "an id", (1 << 32) - 2)


@given(st.integers(0, (1 << 32) - 2))
def test_whole_numbers(number: int) -> None:
    assert whole_number(str(number), "an id", (1 << 32) - 2) == number


@given(st.lists(st.text(st.sampled_from("-=behitx1 ")) | st.sampled_from(["--bundle", "-no-subreaper", "--", "--env"])))
def test_any_command_line_is_taken_or_refused(argv: list[str]) -> None:
    for command in (INTERMIXED, FIRST):
        try:
            parsed = parse(argv, command)
        except UsageError as e:
            assert str(e).isprintable()
        else:
            # nothing is made up: every positional was there, in this order
            rest = iter(argv)
            assert all(arg in rest for arg in parsed.args)


def test_positionals_are_counted_by_the_usage_line() -> None:
    kill = Command("kill", "CONTAINER [SIGNAL]", "send a signal")
    expect(parse(["c"], kill), kill)
    expect(parse(["c", "9"], kill), kill)
    with pytest.raises(UsageError, match=r"^CONTAINER is missing$"):
        expect(parse([], kill), kill)
    with pytest.raises(UsageError, match=r"^unexpected argument 'x'$"):
        expect(parse(["c", "9", "x"], kill), kill)
    expect(parse(["c", "1", "2", "3"], FIRST), FIRST)
    expect(parse(["c", "1", "2", "3"], INTERMIXED), INTERMIXED)
    bare = Command("list", "", "list them")
    with pytest.raises(UsageError, match=r"^unexpected argument 'x'$"):
        expect(parse(["x"], bare), bare)


def test_help_is_made_from_the_table() -> None:
    text = usage("ctnr", Command("create", "CONTAINER", "make a container", OPTIONS, "Once upon\na time"))
    assert text == (
        "Usage: ctnr create [OPTIONS] CONTAINER\n"
        "\n"
        "Make a container.\n"
        "\n"
        "Options:\n"
        "  -b, --bundle DIR        the bundle\n"
        "      --pid-file FILE     where to write the process id\n"
        "  -i, --interactive       let it read\n"
        "  -t, --tty               a terminal\n"
        "      --no-subreaper      no effect\n"
        "  -e, --env NAME=VALUE    a variable\n"
        "      --preserve-fds N    more descriptors\n"
        "  -f, --format text|json  how\n"
        "  -h, --help              show this help\n"
        "\n"
        "Once upon a time\n"
    )


def test_help_leaves_h_to_the_command() -> None:
    options = ((VALUE, "hostname", "h", "NAME", "its name"),)
    command = Command("run", "", "run it", options)
    assert parse(["-h", "x"], command).options == {"hostname": "x"}
    assert "\n      --help           show this help\n" in usage("ctnr", command)


def test_help_is_no_wider_than_a_page() -> None:
    options = ((VALUE, "an-option-with-a-very-long-name", "", "METAVARIABLE", "word " * 60),)
    lines = usage("ctnr", Command("x", "", "word " * 60, options, "word " * 60)).splitlines()
    assert max(len(line) for line in lines) <= 100
    assert "      --an-option-with-a-very-long-name METAVARIABLE" in lines
