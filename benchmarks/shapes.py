"""The cases of the full benchmark by groups, and the ratio of the best peer's time to ours that some have to reach."""

_SIZES = ((1, 8), (8, 16), (16, 32), (40, 64), (64, 128), (128, 256), (256, 512), (512, 1024))


def _family(cell):
    """Another cell's share of each kind; the LSTM's factors."""
    return {
        f"{cell}-step-8-16": 2.4, f"{cell}-step-64-128": 1.8, f"{cell}-step-256-512": 1.1,
        f"{cell}-seq-16-32": 2.0, f"{cell}-seq-64-128": 1.35, f"{cell}-seq-256-512": 1.1,
        f"{cell}-batch-64-128": 1.03, f"{cell}-batch-256-512": 0.97,
        f"{cell}-train-32-64": 1.4, f"{cell}-train-32x100-128-256": 1.3,
    }  # fmt: skip


def _with_targets(kind, sizes, targets):
    return {f"{kind}-{i}-{h}": target for (i, h), target in zip(sizes, targets, strict=True)}


_RAGGED = ("batch-64x200-16-32", "batch-32x200-64-128", "batch-32x200-128-256", "gru-batch-32x200-64-128")

# {group: {case: target or None}}
GROUPS = {
    "step": _with_targets("step", _SIZES, (2.4, 2.4, 3.5, 3.0, 1.8, 1.15, 1.1, 1.1)),
    "seq": {**_with_targets("seq", _SIZES[2:7], (2.0, 1.5, 1.35, 1.1, 1.1)), "seq-64-128-bi2": 1.3},
    "batch": _with_targets("batch", _SIZES[4:], (1.03, 1.03, 0.97, 1.08)),
    "train": {
        "train-1x100-16-32": 2.5, "train-32-64": 1.4, "train-32x100-64-128": 1.15, "train-32x100-128-256": 1.3,
        "train-64x50-256-512": 1.1,
    },
    "gru": _family("gru"),
    "rnn": _family("rnn"),
    # Speech models at batch 1: https://github.com/uxlfoundation/oneDNN/issues/837
    "speech": dict.fromkeys(("seq-1x63-24-32-bi1", "seq-1x31-48-32-bi1", "seq-1x15-96-32-bi1")),
    "float64": dict.fromkeys(
        f"{name}-f64" for name in ("step-64-128", "seq-64-128", "batch-64-128", "batch-256-512", "train-32x100-64-128")
    ),
    # Each beside the same batch without lengths: what it would cost padded.
    "ragged": dict.fromkeys(name + how for name in _RAGGED for how in ("", "-ragged")),
    # One size doubled again and again, the others fixed.
    "over-T": dict.fromkeys(f"batch-8x{T}-64-64" for T in (16, 32, 64, 128, 256, 512)),
    "over-B": dict.fromkeys(f"batch-{B}x64-64-64" for B in (1, 2, 4, 8, 16, 32, 64)),
    "over-H": dict.fromkeys(f"batch-8x64-64-{H}" for H in (16, 32, 64, 128, 256, 512)),
}  # fmt: skip

TARGETS = {name: target for group in GROUPS.values() for name, target in group.items() if target}
