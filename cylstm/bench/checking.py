"""The reference that every contender is held against before it is timed: float64, plain NumPy.

``reference.py`` is loaded from its file, so that a build that fails to import can still be told from a peer that
is wrong.
"""

import importlib.util
from functools import cache
from pathlib import Path

from .cases import BIAS_CHANGE, CHECK_CALLS, as_state, by_name, states_of

# Largest error of an array, relative to its largest entry, by dtype and whether it is of training. Right contenders
# were within 1.1e-6 in y and 7.4e-6 in gradients, which sum some thousand rows; reduced precision or a wrong
# gate order gives 1e-3 and more.
TOLERANCE = {
    ("float32", False): 2e-5,
    ("float32", True): 1e-4,
    ("float64", False): 1e-12,
    ("float64", True): 1e-11,
}


@cache
def reference():
    """cylstm.reference, whether cylstm can be imported or not."""
    path = Path(__file__).parents[1] / "reference.py"
    spec = importlib.util.spec_from_file_location("reference", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def expected(case, data):
    """Return what a check of ``case`` must give: y, from training every gradient too."""
    import numpy as np

    def double(array):
        return np.asarray(array, np.float64)

    parameters = {name: double(value) for name, value in data.parameters.items()}
    x = double(data.x)
    if case.kind == "train":
        parameters["bias_ih_l0"] = parameters["bias_ih_l0"] + BIAS_CHANGE
    if case.kind == "step":
        x = np.concatenate([x] * CHECK_CALLS["step"])
    state = as_state(map(double, states_of(case, data).values()))
    y, _, tape = getattr(reference(), f"{case.cell}_forward")(parameters, x, state, data.lengths)
    if case.kind == "step":
        return {"y": y[-1:]}
    if case.kind != "train":
        return {"y": y}
    grads = getattr(reference(), f"{case.cell}_backward")(tape, double(data.dy))
    return {"y": y, "x": grads.dx, **by_name(case, grads.dstate), **grads.parameters}


def compare(case, results, wanted):
    """Return (the largest relative error, a complaint or None)."""
    import numpy as np

    worst, tolerance = 0.0, TOLERANCE[case.dtype, case.kind == "train"]
    for name, want in wanted.items():
        if name not in results:
            return worst, f"no {name}"
        got = np.asarray(results[name])
        if got.shape != want.shape or got.dtype != case.dtype:
            return worst, f"{name} is {got.dtype} {got.shape}, expected {case.dtype} {want.shape}"
        error = float(np.abs(got - want).max() / np.abs(want).max())
        if not error <= tolerance:
            return error, f"{name} is off by {error:.1e}"
        worst = max(worst, error)
    return worst, None
