# SPDX-License-Identifier: Apache-2.0
"""What the integration tests stand on: users, root filesystems, bundles, runtimes, views of the cgroup tree, leak checks."""
