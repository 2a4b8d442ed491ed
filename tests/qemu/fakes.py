"""Guest agents and QMP servers that behave as badly as a test wants."""

import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path


class FakeServer:
    """A Unix server; one thread per client runs ``serve`` until the socket closes."""

    def __init__(self, path: Path, serve: Callable[[socket.socket], None]) -> None:
        self.path = path
        self._serve = serve
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(8)
        self._clients: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._clients.append(client)
            threading.Thread(target=self._run, args=(client,), daemon=True).start()

    def _run(self, client: socket.socket) -> None:
        try:
            self._serve(client)
        except (OSError, ValueError):
            return

    def close(self) -> None:
        """End, and take the socket file away as a VM that ends does."""
        self.path.unlink(missing_ok=True)
        self._listener.close()
        for client in self._clients:
            client.close()


class FakeAgent:
    """A guest agent with file systems to freeze; ``behaviour`` says what is wrong with it.

    ``ok``; ``silent`` (never answers); ``garbage``; ``flood``; ``hangs-freezing``;
    ``liar`` (freezes nothing and says it did); ``forgets`` (thaws by itself at once);
    ``nothing`` (no file system to freeze); ``dies`` (closes while freezing).
    """

    def __init__(
        self,
        path: Path,
        behaviour: str = "ok",
        power_off: Callable[[], None] = lambda: None,
    ) -> None:
        self.power_off = power_off
        self.behaviour = behaviour
        self.frozen = False
        self._asked = 0
        self.thawed = threading.Event()
        self.was_frozen = threading.Event()
        self._server = FakeServer(path, self._serve)

    def close(self) -> None:
        self._server.close()

    def _serve(self, client: socket.socket) -> None:
        if self.behaviour == "flood":
            while True:
                client.sendall(b"x" * 65536)
        lines = client.makefile("rb")
        for line in lines:
            if self.behaviour == "silent":
                continue
            if self.behaviour == "garbage":
                client.sendall(b'\xff{"return": nonsense}\n')
                continue
            answer = self._answer(json.loads(line.replace(b"\xff", b"")), client)
            if answer is not None:
                client.sendall(answer)

    def _answer(self, message: dict[str, object], client: socket.socket) -> bytes | None:
        command = str(message["execute"])
        if command == "guest-sync-delimited":
            arguments = message["arguments"]
            assert isinstance(arguments, dict)
            return b"\xff" + _reply(arguments["id"])
        if command == "guest-shutdown":
            self.power_off()
            return None
        if command == "guest-fsfreeze-status":
            self._asked += 1
            # The second question of a freeze is the one after it; the third, before the thaw.
            gone = self.behaviour == "liar" or (self.behaviour == "forgets" and self._asked > 2)
            return _reply("frozen" if self.frozen and not gone else "thawed")
        if command == "guest-fsfreeze-thaw":
            count, self.frozen = int(self.frozen) * 2, False
            self.thawed.set()
            return _reply(count)
        return self._freeze(client)

    def _freeze(self, client: socket.socket) -> bytes | None:
        if self.behaviour == "nothing":
            return _reply(0)
        self.frozen = True
        self.was_frozen.set()
        if self.behaviour == "hangs-freezing":
            return None
        if self.behaviour == "dies":
            client.shutdown(socket.SHUT_RDWR)
        return _reply(2)


def _reply(value: object) -> bytes:
    return json.dumps({"return": value}).encode() + b"\n"
