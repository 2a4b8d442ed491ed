"""SDK clients from Azure's standard credentials, with every retry of the SDKs switched off."""

import os
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import certifi
import requests
from azure.core.exceptions import DecodeError
from azure.core.pipeline import PipelineRequest, PipelineResponse
from azure.core.pipeline.policies import RetryPolicy, SansIOHTTPPolicy
from azure.core.pipeline.transport import RequestsTransport
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies
from urllib3.util import Retry

from connectors.azure.errors import azure_call
from connectors.azure.page_put import PageSender, failure
from connectors.azure.spec import AzureSpec
from connectors.http_sender import HttpSender, Route
from connectors.paced_http import paced_pools
from sealift.units import MiB

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential
    from azure.mgmt.compute import ComputeManagementClient
    from azure.mgmt.network import NetworkManagementClient
    from azure.mgmt.resource import ResourceManagementClient
    from azure.storage.blob import BlobClient, BlobServiceClient, ContainerClient

_SPARE_CONNECTIONS = 4  # polls and listings beside the page writers
_USER_AGENT = "sealift/0.1"
_PUBLIC_CLOUD = "https://management.azure.com"
_TOKEN_CONNECT_SECONDS, _TOKEN_READ_SECONDS = 10.0, 60.0  # as of every other call by default
_LARGEST_ANSWER_BYTES = 72 * MiB  # the largest object of a repository, and its headers


class RefuseStrangers(SansIOHTTPPolicy[Any, Any]):
    """Takes a success status only from the service.

    Most answers of the blob service are headers alone, and the SDK takes any success status
    for a success, a proxy's page included. Every answer of Azure carries ``x-ms-request-id``
    ("Common REST response headers"; "Azure Resource Manager: common response headers").

    Raises (on a response):
        DecodeError: it is not there; unknown whether the call took effect.
    """

    def on_response(
        self, request: PipelineRequest[Any], response: PipelineResponse[Any, Any]
    ) -> None:
        """See ``SansIOHTTPPolicy.on_response``."""
        answer = response.http_response
        if answer.status_code < 400 and "x-ms-request-id" not in answer.headers:
            raise DecodeError(f"{answer.status_code}: not an answer of Azure")


class _Adapter(HTTPAdapter):
    """Connections that are kept, one for every worker, and whose attempts end.

    Args:
        pools: of connections, by scheme.
        named: see ``HTTPAdapter``.
    """

    def __init__(self, pools: dict[str, type], **named: Any) -> None:
        self._pools = pools
        super().__init__(**named)

    def init_poolmanager(self, *arguments: Any, **named: Any) -> None:
        """See ``HTTPAdapter``."""
        super().init_poolmanager(*arguments, **named)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, *arguments: Any, **named: Any) -> Any:
        """See ``HTTPAdapter``."""
        manager = super().proxy_manager_for(*arguments, **named)
        manager.pool_classes_by_scheme = self._pools
        return manager

    def get_connection_with_tls_context(self, *arguments: Any, **named: Any) -> Any:
        """See ``HTTPAdapter``; with bodies sent in larger pieces, as the SDK's own adapter."""
        pool = super().get_connection_with_tls_context(*arguments, **named)
        pool.conn_kw["blocksize"] = 128 * 1024
        return pool


def make_transport(
    concurrency: int, connect_timeout_seconds: float, read_timeout_seconds: float
) -> RequestsTransport:
    """A transport with a connection for every worker; the SDK's own keeps ten.

    An attempt ends whatever the peer does: silence is bounded by the timeouts, an answer that
    comes, or a body that is taken, byte by byte by ``Pace``.

    Proxies and authorities come from the environment (``HTTPS_PROXY``,
    ``REQUESTS_CA_BUNDLE``), as with every client of Azure.
    """
    session = requests.Session()
    never = Retry(total=False, redirect=False, raise_on_status=False)
    adapter = _Adapter(
        paced_pools(read_timeout_seconds, _LARGEST_ANSWER_BYTES),
        pool_connections=4,
        pool_maxsize=concurrency + _SPARE_CONNECTIONS,
        max_retries=never,
    )
    for scheme in ("https://", "http://"):  # managed identities are asked in the clear, at home
        session.mount(scheme, adapter)
    return RequestsTransport(
        session=session,
        connection_timeout=connect_timeout_seconds,
        read_timeout=read_timeout_seconds,
    )


def make_credential() -> "TokenCredential":
    """The chain that all of Azure's tools use: environment, managed identity, command line."""
    from azure.identity import DefaultAzureCredential  # 0.3 s that few commands need

    with azure_call("credentials"):
        return DefaultAzureCredential(
            exclude_interactive_browser_credential=True,
            retry_total=0,
            transport=make_transport(1, _TOKEN_CONNECT_SECONDS, _TOKEN_READ_SECONDS),
        )


@dataclass
class AzureClients:
    """One client per service, made at first use, safe in any number of threads."""

    spec: AzureSpec
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _made: dict[str, Any] = field(default_factory=dict)

    @property
    def credential(self) -> "TokenCredential":
        """Shared by all clients, so that a token is fetched once."""
        with self._lock:
            if "credential" not in self._made:
                self._made["credential"] = make_credential()
            found: TokenCredential = self._made["credential"]
            return found

    @property
    def blobs(self) -> "BlobServiceClient":
        """The storage account's blobs."""
        with self._lock, azure_call("blob client"):
            if "blobs" not in self._made:
                from azure.storage.blob import BlobServiceClient

                self._made["blobs"] = BlobServiceClient(
                    self.spec.blob_address,
                    credential=self.credential,
                    transport=self._transport(self.spec.concurrency),
                    retry_total=0,
                    max_single_get_size=_RANGE_BYTES,
                    max_chunk_get_size=_RANGE_BYTES,
                    _additional_pipeline_policies=[RefuseStrangers()],
                )
            found: BlobServiceClient = self._made["blobs"]
            return found

    @property
    def container(self) -> "ContainerClient":
        """The container of the plan."""
        return self.blobs.get_container_client(self.spec.container)

    def blob(self, name: str, snapshot: str | None = None) -> "BlobClient":
        """One blob of it, or a snapshot of one."""
        return self.blobs.get_blob_client(self.spec.container, name, snapshot=snapshot)

    def signed_blob(self, address: str) -> "BlobClient":
        """A blob whose address is its own permission; a secret."""
        from azure.storage.blob import BlobClient

        with azure_call("blob client"):
            return BlobClient.from_blob_url(
                address,
                transport=self._transport(self.spec.concurrency),
                retry_total=0,
                max_single_get_size=_RANGE_BYTES,
                max_chunk_get_size=_RANGE_BYTES,
                _additional_pipeline_policies=[RefuseStrangers()],
            )

    @property
    def pages(self) -> PageSender:
        """Put Page, which takes another way than all other calls; see ``page_put``."""
        version = self.blobs.api_version
        with self._lock:
            if "pages" not in self._made:
                self._made["pages"] = PageSender(self.credential, version, self._sender())
            found: PageSender = self._made["pages"]
            return found

    def _sender(self) -> HttpSender:
        """Authorities and proxy as the SDK's transport chooses them."""
        address, spec = self.spec.blob_address, self.spec
        trust = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
        route = Route(
            trust=trust or certifi.where(),
            proxy=get_environ_proxies(address).get(urlsplit(address).scheme, ""),
            connect_timeout_seconds=spec.connect_timeout_seconds,
            read_timeout_seconds=spec.read_timeout_seconds,
            user_agent=_USER_AGENT,
        )
        return HttpSender(route, failure)

    @property
    def compute(self) -> "ComputeManagementClient":
        """Disks and machines."""
        with self._lock, azure_call("compute client"):
            if "compute" not in self._made:
                from azure.mgmt.compute import ComputeManagementClient

                self._made["compute"] = ComputeManagementClient(
                    self.credential, self.spec.subscription_id, **self._management()
                )
            found: ComputeManagementClient = self._made["compute"]
            return found

    @property
    def network(self) -> "NetworkManagementClient":
        """Cards, subnets, security groups."""
        with self._lock, azure_call("network client"):
            if "network" not in self._made:
                from azure.mgmt.network import NetworkManagementClient

                self._made["network"] = NetworkManagementClient(
                    self.credential, self.spec.subscription_id, **self._management()
                )
            found: NetworkManagementClient = self._made["network"]
            return found

    @property
    def resources(self) -> "ResourceManagementClient":
        """Resource groups and what is in them."""
        with self._lock, azure_call("resource client"):
            if "resources" not in self._made:
                from azure.mgmt.resource import ResourceManagementClient

                self._made["resources"] = ResourceManagementClient(
                    self.credential, self.spec.subscription_id, **self._management()
                )
            found: ResourceManagementClient = self._made["resources"]
            return found

    def _management(self) -> dict[str, Any]:
        base = (self.spec.endpoint or _PUBLIC_CLOUD).rstrip("/")
        return {
            "base_url": base,
            "credential_scopes": [f"{_PUBLIC_CLOUD}/.default"],
            "transport": self._transport(_SPARE_CONNECTIONS),
            "retry_policy": RetryPolicy.no_retries(),
            "per_retry_policies": [RefuseStrangers()],
        }

    def _transport(self, concurrency: int) -> RequestsTransport:
        spec = self.spec
        return make_transport(concurrency, spec.connect_timeout_seconds, spec.read_timeout_seconds)

    def close(self) -> None:
        """Free connections; clients are made anew when used again."""
        with self._lock:
            for client in self._made.values():
                client.close()
            self._made.clear()


_RANGE_BYTES = 4 * 1024 * 1024
"""Longest range that Get Blob answers with its MD5 ("Get Blob", x-ms-range-get-content-md5)."""
