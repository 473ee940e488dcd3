# SPDX-License-Identifier: Apache-2.0
"""Make ctnr.pyz, the command in one file: `python3 -I tools/make_zipapp.py DIRECTORY OUTPUT`.

DIRECTORY is where the package is installed (site-packages, or `pip install --target`). The modules are stored, not
compressed, and compiled, with an unchecked hash, for the Python that runs this; any other reads the sources beside them.
The extension works with all of them (abi3); ctnr/_native/__init__.py loads it.
"""

from __future__ import annotations

import importlib._bootstrap_external
import importlib.util
import os
import sys
import zipfile
from pathlib import Path

# Absolute, because modules are still read from it after a chdir
START = """\
import sys
if sys.version_info < (3, 11):
    sys.exit("ctnr: needs Python 3.11 or newer, and this is %d.%d: %s" % (*sys.version_info[:2], sys.executable))
import posix
pyz = sys.argv[ARGUMENT]
if pyz[:1] != "/":
    pyz = posix.getcwd() + "/" + pyz
sys.path.insert(0, pyz)
from ctnr.cli.boot import script
script(["ctnr-oci" if pyz.endswith("/ctnr-oci") else "ctnr", *sys.argv[ARGUMENT + 1:]])
"""

# A shell, which reads no further than the exec, and not `#!/usr/bin/python3 -IS`, because what Python itself does to run
# a zip (runpy) takes 5 ms; nor `/usr/bin/env python3`, which leaves no room for -IS. -Xutf8 as in launcher/ctnr.c.
HEAD = """\
#!/bin/sh
for python in /usr/bin/python3 /usr/local/bin/python3; do
    [ -x $python ] && exec $python -IS -Xutf8 -c 'START' "$0" "$@"
done
echo "ctnr: no python3 in /usr/bin or /usr/local/bin; ctnr needs Python 3.11 or newer" >&2
exit 125
""".replace("START", START.replace("ARGUMENT + 1", "2").replace("ARGUMENT", "1"))

# For `python3 ctnr.pyz`
MAIN = START.replace("ARGUMENT + 1", "1").replace("ARGUMENT", "0")

# What the package needs and is Python only. (backports.zstd is not: with a zstd archive ctnr.pyz says what is missing)
PURE = ("urllib3",)

# Of each entry, so that the same sources give the same file
TIME = (1980, 1, 1, 0, 0, 0)


def compiled(source: bytes, name: str) -> bytes:
    """The .pyc of a module. Its code says ctnr.pyz/NAME where it was compiled from."""
    code = compile(source, f"ctnr.pyz/{name}", "exec", dont_inherit=True)
    checksum = importlib.util.source_hash(source)
    return bytes(importlib._bootstrap_external._code_to_hash_pyc(code, checksum, False))  # type: ignore[attr-defined]


def entries(directory: Path) -> dict[str, bytes]:
    """Name -> contents."""
    found = {"__main__.py": MAIN.encode()}
    for package in PURE:
        if not (directory / package).is_dir():
            sys.exit(f"{directory}/{package} is not there: install ctnr with what it depends on")
    for path in sorted(path for package in ("ctnr", *PURE) for path in (directory / package).rglob("*")):
        name = str(path.relative_to(directory))
        if path.suffix == ".py":
            found[name] = path.read_bytes()
            found[name + "c"] = compiled(found[name], name)
        elif path.name.endswith(".abi3.so"):
            found[name] = path.read_bytes()
    if "ctnr/_native/_native.abi3.so" not in found:
        sys.exit(f"{directory}/ctnr is not built: there is no _native/_native.abi3.so in it")
    return found


def main(directory: str, output: str) -> None:
    temporary = f"{output}.tmp"
    with open(temporary, "wb") as file:
        file.write(HEAD.encode())
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, data in entries(Path(directory)).items():
                archive.writestr(zipfile.ZipInfo(name, TIME), data)
    os.chmod(temporary, 0o755)
    os.rename(temporary, output)
    print(f"{output}: {os.stat(output).st_size >> 10} KiB")


if __name__ == "__main__":
    main(*sys.argv[1:])
