# SPDX-License-Identifier: Apache-2.0
"""Who one is at a registry: the files of podman (containers-auth.json(5)) and docker, credential helpers, login, logout.

Passwords are handed out for the registry they were given for and for nobody else; they are in no message and no log.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import subprocess
from typing import Any

from ctnr import files
from ctnr.errors import CtnrError, SyscallError
from ctnr.image.reference import DOCKER_HUB

# docker's own name for docker.io in its files
_HUB_KEY = "https://index.docker.io/v1/"
_LIMIT = 4 << 20
_HELPER_SECONDS = 60
# what a helper says for nobody: docker-credential-helpers' ErrCredentialsNotFound
_NOT_FOUND = "credentials not found in native keychain"


class Login:
    """A user with a password, or an identity token (an OAuth2 refresh token) instead of both."""

    __slots__ = ("password", "token", "user")

    def __init__(self, user: str = "", password: str = "", token: str = "") -> None:
        self.user = user
        self.password = password
        self.token = token

    def __repr__(self) -> str:
        return f"<Login {self.user or 'by token'}>"

    def basic(self) -> str:
        """The value of an Authorization header (RFC 7617)."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


def _home() -> str:
    return os.environ.get("HOME") or "/"


def own_file() -> str:
    """Where login writes: podman's file, which goes away with the session, or with the machine's boot."""
    given = os.environ.get("REGISTRY_AUTH_FILE")
    if given:
        return given
    if os.geteuid() == 0:
        return "/run/containers/0/auth.json"
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return f"{runtime}/containers/auth.json" if runtime else f"{_home()}/.config/containers/auth.json"


def auth_files() -> list[str]:
    """In the order in which they are asked: podman's, then docker's."""
    config = os.environ.get("XDG_CONFIG_HOME") or f"{_home()}/.config"
    docker = os.environ.get("DOCKER_CONFIG") or f"{_home()}/.docker"
    found = [own_file(), f"{config}/containers/auth.json", f"{docker}/config.json"]
    return list(dict.fromkeys(found))


def _read(path: str) -> dict[str, Any]:
    try:
        document = json.loads(files.read_file(path, _LIMIT))
    except FileNotFoundError:
        return {}
    except OSError as error:
        if isinstance(error, (NotADirectoryError, PermissionError)):
            return {}  # somebody else's, as after su
        raise SyscallError("read credentials", error.errno or 0, path) from None
    except ValueError:
        raise CtnrError(f"{path} is not JSON: repair or remove it") from None
    if not isinstance(document, dict):
        raise CtnrError(f"{path} is not a JSON object: repair or remove it")
    return document


def _keys(registry: str, repository: str) -> list[str]:
    """The names under which credentials may be kept, the most specific first."""
    parts = repository.split("/") if repository else []
    found = ["/".join([registry, *parts[:n]]) for n in range(len(parts), -1, -1)]
    for scheme in ("https://", "http://"):
        found += [f"{scheme}{registry}", f"{scheme}{registry}/", f"{scheme}{registry}/v1/", f"{scheme}{registry}/v2/"]
    if registry == DOCKER_HUB:
        found += [_HUB_KEY, "index.docker.io", "registry-1.docker.io"]
    return found


def _login_of(entry: Any, path: str, key: str) -> Login | None:
    if not isinstance(entry, dict):
        return None
    if isinstance(entry.get("identitytoken"), str) and entry["identitytoken"]:
        return Login(token=entry["identitytoken"])
    text = entry.get("auth")
    if isinstance(text, str) and text:
        try:
            user, colon, password = base64.b64decode(text, validate=True).decode().rstrip("\0").partition(":")
        except (binascii.Error, ValueError):
            raise CtnrError(f"{path}: the credentials for {key} are damaged: log in anew (ctnr login {key})") from None
        if colon:
            return Login(user, password)
    if isinstance(entry.get("username"), str) and isinstance(entry.get("password"), str):
        return Login(entry["username"], entry["password"])
    return None


def find(registry: str, repository: str = "") -> Login | None:
    """The credentials for a registry (host[:port]), None if there are none. Raises CtnrError for damaged files."""
    keys = _keys(registry, repository)
    for path in auth_files():
        document = _read(path)
        helpers = document.get("credHelpers")
        for key in keys:
            name = helpers.get(key) if isinstance(helpers, dict) else None
            if isinstance(name, str) and (found := _ask_helper(name, key)):
                return found
        auths = document.get("auths")
        for key in keys:
            if isinstance(auths, dict) and (found := _login_of(auths.get(key), path, key)):
                return found
        name = document.get("credsStore")
        if isinstance(name, str) and name:
            for key in [_HUB_KEY] if registry == DOCKER_HUB else [registry]:
                if found := _ask_helper(name, key):
                    return found
    return None


def _helper(name: str, verb: str, text: str) -> str | None:
    """What a credential helper says; None if it knows nobody. Raises CtnrError."""
    if not name or not all(c.isalnum() or c in "-_." for c in name):
        raise CtnrError(f"{name!r} is not the name of a credential helper")
    program = f"docker-credential-{name}"
    try:
        done = subprocess.run(
            [program, verb], input=text.encode(), capture_output=True, timeout=_HELPER_SECONDS, check=False
        )
    except FileNotFoundError:
        raise CtnrError(f"the credential helper {program} is not installed: install it, or remove its name") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        why = "no answer" if isinstance(error, subprocess.TimeoutExpired) else str(error.strerror).lower()
        raise CtnrError(f"the credential helper {program}: {why}") from None
    said = done.stdout.decode("utf-8", "replace")
    if done.returncode:
        if _NOT_FOUND in said:
            return None
        raise CtnrError(f"the credential helper {program} failed: exit status {done.returncode}")
    return said


def _ask_helper(name: str, key: str) -> Login | None:
    said = _helper(name, "get", key)
    if said is None:
        return None
    try:
        found = json.loads(said)
        user, secret = found["Username"], found["Secret"]
    except (ValueError, KeyError, TypeError):
        raise CtnrError(f"the credential helper docker-credential-{name} gave no credentials") from None
    return Login(token=secret) if user == "<token>" else Login(user, secret)


def _changed(path: str, change: Any) -> None:
    """Change a file of credentials: nobody else ever sees its content, and others of us wait."""
    from fcntl import LOCK_EX, flock

    directory = os.path.dirname(path) or "."
    try:
        files.makedirs(directory, 0o700)
        lock = files.open_dir(directory)
        try:
            flock(lock, LOCK_EX)
            document = _read(path)
            change(document)
            files.write_atomic(path, (json.dumps(document, indent=1) + "\n").encode(), 0o600)
        finally:
            os.close(lock)
    except OSError as error:
        raise SyscallError("write credentials", error.errno or 0, path) from None


def save(registry: str, login: Login) -> str:
    """Keep credentials for find(); where they are now: a file, or the name of a helper. Raises CtnrError."""
    path = own_file()
    document = _read(path)
    helpers = document.get("credHelpers")
    name = helpers.get(registry) if isinstance(helpers, dict) else None
    if isinstance(name, str) and name:
        _helper(name, "store", json.dumps({"ServerURL": registry, "Username": login.user, "Secret": login.password}))
        return f"docker-credential-{name}"

    def change(document: dict[str, Any]) -> None:
        auths = document.setdefault("auths", {})
        auths[registry] = {"auth": base64.b64encode(f"{login.user}:{login.password}".encode()).decode()}

    _changed(path, change)
    return path


def forget(registry: str) -> bool:
    """Remove what save() kept; whether there was something. Raises CtnrError."""
    path = own_file()
    document = _read(path)
    helpers = document.get("credHelpers")
    name = helpers.get(registry) if isinstance(helpers, dict) else None
    if isinstance(name, str) and name:
        return _helper(name, "erase", registry) is not None
    if registry not in (document.get("auths") or {}):
        return False

    def change(document: dict[str, Any]) -> None:
        document.get("auths", {}).pop(registry, None)

    _changed(path, change)
    return True
