# SPDX-License-Identifier: Apache-2.0
# Sourced by `make`: an initial ramdisk that knows one thing, to mount /dev/vda. Debian's own does too, but not in a second.
# shellcheck shell=bash

# In the order in which they are loaded; a kernel that has one of them built in has no file of it
modules="virtio virtio_ring virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk crc16 mbcache jbd2 crc32c_generic ext4"

# make_initrd TREE FILE
make_initrd() {
    local tree=$1 out=$2 work module found
    work=$(mktemp -d)
    mkdir -p "$work"/{bin,dev,proc,root,sys,modules}
    cp "$(command -v busybox)" "$work/bin/busybox"
    for module in $modules; do
        found=$(find "$tree/usr/lib/modules" -name "$module.ko*" | head -n 1)
        case $found in
        '') continue ;;
        *.xz) xz -dc "$found" >"$work/modules/$module.ko" ;;
        *.zst) zstd -qdc "$found" >"$work/modules/$module.ko" ;;
        *) cp "$found" "$work/modules/$module.ko" ;;
        esac
    done
    {
        echo '#!/bin/busybox sh'
        echo 'busybox() { /bin/busybox "$@"; }'
        echo 'busybox mount -t proc proc /proc; busybox mount -t sysfs sysfs /sys; busybox mount -t devtmpfs devtmpfs /dev'
        echo "for module in $modules; do"
        echo '    [ ! -e "/modules/$module.ko" ] || busybox insmod "/modules/$module.ko"'
        echo 'done'
        echo 'tries=0'
        echo 'until [ -b /dev/vda ] || [ $tries = 100 ]; do busybox usleep 100000; tries=$((tries + 1)); done'
        echo 'busybox mount -t ext4 /dev/vda /root || { echo "no root file system"; busybox poweroff -f; }'
        echo 'for tree in proc sys dev; do busybox mount --move /$tree /root/$tree; done'
        echo 'exec /bin/busybox switch_root /root /sbin/init'
    } >"$work/init"
    chmod +x "$work/init"
    (cd "$work" && find . | cpio --quiet -o -H newc | gzip -1) >"$out"
    rm -rf "$work"
}
