"""The LSTM of the textbook, one equation at a time: ten steps by hand in NumPy, then the same ten by the library.

For each of the four gates W (12, 80) takes the input, U (12, 12) the hidden state of the step before, and b (12,) is
the bias, so the layer has 4 * (12 * 80 + 12 * 12 + 12) = 4,464 parameters. (PyTorch counts 48 more: it has two biases,
which are added up. ``bias="single"`` is Keras' way and the textbook's.)

    python examples/textbook_step.py
"""

import numpy as np

import cylstm

SEQ_LEN, INPUT_SIZE, HIDDEN_SIZE = 10, 80, 12
# The loop is in float64, the layer in float32, whose numbers are 6e-8 apart below 1: a few of these in ten steps.
ALLOWED = 1e-6


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def by_hand(parameters, x):
    """h of every step, (10, 12), and the last c, (12,)."""
    # the rows of the four gates, one gate below the other: i, f, g, o
    W_i, W_f, W_g, W_o = np.split(parameters["weight_ih_l0"], 4)
    U_i, U_f, U_g, U_o = np.split(parameters["weight_hh_l0"], 4)
    b_i, b_f, b_g, b_o = np.split(parameters["bias_ih_l0"], 4)
    h, c = np.zeros(HIDDEN_SIZE), np.zeros(HIDDEN_SIZE)
    outputs = []
    for t, x_t in enumerate(x):
        i = sigmoid(W_i @ x_t + U_i @ h + b_i)  # input gate: how much of the candidate enters the cell
        f = sigmoid(W_f @ x_t + U_f @ h + b_f)  # forget gate: how much of the cell stays
        g = np.tanh(W_g @ x_t + U_g @ h + b_g)  # candidate
        o = sigmoid(W_o @ x_t + U_o @ h + b_o)  # output gate: how much of the cell is shown
        c = f * c + i * g
        h = o * np.tanh(c)
        outputs.append(h)
        print(f"step {t}:  f[0] {f[0]:.4f}  i[0] {i[0]:.4f}  g[0] {g[0]:+.4f}  o[0] {o[0]:.4f}"
              f"  ->  c[0] {c[0]:+.4f}  h[0] {h[0]:+.4f}")  # fmt: skip
    return np.array(outputs), c


def check(what, holds):
    print(f"{what}: {'yes' if holds else 'NO'}")
    if not holds:
        raise SystemExit(f"not so: {what}")


def main():
    lstm = cylstm.LSTM(INPUT_SIZE, HIDDEN_SIZE, bias="single", rng=0)
    for name, value in lstm.parameters.items():
        print(f"{name:12}  {value.shape!s:8}  {value.size:5,}")
    count = sum(value.size for value in lstm.parameters.values())
    check("4,464 parameters in all", count == 4464)
    check("4,512 with PyTorch's two biases",
          sum(value.size for value in cylstm.LSTM(INPUT_SIZE, HIDDEN_SIZE).parameters.values()) == 4512)  # fmt: skip

    x = np.random.default_rng(1).standard_normal((SEQ_LEN, INPUT_SIZE)).astype(np.float32)
    h, c = by_hand(lstm.parameters, x.astype(np.float64))

    y, (h_n, c_n) = lstm.forward(x)
    difference = max(np.abs(y - h).max(), np.abs(c_n[0] - c).max())
    print(f"largest difference between the loop and the library: {difference:.2g}")
    check(f"they agree within {ALLOWED:g}, all h and the last c", difference <= ALLOWED)
    check("the final h is the output of the last step", np.array_equal(h_n[0], y[-1]))

    stream = lstm.stream()
    stepped = np.array([stream.step(x_t) for x_t in x])
    check("one step at a time gives the same bits", stepped.tobytes() == y.tobytes())
    print("the library reproduces the loop")


if __name__ == "__main__":
    main()
