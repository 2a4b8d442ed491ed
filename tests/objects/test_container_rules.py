"""What the owner of a container has set is told, as far as it may be asked."""

from collections.abc import Mapping

import pytest
from azure.storage.blob import RetentionPolicy

from connectors.azure.blob_wire import Answer, Ask, BlobWire
from connectors.azure.container_rules import container_findings
from connectors.azure.object_blob import LockMode
from sealift.errors import TargetDeniedError
from sealift.objects_check import Finding, Verdict
from tests.objects.containers import Container, OpenContainer

pytestmark = pytest.mark.sandbox


def found(container: Container) -> dict[str, Finding]:
    return {f.capability: f for f in container_findings(container.spec, container.credential)}


def answered(monkeypatch: pytest.MonkeyPatch, query: str, headers: Mapping[str, str]) -> None:
    """Headers that Azurite does not send, as the reference of the operation names them."""
    real = BlobWire.call

    def call(self: BlobWire, ask: Ask) -> Answer:
        answer = real(self, ask)
        if query not in ask.query.values():
            return answer
        return Answer(answer.status, {**answer.headers, **headers}, answer.body)

    monkeypatch.setattr(BlobWire, "call", call)


def test_a_plain_container_has_no_rules(container: Container) -> None:
    seen = found(container)
    assert seen["namespace"].verdict is Verdict.GOOD
    assert "none" in seen["lock of the container"].seen
    assert "off" in seen["soft delete"].seen
    assert container.spec.container in seen["lifecycle rules"].next_step
    assert "public access" not in seen


def test_soft_delete_is_said(container: Container) -> None:
    with container.box.blob_service() as service:
        keep = RetentionPolicy(enabled=True, days=9)
        service.set_service_properties(delete_retention_policy=keep)
        try:
            assert "9 days" in found(container)["soft delete"].seen
        finally:
            service.set_service_properties(delete_retention_policy=RetentionPolicy(enabled=False))


def test_a_container_that_anybody_reads_is_said(container: Container) -> None:
    container.outside.set_container_access_policy({}, public_access="blob")
    assert found(container)["public access"].verdict is Verdict.DEGRADED


@pytest.mark.fault(21)
def test_a_hierarchical_namespace_is_bad(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ "Get Account Information": x-ms-is-hns-enabled."""
    answered(monkeypatch, "account", {"x-ms-is-hns-enabled": "true"})
    assert found(container)["namespace"].verdict is Verdict.BAD


def test_locks_that_the_container_does_not_have_are_bad(container: Container) -> None:
    seen = {
        f.capability: f
        for f in container_findings(
            container.store(lock_mode=LockMode.LOCKED)._spec, container.credential
        )
    }["lock of the container"]
    assert seen.verdict is Verdict.BAD
    assert seen.next_step


@pytest.mark.parametrize(
    ("mode", "verdict"), [(LockMode.LOCKED, Verdict.NOTE), (LockMode.UNLOCKED, Verdict.DEGRADED)]
)
def test_a_lock_that_its_maker_can_end_is_told(
    open_container: OpenContainer, mode: LockMode, verdict: Verdict
) -> None:
    seen = found(open_container(lock_mode=mode))["lock of the container"]
    assert seen.verdict is verdict


@pytest.mark.parametrize(
    ("headers", "verdict"),
    [
        ({"x-ms-immutable-storage-with-versioning-enabled": "true"}, Verdict.NOTE),
        ({"x-ms-has-immutability-policy": "true"}, Verdict.BAD),
    ],
)
def test_policies_of_the_container_are_told(
    container: Container,
    monkeypatch: pytest.MonkeyPatch,
    headers: dict[str, str],
    verdict: Verdict,
) -> None:
    """ "Get Container Properties"; a policy of the whole container forbids what prune needs."""
    answered(monkeypatch, "container", headers)
    assert found(container)["lock of the container"].verdict is verdict


def test_a_legal_hold_is_told(container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    answered(monkeypatch, "container", {"x-ms-has-legal-hold": "true"})
    all_of_it = list(container_findings(container.spec, container.credential))
    assert any("legal hold" in finding.seen for finding in all_of_it)


@pytest.mark.fault(23)
def test_what_may_not_be_asked_is_said(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(self: BlobWire, ask: Ask) -> Answer:
        raise TargetDeniedError("denied")

    monkeypatch.setattr(BlobWire, "call", deny)
    seen = found(container)
    assert {f.verdict for f in seen.values()} == {Verdict.NOTE}
    asked = [f for f in seen.values() if "may not ask" in f.seen]
    assert len(asked) == 3
    assert all("allow Microsoft.Storage" in f.next_step for f in asked)
