# SPDX-License-Identifier: Apache-2.0
"""Images: a real registry, real tools beside us, and the commands as they are typed."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import machine, ociarchive, rootfs, runtimes, users
from support.registry import PASSWORD, USER, Registry
from support.runtimes import Result
from support.users import User

Ctnr = Callable[..., Result]
LONG = 180.0


@pytest.fixture(scope="module")
def plain(_session: None) -> Iterator[Registry]:
    """A registry without anything to it; made before a test looks at what is left behind."""
    registry = Registry(machine.scratch(), "plain")
    yield registry
    registry.close()


@pytest.fixture(scope="module")
def tls(_session: None) -> Iterator[Registry]:
    registry = Registry(machine.scratch(), "tls")
    yield registry
    registry.close()


@pytest.fixture(scope="module")
def locked(_session: None) -> Iterator[Registry]:
    registry = Registry(machine.scratch(), "htpasswd")
    yield registry
    registry.close()


@pytest.fixture(scope="module")
def archive(_session: None) -> Path:
    """A busybox image as an OCI archive."""
    work = machine.scratch() / "box-image"
    work.mkdir()
    tree = rootfs.make_busybox(work / "tree")
    config = {"Env": ["PATH=/bin", "WHO=image"], "Cmd": ["sh"], "Labels": {"a": "b"}}
    path = ociarchive.make(tree, work / "box.oci", "box", config)
    path.chmod(0o644)
    return path


def home_of(user: User, work: Path) -> Path:
    home = work / f"home-{user.kind}"
    if not home.exists():
        home.mkdir()
        (home / "run").mkdir(mode=0o700)
        for path in (home, home / "run"):
            rootfs.give(path, user.uid, user.gid)
    return home


@pytest.fixture
def ctnr_as(work: Path) -> Callable[[User], Ctnr]:
    """`ctnr` of a user with a store and credentials of the test's own."""

    def of(user: User) -> Ctnr:
        home = home_of(user, work)
        env = {
            "HOME": str(home),
            "CTNR_STORE": str(home / "store"),
            "REGISTRY_AUTH_FILE": str(home / "auth.json"),
            "XDG_RUNTIME_DIR": str(home / "run"),
        }

        def call(*words: str | Path, **how: Any) -> Result:
            return runtimes.call(
                [str(runtimes.ctnr_bin()), *map(str, words)], user, env=env, timeout=LONG, cwd=home, **how
            )

        return call

    return of


@pytest.fixture
def ctnr(ctnr_as: Callable[[User], Ctnr], user: User) -> Ctnr:
    return ctnr_as(user)


def skopeo(*words: str | Path) -> str:
    [program] = machine.need("skopeo")
    argv = [program, "--insecure-policy", *map(str, words)]
    return runtimes.call(argv, users.me(), timeout=LONG).ok().out


def rows(ctnr: Ctnr) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(ctnr("images", "--format", "json").ok().out)
    return found


def test_there_and_back(ctnr: Ctnr, plain: Registry, archive: Path, user: User) -> None:
    """From an archive to the store, to a registry, back, and out again; for each kind of user."""
    name = f"{plain.host}/there/{user.kind}:1"
    id = ctnr("image", "import", f"oci-archive:{archive}", name).ok().out.strip()
    assert rows(ctnr)[0]["Id"] == id
    digest = ctnr("push", "--tls-verify=false", name).ok().out.strip()
    assert json.loads(skopeo("inspect", "--tls-verify=false", f"docker://{name}"))["Digest"] == digest
    ctnr("rmi", name).ok()
    assert rows(ctnr) == []
    assert ctnr("pull", "--tls-verify=false", name).ok().out.strip() == id
    assert rows(ctnr)[0]["Digest"] == digest
    assert ctnr("image", "fsck").ok().out == ""


@pytest.mark.parametrize("kind", ["oci", "oci-archive", "docker-archive", "dir"])
def test_what_we_write_skopeo_reads(
    ctnr_as: Callable[[User], Ctnr], root: User, kind: str, archive: Path, work: Path
) -> None:
    ctnr = ctnr_as(root)
    ctnr("image", "import", f"oci-archive:{archive}", "localhost/box:1").ok()
    id = rows(ctnr)[0]["Id"]
    there = f"{kind}:{work}/there" + (":localhost/box:1" if kind == "docker-archive" else ":1" if "oci" in kind else "")
    ctnr("image", "export", "localhost/box:1", there).ok()
    config = json.loads(skopeo("inspect", "--config", there))
    assert config["config"]["Env"] == ["PATH=/bin", "WHO=image"]
    back = f"oci:{work}/back:x"
    skopeo("copy", there, back)
    ctnr("image", "import", back, "localhost/back").ok()
    if kind != "docker-archive":  # there skopeo writes the configuration anew
        assert {row["Id"] for row in rows(ctnr)} == {id}


@pytest.mark.parametrize("kind", ["oci", "oci-archive", "docker-archive", "dir"])
@pytest.mark.parametrize("form", ["oci", "v2s2"])
def test_what_skopeo_writes_we_read(
    ctnr_as: Callable[[User], Ctnr], root: User, kind: str, form: str, archive: Path, work: Path
) -> None:
    ctnr = ctnr_as(root)
    if (kind, form) in (("docker-archive", "oci"), ("oci", "v2s2"), ("oci-archive", "v2s2")):
        pytest.skip("not applicable: this transport has one format only")
    there = f"{kind}:{work}/there" + (":localhost/box:1" if kind == "docker-archive" else ":1" if "oci" in kind else "")
    words = () if kind == "docker-archive" else ("--format", form)
    skopeo("copy", *words, f"oci-archive:{archive}:box", there)
    ctnr("image", "import", there, "localhost/box:2").ok()
    config = json.loads(ctnr("image", "cat-config", "localhost/box:2").ok().out)
    assert config["config"]["Env"] == ["PATH=/bin", "WHO=image"]


def test_any_tool_opens_a_repository_of_the_store(
    ctnr_as: Callable[[User], Ctnr], root: User, archive: Path, work: Path
) -> None:
    ctnr = ctnr_as(root)
    ctnr("image", "import", f"oci-archive:{archive}", "example.org/a/box:7").ok()
    layout = home_of(root, work) / "store/repos/example.org%2Fa%2Fbox"
    found = json.loads(skopeo("inspect", f"oci:{layout}:7"))
    assert found["Digest"] == rows(ctnr)[0]["Digest"]
    [umoci] = machine.need("umoci")
    listed = subprocess.run([umoci, "list", "--layout", layout], check=True, capture_output=True, text=True).stdout
    assert listed == "7\n"


def test_compressions(ctnr_as: Callable[[User], Ctnr], root: User, plain: Registry, archive: Path, work: Path) -> None:
    """A layer in zstd is copied as it is; what a registry has is told apart by its digest alone."""
    ctnr = ctnr_as(root)
    skopeo("copy", "--dest-compress", "--dest-compress-format", "zstd", f"oci-archive:{archive}:box", f"dir:{work}/z")
    skopeo("copy", "--preserve-digests", f"dir:{work}/z", f"oci:{work}/layout:z")
    ctnr("image", "import", f"oci:{work}/layout:z", "localhost/z").ok()
    found = json.loads(ctnr("image", "inspect", "localhost/z").ok().out)[0]
    ctnr("push", "--tls-verify=false", "localhost/z", f"{plain.host}/z:1").ok()
    manifest = json.loads(skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{plain.host}/z:1"))
    assert manifest["layers"][0]["mediaType"].endswith("+zstd")
    ctnr("rmi", "localhost/z").ok()
    ctnr("pull", "--tls-verify=false", f"{plain.host}/z:1").ok()
    assert json.loads(ctnr("image", "inspect", f"{plain.host}/z:1").ok().out)[0]["Id"] == found["Id"]


def test_tls(ctnr: Ctnr, tls: Registry, archive: Path, user: User) -> None:
    name = f"{tls.host}/box:{user.kind}"
    ctnr("image", "import", f"oci-archive:{archive}", name).ok()
    assert "bad certificate" in ctnr("push", name).error_line
    ctnr("push", "-q", "--cert-dir", tls.certificates, name).ok()
    assert "bad certificate" in ctnr("pull", name).error_line
    ctnr("pull", "-q", "--cert-dir", tls.certificates, name).ok()
    ctnr("pull", "-q", "--tls-verify=false", name).ok()


def test_logins(ctnr: Ctnr, locked: Registry, archive: Path, user: User, work: Path) -> None:
    plain = "--tls-verify=false"
    name = f"{locked.host}/box:{user.kind}"
    ctnr("image", "import", f"oci-archive:{archive}", name).ok()
    assert f"ctnr login {locked.host}" in ctnr("push", "-q", plain, name).error_line
    words = ("login", plain, "--username", USER, "--password-stdin", locked.host)
    assert "access denied" in ctnr(*words, stdin="wrong\n").error_line
    said = ctnr(*words, stdin=f"{PASSWORD}\n").ok()
    assert PASSWORD not in said.out + said.err
    assert oct((home_of(user, work) / "auth.json").stat().st_mode & 0o777) == "0o600"
    ctnr("push", "-q", plain, name).ok()
    ctnr("pull", "-q", plain, name).ok()
    ctnr("logout", locked.host).ok()
    assert ctnr("logout", locked.host).error_line == f"ctnr: not logged in to {locked.host}"
    assert "access denied" in ctnr("pull", "-q", plain, name).error_line
    ctnr("pull", "-q", plain, "--creds", f"{USER}:{PASSWORD}", name).ok()


def test_lists_and_names(ctnr: Ctnr, archive: Path) -> None:
    ctnr("image", "import", f"oci-archive:{archive}", "alpine:3").ok()
    ctnr("tag", "alpine:3", "localhost/other:x", "alpine:4").ok()
    said = ctnr("images").ok().out.splitlines()
    assert said[0].split() == ["REPOSITORY", "TAG", "IMAGE", "ID", "CREATED", "SIZE"]
    assert [line.split()[:2] for line in said[1:]] == [["alpine", "3"], ["alpine", "4"], ["localhost/other", "x"]]
    [id] = ctnr("images", "-q").ok().out.split()
    assert len(id) == 12
    assert [line.split()[1] for line in ctnr("images", "alpine").ok().out.splitlines()[1:]] == ["3", "4"]
    assert json.loads(ctnr("image", "inspect", id[:5]).ok().out)[0]["RepoTags"] == [
        "docker.io/library/alpine:3",
        "docker.io/library/alpine:4",
        "localhost/other:x",
    ]
    ctnr("image", "untag", "alpine:4").ok()
    assert "has 2 names" in ctnr("rmi", id).error_line
    assert ctnr("rmi", "alpine:3").ok().out == "untagged: alpine:3\n"
    ctnr("rmi", id).ok()
    assert rows(ctnr) == []


def test_save_and_load(ctnr: Ctnr, archive: Path, user: User, work: Path) -> None:
    home = home_of(user, work)
    id = ctnr("image", "import", f"oci-archive:{archive}", "a:1").ok().out.strip()
    ctnr("tag", "a:1", "b:2").ok()
    ctnr("save", "-q", "-o", home / "saved.tar", "a:1", "b:2").ok()
    ctnr("rmi", "-f", id[7:19]).ok()
    assert ctnr("load", "-q", "-i", home / "saved.tar").ok().out == "a:1\nb:2\n"
    assert {row["Id"] for row in rows(ctnr)} == {id}
    assert ctnr("load", "-q", "-i", archive).code == 0
    assert "is there already" in ctnr("save", "-o", home / "saved.tar", "a:1").error_line


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("pull", "foo://bar"), "unknown transport"),
        (("pull", "Bad Name"), "invalid image name"),
        (("pull", "oci:nowhere"), "no OCI image layout"),
        (("pull", "--platform", "x", "localhost:1/a"), "cannot be reached"),
        (("pull", "localhost:1/a"), "registry localhost:1: cannot be reached: connection refused"),
        (("push", "nothing"), "no such image"),
        (("image", "inspect", "nothing"), "no such image"),
        (("image",), ""),
        (("image", "nothing"), "unknown"),
        (("image", "gc", "--ttl", "x"), "--ttl is a duration"),
        (("save", "a"), "--output FILE is missing"),
        (("load", "-i", "/nowhere"), "no such file"),
        (("load", "-i", "/etc/passwd"), "no tar archive"),
        (("login", "-u", "a", "--password-stdin", "localhost:1"), "cannot be reached"),
    ],
)
def test_bad_input(ctnr_as: Callable[[User], Ctnr], root: User, words: tuple[str, ...], why: str) -> None:
    done = ctnr_as(root)(*words)
    if not why:
        assert "Usage: ctnr image" in done.ok().out
        return
    assert done.code != 0
    assert why in done.error_line


def test_a_pull_that_is_killed_leaves_a_sound_store(
    ctnr_as: Callable[[User], Ctnr], root: User, plain: Registry, archive: Path, work: Path
) -> None:
    ctnr = ctnr_as(root)
    name = f"{plain.host}/killed:1"
    skopeo("copy", "--dest-tls-verify=false", f"oci-archive:{archive}:box", f"docker://{name}")
    home = home_of(root, work)
    env = {"HOME": str(home), "CTNR_STORE": str(home / "store")}
    argv = [str(runtimes.ctnr_bin()), "pull", "-q", "--tls-verify=false", name]
    for milliseconds in range(40, 400, 40):
        process = runtimes.popen(argv, root, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(milliseconds / 1000)
        except subprocess.TimeoutExpired:
            process.kill()
        runtimes.finished(process)
        assert ctnr("image", "fsck").ok().out == ""
    ctnr("pull", "-q", "--tls-verify=false", name).ok()
    ctnr("image", "gc").ok()
    assert not list(Path(home / "store").rglob("new-*"))
    assert os.listdir(home / "store/blobs") == ["sha256"]
