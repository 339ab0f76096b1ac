"""Every check of a user's argument, and every message. Knows shapes and dtypes; computes nothing, keeps nothing.

A wrong type or dtype is a TypeError, a wrong value or shape a ValueError; both name the argument, what came and
what was wanted, and are raised before anything is touched.
"""

import errno
import math
import operator
import os
import sys

import numpy as np

from ._core.packing import is_plain

FLOAT32_MAX = float(np.finfo(np.float32).max)
FLOAT32_TINY = float(np.finfo(np.float32).tiny)
NOT_NUMBERS = (type(None), str, bytes)
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
    # float("0.5") and float(True) would pass
    if type(value) is not float and isinstance(value, (*NOT_NUMBERS, bool, np.bool_)):
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


def learning_rate(name, value):
    if type(value) is float and 0 <= value < math.inf:
        return value  # asked before every step
    return number(name, value, 0, math.inf, high_open=True)


def finite(name, value):
    """A number that float32 can hold."""
    return number(name, value, -FLOAT32_MAX, FLOAT32_MAX)


def path(name, value):
    """A path as a str."""
    try:
        found = os.fspath(value)
    except TypeError:
        found = None
    if not isinstance(found, str):
        raise TypeError(f"{name} is {value!r}, expected a string or a path")
    return found


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
    """A strict ndarray, of this dtype in native byte order; None: of float32 or float64."""
    code = "" if " " in name else name  # advice is code, "dstate h" is none
    if type(value) is not np.ndarray:
        if isinstance(value, np.ma.MaskedArray):
            raise TypeError(f"{name} is a masked array, which is not supported: fill it (and use lengths=)")
        if not isinstance(value, np.ndarray):
            wanted = "float32 or float64" if dtype is None else dtype
            raise TypeError(
                f"{name} is a {type(value).__name__}, expected a {wanted} ndarray: "
                f"use np.asarray({code or '...'}, dtype='{FLOATS[0] if dtype is None else dtype}')"
            )
        value = np.asarray(value)
    found = value.dtype
    if dtype is None:
        if found not in FLOATS:
            raise TypeError(f"{name} is of dtype {found}, expected float32 or float64: use {code}.astype('float32')")
        return value
    if found is not dtype and (found != dtype or not found.isnative):
        raise TypeError(f"{name} is of dtype {found}, expected {dtype}: use {code}.astype('{dtype}')")
    return value


def writable_floats(name, value):
    """An ndarray of float32 or float64 to be changed in place."""
    value = array(name, value, FLOATS[1] if getattr(value, "dtype", None) == FLOATS[1] else FLOATS[0])
    if not value.flags.writeable:
        raise ValueError(f"{name} is read-only, expected an array to change in place")
    return value


def rows_contiguous(name, value):
    """The array as the core can read it: aligned, its last axis contiguous; a copy where it must be."""
    flags = value.flags
    if flags.aligned and (flags.c_contiguous or value.strides[-1] == value.itemsize):
        return value
    return contiguous_copy(name, value)


def contiguous(name, value, *, copy=False):
    """The array, aligned and C-contiguous; a copy where it must be, or if ``copy``."""
    if not copy and value.flags.c_contiguous and value.flags.aligned:
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
    if is_plain(x, dtype, 3, input_size):  # nearly always
        return (x.swapaxes(0, 1) if batch_first else x), True
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


def states(name, value, letters, dtype, outer, widths, batched, why=", as x is unbatched"):
    """[h] or [h, c], as ``letters`` has it, each (L*D, B, its width); given without B if not ``batched``.

    ``outer`` is (L*D, B), ``widths`` (name, size) of each, ``why`` what the error says of an absent batch axis. None
    stays None. h alone comes as an array, (h, c) as a tuple.
    """
    if value is None:
        return None
    if len(letters) == 1:
        if isinstance(value, (tuple, list)):
            raise TypeError(f"{name} is a {type(value).__name__}, expected one array: this cell has no c")
        return [_state(name, "", value, dtype, outer, widths[0], batched, why)]
    if not isinstance(value, (tuple, list)):
        raise TypeError(f"{name} is a {type(value).__name__}, expected a tuple of two arrays (h, c)")
    if len(value) != 2:
        raise ValueError(f"{name} is a {type(value).__name__} of {len(value)}, expected a tuple of two arrays (h, c)")
    h, c = value
    return [
        _state(name, letters[0], h, dtype, outer, widths[0], batched, why),
        _state(name, letters[1], c, dtype, outer, widths[1], batched, why),
    ]


def _state(name, letter, value, dtype, outer, width, batched, why):
    words, size_ = width
    if batched and is_plain(value, dtype, 3, size_) and value.shape == (*outer, size_):  # nearly always
        return value
    if letter:
        name = f"{name} {letter}"
    layers, batch = outer
    expected = (layers, batch, size_) if batched else (layers, size_)
    words = (
        f"(num_layers * num_directions={layers}, batch={batch}, {words}={size_})"
        if batched
        else f"(num_layers * num_directions={layers}, {words}={size_}){why}"
    )
    value = array(name, value, dtype)
    shape(name, value, expected, words)
    return rows_contiguous(name, value).reshape(layers, batch, size_)


def input_of_step(x, dtype, batch_size, width, name):
    """The x of one time step that can not be taken as it is: a contiguous copy, or the error.

    ``name`` is what its width is called; a width of -1 stands for any.
    """
    x = array("x", x, dtype)
    words = name if width < 0 else f"{name}={width}"
    words = f"({words},)" if batch_size is None else f"(batch_size={batch_size}, {words})"
    if width < 0 and x.ndim:
        width = x.shape[-1]
    shape("x", x, (width,) if batch_size is None else (batch_size, width), words)
    return contiguous_copy("x", x)


def bools(name, value):
    """An ndarray of bool."""
    if isinstance(value, np.ma.MaskedArray) or not isinstance(value, np.ndarray):
        kind = type(value).__name__
        raise TypeError(f"{name} is a {kind}, expected a bool ndarray: use np.asarray({name}, dtype=bool)")
    if value.dtype != np.bool_:
        raise TypeError(f"{name} is of dtype {value.dtype}, expected bool: use {name}.astype(bool)")
    return value


def mask_of(mask, batch, steps, batched):
    """(B, T) of bool: the caller's own array; (T,) of it where x is unbatched."""
    mask = bools("mask", mask)
    if batched:
        shape("mask", mask, (batch, steps), f"(batch={batch}, seq_len={steps})")
    else:
        shape("mask", mask, (steps,), f"(seq_len={steps},), as x is unbatched")
    return mask.reshape(batch, steps)


def mask_array(mask, lengths, batch, steps, batched):
    """(T, B) of uint8, contiguous: where ``mask`` (B, T) is True and, if there are ``lengths``, t is below them."""
    valid = mask_of(mask, batch, steps, batched).T
    if lengths is not None:
        valid = valid & (np.arange(steps)[:, None] < lengths)
    return np.array(valid, np.uint8, order="C")  # a copy: backward needs it, and the caller may change theirs


def index(name, value, count, words):
    """An integer from 0 to count - 1; ``words`` names the count."""
    number = size(name, value, 0)
    if number >= count:
        raise ValueError(f"{name} is {number}, expected 0 to {words} - 1 = {count - 1}")
    return number


def numbers(name, value):
    """Anything that NumPy takes for real numbers, as an ndarray."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, which is not supported: fill it (and use lengths=)")
    try:
        found = np.asarray(value)
        # astype would take None for NaN, and "1" for 1
        if found.dtype == object and found.ndim and not any(isinstance(part, NOT_NUMBERS) for part in found.flat):
            found = found.astype(np.float64)
    except OverflowError:
        raise ValueError(f"{name} has values too large for float64") from None
    except (TypeError, ValueError):
        raise ValueError(
            f"{name} is not an array of numbers: sequences of different lengths are padded, and lengths= tells how long"
            " they are"
        ) from None
    if found.dtype.kind not in "biuf":
        raise TypeError(f"{name} is of dtype {found.dtype}, expected numbers")
    return found


def cast(name, value, dtype):
    """The same numbers as a C-contiguous array of this dtype: ``value`` itself, if it is one.

    A ValueError where they can not be: too large for a float, or fractions as integers.
    """
    if value.dtype == dtype:
        return value.astype(dtype, order="C", copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        found = value.astype(dtype, order="C")
    if dtype.kind == "f" and np.isinf(found).sum() != np.isinf(value).sum():
        raise ValueError(f"{name} has values too large for {dtype}")
    if dtype.kind == "i" and value.dtype.kind == "f" and not (found == value).all():
        raise ValueError(f"{name} has {value[found != value][0]}, expected integers")
    return found


def finite_array(name, value, least=-math.inf):
    """Neither NaN nor infinity, and nothing below ``least``."""
    low, high = value.min(initial=0), value.max(initial=0)
    if not (least <= low and -math.inf < low and high < math.inf):  # written so that NaN fails
        words = "" if least == -math.inf else f" of at least {least}"
        raise ValueError(f"{name} has values from {low} to {high}, expected finite numbers{words}")


def integers(name, value):
    """An ndarray of integers."""
    if isinstance(value, np.ma.MaskedArray) or not isinstance(value, np.ndarray):
        raise TypeError(f"{name} is a {type(value).__name__}, expected an ndarray of integers")
    if value.dtype.kind not in "iu":
        raise TypeError(f"{name} is of dtype {value.dtype}, expected integers")
    return value


def indices(name, value, count, words):
    """Integers from 0 to count - 1 as a new C-contiguous array of intp; ``words`` names the count."""
    value = integers(name, value)
    if value.size and not (value.min() >= 0 and value.max() < count):
        wrong = value[(value < 0) | (value >= count)][0]
        raise ValueError(f"{name} has {wrong}, expected 0 to {words} - 1 = {count - 1}")
    return np.array(value, np.intp, order="C")


def axes(name, value, expected):
    """Exactly these axes: {word: size, or None for any}."""
    sizes = tuple(expected.values())
    pairs = zip(sizes, value.shape, strict=False)
    if value.ndim != len(sizes) or any(size not in (None, found) for size, found in pairs):
        words = [word if size is None else f"{word}={size}" for word, size in expected.items()]
        raise ValueError(f"{name} has shape {value.shape}, expected ({', '.join(words)}{',' * (len(words) == 1)})")


def choice(name, value, allowed):
    """One of the strings or None in ``allowed``."""
    if not (value is None or isinstance(value, str)) or value not in allowed:
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(map(repr, allowed))}")
    return value if value is None else str(value)


def activation(name, value, *, of_rows=False):
    """(name,), (name, alpha) or (name, alpha, beta): every number that this activation has, defaults filled in.

    ``of_rows``: those too that need a whole row.
    """
    from ._core.cells import ACTIVATIONS, ROW_ACTIVATIONS

    known = ROW_ACTIVATIONS if of_rows else ACTIVATIONS
    given = (value,) if isinstance(value, str) else value
    if not isinstance(given, (tuple, list)) or not given or not isinstance(given[0], str):
        raise TypeError(f"{name} is {value!r}, expected a name, (name, alpha) or (name, alpha, beta)")
    if given[0] not in known:
        raise ValueError(f"{name} is {given[0]!r}, expected one of {', '.join(known)}")
    defaults = known[given[0]][1:]
    if len(given) - 1 > len(defaults):
        has = f"has {'alpha alone' if defaults else 'no alpha or beta'}"
        raise ValueError(f"{name} is {value!r}, but {given[0]} {has}")
    numbers = [finite(f"{letter} of {name}", x)
               for letter, x in zip(("alpha", "beta"), given[1:], strict=False)]  # fmt: skip
    return (given[0], *numbers, *defaults[len(numbers):])


def activations(value, roles):
    """An activation for each of ``roles``."""
    if not isinstance(value, (tuple, list)) or len(value) != len(roles):
        raise ValueError(f"activations is {value!r}, expected {len(roles)} of them: ({', '.join(roles)})")
    return tuple(activation(f"activations' {role}", part) for role, part in zip(roles, value, strict=True))


def clip(value, places):
    """{place: limit} from None or a dict of some of ``places``."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise TypeError(f"clip is {value!r}, expected a dict such as {{{places[0]!r}: 3.0}}")
    for place in value:
        if place not in places:
            raise ValueError(f"clip has {place!r}, expected some of {', '.join(map(repr, places))}")
    return {place: number(f"clip[{place!r}]", limit, FLOAT32_TINY, FLOAT32_MAX) for place, limit in value.items()}


def padding(value):
    """"zero", "repeat" or a float."""
    if isinstance(value, str):
        return choice("padding", value, ("zero", "repeat"))
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"padding is {value!r}, expected 'zero', 'repeat' or a number")
    return finite("padding", value)


def lengths_array(lengths, batch, steps, batched, name="lengths"):
    """B integers from 0 to T as intp; a single integer where x is unbatched."""
    if isinstance(lengths, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, expected integers")
    try:
        found = np.asarray(lengths)
    except ValueError:
        raise ValueError(f"{name} is {lengths!r}, expected integers, one per sequence") from None
    if found.dtype.kind not in "iu" and not (found.size == 0 and found.ndim == 1):
        raise TypeError(f"{name} is of dtype {found.dtype}, expected integers")
    if not batched and found.ndim == 0:
        found = found[None]
    if found.shape != (batch,):
        wanted = f"({batch},), one length per sequence" if batched else "a single integer, as x is unbatched"
        raise ValueError(f"{name} has shape {found.shape}, expected {wanted}")
    for row, length in enumerate(found.tolist()):
        if not 0 <= length <= steps:
            raise ValueError(f"{name}[{row}] is {length}, expected 0 to seq_len={steps}")
    return np.array(found, dtype=np.intp)  # a copy: backward needs it, and the caller may change theirs


def _fits(value, dtype, expected):
    """Whether it is an exact ndarray of this dtype and shape, C-contiguous, aligned and writable."""
    return type(value) is np.ndarray and value.dtype is dtype and value.shape == expected and value.flags.carray


def gradient(name, value, dtype, expected):
    """dy or a part of dstate, of exactly this shape."""
    if _fits(value, dtype, expected):
        return value  # nearly always
    value = array(name, value, dtype)
    shape(name, value, expected, f"{expected}, that of the output of forward")
    return rows_contiguous(name, value)


def parameters(given, expected, dtype):
    """{name: array} with exactly the keys and shapes of ``expected``, cast from any float dtype."""
    given = entries("parameter", given, expected, "this layer")
    return {name: floats(f"parameter {name}", given[name], wanted, dtype) for name, wanted in expected.items()}


def entries(kind, given, expected, owner):
    """The mapping ``given`` as a dict, which has exactly the keys of ``expected``: those of ``owner``."""
    try:
        given = dict(given)
    except (TypeError, ValueError):
        came = type(given).__name__
        raise TypeError(f"{kind}s came as a {came}, expected a mapping of names to arrays") from None
    if given.keys() == set(expected):
        return given
    missing = [name for name in expected if name not in given]
    unexpected = [name for name in given if name not in expected]
    parts = [f"missing: {', '.join(missing)}"] if missing else []
    parts += [f"unexpected: {', '.join(map(str, unexpected))}"] if unexpected else []
    raise ValueError(f"{kind} names do not match {owner}; {'; '.join(parts)}")


def floats(name, value, expected, dtype):
    """A C-contiguous array of this shape and dtype, from any float dtype: ``value`` itself, if it is one."""
    if _fits(value, dtype, expected):
        return value  # nearly always
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, which is not supported: fill it")
    try:
        found = np.asarray(value)
    except ValueError:
        raise ValueError(f"{name} is not an array, expected one of shape {expected}") from None
    if found.dtype.kind != "f":
        raise TypeError(f"{name} is of dtype {found.dtype}, expected a float dtype")
    shape(name, found, expected, expected)
    return cast(name, found, dtype)


def named_layers(layers, kind):
    """[(name, layer)] of a list of layers, which are called by their index, or of such pairs."""
    if not isinstance(layers, (list, tuple)):
        raise TypeError(f"layers is a {type(layers).__name__}, expected a list of layers or of (name, layer) pairs")
    if not layers:
        raise ValueError("layers is empty, expected at least one layer")
    found: dict = {}
    for n, entry in enumerate(layers):
        name, layer = entry if isinstance(entry, tuple) and len(entry) == 2 else (str(n), entry)
        if not isinstance(layer, kind):
            raise TypeError(f"layers[{n}] is a {type(layer).__name__}, expected a layer or a (name, layer) pair")
        if not isinstance(name, str):
            raise TypeError(f"layers[{n}] is called {name!r}, expected a string")
        if not name or "." in name:
            raise ValueError(f"layers[{n}] is called {name!r}, expected a name without a dot, and not an empty one")
        if name in found:
            raise ValueError(f"layers[{n}] is called {name!r}, as is a layer before it: expected different names")
        found[name] = layer
    return list(found.items())


def different(layers):
    """That no layer of the (name, layer) pairs comes twice."""
    seen: dict = {}
    for name, layer in layers:
        first = seen.setdefault(id(layer), name)
        if first != name:
            raise ValueError(f"layers {first!r} and {name!r} are the same one, {layer!r}: expected each layer once")


def one_dtype(layers):
    """The dtype of the (name, layer) pairs; None if none has one."""
    names: dict = {}
    for name, layer in layers:
        if layer.dtype is not None:
            names.setdefault(layer.dtype, name)
    if len(names) > 1:
        words = " and ".join(f"{name!r} of {dtype}" for dtype, name in names.items())
        raise ValueError(f"layers are {words}: expected one dtype")
    return next(iter(names), None)


def rows(name, value, count):
    """As many rows as x has."""
    if value.ndim == 0 or len(value) != count:
        raise ValueError(f"{name} has shape {value.shape}, expected ({count}, ...), as x has {count} rows")


def streamable(layer, batch_size):
    """That a layer can be stepped; the number of rows."""
    if not hasattr(layer, "num_layers"):
        raise TypeError(f"layer is a {type(layer).__name__}, expected a recurrent layer such as cylstm.LSTM")
    if layer.bidirectional:
        raise ValueError("a bidirectional layer can not stream: its reverse direction begins at the last step")
    if layer.reverse:
        raise ValueError("a layer with reverse=True can not stream: it begins at the last step")
    rows = 1 if batch_size is None else size("batch_size", batch_size, 0)
    # the state twice, and pointers to it
    bytes_of_row = 2 * sum(width for _, width in layer._widths) * layer.dtype.itemsize + 256
    memory("this stream", rows * layer.num_layers * bytes_of_row)
    return rows


def text(name, value):
    if not isinstance(value, str):
        raise TypeError(f"{name} is {value!r}, expected a string")
    return value


def writable_file(path):
    """That a file can be written there, as it is asked before much work: an OSError now rather than after it."""
    directory = os.path.dirname(os.path.realpath(path))
    problem = None
    if os.path.isdir(path):
        problem = errno.EISDIR
    elif not os.path.isdir(directory):
        problem = errno.ENOENT
    elif not os.access(directory, os.W_OK):  # where a file is written whole, or not at all, beside the old one
        problem = errno.EACCES
    if problem is not None:
        raise OSError(problem, os.strerror(problem), str(path))
