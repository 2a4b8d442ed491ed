"""``python -m sandbox.aws --directory D``: the sandbox as a process of its own.

Prints one line of JSON when it is ready: the endpoint, the environment for AWS tools and
the token of ``/sandbox-api``. SIGTERM and SIGINT stop it.
"""

import argparse
import json
import os
import signal
import threading
from pathlib import Path

from sandbox.aws.rules import Quotas, Rules
from sandbox.aws.server import AwsSandbox


def main() -> None:
    """Run until a signal comes."""
    options = _parse()
    quotas = Quotas() if options.quotas else Quotas.unlimited()
    rules = Rules(
        visibility_delay_seconds=options.visibility_delay,
        completing_delay_seconds=options.completing_delay,
        hold_status_checks=options.hold_status_checks,
        quotas=quotas,
    )
    stop = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stop)
    with AwsSandbox(options.directory, port=options.port, rules=rules) as sandbox:
        ready = {
            "endpoint_url": sandbox.endpoint_url,
            "environment": dict(sandbox.environment()),
            "account_id": sandbox.account_id,
            "control_token": sandbox.control_token,
        }
        print(json.dumps(ready), flush=True)
        if options.stop_on_eof:
            threading.Thread(target=_stop_on_eof, daemon=True).start()
        signal.sigwait(stop)


def _stop_on_eof() -> None:
    """End with whoever holds the other end of standard input, however that one ends."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m sandbox.aws", description=__doc__)
    parser.add_argument("--directory", type=Path, required=True, help="private state, mode 0700")
    parser.add_argument("--port", type=int, default=0, help="on 127.0.0.1; 0 takes a free one")
    parser.add_argument("--quotas", action="store_true", help="enforce AWS's request rates")
    parser.add_argument("--visibility-delay", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--completing-delay", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument(
        "--hold-status-checks", action="store_true", help="until /sandbox-api attaches a report"
    )
    parser.add_argument("--stop-on-eof", action="store_true", help="stop when stdin is closed")
    return parser.parse_args()


if __name__ == "__main__":
    main()
