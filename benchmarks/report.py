"""What a run prints: the machine, then one Markdown table per kind. Measures nothing."""

from contenders import BEFORE, OURS


def print_limits(record):
    held, limits = record["held"], record["limits"]
    print(f"CPU      {record['cpu']}, core {held['core']}, {held['threads']} thread")
    print(f"commit   {record['commit']}, Python {record['python']}")
    print(f"cylstm   {', '.join(f'{key}: {value}' for key, value in record['cylstm'].items())}")
    print(f"packages {', '.join(f'{name} {v}' for name, v in record['versions'].items())}")
    print(f"unset    {held['unset'] or 'nothing'}")
    if limits:
        rates = limits["read_gb_per_s"].items()
        print(f"sgemm    {limits['sgemm_gflops']:.0f} GFLOP/s")
        print(f"read     {', '.join(f'{kib} KiB {rate:.0f}' for kib, rate in rates)} GB/s")
    print(flush=True)


def _time(seconds):
    us = seconds * 1e6
    return f"{us:,.0f}" if us >= 1000 else f"{us:.3g}"


def _libraries(rows):
    """Return {library: its contenders}, ours first, in the order they were registered."""
    libraries = {}
    for row in rows:
        for name in (*row["medians"], *row["faults"]):
            names = libraries.setdefault(name.split(":")[0], [])
            if name not in names:
                names.append(name)
    return dict(sorted(libraries.items(), key=lambda item: (item[0] != OURS, item[0] != BEFORE)))


def _rate(row, name, limits):
    """Return GFLOP/s of the products alone, and that as a part of sgemm's."""
    if name not in row["medians"]:
        return "-"
    gflops = row["flops"] / row["medians"][name] * 1e-9
    if not limits:
        return f"{gflops:.1f}"
    return f"{gflops:.1f} ({100 * gflops / limits['sgemm_gflops']:.0f} %)"


def _ratio(row, key):
    if key not in row:
        return "-"
    low, high = row[f"{key}_quartiles"]
    return f"{row[key]:.2f} ({low:.2f}-{high:.2f})"


def print_table(kind, rows, record):
    """Print a kind's table: of a library with several contenders, the fastest one's time."""
    libraries = _libraries(rows)
    paired = BEFORE in libraries
    heads = ["case", *libraries, "best peer", "best GFLOP/s", "ours GFLOP/s", "best/ours"]
    heads += (["before/ours"] if paired else []) + ["target", "reached"]
    print(f"## {kind}: median microseconds of a call, {record['rounds']} rounds\n")
    print(f"| {' | '.join(heads)} |")
    print("|" + "---|" * len(heads))
    for row in rows:
        medians, best = row["medians"], row["best_peer"]
        cells = [row["case"]]
        for names in libraries.values():
            times = [medians[name] for name in names if name in medians]
            faults = {row["faults"].get(name) for name in names} & {"wrong", "failed"}
            cells.append(_time(min(times)) if times else " ".join(sorted(faults)).upper() or "-")
        cells += [best or "-", _rate(row, best, record["limits"])]
        cells += [_rate(row, OURS, record["limits"]), _ratio(row, "ratio")]
        cells += [_ratio(row, "ratio_to_before")] if paired else []
        reached = "-"
        if "ratio" in row:
            reached = "yes" if row["ratio"] >= row["target"] else "no"
        print(f"| {' | '.join([*cells, str(row['target']), reached])} |")
    print(flush=True)
