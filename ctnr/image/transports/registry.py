# SPDX-License-Identifier: Apache-2.0
"""`docker://NAME`: images in registries (distribution-spec 1.1), pulled from and pushed to."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urljoin

from urllib3.exceptions import HTTPError

from ctnr.errors import CtnrError
from ctnr.image.reference import Reference
from ctnr.image.transfer import Reader, digest_of
from ctnr.image.transports import registries
from ctnr.image.transports.auth import Login
from ctnr.image.transports.http import Client, Failed, path_of
from ctnr.spec import image as spec
from ctnr.spec.image import Descriptor, check_digest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from urllib3 import BaseHTTPResponse

    from ctnr.image.transfer import Source

_ACCEPT = ", ".join((*spec.MANIFESTS, *spec.INDEXES))
_CHUNK = 1 << 18
# of an upload: what is lost when a connection breaks, and what is held in memory meanwhile
_PART = 16 << 20
_RESUMES = 5
_MAX_PAGES = 1000


class Options:
    """How to talk to registries, as the flags of commands have it."""

    __slots__ = ("cert_dir", "login", "tls_verify")

    def __init__(self, tls_verify: bool = True, cert_dir: str | None = None, login: Login | None = None) -> None:
        self.tls_verify = tls_verify
        self.cert_dir = cert_dir
        self.login = login


def _clients(reference: Reference, options: Options) -> list[Client]:
    places = registries.endpoints(reference, not options.tls_verify)
    return [
        Client(place, options.cert_dir, options.login if place.host == reference.registry else None) for place in places
    ]


class _Blob:
    """A blob as it comes. A connection that breaks is made anew, from where it broke."""

    def __init__(self, client: Client, descriptor: Descriptor) -> None:
        self._client = client
        self._path = path_of(client.endpoint.repository, "blobs", check_digest(descriptor["digest"]))
        self._scope = f"repository:{client.endpoint.repository}:pull"
        self._size = descriptor["size"]
        self._at = 0
        self._left = _RESUMES
        self._response: BaseHTTPResponse | None = self._open()

    def _open(self) -> BaseHTTPResponse:
        headers = {"Accept-Encoding": "identity"}
        if self._at:
            headers["Range"] = f"bytes={self._at}-"
        response = self._client.request("GET", self._path, scope=self._scope, headers=headers, ok=(200, 206))
        if self._at and response.status == 200:
            # it does not know Range: what we have comes again
            skip = self._at
            while skip:
                skip -= len(response.read(min(_CHUNK, skip)) or self._short())
        elif response.status == 206 and not response.headers.get("Content-Range", "").startswith(f"bytes {self._at}-"):
            raise CtnrError(f"registry {self._client.host}: sends another part of a blob than was asked for; refused")
        return response

    def _short(self) -> bytes:
        raise CtnrError(f"registry {self._client.host}: a blob has become shorter; refused")

    def read(self, size: int, /) -> bytes:
        while True:
            try:
                if self._response is None:
                    self._response = self._open()
                data = self._response.read(size, decode_content=False)
                if data or self._at >= self._size:
                    self._at += len(data)
                    return data
                why: Exception = HTTPError("ended early")
            except (HTTPError, OSError) as error:
                why = error
            self.close()
            self._left -= 1
            if self._left < 0:
                text = f"registry {self._client.host}: broke off {_RESUMES + 1} times: {type(why).__name__}"
                raise CtnrError(text) from None

    def close(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None


class RegistrySource:
    """An image in a registry: mirrors are asked first, and what answers for the manifest is asked for its blobs, too."""

    def __init__(self, reference: Reference, options: Options | None = None) -> None:
        self.reference = reference.tagged()
        self.name = self.reference.familiar()
        self._clients = _clients(self.reference, options or Options())
        self._client: Client | None = None

    def manifest(self, digest: str | None = None) -> tuple[bytes, str]:
        wanted = digest or self.reference.digest or self.reference.tag
        if self._client is not None:
            return self._manifest(self._client, wanted)
        failed: CtnrError | None = None
        for client in self._clients:
            try:
                found = self._manifest(client, wanted)
            except CtnrError as error:
                failed = error  # the registry itself comes last: it is its word that counts
                continue
            self._client = client
            return found
        assert failed is not None
        if isinstance(failed, Failed) and (failed.status == 404 or "MANIFEST_UNKNOWN" in failed.codes):
            raise CtnrError(f"no such image: {self.name}{self._what_there_is()}") from None
        raise failed

    def _manifest(self, client: Client, wanted: str) -> tuple[bytes, str]:
        repository = client.endpoint.repository
        response = client.request(
            "GET",
            path_of(repository, "manifests", wanted),
            scope=f"repository:{repository}:pull",
            headers={"Accept": _ACCEPT},
        )
        try:
            data = _read(response, spec.MANIFEST_LIMIT, f"registry {client.host}: the manifest of {self.name}")
        finally:
            response.close()
        if ":" in wanted and digest_of(data, check_digest(wanted)) != wanted:
            raise CtnrError(f"registry {client.host}: manifest {wanted}: its content is {digest_of(data)}; refused")
        return data, response.headers.get("Content-Type", "").partition(";")[0].strip()

    def _what_there_is(self) -> str:
        try:
            tags = self.tags()
        except CtnrError:
            return f": registry {self.reference.registry} has no such repository, or does not show it"
        if not tags:
            return ""
        return f"; of it there is: {', '.join(tags[:20])}{' ...' if len(tags) > 20 else ''}"

    def tags(self) -> list[str]:
        """All tags of the repository, in the registry's order. Raises CtnrError."""
        client = self._client or self._clients[-1]
        repository = client.endpoint.repository
        path = path_of(repository, "tags", "list")
        found: list[str] = []
        for _ in range(_MAX_PAGES):
            response = client.request("GET", path, scope=f"repository:{repository}:pull")
            try:
                data = _read(response, spec.MANIFEST_LIMIT, f"registry {client.host}: the list of tags")
            finally:
                response.close()
            found += _tags_in(data, client.host)
            link = response.headers.get("Link", "")
            if 'rel="next"' not in link.replace("rel=next", 'rel="next"'):
                return found
            path = urljoin(path, link.partition("<")[2].partition(">")[0])
        return found

    def blob(self, descriptor: Descriptor) -> Reader:
        client = self._client or self._clients[-1]
        try:
            return _Blob(client, descriptor)
        except Failed as error:
            last = self._clients[-1]
            if client is last or error.status != 404:
                if descriptor.get("urls") and error.status == 404:
                    raise CtnrError(
                        f"{self.name}: layer {descriptor['digest']} is not in the registry but at another place;"
                        " such foreign layers are not fetched"
                    ) from None
                raise
            return _Blob(last, descriptor)  # a mirror that has not got it yet

    def close(self) -> None:
        for client in self._clients:
            client.close()


def _read(response: BaseHTTPResponse, limit: int, what: str) -> bytes:
    """The content of a small response. Raises CtnrError."""
    parts: list[bytes] = []
    size = 0
    try:
        while data := response.read(_CHUNK):
            size += len(data)
            if size > limit:
                raise CtnrError(f"{what} has more than {limit} bytes; refused")
            parts.append(data)
    except (HTTPError, OSError) as error:
        raise CtnrError(f"{what}: the connection broke: {type(error).__name__}") from None
    return b"".join(parts)


def _tags_in(data: bytes, host: str) -> list[str]:
    import json

    try:
        tags = json.loads(data)["tags"] or []
        if not isinstance(tags, list):
            raise TypeError
    except (ValueError, KeyError, TypeError):
        raise CtnrError(f"registry {host}: its list of tags is damaged") from None
    return [tag for tag in tags if isinstance(tag, str) and tag.isascii() and tag.isprintable()]


class RegistryTarget:
    """A name in a registry."""

    def __init__(self, reference: Reference, options: Options | None = None) -> None:
        self.reference = reference.tagged()
        self.name = self.reference.familiar()
        # never a mirror: what is pushed belongs to the registry itself
        self._client = _clients(self.reference, options or Options())[-1]
        self._repository = self._client.endpoint.repository
        self._scope = f"repository:{self._repository}:pull,push"

    def has_blob(self, descriptor: Descriptor) -> bool:
        path = path_of(self._repository, "blobs", check_digest(descriptor["digest"]))
        response = self._client.request("HEAD", path, scope=self._scope, ok=(200, 404))
        response.close()
        return response.status == 200

    def mount_blob(self, descriptor: Descriptor, source: Source) -> bool:
        """From another repository of the same registry, where the source is one."""
        reference = getattr(source, "reference", None)
        if not isinstance(reference, Reference) or reference.registry != self.reference.registry:
            return False
        if reference.repository == self._repository:
            return False
        query = {"mount": check_digest(descriptor["digest"]), "from": reference.repository}
        path = path_of(self._repository, "blobs", "uploads") + "/"
        try:
            response = self._client.request("POST", path, scope=self._scope, query=query, ok=(201, 202))
        except Failed as error:
            if error.status in (400, 404, 405):
                return False
            raise
        response.close()
        if response.status == 202 and (place := response.headers.get("Location")):
            self._cancel(place)  # it began an upload instead
        return response.status == 201

    def put_blob(self, descriptor: Descriptor, reader: Reader) -> None:
        digest = check_digest(descriptor["digest"])
        path = path_of(self._repository, "blobs", "uploads") + "/"
        response = self._client.request("POST", path, scope=self._scope, headers={"Content-Length": "0"}, ok=(202,))
        place = self._place(response)
        at = 0
        try:
            for part in _parts(reader):
                headers = {
                    "Content-Type": "application/octet-stream",
                    "Content-Range": f"{at}-{at + len(part) - 1}",
                    "Content-Length": str(len(part)),
                }
                response = self._client.request(
                    "PATCH", place, scope=self._scope, headers=headers, body=part, ok=(202, 204)
                )
                place = self._place(response)
                at += len(part)
            headers = {"Content-Length": "0", "Content-Type": "application/octet-stream"}
            response = self._client.request(
                "PUT", place, scope=self._scope, headers=headers, query={"digest": digest}, ok=(201, 204)
            )
            response.close()
        except BaseException:
            self._cancel(place)
            raise

    def _place(self, response: BaseHTTPResponse) -> str:
        """Where the upload goes on: the registry says it anew each time."""
        response.close()
        place = response.headers.get("Location", "")
        if not place:
            raise CtnrError(f"registry {self._client.host}: does not say where to upload to")
        return urljoin(self._client.base + "/", place)

    def _cancel(self, place: str) -> None:
        try:
            self._client.request("DELETE", place, scope=self._scope, ok=(200, 202, 204, 404)).close()
        except CtnrError:
            return  # the registry clears away what is not finished

    def put_manifest(self, data: bytes, media_type: str, digest: str, top: bool) -> None:
        name = self.reference.tag if top and self.reference.tag else check_digest(digest)
        headers = {"Content-Type": media_type, "Content-Length": str(len(data))}
        path = path_of(self._repository, "manifests", name)
        response = self._client.request("PUT", path, scope=self._scope, headers=headers, body=data, ok=(200, 201, 202))
        response.close()
        said = response.headers.get("Docker-Content-Digest", digest)
        if said != digest and said.partition(":")[0] == digest.partition(":")[0]:
            raise CtnrError(f"registry {self._client.host}: took the manifest for {said}, and it is {digest}")

    def close(self) -> None:
        self._client.close()


def _parts(reader: Reader) -> Iterator[bytes]:
    """A blob in pieces that can be sent again."""
    parts: list[bytes] = []
    size = 0
    while data := reader.read(_CHUNK):
        parts.append(data)
        size += len(data)
        if size >= _PART:
            yield b"".join(parts)
            parts, size = [], 0
    if parts:
        yield b"".join(parts)


def check_login(registry: str, login: Login, options: Options | None = None) -> None:
    """Whether the registry takes these credentials. Raises CtnrError that says why not."""
    options = options or Options()
    places = registries.endpoints(Reference(registry, "login"), not options.tls_verify)
    client = Client(places[-1], options.cert_dir, login)
    try:
        client.request("GET", "/v2/").close()
    finally:
        client.close()
