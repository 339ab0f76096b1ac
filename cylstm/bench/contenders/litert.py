"""LiteRT: a single-step graph with the state in and out, on the XNNPACK delegate.

    z = W [x, h] + b;  i, f, g, o = split(z);  c' = f c + i g;  h' = o tanh(c')

The graph is written with the schema that the package ships, so no converter is needed. Called by
the interpreter: the package's newer CompiledModel takes 4 us longer at (16, 32) and at (64, 128).
"""

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from ..machine import threads
from . import Job

_OP = schema.BuiltinOperator
_OPTIONS = schema.BuiltinOptions
_X, _H, _C, _H_N, _C_N = range(5)


class _Graph:
    """A float32 graph under construction: a value is the index of its tensor."""

    def __init__(self):
        self.graph = schema.SubGraphT(tensors=[], inputs=[], outputs=[], operators=[], name=b"main")
        self.buffers = [schema.BufferT()]  # buffer 0 is the empty one
        self.codes = []

    def tensor(self, name, shape, value=None):
        buffer = 0
        if value is not None:
            data = np.frombuffer(np.ascontiguousarray(value).tobytes(), np.uint8)
            buffer = len(self.buffers)
            self.buffers.append(schema.BufferT(data=data))
        kind = schema.TensorType.FLOAT32
        if value is not None and value.dtype == np.int32:
            kind = schema.TensorType.INT32
        self.graph.tensors.append(
            schema.TensorT(shape=list(shape), type=kind, buffer=buffer, name=name.encode())
        )
        return len(self.graph.tensors) - 1

    def apply(self, code, inputs, outputs, options_type=_OPTIONS.NONE, options=None):
        if code not in self.codes:
            self.codes.append(code)
        self.graph.operators.append(
            schema.OperatorT(
                opcodeIndex=self.codes.index(code),
                inputs=list(inputs),
                outputs=list(outputs),
                builtinOptionsType=options_type,
                builtinOptions=options,
            )
        )

    def serialize(self, inputs, outputs):
        self.graph.inputs, self.graph.outputs = list(inputs), list(outputs)
        codes = [
            schema.OperatorCodeT(deprecatedBuiltinCode=min(code, 127), builtinCode=code)
            for code in self.codes
        ]
        parts = {"operatorCodes": codes, "subgraphs": [self.graph], "buffers": self.buffers}
        model = schema.ModelT(version=3, **parts)
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def _step_graph(case, data):
    H, p = case.hidden_size, data.parameters
    graph = _Graph()
    x = graph.tensor("x", data.x[0].shape)
    h, c, h_n, c_n = (graph.tensor(name, [1, H]) for name in ("h", "c", "h_n", "c_n"))
    assert (x, h, c, h_n, c_n) == (_X, _H, _C, _H_N, _C_N)
    weight = np.concatenate([p["weight_ih_l0"], p["weight_hh_l0"]], axis=1)
    bias = p["bias_ih_l0"] + p["bias_hh_l0"]
    xh, z = graph.tensor("xh", [1, weight.shape[1]]), graph.tensor("z", [1, 4 * H])
    graph.apply(
        _OP.CONCATENATION,
        [x, h],
        [xh],
        _OPTIONS.ConcatenationOptions,
        schema.ConcatenationOptionsT(axis=1),
    )
    graph.apply(
        _OP.FULLY_CONNECTED,
        [xh, graph.tensor("weight", weight.shape, weight), graph.tensor("bias", [4 * H], bias)],
        [z],
        _OPTIONS.FullyConnectedOptions,
        schema.FullyConnectedOptionsT(),
    )
    parts = [graph.tensor(f"z_{gate}", [1, H]) for gate in "ifgo"]
    axis = graph.tensor("axis", [], np.array(1, np.int32))
    four = schema.SplitOptionsT(numSplits=4)
    graph.apply(_OP.SPLIT, [axis, z], parts, _OPTIONS.SplitOptions, four)
    gates = []
    for gate, part in zip("ifgo", parts, strict=True):
        gates.append(graph.tensor(gate, [1, H]))
        graph.apply(_OP.TANH if gate == "g" else _OP.LOGISTIC, [part], gates[-1:])
    i, f, g, o = gates

    def multiply(a, b, out):
        graph.apply(_OP.MUL, [a, b], [out], _OPTIONS.MulOptions, schema.MulOptionsT())
        return out

    kept = multiply(f, c, graph.tensor("kept", [1, H]))
    new = multiply(i, g, graph.tensor("new", [1, H]))
    graph.apply(_OP.ADD, [kept, new], [c_n], _OPTIONS.AddOptions, schema.AddOptionsT())
    squashed = graph.tensor("squashed", [1, H])
    graph.apply(_OP.TANH, [c_n], [squashed])
    multiply(o, squashed, h_n)
    return graph.serialize([x, h, c], [h_n, c_n])


def prepare(case, data):
    interpreter = Interpreter(model_content=_step_graph(case, data), num_threads=threads())
    interpreter.allocate_tensors()
    set_tensor, get_tensor = interpreter.set_tensor, interpreter.get_tensor
    invoke = interpreter.invoke
    x, h, c = data.x[0], data.h_0[0], data.c_0[0]

    def step():
        nonlocal h, c
        set_tensor(_X, x)
        set_tensor(_H, h)
        set_tensor(_C, c)
        invoke()
        h = get_tensor(_H_N)
        c = get_tensor(_C_N)
        return h

    return Job("step()", {"step": step}, lambda: {"y": step()[None]})
