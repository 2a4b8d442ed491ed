"""Sandboxes on a clock that tests move."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox.aws import AwsSandbox, Rules
from sandbox.aws.testing import Cloud
from sealift.testing.clock import VirtualClock

StartSandbox = Callable[..., tuple[AwsSandbox, Cloud]]


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def start_sandbox(tmp_path: Path, clock: VirtualClock) -> Iterator[StartSandbox]:
    """Starts a sandbox with given rules; all of them stop at the end of the test."""
    running: list[AwsSandbox] = []

    def start(rules: Rules | None = None, **arguments: Any) -> tuple[AwsSandbox, Cloud]:
        arguments.setdefault("clock", clock)
        directory = tmp_path / f"sandbox-{len(running)}"
        sandbox = AwsSandbox(directory, rules=rules, **arguments)
        sandbox.start()
        running.append(sandbox)
        return sandbox, Cloud.of(sandbox)

    yield start
    for sandbox in running:
        sandbox.stop()


@pytest.fixture
def cloud(start_sandbox: StartSandbox) -> Cloud:
    return start_sandbox()[1]
