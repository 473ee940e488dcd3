# SPDX-License-Identifier: Apache-2.0
"""Fixtures that several test files share."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("unpackplace")

from unpackplace import place, resolver  # noqa: E402

__all__ = ["place", "resolver"]
