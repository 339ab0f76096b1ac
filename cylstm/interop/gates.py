"""Orders of gates: PyTorch's and cylstm's i f g o and r z n; Keras' i f c o and z r h; ONNX's i o f c and z r h.

Knows letters and blocks of an axis; no framework and no file.
"""

import numpy as np

# What others call the candidates: g of an LSTM, n of a GRU.
_NAMES = str.maketrans("ch", "gn")


def reorder(array, given, wanted, axis=0):
    """The gates along an axis in another order.

    Parameters
    ----------
    array : ndarray
        ``axis`` is of as many blocks of one size as there are gates.
    given, wanted : str
        A letter for each gate, in the order that they have and shall have: "ifgo", "iofc", "rzn", "zrh". c is g, h
        is n.
    axis : int, default 0

    Returns
    -------
    ndarray
        A new array.

    Raises
    ------
    ValueError
        If the letters are not the same, one comes twice, or the axis is not there or not of so many blocks.

    Examples
    --------
    >>> reorder(np.array([[1, 1, 2, 2, 3, 3, 4, 4]]), "iofc", "ifgo", axis=1).tolist()
    [[1, 1, 3, 3, 4, 4, 2, 2]]
    """
    before, after = given.translate(_NAMES), wanted.translate(_NAMES)
    if sorted(before) != sorted(after) or len(set(before)) != len(before):
        raise ValueError(f"gates {given!r} can not be put in the order {wanted!r}: expected its letters, each once")
    if not -array.ndim <= axis < array.ndim or not before or array.shape[axis] % len(before):
        raise ValueError(f"an array of shape {array.shape} has no {len(before)} gates {given!r} along axis {axis}")
    blocks = np.split(array, len(before), axis)
    return np.concatenate([blocks[before.index(gate)] for gate in after], axis)
