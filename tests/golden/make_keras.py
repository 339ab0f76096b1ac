"""Makes the golden files keras_*.npz of tests/test_golden_family.py: the recurrent layers of Keras 3.

Run it from anywhere, after ``pip install keras torch``; the files land beside it::

    python tests/golden/make_keras.py

One file per cell, whose layout store.py explains. Keras computes in float64 here; T, B, I, H = 6, 4, 2, 3, all
different. Where Keras returns an output in the reverse order, in which it was computed, it was flipped.

What a masked step outputs in Keras depends on the wrapper. A layer alone repeats its previous output, and begins with
zeros. `Bidirectional` sets zero_output_for_mask of its two layers, so that a masked step of either outputs zeros; the
cases "bidirectional_*_repeat" set it back to False before they call it.
"""

import os
from pathlib import Path

import numpy as np
from store import draw, save

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
from keras.src.backend.common import dtypes

SEQ_LEN, BATCH, INPUT_SIZE, HIDDEN_SIZE = 6, 4, 2, 3
LENGTHS = np.array([6, 2, 5, 0])
HOLES = np.array([[1, 1, 1, 1, 1, 1], [0, 1, 0, 0, 1, 0], [1, 0, 1, 1, 0, 1], [0, 0, 0, 0, 0, 0]], dtype=bool)

LAYERS = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU, "rnn": keras.layers.SimpleRNN}
GATES = {"lstm": 4, "gru": 3, "rnn": 1}
ORDER = {"lstm": [0, 1, 2, 3], "gru": [1, 0, 2], "rnn": [0]}  # where our gates are in Keras' order: GRU's is z, r, h
MERGES = {"concat": "concat", "sum": "sum", "mul": "mul", "average": "ave", None: None}

# Keras' name of an activation, and ours with the numbers that Keras has built in
ACTIVATIONS = {
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "relu": "relu",
    "leaky_relu": ["leaky_relu", 0.2],
    "hard_sigmoid": ["hard_sigmoid", 1 / 6, 0.5],
    "elu": ["elu", 1.0],
    "softsign": "softsign",
    "softplus": "softplus",
    "linear": "linear",
    "silu": "swish",
    "gelu": "gelu",
}


def convert(kind, weights, reset_after=True):
    """Parameters of one direction, without their suffix, of what Keras' get_weights returns."""

    def gates_first(array):
        blocks = np.split(array.T, GATES[kind])
        return np.concatenate([blocks[place] for place in ORDER[kind]])

    kernel, recurrent_kernel, *bias = weights
    parameters = {"weight_ih": gates_first(kernel), "weight_hh": gates_first(recurrent_kernel)}
    if bias and kind == "gru" and reset_after:
        parameters |= {"bias_ih": gates_first(bias[0][0]), "bias_hh": gates_first(bias[0][1])}
    elif bias:
        parameters["bias_ih"] = gates_first(bias[0])
    return parameters


def make(kind, given=(), keras_options=None, *, repeat=False, **options):
    """Arrays of one case, and the options that go with them.

    given has any of "state", "lengths" and "mask"; keras_options are the layer's in Keras, apart from those that follow
    from options, which are the layer's here. repeat: what Bidirectional set is set back, see above.
    """
    bidirectional = options.get("bidirectional", False)
    directions = 1 + bidirectional
    keras_options = dict(keras_options or {})
    keras_options["go_backwards"] = options.get("reverse", False)
    if kind == "gru":
        keras_options["reset_after"] = options.get("reset_after", True)
    layer = LAYERS[kind](HIDDEN_SIZE, return_sequences=True, return_state=True, **keras_options)
    if bidirectional:
        layer = keras.layers.Bidirectional(layer, merge_mode=MERGES[options.get("merge", "concat")])
        if repeat:
            layer.forward_layer.zero_output_for_mask = layer.backward_layer.zero_output_for_mask = False

    arrays = {"x": draw("x", SEQ_LEN, BATCH, INPUT_SIZE)}
    names = ("h", "c") if kind == "lstm" else ("h",)
    if "state" in given:
        arrays |= {f"{name}_0": draw(f"{name}_0", directions, BATCH, HIDDEN_SIZE) for name in names}
    mask = np.ones((BATCH, SEQ_LEN), dtype=bool)
    if "lengths" in given:
        arrays["lengths"] = LENGTHS
        mask &= np.arange(SEQ_LEN) < LENGTHS[:, None]
    if "mask" in given:
        arrays["mask"] = HOLES
        mask &= HOLES

    arguments = {}
    if "state" in given:
        arguments["initial_state"] = [
            keras.ops.convert_to_tensor(arrays[f"{name}_0"][direction])
            for direction in range(directions)
            for name in names
        ]
    if not mask.all():
        arguments["mask"] = keras.ops.convert_to_tensor(mask)
    x = keras.ops.convert_to_tensor(arrays["x"].swapaxes(0, 1))
    layer(x, **arguments)  # which builds it
    layer.set_weights([draw(f"weight {n}", *weight.shape) for n, weight in enumerate(layer.get_weights())])
    outputs = [keras.ops.convert_to_numpy(array) for array in layer(x, training=False, **arguments)]

    if options.get("merge", "concat") is None:
        arrays["y_forward"], arrays["y_reverse"] = (y.swapaxes(0, 1) for y in outputs[:2])
        outputs = outputs[1:]
    else:
        y = outputs[0].swapaxes(0, 1)
        arrays["y"] = y[::-1] if options.get("reverse") else y
    for place, name in enumerate(names):
        arrays[f"{name}_n"] = np.stack(outputs[1 + place :: len(names)])

    weights = layer.get_weights()
    reset_after = options.get("reset_after", True)
    for direction, suffix in zip(range(directions), ("_l0", "_l0_reverse"), strict=False):
        part = weights[direction * len(weights) // directions : (direction + 1) * len(weights) // directions]
        for name, value in convert(kind, part, reset_after).items():
            arrays[f"parameters.{name}{suffix}"] = value.astype(np.float32)

    has_bias = keras_options.get("use_bias", True)
    options["bias"] = ("single" if kind != "gru" or not reset_after else True) if has_bias else False
    arrays["x"] = arrays["x"].astype(np.float32)
    if "state" in given:
        arrays |= {f"{name}_0": arrays[f"{name}_0"].astype(np.float32) for name in names}
    if repeat:
        options["padding"] = "repeat"
    return arrays, {"semantics": "keras"} | options


def activated(kind, *names):
    """Arguments of make for a layer with these activations of Keras, in our order: those of the gates first."""
    ours = [ACTIVATIONS[name] for name in names]
    if kind == "rnn":
        return {"keras_options": {"activation": names[0]}, "nonlinearity": ours[0]}
    keras_options = {"recurrent_activation": names[0], "activation": names[1]}
    return {"keras_options": keras_options, "activations": [*ours, *ours[1:]] if kind == "lstm" else ours}


def cases():
    """Pairs of a name and the arguments of make."""
    kinds = [("lstm", {}), ("gru", {"reset_after": True}), ("gru", {"reset_after": False}), ("rnn", {})]
    for kind, variant in kinds:
        name = kind + ("_reset_before" if not variant.get("reset_after", True) else "")
        base = {"kind": kind, **variant}
        yield f"{name}_full", base | {"given": ["state"]}
        yield f"{name}_lengths", base | {"given": ["state", "lengths"]}
        yield f"{name}_mask", base | {"given": ["state", "mask"]}
        yield f"{name}_go_backwards", base | {"reverse": True}
        yield f"{name}_go_backwards_mask", base | {"given": ["state", "mask"], "reverse": True}
    yield "lstm_go_backwards_lengths", {"kind": "lstm", "given": ["state", "lengths"], "reverse": True}
    yield "lstm_lengths_and_mask", {"kind": "lstm", "given": ["lengths", "mask"]}
    yield (
        "lstm_mask_zero_output",
        {
            **{"kind": "lstm", "given": ["state", "mask"], "padding": "zero"},
            "keras_options": {"zero_output_for_mask": True},
        },
    )

    for merge in MERGES:
        base = {"kind": "lstm", "bidirectional": True, "merge": merge}
        yield f"lstm_bidirectional_{merge}", base | {"given": ["state"]}
        yield f"lstm_bidirectional_{merge}_mask", base | {"given": ["mask"]}
    base = {"kind": "lstm", "bidirectional": True, "given": ["state", "mask"], "repeat": True}
    yield "lstm_bidirectional_concat_mask_repeat", base
    yield "lstm_bidirectional_mul_mask_repeat", base | {"merge": "mul"}
    base = {"kind": "gru", "bidirectional": True, "given": ["state", "mask"]}
    yield "gru_bidirectional_sum_mask_repeat", base | {"merge": "sum", "repeat": True}
    yield "gru_reset_before_bidirectional_none_mask", base | {"reset_after": False, "merge": None}
    base = {"kind": "rnn", "bidirectional": True, "given": ["state", "lengths"]}
    yield "rnn_bidirectional_average_lengths", base | {"merge": "average"}
    yield "rnn_bidirectional_mul_lengths_repeat", base | {"merge": "mul", "repeat": True}

    for activation in ACTIVATIONS:
        if activation != "tanh":  # the cases above
            yield f"rnn_{activation}", {"kind": "rnn", **activated("rnn", activation)}
    pairs = [("hard_sigmoid", "tanh"), ("sigmoid", "elu"), ("softsign", "gelu"), ("hard_sigmoid", "leaky_relu")]
    for pair in [*pairs, ("sigmoid", "silu"), ("sigmoid", "softplus")]:
        yield "lstm_{}_{}".format(*pair), {"kind": "lstm", **activated("lstm", *pair)}
    pairs = [("hard_sigmoid", "relu"), ("softsign", "silu"), ("hard_sigmoid", "linear"), ("sigmoid", "leaky_relu")]
    for reset_after, pair in zip((True, False, False, False), pairs, strict=True):
        yield "gru_{}_{}".format(*pair), {"kind": "gru", "reset_after": reset_after, **activated("gru", *pair)}

    for kind in LAYERS:
        yield f"{kind}_without_bias", {"kind": kind, "keras_options": {"use_bias": False}}
        noise = {"input_dropout": 0.25, "recurrent_dropout": 0.5}  # of training only: these files are of inference
        keras_options = {"dropout": 0.25, "recurrent_dropout": 0.5}
        yield f"{kind}_dropout", {"kind": kind, "keras_options": keras_options, **noise}


def main():
    keras.config.set_floatx("float64")
    # By this table, matrix products and masks of every backend but TensorFlow's round to float32 on their way.
    dtypes.BIT64_TO_BIT32_DTYPE["float64"] = "float64"
    backend = __import__(keras.backend.backend())
    source = f"keras {keras.__version__}, {backend.__name__} {backend.__version__.split('+')[0]}"
    files = {kind: {} for kind in LAYERS}
    for name, arguments in cases():
        arrays, options = make(**arguments)
        kind = arguments["kind"]
        about = {"kind": kind, "options": options, "source": source}
        files[kind][name.removeprefix(f"{kind}_").lower()] = about, arrays
    for kind, file in files.items():
        save(Path(__file__).parent / f"keras_{kind}.npz", file)


if __name__ == "__main__":
    main()
