"""One private log file per run; secrets are taken out on the way into it."""

import logging
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from sealift.clock import Clock
from sealift.display import without_userinfo
from sealift.errors import LocalStateError
from sealift.private import make_private_folder, open_private

OURS = ("sealift", "connectors", "converters", "flows", "sandbox")
KEPT_FILES = 30
KEPT_BYTES = 64 * 1024 * 1024
MAX_FILE_BYTES = 16 * 1024 * 1024

HIDDEN = "[redacted]"
_PATTERNS = (
    re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}\b"),
    re.compile(
        r"(?i)((?:secret|password|passphrase|token|signature|credential|authorization)"
        r"[\w-]*[\"']?\s*[:=]\s*[\"']?)([^\s\"',;&]+(?:\s+Credential=\S+)?)"
    ),
)
_SECRET_NAME = re.compile(r"(?i)secret|token|password|passphrase|access_key|api_key|auth_string")
_MIN_SECRET_CHARS = 8


class Redactor:
    """Takes out what looks like a secret, and the values of variables that hold one.

    Args:
        environ: whose secret variables are known by value.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        held = {
            value
            for name, value in environ.items()
            if _SECRET_NAME.search(name) and len(value) >= _MIN_SECRET_CHARS
        }
        self._values = sorted(held, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        """The text without secrets, and without what stands where one could."""
        return _PATTERNS[1].sub(lambda m: m[1] + HIDDEN, self.known(text))

    def known(self, text: str) -> str:
        """The text without what is surely a secret; sentences for people stay as they are."""
        for value in self._values:
            text = text.replace(value, HIDDEN)
        text = _PATTERNS[0].sub(HIDDEN, text)
        return without_userinfo(text)


def names_a_secret(name: str) -> bool:
    """Whether something of this name is likely to hold a secret."""
    return bool(_SECRET_NAME.search(name))


class _RedactingFormatter(logging.Formatter):
    def __init__(self, redactor: Redactor) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s [%(threadName)s] %(message)s")
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        return self._redactor(super().format(record))


class _CappedHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Never fails the run: what cannot be written is dropped."""

    def emit(self, record: logging.LogRecord) -> None:
        if self.stream.tell() < MAX_FILE_BYTES:
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Nothing: a full disk under the log must not stop a cutover."""


def _wanted(record: logging.LogRecord) -> bool:
    ours = record.name.partition(".")[0] in OURS
    return record.levelno >= (logging.INFO if ours else logging.WARNING)


class RunLog:
    """The log file of one run, mode 0600, in a folder of mode 0700 that is pruned.

    When the file cannot be made the run goes on without one; ``path`` is None then.

    Args:
        directory: made when missing.
        command: part of the file's name.
        clock: for the file's name.
        environ: see ``Redactor``.
    """

    def __init__(
        self, directory: Path, command: str, clock: Clock, environ: Mapping[str, str]
    ) -> None:
        self._directory = directory
        self._redactor = Redactor(environ)
        self._handler: logging.Handler | None = None
        stamp = clock.now().strftime("%Y%m%dT%H%M%S.%fZ")
        self._wanted_path = directory / f"{stamp}-{command}-{os.getpid()}.log"
        self.path: Path | None = None

    def __enter__(self) -> "RunLog":
        try:
            make_private_folder(self._directory)
            prune(self._directory)
            name, flags = self._wanted_path.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL
            file = open_private(self._directory, name, flags)
            stream = os.fdopen(file, "w", encoding="utf-8", errors="backslashreplace")
        except (OSError, LocalStateError) as error:
            logging.getLogger(__name__).warning("no log file: %s", error)
            return self
        self.path = self._wanted_path
        self._handler = _CappedHandler(stream)
        self._handler.setFormatter(_RedactingFormatter(self._redactor))
        self._handler.addFilter(_wanted)
        logging.getLogger().addHandler(self._handler)
        for name in OURS:
            logging.getLogger(name).setLevel(logging.INFO)
        return self

    def write(self, text: str, error: BaseException) -> None:
        """Put an error with its trace into this file, and to no other handler."""
        if self._handler is not None:
            trace = (type(error), error, error.__traceback__)
            self._handler.handle(
                logging.LogRecord(__name__, logging.ERROR, __file__, 0, text, None, trace)
            )

    def __exit__(self, *_: object) -> None:
        if self._handler is not None:
            logging.getLogger().removeHandler(self._handler)
            self._handler.close()
            self._handler.stream.close()  # type: ignore[attr-defined]
            self._handler = None


def prune(directory: Path) -> None:
    """Keep the newest files, by count and by size; other files are left alone."""
    kept_bytes = 0
    for number, path in enumerate(_newest_first(directory)):
        with suppress(FileNotFoundError):  # another run prunes at the same time
            kept_bytes += path.lstat().st_size
            if number >= KEPT_FILES or kept_bytes > KEPT_BYTES:
                path.unlink()


def _newest_first(directory: Path) -> Iterable[Path]:
    return sorted((p for p in directory.glob("2*Z-*.log") if not p.is_symlink()), reverse=True)
