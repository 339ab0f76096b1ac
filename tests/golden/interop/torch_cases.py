"""What a case of torch.npz is, and the comparison of a layer with it; make_torch.py makes them.

A case is two dicts, as golden/store.py has them. `about` says

    prefix      where the layer is in the file
    ask         what a state dict does not say, and load_torch is told
    options     attributes that the layer has
    suffix      of the file's name

and `arrays` holds

    file                    the bytes of the file
    x                       float64; (B, T, I) if batch_first, else (T, B, I); integers (B, T) of an Embedding
    h_0, c_0                the initial state, and h_n, c_n the final one, where there is one; y, the output
    lengths, packed.*       y, h_n and c_n of a PackedSequence of these lengths, and no others
    dy, dh_n, dc_n          float64 alone: the loss is sum(dy y) + sum(dh_n h_n) + sum(dc_n c_n)
    dx, dh_0, dc_0, d.*     its gradients, d.weight_ih_l0 and so on
"""

import numpy as np

import cylstm

TOLERANCES = {np.dtype("float32"): 2e-5, np.dtype("float64"): 1e-12}


def compare(about, arrays, layer):
    """Raise AssertionError unless the layer is, and computes, what the case says."""
    assert {name: getattr(layer, name) for name in about["options"]} == about["options"]

    def check(name, actual):
        error = np.abs(actual - arrays[name]) / np.maximum(1, np.abs(arrays[name]))
        assert actual.shape == arrays[name].shape and actual.dtype == layer.dtype, name
        assert error.max() <= TOLERANCES[layer.dtype], f"{name} is off by {error.max():.3g}"

    def given(*names):
        found = tuple(arrays[name].astype(layer.dtype) for name in names if name in arrays)
        return found if len(found) > 1 else found[0] if found else None

    def check_outputs(prefix, y, state):
        check(f"{prefix}y", y)
        for name, part in zip(("h_n", "c_n"), state if isinstance(state, tuple) else (state,), strict=False):
            check(f"{prefix}{name}", part)

    if "h_0" not in arrays:
        x = arrays["x"] if arrays["x"].dtype.kind == "i" else given("x")
        check("y", layer.forward(x))
        return
    tape = cylstm.Tape()
    check_outputs("", *layer.forward(given("x"), given("h_0", "c_0"), tape=tape))
    if "lengths" in arrays:
        check_outputs("packed.", *layer.forward(given("x"), given("h_0", "c_0"), lengths=arrays["lengths"]))
    if "dy" in arrays:
        gradients = layer.backward(tape, given("dy"), given("dh_n", "dc_n"))
        dstate = gradients.dstate if isinstance(gradients.dstate, tuple) else (gradients.dstate,)
        for name, part in zip(("dx", "dh_0", "dc_0"), (gradients.dx, *dstate), strict=False):
            check(name, part)
        for name, part in gradients.parameters.items():
            check(f"d.{name}", part)
