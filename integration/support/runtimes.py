# SPDX-License-Identifier: Apache-2.0
"""Calling a runtime the way its callers do: `ctnr-oci` (or whatever CTNR_OCI names: runc and crun take the same words)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import leaks, machine, refusals, views
from .bundles import Bundle, new_id
from .users import User

Json = dict[str, Any]
TIMEOUT = 60.0


def ctnr_oci() -> Path:
    return Path(os.environ.get("CTNR_OCI") or machine.CHECKOUT / ".venv/bin/ctnr-oci")


def ctnr_bin() -> Path:
    return Path(os.environ.get("CTNR_BIN") or machine.CHECKOUT / ".venv/bin/ctnr")


@dataclass
class Result:
    """How a command ended. `code` is negative for a signal, as subprocess has it."""

    argv: list[str]
    code: int
    out: str
    err: str

    def __str__(self) -> str:
        return f"{' '.join(self.argv[-8:])}\n  exit {self.code}\n  stdout: {self.out[-2000:]!r}\n  stderr: {self.err[-2000:]!r}"

    def ok(self) -> Result:
        assert self.code == 0, str(self)
        return self

    def json(self) -> Json:
        found: Json = json.loads(self.out)
        return found

    @property
    def error_line(self) -> str:
        """The one line of the error; fails when there are more (or a Python traceback)."""
        lines = self.err.strip().splitlines()
        assert len(lines) == 1, f"wanted a one-line error: {self}"
        assert "Traceback" not in self.err, str(self)
        return lines[0]


def call(
    argv: list[str],
    user: User,
    *,
    view: str = views.HOST,
    stdin: str | bytes | int | None = subprocess.DEVNULL,
    cwd: Path | str | None = None,
    timeout: float = TIMEOUT,
    env: dict[str, str] | None = None,
    pass_fds: tuple[int, ...] = (),
) -> Result:
    """Run `argv` as `user` in `view` of the cgroup tree; stdout and stderr are captured."""
    data = stdin if isinstance(stdin, (str, bytes)) else None
    process = popen(
        argv,
        user,
        view=view,
        cwd=cwd,
        env=env,
        pass_fds=pass_fds,
        stdin=subprocess.PIPE if data is not None else stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        out, err = process.communicate(data.encode() if isinstance(data, str) else data, timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        # a container may hold our pipes: take what is there
        out, err = b"", b""
        for stream in (process.stdout, process.stderr):
            if stream:
                os.set_blocking(stream.fileno(), False)
        out = (process.stdout.read() if process.stdout else b"") or b""
        err = (process.stderr.read() if process.stderr else b"") or b""
        raise AssertionError(f"no end after {timeout} s: {' '.join(argv)}\n{out!r}\n{err!r}") from None
    finally:
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe:
                pipe.close()
        finished(process)
    return Result(
        list(argv), process.returncode, out.decode("utf-8", "surrogateescape"), err.decode("utf-8", "surrogateescape")
    )


def full_argv(argv: list[str], user: User, view: str = views.HOST) -> list[str]:
    """`argv` as user, in a view, with the checkout within the user's reach."""
    paths = [p for p in (machine.CHECKOUT, Path(argv[0]), Path(sys.base_prefix)) if p.is_absolute() and p.exists()]
    script = views.view_script(view) + (views.reach_script(_outermost(paths), user) if user.rootless else [])
    refused = refusals.prefix() if argv[0] in (str(ctnr_oci()), str(ctnr_bin())) else []
    return refused + views.wrap(user.wrap(argv), script)


def _outermost(paths: list[Path]) -> list[Path]:
    resolved = sorted({p.resolve() for p in paths})
    return [p for p in resolved if not any(q in p.parents for q in resolved)]


def popen(
    argv: list[str], user: User, *, view: str = views.HOST, env: dict[str, str] | None = None, **how: Any
) -> subprocess.Popen[bytes]:
    """Start `argv` as `user`; call `finished()` with it when it has been waited for."""
    process: subprocess.Popen[bytes] = subprocess.Popen(
        full_argv(argv, user, view), env={**user.env(), **(env or {})}, **how
    )
    leaks.own(process.pid)
    return process


def finished(process: subprocess.Popen[bytes]) -> None:
    process.wait()
    leaks.disown(process.pid)
    leaks.reap()


def read_line(process: subprocess.Popen[bytes], seconds: float = 15.0) -> str:
    """The next line of a process's stdout; fails when none comes within `seconds`."""
    import select
    import time

    assert process.stdout
    end = time.monotonic() + seconds
    line = b""
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, end - time.monotonic()))
        if not ready:
            process.kill()
            finished(process)
            raise AssertionError(f"no line within {seconds} s, only {line!r}")
        byte = os.read(process.stdout.fileno(), 1)
        if not byte:
            break
        line += byte
    return line.decode("utf-8", "replace").rstrip("\n")


class Runtime:
    """A runtime with a state root of its own, as one user, in one view of the cgroup tree."""

    def __init__(
        self, path: Path, state: Path, user: User, view: str = views.HOST, flags: tuple[str, ...] = ()
    ) -> None:
        self.path = path
        self.state_root = state
        self.user = user
        self.view = view
        self.flags = flags
        leaks.watched_roots.add(str(state))

    @property
    def name(self) -> str:
        """ "ctnr", "runc" or "crun": what it is, for the few places where peers are known to differ."""
        base = self.path.name
        return "runc" if "runc" in base else "crun" if "crun" in base else "ctnr"

    def argv(self, *args: str) -> list[str]:
        return [str(self.path), "--root", str(self.state_root), *self.flags, *args]

    def __call__(self, *args: str, **how: Any) -> Result:
        return call(self.argv(*args), self.user, view=self.view, **how)

    def popen(self, *args: str, **how: Any) -> subprocess.Popen[bytes]:
        return popen(self.argv(*args), self.user, view=self.view, **how)

    def run(self, bundle: Bundle, *flags: str, id: str | None = None, **how: Any) -> Result:
        """`run` in the foreground, with the bundle's config as it now is."""
        bundle.save()
        return self("run", *flags, "--bundle", str(bundle.path), id or new_id(), **how)

    def create(self, bundle: Bundle, *flags: str, id: str | None = None, **how: Any) -> str:
        """`create` that has to work; the id. stdio is /dev/null: a container holds its stdio open."""
        id = id or new_id()
        bundle.save()
        self.quiet("create", *flags, "--bundle", str(bundle.path), id, **how).ok()
        return id

    def start_detached(self, bundle: Bundle, *flags: str, id: str | None = None) -> str:
        """`run --detach` that has to work; the id of the running container."""
        id = id or new_id()
        bundle.save()
        self.quiet("run", "--detach", *flags, "--bundle", str(bundle.path), id).ok()
        return id

    def quiet(self, *args: str, timeout: float = TIMEOUT, **how: Any) -> Result:
        """For verbs that leave a process with our stdio: output goes to files, so that nobody waits for a pipe to close."""
        out, err = machine.scratch() / f"out-{new_id()}", machine.scratch() / f"err-{new_id()}"
        try:
            with open(out, "wb") as out_file, open(err, "wb") as err_file:
                how.setdefault("stdin", subprocess.DEVNULL)
                process = self.popen(*args, stdout=out_file, stderr=err_file, **how)
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                finished(process)
                raise AssertionError(f"no end after {timeout} s: {args}: {err.read_text()}") from None
            finished(process)
            return Result(
                self.argv(*args),
                process.returncode,
                out.read_text(errors="surrogateescape"),
                err.read_text(errors="surrogateescape"),
            )
        finally:
            out.unlink(missing_ok=True)
            err.unlink(missing_ok=True)

    def state(self, id: str) -> Json:
        return self("state", id).ok().json()

    def status(self, id: str) -> str:
        return str(self.state(id)["status"])

    def pid(self, id: str) -> int:
        return int(self.state(id)["pid"])

    def wait_status(self, id: str, wanted: str, seconds: float = 10.0) -> None:
        last = ""

        def reached() -> bool:
            nonlocal last
            last = self.status(id)
            return last == wanted

        assert machine.poll(reached, seconds, every=0.02), f"{id} is {last}, not {wanted}, after {seconds} s"

    def wait_pid_gone(self, pid: int, seconds: float = 10.0) -> None:
        def gone() -> bool:
            leaks.reap()
            return not os.path.exists(f"/proc/{pid}")

        assert machine.poll(gone, seconds), f"process {pid} is still there"

    def stop(self, id: str) -> None:
        """KILL, wait, delete."""
        self("kill", id, "KILL")
        self.wait_status(id, "stopped")
        self("delete", id).ok()

    def ids(self) -> list[str]:
        try:
            return sorted(p.name for p in self.state_root.iterdir() if not p.name.startswith("."))
        except FileNotFoundError:
            return []

    def cleanup(self) -> None:
        """Delete whatever the test did not."""
        for id in self.ids():
            self("delete", "--force", id)

    def probe(self, bundle: Bundle, *asks: str, **how: Any) -> Json:
        """What the payload sees as the bundle's process."""
        bundle.process["args"] = ["/probe", *asks]
        return parse_probe(self.run(bundle, **how).ok().out)

    def exec(self, id: str, process: Json | None = None, *flags_and_args: str, **how: Any) -> Result:
        """`exec` with a process document, or with flags and words."""
        if process is None:
            return self("exec", *flags_and_args, **how)
        document = machine.scratch() / f"process-{new_id()}.json"
        document.write_text(json.dumps(process))
        try:
            return self("exec", *flags_and_args, "--process", str(document), id, **how)
        finally:
            document.unlink()


MakeRuntime = Callable[..., Runtime]  # the fixture runtimes_of


def _decoded(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("latin-1").decode("utf-8", "surrogateescape")
    if isinstance(value, list):
        return [_decoded(v) for v in value]
    if isinstance(value, dict):
        return {_decoded(k): _decoded(v) for k, v in value.items()}
    return value


def parse_probe(text: str) -> Json:
    """The payload's JSON; it writes bytes as latin-1 code points."""
    try:
        found: Json = _decoded(json.loads(text))
    except ValueError as error:
        raise AssertionError(f"the payload's answer is no JSON ({error}): {text[-2000:]!r}") from None
    return found


def peer(name: str) -> Path:
    """An installed peer runtime (CTNR_RUNC and CTNR_CRUN name others)."""
    given = os.environ.get(f"CTNR_{name.upper()}")
    return Path(given or machine.need(name)[0])


def by_kill(process: subprocess.Popen[bytes]) -> bool:
    return process.returncode == -signal.SIGKILL
