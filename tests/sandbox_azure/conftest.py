from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.azure.server import AzureSandbox


@pytest.fixture(scope="module")
def module_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureSandbox]:
    directory: Path = tmp_path_factory.mktemp("azure")
    with AzureSandbox(directory) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(module_sandbox: AzureSandbox, monkeypatch: pytest.MonkeyPatch) -> AzureSandbox:
    for name, value in module_sandbox.environment().items():
        monkeypatch.setenv(name, value)
    return module_sandbox
