"""From the plan's ``repository.key`` to the secret that opens a repository.

The secret itself is read from where the plan says, handed on, and kept nowhere: no child process
gets the environment, and no error quotes what was read.
"""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from converters.process import Limits, run
from sealift.cancel import CancelToken
from sealift.config_places import KeyVaultPlan, KmsPlan
from sealift.config_repository import KeyPlan
from sealift.errors import ToolError, UsageError
from sealift.sealing.secrets import KeyFile, Passphrase, RecoveryCode
from sealift.sealing.slots import KeyWrapper, Secret

_MAX_BYTES = 4096
_COMMAND = Limits(timeout_seconds=60.0, output_bytes=_MAX_BYTES)


@dataclass(frozen=True, slots=True)
class _Kms:
    """How KMS is reached: one small call at a time."""

    region: str | None
    profile: str | None
    endpoint: str | None
    concurrency: int = 1
    connect_timeout_seconds: float = 10.0
    read_timeout_seconds: float = 30.0


def secret_of(
    key: KeyPlan, environ: Mapping[str, str], *, cancel: CancelToken | None = None
) -> Secret:
    """What opens the repository.

    Args:
        key: says where it is.
        environ: for a passphrase that is in a variable.
        cancel: ends a command that prints the passphrase.

    Raises:
        UsageError: it is not where the plan says, or not one.
        ToolError: the command failed.
    """
    if key.kms is not None:
        return key_service(key.kms)
    if key.key_vault is not None:
        return key_vault(key.key_vault)
    if key.key_file is not None:
        return KeyFile.parse(read_secret_file(key.key_file, "repository.key.key_file"))
    if key.recovery_file is not None:
        return recovery_code_of(key.recovery_file, "repository.key.recovery_file")
    return passphrase_of(key, environ, cancel=cancel)


def passphrase_of(
    key: KeyPlan, environ: Mapping[str, str], *, cancel: CancelToken | None = None
) -> Passphrase:
    """The passphrase from file, variable or command; see ``secret_of``."""
    if key.passphrase_file is not None:
        where = "repository.key.passphrase_file"
        return Passphrase(_first_line(read_secret_file(key.passphrase_file, where), where))
    if key.passphrase_variable is not None:
        return _from_variable(key.passphrase_variable, environ)
    program, *arguments = key.passphrase_command
    done = run(program, arguments, _COMMAND, cancel=cancel)
    if done.exit_code:
        raise ToolError(
            f"{program}, which prints the passphrase, ended with {done.exit_code}",
            next_step="run the command of repository.key.passphrase_command by hand",
        )
    return Passphrase(_first_line(done.stdout, "repository.key.passphrase_command"))


def recovery_code_of(path: Path, where: str) -> RecoveryCode:
    """The recovery code in the first line of a file; see ``secret_of``.

    Args:
        path: of the file.
        where: what names it, for errors.
    """
    return RecoveryCode.parse(_first_line(read_secret_file(path, where), where))


def key_service(plan: KmsPlan) -> KeyWrapper:
    """The key of AWS KMS that the plan names."""
    from connectors.aws.kms_wrapper import KmsWrapper
    from connectors.aws.session import AwsClients

    return KmsWrapper(AwsClients(_Kms(plan.region, plan.profile, plan.endpoint)), plan.key)


def key_vault(plan: KeyVaultPlan) -> KeyWrapper:
    """The key of Azure Key Vault that the plan names."""
    from connectors.azure.key_vault import KeyVaultSpec, KeyVaultWrapper

    url = plan.vault_url.rstrip("/")  # as the portal shows it
    return KeyVaultWrapper(KeyVaultSpec(url, plan.key, plan.version))


def key_vault_of(address: str) -> KeyVaultPlan:
    """The key that its identifier names, as the portal shows it.

    Args:
        address: ``https://NAME.vault.azure.net/keys/KEY``, with ``/VERSION`` or without.

    Raises:
        UsageError: it is none.
    """
    url, _, rest = address.partition("/keys/")
    key, _, version = rest.partition("/")
    try:
        return KeyVaultPlan(vault_url=url, key=key, version=version or None)
    except ValidationError:
        raise UsageError(
            f"{address!r} is not the identifier of a key",
            next_step="give https://NAME.vault.azure.net/keys/KEY, with /VERSION or without",
        ) from None


def read_secret_file(path: Path, where: str) -> bytes:
    """A small file that holds a secret.

    Args:
        path: of the file.
        where: what names it, for errors.

    Raises:
        UsageError: it cannot be read, is no file, too large, or others may write to it.
    """
    try:
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe must not hold us
        with os.fdopen(os.open(path, flags), "rb") as file:
            info = os.fstat(file.fileno())
            content = file.read(_MAX_BYTES + 1) if stat.S_ISREG(info.st_mode) else None
    except OSError as error:
        raise UsageError(f"{where}: {path}: {error.strerror}", next_step="see the file") from None
    if content is None or len(content) > _MAX_BYTES:
        raise UsageError(
            f"{where}: {path} is no file of at most {_MAX_BYTES} bytes", next_step="see the file"
        )
    if info.st_mode & stat.S_IWOTH:
        raise UsageError(f"{where}: everybody may write to {path}", next_step=f"chmod 600 {path}")
    return content


def _from_variable(name: str, environ: Mapping[str, str]) -> Passphrase:
    text = environ.get(name, "")
    if not text:
        raise UsageError(
            f"the variable {name}, which has to hold the passphrase, is not set",
            next_step=f"set {name}, or change repository.key in the plan",
        )
    return Passphrase(text)


def _first_line(content: bytes, where: str) -> str:
    line = content.split(b"\n", 1)[0].removesuffix(b"\r")
    try:
        text = line.decode()
    except UnicodeDecodeError:
        raise UsageError(f"{where}: the first line is not UTF-8 text") from None
    if not text:
        raise UsageError(f"{where}: the first line is empty", next_step="put the secret there")
    return text
