"""Makes torch.npz for tests/test_interop_torch.py: files of PyTorch, and what their layers compute.

Run it with a Python that has PyTorch, safetensors and cylstm, from anywhere; the file lands beside it. With ``--check``
the whole grid is made and compared instead::

    python tests/golden/interop/make_torch.py [--check]

torch_cases.py says what is in a case. The grid: every class with every option of its own, one and two layers, one and
two directions, with and without bias, both places of the batch axis and two dtypes; the formats of files and the ways
in which tensors lie in them take turns.
"""

import io
import itertools
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import store  # noqa: E402
import torch_cases  # noqa: E402

import cylstm  # noqa: E402
from cylstm.interop.torch_files import named  # noqa: E402

SEQ_LEN, BATCH, INPUT_SIZE, HIDDEN_SIZE, PROJ_SIZE = 5, 3, 3, 4, 2
LENGTHS = [3, 5, 1]  # unsorted; PyTorch refuses 0
COMMITTED = 5  # two cases in so many: all formats, layouts and classes are among them


def draw(name, *shape):
    return torch.from_numpy(store.draw(name, *shape))


# Files: {name: tensor} of a layer -> bytes, and the prefix of the layer.


def plain(tensors):
    return tensors, ""


def nested(tensors):
    """A checkpoint of a training."""
    contents = {
        "epoch": 3, "losses": [0.5, 0.25], "note": "é", "rng": None, "shape": torch.Size([2, 3]), "best": (1, True),
        "model_state": {f"encoder.rnn.{name}": tensor for name, tensor in tensors.items()},
        "optimizer": {"state": {0: {"step": torch.tensor(7)}}, "param_groups": [{"lr": 1e-3, "params": [0]}]},
    }  # fmt: skip
    return contents, "model_state.encoder.rnn"


def shared(tensors):
    """Views of one storage."""
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors.values()])
    parts = flat.split([tensor.numel() for tensor in tensors.values()])
    return {name: part.view(tensor.shape) for (name, tensor), part in zip(tensors.items(), parts, strict=True)}, ""


def transposed(tensors):
    return {f"rnn.{name}": tensor.t().contiguous().t() for name, tensor in tensors.items()}, "rnn"


def sliced(tensors):
    """Parts of larger tensors, with strides."""
    found = {}
    for name, tensor in tensors.items():
        larger = torch.full([2 * size + 3 for size in tensor.shape], torch.nan, dtype=tensor.dtype)
        found[name] = larger[tuple(slice(2, 2 + 2 * size, 2) for size in tensor.shape)]
        found[name].copy_(tensor)
    return found, ""


def parameters(tensors):
    return {name: nn.Parameter(tensor) for name, tensor in tensors.items()}, ""


def zipped(contents):
    stream = io.BytesIO()
    torch.save(contents, stream)
    return stream.getvalue(), ".pt"


def deflated(contents):
    """As somebody packs it again."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(zipped(contents)[0])) as old, zipfile.ZipFile(stream, "w", 8) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return stream.getvalue(), ".pth"


def legacy(contents):
    stream = io.BytesIO()
    torch.save(contents, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue(), ".pt"


def legacy_protocol_4(contents):
    stream = io.BytesIO()
    torch.save(contents, stream, _use_new_zipfile_serialization=False, pickle_protocol=4)
    return stream.getvalue(), ".pth"


def as_safetensors(contents):
    """Without what is no tensor; tensors contiguous, each with its own memory."""
    tensors = named(contents, lambda value: isinstance(value, torch.Tensor))
    return safetensors.torch.save({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}), (
        ".safetensors"
    )


LAYOUTS = itertools.cycle((plain, nested, shared, transposed, sliced, parameters, nested))
FORMATS = itertools.cycle((zipped, legacy, as_safetensors, zipped, deflated, legacy_protocol_4))


# Cases


def recurrent_modules():
    """(name, module, dtype of the file) of the grid."""
    classes = {
        "lstm": (nn.LSTM, {}), "lstm_proj": (nn.LSTM, {"proj_size": PROJ_SIZE}), "gru": (nn.GRU, {}),
        "rnn_tanh": (nn.RNN, {}), "rnn_relu": (nn.RNN, {"nonlinearity": "relu"}),
    }  # fmt: skip
    flags = (False, True)
    for (name, (cls, options)), layers, two, bias, batch_first in itertools.product(
        classes.items(), (1, 2), flags, flags, flags
    ):
        words = [name, f"{layers}layer", *["bidirectional"] * two, *["nobias"] * (not bias)]
        words += ["batch_first"] * batch_first
        for dtype in (torch.float32, torch.float64):
            module = cls(
                INPUT_SIZE, HIDDEN_SIZE, layers, bias=bias, batch_first=batch_first, bidirectional=two, dtype=dtype,
                **options,
            )  # fmt: skip
            yield "_".join([*words, str(dtype)[6:]]), module, dtype
        if layers == 2 and bias and not batch_first:
            for dtype in (torch.float16, torch.bfloat16):
                module = cls(INPUT_SIZE, HIDDEN_SIZE, layers, bidirectional=two, **options)
                yield "_".join([*words, str(dtype)[6:]]), module.to(dtype).float(), dtype


def recurrent_case(module, prefix):
    dtype = module.weight_ih_l0.dtype
    name = type(module).__name__
    axes = (BATCH, SEQ_LEN) if module.batch_first else (SEQ_LEN, BATCH)
    outer = (module.num_layers * (1 + module.bidirectional), BATCH)
    given = {"x": draw("x", *axes, INPUT_SIZE), "h_0": draw("h_0", *outer, module.proj_size or HIDDEN_SIZE)}
    if name == "LSTM":
        given["c_0"] = draw("c_0", *outer, HIDDEN_SIZE)
    leaves = {key: value.to(dtype).requires_grad_() for key, value in given.items()}

    def run(x):
        state = (leaves["h_0"], leaves["c_0"]) if name == "LSTM" else leaves["h_0"]
        y, state_n = module(x, state)
        return y, dict(zip(("h_n", "c_n"), state_n if name == "LSTM" else (state_n,), strict=False))

    y, state_n = run(leaves["x"])
    results = {"y": y, **state_n}
    sequence, packed_n = run(
        pack_padded_sequence(leaves["x"], LENGTHS, batch_first=module.batch_first, enforce_sorted=False)
    )
    packed_y, _ = pad_packed_sequence(sequence, module.batch_first, total_length=SEQ_LEN)
    packed = {"packed.y": packed_y, **{f"packed.{key}": value for key, value in packed_n.items()}}
    arrays = {**given, **results, **packed, "lengths": torch.tensor(LENGTHS)}
    if dtype == torch.float64:
        weights = {f"d{key}": draw(f"d{key}", *value.shape) for key, value in results.items()}
        loss = sum((results[key] * weights[f"d{key}"]).sum() for key in results)
        module.zero_grad()
        loss.backward()
        arrays |= weights | {f"d{key}": value.grad for key, value in leaves.items()}
        arrays |= {f"d.{key}": value.grad for key, value in module.named_parameters()}
    ask = {"batch_first": module.batch_first}
    options = {"input_size": INPUT_SIZE, "hidden_size": HIDDEN_SIZE, "num_layers": module.num_layers,
               "bias": module.bias, "bidirectional": module.bidirectional, **ask}  # fmt: skip
    if name == "LSTM":
        options["proj_size"] = module.proj_size
    if name == "RNN":
        options["nonlinearity"] = ask["nonlinearity"] = module.nonlinearity
    return {"prefix": prefix, "ask": ask, "options": options}, arrays


def cell_case(module, prefix):
    name = type(module).__name__
    arrays = {"x": draw("x", SEQ_LEN, BATCH, INPUT_SIZE), "h_0": draw("h_0", 1, BATCH, HIDDEN_SIZE)}
    state = [arrays["h_0"][0]]
    if name == "LSTMCell":
        arrays["c_0"] = draw("c_0", 1, BATCH, HIDDEN_SIZE)
        state.append(arrays["c_0"][0])
    y = []
    for x in arrays["x"]:
        out = module(x, tuple(state) if len(state) > 1 else state[0])
        state = list(out) if len(state) > 1 else [out]
        y.append(state[0])
    arrays["y"] = torch.stack(y)
    arrays |= {key: value[None] for key, value in zip(("h_n", "c_n"), state, strict=False)}
    ask = {"nonlinearity": module.nonlinearity} if name == "RNNCell" else {}
    options = {"input_size": INPUT_SIZE, "hidden_size": HIDDEN_SIZE, **ask}
    return {"prefix": prefix, "ask": ask, "options": options}, arrays


def other_case(module, prefix):
    x = draw("x", SEQ_LEN, BATCH, INPUT_SIZE)
    if isinstance(module, nn.Embedding):
        x = torch.tensor([[0, 3, 4], [1, 1, 2]])
    kind = type(module).__name__
    return {"prefix": prefix, "ask": {"kind": kind}, "options": {}}, {"x": x, "y": module(x)}


def other_modules():
    double = {"dtype": torch.float64}
    for bias in (True, False):
        for cls in (nn.LSTMCell, nn.GRUCell, nn.RNNCell):
            yield f"{cls.__name__}{'' if bias else '_nobias'}", cls(INPUT_SIZE, HIDDEN_SIZE, bias, **double), cell_case
        yield f"Linear{'' if bias else '_nobias'}", nn.Linear(INPUT_SIZE, HIDDEN_SIZE, bias, **double), other_case
    yield "RNNCell_relu", nn.RNNCell(INPUT_SIZE, HIDDEN_SIZE, nonlinearity="relu", **double), cell_case
    yield "Embedding", nn.Embedding(5, INPUT_SIZE, padding_idx=0, **double), other_case
    yield "LayerNorm", nn.LayerNorm(INPUT_SIZE, **double), other_case


def cases():
    """{name: (about, arrays, module)} of the whole grid."""
    modules = [(name, module, dtype, recurrent_case) for name, module, dtype in recurrent_modules()]
    modules += [(name, module, torch.float64, make) for name, module, make in other_modules()]
    found = {}
    for (name, module, dtype, make), layout, form in zip(modules, LAYOUTS, FORMATS, strict=False):
        with torch.no_grad():  # exact in float16 and bfloat16 too, and they pack well
            for key, value in module.named_parameters():
                value.copy_(draw(key, *value.shape))
        tensors = {key: value.detach().to(dtype) for key, value in module.named_parameters()}
        contents, prefix = layout(tensors)
        about, arrays = make(module, prefix)
        content, about["suffix"] = form(contents)
        arrays = {key: value.detach().numpy() for key, value in arrays.items()}
        arrays["file"] = np.frombuffer(content, np.uint8)
        found[f"{name}-{layout.__name__}-{form.__name__}"] = about, arrays, module
    return found


def check(whole):
    """Compare every case twice: read from its file, and made of its module."""
    with tempfile.TemporaryDirectory() as directory:
        for name, (about, arrays, module) in whole.items():
            path = Path(directory) / f"file{about['suffix']}"
            path.write_bytes(arrays["file"].tobytes())
            for layer in (cylstm.load_torch(path, about["prefix"], **about["ask"]), cylstm.from_torch(module)):
                try:
                    torch_cases.compare(about, arrays, layer)
                except AssertionError as error:
                    raise AssertionError(f"{name}: {error}") from error


def main():
    torch.manual_seed(0)
    whole = cases()
    if "--check" in sys.argv:
        check(whole)
        print(f"{len(whole)} cases agree")
        return
    names = [name for n, name in enumerate(whole) if n % COMMITTED < 2]
    store.save(HERE / "torch.npz", {name: whole[name][:2] for name in names})


if __name__ == "__main__":
    main()
