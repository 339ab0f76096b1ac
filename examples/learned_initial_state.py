"""A learned initial state: find the state that a system was in when its recording began.

An LSTM with a readout is the system; its parameters are known, its state at the first sample is not. backward() returns
the gradient of a loss with respect to the initial state as ``grads.dstate``, so any optimiser can learn it like a
parameter: here SciPy's L-BFGS, which needs a function that returns a loss and its gradient.

    python examples/learned_initial_state.py
"""

import numpy as np
from scipy.optimize import minimize

import cylstm
from cylstm.losses import mse

SEQ_LEN, INPUT_SIZE, HIDDEN_SIZE, OUTPUTS = 30, 2, 6, 4


def main():
    rng = np.random.default_rng(0)
    lstm = cylstm.LSTM(INPUT_SIZE, HIDDEN_SIZE, forget_bias=2.0, dtype="float64", rng=rng)
    readout = cylstm.Dense(HIDDEN_SIZE, OUTPUTS, dtype="float64", rng=rng)
    x = rng.standard_normal((SEQ_LEN, 1, INPUT_SIZE))
    true_state = tuple(rng.uniform(-0.9, 0.9, (1, 1, HIDDEN_SIZE)) for _ in range(2))
    recording = readout.forward(lstm.forward(x, true_state)[0])

    tapes = cylstm.Tape(), cylstm.Tape()

    def loss_and_gradient(values):
        h_0, c_0 = values.reshape(2, 1, 1, HIDDEN_SIZE)
        h, _ = lstm.forward(x, (h_0, c_0), tape=tapes[0])
        loss, dy = mse(readout.forward(h, tape=tapes[1]), recording)
        grads = lstm.backward(tapes[0], readout.backward(tapes[1], dy).dx)
        return loss, np.concatenate(grads.dstate).ravel()

    zeros = np.zeros(2 * HIDDEN_SIZE)
    before, _ = loss_and_gradient(zeros)
    found = minimize(
        loss_and_gradient, zeros, jac=True, method="L-BFGS-B", options={"maxiter": 2000, "ftol": 0, "gtol": 1e-12}
    )
    state = tuple(found.x.reshape(2, 1, 1, HIDDEN_SIZE))
    y = readout.forward(lstm.forward(x, state)[0])
    print(f"mean squared error from a zero state: {before:.3g}, from the learned one: {found.fun:.3g}")
    print(f"largest difference from the recording: {np.abs(y - recording).max():.2g}")
    distance = max(np.abs(one - other).max() for one, other in zip(state, true_state, strict=True))
    print(f"largest difference from the true state: {distance:.2g}, after {found.nit} iterations")
    if found.fun > 1e-6 * before:
        raise SystemExit("the initial state was not found")
    print("the learned state explains the recording")


if __name__ == "__main__":
    main()
