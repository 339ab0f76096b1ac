"""Makes the golden files of tests/test_reference_family.py: torch.nn.GRU and torch.nn.RNN.

Run it with a Python that has PyTorch, from anywhere; the files land beside it::

    python tests/golden/make_torch_family.py

One file per configuration, all of 2 layers, bidirectional and float64. Its keys, with
T, B, I, H = 5, 3, 2, 4, all different:

    parameters.{name}           PyTorch's names
    x, h_0, lengths             the input, and the length of each sequence
    dy, dh_n                    the loss is sum(dy * y) + sum(dh_n * h_n)
    full.{y, h_n}               the outputs over all T steps
    full.{dx, dh_0, d{name}}    the gradients of the loss
    packed.*                    the same with pack_padded_sequence(lengths)
    torch_version
"""

from pathlib import Path

import numpy as np
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

SEQ_LEN, BATCH, INPUT_SIZE, HIDDEN_SIZE = 5, 3, 2, 4
NUM_LAYERS, DIRECTIONS = 2, 2
LENGTHS = [3, 5, 1]  # unsorted; PyTorch refuses 0
CELLS = {
    "gru": (torch.nn.GRU, {}),
    "rnn_tanh": (torch.nn.RNN, {"nonlinearity": "tanh"}),
    "rnn_relu": (torch.nn.RNN, {"nonlinearity": "relu"}),
}
# (cell, bias); the seed is the place in this list
CONFIGURATIONS = [(cell, bias) for cell in CELLS for bias in (True, False)]


def run(layer, arrays, packed):
    """Outputs and gradients, as a dict of name to ndarray."""
    x, h_0 = (arrays[name].clone().requires_grad_() for name in ("x", "h_0"))
    layer.zero_grad()
    if packed:
        sequence = pack_padded_sequence(x, arrays["lengths"], enforce_sorted=False)
        sequence, h_n = layer(sequence, h_0)
        y, _ = pad_packed_sequence(sequence, total_length=SEQ_LEN)
    else:
        y, h_n = layer(x, h_0)
    loss = (y * arrays["dy"]).sum() + (h_n * arrays["dh_n"]).sum()
    loss.backward()
    results = {"y": y, "h_n": h_n, "dx": x.grad, "dh_0": h_0.grad}
    results |= {f"d{name}": value.grad for name, value in layer.named_parameters()}
    return {name: value.detach().numpy().copy() for name, value in results.items()}


def make(cell, bias):
    """The contents of one file."""
    layer_class, options = CELLS[cell]
    layer = layer_class(
        INPUT_SIZE,
        HIDDEN_SIZE,
        NUM_LAYERS,
        bias=bias,
        bidirectional=True,
        dtype=torch.float64,
        **options,
    )
    y_shape = (SEQ_LEN, BATCH, DIRECTIONS * HIDDEN_SIZE)
    state_shape = (NUM_LAYERS * DIRECTIONS, BATCH, HIDDEN_SIZE)
    shapes = {"x": (SEQ_LEN, BATCH, INPUT_SIZE), "h_0": state_shape}
    shapes |= {"dy": y_shape, "dh_n": state_shape}
    arrays = {name: torch.randn(shape, dtype=torch.float64) for name, shape in shapes.items()}
    arrays["lengths"] = torch.tensor(LENGTHS)

    contents = {name: array.numpy() for name, array in arrays.items()}
    for name, value in layer.named_parameters():
        contents[f"parameters.{name}"] = value.detach().numpy()
    for kind in ("full", "packed"):
        results = run(layer, arrays, packed=kind == "packed")
        contents |= {f"{kind}.{name}": value for name, value in results.items()}
    contents["torch_version"] = np.array(torch.__version__.split("+")[0])
    return contents


def main():
    for seed, (cell, bias) in enumerate(CONFIGURATIONS):
        torch.manual_seed(seed)
        name = f"torch_{cell}_2layer_bidirectional_{'bias' if bias else 'nobias'}_float64"
        np.savez_compressed(Path(__file__).parent / f"{name}.npz", **make(cell, bias))


if __name__ == "__main__":
    main()
