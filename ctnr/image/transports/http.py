# SPDX-License-Identifier: Apache-2.0
"""HTTP with one registry: TLS, proxies, who we are there, redirects, retries. What is asked for is registry.py's business.

An Authorization header goes to the host it is for and nowhere else: redirects are followed by hand, without it.
"""

from __future__ import annotations

import ssl
import threading
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urljoin, urlsplit

import urllib3
from urllib3.exceptions import HTTPError, MaxRetryError, SSLError
from urllib3.util import Retry, Timeout

from ctnr import __version__
from ctnr.errors import CtnrError
from ctnr.image.fields import printable
from ctnr.image.transports import auth, registries

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

    from ctnr.image.transports.registries import Endpoint

# docker.io is a name; this is where it answers
_HUB = "registry-1.docker.io"
_REDIRECTS = 5
_TRIES = 4
_ERROR_LIMIT = 64 << 10
_TIMEOUT = Timeout(connect=20.0, read=60.0)
_AGAIN = (408, 429, 500, 502, 503, 504)


class Failed(CtnrError):
    """A registry said no. `status` is HTTP's, `codes` its own (distribution-spec: MANIFEST_UNKNOWN ...)."""

    def __init__(self, message: str, status: int = 0, codes: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.codes = codes


class Client:
    """One registry. Thread-safe: connections are pooled, tokens shared."""

    def __init__(self, endpoint: Endpoint, cert_dir: str | None = None, login: auth.Login | None = None) -> None:
        self.endpoint = endpoint
        self.host = endpoint.host
        self._login = login
        self._asked = login is not None
        self._context = self._tls(cert_dir)
        self._pools: dict[str, urllib3.PoolManager] = {}
        # scope -> Authorization header
        self._tokens: dict[str, str] = {}
        self._basic = False
        self._scheme = ""
        self._lock = threading.Lock()

    def _tls(self, cert_dir: str | None) -> ssl.SSLContext:
        context = ssl.create_default_context()
        authorities, client = registries.certificates(self.host)
        if cert_dir is not None:
            more, own = registries.certificates_in(cert_dir)
            authorities, client = authorities + more, own or client
        for path in [*authorities, *(client or ())]:
            try:
                if path in authorities:
                    context.load_verify_locations(path)
            except (OSError, ssl.SSLError) as error:
                raise CtnrError(f"{path}: not a certificate ({error.strerror or error})") from None
        if client is not None:
            try:
                context.load_cert_chain(*client)
            except (OSError, ssl.SSLError) as error:
                raise CtnrError(f"{client[0]}: not a certificate with its key ({error})") from None
        if self.endpoint.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def _pool(self, url: str) -> urllib3.PoolManager:
        """The connections for a URL: through the proxy that the environment names for it, if it does."""
        from urllib.request import getproxies, proxy_bypass

        parts = urlsplit(url)
        proxy = getproxies().get(parts.scheme) or ""
        if parts.hostname and proxy_bypass(parts.hostname):
            proxy = ""
        if proxy not in self._pools:
            how: dict[str, Any] = {"ssl_context": self._context, "timeout": _TIMEOUT, "retries": Retry(0), "maxsize": 8}
            if proxy:
                proxied = urlsplit(proxy)
                headers = {}
                if proxied.username:
                    from urllib.parse import unquote

                    pair = f"{unquote(proxied.username)}:{unquote(proxied.password or '')}"
                    headers = urllib3.make_headers(proxy_basic_auth=pair)
                self._pools[proxy] = urllib3.ProxyManager(proxy, proxy_headers=headers, **how)
            else:
                self._pools[proxy] = urllib3.PoolManager(**how)
        return self._pools[proxy]

    @property
    def base(self) -> str:
        """SCHEME://HOST of the registry; an insecure one is asked whether it speaks TLS at all, once."""
        host = _HUB if self.host == "docker.io" else self.host
        with self._lock:
            if not self._scheme:
                scheme = "https"
                if self.endpoint.insecure:
                    try:
                        self._send("GET", f"https://{host}/v2/", {}, None, tries=1).close()
                    except CtnrError:
                        scheme = "http"
                self._scheme = scheme
        return f"{self._scheme}://{host}"

    # --- requests

    def request(
        self,
        method: str,
        path: str,
        *,
        scope: str = "",
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
        ok: tuple[int, ...] = (200,),
        query: dict[str, str] | None = None,
    ) -> BaseHTTPResponse:
        """A response that is one of `ok`, its content not read yet. `path`: from /, or a whole URL that the registry named.

        Raises Failed, CtnrError.
        """
        url = urljoin(self.base, path)
        if query:
            url += ("&" if "?" in url else "?") + urlencode(query)
        sent = dict(headers or {})
        for attempt in (1, 2):
            token = self._authorization(scope)
            if token and self._is_ours(url):
                sent["Authorization"] = token
            response = self._send(method, url, sent, body)
            if response.status != 401 or attempt == 2 or not self._is_ours(url):
                break
            challenge = response.headers.get("WWW-Authenticate", "")
            self._drain(response)
            if not self._answer(challenge, scope, "Authorization" in sent):
                break
        if response.status in ok:
            return response
        raise self._error(method, response)

    def _is_ours(self, url: str) -> bool:
        return url.startswith(self.base + "/")

    def _send(
        self, method: str, url: str, headers: dict[str, str], body: bytes | None, tries: int = _TRIES
    ) -> BaseHTTPResponse:
        """Send, again after what may pass, and follow redirects."""
        headers = {"User-Agent": f"ctnr/{__version__}", **headers}
        redirects = 0
        attempt = 0
        while True:
            attempt += 1
            try:
                response = self._pool(url).urlopen(
                    method, url, headers=headers, body=body, redirect=False, preload_content=False
                )
            except (HTTPError, OSError) as error:
                if _is_tls(error) or attempt >= tries:
                    raise self._unreachable(url, error) from None
                time.sleep(0.25 * 2**attempt)
                continue
            if response.status in _AGAIN and attempt < tries:
                wait = response.headers.get("Retry-After", "")
                self._drain(response)
                time.sleep(min(float(wait), 30.0) if wait.isdigit() else 0.25 * 2**attempt)
                continue
            target = response.headers.get("Location", "")
            if response.status in (301, 302, 303, 307, 308) and target and method in ("GET", "HEAD"):
                self._drain(response)
                redirects += 1
                if redirects > _REDIRECTS:
                    raise CtnrError(f"registry {self.host}: more than {_REDIRECTS} redirects; refused")
                new = urljoin(url, target)
                old_parts, new_parts = urlsplit(url), urlsplit(new)
                if new_parts.scheme not in ("http", "https") or not new_parts.hostname:
                    raise CtnrError(f"registry {self.host}: redirects to what is no web address; refused")
                if old_parts.scheme == "https" and new_parts.scheme == "http" and not self.endpoint.insecure:
                    raise CtnrError(f"registry {self.host}: redirects from https to http; refused")
                if (old_parts.scheme, old_parts.netloc) != (new_parts.scheme, new_parts.netloc):
                    headers.pop("Authorization", None)
                url = new
                attempt = 0
                continue
            return response

    def _unreachable(self, url: str, error: Exception) -> CtnrError:
        host = urlsplit(url).netloc
        reason: Any = error
        if isinstance(error, MaxRetryError):
            reason = error.reason or error
        if _is_tls(error):
            text = str(reason)
            if "CERTIFICATE_VERIFY_FAILED" in text:
                why = text.partition("certificate verify failed: ")[2].partition(" (_ssl")[0] or "not trusted"
                hint = f"put its authority's certificate in {registries.CERTS[0]}/{self.host}/ca.crt, or use --cert-dir"
                return Failed(f"registry {host}: bad certificate: {why} ({hint})")
            plain = "WRONG_VERSION_NUMBER" in text or "record layer failure" in text.lower()
            hint = " (does it speak plain HTTP? --tls-verify=false)" if plain else ""
            return Failed(f"registry {host}: TLS failed: {_one_line(text)}{hint}")
        return Failed(f"registry {host}: cannot be reached: {_why(reason)}")

    def _drain(self, response: BaseHTTPResponse) -> bytes:
        """The beginning of the content; the connection may be used again."""
        try:
            data = response.read(_ERROR_LIMIT)
        except (HTTPError, OSError):
            data = b""
        response.release_conn()
        return data

    def _error(self, method: str, response: BaseHTTPResponse) -> Failed:
        import json

        data = self._drain(response)
        codes: list[str] = []
        words: list[str] = []
        try:
            for entry in json.loads(data)["errors"][:3]:
                codes.append(str(entry.get("code", "")))
                words.append(_one_line(str(entry.get("message") or entry.get("code") or "")))
        except (ValueError, KeyError, TypeError, AttributeError):
            words = []
        said = "; ".join(word for word in words if word) or f"HTTP status {response.status}"
        text = f"registry {self.host}: {said}"
        if response.status in (401, 403) or "DENIED" in codes or "UNAUTHORIZED" in codes:
            who = f"as {self._login.user or 'the holder of a token'}" if self._login else "without credentials"
            text = f"registry {self.host}: access denied, {who}: {said} (log in with `ctnr login {self.host}`)"
        elif response.status == 429:
            text += " (too many requests: try again later, or log in)"
        return Failed(text, response.status, tuple(codes))

    # --- who we are

    def _credentials(self) -> auth.Login | None:
        with self._lock:
            if not self._asked:
                self._login = auth.find(self.host, self.endpoint.repository)
                self._asked = True
            return self._login

    def _authorization(self, scope: str) -> str:
        login = self._login
        if self._basic and login is not None:
            return login.basic()
        return self._tokens.get(scope, "")

    def _answer(self, challenge: str, scope: str, sent: bool) -> bool:
        """Get what a 401 asks for; whether there is something to try (RFC 7235; distribution-spec's token flow).

        `sent`: the request that was refused had an Authorization header.
        """
        kind, _, rest = challenge.strip().partition(" ")
        if kind.lower() == "basic":
            login = self._credentials()
            self._basic = login is not None and bool(login.password)
            return self._basic and not sent
        if kind.lower() == "bearer":
            values = _parameters(rest)
            token = self._token(values.get("realm", ""), values.get("service", ""), values.get("scope", "") or scope)
            self._tokens[scope] = f"Bearer {token}"
            return True
        return False

    def _token(self, realm: str, service: str, scope: str) -> str:
        import json

        parts = urlsplit(realm)
        if parts.scheme not in ("https", "http") or not parts.hostname:
            raise Failed(f"registry {self.host}: names no place to log in at")
        if parts.scheme == "http" and not self.endpoint.insecure:
            raise Failed(f"registry {self.host}: wants credentials sent unencrypted to {parts.netloc}; refused")
        login = self._credentials()
        fields = {"service": service, **({"scope": scope} if scope else {})}
        if login is not None and login.token:
            form = {**fields, "grant_type": "refresh_token", "refresh_token": login.token, "client_id": "ctnr"}
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            response = self._send("POST", realm, headers, urlencode(form).encode())
        else:
            headers = {"Authorization": login.basic()} if login is not None else {}
            if login is not None:
                fields["account"] = login.user
            url = realm + ("&" if parts.query else "?") + urlencode(fields)
            response = self._send("GET", url, headers, None)
        if response.status != 200:
            raise self._error("GET", response)
        try:
            found = json.loads(self._drain(response))
            token = found.get("token") or found.get("access_token")
        except (ValueError, AttributeError):
            token = None
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise Failed(f"registry {self.host}: its token service at {parts.netloc} gave no token")
        return token

    def close(self) -> None:
        for pool in self._pools.values():
            pool.clear()


def _parameters(text: str) -> dict[str, str]:
    """NAME="VALUE", ... of a challenge (RFC 7235, 2.1)."""
    found: dict[str, str] = {}
    while text:
        name, equals, text = text.lstrip(" ,").partition("=")
        if not equals:
            break
        if text.startswith('"'):
            value = ""
            at = 1
            while at < len(text) and text[at] != '"':
                if text[at] == "\\":
                    at += 1
                value += text[at : at + 1]
                at += 1
            text = text[at + 1 :]
        else:
            value, _, text = text.partition(",")
        found[name.strip().lower()] = value.strip()
    return found


def _is_tls(error: Exception) -> bool:
    reason = error.reason if isinstance(error, MaxRetryError) else error
    return isinstance(reason, (SSLError, ssl.SSLError))


def _why(reason: Any) -> str:
    inner = getattr(reason, "__cause__", None) or getattr(reason, "__context__", None)
    for found in (inner, reason):
        if isinstance(found, OSError) and found.strerror:
            return found.strerror.lower()
    return _one_line(str(reason))


def _one_line(text: str) -> str:
    """What a stranger says, harmless on a terminal."""
    return printable(" ".join(text.split()).encode("utf-8", "replace")[:300])


def path_of(repository: str, *parts: str) -> str:
    """A path of the distribution-spec, below /v2/."""
    return "/v2/" + "/".join(quote(part, safe="/:@") for part in (repository, *parts))
