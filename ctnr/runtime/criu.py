# SPDX-License-Identifier: Apache-2.0
"""CRIU as a program: found, started (`criu swrk`), asked, and its failure in one line.

Imported only by checkpoint and restore. Each request has a CRIU of its own, which talks over a socket pair as
rpc.proto says (criu_rpc.py). CRIU opens `*_dir_fd` and `status_fd` through /proc/PID/fd of the pair's maker: of this process.
"""

from __future__ import annotations

import posix
from errno import ENOENT

from ctnr import _native, files, log
from ctnr.errors import CtnrError, SyscallError
from ctnr.runtime import criu_rpc as rpc
from ctnr.runtime import launch
from ctnr.runtime import plan as p
from ctnr.runtime.criu_program import find, search_path
from ctnr.runtime.process import Process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from ctnr.runtime.plan import Plan

    # what is to be done when CRIU has come to a point ("post-restore"): (its name, a pid or 0, the fds that came with it)
    Notify = Callable[[str, int, list[int]], None]

MINIMUM = 31100  # 3.11: external network namespaces, configuration files
_MESSAGE_SIZE = 1 << 16
_SIGKILL = 9
_LOG_LIMIT = 64 << 20
_PATIENCE = 10.0
# errors that CRIU goes on from, or says again in other words
_NOISE = ("exited, status=", "rlimit: Can't setup RLIMIT_NOFILE for self")


class Criu:
    """The CRIU of this machine. CtnrError if there is none, or it is too old."""

    __slots__ = ("path", "version")

    def __init__(self) -> None:
        path = find()
        if path is None:
            raise CtnrError('checkpoint and restore take CRIU: exec: "criu": executable file not found in $PATH')
        self.path = path
        answer = self.ask({"type": rpc.VERSION})
        found = answer.get("version") or {}
        self.version = found.get("major", 0) * 10000 + found.get("minor", 0) * 100 + found.get("sublevel", 0)
        if found.get("gitid"):  # built from between two releases: as good as the next
            self.version += 100 - self.version % 100
        self.need(MINIMUM, "checkpoint and restore")

    def need(self, version: int, what: str) -> None:
        """Raise unless CRIU is at least `version` (31400: 3.14)."""
        if self.version < version:
            text = ".".join(str(n) for n in (version // 10000, version // 100 % 100, version % 100) if n)
            raise CtnrError(f"{what} takes CRIU {text} or newer; {self.path} is {self.version}")

    def need_feature(self, name: str, flag: str) -> None:
        """Raise unless CRIU and the kernel have a feature (`mem_track`, `lazy_pages`)."""
        answer = self.ask({"type": rpc.FEATURE_CHECK, "features": {name: True}})
        if not (answer.get("features") or {}).get(name):
            raise CtnrError(f"{flag}: CRIU cannot do this on this kernel: it lacks {name}")

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """A request that concerns no container: its answer."""
        with Worker(self.path) as worker:
            answer = worker.call(request)
            if not answer.get("success"):
                raise CtnrError(f"{self.path} failed: {failure(answer, worker.said())}")
        return answer


class Worker:
    """One `criu swrk`, from its start to its end.

    `plan` is what its process does before the exec (a mount namespace, a cgroup), with `fds` for the plan's refs; `stdio`:
    the container's, where CRIU restores one (default: none, and what CRIU says there is kept for said()); `inherited`: fds
    that it gets with their numbers. `cgroup_fd`: a cgroup2 directory to be born in.
    """

    def __init__(
        self,
        path: str,
        *,
        plan: Plan | None = None,
        fds: launch.Fds | None = None,
        stdio: tuple[int, int, int] | None = None,
        inherited: Sequence[int] = (),
        cgroup_fd: int = -1,
    ) -> None:
        plan = plan or p.Plan()
        fds = fds or launch.Fds()
        own = launch.Fds()
        self._output = -1
        self._sync = -1
        self.process: Process | None = None
        try:
            sync, theirs = _native.socketpair()
            sync, theirs = own.add("sync", sync), own.add("theirs", theirs)
            if stdio is None:
                self._output = posix.memfd_create("criu", posix.MFD_CLOEXEC)
                null = own.add("null", posix.open("/dev/null", posix.O_RDWR | posix.O_CLOEXEC))
                stdio = (null, self._output, self._output)
            passed = [theirs, *inherited]
            plan.add(p.CWD, "", "/")
            plan.add(p.UMASK, "", args=(0o077,))
            plan.add(p.LOOKUP, "criu", path, "")
            plan.add(p.WAIT, "")
            argv, env = [path, "swrk", str(theirs)], [f"PATH={search_path()}"]
            plan.add(p.EXEC, "criu", p.strings(argv), p.strings(env), p.numbers(passed))
            started = launch.spawn(plan, fds, stdio, "criu", cgroup_fd, passed, False)
            try:
                started.until_ready(lambda _: b"", lambda: None)
                started.go()
                started.until_executed()
            except BaseException:
                started.abort()
                raise
            started.release()
            self.process = Process(started.pid, started.pidfd)
            self._sync = own.by_ref.pop("sync")
        except BaseException:
            self._close_output()
            raise
        finally:
            own.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def call(self, request: dict[str, Any], notify: Notify | None = None) -> dict[str, Any]:
        """Send a request, do what CRIU calls for, and return its answer.

        What `notify` raises makes CRIU undo what it did, and is raised then. CtnrError if CRIU goes away.
        """
        raised: BaseException | None = None
        self._send(request)
        while True:
            data, fds = self._receive()
            try:
                if not data:
                    raise raised or CtnrError(f"CRIU has ended without an answer: {self._ended()}")
                try:
                    answer = rpc.decode(rpc.RESPONSE, data)
                except ValueError as error:
                    raise CtnrError(f"CRIU speaks another language: {error}") from None
                if answer.get("type") != rpc.NOTIFY or "notify" not in answer:
                    if raised is not None:
                        raise raised
                    return answer
                point = answer["notify"]
                log.debug(f"CRIU: {point.get('script')} {point.get('pid', '')}")
                try:
                    if notify is not None and raised is None:
                        notify(point.get("script", ""), point.get("pid", 0), fds)
                except BaseException as error:
                    raised = error
            finally:
                for fd in fds:
                    posix.close(fd)
            self._send({"type": rpc.NOTIFY, "notify_success": raised is None})

    def _send(self, request: dict[str, Any]) -> None:
        try:
            _native.sendmsg(self._sync, rpc.encode(rpc.REQUEST, request))
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has ended, which is what will be received

    def _receive(self) -> tuple[bytes, list[int]]:
        try:
            return _native.recvmsg(self._sync, _MESSAGE_SIZE, 4)
        except ConnectionResetError:
            return b"", []

    def _ended(self) -> str:
        code = self.end()
        return self.said() or f"exit status {code}"

    def end(self) -> int:
        """Let it end, by the end of the conversation or else by force: its exit status."""
        if self._sync >= 0:
            posix.close(self._sync)
            self._sync = -1
        process = self.process
        if process is None:
            return 0
        try:
            code = process.wait(_PATIENCE)
        except TimeoutError:
            process.kill(_SIGKILL)
            code = process.wait()
        return code

    def kill(self) -> None:
        """Stop it where it is."""
        assert self.process is not None
        self.process.kill(_SIGKILL)

    def said(self) -> str:
        """What it has written to its output, if that was not the container's: one line."""
        if self._output < 0:
            return ""
        size = posix.fstat(self._output).st_size
        posix.lseek(self._output, max(0, size - 4096), 0)
        return "; ".join(_errors(posix.read(self._output, 4096).decode("utf-8", "replace")))

    def close(self) -> None:
        """End it and give up the fds."""
        self.end()
        if self.process is not None:
            self.process.close()
            self.process = None
        self._close_output()

    def _close_output(self) -> None:
        if self._output >= 0:
            posix.close(self._output)
            self._output = -1

    def __del__(self) -> None:
        self.close()


def carry_out(plan: Plan, fds: launch.Fds) -> None:
    """Let an init carry out steps that leave something behind for others, and end it there."""
    plan.add(p.WAIT, "")
    plan.add(p.EXEC, "", b"", b"")
    own = launch.Fds()
    try:
        null = own.add("null", posix.open("/dev/null", posix.O_RDWR | posix.O_CLOEXEC))
        started = launch.spawn(plan, fds, (null, null, null), "criu", -1, (), False)
        try:
            started.until_ready(lambda _: b"", lambda: None)
        finally:
            started.abort()
    finally:
        own.close()


def failure(answer: dict[str, Any], quote: str = "") -> str:
    """Why CRIU failed, from its answer and a line quoted from elsewhere."""
    number = answer.get("cr_errno", 0)
    said = answer.get("cr_errmsg", "").strip()
    why = [quote or ("; ".join(_errors(said)) if "Error (" in said else said)]
    if number:
        why.append(posix.strerror(number).lower())
    return "; ".join(part for part in why if part) or "it does not say why"


def forget_log(directory_fd: int, name: str) -> None:
    """Remove the log of an earlier run, which CRIU would overwrite unless its configuration names another."""
    try:
        posix.unlink(name, dir_fd=directory_fd)
    except OSError as error:
        if error.errno != ENOENT:
            raise SyscallError("--work-path: remove", error.errno or 0, name) from None


def explain(what: str, answer: dict[str, Any], log_path: str, config_file: str | None = None) -> CtnrError:
    """The error of a dump or a restore: what CRIU's log says, and where it is, which `config_file` may have changed."""
    quote, where = "", f"log file: {log_path}"
    try:
        quote = "; ".join(_errors(files.read_file(log_path, _LOG_LIMIT).decode("utf-8", "replace")))
    except OSError as error:
        log.debug(f"{log_path}: {error}")
        if error.errno == ENOENT and config_file:
            where = f"the log is where {config_file} says"
    return CtnrError(f"criu failed to {what}: {failure(answer, quote)} ({where})")


def _errors(text: str, most: int = 3) -> list[str]:
    """The errors in a log of CRIU's, without where in its source they are; the last ones, and not that it failed."""
    found: list[str] = []
    for line in text.splitlines():
        _, error, rest = line.partition("Error (")
        rest = rest.partition("): ")[2].strip()
        # what a tool like iptables says comes apart from what CRIU makes of it
        if error and rest and not rest.endswith(" FAILED.") and not rest.startswith(_NOISE):
            if rest not in found:
                found.append("".join(c if c.isprintable() else " " for c in rest))
    return found[-most:]


def open_directory(path: str, flag: str, make: bool) -> int:
    """An fd of a directory for CRIU, made if it is missing: only its owner may look into a memory image."""
    try:
        if make:
            files.makedirs(path, 0o700)
        return files.open_dir(path)
    except OSError as error:
        raise SyscallError(f"{flag}: {'make' if make else 'open'}", error.errno or 0, path) from None
