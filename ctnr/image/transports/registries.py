# SPDX-License-Identifier: Apache-2.0
"""What is set for a registry: mirrors, plain HTTP, certificates. Our own ctnr.toml, registries.conf(5), certs.d(5).

In ctnr.toml:

    [registries."example.org"]
    mirrors = ["mirror.example.org:5000"]
    insecure = false        # true: plain HTTP, and certificates that nobody vouches for
    blocked = false
"""

from __future__ import annotations

import os
from typing import Any

from ctnr.errors import CtnrError
from ctnr.image.reference import Reference, parse

CERTS = ("/etc/containers/certs.d", "/etc/docker/certs.d")


class Endpoint:
    """Where to ask for a repository: `host` [:port], the `repository` there, and whether without TLS or its checks."""

    __slots__ = ("host", "insecure", "repository")

    def __init__(self, host: str, repository: str, insecure: bool) -> None:
        self.host = host
        self.repository = repository
        self.insecure = insecure

    def __repr__(self) -> str:
        return f"<Endpoint {self.host}/{self.repository}{' insecure' if self.insecure else ''}>"


class Rule:
    """What a configuration says of all names that begin with `prefix`."""

    __slots__ = ("blocked", "insecure", "location", "mirrors", "prefix")

    def __init__(self, prefix: str, location: str, insecure: bool, blocked: bool) -> None:
        self.prefix = prefix
        self.location = location
        self.insecure = insecure
        self.blocked = blocked
        # (location, insecure)
        self.mirrors: list[tuple[str, bool]] = []

    def matches(self, name: str) -> bool:
        if self.prefix.startswith("*."):
            return name.partition("/")[0].partition(":")[0].endswith(self.prefix[1:])
        return name == self.prefix or name.startswith(self.prefix.rstrip("/") + "/")


def _config_home() -> str:
    return os.environ.get("XDG_CONFIG_HOME") or f"{os.environ.get('HOME') or ''}/.config"


def _load(path: str) -> dict[str, Any]:
    import tomllib

    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        return {}
    except tomllib.TOMLDecodeError as error:
        raise CtnrError(f"{path}: {error}") from None
    except OSError as error:
        raise CtnrError(f"{path}: {(error.strerror or '').lower()}") from None


def _own_rules(path: str) -> list[Rule]:
    found = []
    section = _load(path).get("registries", {})
    if not isinstance(section, dict):
        raise CtnrError(f"{path}: registries must be a table of tables")
    for prefix, values in section.items():
        if not isinstance(values, dict):
            raise CtnrError(f'{path}: registries."{prefix}" must be a table')
        unknown = sorted(values.keys() - {"mirrors", "insecure", "blocked", "location"})
        if unknown:
            raise CtnrError(f'{path}: registries."{prefix}".{unknown[0]} is not known')
        rule = Rule(prefix, _text(values, "location", prefix, path), _flag(values, "insecure", path), False)
        rule.blocked = _flag(values, "blocked", path)
        mirrors = values.get("mirrors", [])
        if not isinstance(mirrors, list) or not all(isinstance(m, str) for m in mirrors):
            raise CtnrError(f'{path}: registries."{prefix}".mirrors must be a list of names')
        rule.mirrors = [(m, rule.insecure) for m in mirrors]
        found.append(rule)
    return found


def _text(values: dict[str, Any], name: str, default: str, path: str) -> str:
    value = values.get(name, default)
    if not isinstance(value, str):
        raise CtnrError(f"{path}: {name} must be text")
    return value or default


def _flag(values: dict[str, Any], name: str, path: str) -> bool:
    value = values.get(name, False)
    if not isinstance(value, bool):
        raise CtnrError(f"{path}: {name} must be true or false")
    return value


def _rules_of_podman(path: str) -> list[Rule]:
    found = []
    rows = _load(path).get("registry", [])
    if not isinstance(rows, list):
        raise CtnrError(f"{path}: registry must be an array of tables")
    for row in rows:
        if not isinstance(row, dict):
            raise CtnrError(f"{path}: registry must be an array of tables")
        location = _text(row, "location", "", path)
        prefix = _text(row, "prefix", location, path)
        if not prefix:
            raise CtnrError(f"{path}: a registry needs a location or a prefix")
        rule = Rule(prefix, location, _flag(row, "insecure", path), _flag(row, "blocked", path))
        for mirror in row.get("mirror", []):
            rule.mirrors.append((_text(mirror, "location", "", path), _flag(mirror, "insecure", path)))
        found.append(rule)
    return found


def rules() -> list[Rule]:
    """What the files say, ours first; of the user's and the system's registries.conf the user's, as podman does."""
    own = f"{_config_home()}/ctnr/ctnr.toml" if os.geteuid() else "/etc/ctnr/ctnr.toml"
    found = _own_rules(own)
    given = os.environ.get("CONTAINERS_REGISTRIES_CONF")
    if given:
        return found + _rules_of_podman(given)
    for base in (f"{_config_home()}/containers", "/etc/containers"):
        path = f"{base}/registries.conf"
        if os.path.exists(path) or os.path.isdir(f"{path}.d"):
            more = _rules_of_podman(path)
            try:
                names = sorted(name for name in os.listdir(f"{path}.d") if name.endswith(".conf"))
            except OSError:
                names = []
            for name in names:
                more += _rules_of_podman(f"{path}.d/{name}")
            return found + more
    return found


def endpoints(reference: Reference, insecure: bool = False, all_rules: list[Rule] | None = None) -> list[Endpoint]:
    """Where to ask for an image, in order: mirrors, then the registry itself. Raises CtnrError if it is blocked.

    `insecure`: --tls-verify=false.
    """
    name = reference.name
    matching = [rule for rule in (rules() if all_rules is None else all_rules) if rule.matches(name)]
    if not matching:
        return [Endpoint(reference.registry, reference.repository, insecure)]
    rule = max(matching, key=lambda rule: len(rule.prefix))
    if rule.blocked:
        raise CtnrError(f"{reference.familiar()}: the registry {rule.prefix} is blocked by the configuration")
    rest = "" if rule.prefix.startswith("*.") else name[len(rule.prefix.rstrip("/")) :]
    found = [_endpoint(location + rest, plain or insecure) for location, plain in rule.mirrors]
    if rule.location and not rule.prefix.startswith("*."):
        found.append(_endpoint(rule.location.rstrip("/") + rest, rule.insecure or insecure))
    else:
        found.append(Endpoint(reference.registry, reference.repository, rule.insecure or insecure))
    return found


def _endpoint(location: str, insecure: bool) -> Endpoint:
    try:
        reference = parse(location)
    except CtnrError as error:
        raise CtnrError(f"the configuration names a place that is none: {error}") from None
    return Endpoint(reference.registry, reference.repository, insecure)


def certificates(host: str) -> tuple[list[str], tuple[str, str] | None]:
    """Files for a registry: certificates of authorities (*.crt), and the client's own certificate and key (*.cert, *.key)."""
    authorities: list[str] = []
    client: tuple[str, str] | None = None
    for base in (f"{_config_home()}/containers/certs.d", *CERTS):
        found, pair = certificates_in(f"{base}/{host}")
        authorities += found
        client = client or pair
    return authorities, client


def certificates_in(directory: str) -> tuple[list[str], tuple[str, str] | None]:
    """The same for one directory, as --cert-dir names it. Raises CtnrError for a certificate without its key."""
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return [], None
    authorities = [f"{directory}/{name}" for name in names if name.endswith(".crt")]
    for name in names:
        if name.endswith(".cert"):
            key = name.removesuffix(".cert") + ".key"
            if key not in names:
                raise CtnrError(f"{directory}/{name}: its key is missing: {key}")
            return authorities, (f"{directory}/{name}", f"{directory}/{key}")
    return authorities, None
