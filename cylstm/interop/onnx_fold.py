"""What nodes of ONNX compute of constants: NumPy functions for the few operators that exporters put before weights.

A graph within a graph sees the names of the outer ones. Nothing is allocated before the :class:`Budget` gave the bytes.
"""

import math

import numpy as np

from .onnx_files import Budget, array_of, attributes_of, is_recurrent, name_of, of_type, package, title

# Which inputs of a recurrent node are often given by who runs the model: sequence_lens, initial_h, initial_c.
_GIVEN = (4, 5, 6)


class NotConstantError(ValueError):
    """A value depends on an input of the model, or on an operator that is not computed here."""


class Graph:
    """A GraphProto with its names, and the graph that it stands in.

    Attributes
    ----------
    where : str
        How to get here from the main graph, which is "": "If_0.then_branch/If_3.else_branch".
    made : dict of str to NodeProto
        What makes each name.
    initial : dict of str to TensorProto
    inputs : dict of str to ValueInfoProto
        Those without an initial value.
    """

    def __init__(self, proto, where="", outer=None):
        self.proto, self.where, self.outer = proto, where, outer
        if not all(isinstance(name, str) for name in _names(proto)):  # protobuf gives bytes where they are no UTF-8
            raise ValueError("a name in a graph is no text")
        self.initial = {tensor.name: tensor for tensor in proto.initializer}
        self.sparse = {tensor.values.name for tensor in proto.sparse_initializer}
        self.inputs = {entry.name: entry for entry in proto.input if entry.name not in self.initial}
        if len(self.initial) < len(proto.initializer):
            raise ValueError("two initializers have one name")
        self.made = {}
        for node in proto.node:
            for name in node.output:
                if name in self.made or name in self.inputs or name in self.initial:
                    raise ValueError(f"{title(node)} makes {name!r}, which is there already")
                if name:
                    self.made[name] = node

    def owner(self, name):
        """The innermost graph that knows a name."""
        graph = self
        while graph is not None:
            if name in graph.made or name in graph.initial or name in graph.inputs or name in graph.sparse:
                return graph
            graph = graph.outer
        raise ValueError(f"there is nothing called {name!r}, which a node takes")


def _names(proto):
    """Every name in a graph, but those in graphs within it."""
    for entries in (proto.initializer, proto.input, proto.output, proto.node):
        for entry in entries:
            yield entry.name
    for node in proto.node:
        yield from (node.op_type, node.domain, *node.input, *node.output)
        for attribute in node.attribute:
            yield attribute.name


def subgraphs(node):
    """(name, GraphProto) of the graphs that a node has as attributes."""
    for attribute in node.attribute:
        if attribute.type == attribute.GRAPH:
            yield attribute.name, attribute.g
        for n, graph in enumerate(attribute.graphs):
            yield f"{attribute.name}[{n}]", graph


def graphs(model):
    """Every :class:`Graph` of a model, the main one first, inner ones in the order of their nodes."""
    waiting = [Graph(model.graph)]
    while waiting:
        graph = waiting.pop()
        yield graph
        inner = []
        for node in graph.proto.node:
            for name, proto in subgraphs(node):
                path = f"{name_of(node)}.{name}"
                inner.append(Graph(proto, f"{graph.where}/{path}" if graph.where else path, graph))
        waiting += inner[::-1]


class Values:
    """The values of a model's names, each found when first asked for: ndarrays, or what ``symbols`` makes of others.

    ``symbols`` has ``take(graph, name)`` for an input of a graph, and ``apply(node, values, budget)`` for a node whose
    inputs are not all constant; sequence_lens and initial states of a recurrent one may be errors. None: there
    are constants alone.
    """

    def __init__(self, file, symbols=None):
        self._budget, self._symbols = Budget(file), symbols
        self._found = {}  # (graph, name): the value, or the error that there is none

    def get(self, graph, name):
        """The value of a name that a graph knows; a ValueError where there is none."""
        goal = (graph.owner(name), name)
        waiting, active = [goal], {}
        while waiting:
            key = waiting[-1]
            if key in self._found:
                waiting.pop()
                active.pop(key, None)
                continue
            try:
                needed = [other for other in self._needs(*key) if other not in self._found]
                if not needed:
                    self._find(*key)
                elif key in active:
                    raise ValueError(f"{key[1]!r} is made of itself")
                active[key] = True
                waiting += needed
            except ValueError as error:
                self._found[key] = error
        found = self._found[goal]
        if isinstance(found, ValueError):
            raise found
        return found

    def constant(self, graph, name):
        """The ndarray of a name; NotConstantError where an input of the model decides about it."""
        value = self.get(graph, name)
        if not is_constant(value):
            raise NotConstantError(f"{name!r} depends on an input of the model")
        return value

    def _needs(self, graph, name):
        """The values that a value is made of."""
        if name not in graph.made:
            return []
        return [(graph.owner(other), other) for other in dict.fromkeys(graph.made[name].input) if other]

    def _find(self, graph, name):
        if name in graph.made:
            self._make(graph, graph.made[name], name)
        elif name in graph.initial:
            self._found[graph, name] = array_of(graph.initial[name], self._budget)
        elif name in graph.sparse:
            raise NotConstantError(f"{name!r} is sparse, expected a whole tensor")
        elif self._symbols is None:
            raise NotConstantError(f"{name!r} is an input of the graph")
        else:
            self._found[graph, name] = self._symbols.take(graph, name)

    def _make(self, graph, node, name):
        values = [self._found[graph.owner(other), other] if other else None for other in node.input]
        given = _GIVEN if self._symbols and is_recurrent(node) else ()
        for n, value in enumerate(values):
            if isinstance(value, ValueError) and n not in given:
                raise value
        if self._symbols is None or all(value is None or is_constant(value) for value in values):
            outputs = compute(node, values, self._budget)
        else:
            outputs = self._symbols.apply(node, values, self._budget)
        self._found |= {(graph, output): value for output, value in zip(node.output, outputs, strict=False)}
        if (graph, name) not in self._found:
            raise ValueError(f"{title(node)} does not make so many outputs")


def is_constant(value):
    """Whether a value is an array of numbers, not of sizes that depend on an input."""
    return isinstance(value, np.ndarray) and value.dtype != object


def compute(node, inputs, budget):
    """The outputs of a node, of its inputs: ndarrays, or None for one that is not given."""
    function = _FUNCTIONS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    if function is None:
        raise NotConstantError(f"{title(node)} is no operator that cylstm computes of constants")
    return called(function, Call(node, budget), inputs)


def called(function, call, inputs, kind=ValueError):
    """The outputs of a function; whatever is wrong with its inputs is an error of this kind that names the node."""
    try:
        return [value if isinstance(value, tuple) else np.asarray(value) for value in function(call, *inputs)]
    except NotConstantError as error:
        raise NotConstantError(f"{title(call.node)}: {error}") from None
    except (TypeError, ValueError, IndexError, KeyError, OverflowError, ZeroDivisionError) as error:
        raise kind(f"{title(call.node)}: {error}") from None


class Call:
    """What a function knows beside its inputs."""

    def __init__(self, node, budget):
        self.node, self.attributes, self.budget = node, attributes_of(node), budget
        self.opset, self.take = budget.opset, budget.take

    def attribute(self, name, default, *types):
        """An attribute of one of these types."""
        if name not in self.attributes:
            return default
        return of_type(self.node, name, self.attributes[name], *types)

    def integers(self, name, given):
        """A list of integers: an input if there is one, as later opsets have it, or an attribute; None: neither."""
        if given is not None:
            return [int(value) for value in np.atleast_1d(given).tolist()]
        return self.attribute(name, None, list)


def constant(call):
    """The value of a node Constant, by any of its attributes."""
    (found,) = call.attributes.items()
    name, value = found
    if name == "value":
        return [array_of(of_type(call.node, name, value, package().TensorProto), call.budget)]
    kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    if name not in kinds:
        raise ValueError(f"its attribute {name!r} is none of value, {', '.join(kinds)}")
    return [np.array(value, kinds[name])]


def _identity(call, x):
    return [x]


def _cast(call, x):
    code = call.attribute("to", None, int)
    dtype = np.dtype(np.float32) if code == 16 else np.dtype(package().helper.tensor_dtype_to_np_dtype(code))
    if dtype.kind not in "fiub":
        raise ValueError(f"to is {code}, expected numbers that NumPy has")
    if x.dtype == object:  # sizes, which are integers
        return [x]
    call.take(x.shape, dtype.itemsize)
    with np.errstate(over="ignore", invalid="ignore"):
        return [x.astype(dtype)]


def bounds(call, rank, starts=None, ends=None, axes=None, steps=None):
    """The slices of a node Slice: one for each axis."""
    starts, ends = call.integers("starts", starts), call.integers("ends", ends)
    axes, steps = call.integers("axes", axes), call.integers("steps", steps)
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    slices = [slice(None)] * rank
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if not -rank <= axis < rank:
            raise ValueError(f"there is no axis {axis}")
        slices[axis] = slice(start, end, step)
    return slices


def _slice(call, x, starts=None, ends=None, axes=None, steps=None):
    return [x[tuple(bounds(call, x.ndim, starts, ends, axes, steps))]]


def _concat(call, *parts):
    axis = call.attribute("axis", None, int)
    call.take((sum(part.size for part in parts),), max(part.itemsize for part in parts))
    return [np.concatenate(parts, axis)]


def unsqueezed(call, rank, axes):
    """The new axes of a node Unsqueeze, not negative, sorted."""
    axes = call.integers("axes", axes)
    wanted = rank + len(axes)
    found = sorted({axis + wanted if axis < 0 else axis for axis in axes})
    if len(found) != len(axes) or (found and not 0 <= found[0] <= found[-1] < wanted) or wanted > 32:
        raise ValueError(f"axes are {axes}, expected different ones of {wanted}")
    return found


def _unsqueeze(call, x, axes=None):
    return [np.expand_dims(x, tuple(unsqueezed(call, x.ndim, axes)))]


def _squeeze(call, x, axes=None):
    axes = call.integers("axes", axes)
    return [np.squeeze(x, None if axes is None else tuple(axes))]


def _transpose(call, x):
    return [np.transpose(x, call.attribute("perm", None, list))]


def _reshape(call, x, shape):
    shape = shape.tolist()
    if not call.attribute("allowzero", 0, int):
        shape = [x.shape[n] if size == 0 else size for n, size in enumerate(shape)]
    return [x.reshape(shape)]


def _flatten(call, x):
    axis = call.attribute("axis", 1, int)
    axis += x.ndim if axis < 0 else 0
    return [x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))]


def split_sizes(call, size, sizes):
    """How long the parts of a node Split are."""
    sizes = call.integers("split", sizes)
    if sizes is None:
        count = len(call.node.output)
        part = -(-size // count)
        sizes = [part] * (count - 1) + [size - part * (count - 1)]
    if sum(sizes) != size or min(sizes) < 0:
        raise ValueError(f"parts of {sizes} are not {size} in all")
    return sizes


def _split(call, x, sizes=None):
    axis = call.attribute("axis", 0, int)
    return np.split(x, np.cumsum(split_sizes(call, x.shape[axis], sizes))[:-1], axis)


def _gather(call, x, indices):
    axis = call.attribute("axis", 0, int)
    call.take((*np.shape(indices), x.size // max(x.shape[axis], 1)), x.itemsize)
    return [np.take(x, indices, axis)]


def _shape(call, x):
    return [np.array(x.shape, np.int64)[shape_part(call)]]


def shape_part(call):
    """Which of the sizes a node Shape gives."""
    return slice(call.attribute("start", None, int), call.attribute("end", None, int))


def _reduce_prod(call, x, axes=None):
    if axes is not None or "axes" in call.attributes:
        raise ValueError("it has axes, expected a product of all")
    return [np.prod(x, keepdims=bool(call.attribute("keepdims", 1, int)))]


def _expand(call, x, shape):
    shape = np.broadcast_shapes(x.shape, tuple(shape.tolist()))
    call.take(shape, x.itemsize)
    return [np.broadcast_to(x, shape).copy()]


def _tile(call, x, repeats):
    call.take((size * times for size, times in zip(x.shape, repeats.tolist(), strict=True)), x.itemsize)
    return [np.tile(x, repeats)]


def _constant_of_shape(call, shape):
    value = filling(call)
    call.take(shape.tolist(), value.itemsize)
    return [np.full(shape.tolist(), value)]


def filling(call):
    """What a node ConstantOfShape fills its output with: a scalar."""
    value = call.attribute("value", None, package().TensorProto)
    return np.float32(0) if value is None else array_of(value, call.budget).reshape(-1)[0]


def _of_two(function):
    """A function of two arrays, element by element."""

    def apply(call, a, b):
        call.take(np.broadcast_shapes(a.shape, b.shape), max(a.itemsize, b.itemsize))
        with np.errstate(all="ignore"):
            return [np.asarray(function(a, b))]

    return apply


def _divided(a, b):
    return a / b if a.dtype.kind == "f" else (np.sign(a) * np.sign(b) * (abs(a) // abs(b))).astype(a.dtype)


def _where(call, condition, a, b):
    call.take(np.broadcast_shapes(condition.shape, a.shape, b.shape), max(a.itemsize, b.itemsize))
    return [np.where(condition, a, b)]


_FUNCTIONS = {
    "Constant": constant, "Identity": _identity, "Cast": _cast, "Slice": _slice, "Concat": _concat,
    "Unsqueeze": _unsqueeze, "Squeeze": _squeeze, "Transpose": _transpose, "Reshape": _reshape, "Flatten": _flatten,
    "Split": _split, "Gather": _gather, "Shape": _shape, "ReduceProd": _reduce_prod, "Expand": _expand, "Tile": _tile,
    "ConstantOfShape": _constant_of_shape, "Where": _where, "Equal": _of_two(np.equal), "Add": _of_two(np.add),
    "Sub": _of_two(np.subtract), "Mul": _of_two(np.multiply), "Div": _of_two(_divided),
}  # fmt: skip
