"""What a run prints: the machine, then Markdown tables. Measures nothing; works on what :mod:`running` returned, or a
file of it."""

import statistics

from .cases import KINDS, parse
from .contenders import BEFORE, OURS, OURS_OR_BEFORE


def quartiles(values):
    """The lower and the upper quartile; of one value, itself twice."""
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def times_of(entry):
    """{contender: its seconds, one per round} of those whose results were right."""
    return {name: result["seconds"] for name, result in entry["results"].items() if result["status"] == "right"}


def fastest(entry, library):
    """The name of a library's fastest contender, or of the contender called so; None if there is none."""
    times = {n: statistics.median(s) for n, s in times_of(entry).items() if library in (n, n.split(":")[0])}
    return min(times, key=times.get, default=None)


def best_peer(entry):
    medians = {n: statistics.median(s) for n, s in times_of(entry).items() if n not in OURS_OR_BEFORE}
    return min(medians, key=medians.get, default=None)


def paired_ratio(entry, other):
    """(median, lower, upper quartile) over the rounds of another contender's time over ours; None without both."""
    times = times_of(entry)
    if OURS not in times or other not in times:
        return None
    ratios = [theirs / ours for theirs, ours in zip(times[other], times[OURS], strict=True)]
    return statistics.median(ratios), *quartiles(ratios)


def faulty(run):
    """Names of the cases in which ours was wrong or failed."""
    return [entry["case"] for entry in run["cases"] if "detail" in entry["results"].get(OURS, {"detail": "absent"})]


def table(heads, rows):
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines) + "\n"


def microseconds(seconds):
    us = seconds * 1e6
    return f"{us:,.0f}" if us >= 1000 else f"{us:.3g}"


def ratio_text(ratio):
    return "-" if ratio is None else f"{ratio[0]:.2f} ({ratio[1]:.2f}-{ratio[2]:.2f})"


def caches(record):
    return ", ".join(f"{name} {kib} KiB" for name, kib in record["caches_kib"].items())


def head(record):
    """The lines that belong above every figure."""
    machine = {**record, "caches": caches(record)}
    lines = [f"{name:<9}{machine[name]}" for name in ("date", "cpu", "caches", "system", "python", "commit")]
    run = record["runs"][0]
    for name, build in run["builds"].items():
        lines.append(f"{name:<9}{', '.join(f'{key}: {value}' for key, value in build.items())}")
    lines.append(f"packages {', '.join(f'{name} {v}' for name, v in run['versions'].items())}")
    for key in ("unset", "held"):
        lines.append(f"{key:<9}{', '.join(f'{name}={v}' for name, v in run[key].items()) or 'nothing'}")
    lines += [f"{why:<9}{name}: {detail}" for why in ("absent", "failed") for name, detail in run[why].items()]
    if limits := record["limits"]:
        for key in ("peak", "gemm"):
            rates = ", ".join(f"{name} {rate:.0f}" for name, rate in limits[f"{key}_gflops"].items())
            lines.append(f"{key:<9}{rates} GFLOP/s")
        read = ", ".join(f"{kib} KiB {rate:.0f}" for kib, rate in limits["read_gb_per_s"].items())
        lines.append(f"read     {read} GB/s")
    return "\n".join(lines) + "\n"


def libraries(entries):
    """The libraries that a run has results of, ours first, then in the order they were registered."""
    found = dict.fromkeys(name.split(":")[0] for entry in entries for name in entry["results"])
    return sorted(found, key=lambda name: (name != OURS, name != BEFORE))


def _cell(entry, library, seconds_of):
    """A library's best time in a case, or what is wrong with it."""
    name = fastest(entry, library)
    if name:
        seconds = seconds_of(entry["results"][name])
        return "-" if seconds is None else microseconds(seconds)
    statuses = {result["status"] for n, result in entry["results"].items() if n.split(":")[0] == library}
    return " ".join(sorted(statuses & {"wrong", "failed"})).upper() or "-"


def _rate(entry, name, limits):
    """GFLOP/s of the products alone, and that as a part of the peak of one core's multiply-add units."""
    times = times_of(entry)
    if name not in times:
        return "-"
    gflops = entry["flops"] / statistics.median(times[name]) * 1e-9
    peak = limits.get("peak_gflops", {}).get(parse(entry["case"]).dtype)
    return f"{gflops:.1f}" + (f" ({100 * gflops / peak:.0f} %)" if peak else "")


def medians_table(entries, limits, targets=None):
    """Of each library the fastest contender's median over the rounds; ratios to ours, paired by round."""
    targets, names = targets or {}, libraries(entries)
    heads = ["case", *names, "best peer", "GFLOP/s: best peer", "ours", "best/ours"]
    heads += (["before/ours"] if BEFORE in names else []) + (["target", "reached"] if targets else [])
    rows = []
    for entry in entries:
        best = best_peer(entry)
        ratio = paired_ratio(entry, best)
        row = [entry["case"], *(_cell(entry, name, lambda r: statistics.median(r["seconds"])) for name in names)]
        row += [best or "-", _rate(entry, best, limits), _rate(entry, OURS, limits), ratio_text(ratio)]
        row += [ratio_text(paired_ratio(entry, BEFORE))] if BEFORE in names else []
        if targets:
            target = targets.get(entry["case"])
            reached = "-" if ratio is None or target is None else "yes" if ratio[0] >= target else "no"
            row += [target or "-", reached]
        rows.append(row)
    return table(heads, rows)


def tails_table(entries, key):
    """Percentiles of single calls (``key`` "single"), or of those that came after a gap ("idle")."""
    names, rows = libraries(entries), []
    for entry in entries:
        for percent in ("p50", "p99", "p99.9"):
            cells = [_cell(entry, name, lambda r, percent=percent: r.get(key, {}).get(percent)) for name in names]
            rows.append([entry["case"], percent, *cells])
    return table(["case", "", *names], rows)


def tables(record, targets=None):
    """All tables of a record, as one text."""
    parts = []
    for run in record["runs"]:
        how = f"{run['threads']} thread{'s' * (run['threads'] > 1)}, {run['rounds']} rounds, microseconds"
        for kind in KINDS:
            entries = [entry for entry in run["cases"] if entry["kind"] == kind]
            if not entries:
                continue
            parts += [f"## {kind}: median of a call, {how}\n", medians_table(entries, record["limits"], targets)]
            for key, words in (("single", "calls timed one by one"), ("idle", "one call after each gap")):
                if any(key in result for entry in entries for result in entry["results"].values()):
                    parts += [f"## {kind}: {words}, {how}\n", tails_table(entries, key)]
    return "\n".join(parts)


def footprint_table(footprint):
    """Import time, resident memory and bytes on disk by library."""

    def mib(number):
        return "-" if number is None else f"{number / 2**20:.0f}"

    rows = [
        [name, f"{found['import_seconds'] * 1e3:.0f}",
         *(mib(found[key]) for key in ("resident_after_import", "resident_after_step", "installed_bytes"))]
        for name, found in footprint.items()
    ]  # fmt: skip
    heads = ["", "import, ms", "resident after it, MiB", "after a step of (64, 128)", "on disk with what it needs, MiB"]
    return table(heads, rows)


def compare(first, second, contenders):
    """A table of two contenders' times, of one record or of two, and the second's over the first's.

    Within one record a ratio is the median over the rounds, in brackets its quartiles. Of two records it is that of
    the medians, in brackets from the lower quartile over the upper one to the upper over the lower.

    Parameters
    ----------
    first, second : dict
        Records; the same one twice, or two.
    contenders : pair of str
        What to take of each: a contender, or a library for its fastest one in each case.

    Raises
    ------
    ValueError
        If there is no case that has both.
    """
    rows = []
    others = {(run["threads"], entry["case"]): entry for run in second["runs"] for entry in run["cases"]}
    for run in first["runs"]:
        for entry in run["cases"]:
            other = others.get((run["threads"], entry["case"]), {"results": {}})
            names = [fastest(e, contender) for e, contender in zip((entry, other), contenders, strict=True)]
            if None not in names:
                a, b = times_of(entry)[names[0]], times_of(other)[names[1]]
                shown = [f"{name} {microseconds(statistics.median(s))}" for name, s in zip(names, (a, b), strict=True)]
                rows.append([entry["case"], run["threads"], *shown, ratio_text(_ratio(a, b, paired=first is second))])
    if not rows:
        raise ValueError(f"no case has times of {contenders[0]} in the first and of {contenders[1]} in the second")
    return table(["case", "threads", "first, us", "second, us", "second/first"], rows)


def _ratio(a, b, *, paired):
    if paired:
        ratios = [y / x for x, y in zip(a, b, strict=True)]
        return statistics.median(ratios), *quartiles(ratios)
    (low_a, high_a), (low_b, high_b) = quartiles(a), quartiles(b)
    return statistics.median(b) / statistics.median(a), low_b / high_a, high_b / low_a
