"""Pictures of a results file: latency by size, throughput under the measured limits, ratios.

    python benchmarks/plots.py out.json --out folder

Needs matplotlib (``pip install 'cylstm[plot]'``).
"""

import argparse
import itertools
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from shapes import GROUPS

from cylstm.bench import command, report
from cylstm.bench.cases import parse
from cylstm.bench.contenders import BEFORE

BYTES = {"float32": 4, "float64": 8}


def _axes(title, xlabel, ylabel):
    from matplotlib.figure import Figure

    axes = Figure(figsize=(8, 5), layout="constrained").add_subplot()
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.set_title(title, fontsize="medium")
    axes.grid(alpha=0.3)
    return axes


def _entries(run, group):
    return [entry for entry in run["cases"] if entry["case"] in GROUPS[group]]


def _median(entry, name):
    return statistics.median(report.times_of(entry)[name])


def latency(record, group="step"):
    """Microseconds of a call by hidden size, a line for each library's fastest contender; one thread.

    Without another build of ours, which would lie on the same line.
    """
    run = record["runs"][0]
    entries = _entries(run, group)
    axes = _axes(f"{group}: one call, {record['cpu']}", "hidden size", "microseconds")
    markers = itertools.cycle("osv^D<>P")
    for library in report.libraries(entries):
        if library == BEFORE:
            continue
        names = [(entry, report.fastest(entry, library)) for entry in entries]
        points = sorted((parse(e["case"]).hidden_size, _median(e, name) * 1e6) for e, name in names if name)
        if points:
            emphasis = {"linewidth": 3, "zorder": 3} if library == "ours" else {"linewidth": 1}
            label = "cylstm" if library == "ours" else library
            axes.plot(*zip(*points, strict=True), f"{next(markers)}-", label=label, **emphasis)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set_yscale("log")
    axes.legend(fontsize="small")
    return axes.figure


def bandwidths(record):
    """{cache level: GB/s}, each of the largest measured working set that fits in three quarters of it; "memory" of one
    that is larger than twice the last level.

    >>> limits = {"read_gb_per_s": {"16": 200.0, "512": 100.0, "8192": 50.0, "131072": 20.0}}
    >>> bandwidths({"caches_kib": {"L1d": 32, "L2": 1024, "L3": 32768}, "limits": limits})
    {'L1d': 200.0, 'L2': 100.0, 'L3': 50.0, 'memory': 20.0}
    """
    rates = {int(kib): rate for kib, rate in record["limits"]["read_gb_per_s"].items()}
    found, last = {}, 0
    for level, size in record["caches_kib"].items():
        fitting = [kib for kib in rates if last < kib <= 0.75 * size]
        if fitting:
            found[level] = rates[max(fitting)]
        last = size
    beyond = [kib for kib in rates if kib > 2 * last]
    return {**found, "memory": rates[max(beyond)]} if beyond and last else found


def roofline(record):
    """GFLOP/s by FLOPs per byte of weights read; under the peak of the multiply-add units and each measured bandwidth.

    The weights count as read once for a step, and once per time step otherwise: a batch of B does 2 B FLOPs for each.
    """
    limits, run = record["limits"], record["runs"][0]
    axes = _axes(f"float32 throughput, {record['cpu']}", "FLOPs per byte of weights", "GFLOP/s")
    intensities = [2.0**power for power in range(-2, 8)]
    peak = limits["peak_gflops"]["float32"]
    for level, rate in bandwidths(record).items():
        axes.plot(intensities, [min(peak, rate * n) for n in intensities], color="grey", linewidth=0.7)
        at = (intensities[0], rate * intensities[0])
        axes.annotate(f"{level} {rate:.0f} GB/s", at, fontsize="x-small", color="grey")
    for group, marker in (("step", "o"), ("seq", "s"), ("batch", "^")):
        for who, colour in (("cylstm", "C0"), ("best peer", "C1")):
            points = []
            for entry in _entries(run, group):
                case = parse(entry["case"])
                name = report.best_peer(entry) if who == "best peer" else report.fastest(entry, "ours")
                if name:
                    points.append((2 * case.batch / BYTES[case.dtype], case.flops / _median(entry, name) * 1e-9))
            if points:
                axes.plot(*zip(*points, strict=True), marker, color=colour, label=f"{group}, {who}", alpha=0.7)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.legend(fontsize="small")
    return axes.figure


def ratios(record):
    """The best peer's time over ours, with quartiles: a row for each case, number of threads and level of ours."""
    rows = [
        (
            f"{entry['case']}, {run['threads']}, {run['builds']['ours']['level']}",
            report.paired_ratio(entry, report.best_peer(entry)),
        )
        for run in record["runs"]
        for entry in run["cases"]
    ]
    rows = [(name, ratio) for name, ratio in rows if ratio]
    title = f"best peer's time / ours, {record['cpu']}"
    axes = _axes(title, "ratio, quartiles over the rounds", "case, threads, level")
    axes.figure.set_size_inches(8, 1.5 + 0.2 * len(rows))
    middle = [ratio[0] for _, ratio in rows]
    spread = [[m - ratio[1] for m, (_, ratio) in zip(middle, rows, strict=True)],
              [ratio[2] - m for m, (_, ratio) in zip(middle, rows, strict=True)]]  # fmt: skip
    axes.errorbar(middle, range(len(rows)), xerr=spread, fmt="o")
    axes.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize="x-small")
    axes.invert_yaxis()
    axes.axvline(1, color="black", linewidth=0.7)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    return axes.figure


def save(figure, path):
    """Write a figure, the same bytes for the same numbers."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "cylstm"}):
        figure.savefig(path, metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(description="Draw a results file.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--out", metavar="FOLDER", type=Path, default=Path())
    arguments = parser.parse_args()
    record = command.read(arguments.file)
    for draw in (latency, roofline, ratios):
        path = arguments.out / f"{draw.__name__}.svg"
        save(draw(record), path)
        print(path)


if __name__ == "__main__":
    main()
