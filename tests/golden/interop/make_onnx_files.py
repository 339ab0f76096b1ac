"""Makes the golden files onnx_models_*.npz of tests/test_interop_onnx.py: models of ONNX, inputs, and what they make.

Run it from anywhere; the files land beside it::

    pip install torch==2.13.0 onnx onnxruntime onnxscript
    python tests/golden/interop/make_onnx_files.py              # both files
    python tests/golden/interop/make_onnx_files.py --check 500  # no file: random nodes and models, against cylstm

``nodes``: single LSTM, GRU and RNN nodes with every attribute and input, in every opset from 7 to 22. Run by
onnxruntime, in float32; with layout=1, or in float64, by onnx's reference evaluator, which ignores sequence_lens and
most attributes: they are not asked of it.

``graphs``: PyTorch's models as both of its exporters write them, and graphs made by hand. Run by onnxruntime.

A file is one of ../store.py: of a case, ``about`` has

    kind        "node", or "graph"
    options     of a node, {"layout": 0 or 1}; of a graph, the order of axes {"x": "btf", "y": "bf"}
    source      who computed the outputs

and ``arrays`` has "model", its bytes, and inputs and outputs by ONNX's names for a node, x, lengths where the graph has
them, and y for a graph.
"""

import argparse
import io
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from store import draw, save  # noqa: E402

SEQ_LEN, BATCH, INPUT_SIZE, HIDDEN_SIZE = 5, 4, 2, 3
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
ROLES = {"LSTM": 3, "GRU": 2, "RNN": 1}
INPUTS = ["X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"]
LENGTHS = np.array([3, 0, 5, 1], dtype=np.int32)

# With numbers that neither the specification nor onnxruntime has as defaults. Of gates those alone that have bounds, of
# a GRU those from 0 to 1: with others h grows until float32 has no digit left.
ACTIVATIONS = [
    ("Sigmoid",), ("Tanh",), ("Relu",), ("Softsign",), ("Softplus",), ("LeakyRelu", 0.25), ("ThresholdedRelu", 0.5),
    ("Elu", 0.5), ("Affine", 0.5, 0.25), ("ScaledTanh", 0.75, 0.5), ("HardSigmoid", 0.25, 0.375),
]  # fmt: skip
GATES_OF = {"LSTM": ("Sigmoid", "Tanh", "Softsign", "ScaledTanh", "HardSigmoid"), "GRU": ("Sigmoid", "HardSigmoid")}


def choose(operator, place):
    """The activations of a direction, ``place(count)`` of a list each."""
    kinds = [ACTIVATIONS] * ROLES[operator]
    if operator in GATES_OF:
        kinds[0] = [one for one in ACTIVATIONS if one[0] in GATES_OF[operator]]
    return [kind[place(len(kind))] for kind in kinds]


def weights(operator, directions, layout, given, dtype):
    """Inputs of a node by ONNX's names; ``given`` has any of B, P, initial_h, initial_c, sequence_lens."""
    rows = GATES[operator] * HIDDEN_SIZE
    x_shape, state_shape = (SEQ_LEN, BATCH), (directions, BATCH)
    if layout:
        x_shape, state_shape = x_shape[::-1], state_shape[::-1]
    shapes = {
        "X": (*x_shape, INPUT_SIZE), "W": (directions, rows, INPUT_SIZE), "R": (directions, rows, HIDDEN_SIZE),
        "B": (directions, 2 * rows), "initial_h": (*state_shape, HIDDEN_SIZE),
        "initial_c": (*state_shape, HIDDEN_SIZE), "P": (directions, 3 * HIDDEN_SIZE),
    }  # fmt: skip
    wanted = {"X", "W", "R", *given}
    found = {name: draw(name, *shape).astype(dtype) for name, shape in shapes.items() if name in wanted}
    return found | ({"sequence_lens": LENGTHS} if "sequence_lens" in given else {})


def node_model(operator, inputs, opset, stored=(), **attributes):
    """A model of one node. W, R, B and P, and what ``stored`` names, are in the file; the other inputs are its own."""
    names = [name if name in inputs else "" for name in INPUTS]
    while not names[-1]:
        names.pop()
    outputs = ["Y", "Y_h", "Y_c"][: 3 if operator == "LSTM" else 2]
    node = helper.make_node(operator, names, outputs, "recurrent", hidden_size=HIDDEN_SIZE, **attributes)
    element = helper.np_dtype_to_tensor_dtype(inputs["X"].dtype)
    fed = [name for name in inputs if name not in ("W", "R", "B", "P", *stored)]
    infos = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(inputs[name].dtype), inputs[name].shape)
        for name in fed
    ]
    graph = helper.make_graph(
        [node], "node", infos, [helper.make_tensor_value_info(name, element, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in inputs.items() if name not in fed],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return model, {name: inputs[name] for name in fed}, outputs


def run_runtime(model, inputs):
    """The outputs by onnxruntime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"]).run(None, inputs)


def run_reference(model, inputs):
    """The outputs by onnx's own evaluator."""
    return ReferenceEvaluator(model).run(None, inputs)


def node_case(operator, given=(), opset=22, stored=(), dtype=np.float32, **attributes):
    """A case of one node."""
    directions, layout = 1 + (attributes.get("direction") == "bidirectional"), attributes.get("layout", 0)
    inputs = weights(operator, directions, layout, given, dtype)
    if "stored" in given:  # one state for all rows
        for name in stored:
            axis = 0 if layout else 1
            inputs[name] = np.repeat(inputs[name].take([0], axis), BATCH, axis)
    model, fed, names = node_model(operator, inputs, opset, stored, **attributes)
    by_reference = layout or dtype != np.float32
    outputs = (run_reference if by_reference else run_runtime)(model, fed)
    source = f"onnx {onnx.__version__}" if by_reference else f"onnxruntime {onnxruntime.__version__}"
    content = np.frombuffer(model.SerializeToString(), np.uint8)
    arrays = {"model": content, **fed, **dict(zip(names, outputs, strict=True))}
    return {"kind": "node", "options": {"layout": layout}, "source": source}, arrays


def activated(operator, chosen, direction="forward"):
    """Attributes that set activations, each (name, alpha, beta) with what it takes; a list for each direction."""
    chosen = [one for part in chosen for one in part]
    found = {"activations": [name for name, *_ in chosen], "direction": direction}
    for place, name in ((1, "alpha"), (2, "beta")):
        numbers = [one[place] for one in chosen if len(one) > place]
        found |= {f"activation_{name}": numbers} if numbers else {}
    return found


def node_cases():
    """Pairs of a name and the arguments of node_case."""
    states = {"LSTM": ["initial_h", "initial_c"], "GRU": ["initial_h"], "RNN": ["initial_h"]}
    for operator, initial in states.items():
        everything = ["B", "sequence_lens", *initial]
        for direction in ("forward", "reverse", "bidirectional"):
            yield f"{operator}_{direction}", {"operator": operator, "given": everything, "direction": direction}
            layout = {"given": ["B", *initial], "direction": direction, "layout": 1, "opset": 14}
            if (operator, direction) != ("RNN", "bidirectional"):  # which the evaluator can not
                yield f"{operator}_{direction}_layout_1", {"operator": operator, "dtype": np.float64, **layout}
        stored = {"given": ["B", "stored", *initial], "stored": initial, "direction": "bidirectional"}
        yield f"{operator}_stored_state", {"operator": operator, **stored}
        yield f"{operator}_without_bias", {"operator": operator}
        yield f"{operator}_clip", {"operator": operator, "given": ["B"], "clip": 0.75}
        for opset in range(7, 23):
            kind = ("forward", "reverse", "bidirectional")[opset % 3]
            yield f"{operator}_opset_{opset}", {"operator": operator, "given": ["B"], "opset": opset, "direction": kind}
        yield f"{operator}_float64", {"operator": operator, "given": ["B", *initial], "dtype": np.float64}
        for n in range(len(ACTIVATIONS)):
            places = iter(range(n, n + 9, 3))
            chosen = choose(operator, lambda count, places=places: next(places) % count)
            more = {"given": ["B", *initial], **activated(operator, [chosen])}
            yield f"{operator}_activations_{n}", {"operator": operator, **more}
        two = [choose(operator, lambda count, n=n: n % count) for n in (5, 8)]
        more = {"given": ["B"], **activated(operator, two, "bidirectional")}
        yield f"{operator}_two_directions", {"operator": operator, **more}
    for before in (0, 1):
        given = {"operator": "GRU", "given": ["B", "initial_h", "sequence_lens"], "linear_before_reset": before}
        for direction in ("forward", "bidirectional"):
            yield f"GRU_reset_{before}_{direction}", given | {"direction": direction}
        yield f"GRU_reset_{before}_layout_1", given | {"given": ["B"], "layout": 1, "dtype": np.float64}
    peepholes = ["B", "P", "initial_h", "initial_c"]
    for input_forget in (0, 1):
        for direction in ("reverse", "bidirectional"):
            more = {"given": peepholes, "direction": direction, "input_forget": input_forget}
            yield f"LSTM_peepholes_{input_forget}_{direction}", {"operator": "LSTM", **more}
    yield "LSTM_input_forget", {"operator": "LSTM", "given": ["B"], "input_forget": 1, "clip": 0.5}
    yield "LSTM_initial_h_alone", {"operator": "LSTM", "given": ["B", "initial_h", "stored"], "stored": ["initial_h"]}


def random_cases(count):
    """As node_cases, drawn from all that there is."""
    rng = np.random.default_rng(0)
    for n in range(count):
        operator = str(rng.choice(list(GATES)))
        direction = str(rng.choice(["forward", "reverse", "bidirectional"]))
        directions = 1 + (direction == "bidirectional")
        given = [name for name in ("B", "initial_h", "sequence_lens") if rng.random() < 0.6]
        given += [name for name in ("initial_c", "P") if operator == "LSTM" and rng.random() < 0.5]
        chosen = [choose(operator, lambda count: int(rng.integers(count))) for _ in range(directions)]
        attributes = activated(operator, chosen, direction) if rng.random() < 0.6 else {"direction": direction}
        if rng.random() < 0.3:
            attributes["clip"] = float(rng.integers(1, 8)) / 4
        if operator == "GRU":
            attributes["linear_before_reset"] = int(rng.integers(2))
        if operator == "LSTM" and rng.random() < 0.3:
            attributes["input_forget"] = 1
        stored = [name for name in ("initial_h", "initial_c") if name in given] if rng.random() < 0.4 else []
        opset = int(rng.integers(7, 23))
        yield f"random_{n}", {
            "operator": operator, "given": [*given, "stored"], "stored": stored, "opset": opset, **attributes,
        }  # fmt: skip


# Graphs -----------------------------------------------------------------------------------------


def torch_models():
    """(name, module, inputs, axes of x and y, whether the new exporter writes its recurrent nodes)."""
    import torch
    from torch import nn

    class Model(nn.Module):
        """A recurrent layer, what is taken of it, and what comes behind."""

        def __init__(self, recurrent, take, head=None, before=None):
            super().__init__()
            self.before, self.recurrent, self.take, self.head = before, recurrent, take, head

        def forward(self, x, *state):
            if self.before is not None:
                x = self.before(x)
            y, end = self.recurrent(x, *state) if state else self.recurrent(x)
            y = self.take(y, end)
            return y if self.head is None else self.head(y)

    class Learned(nn.Module):
        """An initial state that is a parameter, one for all rows."""

        def __init__(self):
            super().__init__()
            self.recurrent = nn.GRU(3, 4, batch_first=True)
            self.h_0 = nn.Parameter(torch.randn(1, 1, 4))

        def forward(self, x):
            return self.recurrent(x, self.h_0.expand(-1, x.shape[0], -1).contiguous())[0]

    def every(y, end):
        return y

    def last(y, end):
        return y[:, -1]

    def both_ends(y, end):
        return torch.cat([y[:, -1, :4], y[:, 0, 4:]], 1)

    def last_two(y, end):
        return torch.cat([end[-2], end[-1]], 1)

    def last_h(y, end):
        return end[0][-1] if isinstance(end, tuple) else end[-1]

    def turned(y, end):
        return end[0].transpose(0, 1).reshape(-1, 8)

    def added(y, end):
        return y[..., :4] + y[..., 4:]

    torch.manual_seed(0)
    two, first = {"num_layers": 2, "batch_first": True}, {"batch_first": True}
    many, two_ways = ({**options, "bidirectional": True} for options in (two, first))
    numbers = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 2), nn.Softmax(dim=-1))
    yield "lstm", Model(nn.LSTM(3, 4), every), "tbf", "tbf", True
    yield "lstm_stacked_last_linear", Model(nn.LSTM(3, 4, **two), last, nn.Linear(4, 2)), "btf", "bf", True
    yield "lstm_bidirectional_last", Model(nn.LSTM(3, 4, **many), last, nn.Linear(8, 2)), "btf", "bf", True
    yield "lstm_both_ends", Model(nn.LSTM(3, 4, **many), both_ends, nn.Linear(8, 2)), "btf", "bf", True
    yield "lstm_h_n_turned", Model(nn.LSTM(3, 4, **two_ways), turned, nn.Linear(8, 2)), "btf", "bf", True
    yield "lstm_added", Model(nn.LSTM(3, 4, **two_ways), added, nn.Tanh()), "btf", "btf", True
    yield "lstm_head", Model(nn.LSTM(3, 4, **first), last_h, numbers), "btf", "bf", True
    yield "lstm_per_step", Model(nn.LSTM(3, 4, bias=False), every, nn.Linear(4, 2, bias=False)), "tbf", "tbf", True
    words = nn.Embedding(7, 3)
    norm = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 2), nn.LeakyReLU(0.2))
    yield "lstm_words", Model(nn.LSTM(3, 4, **two_ways), every, norm, words), "bt", "btf", True
    yield "gru_h_n_linear", Model(nn.GRU(3, 4, **many), last_two, nn.Linear(8, 2)), "btf", "bf", True
    yield "gru_stacked", Model(nn.GRU(3, 4, num_layers=3), every, nn.Sigmoid()), "tbf", "tbf", True
    yield "gru_before", Model(nn.GRU(5, 4, **first), last, nn.ELU(), nn.Linear(3, 5)), "btf", "bf", True
    yield "gru_learned_state", Learned(), "btf", "btf", False
    yield "rnn_h_n", Model(nn.RNN(3, 4, 2, nonlinearity="relu", **first), last_h, nn.Softplus()), "btf", "bf", False
    yield "rnn_bidirectional", Model(nn.RNN(3, 4, bidirectional=True), every), "tbf", "tbf", False


def packed_models():
    """(name, module, what it takes of y and h_n): sequences of many lengths."""
    import torch
    from torch import nn
    from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

    class Packed(nn.Module):
        def __init__(self, recurrent, head, of_final, enforce_sorted):
            super().__init__()
            self.recurrent, self.head = recurrent, head
            self.of_final, self.enforce_sorted = of_final, enforce_sorted

        def forward(self, x, lengths):
            packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=self.enforce_sorted)
            y, end = self.recurrent(packed)
            if self.of_final:
                return self.head(torch.cat([end[-2], end[-1]], 1))
            return self.head(pad_packed_sequence(y, batch_first=True)[0])

    torch.manual_seed(1)
    options = {"num_layers": 2, "batch_first": True, "bidirectional": True}
    for enforce_sorted in (False, True):
        end = "sorted" if enforce_sorted else "unsorted"
        yield f"packed_{end}", Packed(nn.LSTM(3, 4, **options), nn.Linear(8, 2), False, enforce_sorted), "btf"
        yield f"packed_final_{end}", Packed(nn.GRU(3, 4, **options), nn.Linear(8, 2), True, enforce_sorted), "bf"


def export_packed(module, x, lengths):
    """The bytes of a model by PyTorch's old exporter: the new one can not write this."""
    import torch

    buffer = io.BytesIO()
    axes = {"x": {0: "a", 1: "b"}, "lengths": {0: "a"}}
    torch.onnx.export(
        module, (x, lengths), buffer, dynamo=False, input_names=["x", "lengths"], dynamic_axes=axes, opset_version=17
    )  # fmt: skip
    return buffer.getvalue()


def export(module, x, new, folded=True):
    """The bytes of a model by one of PyTorch's exporters, batch and time left open."""
    import torch

    buffer = io.BytesIO()
    if new:
        sizes = [torch.export.Dim("a", min=2), torch.export.Dim("b", min=2)]
        program = torch.onnx.export(
            module, (x,), dynamo=True, dynamic_shapes=({0: sizes[0], 1: sizes[1]},), verbose=False
        )  # fmt: skip
        program.save(buffer)
    else:
        axes = {"x": {0: "a", 1: "b"}}
        torch.onnx.export(
            module, (x,), buffer, dynamo=False, input_names=["x"], output_names=["y"], dynamic_axes=axes,
            do_constant_folding=folded, opset_version=17,
        )  # fmt: skip
    return buffer.getvalue()


def graph_cases():
    """Pairs of a name and a case."""
    import torch

    for name, module, x_axes, y_axes, both in torch_models():
        module.eval()
        batch_first = x_axes.startswith("bt")
        for kind in ("old", "plain", "new") if both else ("old", "plain"):
            x = torch.randn(4, 5, 3) if x_axes != "bt" else torch.randint(0, 7, (4, 5))
            x = x if batch_first else x.transpose(0, 1).contiguous()
            content = export(module, x, kind == "new", kind == "old")
            model = onnx.load_from_string(content)
            x = x[:3] if batch_first else x[:, :3]
            (y,) = run_runtime(model, {model.graph.input[0].name: x.numpy()})
            source = f"PyTorch {torch.__version__}, {kind} exporter; onnxruntime {onnxruntime.__version__}"
            arrays = {"model": np.frombuffer(_bare(model), np.uint8), "x": x.numpy(), "y": y}
            yield f"{name}_{kind}", ({"kind": "graph", "options": {"x": x_axes, "y": y_axes}, "source": source}, arrays)


    for name, module, y_axes in packed_models():
        module.eval()
        x, lengths = torch.randn(4, 5, 3), torch.tensor([5, 4, 2, 1] if name.endswith("_sorted") else [2, 5, 1, 4])
        model = onnx.load_from_string(export_packed(module, x, lengths))
        (y,) = run_runtime(model, {"x": x.numpy(), "lengths": lengths.numpy()})
        source = f"PyTorch {torch.__version__}, old exporter; onnxruntime {onnxruntime.__version__}"
        content = np.frombuffer(_bare(model), np.uint8)
        arrays = {"model": content, "x": x.numpy(), "lengths": lengths.numpy(), "y": y}
        yield f"{name}_old", ({"kind": "graph", "options": {"x": "btf", "y": y_axes}, "source": source}, arrays)


def _bare(model):
    """The bytes of a model without the names and metadata of its making."""
    model.graph.ClearField("value_info")
    model.ClearField("metadata_props")
    for node in model.graph.node:
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
    return model.SerializeToString()


def random_models(count):
    """Sequentials of layers that ONNX has, each with an x."""
    import cylstm

    rng = np.random.default_rng(1)

    def chance(p):
        return bool(rng.random() < p)

    def recurrent(width):
        kind, options = [cylstm.LSTM, cylstm.GRU, cylstm.RNN][rng.integers(3)], {}
        if chance(0.4):
            options = {"bidirectional": True, "merge": str(rng.choice(["concat", "sum", "mul", "average"]))}
        elif chance(0.3):
            options["reverse"] = True
        if kind is not cylstm.RNN and chance(0.4):
            options |= {"peepholes": True} if kind is cylstm.LSTM else {"reset_after": False}
        options |= {"clip": {"gates": 0.5}} if chance(0.2) else {}
        return kind(width, int(rng.integers(1, 5)), int(rng.integers(1, 3)), bias=chance(0.8), rng=rng, **options)

    for _ in range(count):
        width, timed, layers = int(rng.integers(1, 4)), True, []
        x = draw("x", 3, int(rng.integers(1, 6)), width).astype(np.float32)
        for _ in range(rng.integers(1, 7)):
            layer = recurrent(width)
            if not timed:
                layer = cylstm.Repeat(int(rng.integers(2, 4)))
            elif chance(0.5):
                out = int(rng.integers(1, 4))
                layer = [
                    cylstm.Final(layer), cylstm.Dense(width, out, chance(0.7), str(rng.choice(["relu", "softmax"]))),
                    cylstm.LayerNorm(width), cylstm.Reverse(), cylstm.Activation(("affine", 0.5, 0.25)),
                ][rng.integers(5)]  # fmt: skip
            layers.append(layer)
            shape = layer._output_shape((3, 4, width) if timed else (3, width))
            timed, width = len(shape) == 3, shape[-1]
        yield cylstm.Sequential(layers), x


def check_models(count):
    """What cylstm.to_onnx writes against onnxruntime, and the way back; the worst difference."""
    import cylstm

    worst = 0.0
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.onnx"
        for model, x in random_models(count):
            cylstm.to_onnx(model, path)
            y = model.forward(x)[0]
            found = run_runtime(onnx.load(path), {"x": x})[0]
            back = cylstm.from_onnx(path).forward(x)[0]
            worst = max(worst, (abs(found - y) / np.maximum(1, abs(y))).max())
            if not (worst < 2e-5 and np.array_equal(back, y)):
                raise SystemExit(f"{model}: differs by {worst}, or comes back as another model")
    print(f"{count} models, worst {worst:.2e} of max(1, |y|)")


def check(count):
    """Random nodes against cylstm; the numbers of the worst one."""
    sys.path.insert(0, str(HERE.parents[1]))
    from test_interop_onnx import difference

    worst, done = 0.0, 0
    for name, arguments in random_cases(count):
        try:
            about, arrays = node_case(**arguments)
        except onnxruntime.capi.onnxruntime_pybind11_state.Fail as error:
            print(f"{name}: onnxruntime can not: {error}")
            continue
        found = difference(about, arrays)
        if not found < 2e-5:
            raise SystemExit(f"{name}, {arguments}: differs by {found}")
        worst, done = max(worst, found), done + 1
    print(f"{done} nodes, worst {worst:.2e} of max(1, |y|)")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", type=int, metavar="COUNT")
    arguments = parser.parse_args()
    if arguments.check:
        check(arguments.check)
        check_models(arguments.check)
        return
    warnings.simplefilter("ignore")
    save(HERE / "onnx_models_nodes.npz", {name: node_case(**arguments) for name, arguments in node_cases()})
    save(HERE / "onnx_models_graphs.npz", dict(graph_cases()))


if __name__ == "__main__":
    main()
