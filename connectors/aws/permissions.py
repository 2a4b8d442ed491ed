"""Permissions, asked for with EC2's dry runs: nothing is made."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from connectors.aws.errors import aws_call, code_of, field_of
from connectors.aws.image import ROOT_DEVICE
from connectors.aws.session import AwsClients
from connectors.aws.spec import AwsSpec
from sealift.endpoints import Check
from sealift.errors import TargetDeniedError, TargetError

ACTIONS = (
    "ebs:CompleteSnapshot",
    "ebs:GetSnapshotBlock",
    "ebs:ListChangedBlocks",
    "ebs:ListSnapshotBlocks",
    "ebs:PutSnapshotBlock",
    "ebs:StartSnapshot",
    "ec2:CreateTags",
    "ec2:DeleteSnapshot",
    "ec2:DeleteVolume",
    "ec2:DeregisterImage",
    "ec2:DescribeImages",
    "ec2:DescribeInstanceStatus",
    "ec2:DescribeInstanceTypeOfferings",
    "ec2:DescribeInstanceTypes",
    "ec2:DescribeInstances",
    "ec2:DescribeSecurityGroups",
    "ec2:DescribeSnapshots",
    "ec2:DescribeSubnets",
    "ec2:DescribeVolumes",
    "ec2:GetConsoleOutput",
    "ec2:GetConsoleScreenshot",
    "ec2:GetEbsEncryptionByDefault",
    "ec2:RegisterImage",
    "ec2:RunInstances",
    "ec2:TerminateInstances",
    "kms:DescribeKey",
    "servicequotas:GetServiceQuota",
    "servicequotas:ListServiceQuotas",
    "sts:GetCallerIdentity",
)
"""Every action that the connector calls; an IAM policy needs these and no others, plus, for
encrypted snapshots, what EBS does with the key on the caller's behalf (EBS user guide,
"Control access to EBS direct APIs")."""

_NO_SNAPSHOT = "snap-00000000000000000"
_NO_IMAGE = "ami-00000000000000000"
_NO_INSTANCE = "i-00000000000000000"


@dataclass(frozen=True, slots=True)
class Permissions:
    """Dry runs of what EC2 is going to be asked.

    The EBS direct API has no dry run: its permissions show at the first snapshot, before
    any block is read from the source.

    Args:
        clients: SDK clients.
        spec: the plan.
    """

    clients: AwsClients
    spec: AwsSpec

    def run(self, arch: str, instance_type: str) -> Iterator[Check]:
        """A row per action; fails only where EC2 says that it is denied.

        Args:
            arch: of an image to try a launch with.
            instance_type: to try it on; policies may depend on it.
        """
        ec2 = self.clients.ec2
        yield _dry_run(
            "ec2:RunInstances",
            lambda: ec2.run_instances(
                DryRun=True,
                ImageId=self._some_image(arch),
                InstanceType=instance_type,  # type: ignore[arg-type]  # an open set in truth
                MinCount=1,
                MaxCount=1,
                SubnetId=self.spec.subnet_id,
                SecurityGroupIds=list(self.spec.security_group_ids),
            ),
        )
        yield _dry_run(
            "ec2:RegisterImage",
            lambda: ec2.register_image(
                DryRun=True,
                Name="sealift dry run",
                RootDeviceName=ROOT_DEVICE,
                VirtualizationType="hvm",
                BlockDeviceMappings=[
                    {"DeviceName": ROOT_DEVICE, "Ebs": {"SnapshotId": _NO_SNAPSHOT}}
                ],
            ),
        )
        yield _dry_run(
            "ec2:CreateTags",
            lambda: ec2.create_tags(
                DryRun=True, Resources=[_NO_SNAPSHOT], Tags=[{"Key": "sealift", "Value": ""}]
            ),
        )
        yield _dry_run(
            "ec2:TerminateInstances",
            lambda: ec2.terminate_instances(DryRun=True, InstanceIds=[_NO_INSTANCE]),
        )
        yield _dry_run(
            "ec2:DeleteSnapshot",
            lambda: ec2.delete_snapshot(DryRun=True, SnapshotId=_NO_SNAPSHOT),
        )
        yield _dry_run(
            "ec2:DeregisterImage",
            lambda: ec2.deregister_image(DryRun=True, ImageId=_NO_IMAGE),
        )

    def _some_image(self, arch: str) -> str:
        """Any image that exists, because a dry run of a launch needs one."""
        with aws_call("ec2:DescribeImages"):
            answer = self.clients.ec2.describe_images(
                Owners=["amazon"],
                Filters=[
                    {"Name": "architecture", "Values": [arch]},
                    {"Name": "root-device-type", "Values": ["ebs"]},
                    {"Name": "virtualization-type", "Values": ["hvm"]},
                ],
                MaxResults=5,
            )
        found = field_of(answer, "Images", "ec2:DescribeImages")
        return str(found[0]["ImageId"]) if found else _NO_IMAGE


def _dry_run(action: str, call: Callable[[], Any]) -> Check:
    """EC2 answers ``DryRunOperation`` where the call would be allowed."""
    try:
        with aws_call(action):
            call()
    except TargetDeniedError as error:
        return Check(
            action, ok=False, found="denied", next_step=error.next_step, error=TargetDeniedError
        )
    except TargetError as error:
        allowed = code_of(error) == "DryRunOperation"
        return Check(action, ok=True, found="allowed" if allowed else f"not provable: {error}")
    return Check(action, ok=True, found="not provable: EC2 ignored the dry run")
