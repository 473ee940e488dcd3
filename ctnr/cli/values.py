# SPDX-License-Identifier: Apache-2.0
"""What people write for users and environments, made into numbers and pairs. Strict: a guess would be a hole.

HOT: `exec` imports it.
"""

from __future__ import annotations

from ctnr.cli.args import UsageError, whole_number

# -1 stands for "leave it as it is" in setresuid(2)
TOP_ID = (1 << 32) - 2


def user_ids(text: str) -> tuple[int, int | None]:
    """UID[:GID] in numbers. Raises UsageError for anything else: "1" read as 0 was CVE-2026-30892."""
    uid, colon, gid = text.partition(":")
    return whole_number(uid, "the user's id", TOP_ID), whole_number(gid, "the group's id", TOP_ID) if colon else None


def environment(entries: list[str], files: list[str], inherited: dict[bytes, bytes]) -> list[str]:
    """docker's -e and --env-file: NAME=VALUE, or NAME alone for the value it has here (none: left out).

    Files come first. Raises UsageError naming the line, OSError for a file.
    """
    found: list[str] = []
    for path in files:
        from ctnr.files import read_file

        try:
            lines = str(read_file(path), "utf-8").removeprefix("\ufeff").split("\n")
        except UnicodeDecodeError as e:
            raise UsageError(f"{path}: not UTF-8 (byte {e.start})") from None
        for number, line in enumerate(lines, 1):
            line = line.removesuffix("\r").lstrip()
            if line and not line.startswith("#"):
                _add(found, line, f"{path} line {number}", inherited)
    for entry in entries:
        _add(found, entry, "-e", inherited)
    return found


def _add(found: list[str], entry: str, where: str, inherited: dict[bytes, bytes]) -> None:
    name, equals, _ = entry.partition("=")
    if not name or "\0" in entry or (name != name.strip()):
        raise UsageError(f"{where}: {entry!r} is not NAME=VALUE")
    if equals:
        found.append(entry)
        return
    from ctnr.files import fsdecode, fsencode

    value = inherited.get(fsencode(name))
    if value is not None:
        found.append(f"{name}={fsdecode(value)}")


def merge_environment(base: list[str], changes: list[str]) -> list[str]:
    """`base` with `changes` over it, each name once, where it was first."""
    merged = {entry.partition("=")[0]: entry for entry in base}
    for entry in changes:
        merged[entry.partition("=")[0]] = entry
    return list(merged.values())
