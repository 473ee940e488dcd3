# SPDX-License-Identifier: Apache-2.0
"""The way in: of the commands' launcher (launcher/ctnr.c), of `python3 -m ctnr` and of the zipapp.

Python compiles this file anew at each start, so it stays this short.
"""

import sys

if __package__:  # python3 -m ctnr
    argv = ["ctnr", *sys.argv[1:]]
else:  # as a script, with the program's name as the first argument; -I keeps a script's directory off the path
    argv = sys.argv[1:]
    sys.path.insert(0, __file__.rpartition("/")[0].rpartition("/")[0] or "/")
if sys.version_info < (3, 11):
    sys.exit("ctnr: needs Python 3.11 or newer, and this is %d.%d: %s" % (*sys.version_info[:2], sys.executable))

from ctnr.cli.boot import script

if not __package__:
    # Behind the standard library from here on: what lies beside the package must not shadow a module of it
    sys.path.append(sys.path.pop(0))
script(argv)
