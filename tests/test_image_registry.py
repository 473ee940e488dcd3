# SPDX-License-Identifier: Apache-2.0
"""Registries: pulling and pushing, who we are there, what breaks on the way, and what a hostile one may try."""

from __future__ import annotations

import base64
import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakeregistry import PASSWORD, REFRESH, TOKEN, USER, FakeRegistry
from imageplaces import Memory, image, index

from ctnr.errors import CtnrError
from ctnr.image.reference import parse
from ctnr.image.transfer import copy
from ctnr.image.transports import auth, registries
from ctnr.image.transports.auth import Login
from ctnr.image.transports.http import _parameters
from ctnr.image.transports.registry import Options, RegistrySource, RegistryTarget, check_login

PLAIN = Options(tls_verify=False)
MakeRegistry = Callable[..., FakeRegistry]


@pytest.fixture(autouse=True)
def nobodys_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No credentials, proxies or settings but those of the test."""
    home = tmp_path / "home"
    home.mkdir()
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name in ("DOCKER_CONFIG", "XDG_CONFIG_HOME"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(home / "auth.json"))
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(home / "registries.conf"))
    monkeypatch.setattr("ctnr.image.transports.http.time.sleep", lambda seconds: None)
    return home


@pytest.fixture
def registry_of() -> Iterator[MakeRegistry]:
    made: list[FakeRegistry] = []

    def make(auth: str = "") -> FakeRegistry:
        made.append(FakeRegistry(auth))
        return made[-1]

    yield make
    for registry in made:
        registry.close()


def pull(registry: FakeRegistry, name: str = "a/b:1", options: Options = PLAIN, **how: object) -> Memory:
    there = Memory()
    source = RegistrySource(parse(f"{registry.host}/{name}"), options)
    try:
        copy(source, there, **how)  # type: ignore[arg-type]
    finally:
        source.close()
    return there


def filled(registry: FakeRegistry, name: str = "a/b", tag: str = "1", layers: int = 3) -> Memory:
    place = Memory()
    image(place, f"{name}:{tag}", layers=layers)
    registry.add(name, tag, place)
    return place


def test_pull(registry_of: MakeRegistry) -> None:
    registry = registry_of()
    place = filled(registry)
    assert pull(registry).blobs == place.blobs
    assert pull(registry, f"a/b@{place.top}").manifests == place.manifests


def test_push_and_pull_back(registry_of: MakeRegistry) -> None:
    registry = registry_of()
    here = Memory()
    top = index(here, image(here, "x", "linux/amd64"), image(here, "y", "linux/arm64"))
    target = RegistryTarget(parse(f"{registry.host}/new/name:2"), PLAIN)
    copy(here, target, all_platforms=True)
    assert registry.uploads == {}
    back = pull(registry, "new/name:2", all_platforms=True)
    assert (back.blobs, back.manifests, back.top) == (here.blobs, here.manifests, top["digest"])
    # what is there is not sent again
    before = len(registry.asked("POST"))
    copy(here, target, all_platforms=True)
    target.close()
    assert len(registry.asked("POST")) == before


def test_a_blob_of_several_parts(registry_of: MakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctnr.image.transports.registry._PART", 1000)
    monkeypatch.setattr("ctnr.image.transports.registry._CHUNK", 300)
    registry = registry_of()
    here = Memory()
    image(here, "x", layers=1)
    target = RegistryTarget(parse(f"{registry.host}/x"), PLAIN)
    copy(here, target)
    target.close()
    assert len(registry.asked("PATCH")) > 2
    assert pull(registry, "x").blobs == here.blobs


@pytest.mark.parametrize("mounts", [True, False])
def test_a_blob_of_another_repository_is_mounted(registry_of: MakeRegistry, mounts: bool) -> None:
    registry = registry_of()
    registry.mounts = mounts
    place = filled(registry, "old")
    source = RegistrySource(parse(f"{registry.host}/old:1"), PLAIN)
    target = RegistryTarget(parse(f"{registry.host}/new:1"), PLAIN)
    copy(source, target)
    source.close()
    target.close()
    assert (len(registry.asked("PATCH")) == 0) == mounts
    assert registry.uploads == {}
    assert pull(registry, "new:1").blobs == place.blobs


@pytest.mark.parametrize("kind", ["basic", "token"])
def test_credentials(registry_of: MakeRegistry, kind: str) -> None:
    registry = registry_of(kind)
    place = filled(registry)
    with pytest.raises(CtnrError, match=f"access denied, without credentials.*ctnr login {registry.host}"):
        pull(registry)
    auth.save(registry.host, Login(USER, "wrong"))
    with pytest.raises(CtnrError, match=f"access denied, as {USER}") as caught:
        pull(registry)
    assert "wrong" not in str(caught.value)
    auth.save(registry.host, Login(USER, PASSWORD))
    assert pull(registry).blobs == place.blobs
    target = RegistryTarget(parse(f"{registry.host}/new:1"), PLAIN)
    copy(place, target)
    target.close()
    if kind == "token":
        # the token is asked for once for each scope, and is what is sent
        assert len(registry.asked("GET", "/token")) <= 6
        sent = {headers.get("Authorization", "") for _, path, headers in registry.requests if "/blobs/" in path}
        assert sent - {""} == {f"Bearer {TOKEN}"}


def test_an_identity_token(registry_of: MakeRegistry, nobodys_files: Path) -> None:
    registry = registry_of("token")
    place = filled(registry)
    (nobodys_files / "auth.json").write_text(json.dumps({"auths": {registry.host: {"identitytoken": REFRESH}}}))
    assert pull(registry).blobs == place.blobs
    assert len(registry.asked("POST", "/token")) == 1


def test_login_is_checked(registry_of: MakeRegistry) -> None:
    for kind in ("basic", "token"):
        registry = registry_of(kind)
        check_login(registry.host, Login(USER, PASSWORD), PLAIN)
        with pytest.raises(CtnrError, match="access denied"):
            check_login(registry.host, Login(USER, "no"), PLAIN)


# --- what breaks on the way


def test_a_connection_that_breaks_goes_on_from_there(registry_of: MakeRegistry) -> None:
    for knows_range in (True, False):
        registry = registry_of()
        registry.knows_range = knows_range
        place = filled(registry, layers=1)
        size = max(len(data) for data in place.blobs.values())
        registry.break_after = size // 2 + 1 if knows_range else size - 1
        if not knows_range:
            with pytest.raises(CtnrError, match="broke off"):
                pull(registry)
            continue
        assert pull(registry).blobs == place.blobs
        assert any("Range" in headers for _, _, headers in registry.asked("GET", "/blobs/"))


def test_what_passes_is_tried_again(registry_of: MakeRegistry) -> None:
    registry = registry_of()
    place = filled(registry)
    blob = next(iter(place.blobs))
    registry.fail_times = {"GET /v2/a/b/manifests/1": [503, 429], f"GET /v2/a/b/blobs/{blob}": [500, 502, 504]}
    assert pull(registry).blobs == place.blobs
    registry.fail_times = {"GET /v2/a/b/manifests/1": [503] * 9}
    with pytest.raises(CtnrError, match="TRY_LATER"):
        pull(registry)


def test_nobody_there(registry_of: MakeRegistry) -> None:
    registry = registry_of()
    registry.close()
    with pytest.raises(CtnrError, match=f"registry {registry.host}: cannot be reached: connection refused"):
        pull(registry)
    registry_of().thread.join(0)


def test_no_tls_where_tls_is_expected(registry_of: MakeRegistry) -> None:
    registry = registry_of()
    filled(registry)
    with pytest.raises(CtnrError, match=r"TLS failed.*--tls-verify=false"):
        pull(registry, options=Options())


def test_no_such_image_says_what_there_is(registry_of: MakeRegistry) -> None:
    registry = registry_of()
    registry.page = 2
    for tag in ("1", "2", "3", "x"):
        filled(registry, "a/b", tag)
    with pytest.raises(CtnrError, match="no such image: .*a/b:9; of it there is: 1, 2, 3, x"):
        pull(registry, "a/b:9")
    with pytest.raises(CtnrError, match="no such image: .*has no such repository"):
        pull(registry, "nothing:1")


# --- what a hostile one may try


def test_credentials_do_not_follow_a_redirect(registry_of: MakeRegistry) -> None:
    """Go's CVE-2018-... class, and containerd's CVE-2020-15157: another host is another host."""
    for kind in ("basic", "token"):
        registry, elsewhere = registry_of(kind), registry_of()
        place = filled(registry)
        elsewhere.blobs = dict(registry.blobs)
        registry.redirect_blobs = elsewhere.url
        auth.save(registry.host, Login(USER, PASSWORD))
        assert pull(registry).blobs == place.blobs
        assert len(elsewhere.requests) == len(place.blobs)
        for _, _, headers in elsewhere.requests:
            assert "Authorization" not in headers


def test_redirects_come_to_an_end(registry_of: MakeRegistry) -> None:
    registry = registry_of()
    place = filled(registry)
    for key, data in list(registry.blobs.items()):
        for n in range(10):
            registry.blobs[key[0], key[1] + "x" * n] = data
    registry.redirect_forever = True
    with pytest.raises(CtnrError, match="redirects; refused"):
        pull(registry)
    assert place.blobs


@pytest.mark.parametrize("realm", ["ftp://x/", "nothing", "http://"])
def test_a_place_to_log_in_that_is_none(registry_of: MakeRegistry, realm: str) -> None:
    registry = registry_of("token")
    registry.realm = realm
    filled(registry)
    with pytest.raises(CtnrError, match="names no place"):
        pull(registry)


def test_a_digest_that_is_not_kept(registry_of: MakeRegistry) -> None:
    registry = registry_of()
    place = filled(registry)
    registry.manifests["a/b", place.top] = (b"{}", "x/y")
    with pytest.raises(CtnrError, match="its content is"):
        pull(registry, f"a/b@{place.top}")


def test_a_manifest_that_is_called_an_index(registry_of: MakeRegistry) -> None:
    registry = registry_of()
    filled(registry)
    registry.content_type = "application/vnd.oci.image.index.v1+json"
    with pytest.raises(CtnrError, match="was said to be"):
        pull(registry)
    registry.content_type = "text/html"
    pull(registry)


@pytest.mark.parametrize("data", [b"", b"{}", b'{"tags": 1}', b"[]", b"\xff", b'{"tags": ["\\u001b[2J", "ok", 3]}'])
def test_a_list_of_tags_that_is_none(registry_of: MakeRegistry, data: bytes) -> None:
    registry = registry_of()
    filled(registry)
    registry.junk["/v2/a/b/tags/list"] = data
    with pytest.raises(CtnrError) as caught:
        pull(registry, "a/b:9")
    assert "no such image" in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_too_much_is_refused(registry_of: MakeRegistry) -> None:
    registry = registry_of()
    registry.junk["/v2/a/b/manifests/1"] = b" " * ((4 << 20) + 1)
    with pytest.raises(CtnrError, match="more than 4194304 bytes"):
        pull(registry)


def test_an_error_cannot_write_on_the_terminal(registry_of: MakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = registry_of()
    monkeypatch.setattr("fakeregistry._Handler.route", lambda self, path, query: self.refuse(400, "X", "a\x1b[31m\nb"))
    with pytest.raises(CtnrError) as caught:
        pull(registry)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            'realm="https://a",service="x y",scope="r:a:b,c"',
            {"realm": "https://a", "service": "x y", "scope": "r:a:b,c"},
        ),
        ('realm="a\\"b"', {"realm": 'a"b'}),
        ("realm=a, service=b", {"realm": "a", "service": "b"}),
        ('realm="open', {"realm": "open"}),
        ("", {}),
        (",,,", {}),
        ("x", {}),
    ],
)
def test_challenges(text: str, found: dict[str, str]) -> None:
    assert _parameters(text) == found


# --- credentials on disk


def test_what_is_kept_is_ours_alone(nobodys_files: Path) -> None:
    path = auth.save("example.org", Login(USER, PASSWORD))
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    auth.save("other.org", Login("x", "y"))
    found = auth.find("example.org", "a/b")
    assert found is not None and (found.user, found.password) == (USER, PASSWORD)
    assert PASSWORD not in repr(found)
    assert auth.forget("example.org")
    assert not auth.forget("example.org")
    assert auth.find("example.org") is None
    assert auth.find("other.org") is not None


@pytest.mark.parametrize(
    ("key", "registry", "repository"),
    [
        ("example.org", "example.org", "a"),
        ("https://example.org", "example.org", "a"),
        ("https://example.org/v1/", "example.org", "a"),
        ("https://index.docker.io/v1/", "docker.io", "library/a"),
        ("docker.io", "docker.io", "library/a"),
        ("example.org/a", "example.org", "a/b"),
    ],
)
def test_the_names_of_others_files(nobodys_files: Path, key: str, registry: str, repository: str) -> None:
    text = base64.b64encode(b"me:pw").decode()
    docker = nobodys_files / ".docker/config.json"
    docker.parent.mkdir()
    docker.write_text(json.dumps({"auths": {key: {"auth": text}}}))
    found = auth.find(registry, repository)
    assert found is not None and found.user == "me"
    assert auth.find("else.where", "a") is None


def test_the_most_specific_wins(nobodys_files: Path) -> None:
    texts = {key: {"auth": base64.b64encode(f"{key}:p".encode()).decode()} for key in ("e.org", "e.org/a", "e.org/a/b")}
    (nobodys_files / "auth.json").write_text(json.dumps({"auths": texts}))
    for repository, user in (("a/b/c", "e.org/a/b"), ("a/x", "e.org/a"), ("x", "e.org"), ("ab", "e.org")):
        found = auth.find("e.org", repository)
        assert found is not None and found.user == user


@pytest.mark.parametrize("text", ["{", "[]", '{"auths": {"e.org": {"auth": "%%%"}}}'])
def test_damaged_files_are_said(nobodys_files: Path, text: str) -> None:
    (nobodys_files / "auth.json").write_text(text)
    with pytest.raises(CtnrError) as caught:
        auth.find("e.org")
    assert "\n" not in str(caught.value)


HELPER = """#!/bin/sh
read -r key
case "$1 $key" in
"get e.org") echo '{"Username": "me", "Secret": "pw"}' ;;
"get t.org") echo '{"Username": "<token>", "Secret": "tk"}' ;;
"get broken.org") echo no; exit 0 ;;
"get fails.org") exit 3 ;;
*) echo "credentials not found in native keychain"; exit 1 ;;
esac
"""


def test_credential_helpers(nobodys_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = nobodys_files / "bin/docker-credential-x"
    program.parent.mkdir()
    program.write_text(HELPER)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    document = {"credsStore": "x", "credHelpers": {"gone.org": "missing", "evil.org": "../../bin/sh"}}
    (nobodys_files / "auth.json").write_text(json.dumps(document))
    found = auth.find("e.org")
    assert found is not None and (found.user, found.password) == ("me", "pw")
    found = auth.find("t.org")
    assert found is not None and found.token == "tk"
    assert auth.find("nobody.org") is None
    for registry, why in (
        ("broken.org", "gave no credentials"),
        ("fails.org", "exit status 3"),
        ("gone.org", "not installed"),
        ("evil.org", "not the name of a credential helper"),
    ):
        with pytest.raises(CtnrError, match=why):
            auth.find(registry)


# --- mirrors and settings


def test_mirrors_first_then_the_registry(registry_of: MakeRegistry, nobodys_files: Path) -> None:
    registry, mirror = registry_of(), registry_of()
    place = filled(registry)
    (nobodys_files / "registries.conf").write_text(
        f'[[registry]]\nlocation = "{registry.host}"\ninsecure = true\n'
        f'[[registry.mirror]]\nlocation = "{mirror.host}/proxy"\ninsecure = true\n'
    )
    assert pull(registry, options=Options()).blobs == place.blobs
    assert mirror.asked("GET", "/v2/proxy/a/b/manifests/1")
    mirror.add("proxy/a/b", "1", place)
    before = len(registry.requests)
    assert pull(registry, options=Options()).blobs == place.blobs
    assert len(registry.requests) == before
    # pushed is to the registry itself
    target = RegistryTarget(parse(f"{registry.host}/a/new:1"), Options())
    copy(place, target)
    target.close()
    assert ("a/new", "1") in registry.manifests
    # a mirror that has lost a blob
    mirror.blobs.popitem()
    assert pull(registry, options=Options()).blobs == place.blobs


def test_our_own_settings(nobodys_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    config = nobodys_files / ".config/ctnr/ctnr.toml"
    config.parent.mkdir(parents=True)
    config.write_text(
        '[registries."example.org"]\nmirrors = ["m.org:5000"]\n[registries."example.org/bad"]\nblocked = true\n'
        '[registries."plain.org:80"]\ninsecure = true\n'
    )
    found = registries.endpoints(parse("example.org/a/b:1"))
    assert [(e.host, e.repository, e.insecure) for e in found] == [
        ("m.org:5000", "a/b", False),
        ("example.org", "a/b", False),
    ]
    assert registries.endpoints(parse("plain.org:80/x"))[0].insecure
    assert not registries.endpoints(parse("else.org/x"))[0].insecure
    with pytest.raises(CtnrError, match="is blocked"):
        registries.endpoints(parse("example.org/bad/x"))
    for text, why in (
        ("registries = 1", "must be a table"),
        ('[registries."a"]\nmirror = []', '"a".mirror is not known'),
        ('[registries."a"]\ninsecure = "no"', "must be true or false"),
        ("[", "ctnr.toml"),
    ):
        config.write_text(text)
        with pytest.raises(CtnrError, match=why):
            registries.endpoints(parse("a/b"))
