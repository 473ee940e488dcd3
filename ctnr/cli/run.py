# SPDX-License-Identifier: Apache-2.0
"""`ctnr run`: docker's words to the engine's options, and the container in the foreground. HOT (run)."""

from __future__ import annotations

import posix

from ctnr.cli import values
from ctnr.cli.args import FLAG, LIST, VALUE, Command
from ctnr.cli.output import out
from ctnr.engine import run as engine
from ctnr.engine.options import Options
from ctnr.errors import EXIT_ENGINE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctnr.cli.args import Option, Parsed
    from ctnr.cli.boot import Globals, Handler

_OPTIONS: Sequence[Option] = (
    (FLAG, "interactive", "i", "", "let it read stdin"),
    (FLAG, "tty", "t", "", "give it a terminal"),
    (LIST, "env", "e", "NAME[=VALUE]", "set an environment variable; without a value, to what it is here"),
    (LIST, "env-file", "", "FILE", "set the variables of FILE, one NAME=VALUE in a line"),
    (VALUE, "workdir", "w", "DIR", "its working directory"),
    (VALUE, "user", "u", "USER[:GROUP]", "who it runs as: ids, or names of the container"),
    (
        LIST,
        "volume",
        "v",
        "SRC:DST[:OPTIONS]",
        "bind a directory or file of this machine (ro, rw, exec, rshared, idmap ...)",
    ),
    (
        LIST,
        "mount",
        "",
        "FIELDS",
        "type=bind|tmpfs,source=SRC,target=DST; also readonly, bind-propagation=P, tmpfs-size=N",
    ),
    (LIST, "tmpfs", "", "DIR[:OPTIONS]", "mount an empty filesystem in memory"),
    (VALUE, "hostname", "h", "NAME", "its host name (default: the container's id)"),
    (VALUE, "entrypoint", "", "PROGRAM", "run PROGRAM, with COMMAND as its arguments"),
    (FLAG, "read-only", "", "", "make the root filesystem read-only"),
    (LIST, "cap-add", "", "CAP", "add a capability, or ALL"),
    (LIST, "cap-drop", "", "CAP", "drop a capability, or ALL"),
    (FLAG, "privileged", "", "", "all capabilities, all devices, nothing masked: no boundary any more"),
    (
        LIST,
        "security-opt",
        "",
        "OPT",
        "no-new-privileges, seccomp=FILE|unconfined, landlock=FILE, mask=PATHS, unmask=ALL|PATHS",
    ),
    (VALUE, "memory", "m", "SIZE", "memory limit, e.g. 512m"),
    (VALUE, "cpus", "", "N", "how many processors it may use, e.g. 1.5"),
    (VALUE, "pids-limit", "", "N", "how many processes it may have"),
    (LIST, "ulimit", "", "NAME=SOFT[:HARD]", "a resource limit, e.g. nofile=1024"),
    (LIST, "device", "", "HOST[:DST][:rwm]", "give it a device of this machine"),
    (FLAG, "init", "", "", "run an init as process 1 that forwards signals and reaps"),
    (FLAG, "rm", "", "", "remove the container at its end (the default without --name)"),
    (VALUE, "name", "", "NAME", "its id; it stays after its end, for `ctnr ps -a` and `ctnr delete`, unless --rm"),
    (VALUE, "network", "", "host|none", "this machine's network (default), or only loopback"),
    (
        VALUE,
        "store-dir",
        "",
        "DIR",
        "where archives are unpacked (default: $CTNR_STORE, /var/lib/ctnr, ~/.local/share/ctnr)",
    ),
    (FLAG, "explain", "", "", "say step by step what would be done, and do nothing"),
)


def run(g: Globals, parsed: Parsed) -> int:
    source, *command = parsed.args
    tty = parsed.flag("tty")
    interactive = parsed.flag("interactive")
    changes = values.environment(parsed.values("env"), parsed.values("env-file"), posix.environ)
    entrypoint = parsed.value("entrypoint")
    options = Options(
        command,
        cap_add=parsed.values("cap-add"),
        cap_drop=parsed.values("cap-drop"),
        cpus=parsed.value("cpus"),
        devices=parsed.values("device"),
        entrypoint=entrypoint,
        env=dict(entry.split("=", 1) for entry in changes),
        hostname=parsed.value("hostname"),
        init=parsed.flag("init"),
        memory=parsed.value("memory"),
        mounts=parsed.values("mount"),
        name=parsed.value("name"),
        network=parsed.value("network"),
        pids_limit=parsed.value("pids-limit"),
        privileged=parsed.flag("privileged"),
        read_only=parsed.flag("read-only"),
        rm=True if parsed.flag("rm") else None,
        security_opt=parsed.values("security-opt"),
        tmpfs=parsed.values("tmpfs"),
        tty=tty,
        ulimits=parsed.values("ulimit"),
        user=parsed.value("user"),
        volumes=parsed.values("volume"),
        workdir=parsed.value("workdir"),
    )
    store = parsed.value("store-dir")
    if parsed.flag("explain"):
        out(engine.explain(source, options, root=g.root, store=store).explain())
        return 0
    stdin = 0 if interactive else posix.open("/dev/null", posix.O_RDONLY | posix.O_CLOEXEC)
    container = engine.create(
        source, options, root=g.root, store=store, stdin=stdin, cgroup_manager=g.cgroup_manager, rootless=g.rootless
    )
    try:
        from ctnr.cli import io

        code = io.run(container, interactive)
    except BaseException:
        container.delete(force=True)
        raise
    if engine.is_unwanted(container):
        container.delete(force=True)
    else:
        container.close()
    return code


COMMANDS: dict[str, tuple[Command, Handler]] = {
    "run": (
        Command(
            "run",
            "SOURCE [COMMAND [ARGS...]]",
            "run a command in a new container",
            _OPTIONS,
            "SOURCE is host: (this machine's own files, under a throw-away overlay), a directory, or a root filesystem\n"
            "archive (tar, also .gz .xz .bz2 .zst). The exit code is that of the command, 128+N if signal N ended it;\n"
            "125, 126 or 127 if it could not be started: ctnr failed, it is not executable, or not there.",
            intermixed=False,
            exit_code=EXIT_ENGINE,
        ),
        run,
    )
}
