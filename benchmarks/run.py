"""Check every contender against the reference, then time them side by side.

    python benchmarks/run.py --cases step,seq-64-128 --peers numba,torch --rounds 15

Each contender lives in one fresh process, all pinned to one core with one thread. Per case they
take turns: in every round each times a block of calls while the others wait on their pipes, so a
round's times are taken within a second of each other and their ratio outlives the machine's moods.
"""

import argparse
import contextlib
import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import worker
from contenders import BEFORE, CONTENDERS, OURS, Contender
from machine import describe, hold_to_one_core, version
from report import print_limits, print_table
from shapes import GATES, KINDS, make_data, select


def say(text):
    print(text, file=sys.stderr, flush=True)


class Process:
    """A contender's process, and what it answered last."""

    def __init__(self, context, contender, folder=None):
        self.contender = contender
        self.pipe, theirs = context.Pipe()
        arguments = (theirs, contender, folder)
        self._process = context.Process(target=worker.serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, *request):
        """Send a request, if there is one, and return the answer; a dead process has failed."""
        try:
            if request:
                self.pipe.send(request)
            return self.pipe.recv()
        except (EOFError, OSError):
            self._process.join(5)
            return "failed", f"its process ended with exit code {self._process.exitcode}"

    def stop(self):
        with contextlib.suppress(OSError):
            self.pipe.send(None)
        self._process.join(5)
        self._process.terminate()


def chosen_contenders(peers, before):
    libraries = sorted({contender.package for contender in CONTENDERS} - {OURS})
    for peer in peers or ():
        if peer not in libraries and peer not in [contender.name for contender in CONTENDERS]:
            raise SystemExit(f"no peer {peer!r}; there are: {', '.join(libraries)}")
    for contender in CONTENDERS:
        wanted = peers is None or contender.package in peers or contender.name in peers
        if contender.name == OURS or wanted:
            yield contender
    if before:
        yield Contender(BEFORE, "ours", "prepare", ("cylstm",), KINDS, tuple(GATES))


def start(arguments):
    """Start what is installed and asked for; return (processes, why others are absent)."""
    context = multiprocessing.get_context("spawn")
    processes, absent = [], {}
    for contender in chosen_contenders(arguments.peers, arguments.before):
        if not any(map(contender.runs, arguments.cases)):
            continue
        folder = str(arguments.before.resolve()) if contender.name == BEFORE else None
        missing = [name for name in contender.requires if not find_spec(name) and not folder]
        if missing:
            absent[contender.name] = f"not installed: {', '.join(missing)}"
            continue
        process = Process(context, contender, folder)
        answer, detail = process.ask()
        if answer == "ready":
            processes.append(process)
        else:
            absent[contender.name] = detail
            process.stop()
    for name, why in absent.items():
        say(f"{'*** OURS IS NOT MEASURED *** ' if name == OURS else ''}skipped {name}: {why}")
    return processes, absent


def run_case(case, processes, reference_file, rounds, seconds):
    """Return {contender: {"status", "error" or "detail", "seconds": one per round}}."""
    results, ready = {}, []
    for process in processes:
        if not process.contender.runs(case):
            continue
        name = process.contender.name
        status, detail = process.ask("prepare", case, reference_file)
        if status == "ready":
            results[name] = {"status": "right", "error": detail, "seconds": []}
            ready.append(process)
            continue
        results[name] = {"status": status, "detail": detail}
        if status != "unsupported":
            say(f"{case.name}: {name} {status.upper()}: {detail}")
    for turn in range(rounds):
        first = turn % max(1, len(ready))
        for process in ready[first:] + ready[:first]:  # nobody always follows the same neighbour
            name = process.contender.name
            status, detail = process.ask("time", seconds)
            if status == "time":
                results[name]["seconds"].append(detail)
            elif results[name]["status"] != "failed":
                results[name].update(status="failed", detail=detail)
                say(f"{case.name}: {name} FAILED: {detail}")
    return results


def summarize(case, results):
    """Return a case's row: medians, the best peer, and the ratios of paired rounds to ours."""
    times = {name: r["seconds"] for name, r in results.items() if r["status"] == "right"}
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    peers = [name for name in medians if name not in (OURS, BEFORE)]
    row = {"case": case.name, "kind": case.kind, "flops": case.flops, "target": case.target}
    row["faults"] = {name: r["status"] for name, r in results.items() if "detail" in r}
    row |= {"medians": medians, "best_peer": min(peers, key=medians.get, default=None)}
    for key, other in (("ratio", row["best_peer"]), ("ratio_to_before", BEFORE)):
        if OURS in times and other in times:
            pairs = zip(times[other], times[OURS], strict=True)
            ratios = [theirs / ours for theirs, ours in pairs]
            row[key] = statistics.median(ratios)
            row[f"{key}_quartiles"] = _quartiles(ratios)
    return row


def _quartiles(values):
    if len(values) < 2:
        return [values[0], values[0]]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return [low, high]


def measure_limits():
    script = Path(__file__).with_name("limits.py")
    done = subprocess.run(
        [sys.executable, str(script), "--json"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        say(f"limits not measured: {done.stderr.strip()}")
        return {}
    return json.loads(done.stdout)


def parse_arguments():
    def names(text):
        return [name for name in text.split(",") if name]

    parser = argparse.ArgumentParser(description="Check, then time, ours beside its peers.")
    parser.add_argument("--cases", type=names, default=list(KINDS), help="kinds or names of cases")
    parser.add_argument("--peers", type=names, help="libraries or contenders; default: all")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--block-ms", type=float, default=50, help="one block's milliseconds")
    parser.add_argument("--core", type=int, help="the core to use; default: the last one")
    parser.add_argument("--before", type=Path, help="folder of another build of cylstm to pair")
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    arguments.cases = select(arguments.cases)
    return arguments


def main():
    arguments = parse_arguments()
    record = {"held": hold_to_one_core(arguments.core), **describe()}
    import numpy as np  # after the thread variables are set
    from checking import expected

    record["limits"] = measure_limits()
    processes, record["absent"] = start(arguments)
    installed = sorted({name for p in processes for name in p.contender.requires})
    record["versions"] = {name: version(name) for name in installed}
    record |= {
        "rounds": arguments.rounds,
        "block_ms": arguments.block_ms,
        "cases": [],
        "failed": [],
    }
    print_limits(record)

    try:
        with tempfile.TemporaryDirectory() as folder:
            reference_file = Path(folder) / "reference.npz"
            for kind in KINDS:
                rows = []
                for case in (case for case in arguments.cases if case.kind == kind):
                    np.savez(reference_file, **expected(case, make_data(case)))
                    results = run_case(
                        case, processes, reference_file, arguments.rounds, arguments.block_ms / 1e3
                    )
                    rows.append(summarize(case, results))
                    record["cases"].append({**rows[-1], "results": results})
                    say(f"{case.name} done")
                if rows:
                    print_table(kind, rows, record)
                    faults = [row for row in rows if OURS in row["faults"]]
                    record["failed"] += [row["case"] for row in faults]
    finally:
        for process in processes:
            process.stop()
        if arguments.json:
            arguments.json.write_text(json.dumps(record, indent=1) + "\n")
    if record["failed"]:
        raise SystemExit(f"ours is wrong or failed: {', '.join(record['failed'])}")


if __name__ == "__main__":
    main()
