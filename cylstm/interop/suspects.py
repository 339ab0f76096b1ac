"""The usual mistakes in carrying a layer over from elsewhere, as changes of it that can be tried.

Knows what a layer is made of (arguments, options, arrays) and what its parameters mean; nothing of references: whether
a change explains a difference is seen by running it, in ``verification.py``.
"""

from collections.abc import Callable, Mapping
from itertools import permutations
from typing import NamedTuple

import numpy as np

from ..layers import GRU, LSTM, Recurrent
from .gates import reorder

# Whose order it is. Others are tried too.
_KNOWN_ORDERS = {
    "ifgo": "PyTorch's and Keras'", "iofg": "ONNX's", "ifog": "ncnn's", "igfo": "TensorFlow 1's and Haste's",
    "figo": "OpenVINO's", "rzn": "PyTorch's", "zrn": "Keras' and ONNX's",
}  # fmt: skip
_HARD_SIGMOIDS = {("hard_sigmoid", 0.2, 0.5): "Keras 2's and ONNX's", ("hard_sigmoid", 1 / 6, 0.5): "Keras 3's"}
_OF_WEIGHTS = ("weight_ih", "weight_hh", "weight_ln_ih", "weight_ln_hh", "weight_ln_l")
_BIASES = ("bias_ih", "bias_hh")
_EPS = (1e-3, 1e-5, 1e-6, 1e-8, 1e-12)  # Keras; PyTorch and ONNX; Flax and TensorFlow; TensorFlow Lite; BERT


class Case(NamedTuple):
    """A layer as what it is made of, and what is done to its output."""

    kind: type
    arguments: tuple
    options: Mapping
    arrays: Mapping
    default_state: object = None
    after: tuple[Callable, ...] = ()  # of y (N, T, F)

    @classmethod
    def of(cls, layer):
        arguments, options = layer._arguments
        return cls(type(layer), arguments, options, layer.parameters, getattr(layer, "default_state", None))

    def layer(self):
        """A ValueError or TypeError where there is no such layer."""
        layer = self.kind._of(*self.arguments, arrays=self.arrays, **self.options)
        if self.default_state is not None:
            layer.default_state = self.default_state
        return layer

    def run(self, x, state, steps):
        """(y, final state, Steps of y), batch-first."""
        y, state_n, steps_n = self.layer()._pass(x, state, steps, None)
        for change in self.after:
            y = change(y)
        return y, state_n, steps_n

    def option(self, name, default=None):
        return self.options.get(name, default)

    def with_options(self, **options):
        return self._replace(options={**self.options, **options})

    def with_arrays(self, change, *prefixes):
        """Each array whose name begins so is ``change`` of it."""
        return self._replace(
            arrays={name: change(value) if name.startswith(prefixes) else value for name, value in self.arrays.items()}
        )

    def gates(self):
        """A letter for each gate in the weights of a recurrent layer."""
        if self.kind is LSTM:
            return {"f=1-i": "igo", "i=1-f": "fgo"}.get(self.option("coupled"), "ifgo")
        return "rzn" if self.kind is GRU else "h"


class Change(NamedTuple):
    """A mistake: its name, what it would be, the case without it."""

    name: str
    detail: str
    case: Case
    usual: bool = True  # also tried together with another one


def changes(case):
    """Every :class:`Change` of one thing in a layer."""
    if issubclass(case.kind, Recurrent):
        for family in (_gate_orders, _transposes, _biases, _reset_after, _activations, _directions, _options):
            yield from family(case)
    else:
        yield from _feedforward(case)


def pairs(case):
    """Changes of two things, of those that are usual."""
    for first in [change for change in changes(case) if change.usual]:
        for second in changes(first.case):
            if second.usual and second.name > first.name:  # each pair once
                yield Change(f"{first.name} and {second.name}", f"{first.detail}; {second.detail}", second.case)


def _gate_orders(case):
    letters = case.gates()
    parts = {
        "": (*_OF_WEIGHTS, *_BIASES), " of weight_ih alone": _OF_WEIGHTS[:1], " of weight_hh alone": _OF_WEIGHTS[1:2],
        " of the biases alone": _BIASES,
    }  # fmt: skip
    for order in map("".join, permutations(letters)):
        if order == letters:
            continue
        known = _KNOWN_ORDERS.get(order)
        whose = f" ({known})" if known else ""
        for which, prefixes in parts.items():
            if known or not which:
                words = f"the gates{which} read as {', '.join(order)}{whose} instead of {', '.join(letters)}"
                changed = case.with_arrays(lambda a, order=order: reorder(a, order, letters), *prefixes)
                yield Change("gate order", words, changed, bool(known and not which))
    if case.option("peepholes"):
        letters = letters.replace("g", "")
        for order in map("".join, permutations(letters)):
            if order != letters:
                changed = case.with_arrays(lambda a, order=order: reorder(a, order, letters), "weight_peephole")
                yield Change("peephole order", f"the peepholes read as {', '.join(order)}", changed)


def _transposes(case):
    gates = len(case.gates())

    def by_gates(array):
        blocks = np.split(array, gates)
        return np.concatenate([block.T for block in blocks]) if _square(blocks[0]) else array

    def reshaped(array):
        return array.reshape(array.shape[::-1]).T

    for name in ("weight_hh", "weight_ih"):
        if any(_square(np.split(a, gates)[0]) for key, a in case.arrays.items() if key.startswith(name)):
            yield Change("transpose", f"{name} transposed, gate by gate", case.with_arrays(by_gates, name))
        words = f"{name} as if it had been reshaped where it was to be transposed"
        yield Change("transpose", words, case.with_arrays(reshaped, name), usual=False)
    words = "weight_ih and weight_hh as if they had been reshaped where they were to be transposed"
    yield Change("transpose", words, case.with_arrays(reshaped, "weight_ih", "weight_hh"), usual=False)


def _square(array):
    return array.shape[0] == array.shape[1] > 1


def _biases(case):
    bias = case.option("bias", True)
    if bias is False:
        return
    if bias is True:
        yield Change("bias", "without bias_hh", case.with_arrays(np.zeros_like, "bias_hh"))
        yield Change("bias", "without bias_ih", case.with_arrays(np.zeros_like, "bias_ih"))
        words = "half of each bias, as if one had been given to both"
        yield Change("bias", words, case.with_arrays(lambda a: a / 2, *_BIASES))
    else:
        yield Change("bias", "twice the bias", case.with_arrays(lambda a: 2 * a, *_BIASES))
    yield Change("bias", "without any bias", case.with_arrays(np.zeros_like, *_BIASES))
    if bias is True and case.kind is GRU and case.option("reset_after", True):
        swapped = {_other_bias(name): value for name, value in case.arrays.items()}
        yield Change("bias", "bias_ih and bias_hh in each other's place", case._replace(arrays=swapped))
        folded = case._replace(arrays=_folded(case.arrays))
        yield Change("bias", "b_hn added to b_in, where r does not reach it", folded)
    if "f" in case.gates():
        first = case.gates().index("f")
        for amount, words in ((1, "1 added to f's bias, as TensorFlow 1 does in each run"), (-1, "1 less in f's bias")):

            def shifted(array, amount=amount):
                moved = np.array(array)
                np.split(moved, len(case.gates()))[first][...] += amount
                return moved

            yield Change("forget bias", words, case.with_arrays(shifted, "bias_ih"))


def _other_bias(name):
    for one, other in (_BIASES, _BIASES[::-1]):
        if name.startswith(one):
            return other + name.removeprefix(one)
    return name


def _folded(arrays):
    """A GRU's b_hn moved into b_in."""
    arrays = dict(arrays)
    for name in [name for name in arrays if name.startswith("bias_hh")]:
        candidate = slice(len(arrays[name]) * 2 // 3, None)
        of_x, of_h = np.array(arrays[_other_bias(name)]), np.array(arrays[name])
        of_x[candidate] += of_h[candidate]
        of_h[candidate] = 0
        arrays |= {_other_bias(name): of_x, name: of_h}
    return arrays


def _reset_after(case):
    if case.kind is not GRU:
        return
    after = not case.option("reset_after", True)
    changed = case.with_options(reset_after=after)
    if after and case.option("bias", True) == "single":
        zeros = {_other_bias(n): np.zeros_like(a) for n, a in case.arrays.items() if n.startswith("bias_ih")}
        changed = changed.with_options(bias=True)._replace(arrays={**case.arrays, **zeros})
    where = "the recurrent product (PyTorch, Keras 3)" if after else "h before that product (Keras 1, the paper)"
    yield Change("reset_after", f"reset_after={after}: r acts on {where}", changed)


def _activations(case):
    if case.kind not in (LSTM, GRU):
        for name in ("tanh", "relu", "sigmoid", "linear"):
            if name != case.option("nonlinearity", "tanh"):
                yield Change("activation", f"nonlinearity={name!r}", case.with_options(nonlinearity=name))
        return
    default = ("sigmoid", "tanh", "tanh") if case.kind is LSTM else ("sigmoid", "tanh")
    gates, *others = case.option("activations", default)
    for choice in ("sigmoid", *_HARD_SIGMOIDS):
        if choice != gates:
            whose = _HARD_SIGMOIDS.get(choice)
            words = f"gates by {whose} hard_sigmoid, {choice}" if whose else "gates by sigmoid"
            yield Change("hard_sigmoid", words, case.with_options(activations=(choice, *others)))
    for choice in ("tanh", "relu", "linear", "sigmoid"):
        tried = {(choice,) * len(others): f"{choice} instead of {others[0]}"}
        if len(others) == 2:
            tried |= {(choice, others[1]): f"the candidate by {choice}", (others[0], choice): f"the output by {choice}"}
        for chosen, words in tried.items():
            if list(chosen) != others:
                yield Change("activation", words, case.with_options(activations=(gates, *chosen)), choice == "relu")


def _flip(array):
    return array[:, ::-1]


def _directions(case):
    if case.option("bidirectional"):
        yield from _two_directions(case)
        return
    flipped = case._replace(after=(*case.after, _flip))
    reverse = not case.option("reverse", False)
    other = case.with_options(reverse=reverse)
    words = "from its end" if reverse else "from its beginning"
    yield Change("direction", f"reverse={reverse}: time walked {words}", other)
    yield Change("direction", "y with time flipped", flipped)
    words = f"reverse={reverse}, and y in the order in which it is made (Keras' go_backwards)"
    yield Change("direction", words, other._replace(after=flipped.after))


def _two_directions(case):
    def partner(name):
        return name.removesuffix("_reverse") if name.endswith("_reverse") else f"{name}_reverse"

    def halves_swapped(y):
        return np.concatenate(np.split(y, 2, axis=-1)[::-1], axis=-1)

    def second_flipped(y):
        forward, backward = np.split(y, 2, axis=-1)
        return np.concatenate([forward, _flip(backward)], axis=-1)

    swapped = {name: case.arrays[partner(name)] for name in case.arrays}
    yield Change("directions", "the weights of the two directions in each other's place", case._replace(arrays=swapped))
    merge = case.option("merge", "concat")
    if merge == "concat":
        words = "the two halves of y in each other's place"
        yield Change("directions", words, case._replace(after=(*case.after, halves_swapped)))
        words = "the second half of y in the order in which it is made"
        yield Change("directions", words, case._replace(after=(*case.after, second_flipped)))
    for choice in ("concat", "sum", "average", "mul"):
        if choice != merge:
            yield Change("merge", f"merge={choice!r} of the two directions", case.with_options(merge=choice))


def _options(case):
    """What is only there if an option says so, left out; and what is done at padded steps."""
    for name, none in (("zoneout_h", 0.0), ("zoneout_c", 0.0), ("clip", {})):
        if case.option(name):
            yield Change(name, f"without {name}", case.with_options(**{name: none}))
    for name, default, choices in (("padding", "zero", ("zero", "repeat")), ("empty", "initial", ("initial", "zero"))):
        for choice in choices:
            if choice != case.option(name, default):
                yield Change("padding", f"{name}={choice!r}", case.with_options(**{name: choice}))


def _feedforward(case):
    kind = case.kind.__name__
    if kind == "LayerNorm":
        for eps in _EPS:
            yield Change("epsilon", f"eps={eps:g}", case.with_options(eps=eps))
    elif kind == "Activation":
        for name in ("linear", "relu", "tanh", "sigmoid", "softmax", "gelu", *_HARD_SIGMOIDS):
            yield Change("activation", f"Activation({name!r})", case._replace(arguments=(name,)))
    elif kind == "Dense":
        for name in (None, "relu", "tanh", "sigmoid", "softmax", "gelu", *_HARD_SIGMOIDS):
            yield Change("activation", f"activation={name!r}", case.with_options(activation=name))
        yield Change("bias", "without the bias", case.with_arrays(np.zeros_like, "bias"))
        if _square(case.arrays["weight"]):
            yield Change("transpose", "weight transposed", case.with_arrays(np.transpose, "weight"))
