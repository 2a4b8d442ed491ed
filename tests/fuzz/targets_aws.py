"""Answers of AWS, from the bytes of the HTTP body through the SDK into our values."""

import io
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

from botocore.awsrequest import AWSResponse

from connectors.aws import block_lists, instance_types, quotas
from connectors.aws.block_lists import changed_blocks, written_blocks
from connectors.aws.errors import aws_call, field_of
from connectors.aws.instance_types import MachineNeed, choose
from connectors.aws.session import AwsClients
from connectors.aws.spec import AwsSpec
from sealift.errors import SealiftError
from tests.fuzz.engine import Target
from tests.fuzz.mutate import Parts, mutated_json, mutated_parts

_BLOCKS = 64
_KEYS = {"AWS_ACCESS_KEY_ID": "AKIAFUZZ", "AWS_SECRET_ACCESS_KEY": "not-a-secret"}
_REGION = "us-east-1"
_SPEC = AwsSpec("subnet-1", ("sg-1",), region=_REGION, endpoint="http://127.0.0.1:1")
_JSON = (mutated_json, mutated_json, mutated_parts)
_STATUSES = (200, 200, 200, 400, 403, 404, 429, 500, 503, 301)


class _Body(io.BytesIO):
    """What urllib3 would hand over."""

    def stream(self, *_: object, **__: object) -> Iterator[bytes]:
        yield self.read()


class FedAws:
    """Clients whose every request is answered with the same status and body."""

    def __init__(self) -> None:
        self.status, self.body = 200, b""
        self.clients = AwsClients(_SPEC)

    def answer(self, request: Any, **_: object) -> Any:
        headers: Any = {"content-type": "application/json", "x-amzn-requestid": "r"}
        return AWSResponse(request.url, self.status, headers, _Body(self.body))

    @contextmanager
    def around(self) -> Iterator[None]:
        # How long empty pages are followed is tests/aws's affair; here it would be all there is.
        pages = mock.patch.object(block_lists, "_EMPTY_PAGES", 20)
        with pages, mock.patch.dict("os.environ", _KEYS):
            for client in (self.clients.ebs, self.clients.ec2, self.clients.quotas):
                client.meta.events.register("before-send", self.answer)
            yield
            self.clients.close()


def _target(
    name: str,
    call: Callable[[AwsClients], object],
    seeds: tuple[Parts, ...],
    *,
    weight: int,
    json_body: bool,
) -> Target:
    fed = FedAws()

    def parse(data: bytes) -> object:
        """The status by the first byte, then the body."""
        fed.status = _STATUSES[data[0] % len(_STATUSES)] if data else 200
        fed.body = data[1:]
        try:
            return call(fed.clients)
        except SealiftError as error:
            if len(error.message) > 12_000 or "\n" in error.message:
                raise AssertionError(f"a message of {len(error.message)} characters") from error
            raise

    mutators = tuple(_behind_status(m) for m in (_JSON if json_body else (mutated_parts,)))
    return Target(
        name, parse, seeds, (SealiftError,), weight=weight, mutators=mutators, around=fed.around
    )


def _behind_status(mutator: Any) -> Any:
    def mutate(random: Any, parts: Parts, pool: Any) -> Parts:
        status = random.randbytes(1) if random.random() < 0.1 else b"".join(parts[:1])[:1]
        return (status, *mutator(random, parts[1:], [p[1:] for p in pool if len(p) > 1]))

    return mutate


def _json(*values: object) -> tuple[Parts, ...]:
    return tuple((b"\0", json.dumps(value).encode()) for value in values)


def _errors(*codes: str) -> tuple[Parts, ...]:
    body = [{"__type": code, "message": "no, \u202e", "Reason": "CONFLICT"} for code in codes]
    return tuple((bytes([3 + n]), *part[1:]) for n, part in enumerate(_json(*body)))


def _ebs_lists() -> Target:
    written = {
        "BlockSize": 524288,
        "Blocks": [{"BlockIndex": n, "BlockToken": f"t{n}"} for n in (1, 5, 63)],
        "NextToken": None,
        "VolumeSize": 1,
    }
    changed = {
        "BlockSize": 524288,
        "ChangedBlocks": [{"BlockIndex": 2, "SecondBlockToken": "s"}, {"BlockIndex": 3}],
    }

    def call(clients: AwsClients) -> object:
        window = written_blocks(clients.ebs, "snap-1", _BLOCKS).window(0)
        return _partial(window.tokens, window.start, window.end)

    def call_changed(clients: AwsClients) -> object:
        window = changed_blocks(clients.ebs, "snap-0", "snap-1", _BLOCKS).window(0)
        return _partial(window.tokens, window.start, window.end)

    def either(clients: AwsClients) -> object:
        return f"{call(clients)} {call_changed(clients)}"

    errors = _errors("ThrottlingException", "ResourceNotFoundException", "AccessDeniedException")
    both = {**written, **changed}
    seeds = (*_json(written, changed, both), *errors)
    return _target("aws-block-lists", either, seeds, weight=15, json_body=True)


def _partial(tokens: Any, start: int, end: int) -> str:
    assert start < end <= _BLOCKS
    assert all(start <= n < end and isinstance(t, str) for n, t in tokens.items())
    assert list(tokens) == sorted(tokens)
    return f"{min(len(tokens), 4)}"


def _snapshots() -> Target:
    def call(clients: AwsClients) -> object:
        with aws_call("ebs:StartSnapshot"):
            answer = clients.ebs.start_snapshot(VolumeSize=1)
        return type(field_of(answer, "SnapshotId", "ebs:StartSnapshot")).__name__

    good = {"SnapshotId": "snap-1", "BlockSize": 524288, "Status": "pending", "VolumeSize": 1}
    errors = _errors("ConcurrentLimitExceededException", "ExpiredTokenException", "Odd", "x")
    return _target("aws-errors", call, (*_json(good), *errors), weight=15, json_body=True)


def _quotas() -> Target:
    def call(clients: AwsClients) -> object:
        found = quotas.read_quotas(clients)
        assert found.ceiling_bytes_per_second(2) > 0
        return found.put_per_account.source.name

    listed = [{"QuotaCode": "L-AFAE1BE8", "Value": 2000.0}, {"QuotaCode": "x"}, {"Value": 1}]
    errors = _errors("AccessDeniedException", "TooManyRequestsException")
    seeds = (*_json({"Quotas": listed}), *errors)
    return _target("aws-quotas", call, seeds, weight=10, json_body=True)


_TYPES = b"""<?xml version="1.0" encoding="UTF-8"?>
<DescribeInstanceTypesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">
<instanceTypeSet><item>
<instanceType>m5.large</instanceType>
<currentGeneration>true</currentGeneration>
<vCpuInfo><defaultVCpus>2</defaultVCpus></vCpuInfo>
<memoryInfo><sizeInMiB>8192</sizeInMiB></memoryInfo>
<processorInfo><supportedArchitectures><item>x86_64</item></supportedArchitectures></processorInfo>
<supportedBootModes><item>legacy-bios</item></supportedBootModes>
<hypervisor>nitro</hypervisor>
<networkInfo><enaSupport>required</enaSupport></networkInfo>
<ebsInfo><maximumEbsAttachments>27</maximumEbsAttachments></ebsInfo>
</item></instanceTypeSet></DescribeInstanceTypesResponse>
"""
_EC2_ERROR = b"""<?xml version="1.0"?>
<Response><Errors><Error><Code>UnauthorizedOperation</Code>
<Message>You are not authorized. Encoded authorization failure message: abc</Message>
</Error></Errors><RequestID>r</RequestID></Response>
"""
_ENTITIES = b"""<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">
<!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">
<!ENTITY d "&c;&c;&c;&c;&c;&c;&c;&c;"><!ENTITY e "&d;&d;&d;&d;&d;&d;&d;&d;">]>
<DescribeInstanceTypesResponse><instanceTypeSet><item><instanceType>&e;</instanceType>
</item></instanceTypeSet></DescribeInstanceTypesResponse>
"""


def _machine_types() -> Target:
    need = MachineNeed(2, 1 << 30, "x86_64", "legacy-bios", 2)

    def call(clients: AwsClients) -> object:
        with aws_call("ec2:DescribeInstanceTypes"):
            answer = clients.ec2.describe_instance_types()
        infos = field_of(answer, "InstanceTypes", "ec2:DescribeInstanceTypes")
        machines = [instance_types.machine_type(info) for info in infos]
        chosen = choose(machines, need)
        assert chosen is None or chosen.vcpus >= 2
        return chosen is not None

    lines = tuple(_TYPES.splitlines(keepends=True))
    error = tuple(_EC2_ERROR.splitlines(keepends=True))
    seeds: tuple[Parts, ...] = ((b"\0", *lines), (b"\4", *error), (b"\0", _ENTITIES))
    return _target("aws-instance-types", call, seeds, weight=15, json_body=False)


BUILDERS: Mapping[str, Callable[[], Target]] = {
    "aws-block-lists": _ebs_lists,
    "aws-errors": _snapshots,
    "aws-quotas": _quotas,
    "aws-instance-types": _machine_types,
}
"""AWS."""
