# SPDX-License-Identifier: Apache-2.0
"""Names of images, as docker reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctnr.errors import CtnrError
from ctnr.image.reference import Reference, parse, split_transport

DIGEST = "sha256:" + "0a" * 32


@pytest.mark.parametrize(
    ("text", "whole", "familiar"),
    [
        ("alpine", "docker.io/library/alpine", "alpine"),
        ("alpine:3.20", "docker.io/library/alpine:3.20", "alpine:3.20"),
        ("user/app", "docker.io/user/app", "user/app"),
        ("docker.io/alpine", "docker.io/library/alpine", "alpine"),
        ("index.docker.io/user/app:1", "docker.io/user/app:1", "user/app:1"),
        ("localhost/app", "localhost/app", "localhost/app"),
        ("localhost:5000/app:1", "localhost:5000/app:1", "localhost:5000/app:1"),
        ("127.0.0.1:5000/a/b/c:x", "127.0.0.1:5000/a/b/c:x", "127.0.0.1:5000/a/b/c:x"),
        ("[::1]:5000/a", "[::1]:5000/a", "[::1]:5000/a"),
        ("example.org/a", "example.org/a", "example.org/a"),
        ("EXAMPLE/a", "EXAMPLE/a", "EXAMPLE/a"),
        (f"alpine@{DIGEST}", f"docker.io/library/alpine@{DIGEST}", f"alpine@{DIGEST}"),
        (f"a.b/c:1@{DIGEST}", f"a.b/c:1@{DIGEST}", f"a.b/c:1@{DIGEST}"),
        ("a__b/c--d.e_f", "docker.io/a__b/c--d.e_f", "a__b/c--d.e_f"),
    ],
)
def test_names(text: str, whole: str, familiar: str) -> None:
    found = parse(text)
    assert str(found) == whole
    assert found.familiar() == familiar
    assert parse(str(found)) == found
    assert parse(familiar) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "@",
        "/",
        "a/",
        "/a",
        "a//b",
        "Alpine",
        "localhost/App",
        "a:",
        "a:b:c",
        "a:-x",
        "a:" + "x" * 129,
        "a@sha256:short",
        "a..b",
        "a___b",
        "_a",
        "a_",
        "a.",
        "../../etc/passwd",
        "localhost/../x",
        "a b",
        "a\n",
        "host:0/a",
        "host:99999/a",
        "host:port/a",
        "-host.x/a",
        "x" * 256,
        "0a" * 32,
        "é/a",
        "http://host/a",
    ],
)
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(CtnrError) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=40))
def test_a_name_that_is_taken_is_safe_in_a_path(text: str) -> None:
    try:
        found = parse(text)
    except CtnrError:
        return
    assert parse(str(found)) == found
    for part in (*found.repository.split("/"), found.tag or "x"):
        assert part not in ("", ".", "..") and "/" not in part and "\0" not in part
    assert found.repository.isascii()


def test_the_tag_that_is_meant() -> None:
    assert parse("a").tagged() == Reference("docker.io", "library/a", "latest")
    assert parse("a:1").tagged().tag == "1"
    assert parse(f"a@{DIGEST}").tagged().tag == ""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("docker://alpine:3", ("docker", "alpine:3")),
        ("oci:/a/b:tag", ("oci", "/a/b:tag")),
        ("oci-archive:a.tar", ("oci-archive", "a.tar")),
        ("docker-archive:a.tar:x:1", ("docker-archive", "a.tar:x:1")),
        ("dir:/x", ("dir", "/x")),
        ("alpine:3", ("", "alpine:3")),
        ("localhost:5000/a", ("", "localhost:5000/a")),
        ("./a.tar", ("", "./a.tar")),
        ("https://h/a.tar", ("https", "https://h/a.tar")),
    ],
)
def test_transports(text: str, found: tuple[str, str]) -> None:
    assert split_transport(text) == found


@pytest.mark.parametrize("text", ["docker:alpine", "docker://", "oci:", "foo://bar", "docker-daemon:x:1", "ostree:x"])
def test_transports_that_are_none(text: str) -> None:
    with pytest.raises(CtnrError):
        split_transport(text)
