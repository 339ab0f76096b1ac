"""Arrays of which some axes have a size that the file does not say: what ONNX's operators that move axes make of them.

Knows axes and no layer. Elements are never looked at, so NumPy moves them.
"""

import math
from typing import NamedTuple

import numpy as np

from .onnx_fold import NotConstantError, bounds, filling, shape_part, split_sizes, unsqueezed

# An index that exporters write for the end of an axis, or one above it.
BEYOND = (1 << 31) - 1


class Symbol:
    """The size of an axis that an input decides about; ``size`` is what the file says of it, or None.

    Of an axis whose rows are in another order, ``base`` is the symbol that it had before, and ``key`` tells the order.
    """

    def __init__(self, name, size, base=None, key=None):
        self.name, self.size, self.base, self.key = name, size, base or self, key


class Order(NamedTuple):
    """Places of rows: an order (``key`` None: as they are), or ``inverse``, the way back from it."""

    symbol: Symbol
    key: object
    inverse: bool


class Size:
    """A product of an integer and of symbols, in an array of sizes."""

    def __init__(self, count, symbols):
        self.count, self.symbols = count, symbols

    def __mul__(self, other):
        if isinstance(other, Size):
            return Size(self.count * other.count, self.symbols + other.symbols)
        return Size(self.count * int(other), self.symbols)

    __rmul__ = __mul__

    def __eq__(self, other):
        if isinstance(other, Size):
            return (self.count, self.symbols) == (other.count, other.symbols)
        if other < 0:  # what stands for "as it is" in a shape
            return False
        raise NotConstantError("a size that an input decides about is compared")

    __hash__ = None  # type: ignore[assignment]


class Tensor(NamedTuple):
    """A value that depends on an input of the model, if only by its shape.

    ``axes`` has for each axis None, where its size is that of ``payload``, or the symbols whose product it is, in the
    order of the elements; ``payload`` is of size 1 there. Its elements are names of features, or of ``plain`` the
    values themselves, which are the same along the symbols.
    """

    axes: tuple
    payload: np.ndarray
    plain: bool = False

    @property
    def symbols(self):
        """Those of all axes, in their order."""
        return [symbol for axis in self.axes if axis for symbol in axis]

    def __str__(self):
        sizes = zip(self.axes, self.payload.shape, strict=True)
        return f"({', '.join(str(size) if axis is None else '?' for axis, size in sizes)})"


def of_array(value):
    """A constant as a Tensor."""
    return value if isinstance(value, Tensor) else Tensor((None,) * value.ndim, value, True)


def position(t, axis):
    """An axis counted from the front."""
    rank = len(t.axes)
    if not -rank <= axis < rank:
        raise ValueError(f"there is no axis {axis} of {rank}")
    return axis % rank


def known(t, axis):
    """That the size of an axis is known."""
    if t.axes[axis] is not None:
        raise ValueError(f"it takes part of axis {axis}, whose size an input decides about")
    return axis


def transpose(call, t):
    """A node Transpose."""
    perm = call.attribute("perm", None, list)
    perm = list(range(len(t.axes)))[::-1] if perm is None else perm
    return [t._replace(axes=tuple(t.axes[position(t, n)] for n in perm), payload=t.payload.transpose(perm))]


def squeeze(call, t, axes=None):
    """A node Squeeze."""
    axes = call.integers("axes", axes)
    if axes is None:
        axes = [n for n, axis in enumerate(t.axes) if axis is None and t.payload.shape[n] == 1]
    axes = {position(t, axis) for axis in axes}
    for n in axes:
        if (t.payload.shape[n] if t.axes[n] is None else math.prod(s.size or 0 for s in t.axes[n])) != 1:
            raise ValueError(f"it takes away axis {n}, whose size is not 1")
    kept = tuple(axis for n, axis in enumerate(t.axes) if n not in axes)
    return [t._replace(axes=kept, payload=t.payload.squeeze(tuple(axes)))]


def unsqueeze(call, t, axes=None):
    """A node Unsqueeze."""
    axes = unsqueezed(call, len(t.axes), axes)
    kept = iter(t.axes)
    found = tuple(None if n in axes else next(kept) for n in range(len(t.axes) + len(axes)))
    return [t._replace(axes=found, payload=np.expand_dims(t.payload, tuple(axes)))]


def shape(call, t):
    """A node Shape: integers, and a :class:`Size` where an input decides."""
    sizes = [Size(1, (t.symbol,))] if isinstance(t, Order) else _sizes(t)
    return [simplified(np.array([*sizes, None], object)[:-1][shape_part(call)])]


def _sizes(t):
    """How long each axis is."""
    return [
        size if axis is None else Size(1, tuple(symbol.base for symbol in axis))
        for axis, size in zip(t.axes, t.payload.shape, strict=True)
    ]


def simplified(array):
    """An array of sizes as one of integers, where none of them depends on an input."""
    if array.dtype != object or any(isinstance(size, Size) for size in array.flat):
        return array
    return array.astype(np.int64)


def concat(call, *parts):
    """A node Concat."""
    parts = [of_array(part) for part in parts]
    first = parts[0]
    axis = position(first, call.attribute("axis", None, int))
    for part in parts:
        known(part, axis)
        if part.axes != first.axes or part.plain != first.plain:
            raise ValueError("it puts arrays side by side that do not have the same axes")
    return [first._replace(payload=np.concatenate([part.payload for part in parts], axis))]


def split(call, t, sizes=None):
    """A node Split."""
    axis = known(t, position(t, call.attribute("axis", 0, int)))
    sizes = split_sizes(call, t.payload.shape[axis], sizes)
    return [t._replace(payload=part) for part in np.split(t.payload, np.cumsum(sizes)[:-1], axis)]


def slices(call, t, *arguments):
    """The parts of a node Slice that are none of the whole axis: {axis: slice}."""
    return {
        n: part
        for n, part in enumerate(bounds(call, len(t.axes), *arguments))
        if not _is_whole(part, t.axes[n])
    }


def _is_whole(part, axis):
    """Whether a slice is the whole of an axis whose size an input decides about."""
    if axis is None or part.step not in (None, 1) or part.start not in (None, 0):
        return False
    size = math.prod(symbol.size or 0 for symbol in axis)
    return part.stop is None or part.stop >= (size or BEYOND)


def expand(call, t, target):
    """A node Expand: of a constant too, if the shape depends on an input."""
    t, target = of_array(t), target.tolist()
    rank = max(len(t.axes), len(target))
    axes = (None,) * (rank - len(t.axes)) + t.axes
    payload = t.payload.reshape((1,) * (rank - len(t.axes)) + t.payload.shape)
    target, shape = [1] * (rank - len(target)) + target, list(payload.shape)
    for n, (axis, size) in enumerate(zip(axes, target, strict=True)):
        if axis is not None and not (is_size(size, axis) or is_size(size, ())):
            raise ValueError(f"it makes axis {n} longer, whose size an input decides about")
        if axis is None and isinstance(size, Size):
            if size.count != 1 or shape[n] != 1:
                raise ValueError(f"it makes axis {n}, of size {shape[n]}, longer by a size that an input decides about")
            axes = (*axes[:n], size.symbols, *axes[n + 1 :])
        elif axis is None and size != 1:
            if shape[n] not in (1, size):
                raise ValueError(f"it makes axis {n}, of size {shape[n]}, of size {size}")
            shape[n] = size
    call.take(shape, payload.itemsize)
    return [t._replace(axes=axes, payload=np.broadcast_to(payload, shape).copy())]


def is_size(size, symbols):
    """Whether what a shape says is the product of these symbols."""
    if isinstance(size, Size):
        return size.count == 1 and sorted(map(id, size.symbols)) == sorted(id(symbol.base) for symbol in symbols)
    return bool(size == math.prod(symbol.size or 0 for symbol in symbols))


def tile(call, t, repeats):
    """A node Tile."""
    repeats = repeats.tolist()
    for axis, times in zip(t.axes, repeats, strict=True):
        if axis is not None and times != 1:
            raise ValueError("it repeats along an axis whose size an input decides about")
    call.take([size * times for size, times in zip(t.payload.shape, repeats, strict=True)], t.payload.itemsize)
    return [t._replace(payload=np.tile(t.payload, repeats))]


def constant_of_shape(call, target):
    """A node ConstantOfShape whose shape depends on an input."""
    value = filling(call)
    return expand(call, Tensor((None,) * len(target), np.full((1,) * len(target), value), True), target)


def reshape(call, t, target):
    """A node Reshape."""
    target = target.tolist()
    if not call.attribute("allowzero", 0, int):
        sizes = _sizes(t)
        target = [sizes[n] if isinstance(size, int) and size == 0 else size for n, size in enumerate(target)]
    return [reshaped(t, target)]


def flatten(call, t):
    """A node Flatten."""
    axis = call.attribute("axis", 1, int)
    axis = len(t.axes) if axis == len(t.axes) else position(t, axis)
    return [joined(t, [(0, axis), (axis, len(t.axes))])]


def joined(t, ranges):
    """A Tensor whose axes are made one in each of these ranges."""
    axes, shape = [], []
    for start, end in ranges:
        symbols = [symbol for axis in t.axes[start:end] if axis for symbol in axis]
        size = math.prod(t.payload.shape[start:end])
        if symbols and size != 1:
            raise MixedError("it makes one axis of features and of one whose size an input decides about")
        axes.append(tuple(symbols) or None)
        shape.append(size)
    return t._replace(axes=tuple(axes), payload=t.payload.reshape(shape))


class MixedError(NotConstantError):
    """An axis would be made of one whose size an input decides about, and of features."""


def reshaped(t, target):
    """A Tensor with other axes, whose sizes are integers, one of them perhaps -1, and :class:`Size`.

    Axes of unknown size keep their places among the elements, so that what is between two of them is reshaped by
    itself.
    """
    if sum(_is_less(size) for size in target) > 1 or any(_is_less(size) and size != -1 for size in target):
        raise ValueError(f"it makes the shape {target}")
    parts = []  # symbols, and sizes other than 1
    for axis, size in zip(t.axes, t.payload.shape, strict=True):
        parts += list(axis) if axis is not None else [size] if size != 1 else []
    middle = next((n for n, size in enumerate(target) if _is_less(size)), len(target))
    front = [_taken(parts, size, 0) for size in target[:middle]]
    back = [_taken(parts, size, -1) for size in reversed(target[middle + 1 :])][::-1]
    if middle < len(target):
        front.append(parts)
    elif parts:
        raise ValueError(f"a shape of {target} does not have all elements")
    axes, shape = [], []
    for taken in [*front, *back]:
        symbols, sizes = _sorted(taken)
        if symbols and sizes:
            raise MixedError("it makes one axis of features and of one whose size an input decides about")
        axes.append(tuple(symbols) or None)
        shape.append(math.prod(sizes))
    return t._replace(axes=tuple(axes), payload=t.payload.reshape(shape))


def _is_less(size):
    return isinstance(size, int) and size < 0


def _sorted(parts):
    """(symbols, integers) of a list of both."""
    return [part for part in parts if isinstance(part, Symbol)], [part for part in parts if isinstance(part, int)]


def _taken(parts, size, end):
    """Take what makes an axis of this size off one end of a list of symbols and sizes."""
    symbols, count = (size.symbols, size.count) if isinstance(size, Size) else ((), size)
    taken = []

    def put(part):
        taken.insert(0 if end else len(taken), part)

    rest = list(symbols)
    while rest:
        if not parts or isinstance(parts[end], int) or parts[end].base not in rest:
            raise ValueError("it brings axes into another order, or splits one whose size an input decides about")
        rest.remove(parts[end].base)
        put(parts.pop(end))
    while count > 1 or (count == 1 and not taken and parts and _size(parts[end]) == 1):
        if not taken and parts and _size(parts[end]) == 0:  # a graph that is for one size, which PyTorch writes so
            parts[end].size = count
        here = _size(parts[end]) if parts else 0
        if here == 0 or (count % here and (isinstance(parts[end], Symbol) or here % count)):
            raise ValueError(f"an axis of size {count} can not be made of the ones that are there")
        if here > count:  # it is split: the other part stays
            parts[end] = here // count
            put(count)
            break
        put(parts.pop(end))
        count //= here
    return taken


def _size(part):
    """How long a part is, 0 where the file does not say."""
    return part if isinstance(part, int) else part.size or 0
