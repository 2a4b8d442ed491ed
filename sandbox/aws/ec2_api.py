"""The EC2 operations that moto answers differently from AWS; the rest is moto's."""

import base64
import json
from collections.abc import Mapping
from typing import Any

from moto.core.responses import ActionResult
from moto.core.types import Base64EncodedString
from moto.ec2.models.instances import Instance, StateReason
from moto.ec2.responses import EC2Response

from sandbox.aws.ec2_backend import SandboxEc2Backend, SandboxSnapshot
from sandbox.aws.ec2_images import SandboxImage, refuse
from sandbox.aws.ec2_launch import boot_mode_of, plan_launch
from sandbox.aws.launches import LaunchBook
from sandbox.reports import BootReport, CheckStatus

_REACHABILITY = {
    CheckStatus.OK: "passed",
    CheckStatus.IMPAIRED: "failed",
    CheckStatus.INITIALIZING: "initializing",
}


class SandboxEc2Response(EC2Response):
    """One EC2 request: moto's own response class, with the operations below replaced.

    Args:
        backend: the region.
        launches: remembers client tokens and what instances show.
        end_reason: state reason with which a launched instance ends at once.
    """

    def __init__(
        self, backend: SandboxEc2Backend, launches: LaunchBook, end_reason: str | None = None
    ) -> None:
        super().__init__()
        self._end_reason = end_reason
        self._backend = backend
        self._launches = launches

    @property
    def ec2_backend(self) -> SandboxEc2Backend:
        """The region's backend."""
        return self._backend

    # Images.

    def register_image(self) -> ActionResult:
        """RegisterImage: checks and keeps everything."""
        spec = self._backend.image_spec(self.params)
        self.error_on_dryrun()
        image = self._backend.add_image(spec)
        image.add_tags(self._tags("image"))
        return ActionResult({"ImageId": image.id})

    def describe_images(self) -> ActionResult:
        """DescribeImages: shows everything that was registered."""
        self.error_on_dryrun()
        images = self._backend.describe_images(
            ami_ids=self._get_param("ImageIds", []),
            filters=self._filters_from_querystring(),
            exec_users=self._get_param("ExecutableUsers", []),
            owners=self._get_param("Owners", []),
        )
        shown = [i.description_document() for i in images if isinstance(i, SandboxImage)]
        return ActionResult({"Images": shown})

    def describe_image_attribute(self) -> ActionResult:
        """DescribeImageAttribute: boot mode, TPM, IMDS and UEFI data too."""
        image = self._backend.amis.get(self._get_param("ImageId"))
        name = self._get_param("Attribute")
        fields = {
            "bootMode": "boot_mode",
            "tpmSupport": "tpm_support",
            "imdsSupport": "imds_support",
            "uefiData": "uefi_data",
            "sriovNetSupport": "sriov_support",
        }
        if not isinstance(image, SandboxImage) or name not in fields:
            return super().describe_image_attribute()
        value = getattr(image.spec, fields[name])
        key = name[0].upper() + name[1:]
        return ActionResult({"ImageId": image.id, key: {"Value": value} if value else {}})

    # Snapshots and volumes.

    def describe_snapshots(self) -> ActionResult:
        """DescribeSnapshots: true states; owners, ids, filters and pages are honoured."""
        self.error_on_dryrun()
        owners = self._get_param("OwnerIds", [])
        mine = not owners or "self" in owners or self._backend.account_id in owners
        snapshots = self._backend.describe_snapshots(
            snapshot_ids=self._get_param("SnapshotIds", []),
            filters=self._filters_from_querystring(),
        )
        shown = [
            s.description_document()
            for s in snapshots
            if mine and isinstance(s, SandboxSnapshot) and s.record.visible
        ]
        start = int(self._get_param("NextToken") or 0)
        size = int(self._get_param("MaxResults") or 1000)
        following = str(start + size) if start + size < len(shown) else None
        return ActionResult({"Snapshots": shown[start : start + size], "NextToken": following})

    def create_snapshot(self) -> ActionResult:
        """CreateSnapshot: readable through the EBS direct API."""
        self.error_on_dryrun()
        description = self._get_param("Description", "")
        snapshot = self._backend.create_snapshot(self._get_param("VolumeId"), description)
        snapshot.add_tags(self._tags("snapshot"))
        return ActionResult(snapshot.description_document())

    def copy_snapshot(self) -> ActionResult:
        """CopySnapshot: encrypts when asked to, with the account's key if none is named."""
        self.error_on_dryrun()
        snapshot = self._backend.copy_snapshot(
            self._get_param("SourceSnapshotId"),
            self._get_param("SourceRegion", self._backend.region_name),
            self._get_param("Description", ""),
            self._get_param("KmsKeyId"),
            bool(self._get_param("Encrypted", False)),
        )
        snapshot.add_tags(self._tags("snapshot"))
        return ActionResult({"SnapshotId": snapshot.id, "Tags": snapshot.get_tags()})

    def get_ebs_default_kms_key_id(self) -> ActionResult:
        """GetEbsDefaultKmsKeyId: the account's key, ``alias/aws/ebs`` unless set."""
        self.error_on_dryrun()
        return ActionResult({"KmsKeyId": self._backend.default_kms_key_id or "alias/aws/ebs"})

    def reset_ebs_default_kms_key_id(self) -> ActionResult:
        """ResetEbsDefaultKmsKeyId."""
        self.error_on_dryrun()
        self._backend.default_kms_key_id = ""
        return ActionResult({"KmsKeyId": "alias/aws/ebs"})

    # Instances.

    def run_instances(self) -> ActionResult:
        """RunInstances: checked, idempotent by client token, volumes from the image."""
        fingerprint = json.dumps(self.params, sort_keys=True, default=str)
        return self._launches.once(self.params.get("ClientToken"), fingerprint, self._run)

    def describe_instance_status(self) -> ActionResult:
        """DescribeInstanceStatus: what the launch book knows."""
        instances = self._backend.describe_instance_status(
            self._get_param("InstanceIds", []),
            self._get_bool_param("IncludeAllInstances", False),
            [{"name": k, "values": v} for k, v in self._filters_from_querystring().items()],
        )
        return ActionResult({"InstanceStatuses": [self._status(i) for i in instances]})

    def get_console_output(self) -> ActionResult:
        """GetConsoleOutput: what was attached to the instance; empty before."""
        instance, report = self._report()
        output = Base64EncodedString.from_encoded_bytes(base64.b64encode(report.console))
        now = self._backend.clock.now()
        return ActionResult({"InstanceId": instance.id, "Timestamp": now, "Output": output})

    def get_console_screenshot(self) -> ActionResult:
        """GetConsoleScreenshot: the picture that was attached to the instance."""
        instance, report = self._report()
        if not report.screenshot:
            raise refuse("UnsupportedOperation", "There is no picture of the instance's screen")
        data = base64.b64encode(report.screenshot).decode()
        return ActionResult({"InstanceId": instance.id, "ImageData": data})

    def _run(self) -> ActionResult:
        image, mappings = plan_launch(self._backend, self.params)
        self.error_on_dryrun()
        boot_mode = boot_mode_of(image.spec, self._get_param("InstanceType", "m1.small"))
        self.params["BlockDeviceMappings"] = mappings
        self.params["MinCount"] = self.params.get("MaxCount", 1)
        asked = self._get_param("MetadataOptions", {})
        result = super().run_instances()
        reservation: Any = result.result
        for instance in reservation.instances:
            _dress(instance, image, boot_mode, asked)
            self._launches.launched(self._backend, instance, image, boot_mode)
            if self._end_reason is not None:
                _end(instance, self._end_reason)
        return result

    def _report(self) -> tuple[Instance, BootReport]:
        instance = self._backend.get_instance(self._get_param("InstanceId"))
        self.error_on_dryrun()
        return instance, self._launches.report(instance.id)

    def _status(self, instance: Instance) -> dict[str, Any]:
        document: dict[str, Any] = {
            "InstanceId": instance.id,
            "AvailabilityZone": instance.availability_zone,
            "InstanceState": {"Code": instance.state_code, "Name": instance.state},
        }
        if not instance.is_running():
            nothing = {"Status": "not-applicable"}
            return {**document, "InstanceStatus": nothing, "SystemStatus": nothing}
        status = self._launches.report(instance.id).status
        system = CheckStatus.INITIALIZING if status is CheckStatus.INITIALIZING else CheckStatus.OK
        document["InstanceStatus"] = _summary(status)
        document["SystemStatus"] = _summary(system)
        return document

    def _tags(self, resource_type: str) -> dict[str, str]:
        return dict(self._parse_tag_specification().get(resource_type, {}))


def _summary(status: CheckStatus) -> dict[str, Any]:
    detail = {"Name": "reachability", "Status": _REACHABILITY[status]}
    return {"Status": status.value, "Details": [detail]}


def _dress(instance: Any, image: SandboxImage, boot_mode: str, asked: Mapping[str, Any]) -> None:
    """What an instance takes over from its image."""
    instance.boot_mode = image.spec.boot_mode
    instance.current_instance_boot_mode = boot_mode
    instance.ena_support = image.spec.ena_support
    instance.tpm_support = image.spec.tpm_support
    if image.spec.imds_support == "v2.0":
        options = instance.metadata_options
        if "HttpTokens" not in asked:
            options.http_tokens = "required"
        if "HttpPutResponseHopLimit" not in asked:
            options.http_put_response_hop_limit = 2


def _end(instance: Instance, code: str) -> None:
    instance.terminate()
    instance.state_reason = StateReason(f"{code}: the launch failed on demand", code)
