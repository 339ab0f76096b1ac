"""Models of ONNX: recurrent nodes as layers, graphs that are chains as a Sequential. By the onnx package alone."""

from typing import NamedTuple

from .. import validation
from ..sequential import Sequential
from . import Entry
from .onnx_axes import Tensor
from .onnx_chain import Chain
from .onnx_files import is_recurrent, name_of, named, read
from .onnx_fold import Graph, NotConstantError, Values, graphs
from .onnx_nodes import build, has_lengths, read_node, set_state


class RecurrentNode(NamedTuple):
    """A recurrent node of a model: what :func:`recurrent_nodes` lists.

    Sizes are None where the weights depend on an input of the model.
    """

    name: str  # what from_onnx takes as node
    op: str  # "LSTM", "GRU" or "RNN"
    input_size: int | None
    hidden_size: int | None
    direction: str  # "forward", "reverse" or "bidirectional"
    dtype: str | None  # of the weights
    where: str  # the graph it is in: "" is the main one, "If_0.then_branch" one that a node has


class _Found(NamedTuple):
    name: str
    graph: object
    node: object


def _recurrent(model):
    """Every recurrent node, with a name that no other one has."""
    nodes = [(graph, node) for graph in graphs(model) for node in graph.proto.node if is_recurrent(node)]
    names = [name_of(node) for _, node in nodes]
    found, taken = [], set()
    for name, (graph, node) in zip(names, nodes, strict=True):
        if names.count(name) > 1 and graph.where:
            name = f"{graph.where}:{name}"
        unique, count = name, 1
        while unique in taken:
            count += 1
            unique = f"{name}#{count}"
        taken.add(unique)
        found.append(_Found(unique, graph, node))
    return found


def recurrent_nodes(path_or_model):
    """The recurrent nodes of a model, in whatever graph of it they are.

    Parameters
    ----------
    path_or_model : str, path or onnx.ModelProto

    Returns
    -------
    list of RecurrentNode
        A node without a name has that of its first output; of two with one name, one has its graph in front.

    Raises
    ------
    OSError
        As the file system says it.
    ValueError
        If the file is damaged, hostile, or no model; it is named.
    ImportError
        If onnx is not installed.

    Examples
    --------
    >>> import os, tempfile, cylstm
    >>> from cylstm.interop.onnx import recurrent_nodes
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = os.path.join(directory, "model.onnx")
    ...     cylstm.to_onnx(cylstm.GRU(3, 4, 2, bidirectional=True, rng=0), path)
    ...     [(node.name, node.op, node.input_size, node.direction) for node in recurrent_nodes(path)]
    [('GRU_0', 'GRU', 3, 'bidirectional'), ('GRU_5', 'GRU', 8, 'bidirectional')]
    """
    file = read(path_or_model)
    with named(file):
        values = Values(file)
        return [_listed(found, values) for found in _recurrent(file.model)]


def _listed(found, values):
    said = read_node(found.node)
    try:
        w = values.constant(found.graph, said.w)
        input_size, dtype = w.shape[2], w.dtype.name
        hidden_size = said.hidden_size or values.constant(found.graph, said.r).shape[2]
    except (ValueError, IndexError):
        input_size, hidden_size, dtype = None, said.hidden_size, None
    return RecurrentNode(
        found.name, found.node.op_type, input_size, hidden_size, said.direction, dtype, found.graph.where
    )


def describe(path):
    """The recurrent nodes of a model as a list of :class:`~cylstm.interop.Entry`."""
    return [_entry(node) for node in recurrent_nodes(path)]


def _entry(node):
    sizes = {"input_size": node.input_size, "hidden_size": node.hidden_size}
    parts = [f"{name}={size}" for name, size in sizes.items() if size is not None]
    parts += [node.direction] if node.direction != "forward" else []
    parts += [node.dtype] if node.dtype else ["weights of an input"]
    parts += [f"in {node.where}"] if node.where else []
    return Entry(node.name, node.op, ", ".join(parts))


def from_onnx(path_or_model, node=None, *, output=None, dtype=None):
    """A model of ONNX, or one recurrent node of it, as layers: without onnxruntime, by the onnx package alone.

    Parameters
    ----------
    path_or_model : str, path or onnx.ModelProto
        Of opset 7 or later.
    node : str, optional
        The recurrent node to take out, by its name in :func:`recurrent_nodes`. None: the whole graph, which must be a
        chain of layers that cylstm has.
    output : str, optional
        Of a whole graph with many outputs, the one that the model gives. None: the one that is not a final state.
    dtype : {"float32", "float64"}, optional
        None: that of the weights, float32 for float16 and bfloat16.

    Returns
    -------
    layer
        Of a ``node``, an LSTM, GRU or RNN with the axes as the node has them: time first, unless its ``layout`` is 1.
        Where the activations of its directions differ, a :class:`cylstm.Bidirectional`, which is batch-first.
        Otherwise a :class:`cylstm.Sequential`, batch-first too, whatever the order of axes in the graph.

    Raises
    ------
    OSError
        As the file system says it.
    ValueError
        If the file is damaged, hostile or no model (it is named), there is no such node, or the graph is no chain:
        the message says which node is in the way, and how those are called that ``node`` can be.
    ImportError
        If onnx is not installed.

    Notes
    -----
    An initial state in the file becomes the layer's ``default_state``. One that is an input of the graph is given to
    ``forward`` as ``state``, a sequence_lens as ``lengths``; final states that are outputs of the graph are what
    ``forward`` returns beside y. Axes of size 1 that a graph has beside batch, time and features are not there,
    and batch and time are two axes where the graph ends with one of both.

    Where an activation has no alpha or beta in the file it has the default of the specification. onnxruntime takes 0
    for those of ThresholdedRelu (1), ScaledTanh (1 and 1) and Affine (1 and 0).

    Examples
    --------
    >>> import os, tempfile, numpy as np, cylstm
    >>> model = cylstm.Sequential([cylstm.LSTM(3, 4, rng=0), cylstm.Last(), cylstm.Dense(4, 2, rng=1)])
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = os.path.join(directory, "model.onnx")
    ...     cylstm.to_onnx(model, path)
    ...     cylstm.from_onnx(path)
    Sequential([LSTM(3, 4), Last(), Dense(4, 2)])
    """
    file = read(path_or_model)
    dtype = None if dtype is None else validation.dtype_of(dtype)
    if node is not None and output is not None:
        raise ValueError(f"node is {node!r} and output is {output!r}, expected one of them")
    with named(file):
        found = _recurrent(file.model)
        chain = Chain(dtype)
        values = Values(file, chain)
        if node is not None:
            return _taken(_named(found, node), values, dtype)
        try:
            return Sequential(_layers(Graph(file.model.graph), values, chain, output))
        except (ValueError, TypeError) as error:
            raise ValueError(f"the graph is no chain of layers: {error}. {_advice(found)}") from None


def _advice(found):
    if not found:
        return "It has no recurrent node either"
    return f"Its recurrent nodes can be taken out, by node={' or '.join(repr(one.name) for one in found)}"


def _named(found, node):
    if not isinstance(node, str):
        raise TypeError(f"node is {node!r}, expected a name")
    for one in found:
        if one.name == node:
            return one
    names = ", ".join(repr(one.name) for one in found)
    raise ValueError(f"there is no recurrent node {node!r}, expected one of {names or 'none: the model has none'}")


def _taken(found, values, dtype):
    """The layer of one node, wherever it stands."""
    said = read_node(found.node)

    def get(name):
        return values.constant(found.graph, name)

    layer = build(said, get, dtype, has_lengths(said, get))
    set_state(said, layer, [_stored(values, found.graph, name) for name in said.state])
    return layer


def _stored(values, graph, name):
    """An initial state that the file has; None for one that an input of the model decides about."""
    try:
        value = values.get(graph, name) if name else None
    except NotConstantError:
        return None
    if isinstance(value, Tensor):
        return value.payload if value.plain else None
    return value


def _layers(graph, values, chain, wanted):
    """The layers of a graph that is a chain."""
    outputs = {entry.name: None for entry in graph.proto.output}
    if wanted is not None and wanted not in outputs:
        raise ValueError(f"output is {wanted!r}, expected one of {', '.join(map(repr, outputs))}")
    found = {name: values.get(graph, name) for name in ([wanted] if wanted is not None else outputs)}
    chosen = [name for name, value in found.items() if not chain.is_state(value)] or list(found)[:1]
    if len(chosen) != 1:
        raise ValueError(f"it has the outputs {', '.join(map(repr, chosen))}: expected one, which output= can name")
    return chain.layers(found[chosen[0]])
