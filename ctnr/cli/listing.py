# SPDX-License-Identifier: Apache-2.0
"""`list`, the containers, and runc's `ps`, the processes of one. docker's `ps` is in ctnr/cli/containers.py.

HOT: containerd's shim calls `ps --format json`.
"""

from __future__ import annotations

import posix

from ctnr.cli.args import CHOICE, FLAG, Command
from ctnr.cli.output import SIGPIPE, out
from ctnr.errors import CtnrError
from ctnr.jsonio import dumps
from ctnr.runtime.container import Container
from ctnr.runtime.listing import list_containers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctnr.cli.args import Parsed
    from ctnr.cli.boot import Globals, Handler


def containers(g: Globals, parsed: Parsed) -> int:
    """runc's `list`."""
    if g.root is not None:
        # a mistyped --root is not an empty one
        posix.stat(g.root)
    states = list_containers(g.root)
    if parsed.flag("quiet"):
        out("".join(f"{state['id']}\n" for state in states))
    elif parsed.value("format") == "json":
        out(dumps(states) + "\n")
    else:
        columns = ("id", "pid", "status", "bundle", "created", "owner")
        rows = [[str(state.get(name, "")) for name in columns] for state in states]
        out(table([[name.upper() for name in columns], *rows]))
    return 0


def processes(g: Globals, parsed: Parsed) -> int:
    """runc's `ps`."""
    pids = Container.load(parsed.args[0], g.root).processes()
    if parsed.value("format") == "json":
        if len(parsed.args) > 1:
            raise CtnrError("options of ps have no effect on the json format")
        out(dumps(pids) + "\n")
        return 0
    title, *lines = _host_ps(parsed.args[1:] or ["-ef"])
    names = title.split()
    if "PID" not in names:
        raise CtnrError("couldn't find PID field in ps output")
    column = names.index("PID")
    wanted = {str(pid) for pid in pids}
    lines = [line for line in lines if line.split()[column : column + 1] and line.split()[column] in wanted]
    out("".join(f"{line}\n" for line in (title, *lines)))
    return 0


def _host_ps(options: Sequence[str]) -> list[str]:
    """The output of the machine's ps(1), which sees the processes of all containers."""
    from ctnr.files import fsdecode, read_fd

    read_end, write_end = posix.pipe2(posix.O_CLOEXEC)
    try:
        actions = [(posix.POSIX_SPAWN_DUP2, write_end, fd) for fd in (1, 2)]
        try:
            # Python ignores SIGPIPE, which a child would inherit
            pid = posix.posix_spawnp("ps", ["ps", *options], posix.environ, file_actions=actions, setsigdef=[SIGPIPE])
        except FileNotFoundError:
            raise CtnrError("ps is not installed on this machine; --format json needs none") from None
        finally:
            posix.close(write_end)
        text = fsdecode(read_fd(read_end))
    finally:
        posix.close(read_end)
    _, status = posix.waitpid(pid, 0)
    if status:
        raise CtnrError(f"ps failed: {text.strip()}")
    return text.splitlines() or [""]


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows in columns, laid out as runc's (and docker's) tabwriter does: 3 blanks between, no column under 12 wide."""
    widths = [max(12, 3 + max(len(row[i]) for row in rows)) for i in range(len(rows[0]) - 1)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("".join(cells) + row[-1] + "\n")
    return "".join(lines)


COMMANDS: dict[str, tuple[Command, Handler]] = {
    "list": (
        Command(
            "list",
            "",
            "list the containers",
            (
                (CHOICE, "format", "f", "table|json", "how (default: table)"),
                (FLAG, "quiet", "q", "", "only their ids"),
            ),
        ),
        containers,
    ),
    "ps": (
        Command(
            "ps",
            "CONTAINER [PS_OPTION...]",
            "list the processes of a container",
            ((CHOICE, "format", "f", "table|json", "how: as ps(1) does, or their process ids (default: table)"),),
            "The options are those of the machine's ps(1) (default: -ef).",
            intermixed=False,
        ),
        processes,
    ),
}
