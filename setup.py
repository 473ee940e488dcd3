# SPDX-License-Identifier: Apache-2.0
"""What pyproject.toml cannot say: the extension with the container's init in it, and the two commands, which are C.

Environment: CC, as usual. CTNR_PYTHON and CTNR_PACKAGE, for packagers: the interpreter and the directory of the package
that the commands try first (absolute paths); without them they look from where they are installed.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sysconfig
from glob import glob
from pathlib import Path

from setuptools import Command, Extension, setup
from setuptools.command.build_ext import build_ext

WARNINGS = ["-Wall", "-Wextra", "-Werror"]
if "clang" in os.environ.get("CC", ""):
    # Python's own flags are gcc's
    WARNINGS += [
        "-Wno-unused-command-line-argument",
        "-Wno-ignored-optimization-argument",
        "-Wno-unknown-warning-option",
    ]

# No libc, no loader: nothing but what is in the sources, so that starting it costs no more than an execve can
FREESTANDING = [
    *"-std=gnu11 -Os -static -nostdlib -ffreestanding -fno-builtin -fno-pie".split(),
    *"-fno-stack-protector -fno-asynchronous-unwind-tables".split(),
    *"-Wl,-no-pie -Wl,--build-id=none -Wl,-z,noexecstack -Wl,-z,norelro -s".split(),
]

# CTNR_SANITIZE=1: the init on a libc, under AddressSanitizer and UBSan (integration/test_sanitized.py)
if os.environ.get("CTNR_SANITIZE"):
    INIT_FLAGS = [
        *"-std=gnu11 -g -O1 -DCTNR_HOSTED -include string.h -fno-omit-frame-pointer".split(),
        *"-fsanitize=address,undefined -fno-sanitize-recover=all -static-libasan".split(),
    ]
else:
    INIT_FLAGS = FREESTANDING

INIT_SOURCES = sorted(glob("ctnr/_native/init/*.c"))
HEADERS = sorted(glob("ctnr/_native/*.h") + glob("ctnr/_native/init/*.h"))


def compile_static(
    sources: list[str], output: str, defines: list[str], force: bool = False, flags: list[str] = FREESTANDING
) -> bool:
    """Compile a freestanding program, unless it is newer than what it is made of. True when it was made."""
    inputs = [*sources, *HEADERS, "setup.py"]
    if not force and os.path.exists(output):
        if all(os.stat(path).st_mtime_ns <= os.stat(output).st_mtime_ns for path in inputs):
            return False
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    command = [*compiler, *flags, *WARNINGS, *defines, *sources, "-o", output]
    print(shlex.join(command))
    os.makedirs(os.path.dirname(output), exist_ok=True)
    subprocess.run(command, check=True)
    return True


def write_c_array(data: bytes, path: str) -> None:
    """The header that module.c includes: the init's image as `ctnr_init`, 16-byte aligned."""
    rows = (", ".join(map(str, data[i : i + 32])) for i in range(0, len(data), 32))
    body = ",\n    ".join(rows)
    Path(path).write_text(
        "/* Made by setup.py from ctnr/_native/init. */\n"
        f"static const unsigned char ctnr_init[{len(data)}] __attribute__((aligned(16))) = {{\n    {body}\n}};\n"
    )


class BuildExt(build_ext):
    """The extension includes `ctnr-init.h`, so the init is compiled first."""

    def build_extension(self, ext: Extension) -> None:
        image = os.path.join(self.build_temp, "ctnr-init")
        header = image + ".h"
        if compile_static(INIT_SOURCES, image, [], self.force, INIT_FLAGS) or not os.path.exists(header):
            write_c_array(Path(image).read_bytes(), header)
        ext.include_dirs.append(self.build_temp)
        ext.depends.append(header)
        super().build_extension(ext)


class BuildScripts(Command):
    """`ctnr` and `ctnr-oci` from launcher/ctnr.c. The wheel carries them as scripts: pip copies what has no `#!` as it is."""

    description = "compile the commands"
    user_options = [("build-dir=", "d", "directory to build to"), ("force", "f", "compile even when nothing changed")]
    boolean_options = ["force"]

    def initialize_options(self) -> None:
        self.build_dir: str = None  # type: ignore[assignment]
        self.force: bool = None  # type: ignore[assignment]

    def finalize_options(self) -> None:
        self.set_undefined_options("build", ("build_scripts", "build_dir"), ("force", "force"))

    def run(self) -> None:
        fixed = [
            f'-D{name}="{value}"' for name in ("CTNR_PYTHON", "CTNR_PACKAGE") if (value := os.environ.get(name, ""))
        ]
        for program in ("ctnr", "ctnr-oci"):
            output = os.path.join(self.build_dir, program)
            compile_static(["launcher/ctnr.c"], output, [f'-DPROGRAM="{program}"', *fixed], self.force or bool(fixed))

    def get_source_files(self) -> list[str]:
        return ["launcher/ctnr.c"]


setup(
    ext_modules=[
        Extension(
            "ctnr._native._native",
            sources=sorted(glob("ctnr/_native/*.c")),
            depends=HEADERS,
            define_macros=[("Py_LIMITED_API", "0x030B0000")],
            extra_compile_args=["-std=gnu11", "-O2", "-fvisibility=hidden", *WARNINGS],
            extra_link_args=["-Wl,-z,now", "-Wl,-z,relro", "-Wl,-z,noexecstack", "-s"],
            py_limited_api=True,
        )
    ],
    scripts=["launcher/ctnr.c"],
    cmdclass={"build_ext": BuildExt, "build_scripts": BuildScripts},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
