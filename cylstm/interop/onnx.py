"""Models of ONNX: recurrent nodes as layers, graphs that are chains as a Sequential. By the onnx package alone."""

from typing import NamedTuple

from .. import validation
from . import Entry
from .onnx_files import is_recurrent, name_of, named, read
from .onnx_fold import Values, graphs
from .onnx_nodes import build, read_node


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
    parts = [f"input_size={node.input_size}", f"hidden_size={node.hidden_size}"]
    parts += [node.direction] if node.direction != "forward" else []
    parts += [node.dtype] if node.dtype else ["weights are computed from an input"]
    parts += [f"in {node.where}"] if node.where else []
    return Entry(node.name, node.op, ", ".join(parts))


def from_onnx(path_or_model, node=None, *, dtype=None):
    """A model of ONNX."""
    file = read(path_or_model)
    dtype = None if dtype is None else validation.dtype_of(dtype)
    with named(file):
        found = _recurrent(file.model)
        values = Values(file)
        return _taken(_named(found, node), values, dtype)


def _named(found, node):
    if not isinstance(node, str):
        raise TypeError(f"node is {node!r}, expected a name")
    for one in found:
        if one.name == node:
            return one
    names = ", ".join(repr(one.name) for one in found)
    raise ValueError(f"there is no recurrent node {node!r}, expected one of {names or 'none: the model has none'}")


def _taken(found, values, dtype):
    said = read_node(found.node)
    return build(said, lambda name: values.constant(found.graph, name), dtype)
