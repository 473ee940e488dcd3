# SPDX-License-Identifier: Apache-2.0
"""What holds for every test."""

from __future__ import annotations

from hypothesis import settings

# the same examples each time, nothing written into the tree, and no clock: a slow machine is no failure
settings.register_profile("ctnr", derandomize=True, database=None, deadline=None)
settings.load_profile("ctnr")
