"""Makes the golden files of tests/test_reference.py: torch.nn.LSTM, forward and backward.

Run it with a Python that has PyTorch, from anywhere; the files land beside it::

    python tests/golden/make_torch_lstm.py

One file per configuration. Its keys, with T, B, I, H = 5, 3, 2, 4, all different:

    parameters.{name}                 PyTorch's names
    x, h_0, c_0, lengths              the input, and the length of each sequence
    dy, dh_n, dc_n                    the loss is sum(dy * y) + sum(dh_n * h_n) + sum(dc_n * c_n)
    full.{y, h_n, c_n}                the outputs over all T steps
    full.{dx, dh_0, dc_0, d{name}}    the gradients of the loss
    packed.*                          the same with pack_padded_sequence(lengths)
    torch_version
"""

from pathlib import Path

import numpy as np
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

SEQ_LEN, BATCH, INPUT_SIZE, HIDDEN_SIZE = 5, 3, 2, 4
LENGTHS = [3, 5, 1]  # unsorted; PyTorch refuses 0
# (num_layers, bidirectional, bias, dtype); the seed is the place in this list
CONFIGURATIONS = [
    (1, False, True, torch.float64),
    (1, False, False, torch.float64),
    (1, True, True, torch.float64),
    (2, False, True, torch.float64),
    (2, True, True, torch.float64),
    (2, True, False, torch.float64),
    (2, True, True, torch.float32),
]


def run(lstm, arrays, packed):
    """Outputs and gradients, as a dict of name to ndarray."""
    x, h_0, c_0 = (arrays[name].clone().requires_grad_() for name in ("x", "h_0", "c_0"))
    lstm.zero_grad()
    if packed:
        sequence = pack_padded_sequence(x, arrays["lengths"], enforce_sorted=False)
        sequence, (h_n, c_n) = lstm(sequence, (h_0, c_0))
        y, _ = pad_packed_sequence(sequence, total_length=SEQ_LEN)
    else:
        y, (h_n, c_n) = lstm(x, (h_0, c_0))
    loss = (y * arrays["dy"]).sum() + (h_n * arrays["dh_n"]).sum() + (c_n * arrays["dc_n"]).sum()
    loss.backward()
    results = {"y": y, "h_n": h_n, "c_n": c_n, "dx": x.grad, "dh_0": h_0.grad, "dc_0": c_0.grad}
    results |= {f"d{name}": value.grad for name, value in lstm.named_parameters()}
    return {name: value.detach().numpy().copy() for name, value in results.items()}


def make(num_layers, bidirectional, bias, dtype):
    """The contents of one file."""
    lstm = torch.nn.LSTM(
        INPUT_SIZE, HIDDEN_SIZE, num_layers, bias=bias, bidirectional=bidirectional, dtype=dtype
    )
    directions = 2 if bidirectional else 1
    y_shape = (SEQ_LEN, BATCH, directions * HIDDEN_SIZE)
    state_shape = (num_layers * directions, BATCH, HIDDEN_SIZE)
    shapes = {"x": (SEQ_LEN, BATCH, INPUT_SIZE), "h_0": state_shape, "c_0": state_shape}
    shapes |= {"dy": y_shape, "dh_n": state_shape, "dc_n": state_shape}
    arrays = {name: torch.randn(shape, dtype=dtype) for name, shape in shapes.items()}
    arrays["lengths"] = torch.tensor(LENGTHS)

    contents = {name: array.numpy() for name, array in arrays.items()}
    for name, value in lstm.named_parameters():
        contents[f"parameters.{name}"] = value.detach().numpy()
    for kind in ("full", "packed"):
        results = run(lstm, arrays, packed=kind == "packed")
        contents |= {f"{kind}.{name}": value for name, value in results.items()}
    contents["torch_version"] = np.array(torch.__version__.split("+")[0])
    return contents


def main():
    for seed, (num_layers, bidirectional, bias, dtype) in enumerate(CONFIGURATIONS):
        torch.manual_seed(seed)
        name = "_".join(
            [
                "torch_lstm",
                f"{num_layers}layer",
                "bidirectional" if bidirectional else "forward",
                "bias" if bias else "nobias",
                str(dtype).removeprefix("torch."),
            ]
        )
        contents = make(num_layers, bidirectional, bias, dtype)
        np.savez_compressed(Path(__file__).parent / f"{name}.npz", **contents)


if __name__ == "__main__":
    main()
