"""What a target's calls allow and cost; asked of the account where it answers."""

from dataclasses import dataclass

from sealift.config import Target
from sealift.endpoints import CloudTarget
from sealift.units import format_rate

DEFAULT_BLOCK_BYTES = 512 * 1024


@dataclass(frozen=True, slots=True)
class Economics:
    """Of one target.

    Attributes:
        block_size: bytes of the target's grid, and of the smallest call.
        bytes_per_call: most bytes of one call, where blocks lie side by side.
        bytes_per_second: the ceiling that quotas or targets of the service set for this many
            disks.
        source: where the ceiling comes from.
        sends_zeroes: zero blocks are sent, too.
        usd_per_call: price of one call; storage, machines and traffic are not in it. None
            where no price is known.
        prices_as_of: when that price was read.
    """

    block_size: int
    bytes_per_call: int
    bytes_per_second: float
    source: str
    sends_zeroes: bool
    usd_per_call: float | None
    prices_as_of: str


def economics_of(target: Target, cloud: CloudTarget, disks: int) -> Economics | None:
    """None for a target that has neither quotas nor prices.

    Args:
        target: the plan's.
        cloud: that was opened for it.
        disks: of the machine.

    Raises:
        CredentialsError: the account cannot be asked.
    """
    return _azure(cloud, disks) if target.azure is not None else _aws(cloud, disks)


def _aws(cloud: CloudTarget, disks: int) -> Economics | None:
    from connectors.aws.block_lists import BLOCK_BYTES
    from connectors.aws.prices import PRICES_AS_OF, ApiCost
    from connectors.aws.quotas import read_quotas
    from connectors.aws.target import AwsTarget

    if not isinstance(cloud, AwsTarget):
        return None
    quotas = read_quotas(cloud.clients)
    return Economics(
        BLOCK_BYTES,
        BLOCK_BYTES,
        quotas.ceiling_bytes_per_second(disks),
        f"{quotas.put_per_account.value:.0f} calls/s, {quotas.put_per_account.source.value}",
        cloud.sends_zeroes(),
        ApiCost(puts=1).usd,
        PRICES_AS_OF,
    )


def _azure(cloud: CloudTarget, disks: int) -> Economics | None:
    from connectors.azure.page_limits import TARGET_BYTES_PER_SECOND
    from connectors.azure.page_writer import BLOCK_BYTES, MAX_PUT_BYTES
    from connectors.azure.target import AzureTarget

    if not isinstance(cloud, AzureTarget):
        return None
    return Economics(
        BLOCK_BYTES,
        MAX_PUT_BYTES,
        float(disks * TARGET_BYTES_PER_SECOND),
        f"{format_rate(TARGET_BYTES_PER_SECOND)} a page blob, the service's published target",
        False,
        None,
        "",
    )
