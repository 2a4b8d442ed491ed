"""What a launched machine showed, kept beside the record for people to look at."""

from sealift.display import printable
from sealift.endpoints import MachineConsole
from sealift.store import StateStore

MAX_TEXT = 64 * 1024
"""Characters of console text that are kept, the newest: EC2 keeps as much itself (API
Reference, GetConsoleOutput)."""
MAX_SCREEN_BYTES = 16 * 1024 * 1024
_PNG = b"\x89PNG"


def keep_console(store: StateStore, attempt: int, console: MachineConsole) -> tuple[str, ...]:
    """Save text and screen of a cutover's machine; the names they are stored under.

    The text comes from whoever controls the guest: nothing of it reaches a terminal as
    anything but text. A screen that is larger than any screen is left out.

    Raises:
        LocalStateError: it cannot be written.
    """
    kept = {}
    if console.text:
        lines = console.text[-MAX_TEXT:].replace("\r\n", "\n").split("\n")
        kept[f"console-{attempt}.log"] = "\n".join(printable(t, MAX_TEXT) for t in lines).encode()
    if console.screen and len(console.screen) <= MAX_SCREEN_BYTES:
        png = console.screen.startswith(_PNG)
        kept[f"screen-{attempt}.{'png' if png else 'jpg'}"] = console.screen
    for name, data in kept.items():
        store.save(name, data)
    return tuple(kept)


def kept_screen(store: StateStore, attempt: int) -> bytes | None:
    """The screen that was kept of a cutover's machine; None without one."""
    return store.load(f"screen-{attempt}.png") or store.load(f"screen-{attempt}.jpg")
