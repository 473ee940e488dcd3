# SPDX-License-Identifier: Apache-2.0
"""A registry on the loopback interface, in memory, that can be told to misbehave; it writes down what it was asked."""

from __future__ import annotations

import base64
import hashlib
import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

USER, PASSWORD, TOKEN, REFRESH = "alice", "s3cret:word", "the-token", "the-refresh-token"


class FakeRegistry:
    """`auth`: "", "basic" or "token". The rest are quirks, each named where it is looked at."""

    def __init__(self, auth: str = "", context: ssl.SSLContext | None = None) -> None:
        self.auth = auth
        self.blobs: dict[tuple[str, str], bytes] = {}
        self.manifests: dict[tuple[str, str], tuple[bytes, str]] = {}
        self.uploads: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.lock = threading.Lock()
        self.break_after = 0  # a blob's connection breaks after so many bytes, each time
        self.knows_range = True
        self.redirect_blobs = ""  # to this URL's host
        self.redirect_forever = False
        self.fail_times: dict[str, list[int]] = {}  # "GET /path" -> statuses to answer first
        self.content_type = ""
        self.realm = ""
        self.page = 0
        self.junk: dict[str, bytes] = {}  # path -> what to answer there
        self.mounts = True
        handler = type("Handler", (_Handler,), {"registry": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.scheme = "https" if context else "http"
        if context:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.host = f"127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}"

    def add(self, repository: str, tag: str, place: Any) -> None:
        """The image of a place in memory (imageplaces.Memory), under a tag."""
        for digest, data in place.blobs.items():
            self.blobs[repository, digest] = data
        for digest, found in place.manifests.items():
            self.manifests[repository, digest] = found
        self.manifests[repository, tag] = place.manifests[place.top]

    def asked(self, method: str = "", path: str = "") -> list[tuple[str, str, dict[str, str]]]:
        return [r for r in self.requests if method in ("", r[0]) and path in r[1]]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class _Handler(BaseHTTPRequestHandler):
    registry: FakeRegistry
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def answer(self, status: int, data: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def refuse(self, status: int, code: str, message: str = "", **headers: str) -> None:
        self.answer(status, json.dumps({"errors": [{"code": code, "message": message or code}]}).encode(), **headers)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def allowed(self) -> bool:
        r = self.registry
        given = self.headers.get("Authorization", "")
        if not r.auth:
            return True
        if r.auth == "basic":
            if given == "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode():
                return True
            self.refuse(401, "UNAUTHORIZED", WWW_Authenticate='Basic realm="x"')
            return False
        if given == f"Bearer {TOKEN}":
            return True
        realm = r.realm or f"{r.url}/token"
        self.refuse(
            401, "UNAUTHORIZED", WWW_Authenticate=f'Bearer realm="{realm}",service="fake",scope="repository:x:pull"'
        )
        return False

    def token(self, path: str) -> None:
        given = self.headers.get("Authorization", "")
        if self.command == "POST":
            form = parse_qs(self.body().decode())
            good = form.get("refresh_token") == [REFRESH]
        else:
            good = given == "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if good:
            self.answer(200, json.dumps({"token": TOKEN}).encode())
        else:
            self.refuse(401, "UNAUTHORIZED", "incorrect username or password")

    def handle_any(self) -> None:
        r = self.registry
        parts = urlsplit(self.path)
        with r.lock:
            r.requests.append((self.command, self.path, dict(self.headers)))
            statuses = r.fail_times.get(f"{self.command} {parts.path}")
            status = statuses.pop(0) if statuses else 0
        if status:
            self.body()
            self.refuse(status, "TRY_LATER", Retry_After="0")
        elif parts.path in r.junk:
            self.answer(200, r.junk[parts.path])
        elif parts.path == "/token":
            self.token(parts.path)
        elif not self.allowed():
            return
        elif parts.path == "/v2/":
            self.answer(200, b"{}")
        else:
            self.route(parts.path.removeprefix("/v2/"), parse_qs(parts.query))

    do_GET = do_HEAD = do_POST = do_PATCH = do_PUT = do_DELETE = handle_any

    def route(self, path: str, query: dict[str, list[str]]) -> None:
        r = self.registry
        if "/blobs/uploads/" in path:
            self.upload(path, query)
        elif "/blobs/" in path:
            repository, _, digest = path.partition("/blobs/")
            self.blob(repository, digest)
        elif "/manifests/" in path:
            repository, _, name = path.partition("/manifests/")
            if self.command == "PUT":
                data = self.body()
                digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
                r.manifests[repository, name] = r.manifests[repository, digest] = (data, self.headers["Content-Type"])
                self.answer(201, Docker_Content_Digest=digest)
            elif (repository, name) in r.manifests:
                data, kind = r.manifests[repository, name]
                self.answer(200, data, Content_Type=r.content_type or kind)
            else:
                self.refuse(404, "MANIFEST_UNKNOWN", "manifest unknown")
        elif path.endswith("/tags/list"):
            repository = path.removesuffix("/tags/list")
            tags = sorted(t for name, t in r.manifests if name == repository and ":" not in t)
            if not tags:
                self.refuse(404, "NAME_UNKNOWN")
                return
            last = query.get("last", [""])[0]
            tags = [t for t in tags if t > last]
            headers = {}
            if r.page and len(tags) > r.page:
                tags = tags[: r.page]
                headers = {"Link": f'</v2/{path}?last={tags[-1]}>; rel="next"'}
            self.answer(200, json.dumps({"name": repository, "tags": tags}).encode(), **headers)
        else:
            self.refuse(404, "UNSUPPORTED")

    def blob(self, repository: str, digest: str) -> None:
        r = self.registry
        data = r.blobs.get((repository, digest))
        if data is None:
            self.refuse(404, "BLOB_UNKNOWN")
            return
        if r.redirect_forever:
            self.answer(307, Location=self.path + "x")
            return
        if r.redirect_blobs:
            self.answer(307, Location=f"{r.redirect_blobs}/v2/{repository}/blobs/{digest}?signed=1")
            return
        start = 0
        asked = self.headers.get("Range", "")
        if asked and r.knows_range:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        rest = data[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if r.break_after and len(rest) > r.break_after:
            self.wfile.write(rest[: r.break_after])
            self.wfile.flush()
            self.close_connection = True
            return
        self.wfile.write(rest)

    def upload(self, path: str, query: dict[str, list[str]]) -> None:
        r = self.registry
        repository, _, id = path.partition("/blobs/uploads/")
        if self.command == "POST":
            source = query.get("from", [""])[0], query.get("mount", [""])[0]
            if source in r.blobs and r.mounts:
                r.blobs[repository, source[1]] = r.blobs[source]
                self.answer(201)
                return
            id = f"u{len(r.requests)}"
            r.uploads[id] = b""
            self.answer(202, Location=f"/v2/{repository}/blobs/uploads/{id}?state=1")
        elif id not in r.uploads:
            self.body()
            self.refuse(404, "BLOB_UPLOAD_UNKNOWN")
        elif self.command == "PATCH":
            r.uploads[id] += self.body()
            # a registry may name another place for each part
            self.answer(202, Location=f"{r.url}/v2/{repository}/blobs/uploads/{id}?state=2")
        elif self.command == "PUT":
            data = r.uploads.pop(id) + self.body()
            digest = query["digest"][0]
            if digest != f"sha256:{hashlib.sha256(data).hexdigest()}":
                self.refuse(400, "DIGEST_INVALID")
                return
            r.blobs[repository, digest] = data
            self.answer(201)
        else:
            r.uploads.pop(id)
            self.answer(204)
