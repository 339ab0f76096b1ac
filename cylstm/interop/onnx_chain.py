"""Graphs of ONNX that are chains, as layers: what becomes of each axis and of each feature is followed through them.

Each :class:`Stage` of a chain, a layer and what is before it, has numbers for its features: at each step, the final
ones, at the last step. What moves axes and features (Transpose, Reshape, Gather, ...) is done to arrays of such numbers
by ``onnx_axes``, so that what a Gemm or the next LSTM takes says what it is.
"""

import bisect
import math

import numpy as np

from ..feedforward import Activation, Dense, Embedding, Last, LayerNorm, Repeat
from . import onnx_axes as axes
from .onnx_axes import Order, Symbol, Tensor, position
from .onnx_files import FLOATS, is_recurrent, number, title
from .onnx_fold import Call, NotConstantError, called, compute, is_constant
from .onnx_nodes import build, has_lengths, merged, pair, read_node, set_state

# What a stage's features are: at each step; the final h of each direction; at the last and the first step, where that
# is not a final h; the final c.
Y, FINAL, LAST, FIRST, CELL = range(5)
_BLOCKS = 5


class Stage:
    """A layer and what is before it.

    Attributes
    ----------
    node : NodeProto or None
    parent : Stage or None
    layer : layer, or None of an input of the model
    width : int or None
        Features; None where a later layer says how many.
    first : int
        The number of the first feature.
    symbols : set of Symbol
        The axes of y beside the features.
    time : Symbol or None
        That of time; None before the first recurrent layer and where there is none.
    timed : bool
        Whether cylstm has an axis of time there; it may be of size 1 in the graph.
    lengths : str
        The sequence_lens of the recurrent nodes so far; "" of none.
    dtype : dtype or None
        That of the layers so far.
    recurrent, behind : bool
        Whether the layer is recurrent; and whether that or one before it is.
    reverse : ndarray of bool or None
        Of a recurrent stage, whether the direction of each feature is the reverse one; None where both are merged.
    """

    def __init__(self, node, parent, layer, width, *, recurrent=False, reverse=None, **changed):
        self.node, self.parent, self.layer, self.width = node, parent, layer, width
        self.recurrent, self.reverse = recurrent, reverse
        self.behind = recurrent or (parent is not None and parent.behind)
        self.dtype = getattr(layer, "dtype", None) or getattr(parent, "dtype", None)
        for name in ("symbols", "time", "timed", "lengths"):
            setattr(self, name, changed[name] if name in changed else getattr(parent, name))
        self.first = 0
        self.features = None  # of a stage without a width: the symbol of their axis, once a layer has said which
        self.inner = parent.inner if parent is not None and width is None else None  # the last axis of such an input
        self.biased = True  # False: a Dense that an Add may still give its bias
        self.trouble = None  # why the initial state of the layer is not known
        self.derived = {}  # stages of the same layer with something else after it, by what that is

    def __str__(self):
        return "the input" if self.node is None else title(self.node)


class Chain:
    """The symbols of :class:`~.onnx_fold.Values`: builds stages as values are asked for."""

    def __init__(self, dtype):
        self._dtype = dtype
        self._stages, self._firsts = [], []
        self._ordered = {}  # (symbol, key): the symbol of an axis whose rows are in that order

    # What Values asks for

    def take(self, graph, name):
        """An input of a graph."""
        kind = graph.inputs[name].type.tensor_type
        if graph.outer is not None or not kind.HasField("shape"):
            raise NotConstantError(f"the input {name!r} of a graph has no shape in the file")
        sizes = [entry.dim_value if entry.dim_value > 0 else None for entry in kind.shape.dim]
        if len(sizes) > 8:
            raise NotConstantError(f"the input {name!r} has {len(sizes)} axes")
        symbols = [Symbol(name, size) for size in sizes]
        stage = Stage(None, None, None, None, symbols=set(symbols), time=None, timed=False, lengths="")
        stage.integers = kind.elem_type not in FLOATS
        stage.timed = len(sizes) == (2 if stage.integers else 3)
        stage.inner = None if stage.integers or not symbols else symbols[-1]
        self._add(stage)
        return Tensor(tuple((symbol,) for symbol in symbols), np.full((1,) * len(sizes), stage.first))

    def apply(self, node, values, budget):
        """What a node makes of values that are not all constant."""
        call = Call(node, budget)
        if is_recurrent(node):
            return called(self._recurrent, call, values, NotConstantError)
        sizes = all(value is None or isinstance(value, np.ndarray) for value in values)
        if sizes and node.op_type not in ("Expand", "ConstantOfShape", "Range"):
            return [axes.simplified(array) for array in compute(node, values, budget)]
        handler = _HANDLERS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        for value in values:
            if isinstance(value, Tensor) and (given := self._given(value)) and given.trouble:
                return self._opaque(node, values, NotConstantError(given.trouble))
        try:
            if handler is None:
                raise NotConstantError(f"{title(node)} is nothing that cylstm has a layer for")
            return called(lambda call, *values: handler(self, call, *values), call, values, NotConstantError)
        except NotConstantError as error:
            return self._opaque(node, values, error)

    def _given(self, t):
        """The stage of a Tensor that is an input of the model, or part of one; None of another."""
        if t.plain or not t.payload.size:
            return None
        stages = self._stages_of(t.payload)
        return stages[0] if len(stages) == 1 and stages[0].layer is None else None

    def _opaque(self, node, values, error):
        """What a node that is not understood makes: of inputs of the model alone it may be a state that is given."""
        if any(isinstance(value, Tensor) and not self._given(value) for value in values):
            raise error
        stage = self._add(Stage(node, None, None, None, symbols=set(), time=None, timed=False, lengths=""))
        stage.trouble = str(error)
        return [Tensor((), np.array(stage.first)) for _ in node.output]

    # Stages

    def _add(self, stage):
        stage.first = self._firsts[-1] + _BLOCKS * (self._stages[-1].width or 1) if self._stages else 0
        self._stages.append(stage)
        self._firsts.append(stage.first)
        return stage

    def _child(self, node, parent, layer, width, **changed):
        return self._add(Stage(node, parent, layer, width, **changed))

    def _stages_of(self, numbers):
        """The stages that numbers are of."""
        if not numbers.size:
            raise ValueError("it takes no feature at all")
        start, end = (bisect.bisect_right(self._firsts, number) - 1 for number in (numbers.min(), numbers.max()))
        if start == end:
            return [self._stages[start]]
        places = np.searchsorted(self._firsts[start : end + 1], numbers, "right") - 1
        return [self._stages[start + place] for place in np.unique(places)]

    def _parts(self, numbers):
        """(the stage, block, component) of numbers of features; a ValueError if they are of more than one stage."""
        stages = self._stages_of(numbers)
        if len(stages) == 2:
            stages, numbers = self._paired(stages, numbers)
        if len(stages) != 1:
            raise ValueError(f"it takes what {' and '.join(map(str, stages[:3]))} make side by side, which is no chain")
        block, component = np.divmod(numbers - stages[0].first, stages[0].width or 1)
        return stages[0], block, component

    def settle(self, t):
        """(the stage that a Tensor is the output of, or a part of it; the Tensor with its numbers).

        Where it is the final h, or the last step, that is a stage of its own.
        """
        if not isinstance(t, Tensor) or t.plain:
            raise ValueError("it takes numbers that the file has, or of a shape, expected what a layer makes")
        stage, block, component = self._parts(t.payload)
        if stage.layer is None and stage.trouble:
            raise NotConstantError(stage.trouble)
        if (block != Y).any():
            stage = self._ended(stage, block, component)
        symbols = {symbol.base for symbol in t.symbols}
        if symbols - stage.symbols or any(symbol.size != 1 for symbol in stage.symbols - symbols - {stage.features}):
            raise ValueError(f"its axes are not those of what {stage} makes")
        return stage, t._replace(payload=stage.first + component)

    def _ended(self, stage, block, component):
        """The stage of the final h or of the last step of another one."""
        last = np.full(block.shape, LAST)
        if stage.recurrent:
            if stage.reverse is not None:
                last = np.where(stage.reverse[component], LAST, FINAL)
            if (block == FINAL).all() and (stage.reverse is None or stage.reverse.any() or stage.lengths):
                return self._derived(stage, "final")
        if (block == last).all():
            return self._derived(stage, "last")
        raise ValueError(f"it takes states or steps of {stage} other than the final h or the last step of all")

    def _derived(self, stage, kind):
        if kind not in stage.derived:
            from .. import Final

            parent, layer = (stage, Last()) if kind == "last" else (stage.parent, Final(stage.layer))
            self._derive(
                stage, kind, layer, stage.width, parent=parent, symbols=stage.symbols - {stage.time}, time=None,
                timed=False,
            )  # fmt: skip
        return stage.derived[kind]

    def _derive(self, stage, kind, layer, width, **changed):
        """Add a stage that has the layer of another one in another form."""
        same = {name: getattr(stage, name) for name in ("parent", "symbols", "time", "timed", "lengths")} | changed
        found = stage.derived[kind] = self._add(Stage(stage.node, same.pop("parent"), layer, width, **same))
        found.trouble = stage.trouble

    def _paired(self, stages, numbers):
        """Two recurrent stages over the same sequences, one in each direction, as one of two directions."""
        one, other = stages = sorted(stages, key=lambda stage: stage.reverse is not None and stage.reverse.any())
        if not (
            one.recurrent and other.recurrent and one.reverse is not None and other.reverse is not None
            and not one.reverse.any() and other.reverse.all() and one.parent is other.parent
            and (one.time, one.lengths) == (other.time, other.lengths)
        ):  # fmt: skip
            return stages, numbers
        kind = "pair", other.first
        if kind not in one.derived:
            width = one.width + other.width
            reverse = np.concatenate([one.reverse, other.reverse])
            self._derive(one, kind, pair(one.layer, other.layer), width, recurrent=True, reverse=reverse)
            one.derived[kind].trouble = one.trouble or other.trouble
        found, moved = one.derived[kind], np.empty_like(numbers)
        for start, stage in ((0, one), (one.width, other)):
            here = (numbers >= stage.first) & (numbers < stage.first + _BLOCKS * stage.width)
            block, component = np.divmod(numbers[here] - stage.first, stage.width)
            moved[here] = found.first + block * found.width + start + component
        return [found], moved

    def merge(self, call, a, b, how):
        """What two directions make, added or multiplied."""
        both = np.stack(np.broadcast_arrays(a.payload, b.payload))
        if a.plain or b.plain or a.axes != b.axes:
            raise ValueError(f"it computes with {a} and {b}, which is no chain")
        stage, block, component = self._parts(both)
        forward, reverse = np.sort(component, axis=0)
        half = 0 if stage.reverse is None else int((~stage.reverse).sum())
        if not half or 2 * half != stage.width or (reverse - half != forward).any() or (block[0] != block[1]).any():
            raise ValueError(f"it computes with two parts of {stage} that are not its two directions")
        if how not in stage.derived:
            self._derive(stage, how, merged(stage.layer, how), half, recurrent=True)
        found = stage.derived[how]
        return [a._replace(payload=found.first + block[0] * half + forward)]

    def scaled(self, call, t, factor):
        """A Tensor times a number: half the sum of two directions is their average."""
        stages = [] if t.plain else self._stages_of(t.payload)
        if factor == 0.5 and len(stages) == 1 and stages[0].recurrent and stages[0].layer.merge == "sum":
            (stage,) = stages
            if "average" not in stage.derived:
                self._derive(stage, "average", merged(stage.layer, "average"), stage.width, recurrent=True)
            return [t._replace(payload=t.payload - stage.first + stage.derived["average"].first)]
        return self.activation(call, t, "affine", factor, 0.0)

    def product(self, call, a, b):
        """A product of two Tensors: swish, or two directions."""
        for x, factor in ((a, b), (b, a)):
            stages = [] if factor.plain else self._stages_of(factor.payload)
            if len(stages) == 1 and isinstance(stages[0].layer, Activation) and stages[0].layer.activation == "sigmoid":
                (sigmoid,), (stage, t) = stages, self.settle(x)
                if sigmoid.parent is stage and (t.payload - stage.first == factor.payload - sigmoid.first).all():
                    return self.activation(call, x, "swish")
        return self.merge(call, a, b, "mul")

    def _features(self, node, t, axis=-1):
        """(stage, order, axes) of what has its features along an axis.

        ``order`` is which features of the stage they are, None for all of a stage that does not know how many; the
        other axes are all of unknown size, or 1.
        """
        stage, t = self.settle(t)
        stage, t = self._repeated(node, stage, t)
        axis = position(t, axis)
        if axis == 1 and stage.width == 1 and len(t.axes) == 2 and t.axes[1]:  # (batch, time * 1)
            (t,) = self.flat(node, t._replace(axes=(*t.axes, None), payload=t.payload[..., None]))
            return self._features(node, t)
        if t.axes[axis] is not None:
            if stage.width is not None or len(t.axes[axis]) != 1 or stage.features not in (None, *t.axes[axis]):
                raise ValueError(f"the features of {stage} are not along axis {axis}")
            (stage.features,) = t.axes[axis]
            return stage, None, t
        if t.payload.size != t.payload.shape[axis] or stage.width is None:
            raise ValueError(f"it takes an array of shape {t}, expected its features along axis {axis} alone")
        return stage, t.payload.reshape(-1) - stage.first, t

    def _repeated(self, node, stage, t):
        """The stage with a Repeat behind it, where an axis has the same features many times."""
        for n, (axis, size) in enumerate(zip(t.axes, t.payload.shape, strict=True)):
            once = t.payload.take([0], n)
            if axis is None and size > 1 and (once == t.payload).all() and not stage.timed:
                time = Symbol("time", size)
                stage = self._child(
                    node, stage, Repeat(size), stage.width, symbols=stage.symbols | {time}, timed=True, time=time
                )  # fmt: skip
                payload = once - stage.parent.first + stage.first
                return stage, t._replace(axes=(*t.axes[:n], (time,), *t.axes[n + 1 :]), payload=payload)
        return stage, t

    def _whole(self, node, t, axis=-1):
        """(stage, t) of what has all features of a stage, in their order, along an axis."""
        stage, order, t = self._features(node, t, axis)
        if order is not None and not _in_order(order, stage.width):
            raise ValueError(f"it takes features of {stage} in another order, or not all of them")
        return stage, t

    # Nodes that are layers

    def _recurrent(self, call, *values):
        said = read_node(call.node)
        values = dict(zip(call.node.input, values, strict=True))
        stage, order, t = self._features(call.node, values[said.x])
        if len(t.axes) != 3 or any(axis is not None and len(axis) != 1 for axis in t.axes):
            raise ValueError(f"X is {t}, expected 3 axes")
        time, batch = (axis and axis[0] for axis in (t.axes[said.layout], t.axes[1 - said.layout]))
        if time is None and not stage.timed:
            time = Symbol("time", 1)
            symbols = stage.symbols - {stage.features} | {time}
            stage = self._child(call.node, stage, Repeat(1), stage.width, timed=True, time=time, symbols=symbols)
            t = t._replace(axes=tuple((time,) if n == said.layout else axis for n, axis in enumerate(t.axes)))
        if batch is not None and batch is stage.time:
            raise ValueError("its time is along another axis than that of the recurrent nodes before it")

        def get(name):
            if not is_constant(values[name]):
                raise NotConstantError(f"{name!r} depends on an input of the model")
            return values[name]

        lengths = said.lengths if has_lengths(said, get, 1 if time is None else time.size) else ""
        if lengths != stage.lengths and stage.behind:
            raise ValueError("its sequence_lens is not that of the recurrent nodes before it")
        if lengths and _key(batch) != _key_of(values[lengths]):
            raise ValueError("its sequence_lens is in another order than the rows of X")
        layer = build(said, get, self._dtype, bool(lengths), lambda w: _columns(w, order, stage.width))
        hidden_size = get(said.r).shape[2]
        found = self._child(
            call.node, stage, layer, said.directions * hidden_size, symbols=stage.symbols - {stage.features}, time=time,
            timed=True, lengths=lengths, recurrent=True, reverse=np.repeat(said.reverse, hidden_size),
        )  # fmt: skip
        states = [values[name] if name else None for name in said.state]
        if not all(_in_rows_of(batch, state, 1 - said.layout) for state in states):
            raise ValueError("its initial state is in another order than the rows of X")
        found.trouble = self._set_state(found, said, states)
        return _outputs(found, t, said)

    def _set_state(self, stage, said, values):
        """Give the layer the initial state that the file has; return why it is not known."""
        known, trouble = [], None
        for value in values:
            if isinstance(value, ValueError):
                trouble = f"the initial state of {stage} is not known: {value}"
            elif isinstance(value, Tensor) and not value.plain:
                if not self._given(value):
                    makers = " and ".join(map(str, self._stages_of(value.payload)[:3]))
                    trouble = f"the initial state of {stage} comes from {makers}, which is no chain"
            else:
                known.append(value.payload if isinstance(value, Tensor) else value)
                continue
            known.append(None)
        set_state(said, stage.layer, known)
        return trouble

    def embedding(self, call, weight, indices):
        """A node Gather of a table."""
        stage, t = self.settle(indices)
        if stage.layer is not None or not stage.integers or call.attribute("axis", 0, int) or weight.ndim != 2:
            raise ValueError("it looks features up, expected integers of the input in the rows of a table")
        if t.payload.size != 1 or weight.dtype.kind != "f":
            raise ValueError(f"its indices are {t}, its table is of dtype {weight.dtype}")
        dtype = self._dtype or np.result_type(weight.dtype, np.float32)
        layer = Embedding._of(*weight.shape, dtype=dtype, arrays={"weight": weight})
        found = self._child(call.node, stage, layer, weight.shape[1])
        return _output(found, Tensor((*t.axes, None), t.payload[..., None]))

    def dense(self, call, t, weight, bias=None):
        """A product with a matrix, (out, in), and a sum."""
        if not is_constant(weight) or weight.ndim != 2 or weight.dtype.kind != "f":
            raise ValueError("it is a product of two things that depend on an input, or not with a matrix of the file")
        stage, order, t = self._features(call.node, t)
        arrays = {"weight": _columns(weight, order, stage.width)}
        if bias is not None:
            arrays["bias"] = _bias(bias, len(weight))
        dtype = self._dtype or np.result_type(weight.dtype, np.float32)
        sizes = arrays["weight"].shape[::-1]
        layer = Dense._of(*sizes, bias=bias is not None, dtype=dtype, arrays=arrays)
        found = self._child(call.node, stage, layer, len(weight), symbols=stage.symbols - {stage.features})
        found.biased = bias is not None
        return _output(found, t)

    def add_bias(self, call, t, bias):
        """A sum with what the file has: the bias of the product before it."""
        stage, t = self._whole(call.node, t)
        if stage.biased:
            return self._shifted(call, stage, t, _scalar(bias))
        layer = stage.layer
        arrays = {"weight": layer.parameters["weight"], "bias": _bias(bias, stage.width)}
        sizes = layer.in_features, layer.out_features
        found = self._child(
            call.node, stage.parent, Dense._of(*sizes, dtype=layer.dtype, arrays=arrays), stage.width,
            symbols=stage.symbols,
        )  # fmt: skip
        return _output(found, t)

    def _shifted(self, call, stage, t, value):
        """A sum with a number: behind a product with one, both are one function."""
        last = stage.layer.activation if isinstance(stage.layer, Activation) else ()
        if last[:1] != ("affine",) or last[2] != 0:
            return self._elementwise(call, stage, t, _activation(stage, "affine", 1.0, value))
        before = t._replace(payload=t.payload - stage.first + stage.parent.first)
        return self._elementwise(call, stage.parent, before, _activation(stage, "affine", last[1], value))

    def activation(self, call, t, *activation):
        """A function of each number: features and axes stay where they are."""
        stage, t = self.settle(t)
        return self._elementwise(call, stage, t, _activation(stage, *activation))

    def _elementwise(self, call, stage, t, layer):
        found = self._child(call.node, stage, layer, stage.width)
        found.features = stage.features
        return [t._replace(payload=t.payload - stage.first + found.first)]

    def softmax(self, call, t):
        """A node Softmax; before opset 13, of all axes behind the one that it names."""
        old = call.opset < 13
        axis = position(t, call.attribute("axis", 1 if old else -1, int))
        if old and (any(t.axes[axis + 1 :]) or math.prod(t.payload.shape[axis + 1 :]) != 1):
            raise ValueError(f"it is over all axes from {axis} on, expected the last one")
        return self._elementwise(call, *self._whole(call.node, t, axis), Activation("softmax"))

    def layer_norm(self, call, t, weight, bias=None):
        """A node LayerNormalization."""
        axis = position(t, call.attribute("axis", -1, int))
        if axis != len(t.axes) - 1:
            raise ValueError(f"it is over all axes from {axis} on, expected the last one")
        stage, t = self._whole(call.node, t)
        if not is_constant(weight) or weight.ndim != 1 or stage.width not in (None, weight.size):
            raise ValueError("its Scale is not an array of the file with a number for each feature")
        arrays = {"weight": weight, "bias": np.zeros_like(weight) if bias is None else _bias(bias, weight.size)}
        eps, dtype = call.attribute("epsilon", 1e-5, float), self._dtype or np.result_type(weight.dtype, np.float32)
        layer = LayerNorm._of(weight.size, number(eps, dtype), dtype=dtype, arrays=arrays)
        found = self._child(call.node, stage, layer, weight.size, symbols=stage.symbols - {stage.features})
        return _output(found, t)

    def top(self, call, t, count):
        """A node TopK of all rows, as PyTorch sorts them by their lengths: (what is sorted, where each comes from)."""
        stage, t = self.settle(t)
        if stage.layer is not None or len(t.axes) != 1 or not axes.is_size(np.ravel(count)[0], t.axes[0] or ()):
            raise ValueError("it takes the largest of something, expected to sort all rows of the input")
        order = Order(t.axes[0][0].base, object(), False)
        return [t._replace(axes=((self._in(t.axes[0][0], order.key),),)), order]

    def _in(self, symbol, key):
        """The symbol of an axis with its rows in another order."""
        if (symbol, key) not in self._ordered:
            self._ordered[symbol, key] = Symbol(symbol.name, symbol.size, symbol, key)
        return self._ordered[symbol, key]

    def reordered(self, t, axis, order):
        """A Tensor with its rows in another order, or back in that of the input."""
        if t.axes[axis] is None or len(t.axes[axis]) != 1:
            raise ValueError("it brings features into an order that an input decides about")
        (symbol,) = t.axes[axis]
        if order.inverse and symbol.key is not order.key:
            raise ValueError("it brings rows back that were in another order")
        moved = symbol.base if order.inverse else self._in(symbol, order.key)
        return [t._replace(axes=(*t.axes[:axis], (moved,), *t.axes[axis + 1 :]))]

    def step(self, t, axis, index):
        """The Tensor of one time step: the first or the last one; axis is of size 1 then."""
        symbols, numbers = t.axes[axis], t.payload
        if len(symbols) != 1:
            raise ValueError("it takes a part of an axis that is made of two")
        (symbol,) = symbols
        if not t.plain:
            stage, block, component = self._parts(numbers)
            if stage.time is None and stage.timed and symbol is not stage.inner:  # nobody takes a row of a batch
                stage.time = symbol
            if symbol is not stage.time or (block != Y).any() or stage.lengths:
                raise ValueError(
                    "it takes a part of an axis that is not known to be time, or of one that sequence_lens is about"
                )
            if index not in (-1, 0) and index + 1 != symbol.size:
                raise ValueError(f"it takes time step {index}, expected the last one")
            blocks = np.full(numbers.shape, FIRST if index == 0 and symbol.size != 1 else LAST)
            if stage.reverse is not None:  # at its end, what a direction makes is its final h
                blocks[stage.reverse[component] == (blocks == FIRST)] = FINAL
            numbers = stage.first + blocks * (stage.width or 1) + component
        return t._replace(axes=(*t.axes[:axis], None, *t.axes[axis + 1 :]), payload=numbers)

    def reverse(self, call, t, axis):
        """Time turned around; of which steps a sequence_lens speaks is as it was, before and after."""
        from .. import Reverse

        stage, t = self.settle(t)
        (symbol,) = t.axes[axis] or (None,)
        if symbol is None or not stage.timed or stage.time not in (None, symbol):
            raise ValueError("it turns an axis around that is not time")
        found = self._child(call.node, stage, Reverse(keep_mask=True), stage.width, time=symbol)
        found.features = stage.features
        return [t._replace(payload=t.payload - stage.first + found.first)]

    def flat(self, node, t):
        """Steps and features of each sequence side by side."""
        from .. import Flatten

        if len(t.axes) < 3:
            raise ValueError(f"it makes one axis of time and features of {t}, expected (batch, time, features)")
        stage, t = self._whole(node, axes.joined(t, [(0, 1), (1, 2), (2, len(t.axes))]))
        batch, time = t.axes[:2]
        if not stage.timed or batch is None or time is None or time[0] is not (stage.time or time[0]):
            raise ValueError("it makes one axis of features and another one, expected (batch, time, features)")
        features = Symbol("features", None)
        found = self._child(node, stage, Flatten(), None, symbols={*batch, features}, time=None, timed=False)
        return [Tensor((batch, (features,)), np.full((1, 1), found.first))]

    def flattened(self, node, t):
        """What was reshaped, with a Flatten where time and the features of an input, all of them, became one axis."""
        stages = [] if t.plain else self._stages_of(t.payload)
        if len(stages) != 1 or stages[0].width is not None or len(t.axes) != 2 or len(t.axes[1] or ()) != 2:
            return [t]
        batch, (time, inner) = t.axes
        return self.flat(node, t._replace(axes=(batch, (time,), (inner,)), payload=t.payload[..., None]))

    # What comes out

    def is_state(self, t):
        """Whether a Tensor is final states of recurrent nodes alone."""
        if not isinstance(t, Tensor) or t.plain:
            return False
        return all(stage.reverse is not None for stage in self._stages_of(t.payload)) and all(
            self._block(feature) in (FINAL, CELL) for feature in np.unique(t.payload)
        )

    def _block(self, feature):
        _, block, _ = self._parts(np.array(feature))
        return int(block)

    def layers(self, t):
        """The layers that make a Tensor, of an input of the model."""
        if not isinstance(t, Tensor) or t.plain:
            raise ValueError("the output is numbers of the file, or of a shape")
        stage, t = self.settle(t)
        stage, t = self._repeated(stage.node, stage, t)
        if stage.width is None and (t.payload.size != 1 or any(axis and len(axis) > 1 for axis in t.axes)):
            raise ValueError(f"the output is not what {stage} makes, but parts of it, or in another order")
        if any(symbol.key for symbol in t.symbols):
            raise ValueError(f"the rows of what {stage} makes are in another order than those of the input")
        if stage.width is not None and not _in_order(t.payload.reshape(-1) - stage.first, stage.width):
            raise ValueError(f"the output is some of the features of {stage}, or they are in another order")
        found = []
        while stage.layer is not None:
            if stage.trouble:
                raise ValueError(stage.trouble)
            found.append(stage.layer)
            stage = stage.parent
        if not found:
            raise ValueError("the output is the input")
        return found[::-1]


def _output(stage, t):
    """The Tensor of all features of a stage along the last axis; the other ones are those of t."""
    shape = (1,) * (len(t.axes) - 1) + (stage.width,)
    return [Tensor((*t.axes[:-1], None), (stage.first + np.arange(stage.width)).reshape(shape))]


def _outputs(stage, t, said):
    """Y, Y_h and Y_c of a recurrent stage, whose X is t."""
    directions, layout = said.directions, said.layout
    numbers = (stage.first + np.arange(stage.width)).reshape(directions, 1, -1)
    last = Tensor((None, t.axes[1 - layout], None), numbers)
    every = Tensor((t.axes[layout], *last.axes), numbers[None])
    if layout:
        last = Tensor((t.axes[0], None, None), numbers.swapaxes(0, 1))
        every = Tensor((*t.axes[:2], None, None), numbers.reshape(1, 1, directions, -1))
    final, cell = (last._replace(payload=last.payload + block * stage.width) for block in (FINAL, CELL))
    return [every, final, cell]


def _activation(stage, name, *numbers):
    """An Activation behind a stage, whose dtype says how its numbers are meant."""
    return Activation((name, *(number(value, stage.dtype or np.float32) for value in numbers)))


def _key(symbol):
    return symbol and symbol.key


def _key_of(lengths):
    """The order of the rows that a sequence_lens is of."""
    if not isinstance(lengths, Tensor) or len(lengths.axes) != 1 or not lengths.axes[0]:
        return None
    return lengths.axes[0][0].key


def _in_rows_of(batch, state, axis):
    """Whether an initial state has its rows, along this axis, in the order of those of X, or all of them alike."""
    if not isinstance(state, Tensor) or state.plain:
        return True
    rows = state.axes[axis] if len(state.axes) == 3 else None
    return _key(rows and rows[0]) is _key(batch)


def _in_order(order, width):
    return np.array_equal(order, np.arange(width))


def _columns(weight, order, width):
    """A weight of some of a stage's features as one of all of them: with zeros for the other ones."""
    if order is None:
        return weight
    if weight.shape[-1] != len(order) or len(set(order.tolist())) != len(order):
        raise ValueError(f"its weight of shape {weight.shape} takes {len(order)} features, expected them once each")
    if _in_order(order, width):
        return weight
    found = np.zeros((*weight.shape[:-1], width), weight.dtype)
    found[..., order] = weight
    return found


def _bias(bias, width):
    if not is_constant(bias) or bias.size not in (1, width) or bias.shape[-1:] not in ((), (bias.size,)):
        raise ValueError(f"what is added is not an array of the file with a number for each of {width} features")
    return np.broadcast_to(bias.reshape(-1), width)


def _scalar(value):
    if not is_constant(value) or value.size != 1:
        raise ValueError("it computes with an array of the file that is no bias of a product and no scalar")
    return float(value.reshape(-1)[0])


# Nodes: functions of (chain, call, *values)


def _moved(function):
    """An operator that moves axes alone."""
    return lambda chain, call, *values: function(call, *values)


def _function(name, **numbers):
    """An operator that is an activation, with the attributes that it has."""

    def apply(chain, call, t):
        return chain.activation(call, t, name, *(call.attribute(key, value, float) for key, value in numbers.items()))

    return apply


def _gelu(chain, call, t):
    if call.attribute("approximate", "none", str) != "none":
        raise ValueError("it is an approximation, expected the function itself")
    return chain.activation(call, t, "gelu")


def _gather(chain, call, x, indices):
    if not isinstance(x, Tensor):
        return chain.embedding(call, x, indices)
    if not is_constant(indices) and not isinstance(indices, Order):
        raise ValueError("its indices depend on an input")
    axis = position(x, call.attribute("axis", 0, int))
    if isinstance(indices, Order):
        return chain.reordered(x, axis, indices)
    if x.axes[axis] is not None:
        if indices.size != 1:
            raise ValueError("it takes many parts of an axis whose size an input decides about")
        x, indices = chain.step(x, axis, int(indices.reshape(-1)[0])), np.zeros(indices.shape, int)
    call.take((indices.size, x.payload.size), 8)
    kept = (*x.axes[:axis], *(None,) * indices.ndim, *x.axes[axis + 1 :])
    return [x._replace(axes=kept, payload=np.take(x.payload, indices, axis))]


def _slice(chain, call, t, *arguments):
    payload = t.payload
    for n, part in axes.slices(call, t, *arguments).items():
        if t.axes[n] is None:
            payload = payload[(slice(None),) * n + (part,)]
            t = t._replace(payload=payload)
        elif part.step == -1 and (part.start == -1 or part.start >= axes.BEYOND) and part.stop <= -axes.BEYOND:
            (t,) = chain.reverse(call, t, n)
        else:
            t = chain.step(t, n, _single(part, t.axes[n]))
        payload = t.payload
    return [t]


def _reverse_sequence(chain, call, t, lengths):
    """Of all steps, as TensorFlow's converter writes what Keras calls go_backwards."""
    axis = position(t, call.attribute("time_axis", 0, int))
    payload = lengths.payload if isinstance(lengths, Tensor) and lengths.plain else lengths
    if isinstance(payload, Tensor) or not all(axes.is_size(size, t.axes[axis] or ()) for size in payload.flat):
        raise ValueError("it turns the steps of each sequence around, expected all steps")
    return chain.reverse(call, t, axis)


def _single(part, axis):
    """The index of the only step that a slice of time takes."""
    if part.step in (None, 1):
        if part.start == -1 and (part.stop >= axes.BEYOND or part.stop == axis[0].size):
            return -1
        if part.stop == part.start + 1 and part.stop != 0:
            return part.start
    end = "the end" if part.stop >= axes.BEYOND else part.stop
    raise ValueError(f"it takes the time steps {part.start} to {end}, expected the last one")


def _reshape(chain, call, t, target):
    try:
        return chain.flattened(call.node, *axes.reshape(call, t, target))
    except axes.MixedError:
        if len(target) != 2:
            raise
        return chain.flat(call.node, t)


def _flatten(chain, call, t):
    try:
        return chain.flattened(call.node, *axes.flatten(call, t))
    except axes.MixedError:
        if call.attribute("axis", 1, int) != 1:
            raise
        return chain.flat(call.node, t)


def _range(chain, call, start, limit, step):
    """Of all rows: their places."""
    size = limit.reshape(-1)[0]
    if start != 0 or step != 1 or not isinstance(size, axes.Size) or size.count != 1 or len(size.symbols) != 1:
        raise ValueError("it is a range that an input decides about")
    return [Order(size.symbols[0], None, False)]


def _scatter(chain, call, data, order, places):
    """Rows' places put where an order takes them from: the way back."""
    rows = isinstance(places, Order) and places.key is None and not places.inverse
    if is_constant(places) and places.ndim == 1:
        rows = axes.is_size(places.size, (order.symbol,)) and _in_order(places, places.size)
    if not rows or not isinstance(order, Order) or call.attribute("axis", 0, int) not in (0, -1):
        raise ValueError("it puts numbers in places that an input decides about")
    return [order._replace(inverse=not order.inverse)]


def _cast(chain, call, t):
    if isinstance(t, Tensor) and not t.plain:
        stage, _ = chain.settle(t)
        integers = stage.layer is None and stage.integers
        if integers is (call.attribute("to", None, int) in FLOATS):
            raise ValueError("it makes integers of features, or features of integers")
    return [t]


def _matmul(chain, call, a, b):
    return chain.dense(call, a, b.T if is_constant(b) else b)


def _gemm(chain, call, a, b, c=None):
    alpha, beta = call.attribute("alpha", 1.0, float), call.attribute("beta", 1.0, float)
    if call.attribute("transA", 0, int) or not is_constant(b) or b.ndim != 2 or len(a.axes) != 2:
        raise ValueError("it is no product of rows of features with a matrix of the file")
    weight = b if call.attribute("transB", 0, int) else b.T
    return chain.dense(call, a, _scaled(weight, alpha), None if c is None else _scaled(c, beta))


def _scaled(array, factor):
    if factor == 1.0:
        return array
    if not is_constant(array) or array.dtype.kind != "f":
        raise ValueError("what is added is no array of the file")
    return (array * array.dtype.type(factor)).astype(array.dtype)


def _add(chain, call, a, b):
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return chain.merge(call, a, b, "sum")
    return chain.add_bias(call, *((a, b) if isinstance(a, Tensor) else (b, a)))


def _sub(chain, call, a, b):
    return chain.activation(call, a, "affine", 1.0, -_scalar(b))


def _mul(chain, call, a, b):
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return chain.product(call, a, b)
    a, b = (a, b) if isinstance(a, Tensor) else (b, a)
    return chain.scaled(call, a, _scalar(b))


def _div(chain, call, a, b):
    return chain.scaled(call, a, 1.0 / _scalar(b))


_HANDLERS = {
    "Identity": lambda chain, call, t: [t], "Dropout": lambda chain, call, t, *rest: [t], "Cast": _cast,
    "Transpose": _moved(axes.transpose), "Squeeze": _moved(axes.squeeze), "Unsqueeze": _moved(axes.unsqueeze),
    "Shape": _moved(axes.shape), "Concat": _moved(axes.concat), "Split": _moved(axes.split),
    "Expand": _moved(axes.expand), "Tile": _moved(axes.tile), "ConstantOfShape": _moved(axes.constant_of_shape),
    "TopK": lambda chain, call, t, count: chain.top(call, t, count), "Range": _range, "ScatterElements": _scatter,
    "ReverseSequence": _reverse_sequence, "Reshape": _reshape, "Flatten": _flatten, "Gather": _gather, "Slice": _slice,
    "MatMul": _matmul, "Gemm": _gemm, "Add": _add, "Sub": _sub, "Mul": _mul, "Div": _div,
    "Softmax": lambda chain, call, t: chain.softmax(call, t),
    "LayerNormalization": lambda chain, call, *values: chain.layer_norm(call, *values),
    "Relu": _function("relu"), "Tanh": _function("tanh"), "Sigmoid": _function("sigmoid"),
    "LeakyRelu": _function("leaky_relu", alpha=0.01), "ThresholdedRelu": _function("thresholded_relu", alpha=1.0),
    "HardSigmoid": _function("hard_sigmoid", alpha=0.2, beta=0.5), "Elu": _function("elu", alpha=1.0),
    "Softsign": _function("softsign"), "Softplus": _function("softplus"), "Gelu": _gelu,
}  # fmt: skip
