"""Service Quotas for EBS: the limits that the sandbox enforces, under AWS's own codes.

Codes and names as in public dumps of the Service Quotas API; ``docs/sandbox.md``. moto
knows no quotas of EBS.
"""

import json
from dataclasses import dataclass

from sandbox.aws.errors import ApiError, validation
from sandbox.aws.rules import Quotas
from sandbox.aws.wire import Call, Reply, json_reply

_PREFIX = "ServiceQuotasV20190624."
_UNLIMITED = 1_000_000.0


@dataclass(frozen=True, slots=True)
class _Quota:
    code: str
    name: str
    field: str
    adjustable: bool


_QUOTAS = (
    _Quota("L-1774F84A", "PutSnapshotBlock requests per snapshot", "put_per_snapshot", False),
    _Quota("L-AFAE1BE8", "PutSnapshotBlock requests per account", "put_per_account", True),
    _Quota("L-028ACFB9", "GetSnapshotBlock requests per snapshot", "get_per_snapshot", False),
    _Quota("L-C125AE42", "GetSnapshotBlock requests per account", "get_per_account", True),
    _Quota("L-18E976AB", "ListSnapshotBlocks requests per account", "list_blocks", False),
    _Quota("L-DB2FBAA1", "ListChangedBlocks requests per account", "list_changed", False),
    _Quota("L-AFEBDF7A", "StartSnapshot requests per account", "start_per_account", False),
    _Quota("L-1D4D9345", "CompleteSnapshot requests per account", "complete_per_account", False),
    _Quota("L-94D7AB7D", "Pending snapshots per account", "pending_snapshots", False),
)  # fmt: skip


def answer(call: Call, quotas: Quotas) -> Reply | None:
    """Answer GetServiceQuota and ListServiceQuotas about ``ebs``; ``None`` for other calls.

    A limit that the sandbox does not enforce shows as one million.
    """
    if not call.headers.get("x-amz-target", "").startswith(_PREFIX):
        return None
    try:
        given = json.loads(call.body)
        service, code = given.get("ServiceCode"), given.get("QuotaCode")
    except (ValueError, AttributeError):
        raise validation("The request body is malformed") from None
    if service != "ebs":
        return None
    if call.operation in ("ListServiceQuotas", "ListAWSDefaultServiceQuotas"):
        shown = Quotas() if call.operation.startswith("ListAWS") else quotas
        return json_reply(200, {"Quotas": [_document(quota, shown) for quota in _QUOTAS]})
    if call.operation in ("GetServiceQuota", "GetAWSDefaultServiceQuota"):
        shown = Quotas() if call.operation.startswith("GetAWS") else quotas
        return json_reply(200, {"Quota": _document(_find(code), shown)})
    return None


def _find(code: object) -> _Quota:
    for quota in _QUOTAS:
        if quota.code == code:
            return quota
    raise ApiError(400, "NoSuchResourceException", "The quota does not exist")


def _document(quota: _Quota, quotas: Quotas) -> dict[str, object]:
    value = getattr(quotas, quota.field)
    return {
        "ServiceCode": "ebs",
        "ServiceName": "Amazon Elastic Block Store (Amazon EBS)",
        "QuotaCode": quota.code,
        "QuotaName": quota.name,
        "Value": _UNLIMITED if value is None else float(value),
        "Unit": "None",
        "Adjustable": quota.adjustable,
        "GlobalQuota": False,
    }
