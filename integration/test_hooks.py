# SPDX-License-Identifier: Apache-2.0
"""The six kinds of hooks: when, where, with what on stdin, and what their failure does (runtime-spec runtime.md, config.md)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from support import machine
from support.bundles import Bundle, MakeBundle, new_id
from support.runtimes import Runtime
from support.users import User

KINDS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
BEFORE_START = ("prestart", "createRuntime", "createContainer")


class Hooks:
    """Adds hooks to a bundle. All append to one log: its directory is bound into the container at its own path."""

    def __init__(self, box: Bundle) -> None:
        self.box = box.writable()
        self.directory = box.path / "hooks"
        self.directory.mkdir()
        self.directory.chmod(0o777)
        self.box.mount(str(self.directory), "bind", str(self.directory), "bind")
        self.box.config["hooks"] = {}

    def add(self, kind: str, then: str = "", **more: Any) -> None:
        """A hook of `kind` that notes itself, its stdin and its mount namespace, then does `then` (shell)."""
        place = self.directory / kind
        script = (
            f'read -r state; echo {kind} >>{self.directory}/order; printf "%s" "$state" >{place}.state; '
            f"readlink /proc/self/ns/mnt >{place}.ns; {then}"
        )
        # the shell is the host's or the container's, as the kind has it
        self.box.config["hooks"].setdefault(kind, []).append({"path": "/bin/sh", "args": ["sh", "-c", script], **more})

    def ran(self) -> list[str]:
        """The kinds of the hooks that ran, in order."""
        log = self.directory / "order"
        return log.read_text().split() if log.exists() else []

    def state(self, kind: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.directory / f"{kind}.state").read_text())
        return found

    def namespace(self, kind: str) -> str:
        return (self.directory / f"{kind}.ns").read_text().strip()


def test_each_kind_runs_at_its_time_in_its_place(runtime: Runtime, bundle: MakeBundle, user: User) -> None:
    box = bundle("/probe", "--wait")
    box.config["annotations"] = {"a.b": "c"}
    hooks = Hooks(box)
    for kind in KINDS:
        hooks.add(kind)
    id = runtime.create(box)
    pid = runtime.pid(id)
    assert hooks.ran() == list(BEFORE_START)
    runtime("start", id).ok()
    assert machine.poll(lambda: len(hooks.ran()) == 5, 10)
    assert hooks.ran() == list(KINDS[:5])
    container_ns = os.readlink(f"/proc/{pid}/ns/mnt")
    host_ns = os.readlink("/proc/self/ns/mnt")
    runtime.stop(id)
    assert hooks.ran() == list(KINDS)
    for kind in KINDS:
        state = hooks.state(kind)
        assert state["id"] == id and state["bundle"] == str(box.path), (kind, state)
        assert state["annotations"] == {"a.b": "c"}
        assert state["ociVersion"].startswith("1.")
        if kind != "poststop":
            # runtime.md#state: those in the container's namespaces are told the pid as it is seen there
            assert state["pid"] == (1 if kind in ("createContainer", "startContainer") else pid), (kind, state)
        inside = kind in ("createContainer", "startContainer")
        assert (hooks.namespace(kind) == container_ns) == inside, kind
        assert inside or hooks.namespace(kind) == host_ns or user.rootless, kind
    wanted = {
        "prestart": {"creating", "created"} if runtime.name != "ctnr" else {"created"},
        "createRuntime": {"creating", "created"},
        "createContainer": {"creating", "created"},
        "startContainer": {"created"},
        "poststart": {"running"},
        "poststop": {"stopped"},
    }
    assert all(hooks.state(kind)["status"] in wanted[kind] for kind in KINDS), {
        k: hooks.state(k)["status"] for k in KINDS
    }


def test_hooks_of_a_kind_run_in_the_order_of_the_config(runtime: Runtime, bundle: MakeBundle) -> None:
    hooks = Hooks(bundle("/bin/true"))
    order = hooks.directory / "numbers"
    for number in range(5):
        hooks.add("createRuntime", f"echo {number} >>{order}")
    runtime.run(hooks.box).ok()
    assert order.read_text().split() == ["0", "1", "2", "3", "4"]


def test_a_hook_gets_its_own_environment_and_arguments_only(runtime: Runtime, bundle: MakeBundle) -> None:
    box = bundle("/bin/true")
    hooks = Hooks(box)
    seen = hooks.directory / "seen"
    script = f'cat /proc/self/environ >{seen}; printf "%s|" "$0" "$@" >>{seen}'
    box.config["hooks"]["createRuntime"] = [
        {
            "path": "/bin/sh",
            "args": ["zero", "-c", script, "arg0", "two words", ""],
            "env": ["ONLY=this", "AND=that one"],
        }
    ]
    runtime.run(box).ok()
    environment, _, words = seen.read_bytes().rpartition(b"\0")
    # the shell adds PWD: hooks run in the bundle, as with runc and crun
    assert set(environment.split(b"\0")) == {b"ONLY=this", b"AND=that one", b"PWD=" + str(box.path).encode()}
    assert words == b"arg0|two words||"


@pytest.mark.parametrize("kind", BEFORE_START)
def test_a_failed_hook_before_start_fails_create(kind: str, runtime: Runtime, bundle: MakeBundle) -> None:
    hooks = Hooks(bundle("/probe", "--wait"))
    hooks.add(kind, "echo it is broken >&2; exit 3")
    hooks.add(kind)
    hooks.add("poststop")
    box = hooks.box.save()
    refused = runtime.quiet("create", "--bundle", str(box.path), new_id())
    assert refused.code == 1
    assert "hook" in refused.err and ("it is broken" in refused.err or "exit status 3" in refused.err), str(refused)
    assert runtime.ids() == []
    # the second of the kind did not run, the lifecycle went on to its end
    assert hooks.ran() == [kind, "poststop"]


def test_a_failed_start_hook_stops_the_container(runtime: Runtime, bundle: MakeBundle) -> None:
    hooks = Hooks(bundle("/bin/sh", "-c", "echo ran >/ran"))
    hooks.add("startContainer", "exit 3")
    id = runtime.create(hooks.box)
    runtime("start", id)
    if id in runtime.ids():  # peers leave it to be deleted
        runtime.wait_status(id, "stopped")
    assert not (hooks.box.root / "ran").exists()
    runtime("delete", "--force", id).ok()


def test_a_failed_poststart_hook_is_an_error(runtime: Runtime, bundle: MakeBundle) -> None:
    """Since 1.3: an error, and the container is undone as if it were deleted: its poststop hooks run."""
    if runtime.name != "ctnr":
        pytest.skip("not applicable: older runtimes log a warning")
    hooks = Hooks(bundle("/probe", "--wait"))
    hooks.add("poststart", "exit 3")
    hooks.add("poststop")
    id = runtime.create(hooks.box)
    refused = runtime.quiet("start", id)
    assert refused.code == 1 and "poststart" in refused.err, str(refused)
    assert "does not exist" in runtime("state", id).error_line
    assert hooks.ran() == ["poststart", "poststop"]


def test_a_failed_poststop_hook_is_a_warning(runtime: Runtime, bundle: MakeBundle) -> None:
    hooks = Hooks(bundle("/bin/true"))
    hooks.add("poststop", "exit 3")
    hooks.add("poststop")
    done = runtime.run(hooks.box).ok()
    assert "poststop" in done.err or runtime.name != "ctnr", str(done)
    assert hooks.ran() == ["poststop", "poststop"]
    assert runtime.ids() == []


@pytest.mark.parametrize("kind", ["createRuntime", "createContainer"])
def test_a_hook_that_takes_too_long_is_killed(kind: str, runtime: Runtime, bundle: MakeBundle) -> None:
    hooks = Hooks(bundle("/probe", "--wait"))
    hooks.add(kind, "exec sleep 1000", timeout=1)
    box = hooks.box.save()
    refused = runtime.quiet("create", "--bundle", str(box.path), new_id(), timeout=20)
    assert refused.code == 1
    assert "hook" in refused.err, str(refused)
    assert runtime.ids() == []


def test_a_hook_that_is_not_there(runtime: Runtime, bundle: MakeBundle) -> None:
    box = bundle("/bin/true")
    box.config["hooks"] = {"createRuntime": [{"path": "/no/such/hook"}]}
    box.save()
    refused = runtime.quiet("create", "--bundle", str(box.path), new_id())
    assert refused.code == 1 and "/no/such/hook" in refused.error_line
    assert runtime.ids() == []


def test_a_start_hook_is_looked_up_in_the_container(runtime: Runtime, bundle: MakeBundle, work: Path) -> None:
    box = bundle("/bin/true").writable()
    box.file("/only-inside", "#!/bin/sh\necho inside >/said\n", 0o755)
    box.config["hooks"] = {"startContainer": [{"path": "/only-inside"}]}
    runtime.run(box).ok()
    assert (box.root / "said").read_text() == "inside\n"


def test_a_hook_without_env_gets_the_callers(runtime: Runtime, bundle: MakeBundle) -> None:
    """As with runc and crun; but nothing that would load code into it. In the container it is the program's."""
    box = bundle("/bin/true")
    hooks = Hooks(box)
    for kind in ("createRuntime", "poststop", "startContainer"):
        hooks.add(kind, f'echo "$CALLER $LD_NOTHING $PROGRAM" >{hooks.directory}/{kind}.env')
    hooks.box.config["hooks"]["createRuntime"].append(
        {"path": "/bin/sh", "args": ["sh", "-c", "test -z $CALLER"], "env": []}
    )
    box.process["env"].append("PROGRAM=p")
    runtime.run(box, env={"CALLER": "c", "LD_NOTHING": "l"}).ok()
    assert (hooks.directory / "createRuntime.env").read_text() == "c  \n"
    assert (hooks.directory / "poststop.env").read_text() == "c  \n"
    assert (hooks.directory / "startContainer.env").read_text() == "  p\n"


def test_hooks_output_to_files(runtime: Runtime, bundle: MakeBundle) -> None:
    """run.oci.hooks.stdout and .stderr."""
    hooks = Hooks(bundle("/bin/true"))
    out, err = hooks.directory / "out", hooks.directory / "err"
    hooks.box.config["annotations"] = {"run.oci.hooks.stdout": str(out), "run.oci.hooks.stderr": str(err)}
    for kind in KINDS:
        hooks.add(kind, f"echo said {kind}; echo cried {kind} >&2")
    runtime.run(hooks.box).ok()
    assert out.read_text().splitlines() == [f"said {kind}" for kind in KINDS]
    assert err.read_text().splitlines() == [f"cried {kind}" for kind in KINDS]
    hooks.box.config["annotations"] = {"run.oci.hooks.stderr": "/no/such/directory/err"}
    refused = runtime.run(hooks.box)
    assert refused.code == 1 and "annotations.run.oci.hooks.stderr: open /no/such/directory/err" in refused.error_line
    assert runtime.ids() == []
