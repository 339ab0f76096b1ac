"""How cost grows with T, B and H: the slope of log(time) over log(size), from the groups over-T, over-B and over-H."""

import math
import statistics
from itertools import pairwise

from shapes import GROUPS

from cylstm.bench import report
from cylstm.bench.cases import parse

SIZES = {"over-T": "seq_len", "over-B": "batch", "over-H": "hidden_size"}


def slope(points):
    """Of the line through (log size, log time) with the least squares: 1 is a cost proportional to the size.

    >>> slope([(1, 5.0), (2, 10.0), (4, 20.0)])
    1.0
    """
    sizes, times = zip(*((math.log(size), math.log(time)) for size, time in points), strict=True)
    return round(statistics.linear_regression(sizes, times).slope, 9)


def points(run, group, library):
    """[(size, seconds), ...] of a library's fastest contender in a group of cases."""
    found = []
    for entry in run["cases"]:
        name = report.fastest(entry, library)
        if entry["case"] in GROUPS[group] and name:
            size = getattr(parse(entry["case"]), SIZES[group])
            found.append((size, statistics.median(report.times_of(entry)[name])))
    return sorted(found)


def tables(record):
    """For each group: the ratio of each doubling, and the slope over all of them."""
    parts = []
    for run in record["runs"]:
        for group, size in SIZES.items():
            entries = [entry for entry in run["cases"] if entry["case"] in GROUPS[group]]
            sizes = sorted(getattr(parse(entry["case"]), size) for entry in entries)
            if len(sizes) < 2:
                continue
            rows = []
            for library in report.libraries(entries):
                there = dict(points(run, group, library))
                steps = [
                    f"{there[b] / there[a]:.2f}" if a in there and b in there else "-" for a, b in pairwise(sizes)
                ]
                rows.append([library, *steps, f"{slope(there.items()):.2f}" if len(there) > 1 else "-"])
            heads = ["", *(f"{a} to {b}" for a, b in pairwise(sizes)), "slope"]
            parts += [f"## {group}: times as long, {run['threads']} thread(s)\n", report.table(heads, rows)]
    return "\n".join(parts)
