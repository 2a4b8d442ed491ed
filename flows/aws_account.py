"""A target in an AWS account. The SDK is imported when it is used."""

import hashlib
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from flows.around import Around
from flows.places import state_home
from sealift.config_aws import AwsPlan
from sealift.endpoints import CloudTarget
from sealift.private import make_private_folder
from sealift.ratelimit import RateLimit, SharedTokenBucket, TokenBucket

if TYPE_CHECKING:
    from connectors.aws.spec import AwsSpec

_BURST_SECONDS = 0.25  # of a call rate; a service's own bucket forgives about a second


@dataclass(frozen=True, slots=True)
class Pace:
    """How hard the service is asked.

    Attributes:
        connections: blocks in flight, per disk.
        put_rate: PutSnapshotBlock calls per second; None is what the account may.
    """

    connections: int
    put_rate: int | None


def target(aws: AwsPlan, owner: str, pace: Pace, around: Around, stack: ExitStack) -> CloudTarget:
    """A target whose things carry ``owner``; ``stack`` closes it."""
    from connectors.aws.quotas import read_quotas
    from connectors.aws.session import AwsClients
    from connectors.aws.target import AwsTarget

    spec = spec_of(aws, pace.connections)
    clients = AwsClients(spec)
    stack.callback(clients.close)

    def put_rate() -> float:
        return pace.put_rate or read_quotas(clients).put_per_account.value

    limit = LazyLimit(lambda: _limited(aws, around, put_rate()))
    stack.callback(limit.close)
    made = AwsTarget(spec, owner, around.clock, cancel=around.cancel, put_limit=limit)
    stack.callback(made.close)
    return made


def spec_of(aws: AwsPlan, connections: int) -> "AwsSpec":
    """An account as its connector takes it."""
    from connectors.aws.spec import AwsSpec, VolumeType

    return AwsSpec(
        subnet_id=aws.subnet,
        security_group_ids=aws.security_groups,
        region=aws.region,
        profile=aws.profile,
        endpoint=aws.endpoint,
        instance_type=aws.instance_type,
        encrypted=aws.encrypted,
        kms_key_id=aws.kms_key,
        launch_encrypted=aws.launch_encrypted,
        volume_type=VolumeType(aws.volume_type),
        tags=aws.tags,
        snapshot_timeout_minutes=int(aws.snapshot_timeout // 60),
        concurrency=connections,
    )


class _Divided:
    """A shared limit and this process's part of it: other hosts do not see the shared one."""

    def __init__(self, shared: SharedTokenBucket, part: TokenBucket) -> None:
        self._shared, self._part = shared, part

    def acquire(self, amount: int) -> None:
        """See ``RateLimit.acquire``."""
        self._part.acquire(amount)
        self._shared.acquire(amount)

    def close(self) -> None:
        """Free the shared limit's file."""
        self._shared.close()


def _limited(aws: AwsPlan, around: Around, rate: float) -> "_Closable":
    shared = _shared(aws, around, rate)
    if around.sharers == 1:
        return shared
    part = rate / around.sharers
    burst = max(1.0, part * _BURST_SECONDS)
    return _Divided(shared, TokenBucket(part, burst, around.clock, around.cancel))


def _shared(aws: AwsPlan, around: Around, rate: float) -> SharedTokenBucket:
    """One bucket for all migrations of this user into the same account and region."""
    name = hashlib.sha256(f"{aws.profile}|{aws.region}|{aws.endpoint}".encode()).hexdigest()[:16]
    directory = state_home(around.environ) / ".limits"
    make_private_folder(directory)
    burst = max(1.0, rate * _BURST_SECONDS)
    path = directory / f"aws-put-{name}"
    return SharedTokenBucket(path, rate, burst, around.clock, around.cancel)


class _Closable(RateLimit, Protocol):
    def close(self) -> None: ...


class LazyLimit:
    """A limit that is made when the first unit is spent, so that opening costs no call.

    Args:
        make: makes the limit; called once unless it fails.
    """

    def __init__(self, make: Callable[[], _Closable]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._bucket: _Closable | None = None

    def acquire(self, amount: int) -> None:
        """See ``RateLimit.acquire``; raises what making the limit raises."""
        with self._lock:
            bucket = self._bucket = self._bucket or self._make()
        bucket.acquire(amount)

    def close(self) -> None:
        """Free the limit's file, if it was made."""
        with self._lock:
            if self._bucket is not None:
                self._bucket.close()
            self._bucket = None
