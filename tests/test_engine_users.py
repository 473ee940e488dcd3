# SPDX-License-Identifier: Apache-2.0
"""Users of `--user`, from passwd and group files that an image's maker or a container's user wrote."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from ctnr.engine import users
from ctnr.errors import CtnrError

PASSWD = "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1001:Alice:/home/alice:/bin/sh\n"
GROUP = "root:x:0:\nstaff:x:50:bob,alice\nwheel:x:10:bob\nalice:x:1001:\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(PASSWD)
    (tmp_path / "etc/group").write_text(GROUP)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("alice", (1000, 1001, [50])),
        ("1000", (1000, 1001, [50])),
        ("1000:10", (1000, 10, [])),
        ("alice:wheel", (1000, 10, [])),
        ("4242", (4242, 0, [])),
        ("4242:4243", (4242, 4243, [])),
        ("4294967294", (4294967294, 0, [])),
    ],
)
def test_find(root: Path, text: str, wanted: object) -> None:
    assert users.find(str(root), text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "01",
        " 1",
        "1 ",
        "-1",
        "+1",
        "1_0",
        "0x0",
        "٠",  # a digit to int(), and 0
        "4294967295",
        "4294967296",
        "18446744073709551616",
        "nobody",
        "1:01",
        "1:-1",
        "1:4294967296",
        "1:",
        "1:1:1",
    ],
)
def test_no_id_is_guessed_cve_2026_30892_cve_2024_40635(root: Path, text: str) -> None:
    with pytest.raises(CtnrError, match="unable to find"):
        users.find(str(root), text)


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\r"])
def test_a_full_name_makes_no_line_of_its_own_cve_2026_15809(root: Path, separator: str) -> None:
    """chfn(1) lets a user write that field."""
    name = f"Alice{separator}admin:x:0:0:"
    (root / "etc/passwd").write_bytes(f"alice:x:1000:1001:{name}:/:/bin/sh\n".encode())
    with pytest.raises(CtnrError, match="unable to find user admin"):
        users.find(str(root), "admin")


def test_a_group_id_that_is_none_is_not_taken_for_roots(root: Path) -> None:
    (root / "etc/passwd").write_text("alice:x:1000:4294967296:::\n")
    with pytest.raises(CtnrError, match="no group id for alice"):
        users.find(str(root), "alice")


def test_links_stay_in_the_root(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "passwd"
    outside.write_text("mallory:x:0:0:::\n")
    (root / "etc/passwd").unlink()
    (root / "etc/passwd").symlink_to(outside)
    with pytest.raises(CtnrError, match="unable to find user mallory"):
        users.find(str(root), "mallory")
    (root / "etc/passwd").unlink()
    (root / "etc/passwd").symlink_to("/../../../../etc/passwd")
    with pytest.raises(CtnrError, match="unable to find user"):
        users.find(str(root), "daemon")


def test_what_is_no_file_is_not_opened_cve_2024_1753(root: Path) -> None:
    """A fifo without a writer, a directory, a socket's name: no hang, no error but that there is no such user."""
    for make in (os.mkfifo, os.mkdir):
        (root / "etc/passwd").unlink(missing_ok=True)
        make(root / "etc/passwd")
        with pytest.raises(CtnrError, match="unable to find user alice"):
            users.find(str(root), "alice")
        assert users.find(str(root), "7") == (7, 0, [])


def test_a_huge_file_is_refused(root: Path) -> None:
    with open(root / "etc/passwd", "r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(CtnrError, match=re.escape("--user: read the container's /etc/passwd: file too large")):
        users.find(str(root), "alice")
