"""The full benchmark: every case, every peer, one thread and two; README.md says how to read it.

    python benchmarks/run.py --cases step,seq-64-128 --peers numba,torch --rounds 15 --json out.json

Built on ``cylstm.bench`` of the clone that it lies in, whose build is the one that is measured.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # before an installed cylstm

import against  # noqa: E402
import published  # noqa: E402
import scaling  # noqa: E402
from shapes import GROUPS, TARGETS  # noqa: E402

from cylstm.bench import command, footprint, machine, report, running  # noqa: E402
from cylstm.bench.cases import parse  # noqa: E402
from cylstm.bench.contenders import CONTENDERS, OURS  # noqa: E402


def _cases(text):
    """Cases by their names, and by those of groups; each once."""
    wanted = dict.fromkeys(case for name in command.names(text) for case in GROUPS.get(name, [name]))
    try:
        return [parse(name) for name in wanted]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}; groups: {', '.join(GROUPS)}") from None


def _threads(text):
    return [command.positive(number) for number in command.names(text)]


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(description="Check, then time, ours beside its peers.")
    parser.add_argument(
        "--cases", metavar="NAMES", type=_cases, default=_cases(",".join(GROUPS)),
        help=f"groups or cases, by commas (default: all groups: {','.join(GROUPS)})",
    )  # fmt: skip
    parser.add_argument("--threads", metavar="N,N", type=_threads, default=[1, 2], help="default: 1,2")
    parser.add_argument("--gaps", metavar="N", type=int, default=20, help="steps of a round that come 10 ms apart")
    command.add_options(parser, rounds=15, block_ms=50)
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--before", metavar="FOLDER", type=Path, help="another build of cylstm, paired with ours")
    other.add_argument("--against", metavar="REV", help="the same of another commit, built when it first comes")
    parser.add_argument(
        "--publish", action="store_true", help="write results/, and README's table and plot from it; needs matplotlib"
    )
    arguments = parser.parse_args(argv)
    if arguments.peers is None:
        # The reference is no peer: all are checked against it, and it would take a third of the time.
        arguments.peers = sorted({contender.package for contender in CONTENDERS} - {OURS, "reference"})
    if arguments.publish:
        published.check(machine.commit())
        arguments.json = arguments.json or against.cache_folder() / "last.json"
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
    return arguments


def measure(arguments):
    """Run all that the options ask for; return the record."""
    before = against.build(arguments.against) if arguments.against else arguments.before
    plans = [
        command.plan_of(
            arguments, arguments.cases, threads=threads, before=before, gap_calls=arguments.gaps if threads == 1 else 0
        )
        for threads in arguments.threads
    ]
    for plan in plans:
        running.check(plan)  # what is wrong with the second is said before the first has run for an hour
    record = command.new_record(plans[0])
    record["before"] = before and {"folder": before.name, "commit": arguments.against or machine.commit(before)}
    finished = []

    def keep(found):
        """What was measured so far outlives what may go wrong later."""
        command.say_done(found)
        record["runs"] = [*finished, found]
        if arguments.json:
            command.write(arguments.json, record)

    for plan in plans:
        finished.append(running.run(plan, keep))
    there = {name for entry in record["runs"][0]["cases"] for name in entry["results"]}
    record["footprint"] = footprint.measure(plans[0], there)
    return record


def main(argv=None):
    arguments = parse_arguments(argv)
    if arguments.compare:
        print(command.compare(arguments.compare, arguments.contenders))
        return 0
    record = measure(arguments)
    if arguments.json:
        command.write(arguments.json, record)
    print(report.head(record))
    print(report.tables(record, TARGETS))
    print(report.footprint_table(record["footprint"]))
    print(scaling.tables(record))
    if arguments.publish:
        published.publish(record)
    return command.finish(record)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        sys.exit(f"run.py: {error}")
