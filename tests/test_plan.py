# SPDX-License-Identifier: Apache-2.0
"""The plan: its format is the one in plan.h, the init refuses what is damaged, and every step has words."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctnr.runtime import explain
from ctnr.runtime import plan as p
from ctnr.runtime.plan import Plan

NATIVE = Path(__file__).parent.parent / "ctnr" / "_native"
HEADER = (NATIVE / "plan.h").read_text()
INIT = [str(path) for path in sorted((NATIVE / "init").glob("*.c"))]


def test_ops_are_those_of_the_header() -> None:
    names = re.findall(r"^    OP_(\w+)(?: = 0)?,", HEADER, re.M)
    assert names[-1] == "COUNT"
    assert [getattr(p, name) for name in names[:-1]] == list(range(len(names) - 1))


@pytest.mark.parametrize(
    "prefix", ["PHASE", "MSG", "ERR", "JOIN", "FSMOUNT", "TREE", "ATTACH", "PIVOT", "SYMLINK", "USER"]
)
def test_numbers_are_those_of_the_header(prefix: str) -> None:
    found = re.findall(rf"^#define ({prefix}_\w+) (\d+)\b", HEADER, re.M)
    assert found
    for name, value in found:
        assert getattr(p, name, int(value)) == int(value), name


def test_every_step_has_words() -> None:
    assert set(explain.WORDS) == set(range(1, p.EXEC + 1))


@pytest.fixture(scope="session")
def checker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """plan_check() and the reading of a plan's strings, as a program with sanitizers: its argument is a plan."""
    out = tmp_path_factory.mktemp("plan") / "checker"
    source = out.with_suffix(".c")
    source.write_text(
        """
        #include "init.h"
        /* the kernel's headers and the C library's do not mix */
        extern int open(const char *, int, ...), close(int), printf(const char *, ...);
        extern long lseek(int, long, int), pread(int, void *, size_t, long);
        extern void *malloc(size_t);
        extern void free(void *);
        int main(int argc, char **argv) {
            for (int i = 1; i < argc; i++) {
                int fd = open(argv[i], 0);
                long size = lseek(fd, 0, 2);
                /* the end of the data at the end of the allocation: one byte too far is caught */
                char *copy = malloc((size_t)size ? (size_t)size : 1);
                if (pread(fd, copy, (size_t)size, 0) != size) return 2;
                int bad = plan_check(copy, (size_t)size);
                if (!bad) {
                    struct init in = {.plan = (void *)copy, .head = (void *)copy};
                    in.steps = (const void *)(in.head + 1);
                    for (uint32_t n = 0; n < in.head->nsteps; n++)
                        for (int k = 0; k < PLAN_STRINGS; k++) {
                            size_t len, count;
                            const char *s = plan_str(&in, &in.steps[n], k, &len);
                            if (s && s[len]) return 3;
                            unsigned op = in.steps[n].op;
                            if ((op == OP_EXEC && k < 2) || (op == OP_HOOK && (k == 1 || k == 2))) {
                                char **list = plan_list(&in, &in.steps[n], k, 1, &count);
                                for (size_t j = 0; j < count; j++) if (strlen(list[j]) > len) return 4;
                            }
                        }
                }
                printf("%d\\n", bad);
                free(copy); close(fd);
            }
            return 0;
        }
        """
    )
    command = ["cc", "-std=gnu11", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    command += ["-DCTNR_HOSTED", "-DCTNR_NO_MAIN", "-include", "string.h", f"-I{NATIVE / 'init'}", str(source), *INIT]
    subprocess.run([*command, "-o", str(out)], check=True)
    return out


def check(checker: Path, directory: Path, plans: list[bytes]) -> list[int]:
    paths = []
    for i, data in enumerate(plans):
        path = directory / f"plan{i}"
        path.write_bytes(data)
        paths.append(str(path))
    run = subprocess.run([str(checker), *paths], check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    return [int(line) for line in run.stdout.split()]


def sample() -> Plan:
    plan = Plan()
    plan.add(p.ROOTFS, "root.path", "/r\u00f6\udcff")
    plan.add(p.FSMOUNT, "mounts[0]", "proc", "proc", "/proc", None, args=(1, 2, 3), flags=p.FSMOUNT_STRICT)
    plan.add(p.USER, "process.user", p.numbers([1, 2, 3]), args=(1, 2, 3))
    plan.add(p.SECCOMP, "linux.seccomp", b"\0" * 16)
    plan.add(p.HOOK, "hooks.startContainer[0]", "/h", p.strings(["/h", ""]), p.strings([]))
    plan.add(p.EXEC, "process.args", p.strings(["sh", "-c", "x"]), p.strings(["A=B"]), p.numbers([3]))
    return plan


def test_what_is_encoded_is_accepted(checker: Path, tmp_path: Path) -> None:
    assert check(checker, tmp_path, [sample().encode({})]) == [0]


def test_every_truncation_and_every_flipped_byte_is_safe(checker: Path, tmp_path: Path) -> None:
    data = sample().encode({})
    plans = [data[:n] for n in range(0, len(data), 3)]
    plans += [data[:i] + bytes([data[i] ^ 0xFF]) + data[i + 1 :] for i in range(len(data))]
    results = check(checker, tmp_path, plans)
    assert all(result < 0 for result in results[: len(range(0, len(data), 3))])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_mutations_are_safe(checker: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Many plans a process: offsets, lengths and counts replaced by edges."""
    good = sample().encode({})
    edges = [0, 1, 3, 4, 5, len(good) - 5, len(good) - 4, len(good), 2**31 - 1, 2**31, 2**32 - 5, 2**32 - 1]
    plans = []
    for _ in range(40):
        plan = bytearray(good)
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.integers(0, len(good) // 4 - 1)) * 4
            value = data.draw(st.sampled_from(edges) | st.integers(0, 2**32 - 1))
            plan[at : at + 4] = value.to_bytes(4, "little")
        plans.append(bytes(plan))
    check(checker, tmp_path_factory.mktemp("mutations"), plans)


@pytest.fixture(scope="session")
def options(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """plan_option() as a program with sanitizers: each option of its argument as a line."""
    out = tmp_path_factory.mktemp("options") / "options"
    source = out.with_suffix(".c")
    source.write_text(
        """
        #include "init.h"
        extern int printf(const char *, ...);
        int main(int argc, char **argv) {
            char key[64], *value;
            for (const char *p = argv[argc - 1]; *p;) {
                int r = plan_option(&p, key, sizeof key, &value);
                if (r) { printf("%d", r); return 0; }
                printf("%s|%s\\n", key, value ? value : "-");
            }
            return 0;
        }
        """
    )
    command = ["cc", "-std=gnu11", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    command += ["-DCTNR_HOSTED", "-DCTNR_NO_MAIN", "-include", "string.h", f"-I{NATIVE / 'init'}", str(source), *INIT]
    subprocess.run([*command, "-o", str(out)], check=True)
    return out


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        ("size=64k,noswap,mode=755", ["size|64k", "noswap|-", "mode|755"]),
        ("lowerdir=/a:/b=c,upperdir=", ["lowerdir|/a:/b=c", "upperdir|"]),
        (",,a,", ["|-", "|-", "a|-"]),
        # only a label may have quotes, which are not part of it; they keep its commas together
        ('mode=755,context="u:r:t:s0:c1,c2",size=1k', ["mode|755", "context|u:r:t:s0:c1,c2", "size|1k"]),
        ('rootcontext="u:r:t:s0"', ["rootcontext|u:r:t:s0"]),
        ('context="",a', ["context|", "a|-"]),
        ("context=u:r:t:s0:c1,c2", ["context|u:r:t:s0:c1", "c2|-"]),
        ('context="never closed,a', ['context|"never closed,a']),
        ('context="a"b,c', ['context|"a"b', "c|-"]),
        ('context="', ['context|"']),
        ('lowerdir="a,b"', ['lowerdir|"a', 'b"|-']),
        ("x" * 63, ["x" * 63 + "|-"]),
        ("x" * 64, ["-36"]),
        ("=a", ["=a|-"]),
    ],
)
def test_options_of_a_mount(options: Path, data: str, wanted: list[str]) -> None:
    done = subprocess.run([str(options), data], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == wanted
