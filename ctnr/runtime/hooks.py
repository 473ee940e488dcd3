# SPDX-License-Identifier: Apache-2.0
"""Hooks that run in the runtime's namespaces: prestart, createRuntime, poststart, poststop (config.md#posix-platform-hooks).

HOT: imported only by containers that have hooks. createContainer and startContainer are the init's business.
"""

from __future__ import annotations

import posix

from ctnr import files, jsonio, log
from ctnr.errors import CtnrError, HookError, SyscallError
from ctnr.runtime.child import TimedOut, run_program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ctnr.runtime.container import Container
    from ctnr.runtime.launch import Fds
    from ctnr.spec.types import Config, Hook

# where the hooks' output goes instead of into the error of one that fails; crun's, ctnr(1) says so
OUTPUTS = ("run.oci.hooks.stdout", "run.oci.hooks.stderr")


def open_outputs(config: Config) -> tuple[int, int]:
    """The files of run.oci.hooks.stdout and .stderr, opened to be appended to; -1 for one that is not asked for."""
    annotations = config.get("annotations") or {}
    fds = [-1, -1]
    try:
        for i, name in enumerate(OUTPUTS):
            path = annotations.get(name)
            if path:
                flags = posix.O_WRONLY | posix.O_APPEND | posix.O_CREAT | posix.O_NOCTTY | posix.O_CLOEXEC
                try:
                    fds[i] = posix.open(path, flags, 0o600)
                except OSError as error:
                    raise SyscallError(f"annotations.{name}: open", error.errno or 0, path) from None
    except BaseException:
        _close(fds)
        raise
    return fds[0], fds[1]


def init_outputs(config: Config, fds: Fds) -> tuple[int, ...]:
    """The same for the hooks that the init runs: kept in `fds` as "hooks:1" and "hooks:2"; which of these there are."""
    kinds: Any = config.get("hooks") or {}
    if not kinds.get("createContainer") and not kinds.get("startContainer"):
        return ()
    found = [(number, fd) for number, fd in enumerate(open_outputs(config), 1) if fd >= 0]
    for number, fd in found:
        fds.add(f"hooks:{number}", fd)
    return tuple(number for number, _ in found)


def _close(fds: list[int] | tuple[int, ...]) -> None:
    for fd in fds:
        if fd >= 0:
            posix.close(fd)


def environment() -> list[str]:
    """What a hook that has no env gets, as in runc and crun: ours. But nothing that would load code into it."""
    pairs = posix.environ.items()
    return [
        f"{files.fsdecode(k)}={files.fsdecode(v)}" for k, v in pairs if not k.startswith((b"LD_", b"NOTIFY_SOCKET"))
    ]


def run(config: Config, kind: str, state: dict[str, Any]) -> None:
    """Run the hooks of a kind in order with the state on stdin; the first failure is a HookError that names it."""
    hooks: dict[str, list[Hook]] = config.get("hooks") or {}  # type: ignore[assignment]
    if not hooks.get(kind):
        return
    document = jsonio.dumps(state).encode("utf-8", "surrogateescape")
    outputs = open_outputs(config)
    try:
        for i, hook in enumerate(hooks[kind]):
            _run(hook, kind, i, document, state.get("bundle") or "/", outputs)
    finally:
        _close(outputs)


def _run(hook: Hook, kind: str, i: int, document: bytes, bundle: str, outputs: tuple[int, int]) -> None:
    where = f"hooks.{kind}[{i}]: {hook['path']}"
    timeout = hook.get("timeout")
    env = hook.get("env")
    try:
        status, output = run_program(
            hook["path"],
            hook.get("args") or [hook["path"]],
            environment() if env is None else env,
            document,
            timeout,
            bundle,
            outputs,
        )
    except TimedOut:
        raise HookError(f"error running {kind} hook #{i}: {where}: did not end within {timeout} s, killed") from None
    except CtnrError as error:
        raise HookError(f"error running {kind} hook #{i}: {where}: {error}") from None
    if status:
        text = f", output: {output}" if output else ""
        # runc's words, and for what is only a warning crun's
        how = "exit status" if kind != "poststop" else "poststop hook failed with exit code"
        raise HookError(f"error running {kind} hook #{i}: {where}: {how} {status}{text}")


def inner_state(container: Container, status: str) -> bytes:
    """The state document for hooks in the container's namespaces: `pid` is as seen there (runtime.md#state)."""
    document = container._document(status)
    seen = files.read_file(f"/proc/{container.pid}/status")
    at = seen.find(b"\nNSpid:")
    if at >= 0:
        document["pid"] = int(seen[at + 7 : seen.index(b"\n", at + 1)].split()[-1])
    return jsonio.dumps(document).encode("utf-8", "surrogateescape")


def poststart(container: Container) -> None:
    """Run them; one that fails is the end of the container."""
    try:
        run(container.config, "poststart", container._document("running"))
    except CtnrError:
        end(container)
        raise


def end(container: Container) -> None:
    """A hook that should have let it start or go on has failed: undo it all (runtime.md#lifecycle, 7 and 9)."""
    try:
        container.delete(force=True)
    except CtnrError as error:
        log.warning(f"cannot remove the container whose hook failed: {error}")


def run_all(config: Config, kind: str, state: dict[str, Any]) -> None:
    """As run(), but every hook has its turn and failures are warnings (runtime.md#lifecycle, poststop)."""
    hooks = list((config.get("hooks") or {}).get(kind) or ())  # type: ignore[call-overload]
    for i in range(len(hooks)):
        try:
            run({**config, "hooks": {kind: hooks[i : i + 1]}}, kind, state)  # type: ignore[misc]
        except CtnrError as error:
            log.warning(str(error))
