# SPDX-License-Identifier: Apache-2.0
"""Containers as a library: `ctnr.run("host:", ["id"])`, `ctnr.create(...)`, `ctnr.Container`.

HOT: imported by every verb, so it imports nothing; what it offers is loaded when it is first asked for.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctnr.engine.api import PIPE as PIPE
    from ctnr.engine.api import Result as Result
    from ctnr.engine.api import run as run
    from ctnr.engine.options import Options as Options
    from ctnr.engine.run import create as create
    from ctnr.errors import CtnrError as CtnrError
    from ctnr.errors import SpecError as SpecError
    from ctnr.errors import StateError as StateError
    from ctnr.errors import SyscallError as SyscallError
    from ctnr.runtime.container import Container as Container
    from ctnr.runtime.landlock import Landlock as Landlock
    from ctnr.runtime.listing import list_containers as list_containers
    from ctnr.runtime.process import Process as Process
    from ctnr.runtime.supervisor.request import Request as Request

__version__ = "0.1.0"

_HOME = {
    "PIPE": "ctnr.engine.api",
    "Result": "ctnr.engine.api",
    "run": "ctnr.engine.api",
    "Options": "ctnr.engine.options",
    "create": "ctnr.engine.run",
    "CtnrError": "ctnr.errors",
    "SpecError": "ctnr.errors",
    "StateError": "ctnr.errors",
    "SyscallError": "ctnr.errors",
    "Container": "ctnr.runtime.container",
    "list_containers": "ctnr.runtime.listing",
    "Landlock": "ctnr.runtime.landlock",
    "Process": "ctnr.runtime.process",
    "Request": "ctnr.runtime.supervisor.request",
}

__all__ = [
    "PIPE",
    "Container",
    "CtnrError",
    "Landlock",
    "Options",
    "Process",
    "Request",
    "Result",
    "SpecError",
    "StateError",
    "SyscallError",
    "create",
    "list_containers",
    "run",
]


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'ctnr' has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *_HOME]
