"""Makes the golden files optimizers.npz and schedules.npz of tests/test_training.py and tests/test_schedules.py.

Run it from anywhere, after ``pip install keras torch``; the files land beside it::

    python tests/golden/make_optimizers.py

store.py explains the layout. optimizers.npz: `about` has "optimizer", "options" and "source", and `arrays`

    start       (12,)             the parameters
    gradients   (STEPS, 12)       of every step, whatever the parameters are
    path        (STEPS, 12)       the parameters after each, in float64

The cases "keras" and "keras_small" are others: 300 steps of Adam in float32 towards the least mean square of x w - y, w
begun at 0. In the second gradients are of size 1e-4, where it shows what eps is added to.

    x (32, 4), y (32,), losses (300,) before each step, w (4,) after the last

schedules.npz: `about` has "options", of PyTorch's scheduler, and "source", and `arrays`

    rates       (n,)              the learning rate of every step; begun at 0.5
    values      (n,)              "plateau": what was reported after each
"""

import os
from pathlib import Path

import numpy as np
import torch
from store import draw, save

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras

STEPS = 8
SCHEDULES = {
    "step": ("StepLR", {"step_size": 3, "gamma": 0.5}),
    "cosine": ("CosineAnnealingLR", {"T_max": 19, "eta_min": 0.125}),
    "linear": ("LinearLR", {"start_factor": 1 / 9, "total_iters": 8}),
    "plateau": ("ReduceLROnPlateau", {"factor": 0.5, "patience": 2, "threshold": 0.125, "cooldown": 3, "min_lr": 0.1}),
    "plateau_max": ("ReduceLROnPlateau", {"mode": "max", "factor": 0.75, "patience": 3, "threshold": 0.0}),
}
CASES = {
    "sgd": ("SGD", {"lr": 0.1}),
    "sgd_weight_decay": ("SGD", {"lr": 0.1, "weight_decay": 0.25}),
    "sgd_momentum": ("SGD", {"lr": 0.1, "momentum": 0.9}),
    "sgd_momentum_weight_decay": ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.25}),
    "sgd_nesterov": ("SGD", {"lr": 0.1, "momentum": 0.75, "nesterov": True}),
    "sgd_nesterov_weight_decay": ("SGD", {"lr": 0.1, "momentum": 0.75, "nesterov": True, "weight_decay": 0.25}),
    "rmsprop": ("RMSprop", {"lr": 0.1}),
    "rmsprop_alpha_eps": ("RMSprop", {"lr": 0.1, "alpha": 0.75, "eps": 0.5}),
    "rmsprop_momentum": ("RMSprop", {"lr": 0.1, "momentum": 0.5}),
    "rmsprop_centered": ("RMSprop", {"lr": 0.1, "alpha": 0.75, "centered": True}),
    "rmsprop_centered_momentum": ("RMSprop", {"lr": 0.1, "alpha": 0.75, "centered": True, "momentum": 0.5}),
    "adam": ("Adam", {"lr": 0.1}),
    "adam_betas_eps": ("Adam", {"lr": 0.1, "betas": [0.5, 0.75], "eps": 0.125}),
    "adamw": ("AdamW", {"lr": 0.1}),
    "adamw_weight_decay": ("AdamW", {"lr": 0.1, "weight_decay": 0.5}),
}


def torch_path(optimizer, options, start, gradients):
    parameter = torch.tensor(start, requires_grad=True)
    optimizer = getattr(torch.optim, optimizer)([parameter], **options)
    path = []
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
        path.append(parameter.detach().numpy().copy())
    return np.array(path)


def torch_rates(schedule, options, values):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    scheduler = getattr(torch.optim.lr_scheduler, schedule)(optimizer, **options)
    rates = []
    for value in values:
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step(*([float(value)] if "Plateau" in schedule else []))
    return {"rates": np.array(rates), "values": values}


def keras_run(x, y, steps, options):
    w = keras.Variable(np.zeros(x.shape[1], np.float32))
    optimizer = keras.optimizers.Adam(**options)
    losses = []
    for _ in range(steps):
        error = x @ keras.ops.convert_to_numpy(w) - y
        losses.append(np.mean(np.square(error, dtype=np.float64)))
        optimizer.apply([keras.ops.convert_to_tensor(x.T @ error * np.float32(2 / len(y)))], [w])
    return {"losses": np.array(losses), "w": keras.ops.convert_to_numpy(w)}


def main():
    start, gradients = draw("start", 12), draw("gradients", STEPS, 12)
    gradients[2:4, 0] = 0  # a parameter that is at rest for a while
    source = f"torch {torch.__version__.split('+')[0]}"
    cases = {}
    for name, (optimizer, options) in CASES.items():
        path = torch_path(optimizer, options, start, gradients)
        about = {"optimizer": optimizer, "options": options, "source": source}
        cases[name] = about, {"start": start, "gradients": gradients, "path": path}
    options = {"learning_rate": 0.03125, "epsilon": 1e-7}
    about = {"optimizer": "Adam", "options": options, "source": f"keras {keras.__version__}"}
    for name, scale in (("keras", 1), ("keras_small", 1 / 128)):
        x = (draw("x", 32, 4) * scale).astype(np.float32)
        y = (x @ draw("w", 4) + draw("noise", 32) * (scale / 4)).astype(np.float32)
        cases[name] = about, {"x": x, "y": y, **keras_run(x, y, 300, options)}
    save(Path(__file__).parent / "optimizers.npz", cases)
    values = 2 + np.cos(np.arange(60) / 4) / (1 + np.arange(60) / 8)
    values[40:50] = values[39]
    values[30] = np.nan
    cases = {}
    for name, (schedule, options) in SCHEDULES.items():
        arrays = torch_rates(schedule, options, values if "plateau" in name else np.zeros(20))
        cases[name] = {"options": options, "source": source}, arrays
    save(Path(__file__).parent / "schedules.npz", cases)


if __name__ == "__main__":
    main()
