"""Initial parameters, by name, drawn from a numpy.random.Generator that the caller gives.

Every named initialiser takes ``(rng, shape, dtype, hidden_size=None)`` and returns a new array, so
that whoever holds a name needs to know nothing else. Draws are made in float64 and rounded once: a
float32 layer starts from the rounded weights of the float64 layer of the same seed.

Knows shapes and the order of the gates; knows no layer, and does not import numpy.random (18 ms of
the import): the generator comes from outside.

References
----------
.. [1] PyTorch, ``torch.nn.LSTM`` and ``torch.nn.Linear``, their sections "Variables",
   https://pytorch.org/docs/stable/generated/torch.nn.LSTM.html
.. [2] X. Glorot, Y. Bengio, "Understanding the difficulty of training deep feedforward neural
networks",
   AISTATS 2010, equation 16.
.. [3] A. M. Saxe, J. L. McClelland, S. Ganguli, "Exact solutions to the nonlinear dynamics of
learning in
   deep linear neural networks", ICLR 2014.
.. [4] F. Mezzadri, "How to generate random matrices from the classical compact groups", Notices of
the AMS
   54(5), 2007: why the signs of the diagonal of R are multiplied in.
.. [5] R. Jozefowicz, W. Zaremba, I. Sutskever, "An empirical exploration of recurrent network
   architectures", ICML 2015: the forget bias of 1.
"""

import math

import numpy as np

from . import validation

__all__ = [
    "get",
    "glorot_uniform",
    "orthogonal",
    "set_forget_bias",
    "torch_uniform",
    "uniform",
    "zeros",
]


def uniform(rng, shape, dtype, bound):
    """U(-bound, bound), what :func:`torch_uniform` and :func:`glorot_uniform` draw from.

    Parameters
    ----------
    rng : numpy.random.Generator
    shape : tuple of int
    dtype : {"float32", "float64"} or the numpy.dtype
    bound : float

    Returns
    -------
    ndarray of ``shape`` and ``dtype``

    Examples
    --------
    >>> import numpy as np
    >>> uniform(np.random.default_rng(0), (2, 3), "float32", 0.5).dtype
    dtype('float32')
    """
    return rng.uniform(-bound, bound, shape).astype(validation.dtype_of(dtype))


def torch_uniform(rng, shape, dtype="float32", hidden_size=None):
    """U(-1/sqrt(hidden_size), 1/sqrt(hidden_size)), PyTorch's default, for biases too [1]_.

    Parameters
    ----------
    rng : numpy.random.Generator
    shape : tuple of int
    dtype : {"float32", "float64"} or the numpy.dtype
    hidden_size : int
        That of the recurrent layer; of a dense layer its ``in_features``, as in
        ``torch.nn.Linear``. It can not be read off ``shape`` and has to be given.

    Returns
    -------
    ndarray of ``shape`` and ``dtype``

    Raises
    ------
    ValueError, TypeError
        If ``hidden_size`` is missing or not a positive integer.

    Examples
    --------
    >>> import numpy as np
    >>> weight = torch_uniform(np.random.default_rng(0), (64, 3), hidden_size=16)
    >>> bool(np.abs(weight).max() <= 0.25)
    True
    """
    if hidden_size is None:
        raise ValueError(
            "hidden_size is None, expected an integer: the bound is 1/sqrt(hidden_size)"
        )
    return uniform(rng, shape, dtype, 1 / math.sqrt(validation.size("hidden_size", hidden_size)))


def glorot_uniform(rng, shape, dtype="float32", hidden_size=None):
    """U(-b, b) with b = sqrt(6 / (rows + columns)) [2]_, Keras' default for input weights.

    Parameters
    ----------
    rng : numpy.random.Generator
    shape : tuple of int, (rows, columns)
        The whole tensor counts, (4*hidden_size, input_size) and not each gate alone, as in Keras.
    dtype : {"float32", "float64"} or the numpy.dtype
    hidden_size : int, optional
        Not used.

    Returns
    -------
    ndarray of ``shape`` and ``dtype``

    Raises
    ------
    ValueError
        If ``shape`` has not two axes.

    Examples
    --------
    >>> import numpy as np
    >>> weight = glorot_uniform(np.random.default_rng(0), (20, 4))
    >>> bool(np.abs(weight).max() <= 0.5)
    True
    """
    rows, columns = _matrix("glorot_uniform", shape)
    # an empty matrix has no elements for the bound to matter to
    return uniform(rng, shape, dtype, math.sqrt(6 / max(rows + columns, 1)))


def orthogonal(rng, shape, dtype="float32", hidden_size=None):
    """A random matrix with orthonormal columns, or rows if it has fewer of them [3]_.

    Uniform among all such matrices (Haar measure): Q of the QR decomposition of a matrix of normal
    draws, each column times the sign of R's diagonal element [4]_. Keras' default for recurrent
    weights: its (hidden_size, 4*hidden_size) kernel is the transpose of our (4*hidden_size,
    hidden_size), and both have W^T W = I over all four gates together.

    Parameters
    ----------
    rng : numpy.random.Generator
    shape : tuple of int, (rows, columns)
    dtype : {"float32", "float64"} or the numpy.dtype
    hidden_size : int, optional
        Not used.

    Returns
    -------
    ndarray of ``shape`` and ``dtype``

    Raises
    ------
    ValueError
        If ``shape`` has not two axes.

    Examples
    --------
    >>> import numpy as np
    >>> weight = orthogonal(np.random.default_rng(0), (8, 2), "float64")
    >>> np.allclose(weight.T @ weight, np.eye(2))
    True
    """
    rows, columns = _matrix("orthogonal", shape)
    dtype = validation.dtype_of(dtype)
    if rows == 0 or columns == 0:
        return np.zeros(shape, dtype)
    q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
    q *= np.where(np.diagonal(r) < 0, -1.0, 1.0)
    return np.array(q if rows >= columns else q.T, dtype, order="C")


def zeros(rng, shape, dtype="float32", hidden_size=None):
    """All zero; draws nothing.

    Parameters
    ----------
    rng : numpy.random.Generator or None
        Not used.
    shape : tuple of int
    dtype : {"float32", "float64"} or the numpy.dtype
    hidden_size : int, optional
        Not used.

    Returns
    -------
    ndarray of ``shape`` and ``dtype``

    Examples
    --------
    >>> zeros(None, (2,), "float64").tolist()
    [0.0, 0.0]
    """
    return np.zeros(shape, validation.dtype_of(dtype))


_BY_NAME = {
    "glorot_uniform": glorot_uniform,
    "orthogonal": orthogonal,
    "torch_uniform": torch_uniform,
    "zeros": zeros,
}


def get(name):
    """The initialiser of this name.

    Parameters
    ----------
    name : {"glorot_uniform", "orthogonal", "torch_uniform", "zeros"}

    Returns
    -------
    callable ``(rng, shape, dtype="float32", hidden_size=None) -> ndarray``

    Raises
    ------
    ValueError
        If there is none; the message lists the names.

    Examples
    --------
    >>> get("zeros")(None, (3,)).tolist()
    [0.0, 0.0, 0.0]
    """
    if not isinstance(name, str) or name not in _BY_NAME:
        names = ", ".join(map(repr, _BY_NAME))
        raise ValueError(f"initializer is {name!r}, expected one of {names}")
    return _BY_NAME[name]


def set_forget_bias(parameters, value=1.0):
    """Set the forget gate's bias of an LSTM, in every layer and direction, in place [5]_.

    The gates lie in the order i, f, g, o, so it is elements hidden_size to 2*hidden_size of each
    bias. Where a layer has two biases, which are added, ``bias_ih`` gets the value and the forget
    block of ``bias_hh`` is set to zero: the gate starts from ``value``, not from ``value`` and a
    random number.

    Parameters
    ----------
    parameters : dict of str to ndarray
        PyTorch's names, as ``lstm.writable()`` gives them. Only biases are touched.
    value : float, default 1.0

    Raises
    ------
    ValueError
        If there is no ``bias_ih_l*``, or one is not of shape (4*hidden_size,). Nothing has been
        changed then.

    Examples
    --------
    >>> import cylstm
    >>> lstm = cylstm.LSTM(3, 2, rng=0)
    >>> with lstm.writable() as p:
    ...     set_forget_bias(p, 1.0)
    >>> (lstm.parameters["bias_ih_l0"] + lstm.parameters["bias_hh_l0"])[2:4].tolist()
    [1.0, 1.0]
    """
    value = validation.number("value", value, -math.inf, math.inf)
    biases = {
        name: bias
        for name, bias in parameters.items()
        if name.startswith(("bias_ih_l", "bias_hh_l"))
    }
    if not any(name.startswith("bias_ih_l") for name in biases):
        raise ValueError(
            f"parameters has the names {', '.join(parameters)}, expected an LSTM's with bias_ih_l0"
        )
    for name, bias in biases.items():
        if bias.ndim != 1 or len(bias) % 4:
            raise ValueError(f"{name} has shape {bias.shape}, expected (4*hidden_size,)")
        suffix = name.removeprefix("bias_ih").removeprefix("bias_hh")
        units = parameters.get("weight_hr" + suffix, parameters.get("weight_hh" + suffix))
        if units is not None and len(bias) != 4 * units.shape[1]:
            raise ValueError(
                f"{name} has shape {bias.shape} with hidden_size={units.shape[1]}, expected (4*hidden_size,): "
                "for an LSTM with coupled gates use its forget_bias option"
            )
    for name, bias in biases.items():
        hidden_size = len(bias) // 4
        bias[hidden_size : 2 * hidden_size] = value if name.startswith("bias_ih_l") else 0.0


def _matrix(name, shape):
    """(rows, columns), or a ValueError."""
    if len(shape) != 2:
        raise ValueError(f"shape is {tuple(shape)}, expected (rows, columns) for {name}")
    return shape
