"""ONNX's operators LSTM, GRU and RNN: what a node of them says, as a layer.

Knows their inputs, attributes and conventions (gates i o f c and z r h, peepholes i o f, numbers of activations taken
in order); the values of inputs come from :class:`~.onnx_fold.Constants`.
"""

from typing import Any, NamedTuple

import numpy as np

from ..layers import GRU, LSTM, RNN
from .gates import reorder
from .onnx_files import attributes_of, number, of_type, title
from .onnx_fold import NotConstantError

LAYERS = {"LSTM": LSTM, "GRU": GRU, "RNN": RNN}

_GATES = {"LSTM": ("iofc", "ifgo"), "GRU": ("zrh", "rzn"), "RNN": ("h", "h")}
_ROLES = {"LSTM": 3, "GRU": 2, "RNN": 1}
_DEFAULTS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}

# ONNX's name of an activation in lower case; ours; the alpha and beta that it has where a node gives none. Those are
# the operators' own, as the specification says; onnxruntime takes 0 for ThresholdedRelu, ScaledTanh and Affine.
_ACTIVATIONS = {
    "sigmoid": ("sigmoid",), "tanh": ("tanh",), "relu": ("relu",), "softsign": ("softsign",),
    "softplus": ("softplus",), "leakyrelu": ("leaky_relu", 0.01), "thresholdedrelu": ("thresholded_relu", 1.0),
    "elu": ("elu", 1.0), "affine": ("affine", 1.0, 0.0), "scaledtanh": ("scaled_tanh", 1.0, 1.0),
    "hardsigmoid": ("hard_sigmoid", 0.2, 0.5),
}  # fmt: skip

_KNOWN = {
    "activation_alpha", "activation_beta", "activations", "clip", "direction", "hidden_size", "input_forget", "layout",
    "linear_before_reset",
}  # fmt: skip
_DIRECTIONS = ("forward", "reverse", "bidirectional")


class Recurrent(NamedTuple):
    """What a node says: its attributes with their defaults, and the names of its inputs, "" for one that is not given.

    The activations are ours, a list for each direction.
    """

    node: Any
    direction: str
    layout: int
    hidden_size: int | None
    activations: list
    options: dict  # of the layer, from attributes alone
    x: str
    w: str
    r: str
    b: str
    lengths: str
    state: tuple  # initial_h, of an LSTM initial_c too
    p: str

    @property
    def reverse(self):
        """Of each direction, whether it is the reverse one."""
        return {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[self.direction]

    @property
    def directions(self):
        """How many there are."""
        return len(self.reverse)


def read_node(node):
    """A node as a :class:`Recurrent`, its attributes checked."""
    given = attributes_of(node)
    unknown = given.keys() - _KNOWN
    if unknown:
        raise ValueError(f"{title(node)} has the attributes {', '.join(sorted(unknown))}, which ONNX does not know")

    def attribute(name, default, *types):
        return of_type(node, name, given[name], *types) if name in given else default

    direction = attribute("direction", "forward", str).lower()
    if direction not in _DIRECTIONS:
        raise ValueError(f"direction of {title(node)} is {direction!r}, expected {', '.join(_DIRECTIONS)}")
    layout = _choice(node, "layout", attribute("layout", 0, int))
    options = {}
    if attribute("clip", None, float, int) is not None:
        options["clip"] = {"gates": given["clip"]}
    if _choice(node, "input_forget", attribute("input_forget", 0, int)) and node.op_type == "LSTM":
        options["coupled"] = "f=1-i"
    if node.op_type == "GRU":
        options["reset_after"] = bool(_choice(node, "linear_before_reset", attribute("linear_before_reset", 0, int)))
    names = [*node.input, *[""] * 8][: 8 if node.op_type == "LSTM" else 6]
    if len(node.input) > len(names) or not all(names[:3]):
        raise ValueError(f"{title(node)} has {len(node.input)} inputs, expected X, W, R and at most {len(names)}")
    read = Recurrent(
        node, direction, layout, attribute("hidden_size", None, int), [], options, *names[:5],
        tuple(names[5:7]), names[7] if len(names) > 7 else "",
    )  # fmt: skip
    return read._replace(activations=_activations(read, attribute))


def _choice(node, name, value):
    if value not in (0, 1):
        raise ValueError(f"attribute {name!r} of {title(node)} is {value}, expected 0 or 1")
    return value


def _activations(read, attribute):
    """Ours, a list for each direction: each takes of the alphas and betas, in their order, those that it has."""
    kind, where, each = read.node.op_type, title(read.node), _ROLES[read.node.op_type]
    names = attribute("activations", None, list) or _DEFAULTS[kind] * read.directions
    if len(names) != each * read.directions:
        raise ValueError(f"{where} has {len(names)} activations, expected {each * read.directions}")
    numbers = [attribute(f"activation_{name}", [], list) for name in ("alpha", "beta")]
    rest, found = [iter(values) for values in numbers], []
    for name in names:
        if not isinstance(name, str) or name.lower() not in _ACTIVATIONS:
            raise ValueError(f"{where} has the activation {name!r}, expected one of {', '.join(_ACTIVATIONS)}")
        ours, *defaults = _ACTIVATIONS[name.lower()]
        taken = [next(values, default) for values, default in zip(rest, defaults, strict=False)]
        found.append((ours, *taken) if taken else ours)
    for name, values, left in zip(("alpha", "beta"), numbers, rest, strict=True):
        more = len(list(left))
        if 0 < more < len(values):  # by place, perhaps; where none is taken they mean nothing
            raise ValueError(
                f"{where} has {len(values)} numbers in activation_{name}, {more} more than {', '.join(names)} take"
            )
    return [found[start : start + each] for start in range(0, len(found), each)]


def build(read, get, dtype=None, lengths=False, columns=None):
    """The layer of a node.

    Parameters
    ----------
    read : Recurrent
    get : callable
        The ndarray of a name; NotConstantError where an input of the model decides about it.
    dtype : dtype, optional
        None: that of W, float32 for a smaller one.
    lengths : bool, default False
        Whether it has a sequence_lens.
    columns : callable, optional
        What W becomes: where the features of X are others than those that the layer is given.

    Returns
    -------
    layer
        With two directions whose activations differ, a :class:`cylstm.Bidirectional`.
    """
    node = read.node
    w, r = _weight(read, "W", read.w, get, 3), _weight(read, "R", read.r, get, 3)
    dtype = dtype or np.result_type(w.dtype, np.float32)
    w = columns(w) if columns else w
    hidden_size = read.hidden_size or r.shape[2]
    rows = len(_GATES[node.op_type][0]) * hidden_size
    arrays = {
        "weight_ih": _shaped(read, "W", w, (rows, w.shape[2])),
        "weight_hh": _shaped(read, "R", r, (rows, hidden_size)),
    }
    options = dict(read.options)
    if read.b:
        b = _shaped(read, "B", _weight(read, "B", read.b, get, 2), (2 * rows,))
        arrays["bias_ih"], arrays["bias_hh"] = np.split(b, 2, axis=1)
        if not options.get("reset_after") and not arrays["bias_hh"].any():  # as those write it who have one bias
            del arrays["bias_hh"]
    arrays = {name: reorder(array, *_GATES[node.op_type], axis=1) for name, array in arrays.items()}
    if read.p:
        p = _shaped(read, "P", _weight(read, "P", read.p, get, 2), (3 * hidden_size,))
        arrays["weight_peephole"] = reorder(p, "iof", "ifo", axis=1)
        options["peepholes"] = True
    if "coupled" in options:
        arrays = {name: _without_forget(array, name) for name, array in arrays.items()}
    options |= {
        "bias": "single" if "bias_ih" in arrays and "bias_hh" not in arrays else "bias_ih" in arrays,
        "batch_first": bool(read.layout), "dtype": dtype,
    }  # fmt: skip
    if lengths:
        options["semantics"] = "onnx"
    if "clip" in options:
        options["clip"] = {"gates": number(options["clip"]["gates"], dtype)}
    return _layer(read, (w.shape[2], hidden_size), arrays, options)


def _weight(read, name, value, get, axes):
    """The array of an input, of floats and with so many axes."""
    try:
        array = get(value)
    except NotConstantError as error:
        raise ValueError(f"{name} of {title(read.node)} is not in the file alone: {error}") from None
    if array.dtype.kind != "f" or array.ndim != axes:
        what = f"of dtype {array.dtype} and shape {array.shape}, expected floats with {axes} axes"
        raise ValueError(f"{name} of {title(read.node)} is {what}")
    return array


def _shaped(read, name, array, shape):
    shape = (read.directions, *shape)
    if array.shape != shape:
        raise ValueError(f"{name} of {title(read.node)} has shape {array.shape}, expected {shape}")
    return array


def _without_forget(array, name):
    """Without the rows of f, which a node with input_forget has and does not use."""
    parts = np.split(array, 3 if name == "weight_peephole" else 4, axis=1)
    return np.concatenate([parts[0], *parts[2:]], axis=1)


def has_lengths(read, get, whole=None):
    """Whether sequence_lens is an input of the model.

    One that the file has must say no more than ``whole``, the time steps of x where the file says how many.
    """
    if not read.lengths:
        return False
    try:
        lengths = get(read.lengths)
    except NotConstantError:
        return True
    if whole is None or (lengths != whole).any():
        steps = "a number of them that the file does not say" if whole is None else whole
        raise ValueError(
            f"{title(read.node)} has its sequence_lens in the file, {lengths.tolist()}, and x has {steps} time steps: "
            "make it an input of the graph, or leave it away, and give lengths to forward"
        )
    return False


def set_state(read, layer, values):
    """Make what the file has as the initial state the layer's ``default_state``.

    ``values`` are those of initial_h and initial_c, with any number of rows, or None for one that is not there.
    """
    parts = []
    for name, value in zip(("initial_h", "initial_c"), values, strict=False):
        if value is not None:
            value = value.swapaxes(0, 1) if read.layout and value.ndim == 3 else value
            if value.ndim != 3 or value.shape[0] != read.directions or value.dtype.kind != "f":
                raise ValueError(f"{name} of {title(read.node)} is of dtype {value.dtype} and shape {value.shape}")
            if (value != value[:, :1]).any():
                raise ValueError(
                    f"{name} of {title(read.node)} is in the file, and not one for all rows of a batch: make it an "
                    "input of the graph, and give it to forward as state"
                )
            value = value[:, 0].astype(layer.dtype) if value.shape[1] else None
        parts.append(value)
    if not any(part is not None and part.any() for part in parts):
        return
    known = next(part for part in parts if part is not None)
    parts = [np.zeros_like(known) if part is None else part for part in parts]
    if isinstance(layer, LAYERS[read.node.op_type]):
        layer.default_state = tuple(parts) if len(parts) > 1 else parts[0]
        return
    for n, one in enumerate(layer.layers):
        of_one = [part[n : n + 1] for part in parts]
        one.default_state = tuple(of_one) if len(of_one) > 1 else of_one[0]


def _layer(read, sizes, arrays, options):
    """The layer; of directions whose activations differ, two of them."""
    kind = read.node.op_type

    def make(which, more):
        named = {
            f"{name}_l0{suffix}": np.ascontiguousarray(array[n])
            for n, suffix in zip(which, ("", "_reverse"), strict=False)
            for name, array in arrays.items()
        }
        activations = [
            part if isinstance(part, str) else (part[0], *(number(value, options["dtype"]) for value in part[1:]))
            for part in read.activations[which[0]]
        ]
        more |= {"nonlinearity": activations[0]} if kind == "RNN" else {"activations": tuple(activations)}
        return LAYERS[kind]._of(*sizes, arrays=named, **options, **more)

    if read.directions == 1:
        return make([0], {"reverse": read.direction == "reverse"})
    if read.activations[0] == read.activations[1]:
        return make([0, 1], {"bidirectional": True})
    from .. import Bidirectional

    return Bidirectional(make([0], {}), make([1], {"reverse": True}))


def pair(forward, backward):
    """Two layers, one in each direction, as one: a bidirectional one, where they differ in nothing else."""
    from .. import Bidirectional

    (sizes, options), (others, of_other) = forward._arguments, backward._arguments
    if sizes != others or {**options, "reverse": True} != of_other or type(forward) is not type(backward):
        return Bidirectional(forward, backward)
    if forward.default_state is not None or backward.default_state is not None:
        return Bidirectional(forward, backward)
    arrays = forward.state_dict() | {f"{name}_reverse": array for name, array in backward.parameters.items()}
    return type(forward)._of(*sizes, arrays=arrays, **options, bidirectional=True)


def merged(layer, how):
    """A layer of two directions with another ``merge``."""
    from .. import Bidirectional

    if isinstance(layer, Bidirectional):
        return Bidirectional(*layer.layers, merge=how)
    sizes, options = layer._arguments
    found = type(layer)._of(*sizes, arrays=layer.parameters, **{**options, "merge": how})
    found.default_state = layer.default_state
    return found
