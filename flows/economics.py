"""What a target's calls allow and cost; asked of the account where it answers."""

from dataclasses import dataclass

from sealift.endpoints import CloudTarget

DEFAULT_BLOCK_BYTES = 512 * 1024


@dataclass(frozen=True, slots=True)
class Economics:
    """Of one target.

    Attributes:
        block_size: bytes of one call.
        bytes_per_second: the ceiling that quotas set for this many disks.
        source: where the ceiling comes from.
        sends_zeroes: zero blocks are sent, too.
        usd_per_call: price of one call; storage, machines and traffic are not in it.
        prices_as_of: when that price was read.
    """

    block_size: int
    bytes_per_second: float
    source: str
    sends_zeroes: bool
    usd_per_call: float
    prices_as_of: str


def economics_of(cloud: CloudTarget, disks: int) -> Economics | None:
    """None for a target that has neither quotas nor prices.

    Raises:
        CredentialsError: the account cannot be asked.
    """
    from connectors.aws.block_lists import BLOCK_BYTES
    from connectors.aws.prices import PRICES_AS_OF, ApiCost
    from connectors.aws.quotas import read_quotas
    from connectors.aws.target import AwsTarget

    if not isinstance(cloud, AwsTarget):
        return None
    quotas = read_quotas(cloud.clients)
    return Economics(
        BLOCK_BYTES,
        quotas.ceiling_bytes_per_second(disks),
        f"{quotas.put_per_account.value:.0f} calls/s, {quotas.put_per_account.source.value}",
        cloud.sends_zeroes(),
        ApiCost(puts=1).usd,
        PRICES_AS_OF,
    )
