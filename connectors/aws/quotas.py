"""What the account may do per second, read from Service Quotas where that is allowed."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from connectors.aws.block_lists import BLOCK_BYTES
from connectors.aws.errors import aws_call, field_of
from connectors.aws.session import AwsClients
from sealift.errors import CredentialsError, TargetError, TransientError

log = logging.getLogger(__name__)

_BEYOND_ANY_QUOTA = 10**9


class QuotaSource(Enum):
    """Where a figure comes from."""

    ACCOUNT = "Service Quotas of the account"
    DOCUMENTED = "documented default; Service Quotas could not be read"


@dataclass(frozen=True, slots=True)
class Quota:
    """One limit.

    Attributes:
        name: as Service Quotas calls it.
        value: per second for request rates, else a count.
        source: whether the account was asked.
    """

    name: str
    value: float
    source: QuotaSource


@dataclass(frozen=True, slots=True)
class EbsQuotas:
    """Limits of the EBS direct API.

    Attributes:
        put_per_account: PutSnapshotBlock calls a second over all snapshots.
        put_per_snapshot: PutSnapshotBlock calls a second for one snapshot; not adjustable.
        get_per_account: GetSnapshotBlock calls a second over all snapshots.
        pending_snapshots: snapshots in state pending in the account; not adjustable.
    """

    put_per_account: Quota
    put_per_snapshot: Quota
    get_per_account: Quota
    pending_snapshots: Quota

    def ceiling_bytes_per_second(self, disks: int = 1) -> float:
        """Fastest that ``disks`` snapshots can be written at once: a block per call."""
        calls = min(self.put_per_account.value, disks * self.put_per_snapshot.value)
        return calls * BLOCK_BYTES


# Codes and defaults of service "ebs" in Service Quotas, as listed in 2026.
_PUT_PER_ACCOUNT = ("L-AFAE1BE8", "PutSnapshotBlock requests per account", 1000.0)
_PUT_PER_SNAPSHOT = ("L-1774F84A", "PutSnapshotBlock requests per snapshot", 1000.0)
_GET_PER_ACCOUNT = ("L-C125AE42", "GetSnapshotBlock requests per account", 1000.0)
_PENDING = ("L-94D7AB7D", "Pending snapshots per account", 100.0)
_STANDARD_VCPUS = "L-1216C47A"  # "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances"


def read_quotas(clients: AwsClients) -> EbsQuotas:
    """The account's limits; the documented defaults where they cannot be read.

    Raises:
        CredentialsError: nothing can be asked of the account.
    """
    known = _listed(clients)
    return EbsQuotas(
        _quota(known, *_PUT_PER_ACCOUNT),
        _quota(known, *_PUT_PER_SNAPSHOT),
        _quota(known, *_GET_PER_ACCOUNT),
        _quota(known, *_PENDING),
    )


def read_standard_vcpus(clients: AwsClients) -> float | None:
    """VCPU that the account may run on demand in the standard families; None = not readable."""
    action = "servicequotas:GetServiceQuota"
    try:
        with aws_call(action):
            answer = clients.quotas.get_service_quota(ServiceCode="ec2", QuotaCode=_STANDARD_VCPUS)
    except CredentialsError:
        raise
    except (TargetError, TransientError) as error:
        log.info("vCPU quota not readable: %s", error.message)
        return None
    return _plausible(field_of(field_of(answer, "Quota", action), "Value", action))


def _listed(clients: AwsClients) -> Mapping[str, float]:
    action = "servicequotas:ListServiceQuotas"
    try:
        with aws_call(action):
            pages = clients.quotas.get_paginator("list_service_quotas").paginate(ServiceCode="ebs")
            answers: list[Any] = list(pages)
    except CredentialsError:
        raise
    except (TargetError, TransientError) as error:
        log.info("quotas not readable, documented defaults assumed: %s", error.message)
        return {}
    found = (quota for answer in answers for quota in field_of(answer, "Quotas", action))
    values = ((str(q.get("QuotaCode", "")), _plausible(q.get("Value"))) for q in found)
    return {code: value for code, value in values if value is not None}


def _plausible(value: object) -> float | None:
    """A limit that an account can have; None for infinity and other strange answers."""
    if not isinstance(value, int | float) or not 0 <= value < _BEYOND_ANY_QUOTA:
        return None
    return float(value)


def _quota(known: Mapping[str, float], code: str, name: str, default: float) -> Quota:
    if known.get(code, 0) > 0:
        return Quota(name, known[code], QuotaSource.ACCOUNT)
    return Quota(name, default, QuotaSource.DOCUMENTED)
