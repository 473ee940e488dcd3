# SPDX-License-Identifier: Apache-2.0
"""linux.netDevices: real devices of a namespace that the test makes are moved into containers, or stay as they were."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import machine
from support.bundles import Bundle, MakeBundle, new_id
from support.runtimes import Result, Runtime, call, peer
from support.users import User

INET = "192.0.2.7/24"
INET6 = "2001:db8::7/64"


class Namespace:
    """A network namespace with a process of its own; programs run in it by nsenter."""

    def __init__(self) -> None:
        (self._nsenter, self._unshare, self._ip) = machine.need("nsenter", "unshare", "ip")
        self.process = subprocess.Popen(
            [self._unshare, "--net", "sh", "-c", "echo; exec sleep 1000"], stdout=subprocess.PIPE
        )
        assert self.process.stdout
        self.process.stdout.readline()
        self.path = f"/proc/{self.process.pid}/ns/net"

    def argv(self, *argv: str) -> list[str]:
        return [str(self._nsenter), f"--net={self.path}", *argv]

    def ip(self, *words: str) -> str:
        done = subprocess.run(self.argv(str(self._ip), *words), capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"ip {words}: {done.stderr}"
        return done.stdout

    def links(self) -> dict[str, dict[str, Any]]:
        found = json.loads(self.ip("-json", "address"))
        return {link["ifname"]: link for link in found}

    def veth(self, name: str) -> None:
        self.ip("link", "add", name, "mtu", "1400", "type", "veth", "peer", "name", f"{name}p")
        self.ip("link", "set", f"{name}p", "up")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout
        self.process.stdout.close()


def addresses(link: dict[str, Any]) -> set[str]:
    """Those with global scope."""
    return {f"{one['local']}/{one['prefixlen']}" for one in link["addr_info"] if one["scope"] == "global"}


@pytest.fixture
def make_namespace() -> Iterator[Callable[[], Namespace]]:
    made: list[Namespace] = []

    def make() -> Namespace:
        made.append(Namespace())
        return made[-1]

    yield make
    for namespace in made:
        namespace.close()


@pytest.fixture
def host(make_namespace: Callable[[], Namespace]) -> Namespace:
    """In place of the machine's own: with a device that is up and has addresses of every sort."""
    host = make_namespace()
    host.ip("link", "set", "lo", "up")
    host.veth("dev0")
    host.ip("address", "add", INET, "dev", "dev0", "label", "dev0:web")
    host.ip("address", "add", INET6, "dev", "dev0", "nodad")
    host.ip("address", "add", "203.0.113.9/24", "dev", "dev0", "scope", "link")
    host.ip("address", "add", "198.51.100.1/32", "dev", "dev0", "valid_lft", "1000", "preferred_lft", "1000")
    host.ip("link", "set", "dev0", "up")
    return host


def within(host: Namespace, runtime: Runtime, *args: str) -> Result:
    """The runtime, with `host` as the host's network namespace; stdio is not the container's."""
    out = machine.scratch() / new_id()
    argv = ["/bin/sh", "-c", f'exec "$@" </dev/null >"{out}" 2>&1', "sh", *host.argv(*runtime.argv(*args))]
    done = call(argv, runtime.user)
    return Result(done.argv, done.code, out.read_text(), out.read_text())


def wants(box: Bundle, devices: dict[str, dict[str, str]], *, path: str | None = None) -> Bundle:
    box.namespace("network", path)
    box.linux["netDevices"] = devices
    return box.save()


def in_container(runtime: Runtime, id: str) -> dict[str, dict[str, Any]]:
    (nsenter, ip) = machine.need("nsenter", "ip")
    argv = [str(nsenter), f"--net=/proc/{runtime.pid(id)}/ns/net", str(ip), "-json", "address"]
    text = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    return {link["ifname"]: link for link in json.loads(text)}


@pytest.mark.parametrize("new", ["", "inside0", "net%d"])
def test_a_device_is_moved_with_what_it_has(
    new: str, host: Namespace, root_runtime: Runtime, bundle_of: MakeBundle, root: User
) -> None:
    box = wants(bundle_of(root, "/probe", "--wait"), {"dev0": {"name": new} if new else {}})
    id = new_id()
    done = within(host, root_runtime, "create", "--bundle", str(box.path), id)
    assert done.code == 0, str(done)
    assert set(host.links()) == {"lo", "dev0p"}
    name = {"": "dev0", "inside0": "inside0", "net%d": "net0"}[new]
    link = in_container(root_runtime, id)[name]
    assert "UP" in link["flags"] and link["mtu"] == 1400
    # permanent ones with global scope, no others
    assert addresses(link) == {INET, INET6}
    assert not any(one.get("scope") == "link" and one["family"] == "inet" for one in link["addr_info"])
    root_runtime.stop(id)


def test_a_namespace_that_is_joined_keeps_them(
    host: Namespace,
    make_namespace: Callable[[], Namespace],
    root_runtime: Runtime,
    bundle_of: MakeBundle,
    root: User,
) -> None:
    pod = make_namespace()
    pod.veth("eth0")
    box = wants(bundle_of(root, "/probe", "--wait"), {"dev0": {"name": "eth%d"}}, path=pod.path)
    id = new_id()
    done = within(host, root_runtime, "run", "--detach", "--bundle", str(box.path), id)
    assert done.code == 0, str(done)
    assert addresses(pod.links()["eth1"]) == {INET, INET6}
    root_runtime.stop(id)
    # config-linux.md: the runtime does not move it out again
    assert addresses(pod.links()["eth1"]) == {INET, INET6}


def same(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Name, state, addresses of every sort, with their labels; what is permanent still is, and nothing else."""
    assert set(before) == set(after)
    for name in before:
        assert exactly(after[name]) == exactly(before[name]), name
        assert ("UP" in after[name]["flags"]) == ("UP" in before[name]["flags"]), name


def exactly(link: dict[str, Any]) -> set[tuple[Any, ...]]:
    return {
        (one["local"], one["prefixlen"], one["scope"], one.get("label"), "dynamic" in one)
        for one in link["addr_info"]
        if (one["family"], one["scope"]) != ("inet6", "link")
    }


REFUSED = {
    "missing": ({"dev0": {}, "nope": {}}, 'linux.netDevices["nope"]: there is no such network device'),
    "loopback": ({"dev0": {}, "lo": {"name": "lo1"}}, 'linux.netDevices["lo"]: move it to the container'),
    "clash": (
        {"dev0": {"name": "lo"}},
        'linux.netDevices["dev0"].name: the container\'s network namespace has a device "lo"',
    ),
    "twice": ({"dev0": {"name": "x"}, "dev1": {"name": "x"}}, 'linux.netDevices["dev1"].name: the container'),
}


@pytest.mark.parametrize("why", REFUSED)
def test_all_or_none(why: str, host: Namespace, root_runtime: Runtime, bundle_of: MakeBundle, root: User) -> None:
    host.veth("dev1")
    devices, message = REFUSED[why]
    box = wants(bundle_of(root, "/probe", "--wait"), devices)
    before = host.links()
    done = within(host, root_runtime, "create", "--bundle", str(box.path), new_id())
    assert done.code == 1 and message in done.out.replace('\\"', '"'), str(done)
    same(before, host.links())
    assert root_runtime.ids() == []


@pytest.mark.parametrize("later", ["hook", "program", "pid-file"])
def test_what_fails_later_brings_them_back(
    later: str, host: Namespace, root_runtime: Runtime, bundle_of: MakeBundle, root: User
) -> None:
    """Virtual devices would be gone with the namespace (network_namespaces(7))."""
    box = wants(bundle_of(root, "/probe", "--wait"), {"dev0": {"name": "x0"}})
    flags: tuple[str, ...] = ()
    if later == "hook":
        box.config["hooks"] = {"createRuntime": [{"path": "/bin/false"}]}
    elif later == "program":
        box.process["args"] = ["/no/such/program"]
    else:
        flags = ("--pid-file", "/no/such/directory/pid")
    box.save()
    before = host.links()
    done = within(host, root_runtime, "create", *flags, "--bundle", str(box.path), new_id())
    assert done.code == 1, str(done)
    same(before, host.links())
    assert root_runtime.ids() == []


def test_a_user_namespace_owns_the_network(
    host: Namespace, root_runtime: Runtime, bundle_of: MakeBundle, root: User
) -> None:
    box = bundle_of(root, "/probe", "--wait")
    box.namespace("user")
    box.linux["uidMappings"] = box.linux["gidMappings"] = [{"containerID": 0, "hostID": 0, "size": 100000}]
    wants(box, {"dev0": {}})
    id = new_id()
    done = within(host, root_runtime, "create", "--bundle", str(box.path), id)
    assert done.code == 0, str(done)
    assert addresses(in_container(root_runtime, id)["dev0"]) == {INET, INET6}
    root_runtime.stop(id)


def test_the_runtimes_own_namespace(host: Namespace, root_runtime: Runtime, bundle_of: MakeBundle, root: User) -> None:
    box = wants(bundle_of(root, "/probe", "--wait"), {"dev0": {"name": "x"}}, path=host.path)
    before = host.links()
    done = within(host, root_runtime, "create", "--bundle", str(box.path), new_id())
    assert done.code == 1 and "linux.netDevices: the container's network namespace is the one" in done.out
    assert set(host.links()) == set(before)


def test_without_privileges(runtime: Runtime, bundle: MakeBundle, user: User) -> None:
    if not user.rootless:
        pytest.skip("not applicable: root may")
    box = wants(bundle("/probe", "--wait"), {"lo": {"name": "lo1"}})
    refused = runtime.quiet("create", "--bundle", str(box.path), new_id())
    assert refused.code == 1 and 'linux.netDevices[\\"lo\\"]' in refused.error_line
    assert "CAP_NET_ADMIN" in refused.error_line
    assert runtime.ids() == []


def test_features_say_so(root_runtime: Runtime) -> None:
    assert root_runtime("features").ok().json()["linux"]["netDevices"] == {"enabled": True}


def test_it_is_what_runc_does(host: Namespace, root_runtime: Runtime, bundle_of: MakeBundle, root: User) -> None:
    """The same by runc, if the one installed knows the field (1.4)."""
    runc = peer("runc")
    known = json.loads(subprocess.run([runc, "features"], capture_output=True, text=True, check=True).stdout)
    if not known["linux"].get("netDevices", {}).get("enabled"):
        pytest.skip("not applicable: this runc does not know network devices")
    box = wants(bundle_of(root, "/probe", "--wait"), {"dev0": {"name": "x0"}})
    other = Runtime(Path(runc), root_runtime.state_root.parent / "runc", root)
    id = new_id()
    assert within(host, other, "create", "--bundle", str(box.path), id).code == 0
    assert addresses(in_container(other, id)["x0"]) == {INET, INET6}
    other("delete", "--force", id).ok()
