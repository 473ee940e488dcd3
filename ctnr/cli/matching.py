# SPDX-License-Identifier: Apache-2.0
"""`kill --regex` and `delete --regex`: one verb for every container whose id matches, as crun has them.

Imported only for these: `re` costs 10 ms.
"""

from __future__ import annotations

import re
import warnings

from ctnr import log
from ctnr.cli.args import UsageError
from ctnr.cli.output import describe
from ctnr.errors import EXIT_FAILURE, CtnrError, StateError
from ctnr.runtime import state
from ctnr.runtime.container import Container

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ctnr.cli.boot import Globals

# what POSIX calls a class and Python does not know; ids are ASCII
_CLASSES = {
    "alnum": "a-zA-Z0-9",
    "alpha": "a-zA-Z",
    "digit": "0-9",
    "lower": "a-z",
    "punct": "_.+\\-",
    "upper": "A-Z",
    "xdigit": "0-9a-fA-F",
}


def each(g: Globals, pattern: str, act: Callable[[Container], None]) -> int:
    """Do it to all whose id `pattern`, an extended regular expression, matches anywhere; 1 if one of them failed.

    One that has gone meanwhile is no failure. Raises UsageError for what is not a regular expression.
    """
    text = pattern
    for name, characters in _CLASSES.items():
        text = text.replace(f"[:{name}:]", characters)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what a later Python may read otherwise
            wanted = re.compile(text)
    except (re.error, OverflowError, RecursionError) as e:
        raise UsageError(f"invalid regular expression {pattern!r}: {e}") from None
    code = 0
    for id in state.ids(g.root or state.default_root()):
        if not wanted.search(id):
            continue
        try:
            container = Container.load(id, g.root)
            try:
                act(container)
            finally:
                container.close()
        except StateError as e:
            if "does not exist" in str(e):
                continue
            log.error(f"{id}: {e}")
            code = EXIT_FAILURE
        except (CtnrError, OSError) as e:
            log.error(f"{id}: {describe(e)}")
            code = EXIT_FAILURE
    return code
