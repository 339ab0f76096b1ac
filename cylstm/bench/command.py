"""The command line of the benchmark: options that the quick and the full one share, and the quick one."""

import argparse
import json
import os
from pathlib import Path

from . import machine, report, running
from .cases import parse

# A step small and large, a sequence, a batch and a training: about a minute with five peers.
QUICK = ("step-8-16", "step-64-128", "seq-64-128", "batch-8x50-64-128", "train-16x50-32-64")

SCHEMA = 1  # of the JSON


def names(text):
    return [name for name in text.split(",") if name]


def _case(name):
    try:
        return parse(name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _cases(text):
    return [_case(name) for name in names(text)]


def _least(kind, least):
    def read(text):
        number = kind(text)
        if not least <= number < float("inf"):
            raise argparse.ArgumentTypeError(f"{text} came, expected at least {least}")
        return number

    read.__name__ = kind.__name__
    return read


def _python(text):
    library, _, path = text.partition("=")
    if not os.access(path, os.X_OK):
        raise argparse.ArgumentTypeError(f"{text} came, expected LIBRARY=PATH with the path of a Python")
    return library, path


positive = _least(int, 1)


def add_options(parser, rounds, block_ms):
    """Add what a run is told, with these defaults."""
    parser.add_argument("--peers", metavar="NAMES", type=names, help="libraries or contenders (default: all)")
    parser.add_argument("--rounds", metavar="N", type=positive, default=rounds, help="default: %(default)s")
    parser.add_argument(
        "--block-ms", metavar="MS", type=_least(float, 0), default=block_ms,
        help="milliseconds of a contender's turn in a round (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--core", metavar="N", type=_least(int, 0), help="the last core to use (default: the last one)")
    parser.add_argument(
        "--python", metavar="LIBRARY=PATH", type=_python, action="append", default=[],
        help="the Python that has a library, where it is another one than this; may be repeated",
    )  # fmt: skip
    parser.add_argument("--json", metavar="FILE", type=Path, help="write everything measured to this file")
    parser.add_argument(
        "--compare", metavar="FILE", type=Path, nargs="+",
        help="measure nothing: ratios of the contenders of one file, or of two files",
    )  # fmt: skip
    parser.add_argument(
        "--contenders", metavar="A,B", type=names,
        help="what to compare (default: ours,ours of two files; ours and the best of each library of one)",
    )  # fmt: skip


def add_quick_options(parser):
    """Add the options of ``python -m cylstm bench``."""
    parser.add_argument(
        "--cases", metavar="NAMES", type=_cases, default=[parse(name) for name in QUICK],
        help=f"such as gru-step-40-80, batch-8x50-40-80-bi2, seq-1x200-40-80-f64 (default: {','.join(QUICK)})",
    )  # fmt: skip
    parser.add_argument("--threads", metavar="N", type=positive, default=1, help="default: %(default)s")
    add_options(parser, rounds=5, block_ms=30)


def read(path):
    """Return the record in a file; a ValueError if it is none.

    Raises
    ------
    ValueError
        If the file is not one that this benchmark wrote.
    """
    try:
        record = json.loads(Path(path).read_text())
    except ValueError:
        record = None
    if not isinstance(record, dict) or record.get("schema") != SCHEMA or not isinstance(record.get("runs"), list):
        raise ValueError(f"{path} is not a file of this benchmark, expected JSON with schema {SCHEMA}")
    return record


def write(path, record):
    """Write a record, whole or not at all."""
    path = Path(path)
    beside = path.with_name(f"{path.name}.part")
    beside.write_text(json.dumps(record, indent=1) + "\n")
    beside.replace(path)


def compare(files, contenders):
    """Return the tables that ``--compare`` and ``--contenders`` ask for."""
    if len(files) > 2 or len(contenders or "ab") != 2:
        raise ValueError(f"{len(files)} files and contenders {contenders} came, expected one or two files and A,B")
    first, *second = map(read, files)
    if second:
        return report.compare(first, second[0], contenders or ("ours", "ours"))
    if contenders:
        return report.compare(first, first, contenders)
    entries = [entry for run in first["runs"] for entry in run["cases"]]
    peers = [name for name in report.libraries(entries) if name != "ours"]
    if not peers:
        raise ValueError(f"{files[0]} has times of ours alone, expected a second file or a peer in it")
    return "\n".join(report.compare(first, first, ("ours", peer)) for peer in peers)


def new_record(plan):
    """What a file begins with: the machine and its limits."""
    return {"schema": SCHEMA, **machine.describe(), "limits": running.limits(plan), "runs": []}


def plan_of(arguments, cases, **more):
    return running.Plan(
        cases=cases, peers=arguments.peers, rounds=arguments.rounds, block_seconds=arguments.block_ms / 1e3,
        last_core=arguments.core, pythons=dict(arguments.python), **more,
    )  # fmt: skip


def quick(arguments):
    """Run what the options say, print it, and return the exit code: 1 if ours is wrong or fails."""
    if arguments.compare:
        print(compare(arguments.compare, arguments.contenders))
        return 0
    plan = plan_of(arguments, arguments.cases, threads=arguments.threads)
    running.check(plan)
    record = new_record(plan)
    record["runs"].append(running.run(plan, say_done))
    print(report.head(record))
    print(report.tables(record))
    if arguments.json:
        write(arguments.json, record)
    return finish(record)


def say_done(found):
    running.say(f"{found['cases'][-1]['case']} done")


def finish(record):
    """Say in which cases ours was wrong or failed; return the exit code."""
    bad = [name for run in record["runs"] for name in report.faulty(run)]
    if bad:
        running.say(f"ours is wrong or failed: {', '.join(bad)}")
    return 1 if bad else 0
