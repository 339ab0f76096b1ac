"""PyTorch's modules and state dicts as layers, and layers as state dicts. Needs no PyTorch: it imports none.

Knows modules by the names of their classes and attributes, tensors by their names and shapes.
"""

import itertools
import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from .. import feedforward, layers, validation
from . import Entry
from .torch_files import named, read_state_dict

_GATES = {4: "LSTM", 3: "GRU", 1: "RNN"}
_RECURRENT = {"LSTM": layers.LSTM, "GRU": layers.GRU, "RNN": layers.RNN}
_NAME = re.compile(r"(weight_ih|weight_hh|weight_hr|bias_ih|bias_hh)(?:_l(\d{1,9})(_reverse)?)?")

# What tensors alone do not tell apart.
_LINEAR_OR_EMBEDDING = "Linear or Embedding"
_NORM = "LayerNorm or GroupNorm"
_SOME_RECURRENT = "LSTM, GRU or RNN"
_OTHER = "tensors"

_KINDS = ("LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell", "Linear", "Embedding", "LayerNorm")

_LISTED = 20  # layers, in a message


class Found(NamedTuple):
    """A layer among the tensors of a state dict: what :func:`find_layers` returns."""

    prefix: str  # of its tensors' names, without the dot
    kind: str  # "LSTM", "GRUCell", "Linear", "Linear or Embedding", ...; "tensors" of what is no layer here
    options: dict  # sizes, num_layers, bias, bidirectional, proj_size, as the layer has them
    dtype: str  # "float32"; all of them, where there are several
    problem: str = ""  # why this layer can not be made

    def __str__(self):
        return f"{self.prefix or '(no prefix)'}: {self.kind}({self.detail})"

    @property
    def detail(self):
        """Sizes, dtype and problem in words."""
        words = [
            name if value is True else f"{name}={value}".removeprefix("=")  # a tensor alone has no name
            for name, value in self.options.items()
            if value is not False
        ]
        return ", ".join([*words, self.dtype, *([self.problem] if self.problem else [])])


def find_layers(state_dict):
    """The layers that a state dict holds, told by the names and shapes of its tensors.

    Parameters
    ----------
    state_dict : mapping
        Of names to tensors or ndarrays; dicts and lists may be within, and what is no tensor is passed over.

    Returns
    -------
    list of Found
        In the order of the tensors. A weight without a bias is a "Linear or Embedding", one of one axis a "LayerNorm or
        GroupNorm"; other groups of tensors are "tensors".

    Raises
    ------
    ValueError
        If two tensors come to the same name.

    Examples
    --------
    >>> import cylstm
    >>> lstm, dense = cylstm.LSTM(3, 4, bidirectional=True, rng=0), cylstm.Dense(8, 2, rng=0)
    >>> for found in find_layers({"encoder": lstm.parameters, "out": dense.parameters}):
    ...     print(found)
    encoder: LSTM(input_size=3, hidden_size=4, num_layers=1, bias, bidirectional, float32)
    out: Linear(in_features=8, out_features=2, bias, float32)
    """
    return [_found(prefix, group) for prefix, group in _groups(state_dict).items()]


def _groups(state_dict):
    """{prefix: {last part of the name: tensor}}"""
    groups: dict = {}
    for name, tensor in named(state_dict, _is_tensor).items():
        prefix, _, last = name.rpartition(".")
        groups.setdefault(prefix, {})[last] = tensor
    return groups


def _is_tensor(value):
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _found(prefix, group):
    shapes = {name: tuple(tensor.shape) for name, tensor in group.items()}
    dtypes = dict.fromkeys(str(tensor.dtype).removeprefix("torch.") for tensor in group.values())
    kind, options, problem = _described(shapes)
    return Found(prefix, kind, options, ", ".join(dtypes), problem)


def _described(shapes):
    """(kind, options, problem) of the tensors of one group."""
    if any(_NAME.fullmatch(name) for name in shapes):
        return _described_recurrent(shapes)
    weight, bias = shapes.get("weight", ()), shapes.get("bias")
    if shapes.keys() <= {"weight", "bias"}:
        if len(weight) == 2 and bias in (None, weight[:1]):
            if bias is None:
                return _LINEAR_OR_EMBEDDING, {"rows": weight[0], "columns": weight[1]}, ""
            return "Linear", {"in_features": weight[1], "out_features": weight[0], "bias": True}, ""
        if len(weight) == 1 and bias == weight:
            return _NORM, {"features": weight[0]}, ""
    return _OTHER, {name: shape for name, shape in shapes.items()}, ""


def _described_recurrent(shapes):
    matches = [match for match in map(_NAME.fullmatch, shapes) if match]
    cell = matches[0][2] is None
    first = "" if cell else "_l0"
    names = [f"weight_ih{first}", f"weight_hh{first}"]
    if missing := [name for name in names if name not in shapes]:
        return _SOME_RECURRENT, {}, f"missing: {', '.join(missing)}"
    of_x, of_h = (shapes[name] for name in names)
    projection = shapes.get(f"weight_hr{first}", ())
    hidden_size = (projection or of_h)[-1:]
    kind = None
    if len(of_x) == len(of_h) == 2 and len(projection) in (0, 2) and hidden_size[0]:
        kind = _GATES.get(of_x[0] / hidden_size[0])
    if kind is None:
        return _SOME_RECURRENT, {}, f"weight_ih{first} has shape {of_x}, weight_hh{first} {of_h}: no cell has these"
    options = {"input_size": of_x[1], "hidden_size": hidden_size[0]}
    if not cell:
        options["num_layers"] = 1 + max(int(match[2] or 0) for match in matches)
    options["bias"] = any(match[1].startswith("bias") for match in matches)
    if not cell:
        options["bidirectional"] = any(match[3] for match in matches)
    if projection:
        options["proj_size"] = projection[0]
    return kind + "Cell" * cell, options, _mismatch(shapes, kind, options)


def _mismatch(shapes, kind, options):
    """What is wrong with the names and shapes of a recurrent layer of these options; "" if nothing is."""
    layers_ = options.get("num_layers", 1)
    if layers_ > len(shapes):
        return f"there are too few tensors for {layers_} layers"
    expected = _expected_shapes(kind, options)
    missing = [name for name in expected if name not in shapes]
    unexpected = [name for name in shapes if name not in expected]
    wrong = [
        f"{name} is of shape {shapes[name]}, expected {shape}"
        for name, shape in expected.items()
        if shapes.get(name, shape) != shape
    ]
    parts = [f"missing: {', '.join(missing)}"] if missing else []
    parts += [f"unexpected: {', '.join(unexpected)}"] if unexpected else []
    return "; ".join(parts + wrong)


def _expected_shapes(kind, options):
    """{name: shape} of PyTorch's layer; of a cell, without num_layers, without _l0."""
    hidden_size, proj_size = options["hidden_size"], options.get("proj_size", 0)
    rows = hidden_size * next(gates for gates, name in _GATES.items() if name == kind)
    width = proj_size or hidden_size
    directions = ("", "_reverse") if options.get("bidirectional") else ("",)
    shapes = {}
    for layer, direction in itertools.product(range(options.get("num_layers", 1)), directions):
        suffix = f"_l{layer}{direction}" if "num_layers" in options else ""
        columns = options["input_size"] if layer == 0 else width * len(directions)
        shapes |= {f"weight_ih{suffix}": (rows, columns), f"weight_hh{suffix}": (rows, width)}
        if options["bias"]:
            shapes |= {f"bias_ih{suffix}": (rows,), f"bias_hh{suffix}": (rows,)}
        if proj_size:
            shapes[f"weight_hr{suffix}"] = (proj_size, hidden_size)
    return shapes


def from_torch(
    module_or_state_dict, prefix="", *, kind=None, batch_first=None, nonlinearity=None, dropout=None, dtype=None
):
    """A layer with the parameters of one of PyTorch's, which computes the same.

    Parameters
    ----------
    module_or_state_dict : torch.nn.Module, or mapping
        A module: LSTM, GRU, RNN or a Cell of these, Linear (a Dense), Embedding, LayerNorm, Dropout, Flatten, an
        activation, or a Sequential of modules. Or a state dict, of tensors or ndarrays, with dicts and lists within or
        not: what ``torch.load`` or :func:`~cylstm.interop.torch_files.read_state_dict` returned.
    prefix : str, optional
        Where the layer is: "encoder.lstm" is the attribute ``module.encoder.lstm``, or the tensors
        ``"encoder.lstm.weight_ih_l0"``, ... Not needed where a state dict holds one layer alone.
    kind : {"LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell", "Linear", "Embedding", "LayerNorm"}, optional
        Of a state dict: which of its layers is meant. Needed for a weight without a bias ("Linear" or "Embedding") and
        for a LayerNorm, whose tensors look like those of other layers.
    batch_first : bool
        Of a state dict, which does not say: needed for LSTM, GRU and RNN.
    nonlinearity : {"tanh", "relu"}
        Of a state dict, which does not say: needed for RNN and RNNCell.
    dropout : float, default 0.0
        Of a state dict: between layers, in training.
    dtype : {"float32", "float64"}, optional
        As the parameters if omitted; float32 for float16 and bfloat16.

    Returns
    -------
    layer
        With copies of the parameters. A Cell is a layer of one step after another: ``layer.stream(n).step(x)``.

    Raises
    ------
    ValueError
        If there is no such layer, several might be meant, or one is not whole; what is there is listed. If an argument
        is missing, or does not belong to the layer; if a module computes what no layer here does.
    TypeError
        If ``module_or_state_dict`` is neither.

    Notes
    -----
    A Sequential's data is batch-first, whatever ``batch_first`` of a module in it says. The row of an Embedding's
    ``padding_idx`` is looked up as any other, as in PyTorch: it is zeros if it was trained there; here it is trained as
    others are. A module that is in a Sequential twice becomes two layers. PyTorch's Softplus is x above 20, which is
    2e-9 less than the softplus here.

    Examples
    --------
    >>> import numpy as np, cylstm
    >>> rng = np.random.default_rng(0)
    >>> state_dict = {"rnn.weight_ih_l0": rng.normal(size=(12, 3)), "rnn.weight_hh_l0": rng.normal(size=(12, 4))}
    >>> cylstm.from_torch(state_dict, batch_first=True)
    GRU(3, 4, bias=False, batch_first=True, dtype='float64')
    """
    prefix = validation.text("prefix", prefix).removesuffix(".")
    if dtype is not None:
        dtype = validation.dtype_of(dtype)
    given = {"batch_first": batch_first, "nonlinearity": nonlinearity, "dropout": dropout}
    given = {name: value for name, value in given.items() if value is not None}
    if isinstance(module_or_state_dict, Mapping):
        return _from_state_dict(module_or_state_dict, prefix, kind, given, dtype)
    if isinstance(module_or_state_dict, type) or not hasattr(module_or_state_dict, "named_modules"):
        came = type(module_or_state_dict).__name__
        raise TypeError(
            f"module_or_state_dict is a {came}, expected a torch.nn.Module or a dict of tensors: "
            "a file is read by cylstm.load_torch(path)"
        )
    if kind is not None or given:
        raise ValueError(f"{', '.join((['kind'] if kind else []) + [*given])} came with a module, which says it itself")
    module = _attribute(module_or_state_dict, prefix)
    return _from_module(prefix, module, dtype or _dtype_of_module(module))


def load_torch(path, prefix="", *, kind=None, batch_first=None, nonlinearity=None, dropout=None, dtype=None):
    """A layer from a file that PyTorch's ``torch.save(model.state_dict(), path)`` wrote, or from a .safetensors file.

    PyTorch is not needed, and nothing that the file holds is executed.

    Parameters
    ----------
    path : str or path
    prefix, kind, batch_first, nonlinearity, dropout, dtype
        As for :func:`from_torch` of a state dict.

    Returns
    -------
    layer

    Raises
    ------
    OSError
        As the file system says it.
    ValueError
        If the file is damaged, truncated, of another kind, or holds objects that are neither tensors nor plain data; or
        as :func:`from_torch`. It is named.

    Examples
    --------
    >>> import os, tempfile, cylstm
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = os.path.join(directory, "model.safetensors")
    ...     cylstm.Sequential([("lstm", cylstm.LSTM(3, 4, rng=0)), ("out", cylstm.Dense(4, 2, rng=1))]).save(path)
    ...     cylstm.load_torch(path, "lstm", batch_first=False)
    LSTM(3, 4)
    """
    state_dict = read_state_dict(path)
    try:
        return from_torch(
            state_dict, prefix, kind=kind, batch_first=batch_first, nonlinearity=nonlinearity, dropout=dropout,
            dtype=dtype,
        )  # fmt: skip
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def describe(path):
    """What a file of PyTorch's, or a .safetensors file, holds.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    list of Entry

    Raises
    ------
    OSError, ValueError
        As :func:`load_torch`.
    """
    return [Entry(found.prefix, found.kind, found.detail) for found in find_layers(read_state_dict(path))]


# A state dict


def _from_state_dict(state_dict, prefix, kind, given, dtype):
    groups = _groups(state_dict)
    found = _chosen([_found(name, group) for name, group in groups.items()], prefix, kind)
    where = f"{found.prefix!r}, {kind or found.kind}," if found.prefix else kind or found.kind
    if found.problem:
        raise ValueError(
            f"{where} is not whole, or not PyTorch's; {found.problem}; where PyTorch computes weights (weight_norm),"
            " give the module itself"
        )
    arrays = {name: _array(name, tensor) for name, tensor in groups[found.prefix].items()}
    dtype = dtype or _dtype_of(arrays)
    if found.kind in ("Linear", _LINEAR_OR_EMBEDDING, _NORM):
        if given:
            raise ValueError(f"{where} has no {', '.join(given)}")
        return _of_weights(found, kind or found.kind, arrays, dtype)
    cell = found.kind.endswith("Cell")
    wanted = ["nonlinearity"] if found.kind.startswith("RNN") else []
    _check_given(where, given, wanted if cell else ["batch_first", *wanted], ["batch_first"] if cell else ["dropout"])
    return _recurrent(found.kind, {**found.options, **given}, arrays, dtype)


def _chosen(found, prefix, kind):
    """The one layer that is at the prefix, or in what begins with it, and of this kind."""
    layers_ = [layer for layer in found if layer.kind != _OTHER]
    if kind is not None and kind not in _KINDS:
        raise ValueError(f"kind is {kind!r}, expected one of {', '.join(_KINDS)}")
    inside = [layer for layer in layers_ if not prefix or f"{layer.prefix}.".startswith(f"{prefix}.")]
    exact = [layer for layer in inside if layer.prefix == prefix]
    some = [layer for layer in exact or inside if kind is None or kind in re.split(" or |, ", layer.kind)]
    if not some:
        wanted = f"no {kind or 'layer'}{f' at prefix {prefix!r}' if prefix else ''} among the tensors"
        raise ValueError(f"there is {wanted}; there {_listed(layers_) if layers_ else 'is none at all'}")
    if len(some) > 1:
        raise ValueError(f"several layers may be meant: expected the prefix of one of them; there {_listed(some)}")
    (layer,) = some
    if kind is None and layer.kind in (_LINEAR_OR_EMBEDDING, _NORM):
        one = " or ".join(f"kind={name!r}" for name in layer.kind.split(" or ") if name in _KINDS)
        raise ValueError(f"{layer} does not say what it is: expected {one}")
    return layer


def _listed(found):
    more = f"; and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    return f"{'are' if len(found) > 1 else 'is'} {'; '.join(map(str, found[:_LISTED]))}{more}"


def _check_given(where, given, needed, allowed):
    """That what a state dict does not say has been given, and nothing else."""
    missing = [name for name in needed if name not in given]
    if missing:
        wanted = ", ".join(f"{name}=" for name in missing)
        raise ValueError(f"{where} does not say {' and '.join(missing)}: expected {wanted}")
    unexpected = [name for name in given if name not in (*needed, *allowed)]
    if unexpected:
        raise ValueError(f"{where} has no {', '.join(unexpected)}")


def _of_weights(found, kind, arrays, dtype):
    if kind == "Embedding":
        return feedforward.Embedding._of(*arrays["weight"].shape, arrays=arrays, dtype=dtype)
    if kind == "LayerNorm":
        return feedforward.LayerNorm._of(found.options["features"], arrays=arrays, dtype=dtype)
    rows, columns = arrays["weight"].shape
    return feedforward.Dense._of(columns, rows, "bias" in arrays, arrays=arrays, dtype=dtype)


def _recurrent(kind, options, arrays, dtype):
    if kind.endswith("Cell"):
        arrays = {f"{name}_l0": array for name, array in arrays.items()}
    if options.get("nonlinearity", "tanh") not in ("tanh", "relu"):
        raise ValueError(f"nonlinearity is {options['nonlinearity']!r}, expected 'tanh' or 'relu'")
    return _RECURRENT[kind.removesuffix("Cell")]._of(arrays=arrays, dtype=dtype, **options)


# Tensors


def _array(name, tensor):
    """The numbers of a tensor, of a float dtype that NumPy has."""
    if hasattr(tensor, "detach"):
        if getattr(tensor, "is_quantized", False):
            raise ValueError(f"{name} is quantised: take the layer before it is")
        try:
            tensor = tensor.detach().cpu()
            tensor = (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
        except (RuntimeError, TypeError) as error:  # without data (meta), sparse
            raise ValueError(f"{name} can not be read: {error}") from None
    array = np.asarray(tensor)
    if array.dtype.kind != "f":
        raise ValueError(f"{name} is of dtype {array.dtype}, expected floats")
    return array


def _dtype_of(arrays):
    """float64 if any of the arrays is, otherwise float32."""
    return np.dtype("float64" if any(array.dtype == np.float64 for array in arrays.values()) else "float32")


# A module


def _attribute(module, prefix):
    for part in prefix.split(".") if prefix else ():
        inner = getattr(module, part, None)
        if not hasattr(inner, "named_modules"):
            raise ValueError(f"there is no module at prefix {prefix!r}. {_modules_in(module)}")
        module = inner
    return module


def _dtype_of_module(module):
    double = any(str(parameter.dtype) == "torch.float64" for parameter in module.parameters())
    return np.dtype("float64" if double else "float32")


def _kind_of(module):
    """The name of the class of PyTorch's that a module is of; "" of none, or if its forward is another one."""
    place = getattr(getattr(type(module), "forward", None), "__module__", "")
    if "forward" in vars(module) or not (place == "cylstm.torch" or place.startswith("torch.nn.modules.")):
        return ""
    return next((cls.__name__ for cls in type(module).__mro__ if cls.__module__.startswith("torch.nn.modules.")), "")


def _modules_in(module):
    known = [f"{name} ({_kind_of(inner)})" for name, inner in module.named_modules() if name and _is_known(inner)]
    if not known:
        return "No such module is in it"
    more = ", ..." if len(known) > _LISTED else ""
    return f"In it are {', '.join(known[:_LISTED])}{more}: take them one by one, by prefix= or as module.name"


def _is_known(module):
    return _kind_of(module) in _MODULES


def _from_module(where, module, dtype):
    if not _is_known(module):
        name = repr(where) if where else "the module"
        raise ValueError(
            f"{name} is a {type(module).__module__}.{type(module).__name__}, and what that computes is in its code"
            f" alone: expected one of {', '.join(sorted(_MODULES))} of torch.nn. {_modules_in(module)}"
        )
    make = _MODULES[_kind_of(module)]
    try:
        _check_hooks(module)
        if make is not None:
            return make(module, dtype)
    except ValueError as error:
        raise ValueError(f"{where}: {error}" if where else str(error)) from None
    return _of_sequential(where, module, dtype)


# Hooks that make a parameter before each forward, and what they take to make it.
_MAKERS = {"WeightNorm": (), "SpectralNorm": (False,)}


def _check_hooks(module):
    """That nothing is done to what goes in or comes out of a module."""
    for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values()):
        if type(hook).__name__ not in _MAKERS:
            name = getattr(hook, "__qualname__", type(hook).__name__)
            raise ValueError(
                f"it has the hook {name}, and what that does to its numbers is in code alone: remove it (of pruning, by"
                " torch.nn.utils.prune.remove), or give the state_dict"
            )


def _parameters(module, names):
    """{name: array} of a module's parameters; those that hooks make before each forward as they would."""
    hooks = [hook for hook in module._forward_pre_hooks.values() if type(hook).__name__ in _MAKERS]
    made = {hook.name: hook.compute_weight(module, *_MAKERS[type(hook).__name__]) for hook in hooks}
    return {name: _array(name, made[name] if name in made else getattr(module, name)) for name in names}


def _of_recurrent(module, dtype):
    kind = _kind_of(module)
    options = {"input_size": module.input_size, "hidden_size": module.hidden_size, "bias": bool(module.bias)}
    if not kind.endswith("Cell"):
        options |= {
            "num_layers": module.num_layers, "batch_first": module.batch_first, "dropout": module.dropout,
            "bidirectional": bool(module.bidirectional),
        }  # fmt: skip
    if kind.startswith("RNN"):
        options["nonlinearity"] = module.nonlinearity
    if getattr(module, "proj_size", 0):
        options["proj_size"] = module.proj_size
    names = _expected_shapes(kind.removesuffix("Cell"), options)
    return _recurrent(kind, options, _parameters(module, names), dtype)


def _of_linear(module, dtype):
    arrays = _parameters(module, ["weight"] if module.bias is None else ["weight", "bias"])
    return feedforward.Dense._of(
        module.in_features, module.out_features, module.bias is not None, arrays=arrays, dtype=dtype
    )


def _of_embedding(module, dtype):
    if module.max_norm is not None:
        raise ValueError(f"max_norm is {module.max_norm}, expected None: vectors are not scaled here")
    arrays = _parameters(module, ["weight"])
    return feedforward.Embedding._of(module.num_embeddings, module.embedding_dim, arrays=arrays, dtype=dtype)


def _of_layer_norm(module, dtype):
    if len(module.normalized_shape) != 1:
        raise ValueError(f"normalized_shape is {tuple(module.normalized_shape)}, expected one axis")
    (features,) = module.normalized_shape
    arrays = {"weight": np.ones(features), "bias": np.zeros(features)}
    arrays |= _parameters(module, [name for name in arrays if getattr(module, name, None) is not None])
    return feedforward.LayerNorm._of(features, module.eps, arrays=arrays, dtype=dtype)


def _of_sequential(where, module, dtype):
    from ..sequential import Sequential

    prefix = f"{where}." if where else ""
    return Sequential(
        [(name, _from_module(prefix + name, inner, dtype)) for name, inner in module._modules.items()]
    )


def _of_dropout(module, dtype):
    return feedforward.Dropout(module.p)


def _of_flatten(module, dtype):
    _check_attributes(module, {"start_dim": 1, "end_dim": -1})
    return feedforward.Flatten()


def _check_attributes(module, expected):
    for attribute, value in expected.items():
        if getattr(module, attribute) != value:
            came = getattr(module, attribute)
            raise ValueError(f"{attribute} of {type(module).__name__} is {came!r}, expected {value!r}")


def _activation(name, *attributes, **expected):
    """What makes the Activation of a module: name, the attributes that are its numbers, and those that it must have."""

    def make(module, dtype):
        _check_attributes(module, expected)
        numbers = [getattr(module, attribute) for attribute in attributes]
        return feedforward.Activation((name, *numbers))

    return make


# None: made of others, which have a name.
_MODULES = {
    **dict.fromkeys((*_RECURRENT, *(f"{kind}Cell" for kind in _RECURRENT)), _of_recurrent),
    "Linear": _of_linear, "Embedding": _of_embedding, "LayerNorm": _of_layer_norm, "Sequential": None,
    "Dropout": _of_dropout, "Flatten": _of_flatten,
    "ELU": _activation("elu", "alpha"), "GELU": _activation("gelu", approximate="none"),
    "Hardsigmoid": lambda module, dtype: feedforward.Activation(("hard_sigmoid", 1 / 6, 0.5)),
    "Identity": _activation("linear"), "LeakyReLU": _activation("leaky_relu", "negative_slope"),
    "ReLU": _activation("relu"), "SiLU": _activation("swish"), "Sigmoid": _activation("sigmoid"),
    "Softmax": _activation("softmax", dim=-1), "Softplus": _activation("softplus", beta=1, threshold=20),
    "Softsign": _activation("softsign"), "Tanh": _activation("tanh"),
}  # fmt: skip


# Out


_EXPRESSED = {
    **dict.fromkeys(
        _RECURRENT,
        ("num_layers", "bias", "batch_first", "dropout", "bidirectional", "dtype", "proj_size", "forget_bias",
         "nonlinearity"),
    ),
    "Dense": ("bias", "dtype"),
    "Embedding": ("dtype",),
    "LayerNorm": ("eps", "dtype"),
}  # fmt: skip


def to_torch_state_dict(layer):
    """The parameters of a layer under the names and in the layout of PyTorch's, for ``module.load_state_dict``.

    Parameters
    ----------
    layer : LSTM, GRU, RNN, Dense, Embedding, LayerNorm, or a Sequential of these and of layers without parameters

    Returns
    -------
    dict of str to ndarray
        New, writable arrays of the layer's dtype. PyTorch wants tensors:
        ``{name: torch.from_numpy(array) for name, array in to_torch_state_dict(layer).items()}``. A layer with
        ``bias="single"`` has a second bias of zeros there. Of a Sequential a part's name and a dot are in front, as
        ``torch.nn.Sequential`` has it.

    Raises
    ------
    ValueError
        If the layer has an option that PyTorch's has not, which is named; or there is no such module.
    TypeError
        If it is no layer.

    Examples
    --------
    >>> import cylstm
    >>> state_dict = to_torch_state_dict(cylstm.LSTM(3, 4, bias="single", rng=0))
    >>> {name: array.shape for name, array in state_dict.items()}
    {'weight_ih_l0': (16, 3), 'weight_hh_l0': (16, 4), 'bias_ih_l0': (16,), 'bias_hh_l0': (16,)}
    """
    if not isinstance(layer, layers.Layer):
        raise TypeError(f"layer is a {type(layer).__name__}, expected a layer such as cylstm.LSTM or cylstm.Sequential")
    kind = type(layer).__name__
    if kind == "Sequential":
        parts = ((name, to_torch_state_dict(part)) for name, part in layer._parts)
        return {f"{name}.{inner}": array for name, state_dict in parts for inner, array in state_dict.items()}
    state_dict = layer.state_dict()
    if not state_dict:
        return {}
    if kind not in _EXPRESSED:
        raise ValueError(f"{layer!r} has no module in PyTorch that is like it, expected one of {', '.join(_EXPRESSED)}")
    for option, value in layer._arguments[1].items():
        if option not in _EXPRESSED[kind] or (option == "nonlinearity" and value not in ("tanh", "relu")):
            raise ValueError(f"{layer!r} has {option}={value!r}, which PyTorch's {kind} can not have")
    if kind not in _RECURRENT:
        return state_dict
    if layer.default_state is not None:
        raise ValueError(f"{layer!r} has a default_state, which PyTorch's {kind} can not have: expected None")
    proj_size = getattr(layer, "proj_size", 0)
    if proj_size >= layer.hidden_size:
        raise ValueError(f"{layer!r} has proj_size={proj_size}, which in PyTorch is smaller than hidden_size")
    if layer.bias == "single":
        zeros = {name.replace("_ih_", "_hh_"): np.zeros_like(array) for name, array in state_dict.items()
                 if name.startswith("bias_ih")}  # fmt: skip
        state_dict |= zeros
    return state_dict
