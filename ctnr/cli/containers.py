# SPDX-License-Identifier: Apache-2.0
"""`ctnr ps`: the containers as docker's users know them, with docker's --format."""

from __future__ import annotations

import time

from ctnr.cli.args import FLAG, VALUE, Command, Parsed, UsageError
from ctnr.cli.listing import table
from ctnr.cli.output import out
from ctnr.errors import StateError
from ctnr.jsonio import dumps
from ctnr.log import escape
from ctnr.runtime.container import Container
from ctnr.runtime.listing import list_containers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from ctnr.cli.boot import Globals, Handler

# docker's name of a field -> the heading of its column
FIELDS = {
    "ID": "CONTAINER ID",
    "Image": "SOURCE",
    "Command": "COMMAND",
    "CreatedAt": "CREATED AT",
    "RunningFor": "CREATED",
    "Status": "STATUS",
    "State": "STATE",
    "Pid": "PID",
    "Bundle": "BUNDLE",
    "Names": "NAMES",
}
_DEFAULT = "table {{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}"
_COMMAND_WIDTH = 22


def ps(g: Globals, parsed: Parsed) -> int:
    whole = parsed.flag("no-trunc")
    format = parsed.value("format") or "table"
    template = _DEFAULT if format == "table" else "{{json .}}" if format == "json" else format
    headed = template.startswith("table ")
    parts = _parse(template.removeprefix("table ").replace("\\t", "\t").replace("\\n", "\n"))
    rows: list[Mapping[str, Any]] = []
    for state in sorted(list_containers(g.root), key=lambda state: str(state.get("created", "")), reverse=True):
        if not parsed.flag("all") and state["status"] not in ("running", "paused"):
            continue
        try:
            container = Container.load(state["id"], g.root)
        except StateError:
            # removed meanwhile
            continue
        try:
            config = container.config
        except FileNotFoundError:
            # at the very beginning of its create, or killed there
            config = {}
        rows.append(_row(state, container.extra.get("source") or "", config, whole))
        container.close()
    if parsed.flag("quiet"):
        out("".join(f"{row['ID']}\n" for row in rows))
        return 0
    lines = [_fill(parts, row) for row in rows]
    if headed:
        out(table([line.split("\t") for line in (_fill(parts, FIELDS), *lines)]))
    else:
        out("".join(f"{line}\n" for line in lines))
    return 0


def _row(state: Mapping[str, Any], source: str, config: Mapping[str, Any], whole: bool) -> dict[str, Any]:
    """`source`: the SOURCE of `ctnr run`; a container from elsewhere has its root instead."""
    id = state["id"]
    # the default id is a hash, which 12 digits tell apart; a name stays whole
    short = id[:12] if not whole and len(id) == 64 and not id.strip("0123456789abcdef") else id
    command = escape(" ".join((config.get("process") or {}).get("args") or []))
    if not whole and len(command) > _COMMAND_WIDTH:
        command = command[: _COMMAND_WIDTH - 1] + "…"
    created = str(state.get("created", ""))
    status = state["status"]
    return {
        "ID": short,
        "Image": escape(source or (config.get("root") or {}).get("path") or ""),
        "Command": f'"{command}"',
        "CreatedAt": created,
        "RunningFor": f"{ago(time.time() - seconds(created))} ago" if created else "",
        "Status": {"running": "Up", "paused": "Up (Paused)", "stopped": "Exited"}.get(status, status.capitalize()),
        "State": {"stopped": "exited"}.get(status, status),
        "Pid": state.get("pid") or 0,
        "Bundle": escape(state["bundle"]),
        "Names": id,
    }


# --- docker's templates, of Go's as much as people use: {{.Field}}, {{json .Field}}, {{json .}}


def _parse(template: str) -> list[tuple[str, str, bool]]:
    """A list of (text before, field or "", as JSON); the last field is "" and not JSON. Raises UsageError."""
    parts: list[tuple[str, str, bool]] = []
    while True:
        text, braces, template = template.partition("{{")
        if not braces:
            return [*parts, (text, "", False)]
        action, braces, template = template.partition("}}")
        words = action.split()
        as_json = words[:1] == ["json"]
        name = words[-1][1:] if words and words[-1].startswith(".") else None
        if not braces or len(words) != 1 + as_json or name is None or (name not in FIELDS and (name or not as_json)):
            known = ", ".join(f".{field}" for field in FIELDS)
            raise UsageError(
                f"--format: {{{{{action}}}}} is not {{{{.FIELD}}}} or {{{{json .}}}}, FIELD one of {known}"
            )
        parts.append((text, name, as_json))


def _fill(parts: Sequence[tuple[str, str, bool]], row: Mapping[str, Any]) -> str:
    text = ""
    for before, name, as_json in parts:
        text += before
        if as_json:
            text += dumps(row[name] if name else row)
        elif name:
            text += str(row[name])
    return text


# --- time


def seconds(stamp: str) -> float:
    """An RFC 3339 time in UTC ("2026-11-21T22:48:01.5Z") as seconds since 1970."""
    import calendar

    whole, _, fraction = stamp.removesuffix("Z").partition(".")
    return calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")) + float(f"0.{fraction or 0}")


def ago(elapsed: float) -> str:
    """A duration in seconds in docker's words: "5 seconds", "About a minute", "3 days"."""
    elapsed = int(elapsed)
    if elapsed < 1:
        return "Less than a second"
    minutes, hours = elapsed // 60, (elapsed + 1800) // 3600
    for count, unit, below in (
        (elapsed, "second", 60),
        (minutes, "minute", 60),
        (hours, "hour", 48),
        (hours // 24, "day", 14),
        (hours // 24 // 7, "week", 9),
        (hours // 24 // 30, "month", 24),
    ):
        if count < below:
            if count == 1 and unit in ("minute", "hour"):
                return f"About {'an' if unit == 'hour' else 'a'} {unit}"
            return f"{count} {unit}{'' if count == 1 else 's'}"
    return f"{hours // 24 // 365} years"


COMMANDS: dict[str, tuple[Command, Handler]] = {
    "ps": (
        Command(
            "ps",
            "",
            "list the running containers",
            (
                (FLAG, "all", "a", "", "those that do not run as well"),
                (FLAG, "quiet", "q", "", "only their ids"),
                (FLAG, "no-trunc", "", "", "do not shorten anything"),
                (VALUE, "format", "", "FORMAT", "table, json, or a template as docker has them: '{{.ID}} {{.Status}}'"),
            ),
            "The processes in a container: `ctnr-oci ps CONTAINER`.",
        ),
        ps,
    )
}
