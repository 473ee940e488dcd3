# SPDX-License-Identifier: Apache-2.0
"""`exec`: one more process in a running container, asked for in runc's words or in docker's.

HOT: what conmon and containerd's shim call for every exec and health check.
"""

from __future__ import annotations

import posix

from ctnr.cli import values
from ctnr.cli.args import FLAG, LIST, NUMBER, VALUE, Command, UsageError, whole_number
from ctnr.errors import EXIT_ENGINE, SpecError
from ctnr.files import read_file
from ctnr.jsonio import loads
from ctnr.runtime.container import Container

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from ctnr.cli.args import Option, Parsed
    from ctnr.cli.boot import Globals, Handler
    from ctnr.runtime.process import Process

# what runc's exec exits with when there is no process whose code it could be
EXIT_EXEC = 255
SIGKILL = 9

# option -> field of the process
_FIELDS = (
    ("cwd", "cwd"),
    ("workdir", "cwd"),
    ("process-label", "selinuxLabel"),
    ("apparmor", "apparmorProfile"),
)

_OPTIONS: Sequence[Option] = (
    (VALUE, "process", "p", "FILE", "take the process from FILE, the runtime-spec's process object as JSON"),
    (FLAG, "tty", "t", "", "give it a terminal"),
    (FLAG, "detach", "d", "", "leave it running"),
    (LIST, "env", "e", "NAME=VALUE", "set an environment variable"),
    (VALUE, "user", "u", "UID[:GID]", "who it runs as"),
    (LIST, "additional-gids", "g", "GID", "add a group"),
    (LIST, "cap", "c", "CAP", "add a capability"),
    (FLAG, "no-new-privs", "", "", "let it gain no privileges by setuid programs"),
    (VALUE, "process-label", "", "LABEL", "its SELinux label"),
    (VALUE, "apparmor", "", "PROFILE", "its AppArmor profile"),
    (LIST, "cgroup", "", "[CONTROLLER:]CGROUP", "run it in a cgroup below the container's"),
    (FLAG, "ignore-paused", "", "", "do not mind that the container is paused"),
    (VALUE, "console-socket", "", "SOCKET", "where to send the terminal's master, a unix socket"),
    (VALUE, "pid-file", "", "FILE", "where to write the process id"),
    (NUMBER, "preserve-fds", "", "N", "pass N more file descriptors, from 3 on"),
    (VALUE, "pidfd-socket", "", "SOCKET", "where to send a pidfd of the process, a unix socket"),
)


def run(g: Globals, parsed: Parsed) -> int:
    container = Container.load(parsed.args[0], g.root)
    process = _process(g, parsed, container)
    detach = parsed.flag("detach")
    # docker gives stdin only with -i; a process from a file is what an engine asks for, and its pipes are meant
    stdin = g.oci or parsed.flag("interactive") or parsed.value("process") is not None
    null = -1 if stdin else posix.open("/dev/null", posix.O_RDONLY | posix.O_CLOEXEC)
    started: list[Process] = []

    def start() -> Process:
        started.append(
            container.exec(
                process,
                stdin=0 if stdin else null,
                console_socket=parsed.value("console-socket"),
                pid_file=parsed.value("pid-file"),
                preserve_fds=parsed.number("preserve-fds"),
                pidfd_socket=parsed.value("pidfd-socket"),
                cgroup=_cgroup(parsed.values("cgroup")),
                ignore_paused=parsed.flag("ignore-paused"),
                detach=detach,
            )
        )
        return started[0]

    if detach:
        start()
        return 0
    if process.get("terminal"):
        _size(process)
    from ctnr.cli.io import foreground

    try:
        return foreground(start, stdin)
    except BaseException:
        # it would go on without anybody who knows of it
        for one in started:
            one.kill(SIGKILL)
        raise


def _size(process: dict[str, Any]) -> None:
    from ctnr.cli.io import window_size

    size = window_size()
    if size is not None and "consoleSize" not in process:
        from _struct import unpack

        height, width, _, _ = unpack("=4H", size)
        process["consoleSize"] = {"height": height, "width": width}


def _process(g: Globals, parsed: Parsed, container: Container) -> dict[str, Any]:
    """The runtime-spec's process: from --process, else the container's own with COMMAND; then the options over it."""
    path = parsed.value("process")
    args = parsed.args[1:]
    if path is not None:
        if args:
            raise UsageError("there is a --process: its args are the command")
        process = _read(path)
    else:
        if not args:
            raise UsageError("COMMAND or --process is missing")
        # a new document: the container's own stays as it is
        process = {**container.config.get("process", {"cwd": "/", "user": {"uid": 0, "gid": 0}})}
        process["args"] = args
        # what runc does: a terminal only for those who ask
        process["terminal"] = False
        process.pop("consoleSize", None)
    if "tty" in parsed.options:
        process["terminal"] = parsed.flag("tty")
    for option, name in _FIELDS:
        value = parsed.value(option)
        if value is not None:
            process[name] = value
    if "no-new-privs" in parsed.options:
        process["noNewPrivileges"] = parsed.flag("no-new-privs")
    _environment(g, parsed, process)
    _user(g, parsed, process, container)
    _capabilities(parsed, process)
    return process


def _cgroup(values: list[str]) -> str | dict[str, str]:
    """runc's two forms: one path for all hierarchies, or CONTROLLER[,CONTROLLER...]:PATH for some (v1)."""
    found: dict[str, str] = {}
    for value in values:
        names, colon, path = value.partition(":")
        if not colon:
            if len(values) > 1:
                raise UsageError(f"invalid --cgroup argument: {value} (missing <controller>: prefix)")
            return value
        for name in names.split(","):
            if not name:
                raise UsageError(f"invalid --cgroup argument: {value} (empty <controller> prefix)")
            if name in found:
                raise UsageError(f"invalid --cgroup argument(s): controller {name} specified multiple times")
            found[name] = path
    return found or ""


def _read(path: str) -> dict[str, Any]:
    try:
        process = loads(read_file(path))
    except ValueError as e:
        raise SpecError("", f"{path}: {e}") from None
    if not isinstance(process, dict):
        raise SpecError("", f"{path}: not a JSON object")
    return process


def _environment(g: Globals, parsed: Parsed, process: dict[str, Any]) -> None:
    changes = parsed.values("env")
    if not g.oci:
        changes = values.environment(changes, parsed.values("env-file"), posix.environ)
    if changes:
        process["env"] = values.merge_environment(process.get("env") or [], changes)


def _user(g: Globals, parsed: Parsed, process: dict[str, Any], container: Container) -> None:
    text = parsed.value("user")
    gids = [whole_number(gid, "an additional group's id", values.TOP_ID) for gid in parsed.values("additional-gids")]
    if text is None and not gids:
        return
    user = process["user"] = {**(process.get("user") or {"uid": 0, "gid": 0})}
    if text and not g.oci:
        from ctnr.engine import users

        # by fd and within its root: what the container has put there is only read
        user["uid"], user["gid"], user["additionalGids"] = users.find(f"/proc/{container.pid}/root", text)
    elif text is not None:
        uid, gid = values.user_ids(text)
        user["uid"] = uid
        if gid is not None:
            user["gid"] = gid
    if gids:
        user["additionalGids"] = [*(user.get("additionalGids") or []), *gids]


def _capabilities(parsed: Parsed, process: dict[str, Any]) -> None:
    """As runc: to what it may and does use, and to the ambient ones where inheritable ones make that possible."""
    names = parsed.values("cap")
    privileged = parsed.flag("privileged")
    if not names and not privileged:
        return
    from ctnr.spec.tables import CAPABILITIES

    for name in names:
        # in a configuration that is only worth a warning; whoever asks for it here would wait for its effect
        if name not in CAPABILITIES:
            raise UsageError(f"unknown capability {name!r}")
    if privileged:
        names = list(CAPABILITIES)
    sets = process["capabilities"] = {**(process.get("capabilities") or {})}
    kinds = ("bounding", "effective", "permitted") + (("ambient",) if sets.get("inheritable") else ())
    for kind in kinds:
        have = sets.get(kind) or []
        sets[kind] = [*have, *(name for name in names if name not in have)]


_TEXT = "The exit code is that of the command, 128+N if signal N ended it"

OCI: dict[str, tuple[Command, Handler]] = {
    "exec": (
        Command(
            "exec",
            "CONTAINER [COMMAND [ARGS...]]",
            "run one more process in a container",
            (*_OPTIONS, (VALUE, "cwd", "", "DIR", "its working directory")),
            f"{_TEXT}, and 255 if it could not be started.",
            intermixed=False,
            exit_code=EXIT_EXEC,
        ),
        run,
    )
}

ENGINE: dict[str, tuple[Command, Handler]] = {
    "exec": (
        Command(
            "exec",
            "CONTAINER [COMMAND [ARGS...]]",
            "run one more command in a running container",
            (
                (FLAG, "interactive", "i", "", "let it read stdin"),
                (VALUE, "user", "u", "USER[:GROUP]", "who it runs as: ids, or names of the container"),
                (LIST, "env-file", "", "FILE", "set the variables of FILE, one NAME=VALUE in a line"),
                (FLAG, "privileged", "", "", "give it every capability"),
                (VALUE, "workdir", "w", "DIR", "its working directory"),
                (VALUE, "cwd", "", "DIR", "the same as --workdir"),
                *_OPTIONS,
            ),
            f"{_TEXT}; 125, 126 or 127 if it could not be started: ctnr failed, it is not executable, or not there.",
            intermixed=False,
            exit_code=EXIT_ENGINE,
        ),
        run,
    )
}
