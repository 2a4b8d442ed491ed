"""What a launched machine showed is kept for people, and hurts nobody."""

import pytest

from sealift.console import MAX_TEXT, keep_console, kept_screen
from sealift.endpoints import MachineConsole
from sealift.errors import TargetError, TransientError
from sealift.migration import Phase
from sealift.migrator import Migrator
from sealift.testing.faults import Script
from sealift.testing.scenario import Scenario
from sealift.testing.world import MemoryStateStore

PNG, JPEG = b"\x89PNG rest", b"\xff\xd8\xff rest"


@pytest.mark.parametrize(("screen", "name"), [(PNG, "screen-2.png"), (JPEG, "screen-2.jpg")])
def test_text_and_screen_are_kept_under_the_attempt(screen: bytes, name: str) -> None:
    store = MemoryStateStore()
    assert keep_console(store, 2, MachineConsole("a\r\nb", screen)) == ("console-2.log", name)
    assert store.load("console-2.log") == b"a\nb"
    assert kept_screen(store, 2) == screen
    assert kept_screen(store, 1) is None


def test_nothing_shown_keeps_nothing() -> None:
    store = MemoryStateStore()
    assert keep_console(store, 1, MachineConsole()) == ()
    assert store.names() == frozenset()


def test_a_hostile_console_becomes_plain_text_of_bounded_length() -> None:
    store = MemoryStateStore()
    text = "x" * 10**6 + "\x1b]0;owned\x07\nnext \u202eline"
    keep_console(store, 1, MachineConsole(text))
    kept = (store.load("console-1.log") or b"").decode()
    assert len(kept) < MAX_TEXT + 200
    assert kept.endswith("\\x1b]0;owned\\x07\nnext \\u202eline")


def test_a_screen_larger_than_any_screen_is_left_out() -> None:
    store = MemoryStateStore()
    assert keep_console(store, 1, MachineConsole("", PNG + bytes(1 << 25))) == ()


def migrated(scenario: Scenario) -> Migrator:
    migrator = Migrator.open(scenario.ports(Script()), "scenario")
    migrator.replicate()
    return migrator


def test_an_unhealthy_machine_leaves_its_console_before_it_is_ended() -> None:
    scenario = Scenario(seed=4)
    scenario.cloud.next_health = "failed"
    scenario.cloud.shows = MachineConsole("Kernel panic", PNG)
    with pytest.raises(TargetError) as caught:
        migrated(scenario).cutover()
    assert "console-1.log, screen-1.png" in caught.value.next_step
    assert scenario.store.load("console-1.log") == b"Kernel panic"
    assert scenario.hypervisor.running
    assert not scenario.cloud.instances


@pytest.mark.parametrize("error", [TargetError("no"), TransientError("busy")])
def test_a_console_that_cannot_be_had_fails_nothing(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = Scenario(seed=4)

    def refuse(instance_id: str) -> MachineConsole:
        raise error

    monkeypatch.setattr(scenario.cloud, "console", refuse)
    before = scenario.clock.monotonic()
    assert migrated(scenario).cutover().phase is Phase.CUT_OVER
    assert scenario.clock.monotonic() - before < 5, "nothing waited for a picture"


def test_the_console_of_the_landed_machine_is_kept() -> None:
    scenario = Scenario(seed=4)
    scenario.cloud.shows = MachineConsole("login:", JPEG)
    migrated(scenario).cutover()
    assert kept_screen(scenario.store, 1) == JPEG
