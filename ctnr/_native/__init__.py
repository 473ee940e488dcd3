# SPDX-License-Identifier: Apache-2.0
"""The native part: system calls, the launcher, the container's init. Loads the extension and re-exports it.

HOT: imported by every verb.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

_NAME = "ctnr._native._native"
# linux/memfd.h. The image is mapped, never executed: NOEXEC_SEAL (Linux 6.3) is allowed even by vm.memfd_noexec=2
_MFD_CLOEXEC = 1
_MFD_ALLOW_SEALING = 2
_MFD_NOEXEC_SEAL = 8
# Above what a caller may want to pass on (--preserve-fds counts from 3)
_HIGH_FD = 100


def _memfd(image: bytes) -> int:
    """A sealed copy of the extension, for this process's life.

    glibc tells libraries apart by the path they were opened by: were this closed, the next library loaded by way of the
    same number would turn out to be this one.
    """
    import posix
    from errno import EINVAL
    from fcntl import F_ADD_SEALS, F_DUPFD_CLOEXEC, F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_WRITE, fcntl

    try:
        fd = posix.memfd_create("ctnr-native", _MFD_CLOEXEC | _MFD_NOEXEC_SEAL)
    except OSError as error:
        if error.errno != EINVAL:
            raise
        fd = posix.memfd_create("ctnr-native", _MFD_CLOEXEC | _MFD_ALLOW_SEALING)
    try:
        high = fcntl(fd, F_DUPFD_CLOEXEC, _HIGH_FD)
        posix.close(fd)
        fd = high
    except OSError as error:
        if error.errno != EINVAL:  # RLIMIT_NOFILE is lower than that
            raise
    rest = memoryview(image)
    while rest:
        rest = rest[posix.write(fd, rest) :]
    fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL)
    return fd


def _load_from_zip(loader: Any) -> ModuleType:
    """zipimport cannot load extensions (there is no file to map), so make it a file."""
    from _frozen_importlib import ModuleSpec, module_from_spec
    from _frozen_importlib_external import ExtensionFileLoader

    path = f"{__path__[0]}/_native.abi3.so"
    try:
        image = loader.get_data(path)
    except OSError:
        raise ImportError(f"{path} is not there: build ctnr first (make build)", name=_NAME) from None
    path = f"/proc/self/fd/{_memfd(image)}"
    extension = ExtensionFileLoader(_NAME, path)
    module = module_from_spec(ModuleSpec(_NAME, extension, origin=path))
    extension.exec_module(module)
    return module


try:
    from ctnr._native._native import *
except ModuleNotFoundError as error:
    if error.name != _NAME:
        raise
    sys.modules[_NAME] = _load_from_zip(__spec__.loader)
    from ctnr._native._native import *
