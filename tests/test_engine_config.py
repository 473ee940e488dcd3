# SPDX-License-Identifier: Apache-2.0
"""Options -> config.json: each flag's place in the document, for root and for a user; nothing of it needs privileges."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctnr.engine import config as configs
from ctnr.engine import overlay, run, sources
from ctnr.engine.options import Options
from ctnr.engine.sources import Source
from ctnr.errors import CtnrError
from ctnr.runtime import idmap
from ctnr.spec.runtime import validate
from ctnr.spec.tables import CAPABILITIES

ID = "0123456789ab"
STATE = "/state/" + ID
Json = dict[str, Any]
Make = Callable[..., Json]

ONE = [{"containerID": 0, "hostID": 1000, "size": 1}]
RANGE = [*ONE, {"containerID": 1, "hostID": 100000, "size": 65536}]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "root/etc").mkdir(parents=True)
    (tmp_path / "root/etc/passwd").write_text("alice:x:5:6::/:/\nfar:x:70000:70000::/:/\n")
    (tmp_path / "root/etc/group").write_text("wheel:x:10:alice\nfar:x:70000:alice\n")
    return tmp_path / "root"


@pytest.fixture
def make(tree: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """The config of a container for root; `maps` for a user with these."""

    def call(
        command: Any = None, *, maps: list[Json] | None = None, source: Source | None = None, **options: Any
    ) -> Json:
        monkeypatch.setattr("posix.geteuid", lambda: 1000 if maps else 0)
        monkeypatch.setattr(idmap, "rootless_maps", lambda uid, gid: (maps, maps))
        monkeypatch.setattr(configs, "_available", lambda capability: True)
        monkeypatch.setattr(configs, "_swap_is_counted", lambda: True)
        config = configs.build(Options(command, **options), source or Source(str(tree), str(tree)), ID, STATE)
        assert validate(config) == []  # no errors, no warnings
        return json.loads(json.dumps(config))  # type: ignore[no-any-return]

    return call


def mount(config: Json, destination: str) -> Json:
    [found] = [m for m in config["mounts"] if m["destination"] == destination]
    return found  # type: ignore[no-any-return]


def destinations(config: Json) -> list[str]:
    return [m["destination"] for m in config["mounts"]]


def namespaces(config: Json) -> set[str]:
    return {n["type"] for n in config["linux"]["namespaces"]}


# --- what everybody gets


def test_the_default_sandbox(make: Make, tree: Path) -> None:
    config = make()
    assert config["root"] == {"path": str(tree), "readonly": False}
    assert config["hostname"] == ID
    process = config["process"]
    assert (process["args"], process["cwd"], process["terminal"]) == (["/bin/sh"], "/", False)
    assert process["user"] == {"uid": 0, "gid": 0, "additionalGids": []}
    assert process["env"] == [f"PATH={configs.PATH}", f"HOSTNAME={ID}", "container=ctnr"]
    assert process["rlimits"] == []
    for name in ("bounding", "effective", "permitted"):
        assert process["capabilities"][name] == sorted(configs.DEFAULT_CAPABILITIES, key=CAPABILITIES.__getitem__)
    assert not process["capabilities"].get("inheritable")
    assert namespaces(config) == {"pid", "ipc", "uts", "mount", "cgroup"}
    assert destinations(config) == [
        *("/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys", "/sys/fs/cgroup"),
        *("/etc/resolv.conf", "/etc/hosts", "/etc/hostname"),
    ]
    assert "ro" in mount(config, "/sys")["options"]
    assert "/proc/kcore" in config["linux"]["maskedPaths"]
    assert "/proc/sys" in config["linux"]["readonlyPaths"]
    assert config["linux"]["resources"] == {"devices": [{"allow": False, "access": "rwm"}]}
    assert config["linux"]["devices"] == []
    assert "seccomp" not in config["linux"]


def test_a_users_sandbox(make: Make) -> None:
    config = make(maps=RANGE)
    assert namespaces(config) == {"pid", "ipc", "uts", "mount", "cgroup", "user"}
    assert config["linux"]["uidMappings"] == RANGE
    assert config["linux"]["gidMappings"] == RANGE
    # sysfs is the network namespace's, which is the host's
    assert mount(config, "/sys")["type"] == "bind"
    assert "rro" in mount(config, "/sys")["options"]
    # group 5 may not be mapped
    assert "gid=5" not in mount(config, "/dev/pts")["options"]
    assert mount(make(maps=RANGE, network="none"), "/sys")["type"] == "sysfs"


# --- each option


@pytest.mark.parametrize(
    ("command", "entrypoint", "args"),
    [
        (None, None, ["/bin/sh"]),
        ([], None, ["/bin/sh"]),
        (["a", "b"], None, ["a", "b"]),
        (("a",), "e", ["e", "a"]),
        (None, "e", ["e"]),
        (["a"], ["e", "f"], ["e", "f", "a"]),
        (["a"], "", ["a"]),  # docker: no entrypoint
        ([""], None, [""]),
    ],
)
def test_args(make: Make, command: Any, entrypoint: Any, args: list[str]) -> None:
    assert make(command, entrypoint=entrypoint)["process"]["args"] == args


def test_env(make: Make) -> None:
    env = make(env={"A": "1=2\n", "PATH": "/x", "E": ""}, tty=True)["process"]["env"]
    assert env == ["PATH=/x", f"HOSTNAME={ID}", "container=ctnr", "TERM=xterm", "A=1=2\n", "E="]


def test_workdir_tty_and_read_only(make: Make) -> None:
    config = make(workdir="/x/y", tty=True, read_only=True)
    assert (config["process"]["cwd"], config["process"]["terminal"]) == ("/x/y", True)
    assert config["root"]["readonly"] is True


@pytest.mark.parametrize(
    ("maps", "user", "found"),
    [
        (None, "alice", (5, 6, [10, 70000])),
        (None, "70000:9", (70000, 9, [])),
        (RANGE, "alice", (5, 6, [10])),  # a group without a mapping is left out, as podman does
        (ONE, "0", (0, 0, [])),
    ],
)
def test_user(make: Make, maps: Any, user: str, found: tuple[int, int, list[int]]) -> None:
    seen = make(maps=maps, user=user)["process"]["user"]
    assert (seen["uid"], seen["gid"], seen["additionalGids"]) == found


def test_hostname(make: Make) -> None:
    config = make(hostname="web-1.example")
    assert config["hostname"] == "web-1.example"
    assert "HOSTNAME=web-1.example" in config["process"]["env"]


@pytest.mark.parametrize(
    ("id", "hostname"), [("a+b_c", "a-b-c"), ("0123456789abcdef", "0123456789ab"), ("web.", "web"), ("a_", "a")]
)
def test_an_id_becomes_a_hostname(tree: Path, id: str, hostname: str) -> None:
    assert configs.build(Options(), Source(str(tree), str(tree)), id, STATE)["hostname"] == hostname


@pytest.mark.parametrize(
    ("add", "drop", "wanted"),
    [
        ([], [], set(configs.DEFAULT_CAPABILITIES)),
        (["net_admin"], [], {*configs.DEFAULT_CAPABILITIES, "CAP_NET_ADMIN"}),
        ([], ["CAP_CHOWN"], set(configs.DEFAULT_CAPABILITIES) - {"CAP_CHOWN"}),
        ([], ["all"], set()),
        (["KILL"], ["ALL"], {"CAP_KILL"}),
        (["ALL"], [], set(CAPABILITIES)),
        (["ALL"], ["SYS_ADMIN"], set(CAPABILITIES) - {"CAP_SYS_ADMIN"}),
    ],
)
def test_capabilities(make: Make, add: list[str], drop: list[str], wanted: set[str]) -> None:
    assert set(make(cap_add=add, cap_drop=drop)["process"]["capabilities"]["bounding"]) == wanted


def test_privileged(make: Make) -> None:
    config = make(privileged=True)
    assert set(config["process"]["capabilities"]["effective"]) == set(CAPABILITIES)
    assert config["linux"]["maskedPaths"] == config["linux"]["readonlyPaths"] == []
    assert "rw" in mount(config, "/sys")["options"]
    assert config["linux"]["resources"]["devices"] == [{"allow": True, "access": "rwm"}]
    assert "/dev/null" in {device["path"] for device in config["linux"]["devices"]}


def test_security_opt(make: Make, tmp_path: Path) -> None:
    assert make(security_opt=["no-new-privileges"])["process"]["noNewPrivileges"] is True
    assert make(security_opt=["no-new-privileges:true"])["process"]["noNewPrivileges"] is True
    assert make(security_opt=["no-new-privileges=false"])["process"]["noNewPrivileges"] is False
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []}
    (tmp_path / "profile").write_text(json.dumps(profile))
    assert make(security_opt=[f"seccomp={tmp_path}/profile"])["linux"]["seccomp"] == profile
    assert "seccomp" not in make(security_opt=["seccomp=unconfined", "apparmor=unconfined", "label=disable"])["linux"]
    linux = make(security_opt=["unmask=/proc/kcore:/proc/sys", "mask=/proc/cpuinfo:/x"])["linux"]
    assert "/proc/kcore" not in linux["maskedPaths"]
    assert "/proc/sys" not in linux["readonlyPaths"]
    assert linux["maskedPaths"][-2:] == ["/proc/cpuinfo", "/x"]
    for all in ("unmask=ALL", "systempaths=unconfined"):
        linux = make(security_opt=[all])["linux"]
        assert linux["maskedPaths"] == linux["readonlyPaths"] == []


def test_resources(make: Make) -> None:
    resources = make(memory="64m", cpus="1.5", pids_limit=100)["linux"]["resources"]
    # memory and swap together may be twice the memory, as docker has it
    assert resources["memory"] == {"limit": 64 << 20, "swap": 128 << 20}
    assert resources["cpu"] == {"period": 100000, "quota": 150000}
    assert resources["pids"] == {"limit": 100}


def test_ulimits(make: Make) -> None:
    limits = make(ulimits=["nofile=10:20", "core=0"])["process"]["rlimits"]
    assert limits == [
        {"type": "RLIMIT_NOFILE", "soft": 10, "hard": 20},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
    ]


def test_a_network_of_its_own(make: Make) -> None:
    assert "network" in namespaces(make(network="none"))
    assert "network" not in namespaces(make(network="host"))


# --- mounts and devices


def test_mounts_take_the_place_of_ours(make: Make, tmp_path: Path) -> None:
    config = make(volumes=[f"{tmp_path}:/etc/hosts", f"{tmp_path}:/dev/shm:ro"], tmpfs=["/sys/fs/cgroup/"])
    assert mount(config, "/etc/hosts")["source"] == str(tmp_path)
    assert "rro" in mount(config, "/dev/shm")["options"]
    assert mount(config, "/sys/fs/cgroup")["type"] == "tmpfs"


def test_parents_are_mounted_first(make: Make, tmp_path: Path) -> None:
    config = make(
        tmpfs=["/a/b"], volumes=[f"{tmp_path}:/a/b/c/d", f"{tmp_path}:/a"], mounts=["type=tmpfs,target=/a/b/c"]
    )
    assert destinations(config)[-4:] == ["/a", "/a/b", "/a/b/c", "/a/b/c/d"]


def test_sources_are_seen_from_here(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "d").mkdir()
    monkeypatch.chdir(tmp_path / "d")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "d/here").mkdir()
    config = make(volumes=["./x:/1", "../y:/2", ".:/3", "~/z:/4"], mounts=["type=bind,source=here,target=/5"])
    found = [mount(config, f"/{n}")["source"] for n in range(1, 6)]
    assert found == [str(tmp_path / name) for name in ("d/x", "y", "d", "z", "d/here")]


def test_missing_volumes_are_made_by_create_only(make: Make, tmp_path: Path) -> None:
    wanted = tmp_path / "new/er"
    make(volumes=[f"{wanted}:/x"])
    assert not wanted.parent.exists()
    configs.make_volumes(Options(volumes=[f"{wanted}:/x", f"{tmp_path}:/y"]))
    assert wanted.is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(CtnrError, match="--volume: source .*/file/x: not a directory"):
        configs.make_volumes(Options(volumes=[f"{tmp_path}/file/x:/x"]))


def test_devices(make: Make) -> None:
    config = make(devices=["/dev/null:/dev/x:r"])
    [device] = config["linux"]["devices"]
    assert (device["path"], device["major"], device["minor"]) == ("/dev/x", 1, 3)
    assert config["linux"]["resources"]["devices"] == [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "r"},
    ]
    # a user cannot make one
    config = make(maps=RANGE, devices=["/dev/null:/dev/x"])
    assert config["linux"]["devices"] == []
    assert (mount(config, "/dev/x")["source"], mount(config, "/dev/x")["type"]) == ("/dev/null", "bind")


# --- sources


def test_a_root_of_parts(make: Make) -> None:
    source = Source("", "/")
    source.lower = [("/etc", "/etc"), ("/usr", "/usr")]
    source.links, source.binds, source.fresh = ["/bin"], ["/srv"], [("/tmp", "1777")]
    config = make(maps=RANGE, source=source, read_only=True, tmpfs=["/usr"])
    assert config["root"]["path"] == f"{STATE}/layer/rootfs"
    assert destinations(config)[:3] == ["/bin", "/srv", "/tmp"]
    assert mount(config, "/bin")["options"] == ["bind", "copy-symlink"]
    assert "rro" in mount(config, "/srv")["options"]
    # --read-only is for all of the root, but not for what is mounted over it
    assert mount(config, "/etc")["options"] == ["remount", "ro"]
    assert [m["type"] for m in config["mounts"] if m["destination"] == "/usr"] == ["tmpfs"]
    steps = overlay.root_steps(source, STATE, True)
    overlays = [step.strings[-1] for step in steps if "overlay" in step.strings]
    assert overlays == [
        f"lowerdir={lower},upperdir={STATE}/layer/upper{i},workdir={STATE}/layer/work{i},userxattr"
        for i, lower in enumerate(["/etc", "/usr"])
    ]


def test_overlay_options_cannot_be_broken_out_of(tmp_path: Path) -> None:
    source = Source("", "/")
    source.lower = [("", "/a,upperdir=/etc:b\\c")]
    data = overlay.root_steps(source, STATE, False)[-1].strings[-1]
    assert str(data).startswith("lowerdir=/a\\,upperdir=/etc\\:b\\\\c,upperdir=/state/")


@pytest.mark.parametrize("text", ["nope:x", "docker://x", "host:x", "oci:dir"])
def test_unknown_sources(text: str) -> None:
    with pytest.raises(CtnrError, match="unknown source .*: give host:, a directory or a root filesystem archive"):
        sources.resolve(text, "/nonexistent", ID)


def test_sources_that_are_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "nope", tmp_path / "dangling", Path("/dev/null")):
        if path.name == "dangling":
            path.symlink_to("nowhere")
        with pytest.raises(CtnrError, match=f"^source {path}: "):
            sources.resolve(str(path), "/nonexistent", ID)


def test_a_directory_whose_name_looks_like_a_scheme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a:b").mkdir()
    assert sources.resolve("a:b", "/nonexistent", ID).rootfs == str(tmp_path / "a:b")


def test_an_archive_is_not_unpacked_to_be_explained(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"\0" * 10240)
    source = sources.resolve(str(tmp_path / "x.tar"), str(tmp_path / "store"), ID, unpack=False)
    assert source.rootfs == f"{tmp_path}/store/containers/{ID}/rootfs"
    assert source.owned == ""
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("env", "uid", "path"),
    [
        ({"CTNR_STORE": "/s"}, 0, "/s"),
        ({}, 0, "/var/lib/ctnr"),
        ({"HOME": "/h"}, 7, "/h/.local/share/ctnr"),
        ({"HOME": "/h", "XDG_DATA_HOME": "/x"}, 7, "/x/ctnr"),
    ],
)
def test_where_the_store_is(monkeypatch: pytest.MonkeyPatch, env: dict[str, str], uid: int, path: str) -> None:
    monkeypatch.setattr("posix.geteuid", lambda: uid)
    for name in ("CTNR_STORE", "HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
        if name in env:
            monkeypatch.setenv(name, env[name])
    assert run.store_dir() == path
    assert run.store_dir("/asked/for") == "/asked/for"


def test_no_home_no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posix.geteuid", lambda: 7)
    for name in ("CTNR_STORE", "HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(CtnrError, match="CTNR_STORE"):
        run.store_dir()


# --- /etc


def test_etc_files(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"/etc/hosts": b"127.0.0.1 localhost\n10.0.0.1 db", "/etc/resolv.conf": b"nameserver 10.0.0.53\n"}
    monkeypatch.setattr(configs, "_host_file", lambda path: there.get(path, b""))
    made = configs.etc_files(Options(), "web")
    assert made["hosts"] == b"127.0.0.1 localhost\n10.0.0.1 db\n127.0.1.1\tweb\n"
    assert made["resolv.conf"] == b"nameserver 10.0.0.53\n"
    assert made["hostname"] == b"web\n"
    # a network of its own knows nobody
    assert b"db" not in configs.etc_files(Options(network="none"), "web")["hosts"]
    there.clear()
    assert configs.etc_files(Options(), "localhost")["hosts"].count(b"localhost\n") == 1
    assert configs.etc_files(Options(), "db")["resolv.conf"] == b""


# --- what is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hostname": ""}, "--hostname: '' is not a host name"),
        ({"hostname": "a b"}, "--hostname: 'a b' is not a host name"),
        ({"hostname": "a\n1.2.3.4 evil"}, "--hostname: "),
        ({"hostname": "-a"}, "--hostname: "),
        ({"hostname": "ä"}, "--hostname: "),
        ({"hostname": "a" * 65}, "--hostname: "),
        ({"user": "nobody"}, "--user: unable to find user nobody"),
        ({"user": "alice:nope"}, "--user: unable to find group nope"),
        ({"network": "bridge"}, "--network: 'bridge' is not supported: host or none"),
        ({"workdir": "x"}, "--workdir: 'x' must be an absolute path"),
        ({"env": {"A=B": "x"}}, "--env: 'A=B' is not the name of a variable"),
        ({"env": {"": "x"}}, "--env: '' is not the name"),
        ({"env": {"A": "\0"}}, "--env: A: its value is not text"),
        ({"env": {"A": 1}}, "--env: A: its value is not text"),
        ({"memory": "5m"}, "--memory: '5m' is too little: at least 6m"),
        ({"memory": "x"}, "--memory: 'x' is not a size"),
        ({"cpus": "x"}, "--cpus: "),
        ({"pids_limit": "x"}, "--pids-limit: "),
        ({"ulimits": ["x"]}, "--ulimit: "),
        ({"devices": ["/nope"]}, "--device: /nope: no such file"),
        ({"cap_add": ["x"]}, "--cap-add: 'x' is not a capability"),
        ({"cap_drop": ["x"]}, "--cap-drop: 'x' is not a capability"),
        ({"volumes": ["x"]}, "--volume: 'x' is not"),
        ({"volumes": ["/a:/"]}, "--volume: '/a:/': / is the root filesystem itself"),
        ({"volumes": ["/a:/x/.."]}, "--volume: '/a:/x/..': / is the root"),
        ({"volumes": ["/a:/x", "/b:/x/"]}, "--volume: '/b:/x/': something else is to be mounted at /x, too"),
        ({"tmpfs": ["/x"], "mounts": ["type=tmpfs,target=/x"]}, "--tmpfs: '/x': something else"),
        ({"mounts": ["type=bind,source=/nope,target=/x"]}, "--mount: .*: source /nope: no such file"),
        ({"security_opt": ["nope"]}, "--security-opt: 'nope' is not supported"),
        ({"security_opt": ["no-new-privileges=maybe"]}, "--security-opt: "),
        ({"security_opt": ["seccomp=/nope"]}, "--security-opt: seccomp: read /nope: no such file"),
        ({"security_opt": ["seccomp=/etc/passwd"]}, "--security-opt: seccomp: /etc/passwd: line 1"),
        ({"security_opt": ["apparmor=mine"]}, "--security-opt: "),
        ({"security_opt": ["mask="]}, "--security-opt: "),
    ],
)
def test_bad_options_are_named(make: Make, options: Json, message: str) -> None:
    with pytest.raises(CtnrError, match="^" + message) as caught:
        make(**options)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 125


def test_ids_that_a_user_may_not_use(make: Make) -> None:
    for maps, user in ((ONE, "1"), (ONE, "0:1"), (RANGE, "far"), (RANGE, "65537")):
        with pytest.raises(CtnrError, match="^--user: .* is not among the ids that you may use: .*/etc/subuid"):
            make(maps=maps, user=user)
