# SPDX-License-Identifier: Apache-2.0
"""The store: names, ids, what collecting keeps, what fsck finds, and that nobody's death or haste spoils it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from imageplaces import Memory, config_of, image

from ctnr.errors import CtnrError
from ctnr.image.gc import collect, fsck, gc
from ctnr.image.reference import parse
from ctnr.image.store import Store, StoreSource, StoreTarget, escape, unescape
from ctnr.image.transfer import copy
from ctnr.spec.image import Descriptor


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def put(store: Store, name: str, content: str | None = None, layers: int = 2) -> Descriptor:
    place = Memory()
    image(place, content or name, layers=layers)
    with store.adding():
        return copy(place, StoreTarget(store, parse(name).tagged()))


def names(store: Store) -> list[str]:
    return [image.reference.familiar() for image in store.images()]


def blobs(store: Store) -> int:
    return len(store.pool.digests())


def test_an_image_comes_and_goes(store: Store) -> None:
    put(store, "alpine:3")
    [found] = store.images()
    assert found.reference.familiar() == "alpine:3"
    assert found.id == store.contents(found.descriptor).manifest["config"]["digest"]
    assert found.size == sum(layer["size"] for layer in store.contents(found.descriptor).manifest["layers"])
    assert blobs(store) == 4
    assert fsck(store) == []
    assert [str(r) for r in store.remove(found)] == ["docker.io/library/alpine:3"]
    done = collect(store)
    assert (done.blobs, store.images(), blobs(store)) == (4, [], 0)
    assert store.repositories() == []
    assert not os.listdir(f"{store.path}/used")


def test_any_tool_finds_a_layout(store: Store) -> None:
    descriptor = put(store, "localhost:5000/a/b:x")
    path = Path(store.path) / "repos/localhost%3A5000%2Fa%2Fb"
    assert json.loads((path / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads((path / "index.json").read_text())
    assert index["schemaVersion"] == 2
    assert index["manifests"][0]["digest"] == descriptor["digest"]
    assert index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"] == "x"
    assert (path / "blobs/sha256" / descriptor["digest"][7:]).exists()


@pytest.mark.parametrize("name", ["docker.io/library/a", "localhost:5000/a%b", "[::1]:1/x", "a%2Fb/%"])
def test_names_of_directories(name: str) -> None:
    assert unescape(escape(name)) == name
    assert "/" not in escape(name) and ":" not in escape(name)


def test_find(store: Store) -> None:
    put(store, "alpine:3")
    put(store, "alpine:latest")
    put(store, "localhost/other")
    found = store.find("alpine")
    assert found.reference.tag == "latest"
    for word in (
        found.id,
        found.id[7:],
        found.short_id,
        found.descriptor["digest"],
        f"alpine@{found.descriptor['digest']}",
    ):
        assert store.find(word).id == found.id
    assert store.find("docker.io/library/alpine:3").reference.tag == "3"
    with pytest.raises(CtnrError, match="no such image: alpine:4; of it there is: 3, latest"):
        store.find("alpine:4")
    for word in ("nothing", "ffff", "sha256:" + "0" * 64):
        with pytest.raises(CtnrError, match="no such image"):
            store.find(word)


def test_a_tag_that_moves_leaves_its_image_nameless(store: Store) -> None:
    old, new = put(store, "a:1", "old"), put(store, "a:1", "new")
    assert [(i.reference.tag, i.descriptor["digest"]) for i in store.images()] == [
        ("", old["digest"]),
        ("1", new["digest"]),
    ]
    put(store, "a:1", "new")
    assert len(store.images()) == 2
    store.tag(store.find("a:1"), parse("b:2"))
    assert store.untag(parse("a:1"))
    assert not store.untag(parse("a:1"))
    assert not store.untag(parse("nowhere:1"))
    assert names(store) == [f"a@{old['digest']}", f"a@{new['digest']}", "b:2"]
    # named anew, it is there once
    put(store, "a:3", "old")
    assert names(store) == [f"a@{new['digest']}", "a:3", "b:2"]


def test_gc_keeps_what_is_named_used_or_young(store: Store) -> None:
    put(store, "a:1", "old")
    put(store, "a:1", "new")
    [old] = [i for i in store.images() if not i.reference.tag]
    assert gc(store).blobs == 0
    store.touch(old.id)
    assert gc(store, ttl=3600).removed == []
    store.touch(old.id, now=time.time() - 7200)
    assert gc(store, ttl=3600, in_use=[old.id]).removed == []
    # when it got its name counts, too
    assert gc(store, ttl=3600).removed == []
    assert gc(store, ttl=-1).removed == [old.id]
    assert names(store) == ["a:1"]
    assert fsck(store) == []


def test_gc_by_age_and_number_of_names(store: Store) -> None:
    for n in range(5):
        put(store, f"a:{n}", f"image {n}")
        with store.adding():
            found = store.find(f"a:{n}")
            store.put(found.reference, found.descriptor, now=1000 + n)
        store.touch(found.id, now=1000 + n)
    done = gc(store, max=3)
    assert done.untagged == ["docker.io/library/a:1", "docker.io/library/a:0"]
    store.touch(store.find("a:3").id)
    assert gc(store, ref_ttl=3600).untagged == ["docker.io/library/a:4", "docker.io/library/a:2"]
    assert [n for n in names(store) if "@" not in n] == ["a:3"]


def test_layers_that_others_have_too_stay(store: Store) -> None:
    here = Memory()
    image(here, "shared")
    with store.adding():
        copy(here, StoreTarget(store, parse("a:1")))
        copy(here, StoreTarget(store, parse("b:1")))
    other = put(store, "c")
    store.remove(store.find("c"))
    assert collect(store).blobs == 4
    store.untag(parse("a:1"))
    assert collect(store).blobs == 0
    assert fsck(store) == []
    assert store.pool.size(other["digest"]) is None


def test_copying_out_of_it(store: Store) -> None:
    wanted = put(store, "a")
    there = Memory()
    assert copy(StoreSource(store, "a", store.find("a").descriptor), there) == wanted
    assert len(there.blobs) == 3


def test_a_store_behind_the_store(tmp_path: Path) -> None:
    behind = Store(str(tmp_path / "behind"))
    put(behind, "a:1")
    put(behind, "a:2")
    behind_before = sorted(os.listdir(behind.path))
    store = Store(str(tmp_path / "store"), (behind.path,))
    assert names(store) == ["a:1", "a:2"]
    put(store, "a:2", "other")
    assert names(store) == ["a:2", "a:1"]
    # what is behind is not written again, and not collected
    assert blobs(store) == 4
    store.remove(store.find("a:1"))
    collect(store)
    assert names(store) == ["a:2", "a:1"]
    assert sorted(os.listdir(behind.path)) == behind_before
    assert store.contents(store.find("a:1").descriptor).config["os"] == "linux"


def test_what_somebody_elses_store_notes_is_not_believed(tmp_path: Path) -> None:
    """An id leads to a file's name, and a list to a terminal."""
    behind = Store(str(tmp_path / "behind"))
    put(behind, "a:1")
    path = Path(behind.layout("docker.io/library/a").path) / "index.json"
    index = json.loads(path.read_text())
    notes = index["manifests"][0]["annotations"]
    notes.update(
        {
            "io.ctnr.image.id": "sha256:../../x",
            "io.ctnr.image.size": "-1",
            "org.opencontainers.image.ref.name": "\x1b[2J",
        }
    )
    path.write_text(json.dumps(index))
    store = Store(str(tmp_path / "store"), (behind.path,))
    [found] = store.images()
    assert (found.id, found.short_id, found.size) == ("", "", 0)
    argv = [sys.executable, "-P", "-c", "from ctnr.cli.boot import main; main(['ctnr', 'images'])"]
    env = {**os.environ, "CTNR_STORE": store.path, "CTNR_EXTRA_STORES": behind.path}
    shown = subprocess.run(argv, env=env, check=True, capture_output=True, text=True)
    assert "[2J" in shown.stdout, shown.stderr
    assert "\x1b" not in shown.stdout


# --- damage


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(data[:-1] if how == "short" else data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize("how", ["gone", "short", "other"])
@pytest.mark.parametrize("what", ["manifest", "config", "layer"])
def test_fsck_finds_and_repairs(store: Store, what: str, how: str) -> None:
    descriptor = put(store, "a")
    put(store, "b")
    manifest = store.contents(descriptor).manifest
    digest = {"manifest": descriptor, "config": manifest["config"], "layer": manifest["layers"][1]}[what]["digest"]
    damage(Path(store.pool.path(digest)), how)
    faults = fsck(store)
    assert any("a:latest" in fault for fault in faults), faults
    assert not any("/b:" in fault for fault in faults), faults
    assert names(store) == ["a:latest", "b:latest"]
    fsck(store, repair=True)
    assert fsck(store) == []
    assert names(store) == ["b:latest"]
    put(store, "a")
    assert fsck(store) == []


def test_a_damaged_manifest_stops_a_collection(store: Store) -> None:
    """What it names is not known to be garbage."""
    descriptor = put(store, "a")
    damage(Path(store.pool.path(descriptor["digest"])), "other")
    with pytest.raises(CtnrError, match="damaged"):
        collect(store)
    assert blobs(store) == 4


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"manifests": 1}', '{"manifests": [{"digest": "../../x", "size": 1}]}']
)
def test_a_damaged_index_is_said(store: Store, text: str) -> None:
    put(store, "a")
    path = Path(store.layout("docker.io/library/a").path) / "index.json"
    path.write_text(text)
    if text != "[]":
        with pytest.raises(CtnrError, match="index.json"):
            store.images()
    assert fsck(store)
    fsck(store, repair=True)
    assert fsck(store) == []


def test_an_index_that_cannot_be_read_is_not_repaired_away(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, "a")

    def unreadable(path: str, *more: object) -> bytes:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr("ctnr.files.read_file", unreadable)
        assert any("input/output error" in fault for fault in fsck(store, repair=True))
    assert names(store) == ["a:latest"]
    assert fsck(store) == []


def test_a_full_disk_leaves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, "a")
    before = blobs(store)

    def full(fd: int, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("ctnr.files.write_fd", full)
        with pytest.raises(CtnrError, match="no space left on device"):
            put(store, "b")
    assert blobs(store) == before
    assert not list(Path(store.path).rglob("*new-*"))
    assert fsck(store) == []


# --- many at once

WORKER = """\
import random, sys
sys.path.insert(0, sys.argv[1])
from imageplaces import Memory, image
from ctnr.errors import CtnrError
from ctnr.image.gc import gc
from ctnr.image.reference import parse
from ctnr.image.store import Store, StoreTarget
from ctnr.image.transfer import copy
store, seed = Store(sys.argv[2]), int(sys.argv[3])
dice = random.Random(seed)
for turn in range(int(sys.argv[4])):
    name = f"r{dice.randrange(3)}:{dice.randrange(3)}"
    what = dice.randrange(6)
    try:
        if what < 3:
            place = Memory()
            image(place, f"content {dice.randrange(6)}", layers=3)
            with store.adding():
                copy(place, StoreTarget(store, parse(name)))
                for entry in store.layout(parse(name).name).read():
                    store.contents(entry)
            print(f"put {name}", flush=True)
        elif what == 3:
            store.untag(parse(name))
        elif what == 4:
            store.remove(store.find(name))
        else:
            gc(store, ttl=-1 if dice.randrange(2) else None)
    except CtnrError as error:
        if "no such image" not in str(error):
            raise
"""


def worker(store: Store, seed: int, turns: int) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", WORKER, str(Path(__file__).parent), store.path, str(seed), str(turns)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_many_processes_at_once(store: Store) -> None:
    running = [worker(store, seed, 15) for seed in range(5)]
    for process in running:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    assert fsck(store) == []


def test_killed_at_any_moment(store: Store) -> None:
    dice = random.Random(1)
    for turn in range(10):
        running = [worker(store, 100 * turn + n, 1000) for n in range(2)]
        for process in running:
            assert process.stdout
            process.stdout.readline()  # it is at work
        time.sleep(dice.random() * 0.1)  # the moment: any will do
        for process in running:
            process.send_signal(signal.SIGKILL)
            _, err = process.communicate()
            assert process.returncode == -signal.SIGKILL, err
        assert fsck(store) == [], turn
    gc(store, ttl=-1)
    assert not list(Path(store.path).rglob("*new-*"))
    put(store, "after:1")
    assert fsck(store) == []
    assert config_of(store.contents(store.find("after:1").descriptor).config_data)["name"] == "after:1"
