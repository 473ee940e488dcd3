# SPDX-License-Identifier: Apache-2.0
"""Manifests, indexes and configurations: what is taken, what is refused and where it says so, which image is chosen."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctnr.errors import CtnrError, SpecError
from ctnr.spec import image as spec

DIGEST = "sha256:" + "ab" * 32
CONFIG = {"mediaType": spec.OCI_CONFIG, "digest": DIGEST, "size": 2}
LAYER = {"mediaType": spec.OCI_LAYER + "+gzip", "digest": DIGEST, "size": 3}
MANIFEST: dict[str, Any] = {"schemaVersion": 2, "mediaType": spec.OCI_MANIFEST, "config": CONFIG, "layers": [LAYER]}
INDEX: dict[str, Any] = {"schemaVersion": 2, "mediaType": spec.OCI_INDEX, "manifests": []}


def text(document: object) -> bytes:
    return json.dumps(document).encode()


def test_an_image_is_read_as_it_is() -> None:
    found = spec.parse_manifest(text(MANIFEST), spec.OCI_MANIFEST)
    assert found == MANIFEST
    assert not spec.is_index(found)
    assert spec.media_type_of(found) == spec.OCI_MANIFEST
    spec.check_image(found)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("document", "said", "path", "why"),
    [
        ({**MANIFEST, "manifests": []}, None, "", "both a manifest and an index"),
        ({"schemaVersion": 2, "manifests": [], "layers": []}, None, "", "both a manifest and an index"),
        ({"schemaVersion": 2, "manifests": [], "config": CONFIG}, None, "", "both a manifest and an index"),
        ({"schemaVersion": 2}, None, "", "neither"),
        ({"schemaVersion": 1, "fsLayers": []}, None, "schemaVersion", "schema 1"),
        (MANIFEST, spec.DOCKER_V1 + "+prettyjws", "schemaVersion", "schema 1"),
        (MANIFEST, spec.OCI_INDEX, "mediaType", "was said to be"),
        (INDEX, spec.OCI_MANIFEST, "mediaType", "was said to be"),
        (MANIFEST, spec.DOCKER_MANIFEST, "mediaType", "says of itself"),
        ({**MANIFEST, "mediaType": spec.OCI_INDEX}, None, "mediaType", "not that of a manifest"),
        ({**INDEX, "mediaType": spec.OCI_MANIFEST}, None, "mediaType", "not that of an index"),
        ({**MANIFEST, "config": {**CONFIG, "digest": "sha256:../../x"}}, None, "config.digest", "not a digest"),
        ({**MANIFEST, "layers": [{**LAYER, "digest": "md5:00"}]}, None, "layers[0].digest", "not a digest"),
        ({**MANIFEST, "layers": [{**LAYER, "size": -1}]}, None, "layers[0].size", "must be from 0"),
        ({**MANIFEST, "layers": [{**LAYER, "size": 1 << 70}]}, None, "layers[0].size", "must be from 0"),
        ({**MANIFEST, "layers": [LAYER, {"digest": DIGEST}]}, None, "layers[1].size", "is required"),
        ({**INDEX, "manifests": [{**LAYER, "digest": DIGEST.upper()}]}, None, "manifests[0].digest", "not a digest"),
        ({**MANIFEST, "subject": {**CONFIG, "digest": "x"}}, None, "subject.digest", "not a digest"),
        ([], None, "", "not a JSON object"),
    ],
)
def test_what_is_refused(document: object, said: str | None, path: str, why: str) -> None:
    with pytest.raises(SpecError) as caught:
        spec.parse_manifest(text(document), said)
    assert caught.value.path == path
    assert why in str(caught.value)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b'{"schemaVersion": 2, "layers": [], "layers": []}', "is there twice"),
        (b'{"config": {"a": 1, "a": 2}}', "is there twice"),
        (b"{", "not JSON"),
        (b'{"a": NaN}', "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b" " * (spec.MANIFEST_LIMIT + 1), "are not read"),
    ],
)
def test_what_is_no_document(data: bytes, why: str) -> None:
    with pytest.raises(SpecError, match=why):
        spec.parse_manifest(data)


@pytest.mark.parametrize(
    "digest",
    [
        "",
        ":",
        "sha256:",
        "sha256:" + "a" * 63,
        "sha256:" + "a" * 65,
        "sha256:" + "A" * 64,
        "sha256:" + "a" * 63 + "/",
        "sha512:" + "a" * 64,
        "SHA256:" + "a" * 64,
        "sha256:../" + "a" * 61,
        "a" * 64,
        "sha256:" + "a" * 63 + "\n",
        "sha256:" + "\u0661" * 64,
    ],
)
def test_digests_that_are_none(digest: str) -> None:
    with pytest.raises(SpecError):
        spec.check_digest(digest)


def test_digests() -> None:
    assert spec.check_digest(DIGEST) == DIGEST
    assert spec.check_digest("sha512:" + "0f" * 64)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_no_document_is_a_traceback(document: object) -> None:
    for parse in (spec.parse_manifest, spec.parse_config):
        try:
            parse(text(document))
        except CtnrError as error:
            assert "\n" not in str(error)


def test_an_artifact_is_no_image() -> None:
    for change in ({"artifactType": "text/x"}, {"config": {**CONFIG, "mediaType": spec.OCI_EMPTY}}):
        found: Any = spec.parse_manifest(text({**MANIFEST, **change}))
        with pytest.raises(SpecError, match="not an image"):
            spec.check_image(found)
    found = spec.parse_manifest(text({**MANIFEST, "layers": [{**LAYER, "mediaType": "text/plain"}]}))
    with pytest.raises(SpecError, match=r"layers\[0\].mediaType: unknown kind of layer"):
        spec.check_image(found)


# --- configurations


def config_of(**config: object) -> bytes:
    return text(
        {"architecture": "amd64", "os": "linux", "config": config, "rootfs": {"type": "layers", "diff_ids": [DIGEST]}}
    )


def test_a_configuration() -> None:
    found = spec.parse_config(config_of(Env=["A=b", "C="], Cmd=["sh"], Volumes={"/data": {}}, Entrypoint=None))
    assert found["config"] == {"Env": ["A=b", "C="], "Cmd": ["sh"], "Volumes": {"/data": {}}}


@pytest.mark.parametrize("entry", ["SECRET", "", "=x"])
def test_a_variable_without_a_value_would_be_the_hosts(entry: str) -> None:
    with pytest.raises(SpecError, match=r"config.Env\[0\]"):
        spec.parse_config(config_of(Env=[entry]))


def test_layers_are_counted() -> None:
    manifest: Any = {**MANIFEST, "layers": [LAYER, LAYER]}
    with pytest.raises(SpecError, match="names 1 layers, the manifest has 2"):
        spec.check_layers(manifest, spec.parse_config(config_of()))


def test_chain_ids_are_those_of_the_specification() -> None:
    """config.md#layer-chainid: ChainID(L0|...|Ln) = Digest(ChainID(L0|...|Ln-1) + " " + DiffID(Ln))."""
    import hashlib

    a, b, c = ("sha256:" + letter * 64 for letter in "abc")
    ab = "sha256:" + hashlib.sha256(f"{a} {b}".encode()).hexdigest()
    assert spec.chain_ids([a, b, c]) == [a, ab, "sha256:" + hashlib.sha256(f"{ab} {c}".encode()).hexdigest()]


# --- platforms


def entry(platform: str | None, **more: Any) -> dict[str, Any]:
    found = {"mediaType": spec.OCI_MANIFEST, "digest": DIGEST, "size": 1, **more}
    if platform:
        os, architecture, *variant = platform.split("/")
        found["platform"] = {"os": os, "architecture": architecture, **({"variant": variant[0]} if variant else {})}
    return found


@pytest.mark.parametrize(
    ("wanted", "there", "chosen"),
    [
        ("linux/amd64", ["linux/arm64", "linux/amd64"], 1),
        ("amd64", ["windows/amd64", "linux/amd64"], 1),
        ("x86_64", ["linux/amd64"], 0),
        ("linux/arm64", ["linux/arm/v7", "linux/arm64/v8"], 1),
        ("linux/arm64/v8", ["linux/arm64"], 0),
        ("linux/arm/v7", ["linux/arm/v5", "linux/arm/v6"], 1),
        ("linux/arm/v7", ["linux/arm/v5", "linux/arm/v7", "linux/arm/v6"], 1),
        ("linux/arm/v6", ["linux/arm/v7", "linux/arm/v5"], 1),
        ("linux/arm", ["linux/arm/v6", "linux/arm/v7"], 1),
        ("linux/arm", ["linux/arm/v6", "linux/arm"], 1),
        ("linux/amd64", ["linux/amd64/v3", "linux/amd64"], 1),
        ("linux/amd64", [None], 0),
    ],
)
def test_which_is_chosen(wanted: str, there: list[str | None], chosen: int) -> None:
    index: Any = {**INDEX, "manifests": [entry(platform) for platform in there]}
    found = spec.select_platform(index, spec.parse_platform(wanted))
    assert found is index["manifests"][chosen]


@pytest.mark.parametrize(
    "there",
    [
        [],
        [entry("linux/arm64")],
        [entry("linux/arm/v7")],
        [entry("unknown/unknown")],
        [entry("linux/amd64", artifactType="a/b")],
        [entry("linux/amd64", annotations={"vnd.docker.reference.type": "attestation-manifest"})],
        [entry("linux/amd64", mediaType="text/plain")],
        [entry(None), entry(None)],
        [entry("linux/amd64/v3")],
    ],
)
def test_nothing_to_choose(there: list[dict[str, Any]]) -> None:
    index: Any = {**INDEX, "manifests": there}
    if there == [entry("linux/amd64/v3")]:
        # a variant is better than nothing where none was asked for: the kernel will tell
        assert spec.select_platform(index, spec.parse_platform("linux/amd64"))
        return
    with pytest.raises(SpecError, match="no image for linux/amd64; there is: "):
        spec.select_platform(index, spec.parse_platform("linux/amd64"))


@pytest.mark.parametrize("word", ["", "/", "linux/", "/amd64", "a/b/c/d", "linux//v7"])
def test_platforms_that_are_none(word: str) -> None:
    with pytest.raises(SpecError):
        spec.parse_platform(word)
