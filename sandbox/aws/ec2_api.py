"""The EC2 operations that moto answers differently from AWS; the rest is moto's."""

import json
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.responses import EC2Response

from sandbox.aws.ec2_backend import SandboxEc2Backend, SandboxSnapshot
from sandbox.aws.ec2_images import SandboxImage
from sandbox.aws.ec2_launch import boot_mode_of, plan_launch
from sandbox.aws.launches import LaunchBook


class SandboxEc2Response(EC2Response):
    """One EC2 request. moto's own response class, with the operations below replaced."""

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

    def register_image(self) -> ActionResult:
        """RegisterImage: checks and keeps everything."""
        params = dict(self.params)
        if self._get_param("DryRun", False):
            self.error_on_dryrun()
        image = self._backend.register(params)
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

    def describe_snapshots(self) -> ActionResult:
        """DescribeSnapshots: true states; ``OwnerIds`` and ids are honoured."""
        owners = self._get_param("OwnerIds", [])
        mine = not owners or "self" in owners or self._backend.account_id in owners
        snapshots = self._backend.describe_snapshots(
            snapshot_ids=self._get_param("SnapshotIds", []),
            filters=self._filters_from_querystring(),
        )
        shown = [
            s.description_document() for s in snapshots if mine and isinstance(s, SandboxSnapshot)
        ]
        return ActionResult({"Snapshots": shown})

    def run_instances(self) -> ActionResult:
        """RunInstances: checked, idempotent by client token, volumes from the image."""
        return self._launches.once(
            self.params.get("ClientToken"), _fingerprint(self.params), self._run
        )

    def _run(self) -> ActionResult:
        image, mappings = plan_launch(self._backend, self.params)
        self.error_on_dryrun()
        instance_type = self._get_param("InstanceType", "m1.small")
        self.params["BlockDeviceMappings"] = mappings
        boot_mode = boot_mode_of(image.spec, instance_type)
        result = super().run_instances()
        reservation: Any = result.result
        for instance in reservation.instances:
            instance.boot_mode = image.spec.boot_mode
            instance.current_instance_boot_mode = boot_mode
            instance.ena_support = image.spec.ena_support
            self._launches.launched(self._backend, instance, image, boot_mode)
        return result

    def _tags(self, resource_type: str) -> dict[str, str]:
        return dict(self._parse_tag_specification().get(resource_type, {}))


def _fingerprint(params: Any) -> str:
    return json.dumps(params, sort_keys=True, default=str)
