"""Prices of the EBS direct API, to estimate a plan's cost. Never used to decide anything."""

from dataclasses import dataclass

PRICES_AS_OF = "2026-11"
"""When the figures were read in the examples of the EBS user guide, "Pricing for EBS direct
APIs". They are those of US regions; others are up to a third higher, and all may change."""

_USD_PER_1000_PUTS = 0.006
_USD_PER_1000_GETS = 0.003
_USD_PER_1000_LISTS = 0.0006


@dataclass(frozen=True, slots=True)
class ApiCost:
    """What a number of calls costs; storage, machines and traffic are not in it.

    Attributes:
        puts: blocks written.
        gets: blocks read back.
        lists: pages of ListSnapshotBlocks and ListChangedBlocks.
    """

    puts: int = 0
    gets: int = 0
    lists: int = 0

    @property
    def usd(self) -> float:
        """US dollars, by the prices of ``PRICES_AS_OF``."""
        per_1000 = (
            self.puts * _USD_PER_1000_PUTS
            + self.gets * _USD_PER_1000_GETS
            + self.lists * _USD_PER_1000_LISTS
        )
        return per_1000 / 1000
