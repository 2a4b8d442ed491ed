"""Everything about the Azure sandbox that a test or a rehearsal may want to set."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class Polling(Enum):
    """Which headers say where to ask for the end of an operation.

    See "Track asynchronous Azure operations".
    """

    BOTH = "both"
    ASYNC_OPERATION = "async-operation"
    LOCATION = "location"


@dataclass(frozen=True, slots=True)
class Rules:
    """How the sandbox behaves where Azure leaves room.

    Attributes:
        operation_seconds: how long asynchronous operations take, on the sandbox's clock; one
            that takes no time still ends only after its first answer was sent.
        retry_after_seconds: what ``Retry-After`` asks for; below a second it is said by
            ``retry-after-ms`` instead, which Azure's SDKs understand as well.
        polling: the headers of operations other than access grants, which need both.
        visibility_delay_seconds: how long a new machine stays unknown to its GET.
        copy_seconds: how long copies of blobs stay pending, on the sandbox's clock.
        token_seconds: life of access tokens, in real time.
        throttled: enforce the request limits of "Understand how Azure Resource Manager
            throttles requests".
        vcpu_quota: vCPUs per family and in all (``cores``) that the subscription may run.
        restricted_sizes: offered in the location, but not to this subscription.
    """

    operation_seconds: float = 0.0
    retry_after_seconds: float = 0.02
    polling: Polling = Polling.BOTH
    visibility_delay_seconds: float = 0.0
    copy_seconds: float = 0.0
    token_seconds: float = 86_400.0
    throttled: bool = False
    vcpu_quota: Mapping[str, int] = field(default_factory=lambda: {"cores": 100})
    restricted_sizes: frozenset[str] = frozenset({"Standard_E2s_v5"})
