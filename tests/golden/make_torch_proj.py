"""Makes the golden files torch_proj_*.npz of tests/test_golden_family.py: torch.nn.LSTM with proj_size.

Run it with a Python that has PyTorch, from anywhere; the files land beside it::

    python tests/golden/make_torch_proj.py

The keys are those of make_torch_lstm.py, and so are the sizes: h and y are PROJ_SIZE wide, c is not.
"""

from pathlib import Path

import numpy as np
import torch
from make_torch_lstm import BATCH, HIDDEN_SIZE, INPUT_SIZE, LENGTHS, SEQ_LEN, run

PROJ_SIZE = 3  # not INPUT_SIZE either
# (num_layers, bidirectional, bias); the seed is the place in this list
CONFIGURATIONS = [(1, False, True), (2, True, True), (2, True, False)]


def make(num_layers, bidirectional, bias):
    """The contents of one file."""
    options = {"bias": bias, "bidirectional": bidirectional, "proj_size": PROJ_SIZE}
    lstm = torch.nn.LSTM(INPUT_SIZE, HIDDEN_SIZE, num_layers, dtype=torch.float64, **options)
    directions = 2 if bidirectional else 1
    shapes = {"x": (SEQ_LEN, BATCH, INPUT_SIZE), "dy": (SEQ_LEN, BATCH, directions * PROJ_SIZE)}
    shapes |= {name: (num_layers * directions, BATCH, PROJ_SIZE) for name in ("h_0", "dh_n")}
    shapes |= {name: (num_layers * directions, BATCH, HIDDEN_SIZE) for name in ("c_0", "dc_n")}
    arrays = {name: torch.randn(shape, dtype=torch.float64) for name, shape in shapes.items()}
    arrays["lengths"] = torch.tensor(LENGTHS)

    contents = {name: array.numpy() for name, array in arrays.items()}
    for name, value in lstm.named_parameters():
        contents[f"parameters.{name}"] = value.detach().numpy()
    for part in ("full", "packed"):
        results = run(lstm, arrays, packed=part == "packed")
        contents |= {f"{part}.{name}": value for name, value in results.items()}
    contents["torch_version"] = np.array(torch.__version__.split("+")[0])
    return contents


def main():
    for seed, (num_layers, bidirectional, bias) in enumerate(CONFIGURATIONS):
        torch.manual_seed(seed)
        direction = "bidirectional" if bidirectional else "forward"
        name = f"torch_proj_{num_layers}layer_{direction}_{'bias' if bias else 'nobias'}_float64"
        np.savez_compressed(Path(__file__).parent / f"{name}.npz", **make(num_layers, bidirectional, bias))


if __name__ == "__main__":
    main()
