"""What a model is held against, run: a callable, arrays, another layer, onnxruntime's session, torch's or Keras' model.

Everything here is batch-first, as within a container. Knows what these objects can be asked; imports none of their
packages but torch, and that where a module of it was given. Compares nothing.
"""

import contextlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from ..layers import Layer, Recurrent
from ..sequential import Sequential
from ..steps import Steps


class Layout(NamedTuple):
    """How a model's own x and y lie."""

    time_major: bool = False
    batched: bool = True

    @classmethod
    def of(cls, model, x):
        if not isinstance(model, Recurrent):
            return cls()
        if np.ndim(x) == 2:
            return cls(batched=False)
        return cls(time_major=not model.batch_first)

    def rows(self, array):
        """Batch-first."""
        if not self.batched:
            return array[None]
        return array.swapaxes(0, 1) if self.time_major and array.ndim > 2 else array

    def rows_of_state(self, state):
        """With the batch axis."""
        if self.batched or state is None:
            return state
        return tuple(part[:, None] for part in state) if isinstance(state, tuple) else state[:, None]


class Given(NamedTuple):
    """What model and reference are run on."""

    model: Layer
    leaves: list  # (name, layer): of a Sequential those in it, in order
    layout: Layout
    x: np.ndarray  # as the caller gave it
    rows: np.ndarray  # batch-first
    lengths: np.ndarray | None
    states: list  # of each leaf, or None
    steps: Steps | None

    @property
    def has_time(self):
        """Whether x has a time axis: (N, T, F), or (N, T) of integers."""
        return self.rows.ndim > (2 if self.rows.dtype.kind == "f" else 1)


class Answer(NamedTuple):
    """What a reference says; None and {} where it says nothing."""

    y: np.ndarray | None = None
    states: list | None = None  # arrays in the order of the model's
    layers: dict = {}  # noqa: RUF012, never changed  # {name of a leaf: its y}
    note: str = ""


def leaves_of(model, states=None, prefix=""):
    """[(name, layer, state)] of a Sequential and of those in it, in order; of another layer it alone."""
    if not isinstance(model, Sequential):
        return [(prefix.removesuffix(".") or type(model).__name__, model, states)]
    states = [None] * len(model) if states is None else states
    return [
        leaf
        for (name, layer), state in zip(model._parts, states, strict=True)
        for leaf in leaves_of(layer, state, f"{prefix}{name}.")
    ]


def run_leaves(leaves, x, states, steps):
    """[(y, final state)] of layers one after the other."""
    found = []
    for (_, layer), state in zip(leaves, states, strict=True):
        x, state_n, steps = layer._pass(x, state, steps, None)
        found.append((x, state_n))
    return found


def arrays_of(state):
    """The arrays of a state, or of a list of states, in order."""
    if state is None:
        return []
    if isinstance(state, (tuple, list)):
        return [array for part in state for array in arrays_of(part)]
    return [_array(state)]


def answers(reference, given, time_major):
    """The ways to read a reference, the likeliest first: more than one where its axes may be in either order."""
    if isinstance(reference, Layer):
        return [_of_layer(reference, given)]
    if isinstance(reference, np.ndarray) or _is_tensor(reference):
        return _either(Answer(reference), given, time_major)
    if isinstance(reference, Mapping):
        return _either(_of_mapping(reference, given), given, time_major)
    if isinstance(reference, list):
        return _either(_of_list(reference, given), given, time_major)
    if isinstance(reference, tuple):
        return _either(_of_result(reference, given), given, time_major)
    if hasattr(reference, "get_inputs") and hasattr(reference, "run"):
        return _of_session(reference, given, time_major)
    if hasattr(reference, "predict") and hasattr(reference, "get_weights"):  # Keras'; with torch behind it a module too
        y = reference.predict(given.x, verbose=0)
        return _either(Answer(y[0] if isinstance(y, (list, tuple)) else y), given, time_major)  # states follow y
    if hasattr(reference, "named_children") and hasattr(reference, "state_dict"):
        return _of_module(reference, given, time_major)
    if callable(reference):
        return _either(_of_result(reference(given.x), given), given, time_major)
    raise TypeError(
        f"reference is a {type(reference).__name__}, expected a callable, an onnxruntime.InferenceSession, a"
        " torch.nn.Module, a layer of cylstm, or arrays: y, (y, state), a list or a dict of them by layer"
    )


def _either(answer, given, time_major):
    """Read in the model's own order of axes and, where nobody says, in the other one."""
    if not given.layout.batched:
        return [_mapped(answer, lambda array: array[None], lambda array: array[:, None] if array.ndim == 2 else array)]
    orders = [given.layout.time_major, not given.layout.time_major] if time_major is None else [bool(time_major)]
    read = []
    for order in orders:
        words = f"the reference's arrays were read as {'time-major' if order else 'batch-first'}"
        noted = answer._replace(note="" if order == given.layout.time_major else words)
        read.append(_mapped(noted, lambda array, order=order: _swapped(array) if order else array))
    return read


def _swapped(array):
    return array.swapaxes(0, 1) if array.ndim > 2 else array


def _mapped(answer, change, change_state=np.asarray):
    y = None if answer.y is None else change(_numbers("y", answer.y))
    layers = {name: change(_numbers(name, value)) for name, value in answer.layers.items()}
    states = None if answer.states is None else [change_state(_numbers("a state", value)) for value in answer.states]
    return answer._replace(y=y, layers=layers, states=states)


def _numbers(name, value):
    array = _array(value)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} of the reference is a {type(value).__name__} of dtype {array.dtype}, expected numbers")
    return array


def _of_layer(reference, given):
    """Another model of cylstm: it takes what the model takes."""
    names = [name for name, _ in given.leaves]
    layout = Layout.of(reference, given.x)
    if type(reference) is not type(given.model):
        layout = given.layout
    found = leaves_of(reference, None)
    states = given.states if len(found) == len(names) else [None] * len(found)
    results = run_leaves([leaf[:2] for leaf in found], layout.rows(given.x), states, given.steps)
    layers = dict(zip(names, (y for y, _ in results), strict=True)) if len(found) == len(names) else {}
    return Answer(results[-1][0], [array for _, state in results for array in arrays_of(state)], layers)


def _of_result(result, given):
    """What a callable gives: y, or (y, state) as forward does."""
    if isinstance(result, tuple):
        if len(result) != 2:
            raise ValueError(f"the reference gives a tuple of {len(result)}, expected y or (y, state)")
        return Answer(result[0], arrays_of(result[1]))
    return Answer(result)


def _of_list(reference, given):
    if len(reference) != len(given.leaves):
        raise ValueError(
            f"reference is a list of {len(reference)}, expected {len(given.leaves)}: an array, or None, for each layer"
        )
    named = zip((name for name, _ in given.leaves), reference, strict=True)
    return Answer(layers={name: value for name, value in named if value is not None})


def state_names(given):
    """The names of the arrays of all final states, in order: "h_n", "c_n"; behind a layer's where there are more."""
    if len(given.leaves) == 1:
        return _names_of_states("", given.leaves[0][1])
    return [word for name, layer in given.leaves for word in _names_of_states(f"{name}.", layer)]


def _names_of_states(prefix, layer):
    if isinstance(layer, Recurrent):
        return [f"{prefix}{letter}_n" for letter in layer._states]
    inner = [(f"{prefix}{name}." if len(layer._parts) > 1 else prefix, part) for name, part in layer._parts]
    return [word for name, part in inner for word in _names_of_states(name, part)]


def state_of_zeros(layer, rows):
    """The state of zeros of a layer, or of one that is made of others; None where it has none."""
    return layer._take_states(iter([leaf._zeros(rows) for leaf in layer._leaves if isinstance(leaf, Recurrent)]), True)


def _of_mapping(reference, given):
    layers = [name for name, _ in given.leaves]
    states = state_names(given)
    known = ["y", *layers, *states]
    aside = ("x", "lengths", "h_0", "c_0")  # what it may hold for others to read
    strange = [name for name in reference if name not in known and name not in aside]
    if strange or not any(name in known for name in reference):
        came = ", ".join(map(repr, strange or reference)) or "nothing"
        raise ValueError(f"reference has {came}, expected arrays by name, among {', '.join(map(repr, known))}")
    given_states = [reference[name] for name in states if name in reference]
    if given_states and len(given_states) < len(states):
        raise ValueError(f"reference has some of the states, expected all or none of {', '.join(states)}")
    return Answer(
        reference.get("y"),
        given_states or None,
        {name: reference[name] for name in layers if name in reference},
    )


# onnxruntime

_DTYPES = {
    "tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16,
    "tensor(int32)": np.int32, "tensor(int64)": np.int64,
}  # fmt: skip


def _of_session(session, given, time_major):
    """Inputs by their rank, type and name: x the first of x's rank, lengths of rank 1, then h and c."""
    rows = given.rows
    inputs = list(session.get_inputs())
    kind = "float" if rows.dtype.kind == "f" else "int"
    of_x = next((i for i in inputs if len(i.shape) == rows.ndim and _is(i, kind)), None)
    if of_x is None:
        listed = ", ".join(f"{i.name} {list(i.shape)} {i.type}" for i in inputs)
        raise ValueError(f"reference has the inputs {listed}: none of {rows.ndim} axes for x. Give a callable instead")
    others = _other_inputs([i for i in inputs if i is not of_x], given)

    def run(order):
        x = rows.swapaxes(0, 1) if order else rows
        feed = {of_x.name: np.ascontiguousarray(x, _DTYPES[of_x.type]), **others}
        return _of_outputs(session.run(None, feed), order, given)

    # Exception: each version has classes of its own
    return _in_each_order(_orders_of_session(of_x.shape, given, time_major), run, "session", Exception, given)


def _in_each_order(orders, run, what, errors, given):
    """What ``run`` answers in each order of axes, where it is not refused."""
    found, refused = [], []
    for order in orders:
        try:
            answer = run(order)
        except errors as error:
            refused.append(error)
            continue
        words = f"x was given to the {what} {'time-major' if order else 'batch-first'}, and y read so"
        found.append(answer._replace(note=words if len(orders) > 1 else ""))
    if not found:
        shape = given.rows.shape
        raise ValueError(f"the {what} does not run on x of shape {shape} (batch-first): {refused[0]}") from refused[0]
    return found


def _is(value, kind):
    return value.type in _DTYPES and kind in np.dtype(_DTYPES[value.type]).name


def _orders_of_session(shape, given, time_major):
    """Whether x goes in time-major: as the sizes or their names say; where they do not, either."""
    if not given.has_time:
        return [False]
    if time_major is not None:
        return [bool(time_major)]
    batch, steps = given.rows.shape[:2]
    first, second = shape[:2]
    for sizes, order in (((batch, steps), False), ((steps, batch), True)):
        other = (sizes[1], sizes[0])
        fits = [a in (b, None) or isinstance(a, str) for a, b in zip((first, second), sizes, strict=True)]
        fits_other = [a in (b, None) or isinstance(a, str) for a, b in zip((first, second), other, strict=True)]
        if all(fits) and not all(fits_other):
            return [order]
    if str(first).lower().startswith(("batch", "n")) and str(first) != str(second):
        return [False]
    if str(second).lower().startswith(("batch", "n")) and str(first) != str(second):
        return [True]
    return [False, True]


def _other_inputs(inputs, given):
    """{name: array} of the lengths and initial states that a session asks for."""
    batch, steps = given.rows.shape[0], given.rows.shape[1] if given.has_time else 1
    states = _initial_states(given)
    if len(states) > sum(len(value.shape) == 3 and _is(value, "float") for value in inputs):
        states = _stacked(states, given)
    states = iter(states)
    found = {}
    for value in inputs:
        array = None
        if len(value.shape) == 1 and _is(value, "int"):
            array = np.full(batch, steps) if given.lengths is None else np.asarray(given.lengths)
        elif len(value.shape) == 3 and _is(value, "float"):
            array = next(states, None)
        if array is None:
            raise ValueError(
                f"reference has an input {value.name!r} {list(value.shape)} of {value.type}, which is neither x,"
                " lengths (batch,) nor a state of the model: give a callable that runs the session"
            )
        found[value.name] = np.ascontiguousarray(array, _DTYPES[value.type])
    return found


def _stacked(states, given):
    """One h, and one c, of recurrent layers whose states a graph has in one array."""
    stacks = {}
    for name, array in zip(state_names(given), states, strict=True):
        stacks.setdefault(name.rpartition(".")[2], []).append(array)
    alike = all(len({array.shape[1:] for array in stack}) == 1 for stack in stacks.values())
    return [np.concatenate(stack) for stack in stacks.values()] if alike else states


def _initial_states(given):
    """All initial states as arrays; where none were given the default ones, or zeros."""
    arrays, rows = [], len(given.rows)
    for (_, layer), state in zip(given.leaves, given.states, strict=True):
        defaults = [getattr(leaf, "default_state", None) for leaf in layer._leaves]
        if state is None and any(default is not None for default in defaults):
            raise ValueError("reference asks for initial states, and the model has default ones: give them as state")
        arrays += arrays_of(state_of_zeros(layer, rows) if state is None else state)
    return arrays


def _of_outputs(outputs, time_major, given):
    """y, and the states where as many arrays follow as the model has of them."""
    y, *rest = outputs
    if y.ndim == 4:  # ONNX's Y: (T, D, B, H), or (B, T, D, H) of layout 1
        y = y.transpose(2, 0, 1, 3) if time_major else y
        y = y.reshape(*y.shape[:2], -1)
    elif time_major:
        y = _swapped(y)
    return Answer(y, rest if len(rest) == len(state_names(given)) else None)


# torch


def _of_module(module, given, time_major):
    import torch

    orders = [False] if _is_recurrent(module) or _is_chain(module) else _orders_of_module(module, given, time_major)

    def run(order):
        if _is_chain(module):
            children = list(_children(module))
            outputs = _children_in_turn(torch, children, given)
            return Answer(outputs[-1], None, _aligned(children, outputs, given))
        if _is_recurrent(module):
            return Answer(*_recurrent(torch, module, given.rows, given))
        return _any_module(torch, module, given, order)

    with _evaluating(module), torch.no_grad():
        return _in_each_order(orders, run, "module", RuntimeError, given)


def _is_chain(module):
    return type(module).__name__ == "Sequential"


def _children(module):
    """The modules of an nn.Sequential, and of those in it, in order."""
    for _, child in module.named_children():
        if _is_chain(child):
            yield from _children(child)
        else:
            yield child


def _orders_of_module(module, given, time_major):
    """Whether x goes in time-major: as the first recurrent layer within says; where none does, either."""
    if not given.has_time:
        return [False]
    if time_major is not None:
        return [bool(time_major)]
    said = [not child.batch_first for child in module.modules() if hasattr(child, "batch_first")]
    return said[:1] or [False, True]


@contextlib.contextmanager
def _evaluating(module):
    """A module in eval mode, and each part of it in its own mode again afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def _tensor(torch, module, array):
    parameter = next(iter(module.parameters()), None)
    tensor = torch.tensor(np.ascontiguousarray(array))
    if parameter is None:
        return tensor
    return tensor.to(parameter.device, parameter.dtype if array.dtype.kind == "f" else torch.long)


def _is_tensor(value):
    return hasattr(value, "detach")


def _array(value):
    """A tensor, with gradients or without, or what NumPy takes."""
    if not _is_tensor(value):
        return np.asarray(value)
    tensor = value.detach().cpu()
    return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()  # NumPy has none


def _any_module(torch, module, given, time_major):
    x = given.rows.swapaxes(0, 1) if time_major else given.rows
    result = module(_tensor(torch, module, x))
    y, *rest = result if isinstance(result, (tuple, list)) else [result]
    states = [_array(part) for part in _flat(rest)]
    y = _swapped(_array(y)) if time_major else _array(y)
    return Answer(y, states if len(states) == len(state_names(given)) else None)


def _flat(parts):
    for part in parts:
        if isinstance(part, (tuple, list)):
            yield from _flat(part)
        elif _is_tensor(part):
            yield part


def _is_recurrent(module):
    return hasattr(module, "hidden_size") and hasattr(module, "input_size")


def _children_in_turn(torch, children, given):
    outputs, x = [], given.rows
    for child in children:
        x = _recurrent(torch, child, x, given)[0] if _is_recurrent(child) else _array(child(_tensor(torch, child, x)))
        outputs.append(x)
    return outputs


def _recurrent(torch, module, x, given):
    """(y, [h_n, c_n]) of an nn.LSTM, GRU or RNN, or of a cell, which goes from step to step."""
    state = None
    if len(given.leaves) == 1 and given.states[0] is not None:
        state = tuple(_tensor(torch, module, array) for array in arrays_of(given.states[0]))
        state = state if len(state) > 1 else state[0]
    if not hasattr(module, "num_layers"):
        return _cell(torch, module, x, state, given)
    x = _tensor(torch, module, x)
    if given.lengths is None:
        x = x if module.batch_first else x.swapaxes(0, 1)
        y, state_n = module(x, state)
        y = y if module.batch_first else y.swapaxes(0, 1)
    else:
        if min(given.lengths, default=1) < 1:
            raise ValueError("lengths has a 0, and torch knows no sequence without a step: expected at least 1")
        utils = torch.nn.utils.rnn
        lengths = torch.tensor([int(n) for n in given.lengths])
        packed = utils.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        y, state_n = module(packed, state)
        y, _ = utils.pad_packed_sequence(y, batch_first=True, total_length=x.shape[1])
    states_n = state_n if isinstance(state_n, tuple) else (state_n,)
    return _array(y), [_array(part) for part in states_n]


def _cell(torch, cell, x, state, given):
    if given.lengths is not None:
        raise ValueError(f"lengths is given, but {type(cell).__name__} of torch takes one step: give a callable")
    if state is not None:
        state = tuple(part[0] for part in state) if isinstance(state, tuple) else state[0]
    outputs = []
    for step in _tensor(torch, cell, x).unbind(1):
        state = cell(step, state)
        outputs.append(_array(state[0] if isinstance(state, tuple) else state))
    states_n = [] if state is None else state if isinstance(state, tuple) else (state,)
    return np.stack(outputs, axis=1), [_array(part)[None] for part in states_n]


def _aligned(children, outputs, given):
    """{name of a leaf: output of the child that it is}, by their order; without Dropout where numbers differ."""
    names = [name for name, _ in given.leaves]
    if len(children) != len(names):
        idle = ("Dropout", "Identity")
        names = [name for name, leaf in given.leaves if type(leaf).__name__ not in idle]
        outputs = [y for child, y in zip(children, outputs, strict=True) if type(child).__name__ not in idle]
    return dict(zip(names, outputs, strict=True)) if len(names) == len(outputs) else {}
