"""Where the secret of a repository comes from, and that it goes nowhere else."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from connectors.azure.key_vault import KeyVaultWrapper
from flows.unlocking import key_vault_of, secret_of
from sealift.config_places import KeyVaultPlan
from sealift.config_repository import KeyPlan
from sealift.errors import SealiftError, ToolError, UsageError
from sealift.sealing.secrets import KeyFile, Passphrase, RecoveryCode

WORDS = "näive horse"


def plan(**fields: Any) -> KeyPlan:
    return KeyPlan.model_validate(fields)


@pytest.mark.parametrize("content", [WORDS, f"{WORDS}\n", f"{WORDS}\r\nsecond line\n"])
def test_a_passphrase_is_the_first_line_of_its_file(tmp_path: Path, content: str) -> None:
    file = tmp_path / "pass"
    file.write_bytes(content.encode())
    found = secret_of(plan(passphrase_file=str(file)), {})
    assert isinstance(found, Passphrase)
    assert found.material == Passphrase(WORDS).material


def test_a_passphrase_in_a_variable() -> None:
    found = secret_of(plan(passphrase_variable="MY_WORDS"), {"MY_WORDS": WORDS})
    assert isinstance(found, Passphrase)
    assert found.material == Passphrase(WORDS).material
    with pytest.raises(UsageError, match="MY_WORDS"):
        secret_of(plan(passphrase_variable="MY_WORDS"), {})


def test_a_command_prints_it_and_sees_no_other_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-4711")
    code = "import os; print('AWS_SECRET_ACCESS_KEY' in os.environ)"
    found = secret_of(plan(passphrase_command=[sys.executable, "-c", code]), os.environ)
    assert isinstance(found, Passphrase)
    assert found.material == b"False"
    with pytest.raises(ToolError, match="ended with 3"):
        secret_of(plan(passphrase_command=[sys.executable, "-c", "raise SystemExit(3)"]), {})


def test_key_files_and_recovery_codes(tmp_path: Path) -> None:
    key, code = KeyFile.generate(), RecoveryCode.generate()
    (tmp_path / "key").write_bytes(key.to_text())
    (tmp_path / "code").write_text(f"{code.to_text().lower()}\n")
    found = secret_of(plan(key_file=str(tmp_path / "key")), {})
    assert isinstance(found, KeyFile)
    assert found.material == key.material
    read = secret_of(plan(recovery_file=str(tmp_path / "code")), {})
    assert isinstance(read, RecoveryCode)
    assert read.material == code.material


@pytest.mark.parametrize(
    ("content", "mode", "expected"),
    [
        (b"", 0o600, "empty"),
        (b"\n" + WORDS.encode(), 0o600, "empty"),
        (b"\xff\xfe", 0o600, "not UTF-8"),
        (b"secret-canary\n", 0o602, "everybody may write"),
        (b"secret-canary" * 1000, 0o600, "no file of at most"),
    ],
)
def test_what_is_wrong_is_told_without_the_secret(
    tmp_path: Path, content: bytes, mode: int, expected: str
) -> None:
    file = tmp_path / "pass"
    file.write_bytes(content)
    file.chmod(mode)
    with pytest.raises(UsageError, match=expected) as caught:
        secret_of(plan(passphrase_file=str(file)), {})
    assert "canary" not in f"{caught.value} {caught.value.operands}"


def test_a_folder_a_pipe_and_nothing_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "missing", tmp_path / "pipe"):
        with pytest.raises(SealiftError):
            secret_of(plan(passphrase_file=str(path)), {})


@pytest.mark.parametrize("url", ["https://v.vault.azure.net", "https://v.vault.azure.net/"])
def test_a_key_of_key_vault_is_the_one_that_the_plan_names(url: str) -> None:
    named = KeyVaultPlan(vault_url=url, key="backup")
    secret = secret_of(KeyPlan(key_vault=named), {})
    assert isinstance(secret, KeyVaultWrapper)
    assert secret.key_id == "https://v.vault.azure.net/keys/backup"


@pytest.mark.parametrize("version", ["", "0123456789abcdef"])
def test_a_key_is_named_by_its_identifier(version: str) -> None:
    address = "https://v.vault.azure.net/keys/backup" + (f"/{version}" if version else "")
    named = key_vault_of(address)
    assert (named.vault_url, named.key) == ("https://v.vault.azure.net", "backup")
    assert named.version == (version or None)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "backup",
        "http://v.vault.azure.net/keys/backup",
        "https://v.vault.azure.net/secrets/backup",
        "https://v.vault.azure.net/keys/",
        "https://v.vault.azure.net/keys/../x",
        "https://v.vault.azure.net/keys/backup/0a/wrapkey",
    ],
)
def test_what_is_no_identifier_of_a_key_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="is not the identifier of a key") as caught:
        key_vault_of(address)
    assert "/keys/KEY" in caught.value.next_step
