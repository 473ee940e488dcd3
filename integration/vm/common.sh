# SPDX-License-Identifier: Apache-2.0
# Sourced by the others: where things are kept, what goes into the machine.
# shellcheck shell=bash disable=SC2034

set -euo pipefail
vm=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
checkout=$(cd "$vm/../.." && pwd)
suite=${CTNR_TEST_SUITE:-bookworm}
cache=${CTNR_TEST_CACHE:-/var/cache/ctnr-tests}/vm

# What the tests need is in tools/need.sh; the rest is what makes it a machine
packages() {
    awk '/^    check\)/ { skip = 1 } /^        ;;/ { skip = 0 } /^        need / && !skip { print $2 }' "$checkout/tools/need.sh"
    echo dbus dbus-user-session kmod libpam-systemd linux-image-cloud-amd64 make systemd systemd-sysv
}

# The names of the tree and of the image made of it: other ones when something that they are made of has changed
tree_name() {
    { echo "$suite"; packages | tr ' ' '\n' | sort -u; cat "$vm/tree.sh"; sed -n "/^\[dependency-groups\]/,/^$/p" "$checkout/pyproject.toml"; } | sha256sum | cut -c1-16
}
image_name() {
    { cat "$vm/units.sh" "$vm/initrd.sh"; } | sha256sum | cut -c1-16
}

say() { echo "test-vm: $*" >&2; }
die() { say "$@"; exit 2; }

# need PACKAGE PROGRAM
need() {
    PATH="$PATH:/usr/sbin:/sbin" command -v "$2" >/dev/null || die "$2 is not installed: apt-get install $1"
}
