"""Optimisers and gradient clipping: what happens to parameters between two training steps.

Knows a layer by ``parameters`` and ``writable()`` and gradients by ``parameters``, a dict of
arrays; knows no cell and no sequence. An optimiser owns its moments, and a step replaces them
together with the parameters they belong to, layer by layer.

References
----------
.. [1] D. P. Kingma, J. Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, algorithm 1,
   https://arxiv.org/abs/1412.6980
.. [2] PyTorch, ``torch.optim.SGD`` (the form of its momentum) and
``torch.nn.utils.clip_grad_norm_``,
   https://pytorch.org/docs/stable/optim.html
"""

import contextlib
import math

import numpy as np

from . import validation

__all__ = ["SGD", "Adam", "clip_grad_norm"]


class _Optimizer:
    """The layers, the moments of each parameter, and the step over both; a subclass is one rule.

    A rule is ``_update(parameter, gradient, moments, step)``: it changes ``parameter``, a copy, in
    place and returns the new moments, leaving the old ones as they are.
    """

    _moments = 0  # arrays per parameter

    def __init__(self, layers, lr):
        if not isinstance(layers, (list, tuple)):
            raise TypeError(f"layers is a {type(layers).__name__}, expected a list of layers")
        for n, layer in enumerate(layers):
            if not (hasattr(layer, "writable") and hasattr(layer, "parameters")):
                raise TypeError(
                    f"layers[{n}] is a {type(layer).__name__}, expected a layer of cylstm"
                )
            if any(layer is other for other in layers[:n]):
                raise ValueError(
                    f"layers[{n}] is in the list twice, expected each layer once: add its gradients"
                )
        self.layers = list(layers)
        self.lr = validation.number("lr", lr, 0, math.inf, high_open=True)
        # per layer: (steps taken, {name: moments}), replaced as a whole
        self._states = [
            (0, {name: (np.zeros_like(p),) * self._moments for name, p in layer.parameters.items()})
            for layer in self.layers
        ]

    def step(self, gradients):
        """Update every layer by its gradients.

        Parameters
        ----------
        gradients : list of Gradients
            As ``backward`` returned them, in the order of ``layers``; not written to.

        Raises
        ------
        TypeError
            If ``gradients`` is not a list or tuple, or an array is not an ndarray of its
            parameter's dtype.
        ValueError
            If there are not as many as layers, or names or shapes are not those of the layer.
            All are checked before any layer is changed.
        """
        _check(gradients, self.layers)
        states = []
        with contextlib.ExitStack() as writers:  # all are entered before any is left: no layer is changed alone
            edited = [writers.enter_context(layer.writable()) for layer in self.layers]
            for parameters, gradient, (taken, moments) in zip(edited, gradients, self._states, strict=True):
                moments = {
                    name: self._update(parameters[name], gradient.parameters[name], moments[name], taken + 1)
                    for name in moments
                }
                states.append((taken + 1, moments))
        self._states = states


class SGD(_Optimizer):
    """Stochastic gradient descent, with momentum in the form of PyTorch [2]_.

    ::

        v <- momentum * v + g              v = 0 before the first step
        p <- p - lr * v

    Parameters
    ----------
    layers : list of layers
        Each once, in the order in which ``step`` will be given their gradients.
    lr : float, default 1e-2
        Learning rate. The attribute ``lr`` may be set between steps.
    momentum : float in [0, 1), default 0.0

    Raises
    ------
    TypeError, ValueError
        If a layer is none or comes twice, or a number is out of range.

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

    def __init__(self, layers, lr=1e-2, momentum=0.0):
        self.momentum = validation.number("momentum", momentum, 0, 1, high_open=True)
        self._moments = 1 if self.momentum else 0
        super().__init__(layers, lr)

    def __repr__(self):
        return f"SGD({self.layers!r}, lr={self.lr!r}, momentum={self.momentum!r})"

    def _update(self, parameter, gradient, moments, step):
        if not moments:
            parameter -= self.lr * gradient
            return moments
        v = self.momentum * moments[0] + gradient
        parameter -= self.lr * v
        return (v,)


class Adam(_Optimizer):
    """Adam, algorithm 1 of Kingma and Ba [1]_.

    ::

        m <- beta1 * m + (1 - beta1) * g                    m = v = 0 before the first step
        v <- beta2 * v + (1 - beta2) * g^2
        p <- p - lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

    ``eps`` stands outside the root, of the corrected v, as in the paper's algorithm and in PyTorch.

    Parameters
    ----------
    layers : list of layers
        Each once, in the order in which ``step`` will be given their gradients.
    lr : float, default 1e-3
        Learning rate. The attribute ``lr`` may be set between steps.
    betas : (float, float), default (0.9, 0.999)
        Each in [0, 1).
    eps : float, default 1e-8

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

    _moments = 2

    def __init__(self, layers, lr=1e-3, betas=(0.9, 0.999), eps=1e-8):
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise ValueError(f"betas is {betas!r}, expected two numbers (beta1, beta2)")
        self.betas = tuple(
            validation.number(f"betas[{n}]", beta, 0, 1, high_open=True)
            for n, beta in enumerate(betas)
        )
        self.eps = validation.number("eps", eps, 0, math.inf, high_open=True)
        super().__init__(layers, lr)

    def __repr__(self):
        return f"Adam({self.layers!r}, lr={self.lr!r}, betas={self.betas!r}, eps={self.eps!r})"

    def _update(self, parameter, gradient, moments, step):
        beta1, beta2 = self.betas
        m, v = moments
        m = beta1 * m + (1 - beta1) * gradient
        v = beta2 * v + (1 - beta2) * gradient**2
        root = np.sqrt(v / (1 - beta2**step))
        root += self.eps
        parameter -= (self.lr / (1 - beta1**step)) * m / root
        return m, v


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
        If ``grads`` is not a list or tuple of Gradients.
    ValueError
        If ``max_norm`` is negative or NaN.

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
    arrays = [array for g in grads for array in g.parameters.values()]
    with np.errstate(over="ignore"):  # an infinite norm is an answer, and documented
        norm = math.sqrt(sum(float(np.sum(np.square(a, dtype=np.float64))) for a in arrays))
    if max_norm < norm < math.inf:
        scale = max_norm / norm
        for array in arrays:
            # in float64, rounded once: a scale below float32's range would be zero in float32
            np.multiply(array, scale, out=array, dtype=np.float64, casting="same_kind")
    return norm


def _check_list(name, gradients):
    """A list or tuple of Gradients."""
    if not isinstance(gradients, (list, tuple)):
        kind = type(gradients).__name__
        raise TypeError(f"{name} is a {kind}, expected a list of Gradients, one per layer")
    for n, g in enumerate(gradients):
        if not hasattr(g, "parameters"):
            raise TypeError(f"{name}[{n}] is a {type(g).__name__}, expected Gradients")


def _check(gradients, layers):
    """Refuse gradients that are not, one by one, those of ``layers``."""
    _check_list("gradients", gradients)
    if len(gradients) != len(layers):
        raise ValueError(
            f"gradients has {len(gradients)} entries, expected {len(layers)}, one per layer"
        )
    for n, (g, layer) in enumerate(zip(gradients, layers, strict=True)):
        expected = layer.parameters
        if g.parameters.keys() != expected.keys():
            raise ValueError(
                f"gradients[{n}] has the names {', '.join(g.parameters)}, "
                f"expected {', '.join(expected)}: those of layers[{n}]"
            )
        for name, parameter in expected.items():
            what = f"gradients[{n}] {name}"
            validation.shape(
                what,
                validation.array(what, g.parameters[name], parameter.dtype),
                parameter.shape,
                parameter.shape,
            )
