#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Fuzzes config.json -> plan by coverage, with atheris (PyPI; not a dependency): see CONTRIBUTING.md.

.venv/bin/python -m pip install --target /tmp/atheris atheris
PYTHONPATH=/tmp/atheris .venv/bin/python -P tests/fuzz/fuzz_config.py -max_total_time=600 [CORPUS]
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from pathlib import Path

import atheris  # type: ignore[import-not-found,unused-ignore]

sys.path.insert(0, str(Path(__file__).parent.parent))

with atheris.instrument_imports(include=["ctnr"]):
    from ctnr.errors import CtnrError
    from ctnr.runtime import creating, planning
    from ctnr.spec.runtime import parse

import config_mutations

BUNDLE = tempfile.mkdtemp()
(Path(BUNDLE) / "rootfs").mkdir()


def one(data: bytes) -> None:
    """Raises what is no error of ours."""
    made = creating.Made()
    made.rootfs = f"{BUNDLE}/rootfs"
    try:
        plan = planning.plan(BUNDLE, config=parse(data), made=made)
    except CtnrError:
        return
    plan.encode({step.ref: 3 for step in plan.steps})
    plan.explain()


def mutator(data: bytes, max_size: int, seed: int) -> bytes:
    """Changes of documents; now and then of bytes, for the parser."""
    draw = random.Random(seed)
    try:
        document = json.loads(data)
        assert isinstance(document, dict)
    except (ValueError, AssertionError, RecursionError):
        document = draw.choice(config_mutations.seeds())
    if draw.randrange(20) == 0:
        return bytes(atheris.Mutate(data, max_size))
    for _ in range(draw.randrange(1, 4)):
        config_mutations.mutate(document, draw.choice(config_mutations.seeds()), draw)
    return json.dumps(document).encode()[:max_size]


if __name__ == "__main__":
    atheris.Setup([sys.argv[0], "-max_len=65536", "-timeout=20", *sys.argv[1:]], one, custom_mutator=mutator)
    atheris.Fuzz()
