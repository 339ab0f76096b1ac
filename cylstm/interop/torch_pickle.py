"""What the pickles of PyTorch's files hold, as plain data. No unpickler runs, nothing is imported or called by name.

``pickletools`` of the standard library reads the opcodes, one after the other; what stands here does the few of them
that make data. A global is its name, which has to be in a table here, and REDUCE of a name in ``_FUNCTIONS`` is a
function of this file. A dict is its pairs: keys that a file chooses are not hashed (deep tuples overflow the stack,
chosen ones collide).
"""

import pickletools
from typing import Any, NamedTuple

# About ten seconds' worth, and more than any training state has: 10**6 words with their numbers are 3 * 10**6.
MAX_OPCODES = 5_000_000

ADVICE = "save the tensors alone, by torch.save(model.state_dict(), path)"

MAX_AXES = 64  # NumPy's

DTYPES = (
    "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "uint16", "uint32",
    "uint64", "bool", "complex64", "complex128",
)  # fmt: skip

# torch.FloatStorage and so on; the dtype of an untyped one is said by the tensors, and its size in bytes.
_STORAGES = {
    f"torch.{prefix}{name}Storage": dtype
    for prefix in ("", "cuda.")
    for name, dtype in {
        "Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16", "Long": "int64",
        "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool",
        "ComplexFloat": "complex64", "ComplexDouble": "complex128", "Untyped": "uint8",
    }.items()
} | {"torch.storage.UntypedStorage": "uint8"}  # fmt: skip


class Name(str):
    """A global: the name of a class or a function, and no more than that."""

    __slots__ = ()


class Pairs(list):
    """A dict: its (key, value) pairs."""


class Storage(NamedTuple):
    """Where the numbers of tensors are."""

    key: str  # of a file's entry
    dtype: str
    size: int
    view: tuple | None = None  # (first, size) of the elements that are this storage, in the one that the key names


class Tensor(NamedTuple):
    """A view of a storage, not checked; sizes in elements."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple
    strides: tuple


def storage_of(identifier):
    """The Storage that a persistent id says: ("storage", type, key, location, count), and in old files a view."""
    if not isinstance(identifier, tuple) or len(identifier) not in (5, 6) or identifier[0] != "storage":
        raise ValueError("an object outside of the pickle is no storage of numbers")
    _, kind, key, _, size, *view = identifier
    if not isinstance(kind, Name) or kind not in _STORAGES:
        raise ValueError("a storage has no type that is known")
    key, dtype, size = key_of(key), _STORAGES[kind], _size("the size of a storage", size)
    if view and view[0] is not None:
        if not isinstance(view[0], tuple) or len(view[0]) != 3:
            raise ValueError("a view of a storage is not (key, offset, size)")
        return Storage(key, dtype, size, tuple(_size("a view of a storage", part) for part in view[0][1:]))
    return Storage(key, dtype, size)


def key_of(value):
    """A storage's key: a string, or an integer as one."""
    if not isinstance(value, str):
        return str(_size("the key of a storage", value))
    return value


def _size(name, value):
    """A size that a file claims: 0 to 2**63 - 1."""
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError(f"{name} is not an integer from 0 to 2**63 - 1")
    return value


def _sizes(name, value):
    if not isinstance(value, tuple) or len(value) > MAX_AXES:
        raise ValueError(f"{name} is not a tuple of at most {MAX_AXES} sizes")
    return tuple(_size(name, size) for size in value)


def _tensor(storage, offset, shape, strides, *_):
    if not isinstance(storage, Storage):
        raise ValueError("a tensor has no storage")
    sizes = _sizes("the shape of a tensor", shape), _sizes("the strides of a tensor", strides)
    if len(sizes[0]) != len(sizes[1]):
        raise ValueError(f"a tensor has {len(sizes[0])} axes and {len(sizes[1])} strides")
    return Tensor(storage, storage.dtype, _size("the offset of a tensor", offset), *sizes)


def _tensor_of_dtype(storage, offset, shape, strides, requires_grad, hooks, dtype, *_):
    name = dtype.removeprefix("torch.") if isinstance(dtype, Name) else None
    if name not in DTYPES:
        raise ValueError("a tensor has no dtype that is known")
    return _tensor(storage, offset, shape, strides)._replace(dtype=name)


def _parameter(data, *_):
    if not isinstance(data, Tensor):
        raise ValueError("a parameter is not a tensor")
    return data


def _from_type(function, kind, arguments, state):
    """A tensor of a subclass, or with attributes: the tensor alone."""
    if function == "torch._tensor._rebuild_from_type_v2":
        raise ValueError(f"{function} is called with itself")
    return _reduced(function, arguments)


def _dict(pairs=None):
    """Of the list of [key, value] that Python 2 wrote; it is taken over."""
    if pairs is None:
        return Pairs()
    if type(pairs) is not list or any(type(pair) is not list or len(pair) != 2 for pair in pairs):
        raise ValueError("an OrderedDict is not made of pairs")
    made = Pairs(map(tuple, pairs))
    pairs.clear()
    return made


def _members(members):
    if type(members) is not list:
        raise ValueError("a set is not made of a list")
    return members


# A pickle may call one any number of times with the same arguments: none does work that grows with them.
_MAX_ARGUMENTS = 9
_FUNCTIONS = {
    "_codecs.encode": lambda text, encoding: text,  # bytes
    "builtins.frozenset": _members,
    "builtins.set": _members,
    "collections.OrderedDict": _dict,
    "torch.Size": lambda sizes: _sizes("a torch.Size", sizes),
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
    "torch.device": lambda kind, index=None: kind,
}
_NAMES = frozenset(
    (*_FUNCTIONS, *_STORAGES, *(f"torch.{dtype}" for dtype in DTYPES), "torch.Tensor", "torch.nn.parameter.Parameter")
)


def _reduced(function, arguments):
    if not isinstance(function, Name) or function not in _FUNCTIONS:
        raise ValueError("something that is no function is called")
    if not isinstance(arguments, tuple) or len(arguments) > _MAX_ARGUMENTS:
        raise ValueError(f"{function} is called with something that is not a tuple of at most {_MAX_ARGUMENTS}")
    try:
        return _FUNCTIONS[function](*arguments)
    except TypeError:
        raise ValueError(f"{function} is called with arguments that it does not take") from None


class _Machine:
    """The stack of a pickle, and a method for each opcode; ``argument`` is what the opcode carries."""

    def __init__(self, storages):
        self.storages = storages
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def _above_mark(self):
        first = self.marks.pop()
        values = self.stack[first:]
        del self.stack[first:]
        return values

    def push(self, argument):
        self.stack.append(argument)

    def none(self, argument):
        self.stack.append(None)

    def true(self, argument):
        self.stack.append(True)

    def false(self, argument):
        self.stack.append(False)

    def nothing(self, argument):
        pass

    def new_list(self, argument):
        self.stack.append([])

    def new_dict(self, argument):
        self.stack.append(Pairs())

    def mark(self, argument):
        self.marks.append(len(self.stack))

    def tuple_of_mark(self, argument):
        self.stack.append(tuple(self._above_mark()))

    def _tuple(self, count):
        if len(self.stack) < count:
            raise IndexError
        values = tuple(self.stack[-count:])
        del self.stack[-count:]
        self.stack.append(values)

    def tuple_0(self, argument):
        self.stack.append(())

    def tuple_1(self, argument):
        self._tuple(1)

    def tuple_2(self, argument):
        self._tuple(2)

    def tuple_3(self, argument):
        self._tuple(3)

    def _extend(self, values):
        if type(self.stack[-1]) is not list:
            raise ValueError("something is added to what is not a list")
        self.stack[-1].extend(values)

    def append(self, argument):
        self._extend([self.stack.pop()])

    def appends(self, argument):
        self._extend(self._above_mark())

    def _set_items(self, values):
        if type(self.stack[-1]) is not Pairs or len(values) % 2:
            raise ValueError("pairs are added to what is not a dict")
        self.stack[-1].extend(zip(values[::2], values[1::2], strict=True))

    def set_item(self, argument):
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items([key, value])

    def set_items(self, argument):
        self._set_items(self._above_mark())

    def put(self, argument):
        self.memo[argument] = self.stack[-1]

    def memoize(self, argument):
        self.memo[len(self.memo)] = self.stack[-1]

    def get(self, argument):
        self.stack.append(self.memo[argument])

    def name(self, argument):
        module, _, name = argument.partition(" ")
        self._named(module, name)

    def stack_name(self, argument):
        name, module = self.stack.pop(), self.stack.pop()
        if not (isinstance(module, str) and isinstance(name, str)):
            raise ValueError("a global has no name")
        self._named(module, name)

    def _named(self, module, name):
        full = f"{'builtins' if module == '__builtin__' else module}.{name}"
        if full not in _NAMES:
            raise ValueError(f"it holds {full[:200]!r}, no tensor, number, string or plain container: {ADVICE}")
        self.stack.append(Name(full))

    def persistent(self, argument):
        self.storages.append(storage_of(self.stack.pop()))
        self.stack.append(self.storages[-1])

    def reduce(self, argument):
        arguments, function = self.stack.pop(), self.stack.pop()
        self.stack.append(_reduced(function, arguments))

    def build(self, argument):  # the attributes of a state_dict, _metadata
        self.stack.pop()
        if not isinstance(self.stack[-1], (Pairs, Tensor)):
            raise ValueError("something without attributes is given some")


_OPCODES = {
    **dict.fromkeys(
        ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINSTRING",
         "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES"),
        _Machine.push,
    ),
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), _Machine.nothing),
    **dict.fromkeys(("EMPTY_LIST", "EMPTY_SET"), _Machine.new_list),
    **dict.fromkeys(("APPENDS", "ADDITEMS"), _Machine.appends),
    **dict.fromkeys(("TUPLE", "FROZENSET"), _Machine.tuple_of_mark),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _Machine.put),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _Machine.get),
    "NONE": _Machine.none, "NEWTRUE": _Machine.true, "NEWFALSE": _Machine.false, "EMPTY_DICT": _Machine.new_dict,
    "MARK": _Machine.mark, "EMPTY_TUPLE": _Machine.tuple_0, "TUPLE1": _Machine.tuple_1, "TUPLE2": _Machine.tuple_2,
    "TUPLE3": _Machine.tuple_3, "APPEND": _Machine.append, "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items, "MEMOIZE": _Machine.memoize, "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.stack_name, "BINPERSID": _Machine.persistent, "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
}  # fmt: skip


def read(stream, storages=None):
    """The value of the pickle that begins where a stream stands; the stream is left at its end.

    Parameters
    ----------
    stream : io.BytesIO
        Which, asked for more bytes than there are, gives those that there are.
    storages : list, optional
        Gets each :class:`Storage` of the pickle.

    Returns
    -------
    value
        Numbers, strings, bytes, None; lists, also of a set's members; tuples; :class:`Pairs` of a dict;
        :class:`Storage` and :class:`Tensor`; :class:`Name` of a dtype or a class of storages.

    Raises
    ------
    ValueError
        If the pickle is damaged, holds anything else, or has more than ``MAX_OPCODES`` opcodes.

    Examples
    --------
    >>> import io, pickle
    >>> read(io.BytesIO(pickle.dumps({"epoch": 3, "losses": [0.5]}, 2)))
    [('epoch', 3), ('losses', [0.5])]
    """
    machine = _Machine([] if storages is None else storages)
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if count == MAX_OPCODES:
                raise ValueError(f"its pickle has more than {MAX_OPCODES:,} opcodes")
            if opcode.name not in _OPCODES:
                raise ValueError(f"its pickle has the opcode {opcode.name}, which PyTorch does not write for tensors")
            _OPCODES[opcode.name](machine, argument)
        return machine.stack.pop()
    except (IndexError, KeyError):
        raise ValueError("its pickle takes what it has not made") from None
