# SPDX-License-Identifier: Apache-2.0
"""docker's notations, read: what they mean in a config, and one line naming the option for what they cannot mean."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctnr.engine import options
from ctnr.engine.options import Options
from ctnr.engine.users import find, parse_id, read_in_root
from ctnr.errors import CtnrError
from ctnr.spec import sizes

UNLIMITED = (1 << 64) - 1


def refused(call: Callable[[], object], option: str) -> str:
    """The message of the CtnrError that `call` raises: one line that begins with the option."""
    with pytest.raises(CtnrError) as caught:
        call()
    message = str(caught.value)
    assert message.startswith(option + ":"), message
    assert "\n" not in message
    assert caught.value.exit_code == 125
    return message


# --- numbers


@pytest.mark.parametrize(
    ("text", "bytes"),
    [
        (0, 0),
        (4096, 4096),
        ("4096", 4096),
        ("4096b", 4096),
        ("1k", 1024),
        ("1K", 1024),
        ("1kb", 1024),
        ("1KiB", 1024),
        ("512m", 512 << 20),
        ("1.5g", 3 << 29),
        (".5g", 1 << 29),
        ("2.k", 2048),
        ("2t", 2 << 40),
        ("1p", 1 << 50),
        (" 1m ", 1 << 20),
        ("9007199254740993", 9007199254740993),  # no double has it
    ],
)
def test_sizes(text: int | str, bytes: int) -> None:
    assert sizes.parse_size(text, "--memory") == bytes


@pytest.mark.parametrize(
    "text",
    [
        "",
        "m",
        "-1",
        "-1m",
        "1x",
        "1mm",
        "1 m",
        "1e3",
        "1_000",
        "0x10",
        "inf",
        "nan",
        "1.2.3",
        ".",
        "²",
        "٣m",
        "9e",
        "8192p",
        -5,
    ]
    + [1 << 63, "1bb", "1ib"],
)
def test_what_is_no_size(text: int | str) -> None:
    assert repr(text) in refused(lambda: sizes.parse_size(text, "--memory"), "--memory")


@given(st.integers(0, 1 << 40), st.sampled_from("kmg"))
def test_a_size_is_exact(number: int, unit: str) -> None:
    bytes = number << {"k": 10, "m": 20, "g": 30}[unit]
    if bytes < 1 << 63:
        assert sizes.parse_size(f"{number}{unit}", "--memory") == bytes


@given(st.text())
def test_any_text_is_a_size_or_refused(text: str) -> None:
    try:
        assert 0 <= sizes.parse_size(text, "--memory") < 1 << 63
    except CtnrError as error:
        assert str(error).startswith("--memory:")


@pytest.mark.parametrize(
    ("text", "quota"),
    [("1", 100000), (1, 100000), ("0.01", 1000), ("1.5", 150000), (0.25, 25000), (".5", 50000), ("64", 6400000)],
)
def test_cpus(text: float | str, quota: int) -> None:
    assert options.parse_cpus(text) == quota


@pytest.mark.parametrize("text", ["", "0", 0, "0.001", "-1", -0.5, "x", "1,5", "nan", "inf", "1e1", "1_0", "²"])
def test_what_is_no_number_of_cpus(text: float | str) -> None:
    refused(lambda: options.parse_cpus(text), "--cpus")


@pytest.mark.parametrize(("text", "limit"), [("1", 1), (100, 100), ("0", -1), ("-1", -1), (-1, -1), (0, -1)])
def test_pids_limit(text: int | str, limit: int) -> None:
    assert options.parse_pids_limit(text) == limit


@pytest.mark.parametrize("text", ["", "-2", -2, "x", "1.5", "1_0", " 1", "²", str(1 << 63)])
def test_what_is_no_pids_limit(text: int | str) -> None:
    refused(lambda: options.parse_pids_limit(text), "--pids-limit")


@pytest.mark.parametrize(
    ("text", "type", "soft", "hard"),
    [
        ("nofile=1024", "RLIMIT_NOFILE", 1024, 1024),
        ("nofile=1024:2048", "RLIMIT_NOFILE", 1024, 2048),
        ("NOFILE=1", "RLIMIT_NOFILE", 1, 1),
        ("core=0", "RLIMIT_CORE", 0, 0),
        ("core=-1", "RLIMIT_CORE", UNLIMITED, UNLIMITED),
        ("nproc=10:unlimited", "RLIMIT_NPROC", 10, UNLIMITED),
        ("memlock=unlimited", "RLIMIT_MEMLOCK", UNLIMITED, UNLIMITED),
        ("rttime=5:-1", "RLIMIT_RTTIME", 5, UNLIMITED),
    ],
)
def test_ulimits(text: str, type: str, soft: int, hard: int) -> None:
    assert options.parse_ulimit(text) == {"type": type, "soft": soft, "hard": hard}


@pytest.mark.parametrize(
    "text",
    ["", "nofile", "nofile=", "nofile=x", "nofile=1:", "nofile=:1", "nofile=2:1", "nofile=-2", "nofile=1:2:3", "nope=1"]
    + ["=1", "nofile=²", "nofile=1.5", f"nofile={1 << 64}", "nofile=unlimited:1", "rlimit_nofile=1"],
)
def test_what_is_no_ulimit(text: str) -> None:
    refused(lambda: options.parse_ulimit(text), "--ulimit")


@pytest.mark.parametrize("name", ["NET_ADMIN", "net_admin", "CAP_NET_ADMIN", "cap_net_admin", "Cap_Net_Admin"])
def test_capabilities(name: str) -> None:
    assert options.parse_capability(name, "--cap-add") == "CAP_NET_ADMIN"


@pytest.mark.parametrize("name", ["", "CAP_", "NOPE", "NET-ADMIN", "CAP_CAP_KILL", "12", " KILL"])
def test_what_is_no_capability(name: str) -> None:
    refused(lambda: options.parse_capability(name, "--cap-drop"), "--cap-drop")


# --- mounts


@pytest.mark.parametrize(
    ("text", "source", "target", "words"),
    [
        ("/a:/b", "/a", "/b", ["rbind", "rprivate"]),
        ("./a:/b", "./a", "/b", ["rbind", "rprivate"]),
        ("../a:/b", "../a", "/b", ["rbind", "rprivate"]),
        (".:/b", ".", "/b", ["rbind", "rprivate"]),
        ("~/a:/b", "~/a", "/b", ["rbind", "rprivate"]),
        ("/a:/b:ro", "/a", "/b", ["rbind", "rro", "rprivate"]),
        ("/a:/b:rw", "/a", "/b", ["rbind", "rprivate"]),
        ("/a:/b:ro,rw", "/a", "/b", ["rbind", "rprivate"]),
        ("/a:/b:", "/a", "/b", ["rbind", "rprivate"]),
        ("/a:/b:ro,rslave", "/a", "/b", ["rbind", "rro", "rslave"]),
        ("/a:/b:bind,shared", "/a", "/b", ["bind", "shared"]),
        ("/a:/b:z,noexec,cached", "/a", "/b", ["rbind", "noexec", "rprivate"]),
        ("/a:/b:idmap", "/a", "/b", ["rbind", "idmap", "rprivate"]),
        ("/a b:/c,d", "/a b", "/c,d", ["rbind", "rprivate"]),
    ],
)
def test_volumes(text: str, source: str, target: str, words: list[str]) -> None:
    assert options.parse_volume(text) == {"type": "bind", "source": source, "destination": target, "options": words}


@pytest.mark.parametrize(
    "text",
    ["", ":", "/a", "/a:", ":/b", "name:/b", "a/b:/c", "/a:b", "/a:./b", "/a:/b:nope", "/a:/b:ro:rw", "/a:/b:ro,,x"],
)
def test_what_is_no_volume(text: str) -> None:
    refused(lambda: options.parse_volume(text), "--volume")


@pytest.mark.parametrize(
    ("text", "mount"),
    [
        ("type=bind,source=/a,target=/b", ("bind", "/a", "/b", ["rbind", "rprivate"])),
        ("type=bind,src=/a,dst=/b,readonly", ("bind", "/a", "/b", ["rbind", "rro", "rprivate"])),
        ("Type=bind,source=/a,destination=/b,ro=true", ("bind", "/a", "/b", ["rbind", "rro", "rprivate"])),
        ("type=bind,source=/a,target=/b,readonly=false", ("bind", "/a", "/b", ["rbind", "rprivate"])),
        ("type=bind,source=/a,target=/b,bind-propagation=rshared", ("bind", "/a", "/b", ["rbind", "rshared"])),
        ("type=bind,source=/a,target=/b,bind-nonrecursive", ("bind", "/a", "/b", ["bind", "rprivate"])),
        ('type=bind,"source=/a,b",target=/c', ("bind", "/a,b", "/c", ["rbind", "rprivate"])),
        ("type=tmpfs,target=/t", ("tmpfs", "tmpfs", "/t", ["nosuid", "nodev"])),
        (
            "type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=0700,ro",
            ("tmpfs", "tmpfs", "/t", ["nosuid", "nodev", "ro", "size=1048576", "mode=0700"]),
        ),
    ],
)
def test_mounts(text: str, mount: tuple[str, str, str, list[str]]) -> None:
    type, source, target, words = mount
    assert options.parse_mount(text) == {"type": type, "source": source, "destination": target, "options": words}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "type=bind",
        "type=bind,target=/b",
        "type=bind,source=/a",
        "type=bind,source=/a,target=b",
        "source=/a,target=/b",
        "type=volume,source=v,target=/b",
        "type=nfs,source=/a,target=/b",
        "type=bind,source=/a,target=/b,nope=1",
        "type=bind,source=/a,target=/b,readonly=maybe",
        "type=bind,source=/a,target=/b,bind-propagation=up",
        "type=bind,source=/a,target=/b,tmpfs-size=1m",
        "type=tmpfs,target=/t,tmpfs-size=big",
        "type=tmpfs,target=/t,tmpfs-mode=9",
        "type=tmpfs,target=/t,tmpfs-mode=",
        "type=tmpfs,target=/t,tmpfs-mode=77777",
        'type=bind,"source=/a,target=/b',
    ],
)
def test_what_is_no_mount(text: str) -> None:
    refused(lambda: options.parse_mount(text), "--mount")


@pytest.mark.parametrize(
    ("text", "path", "words"),
    [
        ("/t", "/t", ["noexec", "nosuid", "nodev"]),
        ("/t:", "/t", ["noexec", "nosuid", "nodev"]),
        ("/t:size=1m,mode=700", "/t", ["noexec", "nosuid", "nodev", "size=1m", "mode=700"]),
        ("/t:exec,rw", "/t", ["noexec", "nosuid", "nodev", "exec", "rw"]),
    ],
)
def test_tmpfs(text: str, path: str, words: list[str]) -> None:
    assert options.parse_tmpfs(text) == {"type": "tmpfs", "source": "tmpfs", "destination": path, "options": words}


@pytest.mark.parametrize("text", ["", "t", "./t", ":size=1m"])
def test_what_is_no_tmpfs(text: str) -> None:
    refused(lambda: options.parse_tmpfs(text), "--tmpfs")


# --- devices


@pytest.mark.parametrize(
    ("text", "inside", "access"),
    [
        ("/dev/null", "/dev/null", "rwm"),
        ("/dev/null:/dev/x", "/dev/x", "rwm"),
        ("/dev/null:r", "/dev/null", "r"),
        ("/dev/null:/dev/x:rw", "/dev/x", "rw"),
        ("/dev/null:/dev/../dev//x", "/dev/x", "rwm"),
    ],
)
def test_devices(text: str, inside: str, access: str) -> None:
    [found] = options.parse_device(text)
    here = os.stat("/dev/null")
    device = found.device()
    assert (device["path"], device["type"], device["major"], device["minor"]) == (inside, "c", 1, 3)
    assert (device["fileMode"], device["uid"], device["gid"]) == (stat.S_IMODE(here.st_mode), here.st_uid, here.st_gid)
    assert found.rule() == {"allow": True, "type": "c", "major": 1, "minor": 3, "access": access}


def test_a_directory_of_devices(tmp_path: Path) -> None:
    for name in ("zero", "null"):
        (tmp_path / name).symlink_to(f"/dev/{name}")
    (tmp_path / "file").write_text("")
    (tmp_path / "gone").symlink_to("/nonexistent")
    found = options.parse_device(f"{tmp_path}:/dev/some:r")
    assert [(d.inside, d.device()["minor"], d.access) for d in found] == [
        ("/dev/some/null", 3, "r"),
        ("/dev/some/zero", 5, "r"),
    ]


@pytest.mark.parametrize(
    "text", ["", "null", "/dev/null:x", "/dev/null:/dev/x:rx", "/dev/null:/a:/b:r", "/nonexistent"]
)
def test_what_is_no_device(text: str) -> None:
    refused(lambda: options.parse_device(text), "--device")


def test_files_and_directories_without_devices_are_no_devices(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(lambda: options.parse_device(str(tmp_path)), "--device")
    refused(lambda: options.parse_device(str(tmp_path / "file")), "--device")


# --- users


PASSWD = "root:x:0:0::/root:/bin/sh\nalice:x:1000:1001::/home/alice:/bin/sh\nbroken\nbad:x:99999999999:1::/:/\n1000x:x:7:7::/:/\n"
GROUP = "root:x:0:\nwheel:x:10:bob,alice\nusers:x:100:alice\nbad:x:-1:alice\n"


@pytest.fixture
def tree(tmp_path: Path) -> str:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(PASSWD)
    (tmp_path / "etc/group").write_text(GROUP)
    return str(tmp_path)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("root", (0, 0, [])),
        ("alice", (1000, 1001, [10, 100])),
        ("1000", (1000, 1001, [10, 100])),
        ("alice:wheel", (1000, 10, [])),
        ("alice:7", (1000, 7, [])),
        ("5", (5, 0, [])),
        ("5:6", (5, 6, [])),
        ("1000x", (7, 7, [])),
        ("4294967294:4294967294", (4294967294, 4294967294, [])),
    ],
)
def test_users(tree: str, text: str, found: tuple[int, int, list[int]]) -> None:
    assert find(tree, text) == found


# CVE-2026-30892, CVE-2024-40635: none of these may become 0
@pytest.mark.parametrize(
    "text",
    ["", ":", ":0", "nobody", "bad", "01", "-1", "+1", " 1", "1 ", "1_0", "²", "4294967295", "4294967296", "0x0"]
    + ["alice:", "alice:nope", "alice:01", "alice:4294967295", "1:2:3", "broken"],
)
def test_who_is_nobody(tree: str, text: str) -> None:
    refused(lambda: find(tree, text), "--user")


@given(st.text(max_size=12))
def test_an_id_is_canonical(text: str) -> None:
    number = parse_id(text)
    assert number is None or (str(number) == text and 0 <= number < (1 << 32) - 1)


def test_a_containers_files_are_read_within_its_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (tmp_path / "secret").write_text("secret")
    for link in ("../../secret", str(tmp_path / "secret"), "/proc/self/root" + str(tmp_path / "secret")):
        (root / "etc/passwd").unlink(missing_ok=True)
        (root / "etc/passwd").symlink_to(link)
        assert read_in_root(str(root), "etc/passwd") == b""
    (root / "etc/passwd").unlink()
    (root / "real").write_text("real")
    (root / "etc/passwd").symlink_to("/real")
    assert read_in_root(str(root), "etc/passwd") == b"real"


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")  # would block for ever
    (tmp_path / "dir").mkdir()
    for name in ("fifo", "dir", "nope"):
        assert read_in_root(str(tmp_path), name) == b""


# --- Options


def test_options_are_the_callers_no_longer() -> None:
    command, env = ["sh"], {"A": "1"}
    made = Options(command, env=env, entrypoint="x")
    command.append("y")
    env["B"] = "2"
    assert (made.command, made.env, made.entrypoint) == (["sh"], {"A": "1"}, ["x"])


def test_an_unknown_option_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="volume"):
        Options(None, volume=["/a:/b"])  # type: ignore[call-arg]


def test_lists_are_not_strings() -> None:
    """A string where a list belongs would be taken for its letters."""
    wrong: dict[str, Any]
    for wrong in (
        {"volumes": "/a:/b"},
        {"cap_add": "KILL"},
        {"tmpfs": "/x"},
        {"security_opt": "x"},
        {"devices": "/dev/null"},
    ):
        [name] = wrong
        with pytest.raises(CtnrError, match=f"{name}: .* is text: give a list"):
            Options(["true"], **wrong)
    with pytest.raises(CtnrError, match="command: .* is text: give a list"):
        Options("true -x")
