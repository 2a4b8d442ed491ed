"""The account that a plan names, as a target: this is where AWS and Azure part."""

from contextlib import ExitStack
from dataclasses import dataclass

from flows import aws_account, azure_account
from flows.around import Around
from sealift.config import Target
from sealift.endpoints import CloudTarget
from sealift.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Account:
    """An account of a cloud and what is to be made in it.

    Attributes:
        target: names the account.
        owner: name that everything made carries.
        connections: blocks in flight, per disk.
        put_rate: calls that write blocks, per second; None is what the account may. AWS only.
    """

    target: Target
    owner: str
    connections: int
    put_rate: int | None = None


def account_target(account: Account, around: Around, stack: ExitStack) -> CloudTarget:
    """A target in the account; ``stack`` closes it."""
    target, owner = account.target, account.owner
    if target.azure is not None:
        return azure_account.target(target.azure, owner, account.connections, around, stack)
    if target.aws is None:
        raise ConfigError("target: set exactly one of aws, azure")
    pace = aws_account.Pace(account.connections, account.put_rate)
    return aws_account.target(target.aws, owner, pace, around, stack)
