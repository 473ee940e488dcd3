# SPDX-License-Identifier: Apache-2.0
"""The commands `ctnr` and `ctnr-oci`: global options, which verb is where, errors printed once, and the exit.

HOT: imported by every verb; each verb's own module only when it is called.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` without its enums
import gc
import posix
import sys

from ctnr import log
from ctnr.cli.args import CHOICE, FLAG, VALUE, Command, Parsed, UsageError, expect, parse, usage
from ctnr.cli.output import SIGCHLD, SIGHUP, SIGINT, SIGTERM, complain, describe, die_of, out
from ctnr.errors import EXIT_ENGINE, EXIT_FAILURE, CtnrError
from ctnr.files import abspath, basename, getenv

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn

    from ctnr.cli.args import Option

    Handler = Callable[["Globals", Parsed], int]

# Those that speak runc's language: `run` takes a bundle, `ps` a container, exec's failure is 255
OCI_PROGRAMS = ("ctnr-oci", "runc", "crun")

GLOBAL_OPTIONS: Sequence[Option] = (
    (VALUE, "root", "", "DIR", "where the containers' state is (default: /run/ctnr, or $XDG_RUNTIME_DIR/ctnr)"),
    (
        VALUE,
        "log",
        "",
        "FILE",
        "append the log to FILE, or to the daemon of journald:NAME, syslog:NAME (default: stderr)",
    ),
    (CHOICE, "log-format", "", "text|json", "how a line of the log looks (default: text)"),
    (CHOICE, "log-level", "", "error|warning|info|debug", "what is logged (default: info)"),
    (FLAG, "systemd-log", "", "", "log to journald, too"),
    (FLAG, "debug", "", "", "log everything, and show where an internal error comes from"),
    (FLAG, "systemd-cgroup", "", "", "the same as --cgroup-manager systemd"),
    (CHOICE, "cgroup-manager", "", "cgroupfs|systemd|disabled", "who makes the cgroups (default: cgroupfs)"),
    (CHOICE, "rootless", "", "auto|true|false", "go on where cgroups are forbidden (default: auto, if not root)"),
    (FLAG, "version", "v", "", "show the version"),
)

_TEXT = "`{0} COMMAND --help` says what a command takes."


class Globals:
    """What is valid for any verb: the options before it, and which of the two commands we are."""

    __slots__ = ("cgroup_manager", "debug", "oci", "program", "root", "rootless")

    def __init__(self, program: str) -> None:
        self.program = program
        self.oci = program in OCI_PROGRAMS
        # None: the default of whoever uses it
        self.root: str | None = None
        self.cgroup_manager: str | None = None
        self.rootless: bool | None = None
        self.debug = getenv("CTNR_DEBUG") not in (None, "", "0")

    def take(self, options: Parsed) -> None:
        """Take over the options before the verb, and open the log they ask for. Raises UsageError, OSError."""
        self.debug = self.debug or options.flag("debug")
        target = options.value("log")
        daemon = ("journald", self.program) if options.flag("systemd-log") else None
        if target is not None:
            scheme, colon, rest = target.partition(":")
            if colon and scheme in ("journald", "syslog"):
                target, daemon = None, (scheme, rest)
            else:
                target = rest if colon and scheme == "file" else target
        level = "debug" if self.debug else options.value("log-level") or "info"
        log.configure(target, options.value("log-format") or "text", level, "" if self.oci else self.program)
        if daemon is not None:
            from ctnr.cli.logsocket import sink

            # youki's --systemd-log comes beside the log
            log.send_to(sink(*daemon), only=not options.flag("systemd-log"))
        root = options.value("root")
        if root is not None:
            self.root = abspath(root)
            if self.root == "/":
                raise UsageError("--root may not be /")
        self.cgroup_manager = options.value("cgroup-manager")
        if options.flag("systemd-cgroup"):
            if self.cgroup_manager not in (None, "systemd"):
                raise UsageError(f"--systemd-cgroup contradicts --cgroup-manager {self.cgroup_manager}")
            self.cgroup_manager = "systemd"
        rootless = options.value("rootless") or "auto"
        self.rootless = None if rootless == "auto" else rootless == "true"


def script(argv: list[str]) -> NoReturn:
    """The whole of the process; `argv` begins with the program's name, "ctnr" or "ctnr-oci". Never returns."""
    gc.disable()  # a command ends before collecting would pay; it costs 1 ms of a start
    _open_standard_fds()
    # ignored by our caller, the kernel would throw the exit codes of containers away
    _signal.signal(SIGCHLD, _signal.SIG_DFL)
    for number in (SIGHUP, SIGTERM):
        # as ^C does: what is half made is undone on the way out
        if _signal.getsignal(number) == _signal.SIG_DFL:
            _signal.signal(number, _interrupt)
    code = main(argv)
    # what went through print(); out() has no buffer
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as e:
        complain(f"{argv[0]}: cannot write the output: {describe(e)}")
        code = code or EXIT_FAILURE
    # no atexit, no finalizing: worth 2 ms, and nothing is left to be done
    posix._exit(code)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt(number)


def _open_standard_fds() -> None:
    """A caller may have closed 0, 1 or 2; the next file opened, a container's, would be taken for it."""
    for fd in (0, 1, 2):
        try:
            posix.fstat(fd)
        except OSError:
            posix.open("/dev/null", posix.O_RDWR)
            posix.set_inheritable(fd, True)


def main(argv: list[str]) -> int:
    """Run the command `argv`, of which [0] is the name it is called by; its exit code. Errors are printed here, once."""
    g = Globals(basename(argv[0]))
    top = command = _top(g)
    try:
        options = parse(argv[1:], top)
        verb, *rest = options.args or ["help"]
        if verb == "help" and rest:
            verb, rest = rest[0], ["--help"]
        if options.flag("version") or (verb == "version" and not g.oci):
            return _version(g)
        if options.flag("help") or verb == "help":
            out(usage(g.program, top, all_commands(g)))
            return 0
        g.take(options)
        if verb == "image" and not g.oci:
            from ctnr.cli import image

            if not rest or rest[0] in ("--help", "-h", "help"):
                out(usage(g.program, image.GROUP, image.group()))
                return 0
            command, handler = image.find(rest)
            del rest[0]
        else:
            command, handler = _find(g, verb)
        parsed = parse(rest, command)
        if parsed.flag("help"):
            out(usage(g.program, command))
            return 0
        expect(parsed, command)
        return handler(g, parsed)
    except KeyboardInterrupt as e:
        die_of(e.args[0] if e.args else SIGINT)
    except UsageError as e:
        return _fail(g, command, e, f"{e} (see '{f'{g.program} {command.name}'.rstrip()} --help')")
    except (CtnrError, OSError) as e:
        return _fail(g, command, e, describe(e))
    except Exception as e:
        if g.debug:
            import traceback

            complain(traceback.format_exc().rstrip())
        hint = "" if g.debug else " (CTNR_DEBUG=1 shows where)"
        return _fail(g, command, e, f"internal error, please report it: {type(e).__name__}: {e}{hint}")


def _fail(g: Globals, command: Command, error: Exception, message: str) -> int:
    """Print the error, log it where there is a log, and say what to exit with."""
    if g.oci:
        if command.exit_code not in (EXIT_FAILURE, EXIT_ENGINE) and not isinstance(error, UsageError):
            message = f"{command.name} failed: {message}"
        log.error(message)
        if not log.to_stderr():
            complain(log.escape(message))
        return EXIT_FAILURE if isinstance(error, UsageError) else command.exit_code
    complain(f"{g.program}: {log.escape(message)}")
    if not log.to_stderr():
        log.error(message)
    if command.exit_code != EXIT_ENGINE:
        return command.exit_code
    return error.exit_code if isinstance(error, CtnrError) else EXIT_ENGINE


def _version(g: Globals) -> int:
    from ctnr import __version__
    from ctnr.spec.tables import OCI_VERSION

    # runc's shape: podman, docker and containerd read these lines
    lines = [f"{g.program} version {__version__}", f"spec: {OCI_VERSION}", f"python: {sys.version.split()[0]}"]
    if g.oci:
        lines.append("+SYSTEMD +SELINUX +APPARMOR +CAP +SECCOMP +EBPF +CRIU")  # crun's words for what it was built with
    out("\n".join(lines) + "\n")
    return 0


# --- which verb is where


def _top(g: Globals) -> Command:
    summary = "Run containers from OCI bundles" if g.oci else "Run containers: no daemon, no root, no runc"
    text = f"`{g.program} COMMAND --help` says what a command takes."
    return Command("", "COMMAND [ARGS...]", summary, GLOBAL_OPTIONS, text, intermixed=False)


_OCI = ("create", "start", "state", "kill", "delete", "pause", "resume")
_DOCUMENTS = ("spec", "features", "plan")
_CRIU = ("checkpoint", "restore")
# docker's names for commands of `ctnr image`
_IMAGES = ("pull", "push", "images", "save", "load", "tag", "rmi", "history")
_LOGINS = ("login", "logout")


def _find(g: Globals, verb: str) -> tuple[Command, Handler]:
    """The command `verb` and what carries it out. Raises UsageError."""
    table: dict[str, tuple[Command, Handler]] = {}
    if verb in _OCI or (verb == "run" and g.oci):
        from ctnr.cli import oci

        table = oci.COMMANDS
    elif verb == "run":
        from ctnr.cli import run

        table = run.COMMANDS
    elif verb == "exec":
        from ctnr.cli import exec

        table = exec.OCI if g.oci else exec.ENGINE
    elif verb == "list" or (verb == "ps" and g.oci):
        from ctnr.cli import listing

        table = listing.COMMANDS
    elif verb == "events":
        from ctnr.cli import events

        table = events.COMMANDS
    elif verb == "update":
        from ctnr.cli import update

        table = update.COMMANDS
    elif verb == "mounts":
        from ctnr.cli import mounts

        table = mounts.COMMANDS
    elif verb == "ps":
        from ctnr.cli import containers

        table = containers.COMMANDS
    elif verb in _DOCUMENTS:
        from ctnr.cli import documents

        table = documents.COMMANDS
    elif verb in _CRIU:
        from ctnr.cli import checkpoint

        table = checkpoint.COMMANDS
    elif verb == "completion":
        from ctnr.cli import completion

        table = completion.COMMANDS
    elif verb in _IMAGES and not g.oci:
        from ctnr.cli import image

        table = image.COMMANDS
    elif verb in _LOGINS and not g.oci:
        from ctnr.cli import login

        table = login.COMMANDS
    if verb not in table:
        raise UsageError(f"unknown command {verb!r}")
    return table[verb]


def all_commands(g: Globals) -> list[Command]:
    """Every command, for the help."""
    verbs = (*_OCI, "run", "exec", "list", "ps", "update", "events", "mounts", *_DOCUMENTS, *_CRIU, "completion")
    found = [_find(g, verb)[0] for verb in verbs]
    if not g.oci:
        from ctnr.cli import image

        found += [image.GROUP, *(_find(g, verb)[0] for verb in (*_IMAGES, *_LOGINS))]
    return sorted(found, key=lambda command: command.name)
