"""The cloud of a demonstration, as far as the demonstration has to know it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sandbox.aws.network import default_network
from sandbox.aws.server import AwsSandbox
from sandbox.boot import Booter, InstanceBooter


@dataclass(frozen=True, slots=True)
class DemoCloud:
    """A sandbox that runs.

    Attributes:
        environment: under which commands find it.
        target: the plan's lines below ``target:``, indented.
        booter: has booted what was launched.
        title: of the part that shows what landed.
        controller: what the landed disks hang on, in words.
        prove: what else is true of the landed disks, in sentences; called with a folder of its
            own. Raises where it is not true.
    """

    environment: Mapping[str, str]
    target: str
    booter: Booter
    title: str
    controller: str
    prove: Callable[[Path], Sequence[str]]


OpenCloud = Callable[[Path], AbstractContextManager[DemoCloud]]
"""Starts a sandbox with its state in a folder."""


@contextmanager
def aws_cloud(work: Path) -> Iterator[DemoCloud]:
    """The offline AWS, whose instances are really booted."""
    booter = InstanceBooter(work / "landed")
    with AwsSandbox(work / "aws", on_launch=booter) as sandbox:
        booter.sandbox = sandbox
        environment = sandbox.environment()
        subnet, group = default_network(environment)
        yield DemoCloud(
            environment,
            f"  aws:\n    region: us-east-1\n    subnet: {subnet}\n"
            f"    security_groups: [{group}]\n",
            booter,
            "What EC2 launched, booted from what EBS holds",
            "NVMe",
            lambda _: (),
        )
