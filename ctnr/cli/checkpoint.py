# SPDX-License-Identifier: Apache-2.0
"""`checkpoint` and `restore`: the words of runc and crun for what CRIU does. Cold."""

from __future__ import annotations

from ctnr.cli.args import CHOICE, FLAG, LIST, VALUE, Command, UsageError, whole_number
from ctnr.runtime.container import Container

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from ctnr.cli.args import Option, Parsed
    from ctnr.cli.boot import Globals, Handler

_IMAGE_PATH = "checkpoint"  # runc's default, in the working directory

_COMMON: Sequence[Option] = (
    (VALUE, "image-path", "", "DIR", "the directory of the image files (default: ./checkpoint)"),
    (VALUE, "work-path", "", "DIR", "where CRIU's log goes (default: to the image files)"),
    (FLAG, "tcp-established", "", "", "keep established TCP connections"),
    (FLAG, "tcp-close", "", "", "restore TCP connections as closed"),
    (FLAG, "ext-unix-sk", "", "", "allow unix sockets whose other end is outside"),
    (FLAG, "shell-job", "", "", "allow a terminal of the caller's to be used"),
    (FLAG, "file-locks", "", "", "keep file locks"),
    (CHOICE, "manage-cgroups-mode", "", "soft|full|strict|ignore", "what CRIU does to cgroups (default: soft)"),
    (CHOICE, "network-lock", "", "iptables|nftables|skip", "how CRIU holds the network still meanwhile"),
    (LIST, "empty-ns", "", "network", "no effect, as in runc: network devices are never in the image"),
    (FLAG, "auto-dedup", "", "", "take pages out of an image that a later one has, or that are restored"),
)
_FLAGS = ("tcp-established", "tcp-close", "ext-unix-sk", "shell-job", "file-locks", "auto-dedup", "lazy-pages")


def _common(parsed: Parsed) -> dict[str, Any]:
    given: dict[str, Any] = {name.replace("-", "_"): parsed.flag(name) for name in _FLAGS}
    given["work_path"] = parsed.value("work-path")
    given["manage_cgroups_mode"] = parsed.value("manage-cgroups-mode") or ""
    given["network_lock"] = parsed.value("network-lock")
    given["empty_ns"] = parsed.values("empty-ns")
    return given


def checkpoint(g: Globals, parsed: Parsed) -> int:
    if parsed.flag("pre-dump") and parsed.flag("lazy-pages"):
        raise UsageError("--pre-dump and --lazy-pages exclude each other")
    status_fd = parsed.options.get("status-fd")
    Container.load(parsed.args[0], g.root).checkpoint(
        parsed.value("image-path") or _IMAGE_PATH,
        parent_path=parsed.value("parent-path"),
        leave_running=parsed.flag("leave-running"),
        pre_dump=parsed.flag("pre-dump"),
        tcp_skip_in_flight=parsed.flag("tcp-skip-in-flight"),
        link_remap=parsed.flag("link-remap"),
        status_fd=_status_fd(status_fd),
        page_server=parsed.value("page-server"),
        **_common(parsed),
    )
    return 0


def _status_fd(text: str | None) -> int | None:
    if text is None or text == "-1":  # runc's default
        return None
    return whole_number(text, "--status-fd")


def restore(g: Globals, parsed: Parsed) -> int:
    detach = parsed.flag("detach")
    restored: list[Container] = []

    def start() -> Container:
        restored.append(
            Container.restore(
                parsed.args[0],
                parsed.value("bundle") or ".",
                parsed.value("image-path") or _IMAGE_PATH,
                root=g.root,
                config_path=parsed.value("config"),
                console_socket=parsed.value("console-socket"),
                pid_file=parsed.value("pid-file"),
                cgroup_manager=g.cgroup_manager or "cgroupfs",
                rootless=g.rootless,
                detach=detach,
                lsm_profile=parsed.value("lsm-profile"),
                lsm_mount_context=parsed.value("lsm-mount-context"),
                **_common(parsed),
            )
        )
        return restored[0]

    if detach:
        start()
        return 0
    from ctnr.cli import io

    try:
        return io.foreground(start)
    finally:
        for container in restored:
            container.delete(force=True)


COMMANDS: dict[str, tuple[Command, Handler]] = {
    "checkpoint": (
        Command(
            "checkpoint",
            "CONTAINER",
            "write a running container's processes to files, by CRIU, and end it",
            (
                *_COMMON,
                (FLAG, "leave-running", "", "", "let the container go on"),
                (FLAG, "pre-dump", "", "", "write only the memory, and let the container go on"),
                (VALUE, "parent-path", "", "DIR", "an earlier pre-dump, relative to --image-path: only the changes"),
                (FLAG, "tcp-skip-in-flight", "", "", "leave out TCP connections that are not established yet"),
                (FLAG, "link-remap", "", "", "link files back that were unlinked, where that is possible"),
                (FLAG, "lazy-pages", "", "", "leave the memory to be fetched from --page-server"),
                (VALUE, "page-server", "", "ADDRESS:PORT", "where the memory is sent to, or waits with --lazy-pages"),
                (VALUE, "status-fd", "", "N", "write a NUL to this descriptor once --lazy-pages is ready"),
            ),
            "The image files hold all of the container's memory; nobody else should be able to read or change them.",
        ),
        checkpoint,
    ),
    "restore": (
        Command(
            "restore",
            "CONTAINER",
            "make a container from a bundle and the files of a checkpoint, by CRIU",
            (
                (VALUE, "bundle", "b", "DIR", "the bundle (default: the current directory)"),
                (VALUE, "config", "f", "FILE", "the configuration (default: config.json in the bundle)"),
                *_COMMON,
                (FLAG, "detach", "d", "", "leave the container running"),
                (VALUE, "pid-file", "", "FILE", "where to write the process id"),
                (VALUE, "console-socket", "", "SOCKET", "where to send the terminal's master, a unix socket"),
                (FLAG, "lazy-pages", "", "", "let `criu lazy-pages` bring the memory when it is needed"),
                (VALUE, "lsm-profile", "", "TYPE:NAME", "another AppArmor or SELinux profile than it had"),
                (VALUE, "lsm-mount-context", "", "CONTEXT", "another SELinux context for its mounts"),
                (FLAG, "no-subreaper", "", "", "no effect, as in crun"),
                (FLAG, "no-pivot", "", "", "no effect, as in runc: CRIU changes the root"),
            ),
            "The files decide what the processes are, as root: restore only what you would run as root. "
            "The exit code is that of the container's program, 128+N if signal N ended it.",
        ),
        restore,
    ),
}
