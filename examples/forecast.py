"""Next month's temperature of the sea: an LSTM beside the forecasts that cost nothing, then one month at a time.

The series is univariate and monthly, 1950 to 2010 (cylstm/data/README.md). It is cut in time: 40 years to train on, ten
to decide when to stop, the last eleven for the test. Each forecast is for the month after the last one known. A fair
table has the best of the simple forecasts too: here that is the mean of the month, plus by how much the month before
differed from its own mean, and an LSTM of eight units that has to find out about the seasons does as well, not better.

    python examples/forecast.py            # --seed 1 for another training
"""

import argparse
import os
import time

# Products this small are no faster on several threads.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

import cylstm
from cylstm.data import load_elnino

YEAR = 12
TRAIN, VALIDATION = 40 * YEAR, 50 * YEAR  # where these parts end
WINDOW = 3 * YEAR  # months of a training sequence, of which the first year only fills the state
HIDDEN_SIZE = 8


def check(what, holds):
    print(f"{what}: {'yes' if holds else 'NO'}")
    if not holds:
        raise SystemExit(f"not so: {what}")


def simple_forecasts(temperature):
    """{name: a forecast of each month but the first year's, from those before it}."""
    mean = np.resize(temperature[:TRAIN].reshape(-1, YEAR).mean(axis=0), temperature.size)  # of each month of the year
    return {
        "naive: last month": temperature[YEAR - 1 : -1],
        "seasonal naive: the month a year ago": temperature[:-YEAR],
        "mean of the month + last month's departure": mean[YEAR:] + (temperature - mean)[YEAR - 1 : -1],
    }


def train(x, y, seed):
    """x (months, 1), y (months, 1): a model that has an output after each month, and its history."""
    rng = np.random.default_rng(seed)
    model = cylstm.Sequential([cylstm.LSTM(1, HIDDEN_SIZE, forget_bias=1.0, rng=rng),
                               cylstm.Dense(HIDDEN_SIZE, 1, rng=rng)])  # fmt: skip
    # every window of the years to train on; y is of the month after, which has to be in them too
    starts = np.arange(TRAIN - WINDOW)[:, None] + np.arange(WINDOW)
    counts = np.tile(np.arange(WINDOW) >= YEAR, (len(starts), 1))
    # one row from 1950 on, judged by the forecasts of the months from TRAIN on
    until = VALIDATION - 1
    judged = np.arange(until)[None] >= TRAIN - 1
    history = model.fit(
        x[starts], y[starts], loss="mse", optimizer=cylstm.Adam(lr=0.02), epochs=200, batch_size=16,
        sample_weight=counts, validation_data=(x[None, :until], y[None, :until], judged),
        callbacks=[cylstm.EarlyStopping(patience=20)], rng=rng, progress=False,
    )  # fmt: skip
    return model, history


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed

    temperature, months = load_elnino()
    mean, scale = temperature[:TRAIN].mean(), temperature[:TRAIN].std()
    x = ((temperature - mean) / scale)[:, None]
    change = np.diff(x, axis=0)  # what is learned: the naive forecast is a change of 0
    start = time.perf_counter()
    model, history = train(x[:-1], change, seed)
    print(f"{len(history['loss'])} epochs in {time.perf_counter() - start:.1f} s, the best for validation is "
          f"epoch {np.argmin(history['val_loss']) + 1}")  # fmt: skip

    predicted = model.predict(x[None, :-1])[0]
    forecasts = simple_forecasts(temperature)
    forecasts["LSTM"] = (temperature[:-1] + scale * predicted[:, 0])[YEAR - 1 :]
    print(f"\nforecasts of the next month, {months[VALIDATION]} to {months[-1]}, in degrees")
    print(f"{'':44}  {'MAE':>5}  {'RMSE':>5}")
    errors = {}
    for name, forecast in forecasts.items():
        error = (forecast - temperature[YEAR:])[VALIDATION - YEAR :]
        errors[name] = np.array([np.abs(error).mean(), np.sqrt(np.square(error).mean())])
        print(f"{name:44}  {errors[name][0]:5.3f}  {errors[name][1]:5.3f}")
    print()
    for name in list(forecasts)[:2]:
        check(f"less than {name}, both errors", (errors["LSTM"] < errors[name]).all())

    stream = model.stream()
    stream.run(x[: VALIDATION - 1])  # the state that 50 years leave
    streamed = np.empty_like(predicted[VALIDATION - 1 :])
    start = time.perf_counter()
    for observation, forecast in zip(x[VALIDATION - 1 : -1], streamed, strict=True):
        stream.step(observation, out=forecast)
    microseconds = 1e6 * (time.perf_counter() - start) / len(streamed)
    print(f"\nstreamed, one observation at a time: {microseconds:.1f} microseconds per step")
    check("the same bits as predict's", streamed.tobytes() == predicted[VALIDATION - 1 :].tobytes())
    print("the LSTM forecasts better than both naive ways")


if __name__ == "__main__":
    main()
