"""cylstm, called as its documentation says."""

import numpy as np
from shapes import BIAS_CHANGE

import cylstm
from contenders import Job


def prepare(case, data):
    cylstm.set_num_threads(1)
    lstm = cylstm.LSTM(
        case.input_size,
        case.hidden_size,
        num_layers=case.num_layers,
        bidirectional=case.bidirectional,
    )
    lstm.load_state_dict(data.parameters)
    if case.kind == "step":
        step = lstm.stream().step
        x = data.x[0, 0]
        out = np.empty(case.hidden_size, np.float32)
        return Job(
            "step(x, out=out)",
            {"step": step, "x": x, "out": out},
            lambda: {"y": step(x, out=out)[None, None]},
        )
    if case.kind == "train":
        return _training(lstm, data)
    return Job(
        "forward(x)",
        {"forward": lstm.forward, "x": data.x},
        lambda: {"y": lstm.forward(data.x)[0]},
    )


def _training(lstm, data):
    tape = cylstm.Tape()
    state = (data.h_0, data.c_0)
    change = np.float32(BIAS_CHANGE)

    def iterate():
        with lstm.writable() as parameters:
            parameters["bias_ih_l0"] += change
        y, _ = lstm.forward(data.x, state, tape=tape)
        return y, lstm.backward(tape, data.dy)

    def check():
        y, grads = iterate()
        dh_0, dc_0 = grads.dstate
        return {"y": y, "x": grads.dx, "h_0": dh_0, "c_0": dc_0, **grads.parameters}

    return Job("iterate()", {"iterate": iterate}, check)
