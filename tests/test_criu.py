# SPDX-License-Identifier: Apache-2.0
"""CRIU's messages as protobuf has them, what is made of its log, and where it is looked for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctnr.errors import CtnrError
from ctnr.runtime import criu, criu_program
from ctnr.runtime import criu_rpc as rpc

# made by Google's protobuf from CRIU's rpc.proto
REQUEST = (
    "080212b501080710e72418014804520864756d702e6c6f675a090a033a3a3110ffff036a042f72c3a4ba01080a022f6112022f62ba01060a"
    "022f631200ca010c0a066d656d6f727912022f78ca010412022f79da010c0a08706970653a5b315d1001900200aa02136e65745b315d3a65"
    "7874526f6f744e65744e53aa020a66696c655b31653a325db0028080808004ba02090a0369706312022f668803ffffffffffffffffff01a0"
    "0300aa030a61707061726d6f723a78800402"
)
OPTIONS: dict[str, Any] = {
    "images_dir_fd": 7,
    "pid": 4711,
    "leave_running": True,
    "log_level": 4,
    "log_file": "dump.log",
    "ps": {"address": "::1", "port": 65535},
    "root": "/rä",
    "ext_mnt": [{"key": "/a", "val": "/b"}, {"key": "/c", "val": ""}],
    "cg_root": [{"ctrl": "memory", "path": "/x"}, {"ctrl": None, "path": "/y"}],
    "inherit_fd": [{"key": "pipe:[1]", "fd": 1}],
    "manage_cgroups_mode": 0,
    "external": ["net[1]:extRootNetNS", "file[1e:2]"],
    "empty_ns": 0x40000000,
    "join_ns": [{"ns": "ipc", "ns_file": "/f"}],
    "status_fd": -1,
    "tcp_close": False,
    "lsm_profile": "apparmor:x",
    "network_lock": 2,
    "config_file": None,
}
RESPONSES: list[tuple[str, dict[str, Any]]] = [
    (
        "080610012a110a0c706f73742d726573746f726510ac02",
        {"type": 6, "success": True, "notify": {"script": "post-restore", "pid": 300}},
    ),
    # members that are not in the table are skipped
    (
        "080110001a02080138ffffffffffffffffff014a026e6f5803",
        {"type": 1, "success": False, "cr_errno": -1, "cr_errmsg": "no"},
    ),
    (
        "080a10015210080410021a0276342001320443524955",
        {"type": 10, "success": True, "version": {"major": 4, "minor": 2, "gitid": "v4", "sublevel": 1}},
    ),
]


def test_requests_are_protobufs() -> None:
    assert rpc.encode(rpc.REQUEST, {"type": rpc.RESTORE, "opts": OPTIONS}).hex() == REQUEST
    assert rpc.encode(rpc.REQUEST, {"type": rpc.FEATURE_CHECK, "features": {"mem_track": True}}).hex() == "08092a020801"


@pytest.mark.parametrize(("data", "message"), RESPONSES)
def test_responses_are_protobufs(data: str, message: dict[str, Any]) -> None:
    assert rpc.decode(rpc.RESPONSE, bytes.fromhex(data)) == message


def given_options(options: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in options.items() if v is not None}


def test_what_is_encoded_is_decoded() -> None:
    wanted = given_options(OPTIONS) | {"cg_root": [{"ctrl": "memory", "path": "/x"}, {"path": "/y"}]}
    request = rpc.decode(rpc.REQUEST, bytes.fromhex(REQUEST))
    assert request == {"type": rpc.RESTORE, "opts": wanted}


@given(st.integers(-(1 << 63), (1 << 63) - 1), st.text(st.characters(exclude_categories=["Cs"])), st.booleans())
def test_every_value(number: int, text: str, flag: bool) -> None:
    message = {"pid": number, "root": text, "tcp_close": flag, "external": [text, ""]}
    assert rpc.decode(rpc.OPTIONS, rpc.encode(rpc.OPTIONS, message)) == message


@given(st.binary(max_size=64))
def test_any_bytes_are_a_message_or_a_value_error(data: bytes) -> None:
    try:
        assert isinstance(rpc.decode(rpc.RESPONSE, data), dict)
    except ValueError:
        pass


@pytest.mark.parametrize(
    "data",
    ["08", "0880", "08" + "ff" * 11, "2a05aa", "2a", "0b", "0f", "0a0131", "2801", "0d00000000"],
    ids="nothing cut endless cut-message no-length group type-7 text-for-int int-for-message fixed-for-int".split(),
)
def test_damaged_messages(data: str) -> None:
    with pytest.raises(ValueError, match="."):
        rpc.decode(rpc.RESPONSE, bytes.fromhex(data))


LOG = """\
(00.000001) Version: 4.2 (gitid 0)
(00.000002) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted
(00.100001) Error (criu/sk-inet.c:191): inet: Connected TCP socket, consider using --tcp-established option.
(00.100002)      1: Error (criu/files.c:7): a \x1b[31mcolour\x07
(00.100003) Error (criu/sk-inet.c:191): inet: Connected TCP socket, consider using --tcp-established option.
(00.100004) Error (criu/util.c:657): exited, status=1
(00.100005) Error (criu/cr-dump.c:1975): Dumping FAILED.
"""


def test_the_log_in_one_line(tmp_path: Path) -> None:
    log = tmp_path / "dump.log"
    log.write_text(LOG)
    error = criu.explain("checkpoint the container", {"cr_errmsg": "less", "cr_errno": 52}, str(log))
    assert str(error) == (
        "criu failed to checkpoint the container: inet: Connected TCP socket, consider using --tcp-established option.; "
        f"a  [31mcolour ; invalid exchange (log file: {log})"
    )


def test_without_a_log(tmp_path: Path) -> None:
    missing = str(tmp_path / "none")
    assert "failed to x: less (log file" in str(criu.explain("x", {"cr_errmsg": "less"}, missing))
    assert "failed to x: it does not say why (log file" in str(criu.explain("x", {}, missing))
    assert str(criu.explain("x", {}, missing, "/etc/c")).endswith("(the log is where /etc/c says)")


def test_where_it_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"relative::{tmp_path}/a:{tmp_path}/b")
    assert criu_program.search_path().endswith(":/usr/local/sbin:/usr/sbin:/sbin")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a/criu").write_text("")
    (tmp_path / "b/criu").write_text("")
    (tmp_path / "b/criu").chmod(0o755)
    assert criu_program.find() == f"{tmp_path}/b/criu"
    assert criu_program.find("no-such-program") is None
    assert criu_program.checkpoint_possible() is criu_program.privileged()


def test_without_criu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(criu_program, "_SBIN", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not criu_program.checkpoint_possible()
    with pytest.raises(CtnrError, match='exec: "criu": executable file not found in \\$PATH'):
        criu.Criu()


def test_directories(tmp_path: Path) -> None:
    fd = criu.open_directory(str(tmp_path / "a/b"), "--image-path", make=True)
    os.close(fd)
    assert (tmp_path / "a/b").stat().st_mode & 0o777 == 0o700
    with pytest.raises(CtnrError, match="--image-path: open .*/none: no such file or directory"):
        criu.open_directory(str(tmp_path / "none"), "--image-path", make=False)
