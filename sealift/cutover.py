"""The cutover transaction: every step has its undo, and I10 holds throughout."""

from collections.abc import Callable
from functools import partial

from sealift.blockmap import BlockMap
from sealift.clock import Clock
from sealift.console import keep_console
from sealift.digest import block_digest
from sealift.endpoints import Fenced, SnapshotRef, SourceVm
from sealift.errors import (
    CredentialsError,
    IntegrityError,
    SealiftError,
    SourceError,
    TargetDeniedError,
    TargetError,
    TransientError,
)
from sealift.ledger import Ledger
from sealift.lineage import Base
from sealift.migration import (
    Cutover,
    Step,
    advanced,
    cutover_committed,
    healthy,
    launching,
    source_resumed,
    stopping,
    target_gone,
    undone,
    unpublished,
)
from sealift.ports import Ports
from sealift.progress import Facts, Note, Noted
from sealift.units import format_duration


class CutoverSteps:
    """The effects of a cutover and of its undo; each ends with a saved event."""

    def __init__(self, ports: Ports, ledger: Ledger) -> None:
        self._ports = ports
        self._ledger = ledger
        self._retry = ports.context.retrier()
        self._clock: Clock = ports.context.clock
        self._step_started = self._clock.monotonic()

    # ------------------------------------------------------------------ forward

    def stop_source(self) -> None:
        """Shut the guest down or pause it; from here downtime counts."""
        hypervisor, policy = self._ports.hypervisor, self._ports.policy.stop
        self._begin(Step.STOP_SOURCE)
        at = self._clock.now().timestamp()
        self._ledger.record(lambda m: stopping(m, at))
        if policy.shutdown and self._retry.call(
            lambda: hypervisor.shutdown(policy.shutdown_timeout_seconds)
        ):
            how = "guest shut down"
        elif policy.shutdown and not policy.pause_after_timeout:
            raise SourceError(
                f"the guest did not power off within "
                f"{format_duration(policy.shutdown_timeout_seconds)}",
                next_step="raise stop.shutdown_timeout, or allow stop.pause_after_timeout",
            )
        else:
            self._retry.call(hypervisor.pause)
            how = "guest paused" if not policy.shutdown else "guest paused, it did not power off"
        self._done(Step.STOP_SOURCE, stopped_by=how)

    def fence(self) -> None:
        """Prove that the source cannot write."""
        self._begin(Step.FENCE)
        self._require_fence(None)
        self._done(Step.FENCE)

    def finish_final_sync(self) -> None:
        """The final round is closed; go on."""
        m = self._ledger.now
        self._done(Step.FINAL_SYNC, seconds=m.history[-1].seconds if m.history else 0.0)

    def verify(self) -> None:
        """Read blocks back from the target and compare them with what the source had."""
        self._begin(Step.VERIFY)
        verified = sum(self._verify_disk(base) for base in self._ledger.now.bases)
        self._done(Step.VERIFY, verified_bytes=verified)

    def _verify_disk(self, base: Base) -> int:
        blocks = self._ledger.block_map(base.disk_id, base.seq)
        if blocks is None:
            raise IntegrityError(
                f"disk {base.disk_id}: the digests of point {base.seq} are gone",
                next_step="run replicate with --on-tracking-loss full, then cutover again",
            )
        reader = self._ports.cloud.reader(base.snapshot)
        try:
            indexes = self._chosen(blocks)
            for index in indexes:
                buffer = bytearray(min(blocks.block_size, reader.size - index * blocks.block_size))
                self._retry.call(
                    partial(reader.read_into, index * blocks.block_size, memoryview(buffer))
                )
                if block_digest(bytes(buffer)) != blocks[index]:
                    raise _unequal(base, index)
            return len(indexes) * blocks.block_size
        finally:
            reader.close()

    def _chosen(self, blocks: BlockMap) -> list[int]:
        known = [index for index, _ in blocks.items()]
        wanted = self._ports.policy.verify_blocks
        if wanted is None or wanted >= len(known):
            return known
        return sorted(self._ports.rng.sample(known, wanted))

    def publish(self) -> None:
        """Register the image of the final point."""
        self._begin(Step.PUBLISH)
        vm, refs, seq = self._image_parts()
        image_id = self._retry.call(lambda: self._ports.cloud.publish(seq, vm, refs))
        self._done(Step.PUBLISH, image_id=image_id)

    def _image_parts(self) -> tuple[SourceVm, dict[str, SnapshotRef], int]:
        m = self._ledger.now
        if m.vm is None or m.cutover is None or m.cutover.seq is None:
            raise ValueError("no final point")
        return m.vm, {b.disk_id: b.snapshot for b in m.bases}, m.cutover.seq

    def launch(self) -> None:
        """Start the target machine; from the event before the call one may exist."""
        self._begin(Step.LAUNCH)
        vm, _, seq = self._image_parts()
        self._require_fence(seq)
        self._ledger.record(launching)
        instance_id = self._launch(vm, seq)
        self._done(Step.LAUNCH, instance_id=instance_id)

    def _launch(self, vm: SourceVm, seq: int) -> str:
        """The machine's id; when it was refused for certain, that is booked."""
        c = self._cutover()
        if c.image_id is None:
            raise ValueError("no image")
        ask = _Ask(partial(self._ports.cloud.launch, seq, c.attempt, c.image_id, vm))
        try:
            return self._retry.call(ask)
        except TargetError as error:
            if ask.certain and not isinstance(error, (CredentialsError, TargetDeniedError)):
                self._ledger.record(target_gone)
            raise

    def await_health(self) -> None:
        """Ask until the cloud calls the machine healthy."""
        self._begin(Step.HEALTH)
        deadline = self._clock.monotonic() + self._ports.policy.health_timeout_seconds
        instance = self._instance()
        while True:
            health = self._retry.call(lambda: self._ports.cloud.health(instance))
            if health.state == "ok":
                break
            if health.state == "failed" or self._clock.monotonic() >= deadline:
                kept = self.keep_console()
                raise TargetError(
                    f"target machine {instance} is not healthy: {health.detail}",
                    next_step=f"see what it showed: {', '.join(kept)} in the state folder"
                    if kept
                    else "find out why with a launch of the same image by hand",
                    instance=instance,
                )
            cancel = self._ports.context.cancel
            cancel.sleep(self._clock, self._ports.policy.health_interval_seconds)
        self._done(Step.HEALTH)

    def keep_console(self) -> tuple[str, ...]:
        """Keep what the target machine shows; the names of what was kept.

        Asked once and without patience: nothing waits for a picture while no machine
        serves, and a console that cannot be had fails nothing.
        """
        c = self._cutover()
        if c.instance_id is None:
            return ()
        try:
            console = self._ports.cloud.console(c.instance_id)
            kept = keep_console(self._ports.store, c.attempt, console)
        except SealiftError as error:
            self._say(Note.WARNING, f"no console of {c.instance_id}: {error.message}", ())
            return ()
        if kept:
            self._say(Note.KEPT, f"kept what {c.instance_id} shows: {', '.join(kept)}", ())
        return kept

    def confirm(self) -> None:
        """The source is still fenced and unwritten: the target is the machine now."""
        self._begin(Step.CONFIRM)
        self._require_fence(self._cutover().seq)
        at = self._clock.now().timestamp()
        self._ledger.record(lambda m: healthy(m, at))
        self._ledger.record(cutover_committed)
        downtime = self._cutover().downtime_seconds or 0.0
        text = f"cut over to {self._instance()}; downtime {format_duration(downtime)}"
        self._say(Note.CUTOVER, text, (("downtime_seconds", downtime),))

    def _require_fence(self, seq: int | None) -> None:
        answer = self._retry.call(lambda: self._ports.hypervisor.fence(seq))
        if answer is Fenced.YES:
            return
        cause = {
            Fenced.NO: "it runs, or wrote after the final point",
            Fenced.UNKNOWN: "the hypervisor gives no certain answer",
        }[answer]
        raise SourceError(
            f"the source is not fenced: {cause}",
            next_step="the target is not started; find out who runs the source, then cutover again",
        )

    # ------------------------------------------------------------------ undo

    def terminate_target(self) -> None:
        """Make sure that no target machine runs, also when a launch's answer was lost.

        Asking again with the same token tells the instance of a launch that took effect, or
        is refused for good, in which case there is none. A refusal for want of credentials
        or permission proves nothing: then the source stays stopped (I10).
        """
        c = self._cutover()
        instance_id = c.instance_id
        if instance_id is None:
            try:
                vm, _, seq = self._image_parts()
                instance_id = self._launch(vm, seq)
            except (CredentialsError, TargetDeniedError):
                raise
            except TargetError:
                instance_id = None
        if instance_id is not None:
            self._retry.call(partial(self._ports.cloud.terminate, instance_id))
        self._ledger.record(target_gone)

    def resume_source(self) -> None:
        """Put the source back to work."""
        self._retry.call(self._ports.hypervisor.resume)
        at = self._clock.now().timestamp()
        self._ledger.record(lambda m: source_resumed(m, at))
        self._say(Note.UNDO, "the source runs again", ())

    def unpublish(self) -> None:
        """Take the image away; its snapshots stay as the base of the next round."""
        image_id = self._cutover().image_id
        if image_id is not None:
            self._retry.call(lambda: self._ports.cloud.unpublish(image_id))
        self._ledger.record(unpublished)

    def finish_undo(self) -> None:
        """The failed cutover is over."""
        self._ledger.record(undone)

    # ------------------------------------------------------------------ helpers

    def _cutover(self) -> Cutover:
        c = self._ledger.now.cutover
        if c is None:
            raise ValueError("no cutover is under way")
        return c

    def _instance(self) -> str:
        instance_id = self._cutover().instance_id
        if instance_id is None:
            raise ValueError("no instance")
        return instance_id

    def _begin(self, step: Step) -> None:
        self._step_started = self._clock.monotonic()
        self._say(Note.PHASE, f"cutover: {step.value}", (("step", step.value),))

    def _done(
        self,
        step: Step,
        *,
        seconds: float | None = None,
        stopped_by: str | None = None,
        image_id: str | None = None,
        instance_id: str | None = None,
        verified_bytes: int | None = None,
    ) -> None:
        took = self._clock.monotonic() - self._step_started if seconds is None else seconds
        self._ledger.record(
            lambda m: advanced(
                m,
                step,
                took,
                stopped_by=stopped_by,
                image_id=image_id,
                instance_id=instance_id,
                verified_bytes=verified_bytes,
            )
        )

    def _say(self, note: Note, text: str, facts: Facts) -> None:
        self._ports.context.sink(Noted(note, text, facts))


class _Ask:
    """A launch that remembers whether any of its attempts has an unknown outcome."""

    def __init__(self, launch: Callable[[], str]) -> None:
        self._launch = launch
        self.certain = True

    def __call__(self) -> str:
        try:
            return self._launch()
        except TransientError:
            self.certain = False
            raise


def _unequal(base: Base, index: int) -> SealiftError:
    return IntegrityError(
        f"disk {base.disk_id}: block {index} of snapshot {base.snapshot.id} is not what was sent",
        next_step="the source runs again; run replicate with --on-tracking-loss full",
        disk=base.disk_id,
        block=index,
        snapshot=base.snapshot.id,
    )
