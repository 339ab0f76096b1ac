"""Makes the golden files onnx_*.npz of tests/test_golden_family.py: the operators LSTM, GRU and RNN of ONNX.

Run it from anywhere, after ``pip install onnx onnxruntime``; the files land beside it::

    python tests/golden/make_onnx.py

Three sources, and one file for each and each operator; store.py explains their layout.

    onnx_node_*         the node test cases that the onnx package has, with the outputs that they expect
    onnx_reference_*    onnx.reference.ReferenceEvaluator, in float64. Of the attributes it honours direction, layout
                        and linear_before_reset, and RNN's activations if they are Tanh or Affine. The other ones and
                        sequence_lens it takes and ignores (onnx 1.23), so they are not asked of it here.
    onnx_runtime_*      onnxruntime, on a CPU, in float32: lengths, clip, input_forget, and all activations. It refuses
                        layout=1.

A case has those outputs that its source returned: some node tests have no y. What ONNX couples by input_forget is
f = 1 - i; the rows of f, which it takes and ignores, are left out here.
"""

import itertools
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from onnx.backend.test.loader import load_model_tests
from onnx.reference import ReferenceEvaluator
from store import draw, save

SEQ_LEN, BATCH, INPUT_SIZE, HIDDEN_SIZE = 5, 4, 2, 3
LENGTHS = np.array([3, 0, 5, 1], dtype=np.int32)
OPSET, IR_VERSION = 14, 8  # the first with layout; onnxruntime reads all that came before it

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
# where our gates are in ONNX's order, which is i, o, f, g or z, r, n, and our peepholes in i, o, f
ORDER = {"LSTM": [0, 2, 3, 1], "GRU": [1, 0, 2], "RNN": [0]}
PEEPHOLE_ORDER = [0, 2, 1]
COUPLED_ORDER, COUPLED_PEEPHOLE_ORDER = [0, 3, 1], [0, 1]
RESETS = [(0, "reset_before"), (1, "reset_after")]  # linear_before_reset, in our words
INPUTS = ["X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"]

# ONNX's name of an activation, ours, and the defaults of alpha and beta
ACTIVATIONS = {
    "Sigmoid": ("sigmoid",),
    "Tanh": ("tanh",),
    "Relu": ("relu",),
    "LeakyRelu": ("leaky_relu", 0.01),
    "ThresholdedRelu": ("thresholded_relu", 1.0),
    "Affine": ("affine", 1.0, 0.0),
    "ScaledTanh": ("scaled_tanh", 1.0, 1.0),
    "HardSigmoid": ("hard_sigmoid", 0.2, 0.5),
    "Elu": ("elu", 1.0),
    "Softsign": ("softsign",),
    "Softplus": ("softplus",),
}


def convert_activations(attributes):
    """Ours, of one direction; an activation takes as many of the alphas and betas as it needs, in order."""
    alphas, betas = (iter(attributes.get(f"activation_{name}", ())) for name in ("alpha", "beta"))
    activations = []
    for onnx_name in attributes["activations"]:
        name, *numbers = ACTIVATIONS[onnx_name]
        numbers = [next(values, number) for values, number in zip((alphas, betas), numbers, strict=False)]
        activations.append([name, *numbers] if numbers else name)
    directions = 1 + (attributes.get("direction") == "bidirectional")
    assert activations == activations[: len(activations) // directions] * directions  # there is one set here
    return activations[: len(activations) // directions]


def convert_options(operator, attributes, inputs):
    """What the layer here is made with."""
    options = {"semantics": "onnx"}
    match attributes.get("direction", "forward"):
        case "bidirectional":
            options["bidirectional"] = True
        case "reverse":
            options["reverse"] = True
    if "B" not in inputs:
        options["bias"] = False
    if "P" in inputs:
        options["peepholes"] = True
    if attributes.get("input_forget"):
        options["coupled"] = "f=1-i"
    if "clip" in attributes:
        options["clip"] = {"gates": attributes["clip"]}
    if operator == "GRU":
        options["reset_after"] = bool(attributes.get("linear_before_reset", 0))
    if "activations" in attributes:
        activations = convert_activations(attributes)
        options |= {"nonlinearity": activations[0]} if operator == "RNN" else {"activations": activations}
    return options


def convert(operator, attributes, inputs, outputs, source):
    """One case, of the operator's inputs and outputs by ONNX's names."""
    coupled = attributes.get("input_forget", 0)
    order = COUPLED_ORDER if coupled else ORDER[operator]

    def reorder(array, parts, order):
        blocks = np.split(array, parts)
        return np.concatenate([blocks[place] for place in order])

    arrays = {}
    for direction, suffix in zip(range(len(inputs["W"])), ("_l0", "_l0_reverse"), strict=False):
        parts = {"weight_ih": inputs["W"][direction], "weight_hh": inputs["R"][direction]}
        if "B" in inputs:
            parts["bias_ih"], parts["bias_hh"] = np.split(inputs["B"][direction], 2)
        parts = {name: reorder(part, GATES[operator], order) for name, part in parts.items()}
        if "P" in inputs:
            peephole_order = COUPLED_PEEPHOLE_ORDER if coupled else PEEPHOLE_ORDER
            parts["weight_peephole"] = reorder(inputs["P"][direction], 3, peephole_order)
        arrays |= {f"parameters.{name}{suffix}": part for name, part in parts.items()}

    found = inputs | outputs
    if attributes.get("layout"):  # the batch is first in all of these
        found |= {name: found[name].swapaxes(0, 1) for name in ("X", "initial_h", "initial_c") if name in found}
        found |= {name: found[name].swapaxes(0, 1) for name in ("Y_h", "Y_c") if name in found}
        if "Y" in found:
            found["Y"] = found["Y"].transpose(1, 2, 0, 3)
    names = {"X": "x", "initial_h": "h_0", "initial_c": "c_0", "Y_h": "h_n", "Y_c": "c_n", "sequence_lens": "lengths"}
    arrays |= {ours: found[theirs] for theirs, ours in names.items() if theirs in found}
    if "Y" in found:  # (T, D, B, H)
        y = found["Y"].swapaxes(1, 2)
        arrays["y"] = y.reshape(*y.shape[:2], -1)

    options = convert_options(operator, attributes, inputs)
    return {"kind": operator.lower(), "options": options, "source": source}, arrays


def read_attributes(node):
    """A node's attributes as a dict of Python's types."""
    values = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}


# The node tests of the package ------------------------------------------------------------------


def node_tests():
    """Triples of an operator, a name and a case."""
    for case in load_model_tests(kind="node"):
        (node,) = case.model.graph.node if len(case.model.graph.node) == 1 else (None,)
        if node is None or node.op_type not in GATES:
            continue
        ((inputs, outputs),) = case.data_sets
        inputs = dict(zip((INPUTS[n] for n, name in enumerate(node.input) if name), inputs, strict=True))
        names = [name for name in node.output if name]
        outputs = dict(zip(names, outputs, strict=True))
        source = f"onnx {onnx.__version__}, node test {case.name}"
        name = case.name.removeprefix("test_").removeprefix("simple_").partition("_")[2]
        yield node.op_type, name, convert(node.op_type, read_attributes(node), inputs, outputs, source)


# Cases of our own, run by the reference evaluator or by onnxruntime -----------------------------


def make_inputs(operator, attributes, given, dtype):
    """Inputs by ONNX's names; given has any of "B", "P", "initial" and "sequence_lens"."""
    directions = 1 + (attributes.get("direction") == "bidirectional")
    rows = GATES[operator] * HIDDEN_SIZE
    x_shape, state_shape = (SEQ_LEN, BATCH), (directions, BATCH)
    if attributes.get("layout"):
        x_shape, state_shape = x_shape[::-1], state_shape[::-1]
    shapes = {
        "X": (*x_shape, INPUT_SIZE),
        "W": (directions, rows, INPUT_SIZE),
        "R": (directions, rows, HIDDEN_SIZE),
        "B": (directions, 2 * rows),
        "initial_h": (*state_shape, HIDDEN_SIZE),
        "initial_c": (*state_shape, HIDDEN_SIZE),
        "P": (directions, 3 * HIDDEN_SIZE),
    }
    wanted = {"X", "W", "R", *given}
    if "initial" in wanted:
        wanted |= {"initial_h", "initial_c"} if operator == "LSTM" else {"initial_h"}
    inputs = {name: draw(name, *shape).astype(dtype) for name, shape in shapes.items() if name in wanted}
    return inputs | ({"sequence_lens": LENGTHS} if "sequence_lens" in wanted else {})


def run(evaluate, operator, given=(), dtype=np.float32, **attributes):
    """Inputs of a case, and its outputs by ``evaluate(model, inputs)``."""
    inputs = make_inputs(operator, attributes, given, dtype)
    input_names = [name if name in inputs else "" for name in INPUTS]
    while not input_names[-1]:
        input_names.pop()
    output_names = ["Y", "Y_h", "Y_c"][: 3 if operator == "LSTM" else 2]
    node = helper.make_node(operator, input_names, output_names, hidden_size=HIDDEN_SIZE, **attributes)

    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    inputs_info = [
        helper.make_tensor_value_info(
            name, TensorProto.INT32 if name == "sequence_lens" else element, inputs[name].shape
        )
        for name in inputs
    ]
    outputs_info = [helper.make_tensor_value_info(name, element, None) for name in output_names]
    graph = helper.make_graph([node], "recurrent", inputs_info, outputs_info)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    outputs = dict(zip(output_names, evaluate(model, inputs), strict=True))
    return inputs, outputs


def evaluate_reference(model, inputs):
    return ReferenceEvaluator(model).run(None, inputs)


def evaluate_runtime(model, inputs):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return session.run(None, inputs)


def reference_cases():
    """Pairs of a name and the arguments of run."""
    biased = ["B", "initial"]
    yield "lstm_peepholes", {"operator": "LSTM", "given": [*biased, "P"]}
    yield "lstm_reverse", {"operator": "LSTM", "given": biased, "direction": "reverse"}
    peepholes_and_layout = {"given": [*biased, "P"], "direction": "bidirectional", "layout": 1}
    yield "lstm_bidirectional_peepholes_layout_1", {"operator": "LSTM", **peepholes_and_layout}
    for before, name in RESETS:
        gru = {"operator": "GRU", "given": biased, "linear_before_reset": before}
        yield f"gru_{name}", gru
        yield f"gru_{name}_bidirectional_layout_1", gru | {"direction": "bidirectional", "layout": 1}
    yield "rnn_reverse", {"operator": "RNN", "given": biased, "direction": "reverse"}
    affine = {"activations": ["Affine"], "activation_alpha": [0.5], "activation_beta": [0.25]}
    yield "rnn_affine_layout_1", {"operator": "RNN", "given": biased, "layout": 1, **affine}


def activated(operator, *activations, direction="forward"):
    """Attributes that set activations, each (name, alpha, beta) with what it takes."""
    directions = 1 + (direction == "bidirectional")
    attributes = {"operator": operator, "given": ["B", "initial"], "direction": direction}
    attributes["activations"] = [name for name, *_ in activations] * directions
    for place, name in ((1, "alpha"), (2, "beta")):
        numbers = [activation[place] for activation in activations if len(activation) > place]
        if numbers:
            attributes[f"activation_{name}"] = numbers * directions
    return attributes


def runtime_cases():
    """Pairs of a name and the arguments of run."""
    everything = ["B", "initial", "sequence_lens"]
    for direction in ("forward", "reverse", "bidirectional"):
        base = {"given": everything, "direction": direction}
        yield f"lstm_{direction}_lengths", base | {"operator": "LSTM"}
        for before, name in RESETS:
            yield f"gru_{name}_{direction}_lengths", base | {"operator": "GRU", "linear_before_reset": before}
        yield f"rnn_{direction}_lengths", base | {"operator": "RNN"}
    for operator in GATES:
        yield f"{operator.lower()}_without_bias", {"operator": operator}

    biased, peepholes = ["B", "initial"], ["B", "initial", "P"]
    lstm = {"operator": "LSTM"}
    yield "lstm_peepholes_lengths", lstm | {"given": [*everything, "P"], "direction": "reverse"}
    yield "lstm_clip", lstm | {"given": biased, "clip": 0.75}
    yield "lstm_clip_peepholes", lstm | {"given": peepholes, "clip": 0.75}
    yield "lstm_input_forget", lstm | {"given": biased, "input_forget": 1}
    yield "lstm_input_forget_peepholes_clip", lstm | {"given": peepholes, "input_forget": 1, "clip": 0.75}
    coupled = {"given": [*everything, "P"], "input_forget": 1, "direction": "bidirectional"}
    yield "lstm_input_forget_peepholes_bidirectional_lengths", lstm | coupled
    for before, name in RESETS:
        yield f"gru_{name}_clip", {"operator": "GRU", "given": biased, "linear_before_reset": before, "clip": 0.75}
    yield "rnn_clip", {"operator": "RNN", "given": biased, "clip": 0.75}

    numbered = [("LeakyRelu", 0.25), ("ThresholdedRelu", 0.5), ("Affine", 0.5, 0.25), ("ScaledTanh", 0.75, 0.5)]
    numbered += [("HardSigmoid", 0.25, 0.375), ("Elu", 0.5)]
    for activation in [("Sigmoid",), ("Relu",), ("Softsign",), ("Softplus",), *numbered]:
        yield f"rnn_{activation[0]}", activated("RNN", activation)
    triples = [
        [("HardSigmoid", 0.25, 0.375), ("Elu", 0.5), ("ScaledTanh", 0.75, 0.5)],
        [("Affine", 0.25, 0.5), ("Softsign",), ("LeakyRelu", 0.25)],
        [("Sigmoid",), ("ThresholdedRelu", 0.5), ("Softplus",)],
        [("Softsign",), ("ScaledTanh", 0.75, 0.5), ("Elu", 0.5)],
        [("HardSigmoid",), ("LeakyRelu",), ("Relu",)],
    ]
    for triple in triples:
        name = "_".join(activation[0] for activation in triple)
        yield f"lstm_{name}", activated("LSTM", *triple)
    yield "lstm_bidirectional_activations", activated("LSTM", *triples[0], direction="bidirectional")
    for (before, name), (first, second, _) in itertools.product(RESETS, triples[:3]):
        yield (
            f"gru_{name}_{first[0]}_{second[0]}",
            {
                **activated("GRU", first, second),
                "linear_before_reset": before,
            },
        )


def own_cases(evaluate, cases, source, dtype):
    """As node_tests."""
    for name, arguments in cases:
        inputs, outputs = run(evaluate, dtype=dtype, **arguments)
        inputs = {k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in inputs.items()}
        attributes = {k: v for k, v in arguments.items() if k not in ("operator", "given")}
        operator = arguments["operator"]
        case = convert(operator, attributes, inputs, outputs, source)
        yield operator, name.lower().removeprefix(f"{operator.lower()}_"), case


def main():
    source = f"onnx {onnx.__version__}, reference evaluator"
    groups = {
        "node": node_tests(),
        "reference": own_cases(evaluate_reference, reference_cases(), source, np.float64),
        "runtime": own_cases(evaluate_runtime, runtime_cases(), f"onnxruntime {onnxruntime.__version__}", np.float32),
    }
    for group, found in groups.items():
        files = {operator: {} for operator in GATES}
        for operator, name, case in found:
            files[operator][name] = case
        for operator, cases in files.items():
            save(Path(__file__).parent / f"onnx_{group}_{operator.lower()}.npz", cases)


if __name__ == "__main__":
    main()
