"""The cutover transaction: every step has its undo, and I10 holds throughout."""

from collections.abc import Callable
from functools import partial

from sealift.blockmap import BlockMap
from sealift.clock import Clock
from sealift.console import keep_console
from sealift.endpoints import Fenced, SnapshotRef, SourceVm
from sealift.errors import (
    CredentialsError,
    IntegrityError,
    LocalStateError,
    SealiftError,
    SourceError,
    TargetDeniedError,
    TargetError,
    TransientError,
)
from sealift.ledger import Ledger, load_block_map
from sealift.lineage import Base, Reason
from sealift.migration import (
    Cutover,
    Step,
    advanced,
    cutover_committed,
    doubted,
    launching,
    publishing,
    source_resumed,
    stopping,
    target_gone,
    undone,
    unpublished,
)
from sealift.ports import Ports
from sealift.progress import Facts, Note, Noted
from sealift.units import format_duration

TARGET_RUNS = "target_runs"
"""Operand of an error after which the target runs and must not be undone."""

SOURCE_RUNS = "source_runs"
"""Operand of an error: whether the source runs; only where an undo was tried."""


class CutoverSteps:
    """The effects of a cutover and of its undo; each ends with a saved event."""

    def __init__(self, ports: Ports, ledger: Ledger) -> None:
        self._ports = ports
        self._ledger = ledger
        self._retry = ports.context.retrier()
        self._clock: Clock = ports.context.clock
        self._step_started = self._clock.monotonic()
        self._stopping_since: float | None = None

    # ------------------------------------------------------------------ forward

    def stop_source(self) -> None:
        """Shut the guest down or pause it; from here downtime counts."""
        hypervisor, policy = self._ports.hypervisor, self._ports.policy.stop
        self._begin(Step.STOP_SOURCE)
        at = self._clock.now().timestamp()
        self._ledger.record(lambda m: stopping(m, at))
        if self._cutover().stopping_at == at:
            self._stopping_since = self._clock.monotonic()
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
        blocks = load_block_map(self._ports.store, base.disk_id, base.seq)
        if blocks is None:
            self._doubt(base)
            raise IntegrityError(
                f"disk {base.disk_id}: the digests of point {base.seq} are gone",
                next_step="run the cutover again: this disk is sent in full",
                disk=base.disk_id,
            )
        reader = self._retry.call(lambda: self._ports.target.reader(base.snapshot))
        try:
            indexes = self._chosen(blocks)
            for index in indexes:
                buffer = bytearray(min(blocks.block_size, reader.size - index * blocks.block_size))
                self._retry.call(
                    partial(reader.read_into, index * blocks.block_size, memoryview(buffer))
                )
                if blocks.digest.of(bytes(buffer)) != blocks[index]:
                    self._doubt(base)
                    raise _unequal(base, index)
            return len(indexes) * blocks.block_size
        finally:
            reader.close()

    def _doubt(self, base: Base) -> None:
        """Nothing is built on what could not be proven; tracking alone would not notice."""
        self._ledger.record(lambda m: doubted(m, base.disk_id, Reason.BASE_UNPROVEN))

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
        self._ledger.record(publishing)
        image_id = self._retry.call(lambda: self._ports.target.publish(seq, vm, refs))
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
        asked_before = self._cutover().launching
        self._ledger.record(launching)
        ask = self._launch(vm, seq)
        try:
            instance_id = self._retry.call(ask)
        except TargetError as error:
            proves_nothing = isinstance(error, CredentialsError | TargetDeniedError)
            if ask.certain and not asked_before and not proves_nothing:
                self._ledger.record(target_gone)
            raise
        self._done(Step.LAUNCH, instance_id=instance_id)

    def _launch(self, vm: SourceVm, seq: int) -> "_Ask":
        c = self._cutover()
        if c.image_id is None:
            raise ValueError("no image")
        return _Ask(partial(self._ports.target.launch, seq, c.attempt, c.image_id, vm))

    def await_health(self) -> None:
        """Ask until the cloud calls the machine healthy."""
        self._begin(Step.HEALTH)
        deadline = self._clock.monotonic() + self._ports.policy.health_timeout_seconds
        instance = self._instance()
        while True:
            health = self._retry.call(lambda: self._ports.target.health(instance))
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
            console = self._ports.target.console(c.instance_id)
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
        at = self._moment()
        try:
            self._ledger.record(lambda m: cutover_committed(m, at))
        except LocalStateError as error:
            # Whether it is recorded is unknown, so nothing may be undone: the target runs.
            error.operands[TARGET_RUNS] = True
            error.next_step = "make room if it is needed, then run cutover again to finish"
            raise
        downtime = self._cutover().downtime_seconds or 0.0
        text = f"cut over to {self._instance()}; downtime {format_duration(downtime)}"
        self._say(Note.CUTOVER, text, (("downtime_seconds", downtime),))

    def _moment(self) -> float:
        """Now, in seconds of the epoch, for a downtime that no jump of the wall clock changes."""
        c = self._cutover()
        now = self._clock.now().timestamp()
        if c.stopping_at is None:
            return now
        if self._stopping_since is None:
            return max(now, c.stopping_at)
        return c.stopping_at + self._clock.monotonic() - self._stopping_since

    def still_fenced(self) -> None:
        """An interrupted cutover may only go on while nobody has started the source again.

        Raises:
            SourceError: somebody has.
        """
        if list(Step).index(self._cutover().step) > list(Step).index(Step.FENCE):
            self._require_fence(None)

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

        Raises:
            SealiftError: it may still run; then the source stays as it is (I10).
        """
        instance_id = self._cutover().instance_id or self._launched()
        if instance_id is not None:
            self._retry.call(partial(self._ports.target.terminate, instance_id))
        self._ledger.record(target_gone)

    def _launched(self) -> str | None:
        """The machine of a launch whose answer was lost; None when there is certainly none.

        Asking again with the same token tells the instance of a launch that took effect. But
        where the launch never reached the cloud, asking starts a machine; so it is asked only
        while the source provably stands still. Where it is not asked, is refused, which may
        have reasons that say nothing of the first launch, or gets no answer, as from an
        operation of the cloud that never ends, the cloud is searched: the search waits for as
        long as a machine may be invisible, and the source must not wait for ever.
        """
        vm, _, seq = self._image_parts()
        if self._fenced():
            try:
                return self._retry.call(self._launch(vm, seq))
            except (CredentialsError, TargetDeniedError):
                raise
            except (TargetError, TransientError) as error:
                text = f"asked for the machine of this attempt again: {error.message}"
                self._say(Note.WARNING, text, ())
        return self._found(seq)

    def _found(self, seq: int) -> str | None:
        attempt = self._cutover().attempt
        return self._retry.call(lambda: self._ports.target.find_launched(seq, attempt))

    def _fenced(self) -> bool:
        try:
            return self._retry.call(self._ports.hypervisor.fence) is Fenced.YES
        except SealiftError:
            return False

    def bring_back(self) -> None:
        """The part of an undo on which I10 hangs, and nothing else."""
        c = self._cutover()
        if c.launching:
            self.terminate_target()
        if not c.resumed:
            self.resume_source()

    def resume_source(self) -> None:
        """Put the source back to work."""
        self._retry.call(self._ports.hypervisor.resume)
        at = self._moment()
        self._ledger.record(lambda m: source_resumed(m, at))
        self._say(Note.UNDO, "the source runs again", ())

    def unpublish(self) -> None:
        """Take the image away; its snapshots stay as the base of the next round."""
        image_id = self._cutover().image_id or self._published()
        if image_id is not None:
            self._retry.call(lambda: self._ports.target.unpublish(image_id))
        self._ledger.record(unpublished)

    def _published(self) -> str | None:
        """The image of a registration whose answer was lost: found, or registered to be removed.

        Left alone it would keep its snapshots from ever being deleted.
        """
        vm, refs, seq = self._image_parts()
        try:
            return self._retry.call(lambda: self._ports.target.publish(seq, vm, refs))
        except (CredentialsError, TargetDeniedError):
            raise
        except TargetError as error:
            self._say(Note.WARNING, f"no image to be found: {error.message}", ())
            return None

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
        next_step="run the cutover again: this disk is sent in full",
        disk=base.disk_id,
        block=index,
        snapshot=base.snapshot.id,
    )
