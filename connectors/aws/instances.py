"""Machines of a migration: launched once per attempt, watched, ended for certain."""

import base64
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from connectors.aws import tags as names
from connectors.aws.errors import MissingError, aws_call, code_of, field_of
from connectors.aws.image import Images, snapshot_ids
from connectors.aws.instance_types import MachineTypes
from connectors.aws.session import AwsClients
from connectors.aws.snapshots import Snapshots
from connectors.aws.spec import AwsSpec
from connectors.aws.wait import VISIBLE_SECONDS
from sealift.endpoints import Health, MachineConsole, SourceVm
from sealift.errors import CredentialsError, TargetError, TransientError
from sealift.wait import Waiter

if TYPE_CHECKING:
    from mypy_boto3_ec2.type_defs import (
        BlockDeviceMappingTypeDef,
        ImageTypeDef,
        InstanceTypeDef,
        RunInstancesRequestTypeDef,
        TagSpecificationTypeDef,
    )

log = logging.getLogger(__name__)

_GONE = "terminated"
_ENDING = ("shutting-down", "terminated", "stopping", "stopped")


@dataclass(frozen=True, slots=True)
class Instances:
    """The machines of one migration.

    Args:
        clients: SDK clients.
        spec: the plan.
        owner: whose they are.
        images: to see what an image is made of.
        snapshots: to see whether they may be launched encrypted.
        waiter: for the state ``terminated``.
        types: chooses the instance type.
    """

    clients: AwsClients
    spec: AwsSpec
    owner: names.Owner
    images: Images
    snapshots: Snapshots
    waiter: Waiter
    types: MachineTypes

    def launch(self, seq: int, attempt: int, image_id: str, vm: SourceVm) -> str:
        """Start (or find) the one machine of this attempt.

        The client token follows from migration, point and attempt alone: whatever else has
        changed since, EC2 never starts a second machine for one attempt (I10). Volumes are
        copies that EC2 makes of the snapshots, so the chain is untouched (I7).

        Raises:
            TargetError: EC2 refuses, or zero blocks were left out and volumes would be
                encrypted.
            TransientError: unknown whether it started; repeat it.
        """
        found = self._of(seq, attempt)
        if found is not None:
            return found
        request = self._request(seq, attempt, image_id, vm)
        try:
            with aws_call("ec2:RunInstances"):
                answer = self.clients.ec2.run_instances(**request)
        except TargetError as error:
            if code_of(error) != "IdempotentParameterMismatch":
                raise
            raise TransientError(
                f"the machine of attempt {attempt} exists but is not visible yet",
                next_step="",
                **error.operands,
            ) from None
        started = field_of(answer, "Instances", "ec2:RunInstances")
        if not started:
            raise TransientError("ec2:RunInstances: the answer names no instance")
        return str(field_of(started[0], "InstanceId", "ec2:RunInstances"))

    def find_launched(self, seq: int, attempt: int) -> str | None:
        """The machine of this attempt; None once one would have to be visible.

        For when nothing may be started, because the source may be running (I10).
        """
        until = self.waiter.clock.monotonic() + VISIBLE_SECONDS

        def found() -> tuple[str | None] | None:
            instance_id = self._of(seq, attempt)
            late = self.waiter.clock.monotonic() >= until
            return (instance_id,) if instance_id is not None or late else None

        (answer,) = self.waiter.until(found, 2 * VISIBLE_SECONDS, "the search for a machine")
        return answer

    def _of(self, seq: int, attempt: int) -> str | None:
        own = {names.POINT: str(seq), names.ATTEMPT: str(attempt)}
        found = [i["InstanceId"] for i in self._described(own)]
        return min(found, default=None)

    def _image(self, image_id: str) -> "ImageTypeDef":
        """The image; gone for good once it would have to be visible.

        Without this end a removed image would look young for ever, and an undo that asks for
        the machine of a lost launch would never bring the source back (I10).
        """
        until = self.waiter.clock.monotonic() + VISIBLE_SECONDS

        def found() -> "tuple[ImageTypeDef | None] | None":
            image = self.images.describe(image_id)
            late = self.waiter.clock.monotonic() >= until
            return (image,) if image is not None or late else None

        (image,) = self.waiter.until(found, 2 * VISIBLE_SECONDS, f"image {image_id}")
        if image is None:
            raise MissingError(
                f"image {image_id} is gone",
                next_step="cut over again: it is registered anew",
                image_id=image_id,
            )
        return image

    def _request(
        self, seq: int, attempt: int, image_id: str, vm: SourceVm
    ) -> "RunInstancesRequestTypeDef":
        image = self._image(image_id)
        self._check_zeroes(image)
        chosen = self.spec.instance_type or self.types.pick(vm)
        own = {names.POINT: str(seq), names.ATTEMPT: str(attempt)}
        name = f"{vm.name[:100]} (sealift {self.owner.migration_id} point {seq})"[:255]
        request: RunInstancesRequestTypeDef = {
            "ImageId": image_id,
            "InstanceType": chosen,  # type: ignore[typeddict-item]  # an open set in truth
            "MinCount": 1,
            "MaxCount": 1,
            "SubnetId": self.spec.subnet_id,
            "SecurityGroupIds": list(self.spec.security_group_ids),
            "ClientToken": names.client_token("launch", self.owner.migration_id, seq, attempt),
            "MetadataOptions": {"HttpTokens": "required", "HttpEndpoint": "enabled"},
            "TagSpecifications": self._tag_specifications(name, own),
        }
        if self.spec.launch_encrypted:
            request["BlockDeviceMappings"] = self._encrypted_mappings(image)
        return request

    def _tag_specifications(
        self, name: str, own: dict[str, str]
    ) -> "list[TagSpecificationTypeDef]":
        tags = self.owner.tags(name, own)
        return [
            {"ResourceType": "instance", "Tags": tags},
            {"ResourceType": "volume", "Tags": tags},
        ]

    def _encrypted_mappings(self, image: "ImageTypeDef") -> "list[BlockDeviceMappingTypeDef]":
        ebs: dict[str, Any] = {"Encrypted": True}
        if self.spec.kms_key_id:
            ebs["KmsKeyId"] = self.spec.kms_key_id
        return [
            {"DeviceName": mapping["DeviceName"], "Ebs": {**ebs}}  # type: ignore[typeddict-item]
            for mapping in image.get("BlockDeviceMappings", [])
            if mapping.get("Ebs", {}).get("SnapshotId") and "DeviceName" in mapping
        ]

    def _check_zeroes(self, image: "ImageTypeDef") -> None:
        """Never encrypt at launch what relies on absent blocks being zero: they become noise."""
        if not self.snapshots.launches_encrypted():
            return
        for snapshot_id in snapshot_ids(image):
            facts = self.snapshots.facts(snapshot_id)
            if facts is None:
                raise TransientError(f"snapshot {snapshot_id} is not visible")
            skipped = facts.tags.get(names.ZEROES) != names.ZEROES_WRITTEN
            if skipped and not facts.encrypted:
                raise TargetError(
                    f"snapshot {snapshot_id} left zero blocks out and its volume would be "
                    "encrypted: they would read as noise",
                    next_step="replicate again with launch_encrypted in the plan from the start",
                    snapshot_id=snapshot_id,
                )

    def health(self, instance_id: str) -> Health:
        """State and both status checks, in EC2's words."""
        instance = self._describe(instance_id)
        if instance is None:
            return Health("pending", "not visible yet")
        state = _state(instance)
        if state in _ENDING:
            reason = instance.get("StateReason", {}).get("Message", "")
            return Health("failed", f"{state}: {reason}" if reason else state)
        if state != "running":
            return Health("pending", state)
        return self._checks(instance_id)

    def _checks(self, instance_id: str) -> Health:
        with aws_call("ec2:DescribeInstanceStatus"):
            answer = self.clients.ec2.describe_instance_status(
                InstanceIds=[instance_id], IncludeAllInstances=True
            )
        found = field_of(answer, "InstanceStatuses", "ec2:DescribeInstanceStatus")
        status = found[0] if found else {}
        system = status.get("SystemStatus", {}).get("Status", "no answer")
        machine = status.get("InstanceStatus", {}).get("Status", "no answer")
        detail = f"running, system status {system}, instance status {machine}"
        if "impaired" in (system, machine):
            return Health("failed", detail)
        return Health("ok" if system == machine == "ok" else "pending", detail)

    def console(self, instance_id: str) -> MachineConsole:
        """Serial console and screen, as far as EC2 has them.

        Not every type has a screen to show (bare metal has none) or lets its newest output
        be read (only Nitro does): a refusal of one is an empty answer, and said in the log.
        """
        return MachineConsole(self._console_text(instance_id), self._screen(instance_id))

    def _console_text(self, instance_id: str) -> str:
        for latest in (True, False):
            try:
                with aws_call("ec2:GetConsoleOutput"):
                    answer = self.clients.ec2.get_console_output(
                        InstanceId=instance_id, Latest=latest
                    )
            except CredentialsError:
                raise
            except TargetError as error:
                log.info("no console output of %s: %s", instance_id, error.message)
                continue
            return str(answer.get("Output", ""))
        return ""

    def _screen(self, instance_id: str) -> bytes | None:
        try:
            with aws_call("ec2:GetConsoleScreenshot"):
                answer = self.clients.ec2.get_console_screenshot(InstanceId=instance_id)
            return base64.b64decode(str(answer.get("ImageData", "")), validate=True) or None
        except CredentialsError:
            raise
        except (TargetError, ValueError) as error:
            log.info("no picture of %s: %s", instance_id, error)
            return None

    def terminate(self, instance_id: str) -> None:
        """End it and wait for the state ``terminated``.

        EC2 shows a terminated machine for about an hour and then forgets it. An unknown id
        may also be one that is too new to be seen, so it counts as gone only when it stays
        unknown for as long as new objects may take to appear (I10).

        Raises:
            TransientError: it is not known to be gone yet.
            TargetError: it is not this migration's.
        """
        unknown_since: float | None = None

        def gone() -> bool | None:
            nonlocal unknown_since
            instance = self._describe(instance_id)
            if instance is None:
                now = self.waiter.clock.monotonic()
                unknown_since = now if unknown_since is None else unknown_since
                return True if now - unknown_since >= VISIBLE_SECONDS else None
            unknown_since = None
            self._check_owned(instance)
            if _state(instance) == _GONE:
                return True
            self._ask_to_terminate(instance_id)
            return None

        timeout = max(self.spec.terminate_timeout_seconds, VISIBLE_SECONDS)
        self.waiter.until(gone, timeout, f"terminating {instance_id}")
        log.info("instance %s is terminated", instance_id)

    def _check_owned(self, instance: "InstanceTypeDef") -> None:
        if not self.owner.owns(names.tag_map(instance.get("Tags"))):
            instance_id = instance.get("InstanceId", "")
            raise TargetError(
                f"instance {instance_id} does not belong to {self.owner.migration_id}",
                instance_id=instance_id,
            )

    def _ask_to_terminate(self, instance_id: str) -> None:
        try:
            with aws_call("ec2:TerminateInstances"):
                self.clients.ec2.terminate_instances(InstanceIds=[instance_id])
        except MissingError:
            log.debug("instance %s is not visible", instance_id)

    def owned(self) -> Iterator[str]:
        """Ids of every machine of the migration that is not terminated."""
        for instance in self._described({}):
            if _state(instance) != _GONE:
                yield str(field_of(instance, "InstanceId", "ec2:DescribeInstances"))

    def _describe(self, instance_id: str) -> "InstanceTypeDef | None":
        try:
            with aws_call("ec2:DescribeInstances"):
                answer = self.clients.ec2.describe_instances(InstanceIds=[instance_id])
        except MissingError:
            return None
        return next(iter(_listed(answer)), None)

    def _described(self, own: dict[str, str]) -> "list[InstanceTypeDef]":
        with aws_call("ec2:DescribeInstances"):
            pages = self.clients.ec2.get_paginator("describe_instances").paginate(
                Filters=self.owner.filters(own)
            )
            answers = list(pages)
        return [instance for answer in answers for instance in _listed(answer)]


def _state(instance: "InstanceTypeDef") -> str:
    return str(field_of(instance.get("State", {}), "Name", "ec2:DescribeInstances"))


def _listed(answer: Any) -> "Iterator[InstanceTypeDef]":
    for reservation in field_of(answer, "Reservations", "ec2:DescribeInstances"):
        yield from field_of(reservation, "Instances", "ec2:DescribeInstances")
