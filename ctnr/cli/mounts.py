# SPDX-License-Identifier: Apache-2.0
"""`mounts add`, `mounts remove`: crun's verb. HOT (mounts)."""

from __future__ import annotations

from ctnr import files, jsonio
from ctnr.cli.args import Command, UsageError
from ctnr.errors import SpecError, SyscallError
from ctnr.runtime.container import Container

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ctnr.cli.args import Parsed
    from ctnr.cli.boot import Globals, Handler


def mounts(g: Globals, parsed: Parsed) -> int:
    verb, id, path = parsed.args
    if verb not in ("add", "remove"):
        raise UsageError(f"mounts add or mounts remove is meant, not {verb!r}")
    try:
        found: Any = jsonio.loads(files.read_file(path))
    except OSError as error:
        raise SyscallError("read the mounts", error.errno or 0, path) from None
    except ValueError as error:
        raise SpecError("", f"{path} is not JSON: {error}") from None
    container = Container.load(id, g.root)
    if verb == "add":
        container.add_mounts(found)
    else:
        container.remove_mounts(found)
    return 0


COMMANDS: dict[str, tuple[Command, Handler]] = {
    "mounts": (
        Command(
            "mounts",
            "add|remove CONTAINER FILE",
            "add mounts to a container that is there, or remove some of its own",
            (),
            "FILE is a JSON list of mounts as in a config.json. To remove one takes its destination only.",
        ),
        mounts,
    ),
}
