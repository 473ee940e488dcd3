# SPDX-License-Identifier: Apache-2.0
"""`ctnr login`, `ctnr logout`, and the options of every command that talks to a registry. Cold."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ctnr.cli.args import FLAG, VALUE, Command, UsageError
from ctnr.cli.output import complain
from ctnr.errors import CtnrError
from ctnr.image.reference import parse
from ctnr.image.transports.auth import Login

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctnr.cli.args import Option, Parsed
    from ctnr.cli.boot import Globals, Handler
    from ctnr.image.transports.registry import Options

REGISTRY: Sequence[Option] = (
    (VALUE, "creds", "", "USER[:PASSWORD]", "who to be at the registry, instead of who is logged in"),
    (FLAG, "tls-verify", "", "", "=false: plain HTTP, or certificates that nobody vouches for, will do"),
    (VALUE, "cert-dir", "", "DIR", "certificates: *.crt of authorities, *.cert and *.key of our own"),
)


def registry_options(parsed: Parsed) -> Options:
    from ctnr.image.transports.registry import Options

    login = None
    creds = parsed.value("creds")
    if creds is not None:
        user, colon, password = creds.partition(":")
        login = Login(user, password if colon else _ask_password())
    verify = parsed.options.get("tls-verify", True)
    return Options(tls_verify=bool(verify), cert_dir=parsed.value("cert-dir"), login=login)


def _ask_password() -> str:
    from getpass import getpass

    try:
        return getpass("Password: ")
    except EOFError:
        raise CtnrError("no password: the input has ended") from None


def login(g: Globals, parsed: Parsed) -> int:
    from ctnr.image.transports import auth
    from ctnr.image.transports.registry import check_login

    registry = _registry(parsed.args[0])
    user, password = parsed.value("username"), parsed.value("password")
    if parsed.flag("password-stdin"):
        if password is not None or user is None:
            raise UsageError("--password-stdin goes with --username and without --password")
        password = sys.stdin.readline().rstrip("\r\n")
    if user is None:
        if not sys.stdin.isatty():
            raise UsageError("--username is missing, and there is no terminal to ask at")
        user = input("Username: ")
    if password is None:
        password = _ask_password()
    found = Login(user, password)
    check_login(registry, found, registry_options(parsed))
    where = auth.save(registry, found)
    complain(f"logged in to {registry} as {user}; kept in {where}")
    return 0


def logout(g: Globals, parsed: Parsed) -> int:
    from ctnr.image.transports import auth

    registry = _registry(parsed.args[0])
    if not auth.forget(registry):
        raise CtnrError(f"not logged in to {registry}")
    complain(f"logged out of {registry}")
    return 0


def _registry(text: str) -> str:
    return parse(f"{text.removeprefix('https://').removeprefix('http://').rstrip('/')}/x").registry


COMMANDS: dict[str, tuple[Command, Handler]] = {
    "login": (
        Command(
            "login",
            "REGISTRY",
            "keep who you are at a registry",
            (
                (VALUE, "username", "u", "USER", "who (default: asked for)"),
                (VALUE, "password", "p", "PASSWORD", "seen by everybody who lists processes: better be asked"),
                (FLAG, "password-stdin", "", "", "read it from stdin"),
                *REGISTRY[1:],
            ),
        ),
        login,
    ),
    "logout": (Command("logout", "REGISTRY", "forget who you are at a registry"), logout),
}
