"""What README and docs/performance.md show of a run: a results file, tables and plots made from it.

docs/performance.md shows the times of other machines too, whose files are in results/.

``run.py --publish``, or from one file or several

    python benchmarks/published.py results/FILE.json
"""

import importlib.util
import math
import re
import statistics
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import plots  # noqa: E402
from shapes import GROUPS  # noqa: E402

from cylstm.bench import command, report  # noqa: E402
from cylstm.bench.cases import GATES, parse  # noqa: E402

BEGIN, END = "<!-- benchmarks/run.py --publish: begin -->", "<!-- benchmarks/run.py --publish: end -->"
PAGES = ("README.md", "docs/performance.md")
SHOWN = ("step", "seq", "batch", "train")  # all cases of these groups, whoever is faster


def check(commit, root=ROOT):
    """Say before the run what would keep it from being published: a ValueError."""
    if not commit or "changes" in commit:
        raise ValueError(f"not published: the build is of commit {commit}, expected one without changes")
    for page in PAGES:
        text = (root / page).read_text()
        if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
            raise ValueError(f"{page} has no lines {BEGIN} and {END}, once each, for the figures to stand between")
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError("--publish draws with matplotlib: pip install 'cylstm[plot]'")


def file_name(record):
    """CPU and day, of letters that any file system takes."""
    cpu = re.sub(r"\W+", "-", re.sub(r"\((R|TM)\)|CPU|Processor", "", record["cpu"])).strip("-").lower()
    return f"{cpu}-{record['date'][:10]}"


def together(records):
    """One record with the runs of all; what else one of them has, from the first that has it.

    Raises
    ------
    ValueError
        If they are of two machines or commits.
    """
    whole = {}
    for record in reversed(records):
        whole |= record
    for key in ("cpu", "commit"):
        found = sorted({str(record[key]) for record in records})
        if len(found) > 1:
            raise ValueError(f"not published: the files are of more than one {key}: {', '.join(found)}")
    whole["runs"] = [run for record in records for run in record["runs"]]
    return whole


def shown(run):
    """The cases of SHOWN in which there is a time of ours."""
    names = {case for group in SHOWN for case in GROUPS[group]}
    return [entry for entry in run["cases"] if entry["case"] in names and "ours" in report.times_of(entry)]


def table(runs):
    """Of the cases shown our time and the best peer's."""
    rows = []
    for run in runs:
        for entry in shown(run):
            best = report.best_peer(entry)
            times = {n: report.microseconds(statistics.median(s)) for n, s in report.times_of(entry).items()}
            theirs = f"{times[best]} ({best})" if best else "-"
            ratio = report.ratio_text(report.paired_ratio(entry, best))
            rows.append([entry["case"], run["threads"], times["ours"], theirs, ratio])
    return report.table(["case", "threads", "cylstm", "best peer", "best peer / cylstm"], rows)


def taken_on(record, more=""):
    """What a table's figures are of; ``more``: on the processor."""
    level = record["runs"][0]["builds"]["ours"]["level"]
    return f"{record['cpu']}{more}, level {level}, {record['date'][:10]}, commit {record['commit']}"


def figures(record, name):
    """The lines between README's marks: of the runs that are held to no other instruction set than the first."""
    run = record["runs"][0]
    packages = ", ".join(f"{package} {version}" for package, version in run["versions"].items())
    absent = f" Not measured: {', '.join([*run['absent'], *run['failed']])}." if run["absent"] or run["failed"] else ""
    folder = "benchmarks/results"
    return "\n".join([
        f"{taken_on(record)},"
        f" Python {record['python']}, {packages}.{absent} Medians of {run['rounds']} rounds in microseconds; the ratio"
        f" is paired by round, its quartiles in brackets. [All numbers]({folder}/{name}.json), made by"
        " `python benchmarks/run.py`; [how to make and read them](benchmarks/README.md).",
        "",
        table([other for other in record["runs"] if other["held"] == run["held"]]),
        f"![One step by hidden size, cylstm and its peers]({folder}/{name}.svg)",
    ])  # fmt: skip


def bounds(record, name, others=()):
    """The lines between the marks of docs/performance.md: how near each case of one thread is to its limits.

    ``others``: records of other machines, whose first run is shown too.
    """
    limits, run = record["limits"], record["runs"][0]
    rows = []
    for entry in shown(run):
        seconds = statistics.median(report.times_of(entry)["ours"])
        arithmetic, reading = limits_of(parse(entry["case"]), limits)
        what = "arithmetic" if arithmetic > reading else "reading"
        times = (report.microseconds(t) for t in (seconds, arithmetic, reading))
        rows.append([entry["case"], *times, f"{100 * max(arithmetic, reading) / seconds:.0f} %, {what}"])
    peak = limits["peak_gflops"]["float32"]
    rates = ", ".join(f"{kib} KiB {rate:.0f}" for kib, rate in limits["read_gb_per_s"].items())
    folder = "../benchmarks/results"
    return "\n".join([
        f"{taken_on(record)},"
        f" one thread, microseconds. Peak {peak:.0f} GFLOP/s; reading, GB/s: {rates}.",
        "",
        report.table(["case", "cylstm", "arithmetic alone", "reading weights alone", "of the time"], rows),
        f"![Throughput under the limits]({folder}/{name}-roofline.svg)",
        f"![The best peer's time over ours]({folder}/{name}-ratios.svg)",
        *map(held, [other for other in record["runs"] if other["held"] != run["held"]]),
        *map(elsewhere, others),
    ])  # fmt: skip


def held(run):
    """The lines on a run that is held to another instruction set than the first."""
    variables = ", ".join(f"`{name}={value}`" for name, value in run["held"].items()) or "no variables"
    level = run["builds"]["ours"]["level"]
    return f"\nLevel {level}, {variables}, medians of {run['rounds']} rounds:\n\n{table([run])}"


def elsewhere(record):
    """The lines on another machine."""
    run = record["runs"][0]
    return (
        f"\nAnother machine, {taken_on(record, f' ({report.caches(record)})')}, medians of {run['rounds']} rounds:"
        f"\n\n{table([run])}"
    )


def limits_of(case, limits):
    """Seconds that a case takes at least, by the peak of arithmetic and by reading weights from where they are.

    A step reads all of its weights, a sequence W_hh of one layer and direction after the other, once for each time
    step: x W_ih may be made for many of these at once. Rates are interpolated between the working sets measured.
    """
    arithmetic = case.flops / limits["peak_gflops"][case.dtype] * 1e-9
    itemsize = plots.BYTES[case.dtype]
    of_layer = case.weights * itemsize
    if case.kind != "step":
        of_layer = GATES[case.cell] * case.hidden_size**2 * itemsize
    sizes = [math.log(int(kib) * 1024) for kib in limits["read_gb_per_s"]]
    rate = float(np.interp(math.log(of_layer), sizes, list(limits["read_gb_per_s"].values())))
    reads = case.seq_len * len(list(case.layers())) * (3 if case.kind == "train" else 1)
    return arithmetic, reads * of_layer / rate * 1e-9


def publish(record, root=ROOT):
    """Write the results file, the plots, and the figures of PAGES.

    Raises
    ------
    ValueError
        If the build was not that of a commit, if ours was wrong or failed, if the limits of the machine are not in the
        record, or if one of PAGES has no place for the figures.
    """
    check(record["commit"], root)
    if "peak_gflops" not in record["limits"]:
        raise ValueError("not published: the record has no limits of the machine")
    bad = [name for run in record["runs"] for name in report.faulty(run)]
    if bad:
        raise ValueError(f"not published: ours was wrong or failed in {', '.join(bad)}")
    folder, name = root / "benchmarks" / "results", file_name(record)
    folder.mkdir(exist_ok=True)
    there = [command.read(file) for file in sorted(folder.glob("*.json")) if not file.stem.endswith("-all")]
    others = [other for other in there if other["cpu"] != record["cpu"]]
    command.write(folder / f"{name}.json", record)
    plots.save(plots.latency(record), folder / f"{name}.svg")
    plots.save(plots.roofline(record), folder / f"{name}-roofline.svg")
    plots.save(plots.ratios(record), folder / f"{name}-ratios.svg")
    for page, text in zip(PAGES, (figures(record, name), bounds(record, name, others)), strict=True):
        before, _, rest = (root / page).read_text().partition(BEGIN)
        after = rest.partition(END)[2]
        (root / page).write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")
    print(f"written: {folder / name}.json, three plots beside it, {', '.join(PAGES)}")


if __name__ == "__main__":
    try:
        publish(together([command.read(file) for file in sys.argv[1:]]))
    except (ValueError, OSError) as error:
        sys.exit(f"published.py: {error}")
