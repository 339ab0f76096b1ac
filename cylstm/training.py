"""Optimisers and gradient clipping: what happens to parameters between two training steps.

Knows a layer by its parameters, by those of them that are trainable and by the layers that hold them, and gradients by
``parameters``, a dict of arrays; knows no cell, no sequence and no loop over elements, which is ``updates.pxi``'s. An
optimiser owns its moments; a step replaces all parameters and moments, or none.

References
----------
.. [1] D. P. Kingma, J. Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, algorithm 1 and the end of
   section 2, https://arxiv.org/abs/1412.6980
.. [2] PyTorch, ``torch.optim`` and ``torch.nn.utils``, https://pytorch.org/docs/stable/optim.html
.. [3] T. Tieleman, G. Hinton, "Lecture 6.5 - RMSProp", COURSERA: Neural Networks for Machine Learning, 2012; centred:
   A. Graves, "Generating Sequences With Recurrent Neural Networks", 2013, equations 38 to 41,
   https://arxiv.org/abs/1308.0850
.. [4] I. Loshchilov, F. Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, algorithm 2,
   https://arxiv.org/abs/1711.05101
.. [5] I. Sutskever, J. Martens, G. Dahl, G. Hinton, "On the importance of initialization and momentum in deep
   learning", ICML 2013
"""

import math

import numpy as np

from . import schedules, validation
from ._core.packing import aligned_empty
from ._core.turns import Turn
from ._core.update import Slot, apply, collect, rescale, sum_of_squares, writable_arrays
from .layers import Layer, _Snapshot
from .tape import Gradients

__all__ = ["SGD", "Adam", "AdamW", "RMSprop", "clip_grad_norm", "clip_grad_value"]


class _Optimizer:
    """The layers, the moments of each parameter, and the step over both; a subclass is one rule.

    It has ``_rule``, a rule of ``updates.pxi``; ``_moments``, the names of that rule's moments, None for one it does
    without; ``_squares``, those of them that are means of squares; ``_numbers(steps, lr)``, that rule's numbers for
    step ``steps`` of a parameter, counted from 1; and ``_arguments``, the names of what ``repr`` shows beside ``lr``.
    """

    _rule: str
    _moments: tuple[str | None, ...]
    _squares: tuple[str, ...] = ()
    _arguments: tuple[str, ...]

    #: Whether a gradient that is not finite, and a parameter that would not be, is a FloatingPointError, the parameters
    #: those of before the step: ``fit`` asks for it.
    _finite = False

    def __init__(self, layers, lr):
        self.lr = lr
        self.steps = 0
        self.layers = None
        if layers is not None:
            self.bind(layers)

    def bind(self, layers):
        """Give an optimiser that was made without layers its layers, once. Giving it the same ones again is nothing.

        Parameters
        ----------
        layers : list of layers
            Each once, in the order in which ``step`` will be given their gradients.

        Raises
        ------
        TypeError
            If this is no list or tuple of layers.
        ValueError
            If a layer comes twice, or the optimiser has others already.
        """
        if not isinstance(layers, (list, tuple)):
            raise TypeError(f"layers is a {type(layers).__name__}, expected a list of layers")
        for n, layer in enumerate(layers):
            if not isinstance(layer, Layer):
                raise TypeError(f"layers[{n}] is a {type(layer).__name__}, expected a layer of cylstm")
        if self.layers is not None:
            if list(map(id, layers)) != list(map(id, self.layers)):
                raise ValueError("layers are not those that this optimiser has: make a new one for other layers")
            return
        seen = set()
        slots = []  # for each layer {name: slot}
        for n, layer in enumerate(layers):
            names = iter(layer.parameters)
            slots.append({})
            for leaf in layer._leaves:
                if id(leaf) in seen:
                    raise ValueError(
                        f"layers[{n}] is in the list twice, itself or in another, expected each layer once: "
                        "add its gradients"
                    )
                seen.add(id(leaf))
                for name in leaf.parameters:
                    label = next(names)
                    slots[-1][label] = Slot(leaf, name, label, self._moments)
        self.layers = list(layers)
        self._slots = slots

    def _unbind(self):
        """Be without layers again; for who bound it and made no step."""
        self.layers = None
        self.steps = 0

    def _bound(self):
        if self.layers is None:
            name = type(self).__name__
            raise RuntimeError(f"this {name} has no layers yet: make it as {name}(layers, ...), or bind(layers) first")

    @property
    def lr(self):
        """The learning rate of the next step."""
        return validation.learning_rate("lr", self.schedule(self.steps))

    @lr.setter
    def lr(self, lr):
        self.schedule = schedules.as_schedule(lr)

    def __repr__(self):
        layers = [] if self.layers is None else [repr(self.layers)]
        values = {"lr": schedules.argument(self.schedule)}
        values |= {name: getattr(self, name) for name in self._arguments}
        return f"{type(self).__name__}({', '.join(layers + [f'{name}={value!r}' for name, value in values.items()])})"

    def step(self, gradients):
        """Update every trainable parameter by its gradient: of all layers at once, or, on an error, of none.

        Parameters
        ----------
        gradients : list of Gradients
            As ``backward`` returned them, in the order of ``layers``; not written to. Those of parameters that are not
            trainable do nothing.

        Raises
        ------
        RuntimeError
            If the optimiser has no layers yet, or this thread is inside ``writable()`` of one.
        TypeError
            If ``gradients`` is not a list or tuple, or an array is not an ndarray of its parameter's dtype.
        ValueError
            If there are not as many as layers, or names or shapes are not those of the layer.
        """
        self._bound()
        _check_list("gradients", gradients)
        changes, leaves = collect(gradients, self.layers, self._slots, self._finite)
        with Turn(leaves):
            lr = self.lr
            apply(self._rule, changes, lambda steps: self._numbers(steps, lr), _Snapshot, self, self._finite)

    def _state(self):
        """The arrays and numbers of ``state_dict``, themselves."""
        state = {"steps": self.steps} | self.schedule.state_dict()
        for n, slots in enumerate(self._slots):
            for name, slot in slots.items():
                state[f"{n}.{name}.steps"] = slot.steps
                for moment, array in zip(self._moments, slot.moments, strict=True):
                    if array is not None:
                        state[f"{n}.{name}.{moment}"] = array
        return state

    def state_dict(self):
        """What training goes on from, beside the layers' parameters. Take it between two steps.

        Returns
        -------
        dict
            New arrays, and numbers. "steps", and what the schedule says of itself: "lr", where ``lr`` is a number. For
            each parameter of ``layers[n]`` "n.name.steps" and its moments by their letters in the class's
            equations: "0.weight_ih_l0.v".

        Raises
        ------
        RuntimeError
            If the optimiser has no layers yet.
        """
        self._bound()
        return {key: value.copy() if isinstance(value, np.ndarray) else value for key, value in self._state().items()}

    def load_state_dict(self, state_dict):
        """Go on from what :meth:`state_dict` gave: with the same parameters and gradients, to the same bits.

        Parameters
        ----------
        state_dict : mapping
            Of an optimiser of the same class, options and layers. Copied.

        Raises
        ------
        RuntimeError
            If the optimiser has no layers yet.
        ValueError, TypeError
            If names are missing or unexpected (both are listed), or a shape, a dtype or a number is wrong, such as a
            moment that is not finite or a mean of squares below 0; nothing is changed then.
        """
        self._bound()
        self._load(state_dict, validation.finite_array)

    def _load(self, state_dict, check):
        """``load_state_dict`` with ``check(name, moment, least)`` of each moment."""
        given = validation.entries("state", state_dict, self._state(), f"this {type(self).__name__}")
        steps = validation.size("steps", given["steps"], 0)
        loaded = []
        for n, slots in enumerate(self._slots):
            for name, slot in slots.items():
                key = f"{n}.{name}."
                moments = [aligned_empty(slot.shape, slot.dtype) if moment else None for moment in self._moments]
                for moment, array in zip(self._moments, moments, strict=True):
                    if moment is not None:
                        array[...] = validation.floats(key + moment, given[key + moment], slot.shape, slot.dtype)
                        check(key + moment, array, 0 if moment in self._squares else -math.inf)
                loaded.append((slot, validation.size(key + "steps", given[key + "steps"], 0), tuple(moments)))
        self.schedule.load_state_dict({name: given[name] for name in self.schedule.state_dict()})
        self.steps = steps
        for slot, steps, moments in loaded:
            slot.steps, slot.moments = steps, moments

    def __getstate__(self):
        attributes = {name: value for name, value in vars(self).items() if name not in ("layers", "_slots")}
        return attributes, self.layers, self.state_dict() if self.layers is not None else None

    def __setstate__(self, state):
        attributes, layers, of_layers = state
        vars(self).update(attributes)
        self.layers = None
        if layers is not None:
            self.bind(layers)
            self._load(of_layers, lambda *_: None)  # a copy of an optimiser that has overflowed is one too


class SGD(_Optimizer):
    """Stochastic gradient descent, its momentum in PyTorch's form [2]_; Nesterov's as in [5]_, in the same form.

    ::

        d <- g + weight_decay * p
        v <- momentum * v + d                    v = 0 before the first step
        p <- p - lr * v,                         with nesterov   p - lr * (d + momentum * v)

    Keras has the learning rate in v, so what momentum has gathered does not change with it.

    Parameters
    ----------
    layers : list of layers, optional
        Each once, in the order in which ``step`` will be given their gradients. Without, :meth:`bind` comes first.
    lr : float, schedule or function of the number of steps, default 1e-2
        Learning rate: see :mod:`cylstm.schedules`.
    momentum : float in [0, 1), default 0.0
    nesterov : bool, default False
        With ``momentum`` alone.
    weight_decay : float, default 0.0
        The factor of an L2 penalty's gradient.

    Raises
    ------
    TypeError, ValueError
        If a layer is none or comes twice, or a number is out of range.

    Attributes
    ----------
    layers : list of layers, or None
    steps : int
        How many steps were made.
    lr : float
        That of the next step; may be set to anything that the argument may be.
    schedule : schedule
        What ``lr`` comes from; a number is a :class:`~cylstm.schedules.constant`.

    Examples
    --------
    >>> import numpy as np, cylstm
    >>> dense, tape = cylstm.Dense(2, 1, rng=0), cylstm.Tape()
    >>> optimizer = cylstm.SGD([dense], lr=0.1)
    >>> losses = []
    >>> for _ in range(2):
    ...     y = dense.forward(np.ones((8, 2), np.float32), tape=tape)
    ...     loss, dy = cylstm.losses.mse(y, np.ones((8, 1)))
    ...     losses.append(loss)
    ...     optimizer.step([dense.backward(tape, dy)])
    >>> bool(losses[1] < losses[0])
    True
    """

    _arguments = ("momentum", "nesterov", "weight_decay")

    def __init__(self, layers=None, lr=1e-2, momentum=0.0, nesterov=False, weight_decay=0.0):
        self.momentum = validation.number("momentum", momentum, 0, 1, high_open=True)
        self.nesterov = validation.flag("nesterov", nesterov)
        self.weight_decay = validation.number("weight_decay", weight_decay, 0, math.inf, high_open=True)
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov is True, but momentum is 0: expected a momentum with it")
        self._rule = "nesterov" if self.nesterov else "sgd"
        self._moments = ("v",) if self.momentum else ()
        super().__init__(layers, lr)

    def _numbers(self, steps, lr):
        return lr, self.weight_decay, self.momentum


class RMSprop(_Optimizer):
    """RMSprop [3]_ in PyTorch's form [2]_.

    ::

        v <- alpha * v + (1 - alpha) * g^2                       v = mean = b = 0 before the first step
        mean <- alpha * mean + (1 - alpha) * g                   if centered
        d = g / (sqrt(v) + eps),                                 centered   g / (sqrt(v - mean^2) + eps)
        b <- momentum * b + d                                    with momentum
        p <- p - lr * d,                                         with momentum   p - lr * b

    In Keras d is g / sqrt(v + eps), with eps within the root, the learning rate is in b, and the defaults are others:
    alpha, there rho, is 0.9 and eps 1e-7. v - mean^2 is a variance: what rounding takes below 0, where PyTorch's step
    is NaN, counts as 0.

    Parameters
    ----------
    layers, lr
        As of :class:`SGD`; lr 1e-3 by default.
    alpha : float in [0, 1), default 0.99
    eps : float, default 1e-8
    momentum : float in [0, 1), default 0.0
    centered : bool, default False

    Raises
    ------
    TypeError, ValueError
        If a layer is none or comes twice, or a number is out of range.

    Examples
    --------
    >>> import numpy as np, cylstm
    >>> dense, tape = cylstm.Dense(2, 1, rng=0), cylstm.Tape()
    >>> optimizer = cylstm.RMSprop([dense], lr=0.25, alpha=0.75)
    >>> before = dense.parameters["bias"]
    >>> y = dense.forward(np.ones((8, 2), np.float32), tape=tape)
    >>> optimizer.step([dense.backward(tape, np.ones_like(y))])
    >>> (dense.parameters["bias"] - before).round(6).tolist()    # the first step is lr * sign(g) / sqrt(1 - alpha)
    [-0.5]
    """

    _rule = "rmsprop"
    _squares = ("v",)
    _arguments = ("alpha", "eps", "momentum", "centered")

    def __init__(self, layers=None, lr=1e-3, alpha=0.99, eps=1e-8, momentum=0.0, centered=False):
        self.alpha = validation.number("alpha", alpha, 0, 1, high_open=True)
        self.eps = validation.number("eps", eps, 0, math.inf, high_open=True)
        self.momentum = validation.number("momentum", momentum, 0, 1, high_open=True)
        self.centered = validation.flag("centered", centered)
        self._moments = ("v", "mean" if self.centered else None, "b" if self.momentum else None)
        super().__init__(layers, lr)

    def _numbers(self, steps, lr):
        return lr, self.eps, self.momentum, self.alpha


class Adam(_Optimizer):
    """Adam, algorithm 1 of Kingma and Ba [1]_.

    ::

        m <- beta1 * m + (1 - beta1) * g                    m = v = 0 before the first step
        v <- beta2 * v + (1 - beta2) * g^2
        p <- p - lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

    ``eps`` stands outside the root, of the corrected v, as in the paper's algorithm and in PyTorch. Keras adds its eps,
    1e-7 by default, to the root of v itself, the paper's "epsilon hat": ``eps_hat=True``. Where gradients are large it
    is the same; where they were of size 1e-4, losses differed by up to 4 % (tests/test_training.py).

    Parameters
    ----------
    layers, lr
        As of :class:`SGD`; lr 1e-3 by default.
    betas : (float, float), default (0.9, 0.999)
        Each in [0, 1).
    eps : float, default 1e-8
    eps_hat : bool, default False
        p <- p - lr * sqrt(1 - beta2^t) / (1 - beta1^t) * m / (sqrt(v) + eps) instead.

    Raises
    ------
    TypeError, ValueError
        If a layer is none or comes twice, or a number is out of range.

    Examples
    --------
    >>> import numpy as np, cylstm
    >>> dense, tape = cylstm.Dense(2, 1, rng=0), cylstm.Tape()
    >>> optimizer = cylstm.Adam([dense], lr=0.25)
    >>> before = dense.parameters["bias"]
    >>> y = dense.forward(np.ones((8, 2), np.float32), tape=tape)
    >>> optimizer.step([dense.backward(tape, np.ones_like(y))])
    >>> (dense.parameters["bias"] - before).round(6).tolist()    # the first step is lr * sign(g)
    [-0.25]
    """

    _rule = "adam"
    _moments = ("m", "v")
    _squares = ("v",)
    _arguments: tuple[str, ...] = ("betas", "eps", "eps_hat")

    def __init__(self, layers=None, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, eps_hat=False):
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise ValueError(f"betas is {betas!r}, expected two numbers (beta1, beta2)")
        self.betas = tuple(validation.number(f"betas[{n}]", beta, 0, 1, high_open=True) for n, beta in enumerate(betas))
        self.eps = validation.number("eps", eps, 0, math.inf, high_open=True)
        self.eps_hat = validation.flag("eps_hat", eps_hat)
        super().__init__(layers, lr)

    def _numbers(self, steps, lr):
        beta1, beta2 = self.betas
        root = math.sqrt(1 - beta2**steps)  # sqrt(v / root^2) + eps = (sqrt(v) + eps * root) / root
        eps = self.eps if self.eps_hat else self.eps * root
        return 1.0, lr * root / (1 - beta1**steps), eps, beta1, beta2


class AdamW(Adam):
    """Adam with decoupled weight decay, Loshchilov and Hutter [4]_, in PyTorch's and Keras' form.

    p * (1 - lr * weight_decay) takes the place of p in the step of :class:`Adam`.

    Parameters
    ----------
    layers, lr, betas, eps, eps_hat
        As of :class:`Adam`.
    weight_decay : float, default 1e-2

    Raises
    ------
    TypeError, ValueError
        If a layer is none or comes twice, or a number is out of range.

    Examples
    --------
    >>> import numpy as np, cylstm
    >>> dense, tape = cylstm.Dense(2, 1, bias=False, rng=0), cylstm.Tape()
    >>> optimizer = cylstm.AdamW([dense], lr=0.25, weight_decay=0.5)
    >>> before = dense.parameters["weight"]
    >>> y = dense.forward(np.ones((8, 2), np.float32), tape=tape)
    >>> optimizer.step([dense.backward(tape, np.ones_like(y))])
    >>> (dense.parameters["weight"] - 0.875 * before).round(6).tolist()
    [[-0.25, -0.25]]
    """

    _arguments = ("betas", "eps", "eps_hat", "weight_decay")

    def __init__(self, layers=None, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2, eps_hat=False):
        self.weight_decay = validation.number("weight_decay", weight_decay, 0, math.inf, high_open=True)
        super().__init__(layers, lr, betas, eps, eps_hat)

    def _numbers(self, steps, lr):
        _, *rest = super()._numbers(steps, lr)
        return 1 - lr * self.weight_decay, *rest


def clip_grad_norm(grads, max_norm):
    """Scale gradients down, in place, so that their norm is at most ``max_norm``.

    The norm is that of all parameter gradients of all layers as one vector, in float64; ``dx`` and
    ``dstate`` neither count nor change. As in PyTorch's ``clip_grad_norm_`` [2]_, but without the
    1e-6 it adds to the norm.

    Parameters
    ----------
    grads : list of Gradients
        As ``backward`` returned them. Their arrays are changed.
    max_norm : float
        At least 0; infinity leaves the gradients alone.

    Returns
    -------
    float
        The norm before clipping. Gradients whose norm is infinite or NaN are left as they are: no
        scale would repair them. Check with ``math.isfinite`` and skip the step.

    Raises
    ------
    TypeError
        If ``grads`` is not a list or tuple of Gradients, or an array is not of float32 or float64.
    ValueError
        If ``max_norm`` is negative or NaN, or an array is read-only.

    Examples
    --------
    >>> import numpy as np
    >>> from cylstm.tape import Gradients
    >>> g = Gradients(None, None, {"weight": np.array([[3.0, 4.0]])})
    >>> clip_grad_norm([g], 2.5), g.parameters["weight"].tolist()
    (5.0, [[1.5, 2.0]])
    """
    max_norm = validation.number("max_norm", max_norm, 0, math.inf)
    _check_list("grads", grads)
    arrays = writable_arrays(grads)
    norm = math.sqrt(sum_of_squares(arrays))
    if max_norm < norm < math.inf:
        rescale(arrays, max_norm / norm)
    return norm


def clip_grad_value(grads, clip_value):
    """Bring every element of the gradients, in place, into [-clip_value, clip_value].

    PyTorch's ``clip_grad_value_`` and Keras' ``clipvalue``. NaN stays NaN; ``dx`` and ``dstate`` do not change.

    Parameters
    ----------
    grads : list of Gradients
        As ``backward`` returned them. Their arrays are changed.
    clip_value : float
        At least 0.

    Raises
    ------
    TypeError
        If ``grads`` is not a list or tuple of Gradients, or an array is not of float32 or float64.
    ValueError
        If ``clip_value`` is negative or NaN, or an array is read-only.

    Examples
    --------
    >>> import numpy as np
    >>> from cylstm.tape import Gradients
    >>> g = Gradients(None, None, {"weight": np.array([[3.0, -0.5]])})
    >>> clip_grad_value([g], 1)
    >>> g.parameters["weight"].tolist()
    [[1.0, -0.5]]
    """
    clip_value = validation.number("clip_value", clip_value, 0, math.inf)
    _check_list("grads", grads)
    for array in writable_arrays(grads):
        with np.errstate(over="ignore"):
            limit = array.dtype.type(clip_value)  # infinity where it is beyond float32
        np.clip(array, -limit, limit, out=array)


def _check_list(name, gradients):
    """A list or tuple of Gradients."""
    if not isinstance(gradients, (list, tuple)):
        kind = type(gradients).__name__
        raise TypeError(f"{name} is a {kind}, expected a list of Gradients, one per layer")
    for n, g in enumerate(gradients):
        if type(g) is not Gradients and not hasattr(g, "parameters"):
            raise TypeError(f"{name}[{n}] is a {type(g).__name__}, expected Gradients")
