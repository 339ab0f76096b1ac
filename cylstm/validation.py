"""Every check of a user's argument, and every message. Knows shapes and dtypes; computes nothing, keeps nothing.

A wrong type or dtype is a TypeError, a wrong value or shape a ValueError; both name the argument, what came and
what was wanted, and are raised before anything is touched.
"""

import math
import operator
import os
import sys

import numpy as np

FLOATS = (np.dtype("float32"), np.dtype("float64"))


def dtype_of(dtype):
    """float32 or float64, native, as an np.dtype."""
    try:
        found = np.dtype(dtype)
    except (TypeError, ValueError):
        raise TypeError(f"dtype is {dtype!r}, expected 'float32' or 'float64'") from None
    if dtype is None or found not in FLOATS:  # np.dtype(None) is float64
        raise TypeError(f"dtype is {dtype!r}, expected 'float32' or 'float64' in native byte order")
    return found


def size(name, value, least=1):
    """A whole number of at least ``least``."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}, expected an integer of at least {least}") from None
    if isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}, expected an integer of at least {least}")
    if number < least:
        raise ValueError(f"{name} is {number}, expected an integer of at least {least}")
    return number


def flag(name, value):
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} is {value!r}, expected True or False")
    return bool(value)


def number(name, value, low, high, *, high_open=False):
    """A real number in [low, high], or [low, high) if ``high_open``."""
    if isinstance(value, (str, bytes)):  # float("0.5") would pass
        raise TypeError(f"{name} is {value!r}, expected a number")
    try:
        x = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} is {value!r}, expected a number") from None
    except OverflowError:
        x = math.inf
    inside = low <= x < high if high_open else low <= x <= high
    if not inside:
        raise ValueError(f"{name} is {value!r}, expected a number in [{low}, {high}{')' if high_open else ']'}")
    return x


def generator(rng):
    """A numpy Generator from None, a seed or a Generator."""
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        raise type(error)(f"rng is {rng!r}, expected None, a seed or a numpy.random.Generator") from None


def memory(what, needed):
    """Refuse bytes that the machine could not hold: an allocation may succeed and kill the process when touched."""
    if needed < 1 << 28:
        return
    try:
        available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        available = sys.maxsize
    if needed > min(available, sys.maxsize):
        raise MemoryError(f"{what} would need {needed // 10**9:,} GB; this machine has {available // 10**9:,} GB")


def array(name, value, dtype):
    """A strict ndarray, of this dtype in native byte order."""
    if type(value) is not np.ndarray:
        if isinstance(value, np.ma.MaskedArray):
            raise TypeError(f"{name} is a masked array, which is not supported: fill it (and use lengths=)")
        if not isinstance(value, np.ndarray):
            raise TypeError(
                f"{name} is a {type(value).__name__}, expected a {dtype} ndarray: "
                f"use np.asarray({name}, dtype='{dtype}')"
            )
        value = np.asarray(value)
    found = value.dtype
    if found is not dtype and (found != dtype or not found.isnative):
        raise TypeError(f"{name} is of dtype {found}, expected {dtype}: use {name}.astype('{dtype}')")
    return value


def rows_contiguous(name, value):
    """The array as the core can read it: aligned, its last axis contiguous; a copy where it must be."""
    flags = value.flags
    if flags.aligned and (flags.c_contiguous or value.strides[-1] == value.itemsize):
        return value
    return contiguous_copy(name, value)


def contiguous_copy(name, value):
    memory(f"a contiguous copy of {name}", value.nbytes)
    return np.array(value, order="C", copy=True)


def shape(name, value, expected, words):
    if value.shape != expected:
        raise ValueError(f"{name} has shape {value.shape}, expected {words}")


def sequence(x, dtype, input_size, batch_first):
    """x as (T, B, I), and whether it came with a batch axis."""
    x = array("x", x, dtype)
    axes = x.shape
    if len(axes) == 3 and axes[2] == input_size:
        x = rows_contiguous("x", x)
        return (x.swapaxes(0, 1) if batch_first else x), True
    if len(axes) == 2 and axes[1] == input_size:
        return rows_contiguous("x", x)[:, None, :], False
    axes = "batch, seq_len" if batch_first else "seq_len, batch"
    raise ValueError(
        f"x has shape {x.shape}, expected ({axes}, input_size={input_size}) or (seq_len, input_size={input_size})"
    )


def states(name, value, letters, dtype, expected, batched):
    """[h] or [h, c], as ``letters`` has it, each of shape ``expected`` (L*D, B, H); given without B if not ``batched``.

    None stays None. h alone comes as an array, (h, c) as a tuple.
    """
    if value is None:
        return None
    if len(letters) == 1:
        if isinstance(value, (tuple, list)):
            raise TypeError(f"{name} is a {type(value).__name__}, expected one array: this cell has no c")
        return [_state(name, value, dtype, expected, batched)]
    if not isinstance(value, (tuple, list)):
        raise TypeError(f"{name} is a {type(value).__name__}, expected a tuple of two arrays (h, c)")
    if len(value) != 2:
        raise ValueError(f"{name} is a {type(value).__name__} of {len(value)}, expected a tuple of two arrays (h, c)")
    return [
        _state(f"{name} {letter}", part, dtype, expected, batched)
        for letter, part in zip(letters, value, strict=True)
    ]


def _state(name, value, dtype, expected, batched):
    layers, batch, hidden = expected
    outer = expected if batched else (layers, hidden)
    words = (
        f"(num_layers * num_directions={layers}, batch={batch}, hidden_size={hidden})"
        if batched
        else f"(num_layers * num_directions={layers}, hidden_size={hidden}), as x is unbatched"
    )
    value = array(name, value, dtype)
    shape(name, value, outer, words)
    return rows_contiguous(name, value).reshape(expected)


def lengths_array(lengths, batch, steps, batched):
    """B integers from 0 to T as intp; a single integer where x is unbatched."""
    if isinstance(lengths, np.ma.MaskedArray):
        raise TypeError("lengths is a masked array, expected integers")
    try:
        found = np.asarray(lengths)
    except ValueError:
        raise ValueError(f"lengths is {lengths!r}, expected integers, one per sequence") from None
    if found.dtype.kind not in "iu" and not (found.size == 0 and found.ndim == 1):
        raise TypeError(f"lengths is of dtype {found.dtype}, expected integers")
    if not batched and found.ndim == 0:
        found = found[None]
    if found.shape != (batch,):
        wanted = f"({batch},), one length per sequence" if batched else "a single integer, as x is unbatched"
        raise ValueError(f"lengths has shape {found.shape}, expected {wanted}")
    for row, length in enumerate(found.tolist()):
        if not 0 <= length <= steps:
            raise ValueError(f"lengths[{row}] is {length}, expected 0 to seq_len={steps}")
    return np.array(found, dtype=np.intp)  # a copy: backward needs it, and the caller may change theirs


def gradient(name, value, dtype, expected):
    """dy or a part of dstate, of exactly this shape."""
    value = array(name, value, dtype)
    shape(name, value, expected, f"{expected}, that of the output of forward")
    return rows_contiguous(name, value)


def parameters(given, expected, dtype):
    """{name: array} with exactly the keys and shapes of ``expected``, cast from any float dtype; new arrays."""
    try:
        given = dict(given)
    except (TypeError, ValueError):
        raise TypeError(f"parameters came as a {type(given).__name__}, expected a mapping of names to arrays") from None
    missing = [name for name in expected if name not in given]
    unexpected = [name for name in given if name not in expected]
    if missing or unexpected:
        parts = [f"missing: {', '.join(missing)}"] if missing else []
        parts += [f"unexpected: {', '.join(map(str, unexpected))}"] if unexpected else []
        raise ValueError(f"parameter names do not match this layer; {'; '.join(parts)}")
    return {name: _parameter(name, given[name], wanted, dtype) for name, wanted in expected.items()}


def _parameter(name, value, expected, dtype):
    """A new C-contiguous array of this shape and dtype."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"parameter {name} is a masked array, which is not supported: fill it")
    try:
        found = np.asarray(value)
    except ValueError:
        raise ValueError(f"parameter {name} is not an array, expected one of shape {expected}") from None
    if found.dtype.kind != "f":
        raise TypeError(f"parameter {name} is of dtype {found.dtype}, expected a float dtype")
    shape(f"parameter {name}", found, expected, expected)
    if found.dtype == dtype:
        return np.array(found, dtype=dtype, order="C", copy=True)
    with np.errstate(over="ignore"):
        cast = found.astype(dtype, order="C")
    if np.isinf(cast).sum() != np.isinf(found).sum():
        raise ValueError(f"parameter {name} has values too large for {dtype}")
    return cast


def streamable(layer, batch_size):
    """That a layer can be stepped; the number of rows."""
    if not hasattr(layer, "num_layers"):
        raise TypeError(f"layer is a {type(layer).__name__}, expected a recurrent layer such as cylstm.LSTM")
    if layer.bidirectional:
        raise ValueError("a bidirectional layer can not stream: its reverse direction begins at the last step")
    rows = 1 if batch_size is None else size("batch_size", batch_size, 0)
    bytes_of_row = 4 * layer.hidden_size * layer.dtype.itemsize + 128  # the state twice, and pointers to it
    memory("this stream", rows * layer.num_layers * bytes_of_row)
    return rows
