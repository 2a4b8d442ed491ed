"""What others on the machine can see of a sandbox, and what is said when it cannot start."""

import stat
import sys
from pathlib import Path

import pytest

from sandbox.azure.authority import make_authority
from sandbox.azure.azurite import Azurite, new_account
from sandbox.azure.server import AzureSandbox
from sealift.errors import ToolError

pytestmark = pytest.mark.sandbox


def test_state_is_private_and_ends_with_the_sandbox(tmp_path: Path) -> None:
    directory = tmp_path / "new" / "state"
    with AzureSandbox(directory) as sandbox:
        key = sandbox.storage_key
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert stat.S_IMODE((directory / "azurite").stat().st_mode) == 0o700
        for path in (directory / "tls").iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        azurite = sandbox._azurite
        arguments = Path(f"/proc/{azurite.pid}/cmdline").read_bytes()
        assert key.encode() not in arguments
        sandbox.stop()
        assert not Path(f"/proc/{azurite.pid}").exists()
        sandbox.stop()


def test_a_sandbox_without_azurite_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    authority = make_authority(tmp_path / "tls")
    with pytest.raises(ToolError, match="is missing") as caught:
        Azurite(tmp_path / "azurite", [new_account("a")], authority)
    assert caught.value.next_step == "run: make setup"


def test_what_azurite_said_is_shown_when_it_does_not_start(tmp_path: Path) -> None:
    authority = make_authority(tmp_path / "tls")
    authority.certificate.write_text("no certificate")
    with pytest.raises(ToolError, match="Azurite did not start"):
        Azurite(tmp_path / "azurite", [new_account("a")], authority)


def test_keys_are_not_in_representations() -> None:
    account = new_account("sealift")
    assert account.key not in repr(account)
    assert 3 <= len(account.name) <= 24
