# SPDX-License-Identifier: Apache-2.0
# Sourced by `make`: a Debian tree with everything that the tests and the machine need, and the wheels.
# shellcheck shell=bash

# in_tree SCRIPT: a shell in the tree. What is mounted for it goes away with its mount namespace, whatever ends it
in_tree() {
    # shellcheck disable=SC2016
    unshare --mount --propagation private sh -c '
        mount -t proc proc "$1/proc" && mount --rbind /dev "$1/dev" &&
            exec chroot "$1" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root DEBIAN_FRONTEND=noninteractive sh -ec "$2"
    ' sh "$dir/tree" "$1" </dev/null >>"$dir/log" 2>&1
}

# make_tree: fills $dir/tree
make_tree() {
    local plain version wanted
    # shellcheck disable=SC2086 # no mirror is no argument
    unshare --mount --propagation private debootstrap --variant=minbase "$suite" "$dir/tree" ${CTNR_TEST_MIRROR:-} \
        </dev/null >"$dir/log" 2>&1 || die "debootstrap failed: $(tail -n 3 "$dir/log")"
    rm -f "$dir/tree"/var/cache/apt/archives/*.deb
    chmod 755 "$dir/tree"
    # as it is now it is the plain Debian that tests run, which they could not fetch there
    plain=$(mktemp -d -p "$dir")
    cp -a "$dir/tree" "$plain/debian"
    cp /etc/resolv.conf "$dir/tree/etc/resolv.conf"
    # nothing is to be started while it is installed
    printf '#!/bin/sh\nexit 101\n' >"$dir/tree/usr/sbin/policy-rc.d"
    chmod 755 "$dir/tree/usr/sbin/policy-rc.d"
    in_tree "apt-get update -q; apt-get install -q -y --no-install-recommends $(packages | tr '\n' ' '); apt-get clean" ||
        die "apt-get failed: $(tail -n 3 "$dir/log")"
    rm -rf "$dir/tree"/usr/sbin/policy-rc.d "$dir/tree"/var/lib/apt/lists/* "$dir/tree"/usr/share/{doc,man,locale}
    mkdir -p "$dir/tree/var/cache/ctnr-tests"
    mv "$plain/debian" "$dir/tree/var/cache/ctnr-tests/debian"
    rmdir "$plain"

    # wheels by the pip of here, which knows its way out; installed by that of there
    mkdir "$dir/tree/wheels"
    version=$(chroot "$dir/tree" python3 -Ic 'import sys; print("%d.%d" % sys.version_info[:2])')
    mapfile -t wanted < <(cd "$checkout" && .venv/bin/python3 -Ic '
import tomllib
print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], "pip>=25.1", sep="\n")')
    (cd "$checkout" && .venv/bin/python3 -I -m pip download --quiet --disable-pip-version-check --dest "$dir/tree/wheels" \
        --python-version "$version" --only-binary=:all: --group build --group test "${wanted[@]}") 2>>"$dir/log" ||
        die "cannot download the wheels: $(tail -n 3 "$dir/log")"
}
