"""PutSnapshotBlock, signed and understood as the SDK does it, sent without it.

Everything that decides is the SDK's: credentials and their renewal, the signature, the endpoint,
and what an error means. Left out is what it does anew for each of a million equal calls: checking
and writing out parameters, looking up rules, events, parsing (0.7 ms of the interpreter's
time a block; see ADR 21).
"""

from typing import TYPE_CHECKING, Any

import botocore.exceptions as boto
import pycurl
from botocore.auth import UNSIGNED_PAYLOAD, SigV4Auth
from botocore.awsrequest import AWSRequest, HeadersDict
from botocore.parsers import create_parser

from connectors.http_sender import HttpAnswer, HttpSender, Route
from sealift.errors import ConfigError

if TYPE_CHECKING:
    from botocore.credentials import Credentials
    from mypy_boto3_ebs import EBSClient

_OPERATION = "PutSnapshotBlock"
_NO_ROUTE = frozenset(
    {pycurl.E_COULDNT_RESOLVE_HOST, pycurl.E_COULDNT_RESOLVE_PROXY, pycurl.E_COULDNT_CONNECT}
)


class _BodyUnsigned(SigV4Auth):
    """EBS's model says that the body is not signed; its SHA-256 is, in a header."""

    def payload(self, request: Any) -> str:
        return UNSIGNED_PAYLOAD


class BlockSender:
    """Puts blocks into pending snapshots. Safe in any number of threads.

    Args:
        ebs: knows endpoint, region and the service's model; makes none of these calls.
        credentials: renewed by the SDK whenever they are about to expire; None when there
            are none.
        sender: of HTTP requests; owned from here on.
    """

    def __init__(
        self, ebs: "EBSClient", credentials: "Credentials | None", sender: HttpSender
    ) -> None:
        self._base = f"{ebs.meta.endpoint_url.rstrip('/')}/snapshots/"
        self._region = ebs.meta.region_name
        self._model = ebs.meta.service_model
        output = self._model.operation_model(_OPERATION).output_shape
        if output is None:
            raise AssertionError(f"{_OPERATION} answers")
        self._output = output
        self._parser = create_parser(self._model.metadata["protocol"])
        self._credentials = credentials
        self._sender = sender

    def put(self, snapshot_id: str, index: int, data: bytes, checksum: str) -> str | None:
        """Put one block of ``len(data)`` bytes; the checksum that the service confirms.

        Args:
            snapshot_id: of a pending snapshot.
            index: of the block.
            data: the block.
            checksum: its SHA-256 in Base64.

        Raises:
            botocore.exceptions.ClientError, BotoCoreError: as the SDK's client does.
        """
        url = f"{self._base}{snapshot_id}/blocks/{index}"
        request = AWSRequest(
            "PUT",
            url,
            headers={
                "x-amz-Data-Length": str(len(data)),
                "x-amz-Checksum": checksum,
                "x-amz-Checksum-Algorithm": "SHA256",
            },
        )
        self._sign(request)
        answer = self._sender.send("PUT", url, list(request.headers.items()), data)
        if answer.status >= 300:
            raise boto.ClientError(self._refusal(answer), _OPERATION)
        return answer.headers.get("x-amz-checksum")

    def close(self) -> None:
        """Close connections; no call may be in flight."""
        self._sender.close()

    def _sign(self, request: AWSRequest) -> None:
        if self._credentials is None:
            raise boto.NoCredentialsError
        frozen = self._credentials.get_frozen_credentials()
        request.context["payload_signing_enabled"] = False
        _BodyUnsigned(frozen, self._model.signing_name, self._region).add_auth(request)

    def _refusal(self, answer: HttpAnswer) -> Any:
        """The error as the SDK's client hands it out, with the members of its model."""
        facts = {
            "status_code": answer.status,
            "headers": HeadersDict(answer.headers),
            "body": answer.body,
            "context": {"operation_name": _OPERATION},
        }
        parsed = self._parser.parse(facts, self._output)
        code = parsed.get("Error", {}).get("Code")
        shape = code and self._model.shape_for_error_code(code)
        if shape:
            parsed.update(self._parser.parse(facts, shape))
        return parsed


def failure(code: int, url: str, route: Route) -> Exception:
    """What the SDK raises for the same; without libcurl's text, which may quote the peer's."""
    if code == pycurl.E_SSL_CACERT_BADFILE:
        return ConfigError(
            f"the file of certificate authorities {route.trust} cannot be used",
            next_step="check AWS_CA_BUNDLE and REQUESTS_CA_BUNDLE",
        )
    if code == pycurl.E_PEER_FAILED_VERIFICATION:
        return boto.SSLError(endpoint_url=url, error=OSError("CERTIFICATE_VERIFY_FAILED"))
    if code in _NO_ROUTE:
        return boto.EndpointConnectionError(endpoint_url=url)
    if code in (pycurl.E_OPERATION_TIMEDOUT, pycurl.E_ABORTED_BY_CALLBACK):
        return boto.ReadTimeoutError(endpoint_url=url)
    return boto.ConnectionClosedError(endpoint_url=url)
