"""SDK clients for an AWS sandbox, or for plain moto, and short forms for tests."""

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from sandbox.aws.server import AwsSandbox

BLOCK = 524_288
A, B, C = (bytes([value]) * BLOCK for value in b"abc")
ZERO = bytes(BLOCK)


def refusal(call: Callable[[], object]) -> str:
    """``Code`` or ``Code/REASON`` with which a call is refused; ``ok`` when it is not."""
    try:
        call()
    except ClientError as error:
        code = error.response["Error"]["Code"]
        reason = error.response.get("Reason")
        return f"{code}/{reason}" if reason else str(code)
    return "ok"


def digest(data: bytes) -> str:
    """SHA-256 as PutSnapshotBlock wants it: base64."""
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


def linear(*blocks: bytes) -> str:
    """The LINEAR checksum of blocks in ascending index order."""
    joined = b"".join(hashlib.sha256(block).digest() for block in blocks)
    return base64.b64encode(hashlib.sha256(joined).digest()).decode()


@lru_cache(maxsize=256)
def _client(cloud: "Cloud", service: str, region: str, validate: bool) -> Any:
    return boto3.client(
        service,  # type: ignore[call-overload]
        endpoint_url=cloud.endpoint_url,
        region_name=region,
        aws_access_key_id=cloud.access_key,
        aws_secret_access_key=cloud.secret_key,
        config=Config(
            retries={"total_max_attempts": 1}, read_timeout=20, parameter_validation=validate
        ),
    )


@dataclass(frozen=True, slots=True)
class Cloud:
    """Clients of one server and the short forms that tests are written in."""

    endpoint_url: str
    access_key: str = "testing"
    secret_key: str = "testing"  # noqa: S105 - moto takes any
    region: str = "us-east-1"

    @classmethod
    def of(cls, sandbox: AwsSandbox) -> "Cloud":
        """Clients of a running sandbox."""
        keys = sandbox.credentials
        return cls(sandbox.endpoint_url, keys.access_key, keys.secret_key)

    def client(self, service: str, region: str | None = None, *, validate: bool = True) -> Any:
        """A client that never repeats a call; one per server, service and region."""
        return _client(self, service, region or self.region, validate)

    @property
    def ebs(self) -> Any:
        """EBS direct API."""
        return self.client("ebs")

    @property
    def ec2(self) -> Any:
        """EC2."""
        return self.client("ec2")

    def put(self, snapshot_id: str, index: int, data: bytes, **changed: Any) -> Any:
        """PutSnapshotBlock with right length and checksum, unless ``changed``."""
        arguments = {
            "SnapshotId": snapshot_id,
            "BlockIndex": index,
            "BlockData": data,
            "DataLength": len(data),
            "Checksum": digest(data),
            "ChecksumAlgorithm": "SHA256",
        }
        return self.ebs.put_snapshot_block(**{**arguments, **changed})

    def start(self, size_gib: int = 1, **arguments: Any) -> str:
        """StartSnapshot; the id."""
        answer = self.ebs.start_snapshot(VolumeSize=size_gib, **arguments)
        return str(answer["SnapshotId"])

    def complete(self, snapshot_id: str, count: int, **arguments: Any) -> str:
        """CompleteSnapshot; the status."""
        answer = self.ebs.complete_snapshot(
            SnapshotId=snapshot_id, ChangedBlocksCount=count, **arguments
        )
        return str(answer["Status"])

    def snapshot(self, blocks: dict[int, bytes], size_gib: int = 1, **arguments: Any) -> str:
        """A completed snapshot with these blocks."""
        snapshot_id = self.start(size_gib, **arguments)
        for index, data in blocks.items():
            self.put(snapshot_id, index, data)
        self.complete(snapshot_id, len(blocks))
        return snapshot_id

    def blocks(self, snapshot_id: str) -> dict[int, bytes]:
        """All blocks of a snapshot, through listing, tokens and reads."""
        ebs, found = self.ebs, {}
        for entry in ebs.list_snapshot_blocks(SnapshotId=snapshot_id)["Blocks"]:
            block = ebs.get_snapshot_block(
                SnapshotId=snapshot_id,
                BlockIndex=entry["BlockIndex"],
                BlockToken=entry["BlockToken"],
            )
            found[entry["BlockIndex"]] = block["BlockData"].read()
        return found

    def image(self, snapshot_id: str, name: str = "image", **changed: Any) -> str:
        """A registered UEFI image with one disk, unless ``changed``."""
        arguments = {
            "Name": name,
            "Architecture": "x86_64",
            "VirtualizationType": "hvm",
            "EnaSupport": True,
            "BootMode": "uefi",
            "RootDeviceName": "/dev/xvda",
            "BlockDeviceMappings": [
                {"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": snapshot_id}}
            ],
        }
        answer = self.ec2.register_image(**{**arguments, **changed})
        return str(answer["ImageId"])

    def launch(self, image_id: str, instance_type: str = "t3.small", **arguments: Any) -> Any:
        """One instance."""
        answer = self.ec2.run_instances(
            ImageId=image_id, InstanceType=instance_type, MinCount=1, MaxCount=1, **arguments
        )
        return answer["Instances"][0]
