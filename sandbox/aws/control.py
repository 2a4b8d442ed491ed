"""The sandbox's own HTTP interface, ``/sandbox-api``; needs the token of this server.

The token keeps other users of the machine, and web pages in a browser, from reading disks
and writing files through the sandbox.
"""

from collections.abc import Mapping

from sandbox.aws.wire import Reply


class ControlApi:
    """Answers control requests."""

    def handle(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """Answer one request."""
        return Reply(404)
