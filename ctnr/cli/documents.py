# SPDX-License-Identifier: Apache-2.0
"""`spec`, `features` and `plan`: what can be said without a container.

HOT: cri-o and containerd call `features`.
"""

from __future__ import annotations

import posix

from ctnr.cli.args import FLAG, VALUE, Command
from ctnr.cli.output import out
from ctnr.errors import CtnrError
from ctnr.files import join, write_fd
from ctnr.jsonio import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctnr.cli.args import Parsed
    from ctnr.cli.boot import Globals, Handler

CONFIG = "config.json"


def spec(g: Globals, parsed: Parsed) -> int:
    """Write the default configuration: never over config.json, but over the --file asked for, as crun does."""
    from ctnr.spec.default import default_config

    config = default_config(parsed.flag("rootless"), posix.geteuid(), posix.getegid())
    name = parsed.value("file")
    path = join(parsed.value("bundle") or "", name or CONFIG)
    flags = posix.O_WRONLY | posix.O_CREAT | posix.O_CLOEXEC | (posix.O_TRUNC if name else posix.O_EXCL)
    try:
        fd = posix.open(path, flags, 0o666)
    except FileExistsError:
        raise CtnrError(f"File {CONFIG} exists. Remove it first") from None
    try:
        write_fd(fd, (dumps(config, 4) + "\n").encode())
    finally:
        posix.close(fd)
    return 0


def features(g: Globals, parsed: Parsed) -> int:
    from ctnr.runtime.features import features

    out(dumps(features(), 4) + "\n")
    return 0


def plan(g: Globals, parsed: Parsed) -> int:
    from ctnr.runtime.planning import plan

    bundle = parsed.args[0] if parsed.args else "."
    out(
        plan(bundle, config_path=parsed.value("config"), no_pivot=parsed.flag("no-pivot")).explain().rstrip("\n") + "\n"
    )
    return 0


COMMANDS: dict[str, tuple[Command, Handler]] = {
    "spec": (
        Command(
            "spec",
            "",
            "write a config.json to start from",
            (
                (VALUE, "bundle", "b", "DIR", "where (default: the current directory)"),
                (VALUE, "file", "f", "FILE", "write this file instead, and over one that is there"),
                (FLAG, "rootless", "", "", "for the user who calls, without root"),
            ),
        ),
        spec,
    ),
    "features": (
        Command("features", "", "show what this runtime can do, as JSON (runtime-spec features.md)"),
        features,
    ),
    "plan": (
        Command(
            "plan",
            "[BUNDLE]",
            "show step by step how a container would be made from a bundle",
            (
                (VALUE, "config", "f", "FILE", "the configuration (default: config.json in the bundle)"),
                (FLAG, "no-pivot", "", "", "as for create"),
            ),
            "Each step is shown with the field of the configuration that it comes from. Nothing is made or changed.",
        ),
        plan,
    ),
}
