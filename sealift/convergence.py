"""When will the final sync fit the downtime budget? Pure arithmetic on measured rounds."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import fmean

from sealift.units import MiB, format_duration, format_rate, format_size

_FITTED_ROUNDS = 5
"""Older rounds say what the link was, not what it is."""

_SHORT_ROUND_BYTES = 16 * MiB
"""Rounds that sent less say more about fixed costs than about throughput."""

_SILENT_ROUND_BYTES = 1 * MiB
"""Rounds that sent less say nothing about throughput: two blocks of 512 KiB."""

_UNKNOWN_THROUGHPUT = 10.0 * MiB
"""Bytes per second until a round tells: what a link of 100 Mbit/s moves."""


@dataclass(frozen=True, slots=True)
class RoundFigures:
    """One finished round, measured.

    Attributes:
        sent_bytes: given to the target.
        dirty_bytes: what the round had to cover, by the source's change tracking; for a
            full round, what was read. Rates are in these bytes, so that the cost of
            sending whole blocks for small changes is part of them.
        seconds: from opening the point until it was durable.
        dirty_after_bytes: what the guest had changed by the end of the round.
    """

    sent_bytes: int
    dirty_bytes: int
    seconds: float
    dirty_after_bytes: int


class Verdict(Enum):
    """What the forecast means."""

    READY = "ready"
    """The final sync fits the budget now."""
    CONVERGING = "converging"
    """Another round leaves less to send."""
    DIVERGING = "diverging"
    """The guest writes as fast as we send; more rounds do not help."""


class OnDivergence(Enum):
    """What to do when more rounds do not help."""

    THROTTLE = "throttle"
    CONTINUE = "continue"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class ConvergencePolicy:
    """What the user accepts.

    Attributes:
        downtime_budget_seconds: longest acceptable final sync.
        max_rounds: pre-copy rounds before giving up on converging.
        on_divergence: see ``OnDivergence``.
    """

    downtime_budget_seconds: float = 30.0
    max_rounds: int = 10
    on_divergence: OnDivergence = OnDivergence.THROTTLE


@dataclass(frozen=True, slots=True)
class Forecast:
    """What the final sync would cost if it started now.

    Attributes:
        verdict: see ``Verdict``.
        final_seconds: expected duration of the final sync.
        dirty_bytes: what it would have to read.
        throughput: bytes per second that rounds reached.
        dirty_rate: bytes per second that the guest dirties.
        text: the same in one sentence.
    """

    verdict: Verdict
    final_seconds: float
    dirty_bytes: int
    throughput: float
    dirty_rate: float
    text: str


def forecast(rounds: Sequence[RoundFigures], policy: ConvergencePolicy) -> Forecast:
    """Judge after the newest of ``rounds`` (at least one).

    Model: a round costs a fixed time plus bytes over throughput, fitted to the newest
    rounds.
    """
    last = rounds[-1]
    fixed, throughput = _fit(rounds[-_FITTED_ROUNDS:])
    final = fixed + last.dirty_after_bytes / throughput
    dirty_rate = last.dirty_after_bytes / last.seconds if last.seconds > 0 else 0.0
    verdict = _verdict(rounds, policy, final, dirty_rate, throughput)
    text = (
        f"final sync would take {format_duration(final)} for "
        f"{format_size(last.dirty_after_bytes)} (sending {format_rate(throughput)}, guest "
        f"dirties {format_rate(dirty_rate)}): {verdict.value}"
    )
    return Forecast(verdict, final, last.dirty_after_bytes, throughput, dirty_rate, text)


def throttle_rate(forecast_now: Forecast) -> int:
    """Guest write limit in bytes per second that lets rounds shrink: half our throughput."""
    return max(1 * MiB, int(forecast_now.throughput / 2))


def _fit(rounds: Sequence[RoundFigures]) -> tuple[float, float]:
    """(fixed seconds, bytes per second) by least squares; without a fixed part where none shows."""
    mean_bytes = fmean(r.dirty_bytes for r in rounds)
    mean_seconds = fmean(r.seconds for r in rounds)
    spread = sum((r.dirty_bytes - mean_bytes) ** 2 for r in rounds)
    together = sum((r.dirty_bytes - mean_bytes) * (r.seconds - mean_seconds) for r in rounds)
    if spread > 0 and together > 0:
        seconds_per_byte = together / spread
        fixed = mean_seconds - seconds_per_byte * mean_bytes
        if fixed >= 0:
            return fixed, 1 / seconds_per_byte
    if all(r.dirty_bytes < _SILENT_ROUND_BYTES for r in rounds):
        return rounds[-1].seconds, _UNKNOWN_THROUGHPUT
    return 0.0, _throughput(rounds)


def _throughput(rounds: Sequence[RoundFigures]) -> float:
    """Of the newest round that is long enough to tell."""
    long_enough = [r for r in rounds if r.dirty_bytes >= _SHORT_ROUND_BYTES] or list(rounds)
    newest = long_enough[-1]
    if newest.seconds <= 0:
        return float(max(newest.dirty_bytes, 1))
    return max(newest.dirty_bytes / newest.seconds, 1.0)


def _verdict(
    rounds: Sequence[RoundFigures],
    policy: ConvergencePolicy,
    final: float,
    dirty_rate: float,
    throughput: float,
) -> Verdict:
    if final <= policy.downtime_budget_seconds:
        return Verdict.READY
    shrinking = len(rounds) < 2 or rounds[-1].dirty_after_bytes < 0.9 * rounds[-2].dirty_after_bytes
    if dirty_rate < 0.9 * throughput or shrinking:
        return Verdict.CONVERGING
    return Verdict.DIVERGING
