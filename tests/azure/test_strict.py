"""Against the Azurite that checks the digests of pages, as the service does."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from connectors.azure.session import AzureClients
from connectors.http_sender import HttpAnswer, HttpSender
from sandbox.azure.server import AzureSandbox
from sealift.errors import TransientError
from sealift.testing.clock import VirtualClock

from .conftest import ROOT, Subscription, block, joined, put, spec_of

pytestmark = pytest.mark.sandbox

FIRST = {0: block("a"), 7: block("h")}


@pytest.fixture(scope="module")
def strict_box(
    tmp_path_factory: pytest.TempPathFactory,
    module_environment: pytest.MonkeyPatch,
    clock: VirtualClock,
) -> Iterator[AzureSandbox]:
    with AzureSandbox(tmp_path_factory.mktemp("azure"), clock=clock, strict=True) as box:
        for name, value in box.environment().items():
            module_environment.setenv(name, value)
        yield box


class DamagingSender:
    """Flips a bit of a body on its way, as long as ``damages`` is set."""

    damages = True

    def __init__(self, sender: HttpSender) -> None:
        self._sender = sender

    def send(
        self, method: str, url: str, headers: Sequence[tuple[str, str]], body: bytes
    ) -> HttpAnswer:
        sent = bytes([body[0] ^ 1]) + body[1:] if self.damages and body else body
        return self._sender.send(method, url, headers, sent)

    def close(self) -> None:
        self._sender.close()


class DamagingClients(AzureClients):
    def _sender(self) -> Any:
        return DamagingSender(super()._sender())


@pytest.mark.fault(9, 20)
def test_a_page_that_arrives_damaged_is_refused_and_put_again(
    strict_box: AzureSandbox, clock: VirtualClock, tmp_path: Path
) -> None:
    clients = DamagingClients(spec_of(strict_box))
    subscription = Subscription(strict_box, clock, clients.spec, tmp_path, clients)
    target = subscription.target("strict")
    ref = target.begin_snapshot(1, ROOT, None)
    writer = target.writer(ref, None)
    with pytest.raises(TransientError, match="Crc64Mismatch"):
        put(writer, FIRST)
    clients.pages._sender.damages = False  # type: ignore[attr-defined]
    put(writer, FIRST)
    writer.commit(())
    child = subscription.snapshot(target, {1: block("b")}, seq=2, parent=ref)
    assert subscription.content(target, child) == joined(FIRST, {1: block("b")})
    clients.close()
