"""Makes keras_3.npz.xz, keras_2_15.npz.xz and keras_2_2.npz.xz: small models of Keras with what they compute.

    KERAS_BACKEND=torch python make_keras_files.py write keras_3.npz.xz        with keras 3.15, torch 2.13
    python make_keras_files.py write keras_2_15.npz.xz                         with tensorflow-cpu 2.15, keras 2.15
    python make_keras_files.py write keras_2_2.npz.xz                          Python 3.7, tensorflow 1.14, keras 2.2.4
    python make_keras_files.py whole grid.npz.xz                               all models, not only those of the above
    python make_keras_files.py check grid.npz.xz                               where cylstm is: holds it against them

An .npz, which xz makes a tenth of its size, holds for each model NAME the bytes of its file as NAME/file, its inputs
and outputs as NAME/x and NAME/y, dL/dx for L = sum(y * NAME/dy) as NAME/dx where Keras runs on PyTorch, and NAME/about,
a JSON text: the suffix of the file, whether it is of weights alone, whether hard_sigmoid is this Keras' default, and
what else is to be known. The weights are uniform, of one generator that the name seeds. Layers of cuDNN run on no CPU:
their files are of Keras 2.15, and so are their outputs, by the plain layers that it loads their weights into. (A
session of TensorFlow 1 refuses a graph with an operation that no device has, so there are none of Keras 2.2.4.)
"""

import io
import json
import lzma
import os
import sys
import tempfile
import zlib

import numpy as np

FEATURES, UNITS, STEPS = 3, 4, 5
MASKS = np.array([[1, 1, 0, 1, 0], [0, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 0, 0, 0, 0]], bool)


class Grid:
    """Every model, for one version of Keras."""

    def __init__(self):
        try:
            import keras

            self.version = tuple(int(part) for part in keras.__version__.split(".")[:2])
        except ImportError:
            self.version = (0, 0)
        if (2, 4) <= self.version < (3, 0):
            from tensorflow import keras
        self.keras, self.layers = keras, keras.layers
        self.keras3 = self.version >= (3, 0)
        self.old = self.version < (2, 4)
        self.cases = {}
        self.fill()

    def add(self, name, layers, suffix="", integers=False, golden=True, **about):
        """A Sequential of what ``layers(L)`` makes; the input is integers or features."""
        self.cases[name] = (lambda: self.sequential(layers, integers), suffix, integers, golden, about)

    def sequential(self, layers, integers):
        model = self.keras.models.Sequential(layers(self.layers, self.first(integers)))
        model.build((None, STEPS) if integers else (None, STEPS, FEATURES))
        return model

    def first(self, integers):
        """What the first layer is told of its input, which Keras 3 has a layer for."""
        return {} if self.keras3 else {"input_shape": (STEPS,) if integers else (STEPS, FEATURES)}

    def fill(self):
        kinds = {"lstm": ("LSTM", {}), "rnn": ("SimpleRNN", {}), "gru_before": ("GRU", {"reset_after": False})}
        kinds["gru"] = ("GRU", {"reset_after": True})
        both = (False, True)
        for kind, (cls, fixed) in sorted(kinds.items()):
            for sequences in both:
                for backwards in both:
                    for masked in both:
                        for bias in both:
                            self.single(kind, cls, dict(
                                fixed, return_sequences=sequences, go_backwards=backwards, use_bias=bias
                            ), masked)  # fmt: skip
                for merge in ("concat", "sum", "mul", "ave"):
                    for masked in both:
                        self.both_directions(kind, cls, dict(fixed, return_sequences=sequences), merge, masked)
            self.activations(kind, cls, fixed)
        self.chains()
        self.dtypes()
        if self.keras3:
            self.of_keras_3()
        elif self.old:
            self.cases["tensorflow_1_14.h5"] = (self.tensorflow_1, ".h5", False, True, {})
        else:
            self.cudnn()

    def single(self, kind, cls, options, masked):
        flags = [word for key, word in (("return_sequences", "steps"), ("go_backwards", "backwards"))
                 if options[key]]  # fmt: skip
        name = "_".join([kind, *flags, *([] if options["use_bias"] else ["nobias"]), *(["masked"] if masked else [])])
        golden = options["use_bias"] != (options["go_backwards"] and not masked)

        def layers(L, first):
            mask = [L.Masking(**first)] if masked else []
            return [*mask, getattr(L, cls)(UNITS, **({} if masked else first), **options)]

        for suffix in self.suffixes(name, 0 if options["use_bias"] else 1):
            self.add(f"{name}{suffix}", layers, suffix, golden=golden and suffix == self.suffixes(name, 1)[0])

    def suffixes(self, name, which):
        """The formats that a model is written in: both, or one of them that depends on its name."""
        if self.old:
            return [".h5"]
        formats = [".keras", ".h5"]
        return [formats[zlib.crc32(name.encode()) % 2]] if which else formats

    def both_directions(self, kind, cls, options, merge, masked):
        sequences = "_steps" if options["return_sequences"] else ""
        name = f"bidirectional_{kind}_{merge}{sequences}{'_masked' if masked else ''}"

        def layers(L, first):
            mask = [L.Masking(**first)] if masked else []
            wrapped = getattr(L, cls)(UNITS, **options)
            return [*mask, L.Bidirectional(wrapped, merge_mode=merge, **({} if masked else first))]

        for suffix in self.suffixes(name, 1):
            self.add(f"{name}{suffix}", layers, suffix, golden=(merge == "concat") == (kind in ("lstm", "gru")))

    def activations(self, kind, cls, fixed):
        names = ["hard_sigmoid", "relu", "linear", "softsign", "softplus", "elu"]
        names += [] if self.old else ["swish", "gelu"]
        names += ["silu", "leaky_relu"] if self.keras3 else []
        for activation in names:
            # a GRU of these has units that grow without bound
            options = dict(fixed, activation=activation, return_sequences=True)
            if cls != "SimpleRNN":
                options["recurrent_activation"] = "sigmoid" if activation != "hard_sigmoid" else "hard_sigmoid"
            name = f"{kind}_{activation}"
            suffix = self.suffixes(name, 1)[0]
            self.add(
                f"{name}{suffix}", lambda L, first, o=options: [getattr(L, cls)(UNITS, **first, **o)], suffix,
                golden=activation == "hard_sigmoid" or kind == "lstm",
            )  # fmt: skip

    def chains(self):
        for suffix in self.suffixes("", 0):
            self.add(f"classifier{suffix}", lambda L, first: [
                L.Embedding(11, FEATURES, mask_zero=True, **first), L.SpatialDropout1D(0.1),
                L.Bidirectional(L.LSTM(UNITS, return_sequences=True, dropout=0.2, recurrent_dropout=0.1)),
                L.GRU(UNITS, return_sequences=False), L.Dropout(0.5), L.Dense(3, activation="softmax"),
            ], suffix, integers=True)  # fmt: skip
            self.add(f"tagger{suffix}", lambda L, first: [
                L.Masking(**first), L.GaussianNoise(0.1),
                L.LSTM(UNITS, return_sequences=True, go_backwards=True), L.SimpleRNN(UNITS, return_sequences=True),
                L.TimeDistributed(L.Dense(3, activation="relu")), L.TimeDistributed(L.Dropout(0.5)),
                L.Activation("softmax"),
            ], suffix)  # fmt: skip
            self.add(f"autoencoder{suffix}", lambda L, first: [
                L.GRU(UNITS, **first), L.RepeatVector(STEPS), L.LSTM(UNITS, return_sequences=True),
                L.TimeDistributed(L.Dense(2)), L.Flatten(), L.Dense(2, use_bias=False),
                *([] if self.old else [L.Flatten()]),
            ], suffix)  # fmt: skip
            self.add(f"activations{suffix}", lambda L, first: [
                L.Dense(UNITS, activation="hard_sigmoid", **first), L.LeakyReLU(), L.LeakyReLU(0.1), L.ELU(),
                L.ReLU(), L.ReLU(negative_slope=0.2), L.ReLU(threshold=0.1), L.Activation("tanh"), L.Softmax(),
            ], suffix)  # fmt: skip
            self.add(f"nested{suffix}", lambda L, first: [
                self.keras.models.Sequential([L.Dense(UNITS, **first), L.LSTM(UNITS, return_sequences=True)]),
                self.keras.models.Sequential([L.Bidirectional(L.GRU(UNITS), **self.of_units()), L.Dropout(0.2)]),
                L.Dense(2),
            ], suffix)  # fmt: skip
            self.add(f"cells{suffix}", lambda L, first: [
                L.RNN(L.LSTMCell(UNITS), return_sequences=True, **first), L.RNN(L.GRUCell(UNITS), go_backwards=True),
            ], suffix)  # fmt: skip
            self.cases[f"functional{suffix}"] = (self.functional, suffix, True, True, {})
            self.cases[f"states{suffix}"] = (self.states, suffix, False, True, {})
            if not self.old:
                self.add(f"normalised{suffix}", lambda L, first: [
                    L.LayerNormalization(**first), L.LSTM(UNITS, return_sequences=True),
                    L.LayerNormalization(epsilon=1e-2, center=False), L.LSTM(UNITS),
                    L.LayerNormalization(scale=False, axis=-1),
                ], suffix)  # fmt: skip
                self.add(f"two_layers{suffix}", lambda L, first: [L.Bidirectional(
                    L.LSTM(UNITS, return_sequences=True),
                    backward_layer=L.GRU(UNITS, return_sequences=True, go_backwards=True), merge_mode="concat", **first,
                )], suffix)  # fmt: skip
                self.add(f"two_lasts{suffix}", lambda L, first: [L.Bidirectional(
                    L.SimpleRNN(UNITS), backward_layer=L.GRU(UNITS, go_backwards=True), merge_mode="sum", **first,
                )], suffix)  # fmt: skip
                self.add(f"other_way{suffix}", lambda L, first: [
                    L.Masking(**first),
                    L.Bidirectional(
                        L.GRU(UNITS, return_sequences=True, go_backwards=True),
                        backward_layer=L.GRU(UNITS, return_sequences=True), merge_mode="sum",
                    ),
                ], suffix)  # fmt: skip
        weights = [".weights.h5"] if self.keras3 else [".h5"] if self.old else [".weights.h5", ".h5"]
        for suffix in weights:
            for name, make in (
                ("lstm", lambda L, first: [L.LSTM(UNITS, return_sequences=True, **first)]),
                ("gru", lambda L, first: [L.GRU(UNITS, return_sequences=True, reset_after=True, **first)]),
                ("gru_before", lambda L, first: [L.GRU(UNITS, return_sequences=True, reset_after=False, **first)]),
                ("rnn", lambda L, first: [L.SimpleRNN(UNITS, return_sequences=True, **first)]),
                ("nobias", lambda L, first: [
                    L.GRU(UNITS, return_sequences=True, reset_after=True, use_bias=False, **first)]),
                ("both", lambda L, first: [L.Bidirectional(L.GRU(
                    UNITS, return_sequences=True, reset_after=False), merge_mode="sum", **first)]),
                ("chain", lambda L, first: [
                    L.LSTM(UNITS, return_sequences=True, **first), L.Dropout(0.1), L.LSTM(UNITS),
                    L.Dense(3, activation="relu")]),
            ):  # fmt: skip
                self.add(f"weights_{name}{suffix}", make, suffix, weights=True)

    def of_units(self):
        return {} if self.keras3 else {"input_shape": (STEPS, UNITS)}

    def functional(self):
        L = self.layers
        x = L.Input((None,), dtype="int32")
        y = L.Embedding(11, FEATURES, mask_zero=True)(x)
        y = self.keras.models.Sequential([
            L.LSTM(UNITS, return_sequences=True, **({} if self.keras3 else {"input_shape": (None, FEATURES)})),
            L.Dropout(0.1),
        ])(y)  # fmt: skip
        y = L.LSTM(UNITS, go_backwards=True, return_sequences=True)(y)
        y = L.TimeDistributed(L.Dense(2))(y)
        return self.keras.models.Model(x, y)

    def states(self):
        L = self.layers
        x = L.Input((None, FEATURES))
        y, _, _ = L.LSTM(UNITS, return_state=True, return_sequences=True)(L.Masking()(x))
        y, _ = L.GRU(UNITS, return_state=True)(y)
        return self.keras.models.Model(x, L.Dense(2)(y))

    def dtypes(self):
        for suffix in self.suffixes("", 0):
            self.cases[f"float64{suffix}"] = (
                lambda: self.with_dtype("float64", self.of_dtypes), suffix, False, True, {"dtype": "float64"},
            )  # fmt: skip
            if not self.old:
                self.cases[f"mixed{suffix}"] = (
                    lambda: self.with_dtype("mixed_float16", self.of_dtypes), suffix, False, True, {"tolerance": 2e-3},
                )  # fmt: skip

    def of_dtypes(self):
        return self.sequential(lambda L, first: [
            L.Bidirectional(L.LSTM(UNITS, return_sequences=True), **first),
            L.GRU(UNITS, recurrent_activation="hard_sigmoid"),
            # in float64 a Dense of Keras 3.15 on PyTorch is as exact as float32: measured, 4e-8
            *([] if self.keras3 else [L.Dense(2)]),
        ], False)  # fmt: skip

    def with_dtype(self, dtype, make):
        """A model of a dtype or policy; the one before is in force again behind it."""
        if self.keras3:
            config, before = self.keras.config, self.keras.config.dtype_policy()
            config.set_dtype_policy(dtype)
            config.set_floatx("float32" if dtype.startswith("mixed") else dtype)  # of the input
            try:
                return make()
            finally:
                config.set_dtype_policy(before)
                config.set_floatx("float32")
        if not self.old:
            policies = self.keras.mixed_precision
            policies.set_global_policy(dtype)
            try:
                return make()
            finally:
                policies.set_global_policy("float32")
        self.keras.backend.set_floatx(dtype)
        try:
            return make()
        finally:
            self.keras.backend.set_floatx("float32")

    def tensorflow_1(self):
        """Of tf.keras "2.2.4-tf", whose Bidirectional has zeros in masked steps, unlike that of Keras 2.2.4."""
        from tensorflow import keras

        L = keras.layers
        return keras.models.Sequential([
            L.Masking(input_shape=(STEPS, FEATURES)), L.Bidirectional(L.LSTM(UNITS, return_sequences=True)),
            L.GRU(UNITS, go_backwards=True, return_sequences=True), L.LayerNormalization(), L.LeakyReLU(),
        ])  # fmt: skip

    def cudnn(self):
        """Layers of cuDNN, which no CPU runs: Keras itself turns their weights into those of the plain layers."""
        for cls, options in (("LSTM", {}), ("GRU", {"reset_after": True})):
            for wrapped in (False, True):
                for sequences in (False, True):
                    name = f"{'bidirectional_' if wrapped else ''}cudnn_{cls.lower()}{'_steps' if sequences else ''}.h5"
                    plain = dict(options, recurrent_activation="sigmoid", return_sequences=sequences)
                    about = {"twin": self.cudnn_model(f"CuDNN{cls}", wrapped, {"return_sequences": sequences})}
                    make = self.cudnn_model(cls, wrapped, plain)
                    self.cases[name] = (make, ".h5", False, True, about)

    def cudnn_model(self, cls, wrapped, options):
        def make():
            layers = self.layers
            if cls.startswith("CuDNN"):
                from tensorflow.compat.v1.keras import layers
            given = {"input_shape": (STEPS, FEATURES)}
            layer = getattr(layers, cls)(UNITS, **({} if wrapped else given), **options)
            return self.keras.models.Sequential([self.layers.Bidirectional(layer, **given) if wrapped else layer])

        return make

    def of_keras_3(self):
        for suffix in (".keras", ".h5"):
            self.add(f"zero_for_mask{suffix}", lambda L, first: [
                L.Masking(), L.LSTM(UNITS, return_sequences=True, zero_output_for_mask=True)], suffix)  # fmt: skip
            self.add(f"layer_as_activation{suffix}", lambda L, first: [
                L.Dense(UNITS, activation=L.LeakyReLU(negative_slope=0.4)),
                L.SimpleRNN(UNITS, activation=L.ReLU())], suffix)  # fmt: skip

    def names(self, whole):
        return [name for name, case in self.cases.items() if whole or case[3]]

    # One model

    def made(self, name):
        """{"file": ..., "x": ..., ...}"""
        make, suffix, integers, _, about = self.cases[name]
        if not self.keras3:
            self.keras.backend.clear_session()
        else:
            self.keras.utils.clear_session()
        rng = np.random.default_rng(zlib.crc32(name.encode())) if hasattr(np.random, "default_rng") else None
        rng = rng or np.random.RandomState(zlib.crc32(name.encode()))
        model = make()
        about = dict(about)
        twin = about.pop("twin", lambda: model)()
        twin.set_weights([rng.uniform(-0.7, 0.7, w.shape).astype(w.dtype) for w in twin.get_weights()])
        dtype = about.get("dtype", "float32")
        valid = MASKS
        if integers:
            x = np.where(valid, np.asarray(rng.uniform(1, 11, valid.shape), np.int32), 0).astype(np.int32)
        else:
            x = (rng.uniform(-1, 1, (*valid.shape, FEATURES)) * valid[..., None]).astype(np.float32)
            x = x.astype(dtype)
        found = {"x": x}
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "model" + suffix)
            if twin is not model:
                twin.save_weights(path)
                model.load_weights(path)
            (twin.save_weights if about.get("weights") else twin.save)(path)
            with open(path, "rb") as file:
                found["file"] = np.frombuffer(file.read(), np.uint8)
        found.update(self.outputs(model, x, rng))
        found["about"] = np.array(json.dumps(dict(about, suffix=suffix, hard=self.old)))
        return found

    def outputs(self, model, x, rng):
        if not self.keras3:
            y = model.predict(x) if self.old else model(x, training=False).numpy()
            return {"y": y.astype(np.float64 if y.dtype == np.float64 else np.float32)}
        import torch

        given = torch.tensor(x, requires_grad=x.dtype.kind == "f")
        y = model(given, training=False)
        dy = rng.uniform(-1, 1, tuple(y.shape)).astype("float64" if y.dtype == torch.float64 else "float32")
        found = {"y": y.detach().float().numpy() if y.dtype == torch.float16 else y.detach().numpy()}
        if x.dtype.kind == "f" and y.dtype == torch.float32:  # the input of a model rounds the gradient to that
            (y * torch.tensor(dy)).sum().backward()
            found.update(dy=dy, dx=given.grad.numpy())
        return found


def write(path, whole):
    grid = Grid()
    arrays = {}
    for name in grid.names(whole):
        arrays.update({f"{name}/{key}": value for key, value in grid.made(name).items()})
    content = io.BytesIO()
    np.savez(content, **arrays)
    with lzma.open(path, "wb", preset=9) as file:
        file.write(content.getvalue())
    print(f"{path}: {len(grid.names(whole))} models, {os.path.getsize(path)} bytes")


def check(path):
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
    from interop_keras_cases import assert_like_keras, load

    cases = load(path)
    with tempfile.TemporaryDirectory() as directory:
        for name, case in cases.items():
            assert_like_keras(name, case, directory)
    print(f"{path}: {len(cases)} models agree")


if __name__ == "__main__":
    command, path = sys.argv[1:]
    check(path) if command == "check" else write(path, command == "whole")
