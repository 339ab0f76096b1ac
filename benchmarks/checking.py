"""The reference that every contender is held against before it is timed: float64, plain NumPy.

``cylstm/reference.py`` is loaded from its file, so that a build that fails to import can still be
told from a peer that is wrong.
"""

import importlib.util

from machine import ROOT
from shapes import CHECK_CALLS, as_state, by_name, states_of

# Largest error of an array, relative to its largest entry. Right contenders were within 1.1e-6 in
# y and 7.4e-6 in gradients, which sum some thousand rows; reduced precision or a wrong gate order
# gives 1e-3 and more.
TOLERANCE = {"step": 2e-5, "seq": 2e-5, "batch": 2e-5, "train": 1e-4}


def _reference():
    spec = importlib.util.spec_from_file_location("reference", ROOT / "cylstm" / "reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def expected(case, data):
    """Return what a check of ``case`` must give: y, from training every gradient too."""
    import numpy as np

    reference = _reference()

    def double(array):
        return np.asarray(array, np.float64)

    parameters = {name: double(value) for name, value in data.parameters.items()}
    x = double(data.x)
    if case.kind == "step":
        x = np.concatenate([x] * CHECK_CALLS["step"])
    state = as_state(map(double, states_of(case, data).values()))
    y, _, cache = getattr(reference, f"{case.cell}_forward")(parameters, x, state)
    if case.kind == "step":
        return {"y": y[-1:]}
    if case.kind != "train":
        return {"y": y}
    grads = getattr(reference, f"{case.cell}_backward")(cache, double(data.dy))
    return {"y": y, "x": grads.dx, **by_name(case, grads.dstate), **grads.parameters}


def compare(kind, results, reference):
    """Return (the largest relative error, a complaint or None)."""
    import numpy as np

    worst = 0.0
    for name, want in reference.items():
        if name not in results:
            return worst, f"no {name}"
        got = np.asarray(results[name])
        if got.shape != want.shape or got.dtype != np.float32:
            return worst, f"{name} is {got.dtype} {got.shape}, expected float32 {want.shape}"
        error = float(np.abs(got - want).max() / np.abs(want).max())
        if not error <= TOLERANCE[kind]:
            return error, f"{name} is off by {error:.1e}"
        worst = max(worst, error)
    return worst, None
