"""Fixed newstyle negotiation, from the greeting to the transmission phase."""

from collections.abc import Iterator
from dataclasses import dataclass

from connectors.nbd import protocol
from connectors.nbd.address import NbdAddress, TcpAddress, check_export_name
from connectors.nbd.protocol import (
    BlockSizes,
    ExportFlag,
    ExportSize,
    HandshakeFlag,
    MetaContext,
    Option,
    OptionReply,
    OptionReplyType,
)
from connectors.nbd.tls import TlsSettings
from connectors.nbd.transport import Transport, connect
from sealift.cancel import CancelToken
from sealift.clock import Clock, SystemClock
from sealift.errors import ConnectionLostError, ProtocolError, SealiftError, SourceError

_MAX_REPLIES = 256  # to one option; QEMU names one context per bitmap, people have few


@dataclass(frozen=True, slots=True)
class Endpoint:
    """How to reach one export; everything that a reconnect needs.

    Attributes:
        address: where the server listens.
        export: name; "" is the server's default.
        contexts: meta contexts to ask for, by their exact names.
        tls: demanded when given; never fallen back from.
        deadline_seconds: for the whole negotiation, and base of every request's deadline.
        unfragmented: ask the server to read all bytes itself instead of replacing what its
            block status calls a hole by zeroes; needs a server that can.
    """

    address: NbdAddress
    export: str = ""
    contexts: tuple[str, ...] = ()
    tls: TlsSettings | None = None
    deadline_seconds: float = 60.0
    unfragmented: bool = False

    def __str__(self) -> str:
        return f"{self.address}/{self.export}"


@dataclass(frozen=True, slots=True)
class Negotiated:
    """What the server agreed to.

    Attributes:
        size: bytes of the export.
        flags: what it can do.
        blocks: alignment and payload limits; we promised to respect them.
        structured: whether replies are structured.
        contexts: those of the endpoint's contexts that the server has.
    """

    size: int
    flags: ExportFlag
    blocks: BlockSizes
    structured: bool
    contexts: tuple[MetaContext, ...]


def negotiate(
    endpoint: Endpoint, clock: Clock, cancel: CancelToken
) -> tuple[Transport, Negotiated]:
    """Connect and enter the transmission phase.

    Raises:
        ConnectionLostError: nobody answers, or not in time.
        SourceError: no such export, refused, or TLS is missing or not acceptable.
        ProtocolError: the server broke the protocol.
        StoppedError: a stop was asked for.
    """
    transport = connect(endpoint.address, clock, cancel, endpoint.deadline_seconds)
    try:
        session = _Session(transport, endpoint)
        session.start()
        structured = session.structured_replies()
        contexts = session.set_contexts() if structured else ()
        size, blocks = session.go()
    except BaseException:
        transport.close()
        raise
    return transport, Negotiated(size.size, size.flags, blocks, structured, contexts)


def list_contexts(
    endpoint: Endpoint,
    query: str,
    *,
    clock: Clock | None = None,
    cancel: CancelToken | None = None,
) -> tuple[str, ...]:
    """Names of the contexts that an export has, for example for the query ``"qemu:"``.

    Raises as ``negotiate``; a server without structured replies has none.
    """
    transport = connect(
        endpoint.address, clock or SystemClock(), cancel or CancelToken(), endpoint.deadline_seconds
    )
    try:
        session = _Session(transport, endpoint)
        session.start()
        if not session.structured_replies():
            return ()
        found = session.meta_contexts(Option.LIST_META_CONTEXT, (query,))
        session.leave()
    finally:
        transport.close()
    return tuple(context.name for context in found)


class _Session:
    """The haggling of one connection; strictly one option after the other."""

    def __init__(self, transport: Transport, endpoint: Endpoint) -> None:
        self._transport = transport
        self._endpoint = endpoint
        check_export_name(endpoint.export)

    def start(self) -> None:
        self._transport.arm(self._endpoint.deadline_seconds)
        flags = protocol.parse_greeting(self._transport.receive(protocol.GREETING.size))
        echoed = flags & (HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES)
        self._transport.send(echoed.to_bytes(4, "big"))
        if self._endpoint.tls is not None:
            self._start_tls(self._endpoint.tls)

    def _start_tls(self, tls: TlsSettings) -> None:
        context = tls.context()
        reply, _ = self._ask(Option.STARTTLS)
        if reply.refused:
            raise SourceError(
                f"the NBD server at {self._endpoint.address} does not offer TLS",
                next_step="give the server a certificate; there is no fallback to plain text",
            )
        self._expect_ack(reply)
        address = self._endpoint.address
        host = address.host if isinstance(address, TcpAddress) else "localhost"
        self._transport.start_tls(context, tls.server_name or host)

    def structured_replies(self) -> bool:
        """Whether the server will use structured replies."""
        reply, payload = self._ask(Option.STRUCTURED_REPLY)
        if reply.type == OptionReplyType.ERR_UNSUP:
            return False
        self._refusal(reply, payload)
        self._expect_ack(reply)
        return True

    def set_contexts(self) -> tuple[MetaContext, ...]:
        """Select the endpoint's contexts; what the server does not have is missing."""
        wanted = self._endpoint.contexts
        if not wanted:
            return ()
        found = self.meta_contexts(Option.SET_META_CONTEXT, wanted)
        names = [context.name for context in found]
        ids = {context.id for context in found}
        if len(set(names)) != len(names) or len(ids) != len(names) or set(names) - set(wanted):
            raise ProtocolError(f"meta contexts {names} instead of {list(wanted)}")
        return found

    def meta_contexts(self, code: Option, queries: tuple[str, ...]) -> tuple[MetaContext, ...]:
        """Contexts that match; none when the server does not know the option."""
        payload = protocol.meta_context_payload(self._endpoint.export, queries)
        self._transport.send(protocol.option(code, payload))
        found: list[MetaContext] = []
        for reply, answer in self._replies(code):
            if reply.type == OptionReplyType.META_CONTEXT:
                found.append(protocol.parse_meta_context(answer))
            elif reply.type in (OptionReplyType.ERR_UNSUP, OptionReplyType.ERR_POLICY):
                return ()
            else:
                self._refusal(reply, answer)
                self._expect_ack(reply)
                break
        return tuple(found)

    def go(self) -> tuple[ExportSize, BlockSizes]:
        """Enter the transmission phase."""
        self._transport.send(protocol.option(Option.GO, protocol.go_payload(self._endpoint.export)))
        size: ExportSize | None = None
        blocks = BlockSizes()
        for reply, answer in self._replies(Option.GO):
            if reply.type != OptionReplyType.INFO:
                self._refusal(reply, answer)
                self._expect_ack(reply)
                break
            info = protocol.parse_info(answer)
            if isinstance(info, ExportSize):
                size = info
            elif isinstance(info, BlockSizes):
                blocks = info
        if size is None:
            raise ProtocolError("the server did not say how large the export is")
        return size, blocks

    def leave(self) -> None:
        """End politely; the answer is not waited for."""
        self._transport.send(protocol.option(Option.ABORT))

    def _ask(self, code: Option) -> tuple[OptionReply, bytes]:
        self._transport.send(protocol.option(code))
        return self._reply(code)

    def _replies(self, code: Option) -> Iterator[tuple[OptionReply, bytes]]:
        for _ in range(_MAX_REPLIES):
            yield self._reply(code)
        raise ProtocolError(f"more than {_MAX_REPLIES} replies to {code.name}")

    def _reply(self, code: Option) -> tuple[OptionReply, bytes]:
        header = self._transport.receive(protocol.OPTION_REPLY_HEADER.size)
        reply = protocol.parse_option_reply(header, code)
        return reply, self._transport.receive(reply.length)

    def _expect_ack(self, reply: OptionReply) -> None:
        if reply.type != OptionReplyType.ACK:
            raise ProtocolError(f"reply of type {reply.type:#x} where ACK was due")

    def _refusal(self, reply: OptionReply, payload: bytes) -> None:
        if reply.refused:
            raise _refusal(self._endpoint, reply.type, protocol.printable(payload))


def _refusal(endpoint: Endpoint, kind: int, said: str) -> SealiftError:
    words = f": {said}" if said else ""
    match kind:
        case OptionReplyType.ERR_UNKNOWN:
            return SourceError(
                f"no export {endpoint.export!r} at {endpoint.address}{words}",
                next_step=f"list what is there: nbdinfo --list, server {endpoint.address}",
            )
        case OptionReplyType.ERR_TLS_REQD:
            return SourceError(
                f"the NBD server at {endpoint.address} demands TLS{words}",
                next_step="use nbds:// or give TLS settings",
            )
        case OptionReplyType.ERR_SHUTDOWN:
            return ConnectionLostError(f"the NBD server at {endpoint.address} is shutting down")
        case OptionReplyType.ERR_POLICY:
            return SourceError(f"{endpoint.address} refuses export {endpoint.export!r}{words}")
        case _:
            return SourceError(f"{endpoint} refused with code {kind:#x}{words}")
