"""Where a value of a plan comes from."""

from dataclasses import dataclass
from enum import Enum


class Origin(Enum):
    """Kinds of places that set values, weakest first."""

    DEFAULT = "default"
    FILE = "file"
    ENVIRONMENT = "environment"
    OPTION = "option"


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where one value comes from.

    Attributes:
        origin: the kind of place.
        where: ``plan.yaml:12:5``, the variable's name or ``--set``; empty for a default.
    """

    origin: Origin
    where: str = ""

    def __str__(self) -> str:
        return self.where or self.origin.value
