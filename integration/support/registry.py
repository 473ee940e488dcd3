# SPDX-License-Identifier: Apache-2.0
"""A real registry, Debian's docker-registry, on a free port of the loopback interface: plain, with htpasswd, with TLS."""

from __future__ import annotations

import subprocess
from pathlib import Path

from . import machine, runtimes, users

USER, PASSWORD = "alice", "s3cret"

_CONFIG = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage:
  filesystem: {{rootdirectory: {work}/data}}
  delete: {{enabled: true}}
http:
  addr: 127.0.0.1:0
{tls}{auth}"""


class Registry:
    """`kind`: "plain", "htpasswd" or "tls". `host` is where it listens; with TLS, `certificates` is a --cert-dir for it."""

    def __init__(self, work: Path, kind: str = "plain") -> None:
        [program] = machine.need("docker-registry")
        self.work = work / f"registry-{kind}"
        self.work.mkdir()
        self.certificates = self.work / "certificates"
        tls = auth = ""
        if kind == "tls":
            self._certificate()
            tls = f"  tls: {{certificate: {self.work}/server.pem, key: {self.work}/server.key}}\n"
        if kind == "htpasswd":
            [htpasswd] = machine.need("htpasswd")
            line = subprocess.run([htpasswd, "-nbB", USER, PASSWORD], check=True, capture_output=True).stdout
            (self.work / "htpasswd").write_bytes(line)
            auth = f"auth:\n  htpasswd: {{realm: here, path: {self.work}/htpasswd}}\n"
        config = self.work / "config.yml"
        config.write_text(_CONFIG.format(work=self.work, tls=tls, auth=auth))
        with open(self.work / "log", "wb") as log:
            self.process = runtimes.popen(
                [program, "serve", str(config)], users.me(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        port = 0

        def listens() -> bool:
            nonlocal port
            port = _port_of(self.process.pid)
            return port > 0

        assert machine.poll(listens, 20.0, every=0.05), (self.work / "log").read_text()
        self.host = f"127.0.0.1:{port}"

    def _certificate(self) -> None:
        """An authority of our own and a server certificate by it."""
        [openssl] = machine.need("openssl")
        self.certificates.mkdir()
        authority, key = self.certificates / "ca.crt", self.work / "ca.key"

        def run(*words: str | Path) -> None:
            subprocess.run([openssl, *map(str, words)], check=True, capture_output=True)

        subject = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
        common = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2")
        run(*common, "-subj", "/CN=test authority", "-keyout", key, "-out", authority)
        own = ("-keyout", self.work / "server.key", "-out", self.work / "server.pem")
        run(*common, *subject, "-addext", "basicConstraints=critical,CA:FALSE", "-CA", authority, "-CAkey", key, *own)

    def close(self) -> None:
        self.process.terminate()
        runtimes.finished(self.process)


def _port_of(pid: int) -> int:
    """The port on which a process listens, by the kernel's tables; 0 while there is none."""
    inodes = set()
    try:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            target = str(link.readlink())
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    except OSError:
        return 0
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and fields[9] in inodes:
            return int(fields[1].rpartition(":")[2], 16)
    return 0
