# SPDX-License-Identifier: Apache-2.0
"""Whatever a config.json says, it becomes a plan or an error of ours: never an exception of Python's.

tests/fuzz/fuzz_config.py does the same by coverage, and integration/test_fuzz.py with containers.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import config_mutations
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctnr.errors import CtnrError
from ctnr.runtime import creating, planning
from ctnr.spec.runtime import parse, validate

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def made_of(document: Any, bundle: Path) -> str:
    """The plan in words, or the error."""
    try:
        config = parse(json.dumps(document))
    except CtnrError as error:
        return one_line(error)
    # resolved first, a root that is not there would end most of them early
    made = creating.Made()
    made.rootfs = str(bundle / "rootfs")
    try:
        plan = planning.plan(str(bundle), config=config, made=made)
    except CtnrError as error:
        return one_line(error)
    refs = {step.ref: 3 for step in plan.steps}
    assert plan.encode(refs)
    return plan.explain()


def one_line(error: CtnrError) -> str:
    text = str(error)
    assert text and "\n" not in text, text
    return text


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle")
    (path / "rootfs").mkdir()
    return path


@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(draw=st.randoms(use_true_random=False))
def test_a_config_that_was_changed(bundle: Path, draw: random.Random) -> None:
    made_of(config_mutations.mutated(draw), bundle)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(document=JSON)
def test_any_document(bundle: Path, document: Any) -> None:
    made_of(document, bundle)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(data=st.binary() | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes(data: bytes) -> None:
    try:
        validate(parse(data))
    except CtnrError as error:
        one_line(error)


def test_the_seeds_become_plans(bundle: Path) -> None:
    """Else the mutations would show nothing."""
    plans = [made_of(document, bundle) for document in config_mutations.seeds()]
    # most of them are root's, with cgroups
    least = len(plans) // 2 if os.geteuid() == 0 else 2
    assert sum("execute" in plan for plan in plans) >= least, plans
