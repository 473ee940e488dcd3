# SPDX-License-Identifier: Apache-2.0
"""The log of `--log FILE --log-format text|json --log-level LEVEL`: one line for one event, in runc's two forms.

HOT: imported by every verb. Callers of an OCI runtime (containerd, podman, cri-o) read the JSON form.
"""

from __future__ import annotations

import posix
import time
from _json import encode_basestring_ascii

from ctnr.files import write_fd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Sink(Protocol):
        """Another place for what is logged."""

        def write(self, level: str, msg: str) -> None: ...
        def close(self) -> None: ...


LEVELS = {"error": 0, "warning": 1, "info": 2, "debug": 3}

_STDERR = 2
_fd = _STDERR
_json = False
_level = LEVELS["info"]
_program = ""
_sink: Sink | None = None
_only = False


def configure(path: str | None, format: str = "text", level: str = "info", program: str = "") -> None:
    """Log to the file `path` (appended to, made 0644 if new), or to stderr if None; drop what is below `level`.

    With `program`, who reads stderr is a person: "PROGRAM: level: message" instead of text lines there.
    Raises OSError if the file cannot be opened, ValueError for another format or level.
    """
    global _fd, _json, _level, _program, _sink, _only
    if format not in ("text", "json"):
        raise ValueError(f"unknown log format {format!r}: text or json")
    if level == "warn":
        level = "warning"
    if level not in LEVELS:
        raise ValueError(f"unknown log level {level!r}: {', '.join(LEVELS)}")
    fd = _STDERR
    if path is not None:
        flags = posix.O_WRONLY | posix.O_CREAT | posix.O_APPEND | posix.O_NOCTTY | posix.O_CLOEXEC
        fd = posix.open(path, flags, 0o644)
    if _fd != _STDERR:
        posix.close(_fd)
    _fd, _json, _level, _program = fd, format == "json", LEVELS[level], program
    if _sink is not None:
        _sink.close()
    _sink, _only = None, False


def send_to(sink: Sink, only: bool) -> None:
    """Have `sink` written to for each event, until configure() closes it; `only`: and nothing else."""
    global _sink, _only
    _sink, _only = sink, only


def to_stderr() -> bool:
    """Whether log lines go to stderr: then an error logged need not be printed there as well."""
    return _fd == _STDERR and not _only


def error(msg: str) -> None:
    _write("error", msg)


def warning(msg: str) -> None:
    _write("warning", msg)


def info(msg: str) -> None:
    _write("info", msg)


def debug(msg: str) -> None:
    _write("debug", msg)


def escape(text: str) -> str:
    """`text` with what could move a terminal's cursor or forge a log line (control characters, bidi marks) escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else encode_basestring_ascii(c)[1:-1] for c in text)


def _write(level: str, msg: str) -> None:
    if LEVELS[level] > _level:
        return
    if _sink is not None:
        try:
            _sink.write(level, msg)
        except OSError as e:
            write_fd(_STDERR, f"cannot write the log: {e.strerror}: {level}: {escape(msg)}\n".encode())
        if _only:
            return
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    if _json:
        line = f'{{"msg":{encode_basestring_ascii(msg)},"level":"{level}","time":"{stamp}"}}\n'
    elif _program and _fd == _STDERR:
        line = f"{_program}: {level}: {escape(msg)}\n"
    else:
        quoted = escape(msg.replace("\\", "\\\\").replace('"', '\\"'))
        line = f'time="{stamp}" level={level} msg="{quoted}"\n'
    # one write for one line: several processes append to the same file
    data = line.encode()
    try:
        write_fd(_fd, data)
    except OSError as e:
        if _fd == _STDERR:
            # nobody is left to tell
            return
        write_fd(_STDERR, f"cannot write the log: {e.strerror}: {line}".encode())
