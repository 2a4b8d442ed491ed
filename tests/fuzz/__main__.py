"""``python -m tests.fuzz``: the whole run, one parser, or one input again."""

import argparse
import sys
from pathlib import Path

from tests.fuzz.engine import fuzz, run_once, shares, table
from tests.fuzz.targets import BUILDERS


def main() -> int:
    """Exit code 1 when something crashed."""
    arguments = _arguments()
    chosen = [build() for name, build in BUILDERS.items() if arguments.parser in (None, name)]
    if arguments.input is not None:
        print(run_once(chosen[0], _bytes(arguments.input)))
        return 0
    wanted = shares(chosen, arguments.executions)
    reports = []
    for target in chosen:
        reports.append(fuzz(target, wanted[target.name], arguments.seed))
        for crash in reports[-1].crashes:
            print(crash, file=sys.stderr)
    crashes = sum(len(r.crashes) for r in reports)
    print(table(reports))
    print(f"evidence: fuzz executions: {sum(r.executions for r in reports)}, crashes: {crashes}")
    return 1 if crashes else 0


def _bytes(text: str) -> bytes:
    return Path(text[1:]).read_bytes() if text.startswith("@") else bytes.fromhex(text)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--executions", type=int, default=1_000_000, help="over all parsers")
    parser.add_argument("--seed", default="1", help="the same seed gives the same inputs")
    parser.add_argument("--parser", choices=list(BUILDERS), help="only this one")
    parser.add_argument(
        "--input", metavar="HEX|@FILE", help="run these bytes through --parser, once"
    )
    arguments = parser.parse_args()
    if arguments.input is not None and arguments.parser is None:
        parser.error("--input needs --parser")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
