# SPDX-License-Identifier: Apache-2.0
"""ctnr.runtime.cgroups.layout: mount tables of real machines, and where a container's cgroups go on them."""

from __future__ import annotations

import pytest

from ctnr.errors import SpecError
from ctnr.runtime.cgroups.layout import Layout, components, layout, place

SYSTEMD_V2 = "35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"
SYSTEMD_V1 = """\
31 24 0:26 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,mode=755
32 31 0:27 / /sys/fs/cgroup/systemd rw shared:10 - cgroup cgroup rw,xattr,release_agent=/lib/systemd/x,name=systemd
33 31 0:31 / /sys/fs/cgroup/cpu,cpuacct rw shared:11 - cgroup cgroup rw,cpu,cpuacct
34 31 0:32 / /sys/fs/cgroup/memory rw shared:12 - cgroup cgroup rw,memory
"""
SYSTEMD_V1_CGROUP = "3:memory:/user.slice\n2:cpu,cpuacct:/user.slice/a\n1:name=systemd:/user.slice/s.scope\n0::/\n"
HYBRID = SYSTEMD_V1 + "40 31 0:40 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"


def test_v2() -> None:
    found = layout(SYSTEMD_V2, "0::/user.slice/user-1000.slice/session-1.scope\n")
    assert (found.mode, found.unified, found.v1) == ("v2", "/sys/fs/cgroup", {})
    assert found.own == {"": "/sys/fs/cgroup/user.slice/user-1000.slice/session-1.scope"}


def test_v1() -> None:
    found = layout(SYSTEMD_V1, SYSTEMD_V1_CGROUP)
    assert (found.mode, found.unified) == ("v1", None)
    both = "/sys/fs/cgroup/cpu,cpuacct"
    assert found.v1 == {
        "name=systemd": "/sys/fs/cgroup/systemd",
        "cpu": both,
        "cpuacct": both,
        "memory": "/sys/fs/cgroup/memory",
    }
    assert found.own["cpuacct"] == both + "/user.slice/a"
    assert found.own["name=systemd"] == "/sys/fs/cgroup/systemd/user.slice/s.scope"


def test_hybrid() -> None:
    found = layout(HYBRID, SYSTEMD_V1_CGROUP)
    assert (found.mode, found.unified) == ("hybrid", "/sys/fs/cgroup/unified")
    assert found.own[""] == "/sys/fs/cgroup/unified"


def test_a_named_hierarchy_limits_nothing() -> None:
    text = SYSTEMD_V2 + "36 24 0:33 / /run/named rw - cgroup cgroup rw,name=systemd\n"
    assert layout(text, "1:name=systemd:/\n0::/\n").mode == "v2"


def test_what_is_mounted_elsewhere_is_somebody_elses() -> None:
    stray = "50 24 0:31 / /tmp/yard/cpu rw - cgroup cgroup rw,cpu,cpuacct\n51 24 0:40 / /tmp/yard/unified rw - cgroup2 c rw\n"
    assert layout(SYSTEMD_V2 + stray, "2:cpu,cpuacct:/\n0::/\n").mode == "v2"
    assert layout(SYSTEMD_V1 + stray, SYSTEMD_V1_CGROUP).mode == "v1"
    # where there is nothing else it is all there is
    assert layout(stray, "2:cpu,cpuacct:/\n0::/\n").mode == "hybrid"


def test_none() -> None:
    assert layout("1 0 0:1 / / rw - ext4 /dev/vda rw\n", "0::/\n").mode == "none"


def test_controllers_the_kernel_has_but_nobody_mounted_are_not_there() -> None:
    """The v2-only view of a hybrid machine: /proc/self/cgroup lists v1 hierarchies all the same."""
    found = layout(SYSTEMD_V2, SYSTEMD_V1_CGROUP)
    assert found.mode == "v2"
    assert found.own == {"": "/sys/fs/cgroup"}


def test_what_a_later_mount_hides_is_not_there() -> None:
    hidden = HYBRID + "50 31 0:50 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
    found = layout(hidden, SYSTEMD_V1_CGROUP)
    assert (found.mode, found.unified, found.v1) == ("v2", "/sys/fs/cgroup", {})
    hidden = SYSTEMD_V2 + "50 31 0:50 / /sys rw - tmpfs tmpfs rw\n"
    assert layout(hidden, "0::/\n").mode == "none"


def test_a_containers_own_mounts_do_not_count() -> None:
    inside = "90 1 0:32 /docker/x /var/lib/c/rootfs/sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    for text in (inside + SYSTEMD_V1, SYSTEMD_V1 + inside):
        assert layout(text, SYSTEMD_V1_CGROUP).v1["memory"] == "/sys/fs/cgroup/memory"
    assert layout(inside, "1:memory:/docker/x/y\n").own == {"memory": "/var/lib/c/rootfs/sys/fs/cgroup/memory/y"}


def test_in_a_container_without_a_cgroup_namespace() -> None:
    mount = "31 24 0:26 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
    assert layout(mount, "1:memory:/docker/abc\n").own == {"memory": "/sys/fs/cgroup/memory"}
    assert layout(mount, "1:memory:/docker/abc/x\n").own == {"memory": "/sys/fs/cgroup/memory/x"}
    # the mount does not show where the caller is
    assert layout(mount, "1:memory:/docker/abcd\n").own == {}
    assert layout(mount, "1:memory:/other\n").own == {}


def test_foreign_cgroup_namespaces() -> None:
    mount = "31 24 0:26 /../.. /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
    assert layout(mount, "0::/\n").own == {}
    assert layout(SYSTEMD_V2, "0::/../other\n").own == {}


def test_odd_names_in_the_mount_table() -> None:
    found = layout("31 24 0:26 / /cg\\040\\134x rw - cgroup2 cgroup2 rw\nhalf a line\n", "0::/a:b\n")
    assert found.unified == "/cg \\x"
    assert found.own == {"": "/cg \\x/a:b"}


def test_place_absolute() -> None:
    found = place(layout(HYBRID, SYSTEMD_V1_CGROUP), "/a//./b/", "id")
    assert found["cpu"] == found["cpuacct"] == "/sys/fs/cgroup/cpu,cpuacct/a/b"
    assert found["memory"] == "/sys/fs/cgroup/memory/a/b"
    assert found[""] == "/sys/fs/cgroup/unified/a/b"


@pytest.mark.parametrize(
    ("path", "inner"), [(None, "id"), ("", "id"), ("a/b", "a/b"), ("system.slice:x:y", "system.slice:x:y")]
)
def test_place_relative(path: str | None, inner: str) -> None:
    v1 = place(layout(SYSTEMD_V1, SYSTEMD_V1_CGROUP), path, "id")
    assert v1["cpu"] == f"/sys/fs/cgroup/cpu,cpuacct/user.slice/a/{inner}"
    assert v1["memory"] == f"/sys/fs/cgroup/memory/user.slice/{inner}"
    v2 = place(layout(SYSTEMD_V2, "0::/user.slice/s.scope\n"), path, "id")
    assert v2 == {"": f"/sys/fs/cgroup/user.slice/{inner}"}
    assert place(layout(SYSTEMD_V2, "0::/\n"), path, "id") == {"": f"/sys/fs/cgroup/{inner}"}


def test_place_leaves_out_what_the_caller_cannot_see() -> None:
    seen = Layout({"cpu": "/c", "memory": "/m"}, None, {"memory": "/m/x"})
    assert place(seen, None, "id") == {"memory": "/m/x/id"}
    assert place(seen, "/a", "id") == {"cpu": "/c/a", "memory": "/m/a"}


@pytest.mark.parametrize("path", ["..", "../x", "/../x", "a/../b", "/a/..", "/a/b/../.."])
def test_no_dot_dot(path: str) -> None:
    with pytest.raises(SpecError, match=r"`\.\.` components are not allowed") as caught:
        place(layout(SYSTEMD_V2, "0::/\n"), path, "id")
    assert caught.value.path == "linux.cgroupsPath"
    assert path in caught.value.why


@pytest.mark.parametrize("path", ["/", "//", "/./", ".", "./"])
def test_the_root_of_a_hierarchy_is_nobodys_cgroup(path: str) -> None:
    with pytest.raises(SpecError, match="is no cgroup of its own"):
        place(layout(SYSTEMD_V2, "0::/\n"), path, "id")


@pytest.mark.parametrize("path", ["/a\0b", "/a\nb"])
def test_names_the_kernel_has_no_words_for(path: str) -> None:
    with pytest.raises(SpecError, match="NUL or a newline"):
        components(path)
