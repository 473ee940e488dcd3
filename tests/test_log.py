# SPDX-License-Identifier: Apache-2.0
"""ctnr.log: the two line formats, the levels, and the file."""

from __future__ import annotations

import datetime
import json
import os
import re
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctnr import log


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    yield
    log.configure(None)


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    log.configure(str(path), "json", "debug")
    assert not log.to_stderr()
    before = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    log.error('cannot: "x"\n\x1b[31m\x7fé\u202e\udcff')
    log.warning("w")
    log.info("i")
    log.debug("d")
    lines = path.read_bytes().splitlines()
    records = [json.loads(line) for line in lines]
    assert [list(r) for r in records] == [["msg", "level", "time"]] * 4
    assert [r["level"] for r in records] == ["error", "warning", "info", "debug"]
    assert records[0]["msg"] == 'cannot: "x"\n\x1b[31m\x7fé\u202e\udcff'
    assert lines[0].isascii() and lines[0].decode().isprintable()
    for record in records:
        time = datetime.datetime.fromisoformat(record["time"])
        assert before <= time <= datetime.datetime.now(datetime.UTC)
    assert stat.S_IMODE(path.stat().st_mode) & ~0o644 == 0


def test_text_lines(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log.configure(str(path))
    log.warning('a "b" \\ é\nforged')
    line = path.read_text()
    assert re.fullmatch(r'time="\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ" level=warning msg="a \\"b\\" \\\\ é\\nforged"\n', line)


@pytest.mark.parametrize(
    ("level", "written"),
    [
        ("error", ["error"]),
        ("warning", ["error", "warning"]),
        ("warn", ["error", "warning"]),
        ("info", ["error", "warning", "info"]),
        ("debug", ["error", "warning", "info", "debug"]),
    ],
)
def test_levels(tmp_path: Path, level: str, written: list[str]) -> None:
    path = tmp_path / "log"
    log.configure(str(path), "json", level)
    for name in ("error", "warning", "info", "debug"):
        getattr(log, name)("x")
    assert [json.loads(line)["level"] for line in path.read_text().splitlines()] == written


def test_appends_and_closes(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("before\n")
    fds = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        log.configure(str(path), "json")
        log.error("x")
    assert len(os.listdir("/proc/self/fd")) == fds + 1
    log.configure(None)
    assert len(os.listdir("/proc/self/fd")) == fds
    lines = path.read_text().splitlines()
    assert lines[0] == "before" and len(lines) == 4


def test_stderr_is_the_default(capfd: pytest.CaptureFixture[str]) -> None:
    log.configure(None)
    assert log.to_stderr()
    log.warning("here")
    log.debug("not here")
    err = capfd.readouterr().err
    assert err.endswith(' level=warning msg="here"\n') and err.count("\n") == 1


def test_what_cannot_be_logged_is_told_on_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    log.configure("/dev/full", "json")
    log.error("important")
    err = capfd.readouterr().err
    assert err.startswith("cannot write the log: No space left on device: ") and '"important"' in err


def test_configure_refuses(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown log format 'xml': text or json"):
        log.configure(None, "xml")
    with pytest.raises(ValueError, match="unknown log level 'loud': error, warning, info, debug"):
        log.configure(None, "text", "loud")
    with pytest.raises(NotADirectoryError):
        (tmp_path / "f").touch()
        log.configure(str(tmp_path / "f" / "log"))
    # a refused configuration changes nothing
    assert log.to_stderr()


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """In place of the machine's log daemons."""
    from ctnr.cli import logsocket

    path = str(tmp_path / "daemon")
    monkeypatch.setattr(logsocket, "JOURNAL", path)
    monkeypatch.setattr(logsocket, "SYSLOG", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(path)
        listening.settimeout(10)
        yield listening


def test_journald(daemon: socket.socket, capfd: pytest.CaptureFixture[str]) -> None:
    """Fields as systemd's native protocol has them; a message cannot add one."""
    from ctnr.cli.boot import main

    assert main(["ctnr-oci", "--log", "journald:box-1", "state", "no\nMESSAGE=forged"]) == 1
    head, _, rest = daemon.recv(1 << 16).partition(b"MESSAGE\n")
    assert head == b"PRIORITY=3\nSYSLOG_IDENTIFIER=box-1\nID=box-1\n"
    size = int.from_bytes(rest[:8], "little")
    assert rest[8 + size :] == b"\n" and b"invalid container ID format" in rest[8 : 8 + size]
    # in plain words for who called
    assert capfd.readouterr().err.startswith("invalid container ID format")
    log.error("x" * (1 << 20))
    assert len(daemon.recv(1 << 21)) >= 8 << 10


def test_syslog(daemon: socket.socket, capfd: pytest.CaptureFixture[str]) -> None:
    from ctnr.cli.boot import main

    assert main(["ctnr-oci", "--log", "syslog:box", "--log-level", "debug", "state", "a\nb"]) == 1
    line = daemon.recv(1 << 16).decode()
    assert re.fullmatch(
        rf"<11>\w{{3}} [ \d]\d \d\d:\d\d:\d\d box\[{os.getpid()}\]: invalid container ID format: .*", line
    )
    log.debug("more")
    assert daemon.recv(1 << 16).startswith(b"<15>")


def test_syslog_by_a_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ctnr.cli import logsocket

    monkeypatch.setattr(logsocket, "SYSLOG", str(tmp_path / "stream"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(tmp_path / "stream"))
        listening.listen()
        log.send_to(logsocket.sink("syslog", "box"), only=True)
        connection, _ = listening.accept()
        with connection:
            log.warning("w")
            assert connection.recv(1 << 16).endswith(b": w\0")
        log.configure(None)


def test_journald_beside_the_log(daemon: socket.socket, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """youki's --systemd-log."""
    from ctnr.cli.boot import main

    path = tmp_path / "log"
    assert main(["ctnr-oci", "--systemd-log", "--log", f"file:{path}", "state", "no/such"]) == 1
    assert b"ID=ctnr-oci" in daemon.recv(1 << 16)
    assert "invalid container ID" in path.read_text()


def test_no_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    from ctnr.cli import logsocket
    from ctnr.cli.boot import main

    monkeypatch.setattr(logsocket, "SYSLOG", str(tmp_path / "nobody"))
    assert main(["ctnr-oci", "--log", "syslog:x", "list"]) == 1
    assert f"{tmp_path}/nobody: no such file or directory" in capfd.readouterr().err


@given(st.text(st.characters(exclude_categories=())))
def test_escape_leaves_nothing_that_moves_a_terminal(text: str) -> None:
    escaped = log.escape(text)
    assert escaped.isprintable()
    assert log.escape(escaped) == escaped
    if text.isprintable():
        assert escaped == text
