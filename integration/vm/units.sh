# SPDX-License-Identifier: Apache-2.0
# Sourced by `make`: what makes of a Debian tree the machine of the tests.
# shellcheck shell=bash

# furnish TREE
furnish() {
    local tree=$1 units=$1/etc/systemd/system unit
    echo ctnr-vm >"$tree/etc/hostname"
    printf '127.0.0.1 localhost ctnr-vm\n' >"$tree/etc/hosts"
    rm -f "$tree/etc/resolv.conf"
    : >"$tree/etc/machine-id" # systemd makes one
    : >"$tree/etc/fstab"
    mkdir -p "$tree"/{src,proc,sys,dev,run,tmp} "$tree/var/lib/systemd/linger" "$units/user@.service.d" "$units/multi-user.target.wants"
    rm -f "$units"/getty.target.wants/* "$units"/timers.target.wants/*
    # nothing that works on its own while tests look at the machine
    for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer \
        systemd-tmpfiles-clean.timer serial-getty@ttyS0.service systemd-timesyncd.service \
        containerd.service docker.service docker.socket docker-registry.service podman.service podman.socket podman-auto-update.timer \
        podman-auto-update.service podman-restart.service apparmor.service; do
        ln -sf /dev/null "$units/$unit"
    done
    ln -sf /usr/lib/systemd/system/multi-user.target "$units/default.target"

    # the accounts of integration/support/users.py; user managers of theirs run without a login
    for unit in ctnr-test-subids ctnr-test-one; do
        chroot "$tree" id "$unit" >/dev/null 2>&1 ||
            chroot "$tree" useradd --system --create-home --home-dir "/var/lib/$unit" --shell /bin/sh "$unit"
        touch "$tree/var/lib/systemd/linger/$unit"
    done
    grep -q ^ctnr-test-subids: "$tree/etc/subuid" ||
        chroot "$tree" usermod --add-subuids 231072-296607 --add-subgids 231072-296607 ctnr-test-subids
    # systemd delegates only memory and pids to users unless told so
    printf '[Service]\nDelegate=cpu cpuset io memory pids\n' >"$units/user@.service.d/delegate.conf"

    # the disk with the checkout: its script is the purpose of the machine
    cat >"$units/ctnr-tests.service" <<'U'
[Unit]
Description=The tests
After=multi-user.target systemd-user-sessions.service systemd-logind.service dbus.service
Conflicts=shutdown.target

[Service]
Type=exec
LimitNOFILE=1024:1048576
TasksMax=infinity
Delegate=yes
OOMPolicy=continue
StandardInput=null
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
ExecStartPre=/bin/mount /dev/vdb /src
ExecStart=-/bin/bash /src/integration/vm/guest
ExecStopPost=-/bin/umount -l /src
ExecStopPost=/bin/sync
ExecStopPost=/bin/systemctl poweroff --force --force
U
    # by a timer: as a part of multi-user.target it could not come after it
    printf '[Timer]\nOnActiveSec=0\nAccuracySec=1ms\n' >"$units/ctnr-tests.timer"
    ln -sf ../ctnr-tests.timer "$units/multi-user.target.wants/ctnr-tests.timer"
}
