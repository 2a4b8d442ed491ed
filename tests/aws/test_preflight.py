"""Everything that would stop a machine is told at once, and nothing is made."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest

from connectors.aws.block_lists import BLOCK_BYTES
from connectors.aws.quotas import QuotaSource, read_quotas, read_standard_vcpus
from connectors.aws.spec import VolumeType
from connectors.aws.target import AwsTarget
from sandbox.aws import Quotas, Rules
from sandbox.aws.faults import FaultKind
from sealift.endpoints import Check, Firmware, VmDisk
from sealift.errors import CredentialsError, TransientError
from sealift.units import GiB, TiB

from .conftest import ROOT, Account, OpenAccount, vm

pytestmark = pytest.mark.sandbox


def failed(checks: Sequence[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks if not check.ok}


def named(checks: Sequence[Check], name: str) -> Check:
    return next(check for check in checks if check.name == name)


def test_a_good_plan_passes_and_makes_nothing(account: Account) -> None:
    target = account.target(instance_type=None)
    checks = target.preflight(vm())
    assert failed(checks) == {}
    assert [c.name for c in checks][:4] == [
        "credentials",
        "subnet",
        "security groups",
        "instance type",
    ]
    assert "2 vCPU" in named(checks, "instance type").found
    assert "us-east-1" in named(checks, "credentials").found
    assert target.owned() == []
    assert account.ec2.describe_instances()["Reservations"] == []
    assert account.ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"] == []


def test_unusable_credentials_are_the_only_row(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    (row,) = AwsTarget(account.spec, "mig-1", account.clock).preflight(vm())
    assert row.name == "credentials"
    assert not row.ok
    assert "renew the credentials" in row.next_step


@pytest.mark.fault(25)
@pytest.mark.parametrize(
    ("changes", "source", "row", "words"),
    [
        ({"subnet_id": "subnet-0123456789abcdef0"}, {}, "subnet", "NotFound"),
        ({"security_group_ids": ("sg-0123456789abcdef0",)}, {}, "security groups", "NotFound"),
        ({"instance_type": "m5.gigantic"}, {}, "instance type", "not offered"),
        ({"instance_type": "m5.large"}, {"vcpus": 3}, "instance type", "has 2 vCPU, not 3"),
        (
            {"instance_type": "t2.medium"},
            {"firmware": Firmware.UEFI, "memory_bytes": GiB},
            "instance type",
            "does not boot uefi",
        ),
        ({"instance_type": "m6g.large"}, {}, "instance type", "runs arm64, not x86_64"),
        ({"instance_type": None}, {"vcpus": 9000}, "instance type", "no instance type"),
        ({"volume_type": VolumeType.ST1}, {}, "volumes", "cannot boot"),
        (
            {"volume_type": VolumeType.GP2},
            {"disks": (VmDisk("vda", 17 * TiB, "nvme"),)},
            "volumes",
            "gp2 ends at 16384 GiB",
        ),
        ({"volume_type": VolumeType.IO2}, {}, "volumes", "io2 starts at 4 GiB"),
        (
            {},
            {"disks": tuple(VmDisk(f"d{i}", GiB, "nvme") for i in range(60))},
            "volumes",
            "device names",
        ),
        (
            {},
            {"disks": tuple(VmDisk(f"d{i}", GiB, "nvme") for i in range(30))},
            "instance type",
            "volumes, not 30",
        ),
        ({"kms_key_id": "alias/none"}, {}, "KMS key", "nothing is encrypted"),
        ({"kms_key_id": "alias/none", "encrypted": True}, {}, "KMS key", "NotFound"),
    ],
)
def test_what_would_stop_the_machine(
    account: Account,
    changes: dict[str, Any],
    source: dict[str, Any],
    row: str,
    words: str,
) -> None:
    problem = failed(account.target(**changes).preflight(vm(**source)))[row]
    assert words in problem.found


def test_a_security_group_of_another_network(account: Account) -> None:
    vpc = account.ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    group = account.ec2.create_security_group(GroupName="x", Description="x", VpcId=vpc)
    checks = account.target(security_group_ids=(group["GroupId"],)).preflight(vm())
    assert "where the subnet is" in failed(checks)["security groups"].found


def test_a_key_that_is_disabled(account: Account) -> None:
    kms = account.clients.kms
    key_id = kms.create_key()["KeyMetadata"]["KeyId"]
    target = account.target(encrypted=True, kms_key_id=key_id)
    assert "KMS key" not in failed(target.preflight(vm()))
    kms.disable_key(KeyId=key_id)
    assert "Disabled" in failed(target.preflight(vm()))["KMS key"].found


def test_default_encryption_and_what_follows_from_it_is_said(account: Account) -> None:
    assert "left out" in named(account.target().preflight(vm()), "encryption").found
    account.ec2.enable_ebs_encryption_by_default()
    check = named(account.target().preflight(vm()), "encryption")
    assert check.ok
    assert "every zero block is sent" in check.found
    assert "full copy" in check.next_step


@pytest.mark.fault(23)
def test_a_missing_permission_fails_its_own_row(account: Account) -> None:
    account.fault(FaultKind.ACCESS_DENIED, "RunInstances")
    problem = failed(account.target().preflight(vm()))["ec2:RunInstances"]
    assert problem.found == "denied"
    assert "allow ec2:RunInstances" in problem.next_step


@pytest.mark.fault(25)
def test_pending_snapshots_count(account: Account) -> None:
    for seq in range(99):
        account.target().begin_snapshot(seq, ROOT, None)
    problem = failed(account.target().preflight(vm()))["pending snapshots"]
    assert problem.found.startswith("99 of 100 in use")


def test_a_service_that_fails_is_asked_again(account: Account) -> None:
    account.fault(FaultKind.ERROR_BEFORE, "DescribeSubnets")
    with pytest.raises(TransientError):
        account.target().preflight(vm())
    assert failed(account.target().preflight(vm())) == {}


def test_the_ceiling_follows_from_the_quotas(open_account: OpenAccount) -> None:
    rules = Rules(quotas=dataclasses.replace(Quotas(), put_per_account=2500))
    quotas = read_quotas(open_account(rules).clients)
    assert quotas.put_per_account.source is QuotaSource.ACCOUNT
    assert quotas.ceiling_bytes_per_second(1) == 1000 * BLOCK_BYTES
    assert quotas.ceiling_bytes_per_second(2) == 2000 * BLOCK_BYTES
    assert quotas.ceiling_bytes_per_second(3) == 2500 * BLOCK_BYTES
    assert quotas.pending_snapshots.value == 100


def test_documented_defaults_where_quotas_cannot_be_read(account: Account) -> None:
    for kind in (FaultKind.ACCESS_DENIED, FaultKind.ERROR_BEFORE):
        account.fault(kind, "ListServiceQuotas")
        quotas = read_quotas(account.clients)
        assert quotas.put_per_account.source is QuotaSource.DOCUMENTED
        assert quotas.put_per_account.value == 1000
    account.fault(FaultKind.EXPIRED_TOKEN, "ListServiceQuotas")
    with pytest.raises(CredentialsError):
        read_quotas(account.clients)
    account.fault(FaultKind.ACCESS_DENIED, "GetServiceQuota")
    assert read_standard_vcpus(account.clients) is None
