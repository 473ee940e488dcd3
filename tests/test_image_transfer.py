# SPDX-License-Identifier: Apache-2.0
"""copy(): everything is compared with its digest and size, what names something comes after it, one failure stops all."""

from __future__ import annotations

import io
import json
import threading
from typing import Any

import pytest
from imageplaces import Memory, image, index

from ctnr.errors import CtnrError
from ctnr.image.transfer import Reader, Verified, copy, digest_of
from ctnr.spec import image as spec
from ctnr.spec.image import Descriptor

AMD64 = spec.parse_platform("linux/amd64")


def test_an_image() -> None:
    here, there = Memory(), Memory()
    wanted = image(here, "a")
    assert copy(here, there) == wanted
    assert (there.blobs, there.manifests, there.top) == (here.blobs, here.manifests, here.top)
    assert there.order[-1] == wanted["digest"]


def test_what_is_there_is_not_copied_again() -> None:
    here, there = Memory(), Memory()
    image(here, "a")
    copy(here, there)
    there.order.clear()
    copy(here, there)
    assert there.order == [here.top]


def test_one_of_an_index() -> None:
    here, there = Memory(), Memory()
    arm, amd = image(here, "arm", "linux/arm64"), image(here, "amd", "linux/amd64")
    index(here, arm, amd)
    found = copy(here, there, platform=AMD64)
    assert found["digest"] == amd["digest"] == there.top
    assert set(there.manifests) == {amd["digest"]}


def test_all_of_an_index_below_what_names_it() -> None:
    here, there = Memory(), Memory()
    inner = index(here, image(here, "arm", "linux/arm64"))
    top = index(here, image(here, "amd", "linux/amd64"), inner)
    assert copy(here, there, all_platforms=True) == top
    assert there.manifests == here.manifests
    assert there.blobs == here.blobs
    for parent, child in ((top, inner),):
        assert there.order.index(child["digest"]) < there.order.index(parent["digest"])


def test_an_index_in_itself_comes_to_an_end() -> None:
    here = Memory()
    entry = image(here, "x", "linux/arm64")
    for _ in range(8):
        entry = {**index(here, entry), "platform": {"os": "linux", "architecture": "amd64"}}
    for every in (True, False):
        with pytest.raises(CtnrError, match="indexes within indexes"):
            copy(here, Memory(), platform=AMD64, all_platforms=every)


@pytest.mark.parametrize("kind", ["layer", "config", "manifest"])
@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "its content is"),
        (lambda data: data[:-1], "ends after|its content is"),
        (lambda data: data + b"x", "more than|its content is"),
        (lambda data: b"", "ends after|its content is"),
    ],
    ids=["other", "short", "long", "empty"],
)
def test_what_is_not_what_it_is_said_to_be(kind: str, change: Any, why: str) -> None:
    here, there = Memory(), Memory()
    entry = image(here, "a", "linux/amd64", layers=1)
    index(here, entry)
    manifest = json.loads(here.manifests[entry["digest"]][0])
    digest = {
        "layer": manifest["layers"][0]["digest"],
        "config": manifest["config"]["digest"],
        "manifest": entry["digest"],
    }[kind]
    data = here.manifests[digest][0] if kind == "manifest" else here.blobs[digest]
    here.lies[digest] = change(data)
    with pytest.raises(CtnrError, match=why) as caught:
        copy(here, there, platform=AMD64)
    assert digest in str(caught.value)
    assert there.manifests == {}
    assert digest not in there.blobs


def test_a_blob_that_is_not_there_fails_the_whole() -> None:
    here, there = Memory(), Memory()
    image(here, "a", layers=9)
    gone = json.loads(here.manifests[here.top][0])["layers"][4]["digest"]
    del here.blobs[gone]
    with pytest.raises(CtnrError, match=f"no blob {gone}"):
        copy(here, there, parallel=2)
    assert there.manifests == {}


def test_the_check_comes_before_any_blob() -> None:
    here, there = Memory(), Memory()
    index(here, image(here, "a", "linux/amd64"))
    asked = []

    def check(data: bytes, descriptor: Descriptor) -> None:
        asked.append(descriptor["mediaType"])
        assert digest_of(data) == descriptor["digest"]
        if len(asked) == 2:
            raise CtnrError("not trusted")

    with pytest.raises(CtnrError, match="not trusted"):
        copy(here, there, platform=AMD64, check=check)
    assert asked == [spec.OCI_INDEX, spec.OCI_MANIFEST]
    assert there.order == []


def test_progress_tells_every_byte() -> None:
    here, there = Memory(), Memory()
    image(here, "a")
    lock = threading.Lock()
    seen: dict[str, list[Any]] = {}

    class Bar:
        def __init__(self, row: list[Any]) -> None:
            self.row = row

        def update(self, count: int) -> None:
            self.row[1] += count

        def done(self, note: str) -> None:
            self.row.append(note)

    def progress(digest: str, kind: str, size: int) -> Bar:
        with lock:
            return Bar(seen.setdefault(digest, [size, 0]))

    copy(here, there, progress=progress)
    assert len(seen) == 4
    assert all(row == [row[0], row[0], "done"] for row in seen.values())


def test_a_target_that_takes_only_a_part_is_found_out() -> None:
    class Lazy(Memory):
        def put_blob(self, descriptor: Descriptor, reader: Reader) -> None:
            reader.read(1)

    here = Memory()
    image(here, "a")
    with pytest.raises(CtnrError, match="took only a part"):
        copy(here, Lazy())


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_verified_reads_what_it_should(size: int) -> None:
    data = bytes(range(256)) * 40
    reader = Verified(io.BytesIO(data), {"digest": digest_of(data), "size": len(data)})
    found = b""
    while part := reader.read(size):
        found += part
    assert found == data
    assert reader.finished
    assert reader.read(size) == b""
