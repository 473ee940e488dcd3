#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Install what is missing, and only that: `tools/need.sh [build] [test] [check]`. PYTHON is the interpreter to build with.
# Debian's packages by apt-get as root; anybody and anything else is told what to install.
set -eu

: "${PYTHON:=/usr/bin/python3}"
missing=""

# need PACKAGE PROBE...: the package is missing when the probe fails
need() {
    package=$1
    shift
    "$@" >/dev/null 2>&1 || missing="$missing $package"
}

# A command, also where an ordinary user's PATH does not look
have() {
    PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin" command -v "$1"
}

python() {
    "$PYTHON" -I "$@"
}

for set; do
    case $set in
    build)
        need python3 have "$PYTHON"
        need python3-venv python -c 'import ensurepip, venv'
        need python3-dev python -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")'
        need gcc have "${CC:-gcc}"
        need libc6-dev test -e /usr/include/stdio.h
        ;;
    test)
        need apache2-utils have htpasswd
        need bubblewrap have bwrap
        need busybox-static have busybox
        need bzip2 have bzip2
        need catatonit have catatonit
        need conmon have conmon
        need containerd have containerd
        need criu have criu
        need crun have crun
        need debootstrap have debootstrap
        need docker-compose have docker-compose
        need docker-registry have docker-registry
        need docker.io have dockerd
        need iproute2 have ip
        need libseccomp2 python -c 'import ctypes; ctypes.CDLL("libseccomp.so.2")'
        need openssl have openssl
        need passwd have useradd
        need podman have podman
        need procps have ps
        need runc have runc
        need skopeo have skopeo
        need strace have strace
        need tmux have tmux
        need uidmap have newuidmap
        need umoci have umoci
        need util-linux have setpriv
        need vim-tiny have vi
        need xz-utils have xz
        need zstd have zstd
        ;;
    check)
        need clang have clang
        need clang-format have clang-format
        ;;
    *)
        echo "$0: no such set: $set" >&2
        exit 2
        ;;
    esac
done

if [ -n "$missing" ]; then
    if [ "$(id -u)" != 0 ] || ! have apt-get >/dev/null; then
        echo "Missing, please install (these are the names of Debian's packages):$missing" >&2
        exit 1
    fi
    echo "Installing what is missing:$missing"
    export DEBIAN_FRONTEND=noninteractive
    # the lists may be there and up to date, so ask for new ones only when they do not do
    # shellcheck disable=SC2086 # one word per package
    apt-get install -qq -y --no-install-recommends $missing </dev/null >/dev/null 2>&1 ||
        { apt-get update -qq && apt-get install -qq -y --no-install-recommends $missing </dev/null >/dev/null; }
fi

python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "$PYTHON is older than Python 3.11: set PYTHON to a newer one (make PYTHON=/path/to/python3 ...)" >&2
    exit 1
}
