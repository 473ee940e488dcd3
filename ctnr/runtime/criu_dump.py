# SPDX-License-Identifier: Apache-2.0
"""checkpoint: a running container into image files, by CRIU. Imported only by it."""

from __future__ import annotations

import posix
from errno import EBADF
from fcntl import F_GETFL, fcntl

from ctnr import files, jsonio, log
from ctnr.errors import CtnrError, StateError, SyscallError
from ctnr.runtime import criu_mounts, criu_rpc
from ctnr.runtime import criu_options as common
from ctnr.runtime.compile import Context
from ctnr.runtime.criu import Criu, Worker, explain, forget_log, open_directory
from ctnr.runtime.criu_program import find

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from ctnr.runtime.container import Container

_LOG = "dump.log"


def checkpoint(
    container: Container,
    image_path: str,
    *,
    work_path: str | None = None,
    parent_path: str | None = None,
    leave_running: bool = False,
    pre_dump: bool = False,
    tcp_established: bool = False,
    tcp_skip_in_flight: bool = False,
    tcp_close: bool = False,
    link_remap: bool = False,
    ext_unix_sk: bool = False,
    shell_job: bool = False,
    file_locks: bool = False,
    auto_dedup: bool = False,
    lazy_pages: bool = False,
    status_fd: int | None = None,
    page_server: str | None = None,
    manage_cgroups_mode: str = "",
    network_lock: str | None = None,
    empty_ns: Iterable[str] = (),
) -> None:
    """Write the container's processes to the directory `image_path`; they end then, and the container is deleted.

    Not with `leave_running`, nor with `pre_dump`, which writes only the memory. `parent_path` is the directory of an earlier
    pre-dump, relative to `image_path`, whose pages are not written again. `work_path` is where dump.log goes. `page_server`
    is ADDRESS:PORT, where the pages are sent to; with `lazy_pages`, where they are fetched from, once a NUL has been written
    to `status_fd`. The rest are CRIU's options of these names. Raises StateError, CtnrError, SyscallError.
    """
    common.need_root("checkpoint")
    container._dir.lock()
    try:
        status = container.status()
        if status not in ("running", "paused"):
            raise StateError(f"Container cannot be checkpointed in {status} state", container.id, status)
        if "source" in container.extra:
            raise CtnrError(f"container {container.id} was made by `ctnr run`: there is no bundle to restore it from")
        criu = Criu()
        server = _address(page_server)
        config = container.config
        opts: dict[str, Any] = {
            "log_level": common.LOG_LEVEL,
            "log_file": _LOG,
            "root": container.extra["rootfs"],
            "pid": container.pid,
            "notify_scripts": True,
            "manage_cgroups": True,
            "manage_cgroups_mode": common.cgroup_mode(manage_cgroups_mode),
            "shell_job": shell_job,
            "leave_running": leave_running,
            "tcp_established": tcp_established,
            "tcp_skip_in_flight": tcp_skip_in_flight or None,
            "tcp_close": tcp_close or None,
            "link_remap": link_remap,
            "ext_unix_sk": ext_unix_sk,
            "file_locks": file_locks,
            "empty_ns": common.empty_namespaces(empty_ns),
            "orphan_pts_master": common.own_terminals(config, shell_job),
            "auto_dedup": auto_dedup,
            "lazy_pages": lazy_pages,
            "network_lock": _lock_method(network_lock, criu),
            "config_file": common.configuration(config),
            "freeze_cgroup": _freezer(container, criu),
            "ps": server,
            "external": common.external_namespaces(config),
        }
        if pre_dump or parent_path is not None:
            criu.need_feature("mem_track", "--pre-dump" if pre_dump else "--parent-path")
            opts["track_mem"] = True
        if lazy_pages:
            criu.need_feature("lazy_pages", "--lazy-pages")
            if server is None:
                raise CtnrError("--lazy-pages: --page-server ADDRESS:PORT says where the pages are to be had")
        if status_fd is not None:
            _check_status_fd(status_fd)
            if criu.version < 31500:  # later ones tell us when it is time
                opts["status_fd"] = status_fd
        fds = [open_directory(image_path, "--image-path", make=True)]
        try:
            opts["images_dir_fd"] = fds[0]
            if work_path is not None:
                fds.append(open_directory(work_path, "--work-path", make=True))
                opts["work_dir_fd"] = fds[1]
            if parent_path is not None:
                opts["parent_img"] = _parent(parent_path, fds[0])
            if not pre_dump:
                _mounts(container, opts)
                links = _descriptors(container)
                opts["external"] += [link for link in dict.fromkeys(links) if link.startswith("file[")]
                _write(fds[0], common.DESCRIPTORS, jsonio.dumps(links).encode("utf-8", "surrogateescape"))
            forget_log(fds[-1], _LOG)
            _dump(criu, opts, pre_dump, status_fd, files.join(work_path or image_path, _LOG))
        finally:
            for fd in fds:
                posix.close(fd)
        if not leave_running and not pre_dump:
            try:
                container._delete(force=True)
            except CtnrError as error:  # the images are good
                log.warning(f"the container is checkpointed, but not all of it could be removed: {error}")
    finally:
        container._dir.unlock()


def _dump(criu: Criu, opts: dict[str, Any], pre_dump: bool, status_fd: int | None, log_path: str) -> None:
    ready: list[int] = [] if status_fd is None else [status_fd]

    def notify(script: str, pid: int, fds: list[int]) -> None:
        if script == "status-ready" and ready:
            fd = ready.pop()
            try:
                posix.write(fd, b"\0")
            except OSError as error:
                log.warning(f"--status-fd {fd}: {posix.strerror(error.errno or 0).lower()}")
            posix.close(fd)

    with Worker(criu.path) as worker:
        answer = worker.call({"type": criu_rpc.PRE_DUMP if pre_dump else criu_rpc.DUMP, "opts": opts}, notify)
        if not answer.get("success"):
            worker.end()
            raise explain("checkpoint the container", answer, log_path, opts["config_file"])
        code = worker.end()
    if code and not pre_dump:  # after a pre-dump it would go on with the next, and fails for having nobody to talk to
        raise CtnrError(f"criu failed to checkpoint the container: exit status {code} (log file: {log_path})")


def _mounts(container: Container, opts: dict[str, Any]) -> None:
    ctx = Context(container.config, container.id, container.bundle)
    ctx.cgroup = container.cgroup
    try:
        root = criu_mounts.Root(f"/proc/{container.pid}/root")
    except OSError as error:
        raise SyscallError("open the container's root", error.errno or 0) from None
    try:
        pairs = [(name, name) for name, _ in criu_mounts.external(ctx, root)]
        pairs += [(name, "/dev/null") for name in criu_mounts.masked(ctx, root)]
    finally:
        root.close()
    opts["ext_mnt"] = [{"key": key, "val": value} for key, value in pairs]


def _descriptors(container: Container) -> list[str]:
    """What the stdio of the first process is: a pipe whose other end is outside, as runc writes it; a file of the host's,
    by the key that CRIU knows it by."""
    noted: list[str] = list(container.extra.get("descriptors") or ["/dev/null"] * 3)
    proc = f"/proc/{container.pid}"
    inside = {line.split(b" ", 1)[0] for line in files.read_file(f"{proc}/mountinfo").splitlines()}
    for fd in range(len(noted)):
        try:
            st = posix.stat(f"{proc}/fd/{fd}")
            mount = files.read_file(f"{proc}/fdinfo/{fd}").partition(b"mnt_id:")[2].split()[0]
        except OSError:
            continue  # closed
        if st.st_mode & 0o170000 == 0o100000 and mount not in inside:
            noted[fd] = f"file[{int(mount):x}:{st.st_ino:x}]"
    return noted


def _write(dir_fd: int, name: str, data: bytes) -> None:
    try:
        fd = posix.open(
            name,
            posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_NOFOLLOW | posix.O_CLOEXEC,
            0o600,
            dir_fd=dir_fd,
        )
        try:
            files.write_fd(fd, data)
        finally:
            posix.close(fd)
    except OSError as error:
        raise SyscallError("--image-path: write", error.errno or 0, name) from None


def _freezer(container: Container, criu: Criu) -> str | None:
    """The cgroup to freeze the container by; without one CRIU stops process by process."""
    group = container.cgroup
    if group is None:
        return None
    if "freezer" in group.paths:
        return group.paths["freezer"]
    return group.paths.get("") if criu.version >= 31400 else None


def _lock_method(word: str | None, criu: Criu) -> int | None:
    """CRIU's default is iptables, a program that need not be there; nftables it does itself. Restore finds it in the image."""
    if word is None and criu.version >= 31700 and find("iptables-restore") is None:
        word = "nftables"
    return common.lock_method(word)


def _parent(path: str, image_fd: int) -> str:
    if path.startswith("/"):
        raise CtnrError("--parent-path must be relative: it is seen from the --image-path")
    try:
        posix.close(posix.open(path, posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC, dir_fd=image_fd))
    except OSError as error:
        raise SyscallError("invalid --parent-path", error.errno or 0, path) from None
    return path


def _address(text: str | None) -> dict[str, Any] | None:
    """ADDRESS:PORT, or [ADDRESS]:PORT."""
    if text is None:
        return None
    address, colon, port = text.rpartition(":")
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    if not colon or not address or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise CtnrError(f"Use --page-server ADDRESS:PORT to specify page server, not {text!r}")
    return {"address": address, "port": int(port)}


def _check_status_fd(fd: int) -> None:
    try:
        flags = fcntl(fd, F_GETFL)
    except OSError:
        raise SyscallError("invalid --status-fd argument", EBADF, str(fd)) from None
    if flags & 3 == posix.O_RDONLY:
        raise CtnrError(f"invalid --status-fd argument {fd}: not writable")
