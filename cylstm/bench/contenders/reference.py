"""cylstm.reference, the plain NumPy that all are checked against: what is gained over it."""

from ..cases import BIAS_CHANGE, as_state, by_name, states_of
from ..checking import reference
from . import Job


def prepare(case, data):
    forward, backward = (getattr(reference(), f"{case.cell}_{way}") for way in ("forward", "backward"))
    p, x, state = data.parameters, data.x, as_state(states_of(case, data).values())

    def step():
        nonlocal state
        y, state, _ = forward(p, x, state)
        return y

    def iterate():
        p["bias_ih_l0"] += p["bias_ih_l0"].dtype.type(BIAS_CHANGE)
        y, _, tape = forward(p, x, state)
        return y, backward(tape, data.dy)

    def check_training():
        y, grads = iterate()
        return {"y": y, "x": grads.dx, **by_name(case, grads.dstate), **grads.parameters}

    if case.kind == "step":
        return Job("step()", {"step": step}, lambda: {"y": step()})
    if case.kind == "train":
        return Job("iterate()", {"iterate": iterate}, check_training)
    names = {"forward": forward, "p": p, "x": x, "state": state, "lengths": data.lengths}
    return Job("forward(p, x, state, lengths)", names, lambda: {"y": forward(p, x, state, data.lengths)[0]})
