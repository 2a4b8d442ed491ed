"""SDK clients from standard AWS configuration, with every retry of the SDK switched off."""

import os
import re
import threading
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import boto3
import botocore
import botocore.session
from botocore.config import Config
from botocore.httpsession import get_cert_path
from botocore.loaders import Loader, create_loader
from botocore.utils import get_environ_proxies

from connectors.aws.answers import refuse_untyped
from connectors.aws.block_put import BlockSender, failure
from connectors.aws.errors import aws_call
from connectors.aws.pace import keep_pace
from connectors.aws.spec import ClientSettings
from connectors.http_sender import HttpSender, Route
from sealift.errors import TransientError
from sealift.units import MiB

if TYPE_CHECKING:
    from mypy_boto3_ebs import EBSClient
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_kms import KMSClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_service_quotas import ServiceQuotasClient
    from mypy_boto3_sts import STSClient

_ROOT_ELEMENT = re.compile(rb"\s*(?:<\?[^>]*\?>\s*)?<(\w+)")
_USER_AGENT = f"sealift/0.1 Boto3/{boto3.__version__} Botocore/{botocore.__version__}"
"""As one text: the SDK puts its own together anew, twice, for every call, which was a tenth of
the processor time of a PutSnapshotBlock."""
_S3_DOCUMENTS = {
    "ListObjectsV2": "ListBucketResult",
    "GetBucketVersioning": "VersioningConfiguration",
    "GetObjectLockConfiguration": "ObjectLockConfiguration",
    "GetObjectRetention": "Retention",
    "GetBucketLifecycleConfiguration": "LifecycleConfiguration",
    "ListObjectVersions": "ListVersionsResult",
}
_LARGEST_S3_ANSWER_BYTES = 72 * MiB  # the largest object that is put, and its headers
_SPARE_CONNECTIONS = 4  # polls and listings beside the block writers


@cache
def _loader() -> Loader:
    """Service models, parsed once per process: 0.3 s for EC2's, for every session otherwise."""
    return create_loader()


def client_config(spec: ClientSettings) -> Config:
    """The SDK's settings: one attempt, explicit timeouts, a connection for every worker.

    ``total_max_attempts`` of 1 because repeating calls is ``sealift.retry``'s alone; set
    explicitly because the SDK's default differs between releases and environments.
    """
    return Config(
        retries={"total_max_attempts": 1, "mode": "standard"},
        connect_timeout=spec.connect_timeout_seconds,
        read_timeout=spec.read_timeout_seconds,
        max_pool_connections=spec.concurrency + _SPARE_CONNECTIONS,
        tcp_keepalive=True,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        user_agent=_USER_AGENT,
    )


def refuse_strangers(*, http_response: Any, model: Any, **_: object) -> None:
    """Take a success status only around the document that EC2 sends for this action.

    Many EC2 answers say nothing but "done". The SDK takes any success status for that, an
    error document or a proxy's page in the body included.

    Raises:
        TransientError: the body is something else; unknown whether the call took effect.
    """
    if http_response.status_code >= 300:
        return
    root = _ROOT_ELEMENT.match(http_response.content)
    if root is None or root[1].decode() != f"{model.name}Response":
        raise TransientError(f"ec2:{model.name}: a success status without EC2's answer")


def refuse_bodies(*, http_response: Any, model: Any, **_: object) -> None:
    """Take a success status of S3 only around what this action answers with.

    Puts and deletes answer with headers alone, lists with a document of their own name. What
    comes instead under a success status is an error document or a proxy's page (botocore
    issue 298), and unknown to have taken effect. Bodies of objects are checked where they are
    read.

    Raises:
        TransientError: the body is something else.
    """
    if http_response.status_code >= 300 or model.has_streaming_output:
        return
    root = _ROOT_ELEMENT.match(http_response.content)
    expected = _S3_DOCUMENTS.get(model.name, "")
    if (root[1].decode() if root else http_response.content.decode("latin-1")[:1]) != expected:
        raise TransientError(f"s3:{model.name}: a success status without S3's answer")


@dataclass
class AwsClients:
    """One client per service, made at first use, safe in any number of threads.

    Raises (at first use of each):
        ConfigError: no region, no such profile, malformed configuration.
    """

    spec: ClientSettings
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _session: boto3.Session | None = None
    _core: botocore.session.Session | None = None
    _ebs: "EBSClient | None" = None
    _blocks: BlockSender | None = None
    _ec2: "EC2Client | None" = None
    _sts: "STSClient | None" = None
    _kms: "KMSClient | None" = None
    _quotas: "ServiceQuotasClient | None" = None
    _s3: "S3Client | None" = None

    @property
    def region(self) -> str:
        """The region in use."""
        return self.ec2.meta.region_name

    @property
    def ebs(self) -> "EBSClient":
        """EBS direct APIs."""
        with self._lock, aws_call("ebs client"):
            if self._ebs is None:
                self._ebs = self._opened().client(
                    "ebs", endpoint_url=self.spec.endpoint, config=self._config
                )
                keep_pace(self._ebs, self.spec.read_timeout_seconds)
                self._ebs.meta.events.register("after-call.ebs", refuse_untyped)
            return self._ebs

    @property
    def blocks(self) -> BlockSender:
        """PutSnapshotBlock, which takes another way than all other calls; see ADR 21."""
        ebs = self.ebs
        with self._lock, aws_call("ebs:PutSnapshotBlock"):
            if self._blocks is None:
                session = self._opened()
                sender = HttpSender(self._route(ebs.meta.endpoint_url), failure)
                self._blocks = BlockSender(ebs, session.get_credentials(), sender)
            return self._blocks

    @property
    def ec2(self) -> "EC2Client":
        """EC2."""
        with self._lock, aws_call("ec2 client"):
            if self._ec2 is None:
                self._ec2 = self._opened().client(
                    "ec2", endpoint_url=self.spec.endpoint, config=self._config
                )
                keep_pace(self._ec2, self.spec.read_timeout_seconds)
                self._ec2.meta.events.register("after-call.ec2", refuse_strangers)
            return self._ec2

    @property
    def sts(self) -> "STSClient":
        """Who we are."""
        with self._lock, aws_call("sts client"):
            if self._sts is None:
                self._sts = self._opened().client(
                    "sts", endpoint_url=self.spec.endpoint, config=self._config
                )
                keep_pace(self._sts, self.spec.read_timeout_seconds)
            return self._sts

    @property
    def kms(self) -> "KMSClient":
        """Keys."""
        with self._lock, aws_call("kms client"):
            if self._kms is None:
                self._kms = self._opened().client(
                    "kms", endpoint_url=self.spec.endpoint, config=self._config
                )
                keep_pace(self._kms, self.spec.read_timeout_seconds)
                self._kms.meta.events.register("after-call.kms", refuse_untyped)
            return self._kms

    @property
    def quotas(self) -> "ServiceQuotasClient":
        """Service Quotas."""
        with self._lock, aws_call("service-quotas client"):
            if self._quotas is None:
                self._quotas = self._opened().client(
                    "service-quotas", endpoint_url=self.spec.endpoint, config=self._config
                )
                keep_pace(self._quotas, self.spec.read_timeout_seconds)
                self._quotas.meta.events.register("after-call.service-quotas", refuse_untyped)
            return self._quotas

    @property
    def s3(self) -> "S3Client":
        """Object storage of AWS, or of others, who are rarely reached as ``BUCKET.HOST``."""
        with self._lock, aws_call("s3 client"):
            if self._s3 is None:
                style: Literal["path", "auto"] = "path" if self.spec.endpoint else "auto"
                config = self._config.merge(Config(s3={"addressing_style": style}))
                self._s3 = self._opened().client(
                    "s3", endpoint_url=self.spec.endpoint, config=config
                )
                keep_pace(self._s3, self.spec.read_timeout_seconds, _LARGEST_S3_ANSWER_BYTES)
                self._s3.meta.events.register("after-call.s3", refuse_bodies)
            return self._s3

    def close(self) -> None:
        """Free pooled connections; clients are made anew when used again."""
        with self._lock:
            for client in self._made:
                if client is not None:
                    client.close()
            if self._blocks is not None:
                self._blocks.close()
            self._blocks = None
            self._ebs = self._ec2 = self._sts = self._kms = self._quotas = self._s3 = None

    @property
    def _made(self) -> tuple[Any, ...]:
        return (self._ebs, self._ec2, self._sts, self._kms, self._quotas, self._s3)

    @property
    def _config(self) -> Config:
        return client_config(self.spec)

    def _route(self, endpoint: str) -> Route:
        """Authorities and proxy as the SDK chooses them."""
        configured = self._core.get_config_variable("ca_bundle") if self._core else None
        trust = configured or os.environ.get("REQUESTS_CA_BUNDLE") or get_cert_path(True)
        return Route(
            trust=str(trust),
            proxy=get_environ_proxies(endpoint).get(urlsplit(endpoint).scheme, ""),
            connect_timeout_seconds=self.spec.connect_timeout_seconds,
            read_timeout_seconds=self.spec.read_timeout_seconds,
            user_agent=_USER_AGENT,
        )

    def _opened(self) -> boto3.Session:
        if self._session is None:
            self._core = core = botocore.session.Session(profile=self.spec.profile)
            core.register_component("data_loader", _loader())
            self._session = boto3.Session(botocore_session=core, region_name=self.spec.region)
        return self._session
