# SPDX-License-Identifier: Apache-2.0
"""Containers as a library.

HOT: imported by every verb, so it imports nothing.
"""

__version__ = "0.1.0"
