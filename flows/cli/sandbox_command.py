"""``sealift sandbox``: an AWS account of one's own, offline, to rehearse a plan with."""

import shlex
import signal
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from flows.cli.lines import Rehearsal
from flows.cli.output import Output
from flows.cli.summaries import Ended
from sealift.errors import UsageError


def sandbox(output: Output, directory: Path | None, port: int, *, boot: bool) -> None:
    """Serve until a signal comes; everything in the account is gone afterwards.

    Raises:
        UsageError: the sandbox is not installed, or folder or port cannot be used.
    """
    try:
        from sandbox.aws.rules import Quotas, Rules
        from sandbox.aws.server import AwsSandbox
        from sandbox.boot import InstanceBooter
    except ImportError as error:
        raise UsageError(
            f"the sandbox is not installed: {error}", next_step="pip install 'sealift[sandbox]'"
        ) from None
    stop = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    with _blocked(stop), tempfile.TemporaryDirectory(prefix="sealift-sandbox-") as temporary:
        place = directory or Path(temporary)
        booter = InstanceBooter(place / "machines") if boot else None
        rules = Rules(quotas=Quotas())  # the rates that a new account has
        account = AwsSandbox(place / "account", port=port, rules=rules, on_launch=booter)
        if booter is not None:
            booter.sandbox = account
        try:
            account.start()
        except OSError as error:
            raise UsageError(
                f"the sandbox cannot start: {_words(error)}",
                next_step="choose another folder or port",
            ) from None
        try:
            _tell(output, account.environment())
            signal.sigwait(stop)
        finally:
            account.stop()
    output.summary(Ended(command="sandbox", text="the sandbox and everything in it is gone"))


@contextmanager
def _blocked(signals: set[signal.Signals]) -> Iterator[None]:
    """Before any thread begins, so that all inherit it and only ``sigwait`` hears them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _words(error: OSError) -> str:
    place = f"{error.filename}: " if error.filename else ""
    return f"{place}{error.strerror or error}"


def _tell(output: Output, environment: Mapping[str, str]) -> None:
    from sandbox.aws.network import default_network

    subnet, group = default_network(environment)
    output.emit(Rehearsal(environment=dict(environment), subnet=subnet, security_groups=[group]))
    output.say("# an AWS account of your own, until you press Ctrl-C; in another terminal:")
    for name, value in environment.items():
        output.say(f"export {name}={shlex.quote(value)}")
    output.say(f"export SEALIFT_TARGET__AWS__SUBNET={subnet}")
    output.say(f"export SEALIFT_TARGET__AWS__SECURITY_GROUPS={group}")
