# SPDX-License-Identifier: Apache-2.0
"""Fixtures that several test files share."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("unpackplace")

from fake_cgroupfs import fake_hybrid, fake_v1, fake_v2  # noqa: E402
from unpackplace import place, resolver  # noqa: E402

__all__ = ["fake_hybrid", "fake_v1", "fake_v2", "place", "resolver"]
