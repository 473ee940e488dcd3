# SPDX-License-Identifier: Apache-2.0
"""The spec's operations create, start, state, kill, delete, and runc's `run` of a bundle, `pause` and `resume`.

HOT: what conmon and containerd's shim call for every container.
"""

from __future__ import annotations

import posix

from ctnr.cli.args import FLAG, NUMBER, VALUE, Command, UsageError
from ctnr.cli.output import out
from ctnr.errors import StateError
from ctnr.files import getenv
from ctnr.runtime.container import Container

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from ctnr.cli.args import Option, Parsed
    from ctnr.cli.boot import Globals, Handler

SIGTERM = 15

_CREATE_OPTIONS: Sequence[Option] = (
    (VALUE, "bundle", "b", "DIR", "the bundle (default: the current directory)"),
    (VALUE, "config", "f", "FILE", "the configuration (default: config.json in the bundle)"),
    (VALUE, "console-socket", "", "SOCKET", "where to send the terminal's master, a unix socket"),
    (VALUE, "pid-file", "", "FILE", "where to write the process id"),
    (NUMBER, "preserve-fds", "", "N", "pass N more file descriptors, from 3 on"),
    (FLAG, "no-pivot", "", "", "do not use pivot_root: for a root filesystem on a ramdisk"),
    (FLAG, "no-new-keyring", "", "", "keep the session keyring of the caller"),
    # runc makes itself a subreaper to see the end of a container without a pid namespace; a pidfd needs none of that
    (FLAG, "no-subreaper", "", "", "no effect, as in crun"),
    (VALUE, "pidfd-socket", "", "SOCKET", "where to send a pidfd of the first process, a unix socket"),
)


def create(g: Globals, parsed: Parsed) -> int:
    _create(g, parsed, detach=True)
    return 0


def run(g: Globals, parsed: Parsed) -> int:
    detach = parsed.flag("detach")
    container = _create(g, parsed, detach)
    try:
        if detach:
            _start(container)
            return 0
        from ctnr.cli import io

        manager = getenv("NOTIFY_SOCKET")
        if manager:
            from ctnr.runtime import sdnotify

            # we are who the service manager follows
            code = io.run(container, proxy=sdnotify.proxy(container, manager, posix.getpid()))
        else:
            code = io.run(container)
    except BaseException:
        container.delete(force=True)
        raise
    if not parsed.flag("keep"):
        container.delete(force=True)
    return code


def _create(g: Globals, parsed: Parsed, detach: bool) -> Container:
    # what most callers do not use
    more: dict[str, Any] = {}
    if parsed.value("pidfd-socket"):
        more["pidfd_socket"] = parsed.value("pidfd-socket")
    if getenv("LISTEN_FDS"):
        from ctnr.cli.activation import listen_fds

        more |= {"listen_fds": listen_fds(), "listen_names": getenv("LISTEN_FDNAMES")}
    if getenv("NOTIFY_SOCKET"):
        more["notify"] = True
    return Container.create(
        parsed.args[0],
        parsed.value("bundle") or ".",
        root=g.root,
        config_path=parsed.value("config"),
        console_socket=parsed.value("console-socket"),
        pid_file=parsed.value("pid-file"),
        preserve_fds=parsed.number("preserve-fds"),
        no_pivot=parsed.flag("no-pivot"),
        no_new_keyring=parsed.flag("no-new-keyring"),
        cgroup_manager=g.cgroup_manager or "cgroupfs",
        rootless=g.rootless,
        detach=detach,
        **more,
    )


def start(g: Globals, parsed: Parsed) -> int:
    _start(Container.load(parsed.args[0], g.root))
    return 0


def _start(container: Container) -> None:
    manager = getenv("NOTIFY_SOCKET")
    if manager:
        container.start(manager)
    else:
        container.start()


def state(g: Globals, parsed: Parsed) -> int:
    from ctnr.jsonio import dumps

    out(dumps(Container.load(parsed.args[0], g.root).state(), 2) + "\n")
    return 0


def kill(g: Globals, parsed: Parsed) -> int:
    signal = SIGTERM
    if len(parsed.args) > 1:
        from ctnr.spec.signals import signal_number

        try:
            signal = signal_number(parsed.args[1])
        except ValueError as e:
            raise UsageError(str(e)) from None
    all = parsed.flag("all")
    if parsed.flag("regex"):
        from ctnr.cli import matching

        return matching.each(g, parsed.args[0], lambda container: container.kill(signal, all))
    Container.load(parsed.args[0], g.root).kill(signal, all)
    return 0


def delete(g: Globals, parsed: Parsed) -> int:
    force = parsed.flag("force")
    if parsed.flag("regex"):
        from ctnr.cli import matching

        return matching.each(g, parsed.args[0], lambda container: container.delete(force))
    try:
        container = Container.load(parsed.args[0], g.root)
    except StateError as e:
        if force and "does not exist" in str(e):
            return 0
        raise
    container.delete(force)
    return 0


def pause(g: Globals, parsed: Parsed) -> int:
    Container.load(parsed.args[0], g.root).pause()
    return 0


def resume(g: Globals, parsed: Parsed) -> int:
    Container.load(parsed.args[0], g.root).resume()
    return 0


COMMANDS: dict[str, tuple[Command, Handler]] = {
    "create": (
        Command("create", "CONTAINER", "make a container from a bundle, up to its program", _CREATE_OPTIONS),
        create,
    ),
    "start": (Command("start", "CONTAINER", "start the program of a created container"), start),
    "state": (Command("state", "CONTAINER", "show the state of a container, as JSON"), state),
    "kill": (
        Command(
            "kill",
            "CONTAINER [SIGNAL]",
            "send a signal (default: TERM) to the container's first process",
            (
                (FLAG, "all", "a", "", "to all processes of the container; no error if it is not running"),
                (FLAG, "regex", "r", "", "CONTAINER is a regular expression: to every container whose id it matches"),
            ),
            "SIGNAL is a number or a name: 9, KILL, SIGKILL, kill, RTMIN+3.",
        ),
        kill,
    ),
    "pause": (
        Command(
            "pause",
            "CONTAINER",
            "stop all processes of a container where they are",
            text="By the freezer of its cgroup. Without one they get SIGSTOP, which each of them can see.",
        ),
        pause,
    ),
    "resume": (Command("resume", "CONTAINER", "let the processes of a paused container run on"), resume),
    "delete": (
        Command(
            "delete",
            "CONTAINER",
            "remove what is left of a stopped container",
            (
                (FLAG, "force", "f", "", "kill it first if it runs; no error if there is no such container"),
                (FLAG, "regex", "r", "", "CONTAINER is a regular expression: each container whose id it matches"),
            ),
        ),
        delete,
    ),
    "run": (
        Command(
            "run",
            "CONTAINER",
            "make a container from a bundle, start it, wait for its end and remove it",
            (
                *_CREATE_OPTIONS,
                (FLAG, "detach", "d", "", "leave the container running"),
                (FLAG, "keep", "", "", "do not remove it after its end"),
            ),
            "The exit code is that of the container's program, 128+N if signal N ended it.",
        ),
        run,
    ),
}
