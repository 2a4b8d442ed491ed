"""Attempts that end, in the SDK's own connections; see ``connectors.paced_http``."""

from typing import Any

from botocore.awsrequest import (
    AWSHTTPConnection,
    AWSHTTPConnectionPool,
    AWSHTTPSConnection,
    AWSHTTPSConnectionPool,
)

from connectors.pace import LARGEST_ANSWER_BYTES
from connectors.paced_http import Paced


class _Paced(Paced):
    """Sends no body once an answer is there, as the SDK's connection."""

    _response_received: bool

    def _sends(self) -> bool:
        return not self._response_received


def keep_pace(
    client: Any, grace_seconds: float, largest_answer: int = LARGEST_ANSWER_BYTES
) -> None:
    """Make every attempt of an SDK client end, whatever its peer does.

    The SDK has no public place for connection classes; ``tests/aws/test_pace.py`` notices
    when a release of it keeps them elsewhere.

    Args:
        client: of boto3, not used yet.
        grace_seconds: longest silence that the client allows.
        largest_answer: bytes of one answer with its headers.
    """
    session = client._endpoint.http_session
    pools = _pools({"grace_seconds": grace_seconds, "largest_answer": largest_answer})
    session._pool_classes_by_scheme = pools
    session._manager.pool_classes_by_scheme = pools


def _pools(settings: dict[str, Any]) -> dict[str, type]:
    plain = type("_Plain", (_Paced, AWSHTTPConnection), settings)
    tls = type("_Tls", (_Paced, AWSHTTPSConnection), settings)
    return {
        "http": type("_PlainPool", (AWSHTTPConnectionPool,), {"ConnectionCls": plain}),
        "https": type("_TlsPool", (AWSHTTPSConnectionPool,), {"ConnectionCls": tls}),
    }
