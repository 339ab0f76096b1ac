"""How long can it remember? Elman, Jordan, GRU and LSTM over growing time lags, and the gradients that explain it.

The first of many random numbers is marked; at the end the network has to give it back. The lag is the number of steps
between. What the first step has to learn comes to it as a gradient that has gone back through all steps between, each
of which multiplies it by a Jacobian::

    Elman, h_t = tanh(W x_t + b + U h_{t-1} + b')        d h_t / d h_{t-1} = diag(1 - h_t^2) U
    Jordan, its output y_t is fed back                   d y_t / d y_{t-1} = V diag(1 - a_t^2) U
    LSTM, c_t = f_t c_{t-1} + i_t g_t                    d c_t / d c_{t-1} = diag(f_t), and what goes round by h

so the gradient of an Elman or a Jordan network vanishes, and that of a cell whose gate is open lasts. Both gated cells
begin with open gates, by a bias of 5 of the LSTM's forget gate and of the GRU's update gate (sigmoid(5) = 0.993); the
other two have none that could be set. Where the LSTM stops, it is not for want of a gradient: its input gate is half
open at first, and all the numbers between add up in c. With ``coupled="i=1-f"``, as in the GRU, it goes on.

    python examples/elman_jordan_gru_lstm.py --plot lags.png
"""

import argparse
import os

# Products this small are no faster on several threads.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

import cylstm

HIDDEN_SIZE = 16
GATE_BIAS = 5.0
ROWS, UNSEEN, EPOCHS, SEEDS = 1000, 200, 20, 3
LEARNED = 0.05  # of the variance of the number, which is the error of a network that remembers nothing
LAGS = 2, 5, 10, 20, 40, 80, 160
BETWEEN = 40  # the lag that tells the gated cells from the others
ALLOWED = 1e-4  # relative, of a norm through 40 steps: float32 against float64


def check(what, holds):
    print(f"{what}: {'yes' if holds else 'NO'}")
    if not holds:
        raise SystemExit(f"not so: {what}")


def sequences(rows, lag, rng):
    """x (rows, lag + 1, 2): numbers and the mark of the first; y (rows, 1): that number."""
    x = np.zeros((rows, lag + 1, 2), np.float32)
    x[:, :, 0] = rng.uniform(-1, 1, (rows, lag + 1))
    x[:, 0, 1] = 1
    return x, x[:, 0, :1].copy()


def elman(rng):
    return cylstm.RNN(2, HIDDEN_SIZE, rng=rng)


def jordan(rng):
    return cylstm.JordanRNN(2, HIDDEN_SIZE, 1, rng=rng)


def gru(rng):
    layer = cylstm.GRU(2, HIDDEN_SIZE, rng=rng)
    with layer.writable() as p:
        p["bias_ih_l0"][HIDDEN_SIZE : 2 * HIDDEN_SIZE] = GATE_BIAS  # r, z, n, one after the other
        p["bias_hh_l0"][HIDDEN_SIZE : 2 * HIDDEN_SIZE] = 0
    return layer


def lstm(rng):
    return cylstm.LSTM(2, HIDDEN_SIZE, forget_bias=GATE_BIAS, rng=rng)


NETWORKS = {"Elman": elman, "Jordan": jordan, "GRU": gru, "LSTM": lstm}


def through_elman(h, U):
    """Norm of dL/dh_t for each t, from the last h back through one Jacobian after the other."""
    gradient = np.ones(HIDDEN_SIZE)
    norms = [np.linalg.norm(gradient)]
    for h_t in h[:0:-1].astype(np.float64):
        gradient = (gradient * (1 - h_t**2)) @ U  # W (1 - s^2) of the textbook
        norms.append(np.linalg.norm(gradient))
    return np.array(norms[::-1])


def through_forget_gates(values):
    """Norm of the part of dL/dc_t that stays in the cell from t to the last step; none of it for the last c itself."""
    f, o, c = (values[letter].astype(np.float64) for letter in "foc")
    gradient = o[-1] * (1 - np.tanh(c[-1]) ** 2)  # d h / d c of the last step
    norms = [0.0]
    for f_t in f[:0:-1]:
        gradient = gradient * f_t
        norms.append(np.linalg.norm(gradient))
    return np.array(norms[::-1])


def norms_through_time():
    """{network: norm of dL/dh_t, of the LSTM dL/dc_t, for each t up to the last}; L is the sum of the last h."""
    x = sequences(1, BETWEEN, np.random.default_rng(0))[0][0]
    norms = {}
    for name, new_layer in NETWORKS.items():
        layer = new_layer(np.random.default_rng(0))
        norms[name] = cylstm.plot.gradient_norms(layer, x)["c" if name == "LSTM" else "h"][0, 1:]
        values = cylstm.plot.gate_values(layer, x)
        if name == "Elman":
            by_hand = through_elman(values["h"], layer.parameters["weight_hh_l0"])
            difference = np.abs(by_hand / norms[name] - 1).max()
        if name == "LSTM":
            norms["LSTM, by f_t alone"] = through_forget_gates(values)
    print(f"norm of the gradient before training, so many steps before the last\n\n{'steps back':20}", end="")
    back = np.array([1, 5, 10, 20, BETWEEN])
    print("".join(f"{n:10}" for n in back))
    for name, norm in norms.items():
        print(f"{name:20}" + "".join(f"{value:10.1e}" for value in norm[-1 - back]))
    print()
    check(f"the Elman network's is the product of its Jacobians within {ALLOWED:g}", difference <= ALLOWED)
    check(f"{BETWEEN} steps leave less than a millionth of it", norms["Elman"][0] < 1e-6 * norms["Elman"][-1])
    forget = norms["LSTM, by f_t alone"]
    check("and more than half of what goes through the LSTM's forget gates alone", forget[0] > 0.5 * forget[-2])
    return norms


def error_after_training(new_layer, lag, seed):
    """Mean squared error on numbers not seen, relative to their variance; training ends where it is small enough."""
    rng = np.random.default_rng(seed)
    x, y = sequences(ROWS, lag, rng)
    unseen = sequences(UNSEEN, lag, rng)
    layers = [new_layer(rng), cylstm.Last()]
    if not isinstance(layers[0], cylstm.JordanRNN):  # whose own output is the answer
        layers.append(cylstm.Dense(HIDDEN_SIZE, 1, rng=rng))
    enough = LEARNED * unseen[1].var()

    def stop_when_learned(training):
        training.stop |= training.logs["val_loss"] <= enough

    history = cylstm.Sequential(layers).fit(
        x, y, loss="mse", optimizer=cylstm.Adam(lr=0.01), epochs=EPOCHS, batch_size=25, clip_norm=1.0,
        validation_data=unseen, callbacks=[stop_when_learned], rng=rng, progress=False,
    )  # fmt: skip
    return history["val_loss"][-1] / unseen[1].var()


def errors_by_lag(lags):
    """{network: {lag: median error of the seeds}}, for each network up to the first lag that it does not learn."""
    print(f"\nmedian error of {SEEDS} trainings, of the variance; the first lag with more than {LEARNED} is the last")
    print(f"\n{'lag':10}" + "".join(f"{lag:8}" for lag in lags))
    errors = {}
    for name, new_layer in NETWORKS.items():
        print(f"{name:10}", end="")
        errors[name] = {}
        for lag in lags:
            error = np.median([error_after_training(new_layer, lag, seed) for seed in range(SEEDS)])
            errors[name][lag] = error
            print(f"{error:8.3f}", end="", flush=True)
            if error > LEARNED:
                break
        print()
    print()
    return errors


def draw(path, errors, norms):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, of_lag in errors.items():
        left.plot(list(of_lag), list(of_lag.values()), marker="o", label=name)
    left.axhline(LEARNED, color="grey", linestyle=":")
    left.set(xscale="log", yscale="log", xlabel="lag", ylabel="error, of the variance")
    left.set_xticks(LAGS, map(str, LAGS), minor=False)
    left.legend()
    for name, norm in norms.items():
        right.plot(np.arange(len(norm))[::-1], norm, "--" if "f_t" in name else "-", label=name)
    right.set_yscale("log", nonpositive="mask")
    right.set_ylim(1e-12, 1e2)
    right.set(xlabel="steps before the last", ylabel="norm of the gradient, before training")
    right.legend()
    figure.savefig(path, dpi=150)
    print(f"drawn in {path}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--lags", type=int, nargs="+", default=LAGS, help=f"{BETWEEN} among them")
    parser.add_argument("--plot", metavar="PATH", help="draw both tables in this file (needs matplotlib)")
    arguments = parser.parse_args()
    if BETWEEN not in arguments.lags:
        parser.error(f"--lags needs {BETWEEN}")
    norms = norms_through_time()
    errors = errors_by_lag(sorted(arguments.lags))
    if arguments.plot:
        draw(arguments.plot, errors, norms)
    for name in ("GRU", "LSTM"):
        check(f"the {name} learns a lag of {BETWEEN}", errors[name].get(BETWEEN, 1) <= LEARNED)
    for name in ("Elman", "Jordan"):
        check(f"the {name} network has stopped there", errors[name].get(BETWEEN, 1) > LEARNED)


if __name__ == "__main__":
    main()
