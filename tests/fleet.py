"""A real nats-server with JetStream and TLS for tests: certificates, configuration, processes.

nats = NatsServer(folder, space, "10.90.2.9", nodes=("lb1", "lb2"), clients=("eye:viewer",))
nats.start()
nats.gateway_lines("lb1")       # for [gateway] of holdfast.toml
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from netns import NetNs

PORT = 4222
HOLDFAST = str(Path(sys.executable).parent / "holdfast")
SERVER = shutil.which("nats-server") or "/usr/sbin/nats-server"


class NatsServer:
    """One server; `start` again after `kill` goes on with what is on disk. space: a namespace, None: this one."""

    def __init__(
        self,
        folder: Path,
        space: NetNs | None,
        address: str,
        nodes: Sequence[str],
        clients: Sequence[str],
        port: int = PORT,
    ) -> None:
        self.folder = folder
        self.space = space
        self.address = address
        self.port = port
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self._authority("ca")
        self.certificate("server", "ca", f"IP:{address}")
        for name in (*nodes, *(each.partition(":")[0] for each in clients)):
            self.certificate(name, "ca")
        words = [word for name in nodes for word in ("--node", name)]
        words += [word for name in clients for word in ("--client", name)]
        account = subprocess.run([HOLDFAST, "keys", "nats", *words], check=True, capture_output=True, text=True).stdout
        (folder / "nats.conf").write_text(
            f"""
            listen: "{address}:{port}"
            jetstream {{ store_dir: "{folder}/store", max_file_store: 512MB, max_memory_store: 64MB }}
            max_payload: 8MB
            max_pending: 64MB
            tls {{
              cert_file: "{folder}/server.pem", key_file: "{folder}/server.key", ca_file: "{folder}/ca.pem"
              verify_and_map: true
            }}
            """
            + account
        )

    def _openssl(self, *words: str) -> None:
        subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=self.folder)

    def _authority(self, name: str) -> None:
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key")
        self._openssl("req", "-x509", *key, "-out", f"{name}.pem", "-days", "30", "-subj", f"/CN={name} of the tests")

    def certificate(self, name: str, authority: str, alternative: str = "") -> None:
        """A key and a certificate for `CN=name`, signed by the authority."""
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key")
        self._openssl("req", *key, "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (self.folder / f"{name}.ext").write_text(f"subjectAltName={alternative}\n" if alternative else "\n")
        signer = ("-CA", f"{authority}.pem", "-CAkey", f"{authority}.key", "-CAcreateserial", "-days", "30")
        self._openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *signer, "-extfile", f"{name}.ext")

    def stranger(self, name: str) -> None:
        """A certificate for a known name from an authority that nobody trusts."""
        self._authority("other-ca")
        self.certificate(name, "other-ca")

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"tls://{self.address}:{self.port}"

    def gateway_lines(self, name: str) -> list[str]:
        """For [gateway]."""
        return [
            'engine = "nats"',
            f'nats_servers = ["{self.url}"]',
            f'nats_ca = "{self.folder}/ca.pem"',
            f'nats_certificate = "{self.folder}/{name}.pem"',
            f'nats_key = "{self.folder}/{name}.key"',
            "nats_keep_mb = 200.0",
        ]

    def start(self) -> None:
        """Starts it and waits until it listens."""
        command = [SERVER, "-c", str(self.folder / "nats.conf")]
        with (self.folder / "nats.log").open("ab") as log:
            options: dict[str, Any] = {"stdout": log, "stderr": log, "stdin": subprocess.DEVNULL}
            self.process = (
                subprocess.Popen(command, **options) if self.space is None else self.space.popen(command, **options)
            )
        end = time.monotonic() + 20
        while not self._listens():
            assert time.monotonic() < end, (self.folder / "nats.log").read_text()[-2000:]
            assert self.process.poll() is None, (self.folder / "nats.log").read_text()[-2000:]
            time.sleep(0.05)

    def _listens(self) -> bool:
        def try_it() -> bool:
            try:
                with socket.create_connection((self.address, self.port), 1):
                    return True
            except OSError:
                return False

        return try_it() if self.space is None else self.space.call(try_it)

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)
