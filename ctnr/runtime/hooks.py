# SPDX-License-Identifier: Apache-2.0
"""Hooks that run in the runtime's namespaces: prestart, createRuntime, poststart, poststop (config.md#posix-platform-hooks).

HOT: imported only by containers that have hooks. createContainer and startContainer are the init's business.
"""

from __future__ import annotations

from ctnr import jsonio, log
from ctnr.errors import CtnrError
from ctnr.runtime.child import TimedOut, run_program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ctnr.spec.types import Config, Hook


def run(config: Config, kind: str, state: dict[str, Any]) -> None:
    """Run the hooks of a kind in order with the state on stdin; the first failure is a CtnrError that names it."""
    hooks: dict[str, list[Hook]] = config.get("hooks") or {}  # type: ignore[assignment]
    document = b""
    for i, hook in enumerate(hooks.get(kind) or ()):
        if not document:
            document = jsonio.dumps(state).encode("utf-8", "surrogateescape")
        where = f"hooks.{kind}[{i}]: {hook['path']}"
        timeout = hook.get("timeout")
        try:
            status, output = run_program(
                hook["path"],
                hook.get("args") or [hook["path"]],
                hook.get("env") or [],
                document,
                timeout,
                state.get("bundle") or "/",
            )
        except TimedOut:
            raise CtnrError(
                f"error running {kind} hook #{i}: {where}: did not end within {timeout} s, killed"
            ) from None
        except CtnrError as error:
            raise CtnrError(f"error running {kind} hook #{i}: {where}: {error}") from None
        if status:
            text = f", output: {output}" if output else ""
            raise CtnrError(f"error running {kind} hook #{i}: {where}: exit status {status}{text}")


def run_all(config: Config, kind: str, state: dict[str, Any]) -> None:
    """As run(), but every hook has its turn and failures are warnings (runtime.md#lifecycle, poststop)."""
    hooks = list((config.get("hooks") or {}).get(kind) or ())  # type: ignore[call-overload]
    for i in range(len(hooks)):
        try:
            run({"hooks": {kind: hooks[i : i + 1]}}, kind, state)  # type: ignore[misc]
        except CtnrError as error:
            log.warning(str(error))
