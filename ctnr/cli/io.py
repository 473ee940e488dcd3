# SPDX-License-Identifier: Apache-2.0
"""A process in the foreground: its terminal is ours, our signals are its own, its exit code is what we return.

HOT: `run` and `exec` without --detach import it. Signals without `signal` (it pulls in enum): `_signal` has all of it.

One loop waits for everything: signals arrive through a wakeup pipe, the end of the process through its pidfd. Both
directions of the terminal have one bounded buffer and never block, so that neither a program that does not read its
input nor a terminal that was stopped can keep a signal, a new window size or the exit from being seen.
"""

from __future__ import annotations

import errno
import fcntl
import posix
import select

from ctnr import _native
from ctnr.runtime.process import poll_exit

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable
    from typing import Any, Protocol

    from ctnr.runtime.container import Container
    from ctnr.runtime.sdnotify import Proxy

    class Foreground(Protocol):
        """What can be waited for: a container or an exec'ed process of ctnr.runtime."""

        @property
        def pid(self) -> int: ...
        @property
        def pidfd(self) -> int: ...
        @property
        def console_fd(self) -> int | None: ...
        def wait(self) -> int: ...
else:
    import _signal


# Not forwarded: what cannot be caught, what would mean a bug in ctnr, job control by the terminal (we may have to stop to
# get it back), a child's end, and the answer to a write of our own
_KEPT = (
    _signal.SIGKILL,
    _signal.SIGSTOP,
    _signal.SIGSEGV,
    _signal.SIGBUS,
    _signal.SIGFPE,
    _signal.SIGILL,
    _signal.SIGTRAP,
    _signal.SIGSYS,
    _signal.SIGTTIN,
    _signal.SIGTTOU,
    _signal.SIGCHLD,
    _signal.SIGPIPE,
    _signal.SIGURG,
)
_ENDING = (_signal.SIGHUP, _signal.SIGINT, _signal.SIGQUIT, _signal.SIGTERM)
_CHUNK = 1 << 16
_LOOK = 10  # ms between looks at a process whose end cannot be polled for
# asm-generic/ioctls.h: termios itself is loaded only where there is a terminal (0.2 ms)
_TIOCGWINSZ, _TIOCSWINSZ = 0x5413, 0x5414
_IN, _OUT = select.POLLIN, select.POLLOUT


def foreground(start: Callable[[], Foreground], stdin: bool = True, proxy: Proxy | None = None) -> int:
    """Start a process and wait for it, with our signals sent on to it and its terminal, if it has one, joined to ours.

    `start` starts it and returns it; a signal that comes before it is done is sent on then, but the second request to
    end raises KeyboardInterrupt(number) there. Returns the exit code as the process's `wait()` has it. Meanwhile our
    terminal is in raw mode; without `stdin` nothing is read, and its keys make signals as ever. It is left as it was
    found. `proxy` forwards what the process notifies of. For the main thread only.
    """
    signals = _Signals()
    try:
        process = start()
        signals.process = process
        if process.console_fd is not None:
            terminal = _Terminal(process.console_fd, stdin)
            signals.terminal = terminal
            try:
                _loop(process, signals, terminal, proxy)
            finally:
                signals.terminal = None
                terminal.close()
        else:
            _loop(process, signals, None, proxy)
        return process.wait()
    finally:
        if proxy is not None:
            proxy.close()
        signals.close()


def run(container: Container, stdin: bool = True, proxy: Proxy | None = None) -> int:
    """Start a created container and wait for its end; see foreground()."""

    def start() -> Container:
        if container.console_fd is not None:
            # before the program starts, so that it never sees another size
            follow_size(container.console_fd)
        container.start()
        return container

    return foreground(start, stdin, proxy)


def follow_size(console_fd: int) -> None:
    """Give a terminal the size of ours, if we have one."""
    size = window_size()
    if size is not None:
        fcntl.ioctl(console_fd, _TIOCSWINSZ, size)


def window_size() -> bytes | None:
    """The `struct winsize` (ioctl_tty(2)) of the terminal that stdin, stdout or stderr is, or None."""
    for fd in (0, 1, 2):
        try:
            return fcntl.ioctl(fd, _TIOCGWINSZ, b"\0" * 8)
        except OSError:
            continue
    return None


def _loop(process: Foreground, signals: _Signals, terminal: _Terminal | None, proxy: Proxy | None) -> None:
    poll = select.poll()
    poll.register(signals.fd, _IN)
    notified = proxy.fileno() if proxy is not None else -1
    if proxy is not None:
        poll.register(notified, _IN)
    polls = _native.pidfd_polls(process.pidfd)
    if polls:
        poll.register(process.pidfd, _IN)
    ended = False
    while not ended:
        if terminal is not None:
            terminal.register(poll)
        for fd, _ in poll.poll(None if polls else _LOOK):
            if fd == signals.fd:
                signals.forward()
            elif fd == process.pidfd:
                ended = True
            elif fd == notified and proxy is not None:
                if proxy.forward_or_warn():
                    poll.unregister(notified)
                    notified = -1
            elif terminal is not None:
                terminal.handle(fd)
        ended = ended or (not polls and poll_exit(process.pidfd, 0))
    # what it said last is still in the terminal; somebody who does not read it is waited for, but not against our signals
    while terminal is not None and terminal.drain():
        poll = select.poll()
        poll.register(signals.fd, _IN)
        terminal.register(poll)
        if any(fd == signals.fd for fd, _ in poll.poll()) and any(n in _ENDING for n in signals.taken()):
            break


class _Signals:
    """Our handlers: every signal that is sent on becomes a byte in a pipe the moment it arrives."""

    __slots__ = ("_early", "_old", "_wakeup", "_write_fd", "fd", "process", "terminal")

    def __init__(self) -> None:
        # whom they are for, once it has been started
        self.process: Foreground | None = None
        self.terminal: _Terminal | None = None
        self._early: set[int] = set()
        self.fd, self._write_fd = posix.pipe2(posix.O_CLOEXEC | posix.O_NONBLOCK)
        self._wakeup = _signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        self._old: dict[int, Any] = {}
        for number in _signal.valid_signals():
            # what nohup or a shell's & made us ignore stays ignored
            if number not in _KEPT and _signal.getsignal(number) != _signal.SIG_IGN:
                self._old[number] = _signal.signal(number, self._noted)

    def _noted(self, number: int, frame: object) -> None:
        """The byte in the pipe says it all; but only a signal with a handler in Python makes one."""
        if self.process is None and number in _ENDING:
            # whatever we wait for in the start may never come
            if number in self._early:
                raise KeyboardInterrupt(number)
            self._early.add(number)

    def taken(self) -> bytes:
        """What has arrived, a byte for each."""
        try:
            return posix.read(self.fd, 4096)
        except BlockingIOError:
            return b""

    def forward(self) -> None:
        """Send on what has arrived, or act on it."""
        for number in self.taken():
            if number == _signal.SIGWINCH:
                if self.terminal is not None:
                    self.terminal.resize()
                continue
            try:
                assert self.process is not None
                _native.pidfd_send_signal(self.process.pidfd, number)
            except ProcessLookupError:
                # it has ended: its pidfd says so next
                pass
            if number == _signal.SIGTSTP:
                if self.terminal is not None:
                    self.terminal.cooked()
                posix.kill(posix.getpid(), _signal.SIGSTOP)
            if number == _signal.SIGCONT and self.terminal is not None:
                # the shell has had the terminal meanwhile
                self.terminal.raw()
                self.terminal.resize()

    def close(self) -> None:
        for number, handler in self._old.items():
            # None: it was not set by Python, which cannot put it back
            _signal.signal(number, _signal.SIG_DFL if handler is None else handler)
        _signal.set_wakeup_fd(self._wakeup)
        posix.close(self.fd)
        posix.close(self._write_fd)


class _Terminal:
    """Our terminal (or whatever stdin and stdout are) on one side, the process's on the other."""

    __slots__ = (
        "_console",
        "_from_host",
        "_input",
        "_keys",
        "_master",
        "_mode",
        "_opened",
        "_output",
        "_to_host",
        "_wanted",
    )

    def __init__(self, console_fd: int, stdin: bool) -> None:
        posix.set_blocking(console_fd, False)
        self._console = console_fd
        # where from and where to; -1 when that is over
        self._master = console_fd
        self._input = 0 if stdin else -1
        self._opened = _reopened(1)
        self._output = 1 if self._opened < 0 else self._opened
        # read, and still to be written
        self._from_host = b""
        self._to_host = b""
        self._wanted: dict[int, int] = {}
        # of the terminal that we change, on descriptor 0 or, if no keys come from there, 1
        self._mode: list[Any] | None = None
        self._keys = False
        import termios

        for fd in (0, 1) if stdin else (1,):
            try:
                self._mode = termios.tcgetattr(fd)
            except termios.error:
                # no terminal, so without modes
                continue
            self._keys = fd == 0
            break
        self.raw()
        self.resize()

    # --- modes

    def raw(self) -> None:
        """No echo, no lines, no signals from keys, as cfmakeraw(3): all that is the inner terminal's work.

        Without keys to read, only its output is left alone, which has its carriage returns already.
        """
        if self._mode is None:
            return
        import termios as t

        mode = list(self._mode)
        mode[1] &= ~t.OPOST
        if self._keys:
            mode[0] &= ~(t.IGNBRK | t.BRKINT | t.PARMRK | t.ISTRIP | t.INLCR | t.IGNCR | t.ICRNL | t.IXON)
            mode[2] = mode[2] & ~(t.CSIZE | t.PARENB) | t.CS8
            mode[3] &= ~(t.ECHO | t.ECHONL | t.ICANON | t.ISIG | t.IEXTEN)
            keys = list(mode[6])
            keys[t.VMIN], keys[t.VTIME] = 1, 0
            mode[6] = keys
        self._set(mode)

    def cooked(self) -> None:
        """As it was before us."""
        if self._mode is not None:
            self._set(self._mode)

    def _set(self, mode: list[Any]) -> None:
        import termios

        try:
            termios.tcsetattr(0 if self._keys else 1, termios.TCSANOW, mode)
        except termios.error as e:
            # the terminal has gone
            if e.args[0] not in (errno.EIO, errno.ENOTTY):
                raise OSError(*e.args) from None

    def resize(self) -> None:
        if self._master >= 0:
            follow_size(self._master)

    def close(self) -> None:
        self.cooked()
        if self._opened >= 0:
            posix.close(self._opened)

    # --- copying

    def register(self, poll: select.poll) -> None:
        """Ask for what can be dealt with now: for input only where its buffer is empty."""
        wanted: dict[int, int] = {}
        if self._master >= 0:
            events = (0 if self._to_host else _IN) | (_OUT if self._from_host else 0)
            # a hangup is reported whether asked for or not: over and over
            if events:
                wanted[self._master] = events
            if self._input >= 0 and not self._from_host:
                wanted[self._input] = _IN
        if self._to_host:
            wanted[self._output] = _OUT
        if wanted == self._wanted:
            return
        for fd in self._wanted:
            if fd not in wanted:
                poll.unregister(fd)
        for fd, events in wanted.items():
            poll.register(fd, events)
        self._wanted = wanted

    def handle(self, fd: int) -> None:
        """Something can be done about `fd`."""
        if fd == self._master:
            if self._from_host:
                self._feed()
            if not self._to_host:
                self._fetch()
        elif fd == self._output:
            self._show()
        elif fd == self._input and not self._from_host:
            try:
                self._from_host = posix.read(fd, _CHUNK)
            except BlockingIOError:
                return
            except OSError as e:
                if e.errno != errno.EIO:
                    raise
            if self._from_host:
                self._feed()
                return
            self._input = -1
            if self._keys:
                # in raw mode no key means the end: our terminal is gone (tty_ioctl(4), vhangup(2))
                self._hang_up()
            # else the end of input; the inner terminal stays open, as runc leaves it

    def drain(self) -> bool:
        """After the end of the process: take what is left; whether some of it cannot be shown yet."""
        self._input = -1
        self._from_host = b""
        self._wanted = {}
        self._show()
        while not self._to_host and self._master >= 0 and self._fetch():
            pass
        return bool(self._to_host)

    def _feed(self) -> None:
        """From us to the process."""
        try:
            self._from_host = self._from_host[posix.write(self._master, self._from_host) :]
        except BlockingIOError:
            pass
        except OSError as e:
            if e.errno != errno.EIO:
                raise
            self._from_host = b""

    def _fetch(self) -> bool:
        """From the process to us; whether there was something."""
        try:
            # the kernel hands out what was written before it says EAGAIN or EIO (n_tty_read flushes first)
            self._to_host = posix.read(self._master, _CHUNK)
        except BlockingIOError:
            return False
        except OSError as e:
            if e.errno != errno.EIO:
                raise
            # nobody has the inner terminal open any more
            self._master = -1
            return False
        self._show()
        return True

    def _show(self) -> None:
        """What came from the process, to where our output goes."""
        if not self._to_host:
            return
        try:
            self._to_host = self._to_host[posix.write(self._output, self._to_host) :]
        except BlockingIOError:
            pass
        except OSError as e:
            if e.errno not in (errno.EIO, errno.EPIPE):
                raise
            self._hang_up()

    def _hang_up(self) -> None:
        """Nobody sees our output any more, so the process's terminal goes too: even a first process notices that.

        The descriptor is its owner's to close, so what it refers to is replaced.
        """
        fd = posix.open("/dev/null", posix.O_RDWR | posix.O_CLOEXEC)
        posix.dup2(fd, self._console, False)
        posix.close(fd)
        self._master = -1
        self._to_host = b""


def _reopened(fd: int) -> int:
    """A non-blocking descriptor of our own for a terminal or a pipe (the flag of `fd` is the shell's, too), or -1."""
    kind = posix.fstat(fd).st_mode & 0o170000
    if kind == 0o010000 or (kind == 0o020000 and posix.isatty(fd)):
        try:
            return posix.open(
                f"/proc/self/fd/{fd}", posix.O_WRONLY | posix.O_NONBLOCK | posix.O_NOCTTY | posix.O_CLOEXEC
            )
        except OSError:
            # another user's terminal, after su: then writing may have to wait
            pass
    return -1
