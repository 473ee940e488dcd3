# SPDX-License-Identifier: Apache-2.0
"""Names of images: docker's short-name rules, and the transport before them. Pure."""

from __future__ import annotations

from ctnr.errors import CtnrError
from ctnr.spec.image import check_digest
from ctnr.spec.schema import quote

DOCKER_HUB = "docker.io"
LATEST = "latest"
NAME_MAX, TAG_MAX = 255, 128

TRANSPORTS = ("docker", "oci", "oci-archive", "docker-archive", "dir")

_LOWER = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_HOST = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.")
_WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")


class Reference:
    """An image in a registry: `registry`/`repository`[:`tag`][@`digest`]. Equal by its parts; str() is the whole name."""

    __slots__ = ("digest", "registry", "repository", "tag")

    def __init__(self, registry: str, repository: str, tag: str = "", digest: str = "") -> None:
        self.registry = registry
        self.repository = repository
        self.tag = tag
        self.digest = digest

    @property
    def name(self) -> str:
        """Registry and repository: what is between a repository and its tags."""
        return f"{self.registry}/{self.repository}"

    def __str__(self) -> str:
        return self.name + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def __repr__(self) -> str:
        return f"Reference({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reference) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def familiar(self) -> str:
        """As docker's users write it: without docker.io/library/."""
        text = str(self)
        for prefix in (f"{DOCKER_HUB}/library/", f"{DOCKER_HUB}/"):
            if text.startswith(prefix) and (prefix.endswith("library/") or self.repository.count("/")):
                return text[len(prefix) :]
        return text

    def tagged(self) -> Reference:
        """With the tag `latest` where neither tag nor digest was given."""
        if self.tag or self.digest:
            return self
        return Reference(self.registry, self.repository, LATEST)


def parse(text: str) -> Reference:
    """A name as docker reads it (distribution's reference grammar). Raises CtnrError."""

    def wrong(why: str) -> CtnrError:
        return CtnrError(f"invalid image name {quote(text)}: {why}")

    rest, at, digest = text.partition("@")
    if at:
        check_digest(digest, "image digest")
    head, slash, path = rest.partition("/")
    registry = ""
    # a first part that looks like a host is one: docker's rule
    if slash and ("." in head or ":" in head or head == "localhost" or head != head.lower()):
        registry, rest = head, path
    name, colon, tag = rest.partition(":")
    if colon and not _is_tag(tag):
        raise wrong(f"a tag is up to {TAG_MAX} letters, digits, _ . and -, not {quote(tag)}")
    if len(name) == 64 and not slash and all(c in "0123456789abcdef" for c in name):
        raise wrong("64 hexadecimal digits are an id")
    if registry and not _is_host(registry):
        raise wrong(f"{quote(registry)} is no host")
    if not registry or registry == "index.docker.io":
        registry = DOCKER_HUB
    if registry == DOCKER_HUB and "/" not in name:
        name = f"library/{name}"
    if name != name.lower():
        raise wrong("the repository must be in lower case")
    if not all(_is_component(part) for part in name.split("/")) or name == "library/":
        raise wrong("the repository is lower-case letters and digits, parted by / . _ __ or -")
    if len(registry) + 1 + len(name) > NAME_MAX:
        raise wrong(f"longer than {NAME_MAX} letters")
    return Reference(registry, name, tag, digest)


def _is_tag(text: str) -> bool:
    return 0 < len(text) <= TAG_MAX and text[0] in _WORD and all(c in _WORD or c in ".-" for c in text)


def _is_host(text: str) -> bool:
    host, colon, port = text.partition(":")
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        colon, port = port[:1], port[1:]
        return (
            bool(bracket) and bool(host) and all(c in "0123456789abcdefABCDEF:" for c in host) and _is_port(colon, port)
        )
    parts = host.split(".")
    return all(p and _HOST.issuperset(p) and p[0] != "-" and p[-1] != "-" for p in parts) and _is_port(colon, port)


def _is_port(colon: str, port: str) -> bool:
    return (not colon and not port) or (port.isascii() and port.isdigit() and 0 < int(port) < 65536)


def _is_component(text: str) -> bool:
    """alpha-numeric runs parted by one of . _ __ or any number of -."""
    at, end = 0, len(text)
    while True:
        start = at
        while at < end and text[at] in _LOWER:
            at += 1
        if at == start:
            return False
        if at == end:
            return True
        start = at
        while at < end and text[at] not in _LOWER:
            at += 1
        between = text[start:at]
        if between not in (".", "_", "__") and between.strip("-"):
            return False


def split_transport(text: str) -> tuple[str, str]:
    """("docker", "alpine:3") for docker://alpine:3, ("oci", "dir:tag") for oci:dir:tag ...; ("", text) without one.

    Raises CtnrError for what looks like a transport and is none of ours.
    """
    scheme, colon, rest = text.partition(":")
    if not colon:
        return "", text
    if scheme in TRANSPORTS:
        if scheme == "docker":
            if not rest.startswith("//"):
                raise CtnrError(f"{quote(text)}: docker:// has two slashes, as in docker://alpine")
            rest = rest[2:]
        if not rest:
            raise CtnrError(f"{quote(text)}: {scheme}: needs a name after it")
        return scheme, rest
    if scheme in ("http", "https") and rest.startswith("//"):
        return scheme, text
    if rest.startswith("//") or scheme in ("docker-daemon", "containers-storage", "ostree", "atomic", "tarball"):
        known = ", ".join(f"{name}:" for name in TRANSPORTS)
        raise CtnrError(f"unknown transport {quote(scheme)} in {quote(text)}: there are {known} http: and https:")
    return "", text
