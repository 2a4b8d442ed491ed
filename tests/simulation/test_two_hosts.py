"""Two hosts run one plan, each with a state folder of its own, so that no lock keeps them apart."""

from dataclasses import replace

import pytest

from sealift.errors import LocalStateError, LockedError, SealiftError
from sealift.migration import Phase
from sealift.migrator import Migrator
from sealift.testing.faults import Call, Script, tapped
from sealift.testing.simulation import Case, Command, Simulation, record
from sealift.testing.state import MemoryStateStore

CASE = Case(1, (Command.REPLICATE, Command.CUTOVER))
STOPPED = (LockedError, LocalStateError)


class Second:
    """The other host: begins the same migration while the first is in the middle of a call."""

    def __init__(self, first: Simulation, number: int) -> None:
        self._first, self._number = first, number
        self._before = first.script.on_call
        self._store = MemoryStateStore()
        self.error: SealiftError | None = None
        self.ran = False
        first.script.on_call = self._on_call

    def migrator(self) -> Migrator:
        script, world, model = Script(), self._first.world, self._first.model
        script.on_call = lambda _: world.pass_call()
        script.after_call = model.check
        own = tapped(self._store, "state", script)
        return Migrator.open(replace(world.ports(script), store=own), "simulated")

    def _on_call(self, call: Call) -> None:
        assert self._before is not None
        self._before(call)
        if call.number == self._number and not self.ran:
            self.ran = True
            try:
                self.migrator().replicate()
            except SealiftError as error:
                self.error = error


@pytest.mark.timeout(300)
@pytest.mark.fault(28)
def test_the_loser_stops_wherever_they_meet() -> None:
    won = lost = 0
    for number in range(1, len(record(CASE).calls) + 1):
        simulation = Simulation(CASE)
        second = Second(simulation, number)
        if _first_goes_on(simulation, second):
            won += 1
            assert isinstance(second.error, STOPPED), (number, second.error)
            continue
        lost += 1
        assert second.error is None
        assert second.migrator().cutover().phase is Phase.CUT_OVER
        assert simulation.world.differences() == []
    assert won > 100
    assert 5 <= lost <= 12, "only before the first has opened its point can the second win"


def _first_goes_on(simulation: Simulation, second: Second) -> bool:
    """Whether the first host ends its history; when not, it was stopped by type."""
    ports = simulation.world.ports(simulation.script)
    try:
        Migrator.open(ports, "simulated").replicate()
    except STOPPED:
        assert second.error is None
        assert simulation.world.hypervisor.running
        return False
    Migrator.open(simulation.world.ports(simulation.script), "simulated").cutover()
    simulation.model.history_ended(abandoned=False)
    return True
