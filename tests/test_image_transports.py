# SPDX-License-Identifier: Apache-2.0
"""oci:, oci-archive:, docker-archive:, dir: - there and back again, and what is in them that should not be."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from imageplaces import Memory, image, index

from ctnr.errors import CtnrError
from ctnr.image.members import Members
from ctnr.image.reference import parse
from ctnr.image.transfer import copy, digest_of
from ctnr.image.transports.dir import DirSource, DirTarget
from ctnr.image.transports.docker_archive import DockerArchiveSource, DockerArchiveTarget, names
from ctnr.image.transports.oci import ArchiveSource, ArchiveTarget, LayoutSource, LayoutTarget, split
from ctnr.spec import image as spec

Pair = tuple[Callable[[str], Any], Callable[[str], Any]]
PAIRS: dict[str, Pair] = {
    "oci": (lambda path: LayoutTarget(path, "a"), lambda path: LayoutSource(path, "a")),
    "oci-archive": (lambda path: ArchiveTarget(path, "a"), lambda path: ArchiveSource(path, "a")),
    "dir": (DirTarget, DirSource),
}


def layer(*files: str) -> bytes:
    """A layer with those files in it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in files:
            member = tarfile.TarInfo(name)
            member.size = len(name)
            tar.addfile(member, io.BytesIO(name.encode()))
    return out.getvalue()


def real(place: Memory, *layers: tuple[bytes, str]) -> spec.Descriptor:
    """An image whose layers are tars, compressed as each says."""
    described, ids = [], []
    for data, compression in layers:
        ids.append(digest_of(data))
        packed = gzip.compress(data, mtime=0) if compression else data
        described.append(place.add_blob(packed, spec.OCI_LAYER + compression))
    document = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": ids}}
    config = place.add_blob(json.dumps(document).encode(), spec.OCI_CONFIG)
    manifest = {"schemaVersion": 2, "mediaType": spec.OCI_MANIFEST, "config": config, "layers": described}
    return place.add_manifest(manifest)


@pytest.mark.parametrize("kind", PAIRS)
def test_there_and_back(kind: str, tmp_path: Path) -> None:
    target, source = PAIRS[kind]
    here, back = Memory(), Memory()
    wanted = image(here, "x", layers=3)
    there = target(str(tmp_path / "there"))
    assert copy(here, there) == wanted
    there.close()
    found = source(str(tmp_path / "there"))
    assert copy(found, back) == wanted
    found.close()
    assert (back.blobs, back.manifests) == (here.blobs, here.manifests)
    assert [p.name for p in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize("kind", PAIRS)
def test_an_index_with_all_of_it(kind: str, tmp_path: Path) -> None:
    target, source = PAIRS[kind]
    here, back = Memory(), Memory()
    wanted = index(here, image(here, "x", "linux/amd64"), image(here, "y", "linux/arm64"))
    there = target(str(tmp_path / "there"))
    copy(here, there, all_platforms=True)
    there.close()
    found = source(str(tmp_path / "there"))
    assert copy(found, back, all_platforms=True) == wanted
    found.close()
    assert (back.blobs, back.manifests) == (here.blobs, here.manifests)


@pytest.mark.parametrize("kind", [*PAIRS, "docker-archive"])
def test_a_failure_leaves_no_file_that_looks_whole(kind: str, tmp_path: Path) -> None:
    here = Memory()
    real(here, (layer("a"), ""), (layer("b"), ""))
    digest = json.loads(here.manifests[here.top][0])["layers"][1]["digest"]
    here.lies[digest] = b"something else"
    path = str(tmp_path / "there")
    make = PAIRS[kind][0] if kind in PAIRS else lambda path: DockerArchiveTarget(path, [parse("a:1")])
    there = make(path)
    with pytest.raises(CtnrError):
        copy(here, there)
    there.close()
    if kind.endswith("archive"):
        assert list(tmp_path.iterdir()) == []
    else:
        with pytest.raises(CtnrError):
            PAIRS[kind][1](path)
        assert not [p for p in tmp_path.rglob("*") if digest[7:] in p.name or "new" in p.name]


def test_a_layout_keeps_its_other_images(tmp_path: Path) -> None:
    path = str(tmp_path / "layout")
    for name in ("one", "two"):
        here = Memory()
        image(here, name)
        copy(here, LayoutTarget(path, name))
    for name in ("one", "two"):
        copy(LayoutSource(path, name), Memory())
    with pytest.raises(CtnrError, match="2 images are in it: add :TAG; there is one, two"):
        LayoutSource(path, "")
    with pytest.raises(CtnrError, match="no image with the tag three; there is one, two"):
        LayoutSource(path, "three")
    here = Memory()
    image(here, "new")
    copy(here, LayoutTarget(path, "one"))
    assert len(json.loads((tmp_path / "layout/index.json").read_text())["manifests"]) == 2


def test_where_there_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with tarfile.open(tmp_path / "tar", "w"):
        pass
    for make in (
        lambda: LayoutSource(str(tmp_path), ""),
        lambda: DirSource(str(tmp_path)),
        lambda: LayoutTarget(str(tmp_path), "x"),
        lambda: DirTarget(str(tmp_path)),
        lambda: ArchiveSource(str(tmp_path / "nowhere"), ""),
        lambda: ArchiveSource(str(tmp_path / "file"), ""),
        lambda: ArchiveSource(str(tmp_path / "tar"), ""),
        lambda: ArchiveTarget(str(tmp_path / "file"), ""),
        lambda: DockerArchiveSource(str(tmp_path / "tar")),
        lambda: DockerArchiveSource(str(tmp_path)),
    ):
        with pytest.raises(CtnrError) as caught:
            make()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("rest", "found"), [("a", ("a", "")), ("/a/b:c", ("/a/b", "c")), ("a:b:c", ("a", "b:c"))])
def test_path_and_tag(rest: str, found: tuple[str, str]) -> None:
    assert split(rest) == found


# --- docker's archives


def test_docker_archives_there_and_back(tmp_path: Path) -> None:
    """Layers come back uncompressed, so the digest is another; the configuration is the same."""
    here, back, again = Memory(), Memory(), Memory()
    real(here, (layer("a"), "+gzip"), (layer("b"), ""), (layer("a"), ""))
    path = tmp_path / "saved.tar"
    there = DockerArchiveTarget(str(path), [parse("x:1"), parse("localhost:5000/y:2")])
    copy(here, there)
    there.close()
    with tarfile.open(path) as tar:
        files = tar.getnames()
        [row] = json.loads(tar.extractfile("manifest.json").read())  # type: ignore[union-attr]
        for name in row["Layers"]:
            assert hashlib.sha256(tar.extractfile(name).read()).hexdigest() + ".tar" == name  # type: ignore[union-attr]
    assert len(files) == 4  # the same layer is in it once
    assert row["RepoTags"] == ["x:1", "localhost:5000/y:2"]
    assert names(str(path)) == [row["RepoTags"]]
    for name in ("", "x:1", "docker.io/library/x:1", "localhost:5000/y:2"):
        source = DockerArchiveSource(str(path), name)
        copy(source, back)
        source.close()
    config = json.loads(here.manifests[here.top][0])["config"]["digest"]
    assert back.blobs[config] == here.blobs[config]
    with pytest.raises(CtnrError, match="there is x:1, localhost:5000/y:2"):
        DockerArchiveSource(str(path), "x:2")
    # what is compressed as a whole is read, too
    packed = tmp_path / "saved.tar.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    source = DockerArchiveSource(str(packed))
    copy(source, again)
    source.close()
    assert again.blobs == back.blobs


def archive(path: Path, files: dict[str, bytes | str]) -> str:
    """An archive by hand; a str is where a symlink leads."""
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            if isinstance(data, str):
                member.type, member.linkname = tarfile.SYMTYPE, data
                tar.addfile(member)
            else:
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return str(path)


def saved(**changes: Any) -> dict[str, bytes | str]:
    one = layer("a")
    config = {"os": "linux", "rootfs": {"type": "layers", "diff_ids": [digest_of(one)]}}
    row = {"Config": "c.json", "RepoTags": ["x:1"], "Layers": ["l/layer.tar"]}
    files: dict[str, bytes | str] = {"l/layer.tar": one, "c.json": json.dumps(config).encode()}
    files["manifest.json"] = json.dumps([{**row, **changes}]).encode()
    return files


def test_old_dockers_links_to_layers(tmp_path: Path) -> None:
    files = saved(Layers=["m/layer.tar"])
    files["m/layer.tar"] = "../l/layer.tar"
    source = DockerArchiveSource(archive(tmp_path / "a.tar", files))
    copy(source, Memory())
    source.close()


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"manifest.json": b"{"}, "damaged"),
        ({"manifest.json": b"{}"}, "no array"),
        ({"manifest.json": b"[1]"}, "no array"),
        ({"manifest.json": b'[{"Layers": [1]}]'}, "must name"),
        ({"manifest.json": b"[]"}, "0 images"),
        (saved(Config="nowhere"), "no file nowhere"),
        (saved(Config="../../etc/passwd"), "no file"),
        (saved(Layers=["/etc/passwd"]), "no file"),
        (saved(Layers=[]), "names 1 layers, the archive has 0"),
        ({**saved(), "c.json": b"[]"}, "not a JSON object"),
        ({**saved(), "l/layer.tar": b"other"}, "its content is"),
        ({**saved(), "l/layer.tar": "../../../etc/passwd"}, "no file"),
        ({**saved(), "l/layer.tar": "layer.tar"}, "no file"),
        ({**saved(), "manifest.json": b" " * (spec.MANIFEST_LIMIT + 1)}, "refused"),
    ],
)
def test_hostile_docker_archives(files: dict[str, bytes | str], why: str, tmp_path: Path) -> None:
    with pytest.raises(CtnrError, match=why):
        source = DockerArchiveSource(archive(tmp_path / "a.tar", files))
        try:
            copy(source, Memory())
        finally:
            source.close()


@pytest.mark.parametrize(
    ("index_text", "why"),
    [
        (b"{", "damaged"),
        (b"[]", "no index"),
        (b'{"manifests": [{"digest": "sha256:../../../etc/passwd", "size": 1}]}', "not a digest"),
        (json.dumps({"manifests": [{"digest": "sha256:" + "0" * 64, "size": 1}]}).encode(), "no file"),
    ],
)
def test_hostile_oci_archives(index_text: bytes, why: str, tmp_path: Path) -> None:
    with pytest.raises(CtnrError, match=why):
        source = ArchiveSource(archive(tmp_path / "a.tar", {"index.json": index_text}), "")
        try:
            copy(source, Memory())
        finally:
            source.close()


def test_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive, and a layer on its way into one, that unpack to more than they should."""
    monkeypatch.setattr("ctnr.image.compression.RATIO_FLOOR", 1 << 20)
    zeros = archive(tmp_path / "a.tar", {"a": bytes(8 << 20)})
    packed = tmp_path / "a.tar.gz"
    packed.write_bytes(gzip.compress(Path(zeros).read_bytes()))
    with pytest.raises(CtnrError, match="like a bomb"):
        Members(str(packed))
    here = Memory()
    real(here, (bytes(8 << 20), "+gzip"))
    there = DockerArchiveTarget(str(tmp_path / "b.tar"), [parse("a:1")])
    with pytest.raises(CtnrError, match="like a bomb"):
        copy(here, there)
    there.close()
    assert not (tmp_path / "b.tar").exists()


def test_members(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar", {"./a": b"x" * 1000, "b": b"", "c": "a", "d": "c", "e": "e"})
    members = Members(path)
    assert members.read("a", 2000) == b"x" * 1000
    assert members.read("d", 2000) == b"x" * 1000
    assert members.size("b") == 0
    for name in ("e", "f"):
        with pytest.raises(CtnrError):
            members.open(name)
    members.close()
