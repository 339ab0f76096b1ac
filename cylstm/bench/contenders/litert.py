"""LiteRT: a single-step graph with the state in and out, on the XNNPACK delegate.

The graph is written with the schema that the package ships, so no converter is needed. Called by
the interpreter: the package's newer CompiledModel takes 4 us longer at (16, 32) and at (64, 128).
"""

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from ..cases import states_of
from ..machine import threads
from . import Job

_OP = schema.BuiltinOperator
_OPTIONS = schema.BuiltinOptions


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


    def constant(self, name, value):
        return self.tensor(name, value.shape, value)

    def connect(self, value, weight, bias, name):
        """value (1, K) times weight (N, K), plus bias."""
        out = self.tensor(name, [1, len(bias)])
        inputs = [value, self.constant(f"weight of {name}", weight), self.constant(f"bias of {name}", bias)]
        self.apply(
            _OP.FULLY_CONNECTED, inputs, [out], _OPTIONS.FullyConnectedOptions, schema.FullyConnectedOptionsT()
        )
        return out

    def concatenate(self, values, width):
        out = self.tensor("xh", [1, width])
        self.apply(
            _OP.CONCATENATION, values, [out], _OPTIONS.ConcatenationOptions, schema.ConcatenationOptionsT(axis=1)
        )
        return out

    def split(self, value, count, H):
        parts = [self.tensor(f"part {k} of {value}", [1, H]) for k in range(count)]
        axis = self.tensor(f"axis of {value}", [], np.array(1, np.int32))
        self.apply(_OP.SPLIT, [axis, value], parts, _OPTIONS.SplitOptions, schema.SplitOptionsT(numSplits=count))
        return parts

    def pointwise(self, code, values, H, out=None):
        """An operation of one value or of two, into a new tensor or a given one."""
        kind = {_OP.MUL: "Mul", _OP.ADD: "Add", _OP.SUB: "Sub"}.get(code)
        options = (getattr(_OPTIONS, f"{kind}Options"), getattr(schema, f"{kind}OptionsT")()) if kind else ()
        out = self.tensor(f"value {len(self.graph.tensors)}", [1, H]) if out is None else out
        self.apply(code, values, [out], *options)
        return out


def _lstm(graph, case, p, inputs, outputs):
    H, (x, h, c), (h_n, c_n) = case.hidden_size, inputs, outputs
    weight = np.concatenate([p["weight_ih_l0"], p["weight_hh_l0"]], axis=1)
    z = graph.connect(graph.concatenate([x, h], weight.shape[1]), weight, p["bias_ih_l0"] + p["bias_hh_l0"], "z")
    gates = zip((_OP.LOGISTIC, _OP.LOGISTIC, _OP.TANH, _OP.LOGISTIC), graph.split(z, 4, H), strict=True)
    i, f, g, o = (graph.pointwise(code, [part], H) for code, part in gates)
    kept, new = graph.pointwise(_OP.MUL, [f, c], H), graph.pointwise(_OP.MUL, [i, g], H)
    graph.pointwise(_OP.ADD, [kept, new], H, c_n)
    graph.pointwise(_OP.MUL, [o, graph.pointwise(_OP.TANH, [c_n], H)], H, h_n)


def _gru(graph, case, p, inputs, outputs):
    H, (x, h), (h_n,) = case.hidden_size, inputs, outputs
    from_x = graph.split(graph.connect(x, p["weight_ih_l0"], p["bias_ih_l0"], "from_x"), 3, H)
    from_h = graph.split(graph.connect(h, p["weight_hh_l0"], p["bias_hh_l0"], "from_h"), 3, H)
    r, z = (
        graph.pointwise(_OP.LOGISTIC, [graph.pointwise(_OP.ADD, [from_x[k], from_h[k]], H)], H) for k in range(2)
    )
    n = graph.pointwise(_OP.ADD, [from_x[2], graph.pointwise(_OP.MUL, [r, from_h[2]], H)], H)
    n = graph.pointwise(_OP.TANH, [n], H)
    kept = graph.pointwise(_OP.MUL, [z, graph.pointwise(_OP.SUB, [h, n], H)], H)
    graph.pointwise(_OP.ADD, [n, kept], H, h_n)


def _rnn(graph, case, p, inputs, outputs):
    H, (x, h), (h_n,) = case.hidden_size, inputs, outputs
    weight = np.concatenate([p["weight_ih_l0"], p["weight_hh_l0"]], axis=1)
    z = graph.connect(graph.concatenate([x, h], weight.shape[1]), weight, p["bias_ih_l0"] + p["bias_hh_l0"], "z")
    graph.pointwise(_OP.TANH, [z], H, h_n)


_CELLS = {"lstm": _lstm, "gru": _gru, "rnn": _rnn}


def prepare(case, data):
    graph, states = _Graph(), [array[0] for array in states_of(case, data).values()]
    inputs = [graph.tensor(f"input {k}", array.shape) for k, array in enumerate([data.x[0], *states])]
    outputs = [graph.tensor(f"output {k}", array.shape) for k, array in enumerate(states)]
    _CELLS[case.cell](graph, case, data.parameters, inputs, outputs)
    interpreter = Interpreter(model_content=graph.serialize(inputs, outputs), num_threads=threads())
    interpreter.allocate_tensors()
    set_tensor, get_tensor = interpreter.set_tensor, interpreter.get_tensor
    invoke = interpreter.invoke
    x, (h, c) = data.x[0], (states * 2)[:2]
    at_x, at_h, *at_c = inputs
    from_h, *from_c = outputs

    def step_of_h():
        nonlocal h
        set_tensor(at_x, x)
        set_tensor(at_h, h)
        invoke()
        h = get_tensor(from_h)
        return h

    if case.cell != "lstm":
        return Job("step()", {"step": step_of_h}, lambda: {"y": step_of_h()[None]})
    at_c, from_c = at_c[0], from_c[0]

    def step():
        nonlocal h, c
        set_tensor(at_x, x)
        set_tensor(at_h, h)
        set_tensor(at_c, c)
        invoke()
        h = get_tensor(from_h)
        c = get_tensor(from_c)
        return h

    return Job("step()", {"step": step}, lambda: {"y": step()[None]})
