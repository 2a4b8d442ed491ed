"""A repository in Azure, opened by Azure Key Vault, from the command line: it shows no secret.

The real command replicates a real QEMU into the offline Azure, reads the points back and changes
keys; tokens, the identity endpoint's secret and the account's key are looked for everywhere.
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from azure.keyvault.keys import KeyClient

from connectors.azure.session import make_credential
from sandbox.azure.server import AzureSandbox
from tests.secrets.canaries import Canary
from tests.secrets.conftest import Bench, Ended

Evidence = Callable[[str, str], None]
pytestmark = [pytest.mark.fault(53), pytest.mark.sandbox, pytest.mark.tools]
_PLAN = """\
replication: azure-web
source:
  qemu:
    qmp: {qmp}
    scratch: {folder}/scratch
    runtime: {folder}/run
repository:
  azure:
    account: {account}
    container: {container}
    prefix: points/web
    endpoint: {endpoint}
  key:
    key_vault:
      vault_url: {vault}
      key: backup
  cache: {folder}/home/cache-azure
limits:
  patience: 2s
"""


class Azure:
    """The offline Azure, a plan that names it, and every secret that it has given out."""

    def __init__(self, bench: Bench, box: AzureSandbox) -> None:
        self.bench, self.box = bench, box
        self._tokens: list[Canary] = []
        issue = box.issuer.issue

        def noted(audience: str) -> tuple[str, int]:
            token, expires = issue(audience)
            self._tokens.append(Canary("token", token.rpartition(".")[2]))
            return token, expires

        box.issuer.issue = noted  # type: ignore[method-assign]
        self.plan = bench.folder / "given" / "azure.yaml"
        self.plan.write_text(
            _PLAN.format(
                qmp=bench.vm.qmp,
                folder=bench.folder,
                account=box.storage_account,
                container=box.container,
                endpoint=box.blob_endpoint,
                vault=box.vault_url,
            )
        )

    @property
    def secrets(self) -> list[Canary]:
        header = Canary("identity header", self.box.environment()["IDENTITY_HEADER"])
        return [header, Canary("account key", self.box.storage_key), *self._tokens]

    def run(self, *words: str, code: int = 0) -> Ended:
        """A command to its end; then all that it left is searched, for its own tokens too."""
        variables = self.box.environment()
        command = (*words, "--plan", str(self.plan))
        ended = self.bench.run(*command, canaries=self.secrets, variables=variables)
        for place in ("home", "tmp"):
            self.bench.search.folder(self.secrets, place, self.bench.folder / place)
        told = f"{ended.out}{ended.err}".encode()
        self.bench.search.data(self.secrets, "standard output", told)
        assert ended.code == code, ended.out + ended.err
        assert self.bench.search.found == []
        return ended

    def stored(self) -> dict[str, bytes]:
        """Every blob, as the account's owner sees it."""
        with self.box.blob_service() as service:
            container = service.get_container_client(self.box.container)
            names = [str(name) for name in container.list_blob_names()]
            return {name: container.download_blob(name).readall() for name in names}


@pytest.fixture(scope="module")
def azure(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azure]:
    with AzureSandbox(tmp_path_factory.mktemp("azure") / "box") as box:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in box.environment().items():
                patch.setenv(name, value)
            KeyClient(box.vault_url, make_credential()).create_rsa_key("backup", size=2048)
        made = Azure(bench, box)
        code = bench.folder / "given" / "azure-code.txt"
        made.run("repository", "init", "--recovery", str(code))
        yield made


def test_a_machine_is_replicated_into_azure_and_read_back(azure: Azure, evidence: Evidence) -> None:
    bench = azure.bench
    azure.run("replicate", "--json")
    stored = azure.stored()
    assert any(name.startswith("points/web/packs/") for name in stored)
    bench.search.data([bench.disk], "blobs", b"\0".join(stored.values()))
    assert bench.search.found == []
    target = bench.folder / "restored"
    azure.run("restore", "newest", "--to", str(target))
    (restored,) = target.iterdir()
    assert digest(restored) == digest(bench.vm.image(0))
    places = {place for _, place in bench.search.looked}
    evidence("secrets of azure", f"{len(places)} places, found: {len(bench.search.found)}")


@pytest.mark.slow
def test_checks_prune_and_keys_work_over_azure(azure: Azure) -> None:
    azure.run("replicate")
    azure.run("verify", "--read-data", "1")
    azure.run("repository", "prune", "--preview")
    azure.run("repository", "prune")
    checked = azure.run("repository", "check-store").out
    assert "one creator wins" in checked
    assert "namespace: flat" in checked
    key = f"{azure.box.vault_url}/keys/backup"
    azure.run("repository", "keys", "add", "--key-vault", key)
    listed = azure.run("repository", "keys", "list").out
    assert listed.count(f"azure-key-vault {key}") == 2
    ended = azure.run("repository", "keys", "add", "--key-vault", "https://x/secrets/y", code=2)
    assert "is not the identifier of a key" in ended.out + ended.err


@pytest.mark.slow
@pytest.mark.fault(57)
def test_a_key_that_was_disabled_is_said_by_the_command(azure: Azure) -> None:
    """And what it left is searched like the rest: a refusal quotes more than an answer."""
    azure.box.vault.forbidden = {"unwrapKey"}
    try:
        ended = azure.run("points", "list", code=30)
    finally:
        azure.box.vault.forbidden = set()
    assert "Microsoft.KeyVault/vaults/keys/unwrap/action" in ended.out + ended.err


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
