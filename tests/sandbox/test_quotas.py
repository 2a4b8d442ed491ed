"""Request rates on the sandbox's clock, pending snapshots, and Service Quotas."""

from collections.abc import Callable
from typing import Any

import pytest

from sandbox.aws import AwsSandbox, Quotas, Rules
from sandbox.aws.testing import ZERO, Cloud, refusal
from sealift.testing.clock import VirtualClock

pytestmark = pytest.mark.sandbox
StartSandbox = Callable[..., tuple[AwsSandbox, Cloud]]
ACCOUNT = "RequestThrottledException/ACCOUNT_THROTTLED"
RESOURCE = "RequestThrottledException/RESOURCE_LEVEL_THROTTLE"


def limited(start_sandbox: StartSandbox, **quotas: Any) -> Cloud:
    none = {name: None for name in Quotas.__dataclass_fields__ if name != "pending_snapshots"}
    return start_sandbox(Rules(quotas=Quotas(**{**none, **quotas})))[1]


def accepted(call: Callable[[], object], tries: int) -> tuple[int, set[str]]:
    answers = [refusal(call) for _ in range(tries)]
    return answers.count("ok"), set(answers) - {"ok"}


def test_puts_of_one_snapshot_are_limited_for_themselves(
    start_sandbox: StartSandbox, clock: VirtualClock
) -> None:
    cloud = limited(start_sandbox, put_per_snapshot=5)
    one, two = cloud.start(), cloud.start()
    assert accepted(lambda: cloud.put(one, 0, ZERO), 8) == (5, {RESOURCE})
    assert accepted(lambda: cloud.put(two, 0, ZERO), 5) == (5, set())
    clock.sleep(0.4)
    assert accepted(lambda: cloud.put(one, 0, ZERO), 4) == (2, {RESOURCE})
    clock.sleep(60)
    assert accepted(lambda: cloud.put(one, 0, ZERO), 8) == (5, {RESOURCE})


def test_puts_of_all_snapshots_share_the_account_s_limit(start_sandbox: StartSandbox) -> None:
    cloud = limited(start_sandbox, put_per_account=6)
    one, two = cloud.start(), cloud.start()
    assert accepted(lambda: cloud.put(one, 0, ZERO), 4) == (4, set())
    assert accepted(lambda: cloud.put(two, 0, ZERO), 4) == (2, {ACCOUNT})


def test_throttled_put_writes_nothing(start_sandbox: StartSandbox, clock: VirtualClock) -> None:
    cloud = limited(start_sandbox, put_per_account=1)
    snapshot_id = cloud.start()
    cloud.put(snapshot_id, 0, ZERO)
    assert refusal(lambda: cloud.put(snapshot_id, 1, ZERO)) == ACCOUNT
    assert cloud.complete(snapshot_id, 1) == "completed"


def test_gets_are_limited_by_snapshot_and_account(start_sandbox: StartSandbox) -> None:
    cloud = limited(start_sandbox, get_per_snapshot=3, get_per_account=4)
    one, two = cloud.snapshot({0: ZERO}), cloud.snapshot({0: ZERO})

    def reader(snapshot_id: str) -> Callable[[], object]:
        entry = cloud.ebs.list_snapshot_blocks(SnapshotId=snapshot_id)["Blocks"][0]
        return lambda: cloud.ebs.get_snapshot_block(SnapshotId=snapshot_id, **entry)

    assert accepted(reader(one), 4) == (3, {RESOURCE})
    assert accepted(reader(two), 3) == (1, {ACCOUNT})


@pytest.mark.parametrize("operation", ["start", "complete", "list_blocks", "list_changed"])
def test_other_operations_are_limited_by_account(
    start_sandbox: StartSandbox, operation: str
) -> None:
    names = {"start": "start_per_account", "complete": "complete_per_account"}
    cloud = limited(start_sandbox, **{names.get(operation, operation): 3})
    done = cloud.snapshot({})
    calls: dict[str, Callable[[], object]] = {
        "start": lambda: cloud.ebs.start_snapshot(VolumeSize=1),
        "complete": lambda: cloud.complete(done, 0),
        "list_blocks": lambda: cloud.ebs.list_snapshot_blocks(SnapshotId=done),
        "list_changed": lambda: cloud.ebs.list_changed_blocks(
            FirstSnapshotId=done, SecondSnapshotId=done
        ),
    }
    _, refused = accepted(calls[operation], 5)
    assert ACCOUNT in refused


def test_no_more_than_100_snapshots_are_pending(cloud: Cloud) -> None:
    pending = [cloud.start() for _ in range(100)]
    full = "ServiceQuotaExceededException/DEPENDENCY_SERVICE_QUOTA_EXCEEDED"
    assert refusal(cloud.start) == full
    cloud.complete(pending[0], 0)
    assert refusal(cloud.start) == "ok"
    assert refusal(cloud.start) == full
    cloud.ec2.delete_snapshot(SnapshotId=pending[1])
    assert refusal(cloud.start) == "ok"


def test_service_quotas_name_what_is_enforced(start_sandbox: StartSandbox) -> None:
    _, cloud = start_sandbox(Rules(quotas=Quotas(put_per_account=5000)))
    client = cloud.client("service-quotas")
    shown = client.get_service_quota(ServiceCode="ebs", QuotaCode="L-AFAE1BE8")["Quota"]
    assert (shown["QuotaName"], shown["Value"]) == ("PutSnapshotBlock requests per account", 5000)
    values = {
        q["QuotaCode"]: q["Value"] for q in client.list_service_quotas(ServiceCode="ebs")["Quotas"]
    }
    assert values == {
        "L-1774F84A": 1000, "L-AFAE1BE8": 5000, "L-028ACFB9": 1000, "L-C125AE42": 1000,
        "L-18E976AB": 50, "L-DB2FBAA1": 50, "L-AFEBDF7A": 10, "L-1D4D9345": 10, "L-94D7AB7D": 100,
    }  # fmt: skip
    default = client.get_aws_default_service_quota(ServiceCode="ebs", QuotaCode="L-AFAE1BE8")
    assert default["Quota"]["Value"] == 1000
    call = lambda: client.get_service_quota(ServiceCode="ebs", QuotaCode="L-00000000")  # noqa: E731
    assert refusal(call) == "NoSuchResourceException"
