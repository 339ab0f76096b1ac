"""Models of other frameworks, in and out: a module for each, imported when first used, and without the framework.

Nothing that a file holds is ever executed, and sizes that a file claims are checked against its own before memory is
taken.
"""

from typing import NamedTuple


class Entry(NamedTuple):
    """A layer, or a group of tensors, that a file holds: what ``describe`` of a framework's module lists.

    Examples
    --------
    >>> print(Entry("encoder.lstm", "LSTM", "input_size=40, hidden_size=64, float32"))
    Entry(name='encoder.lstm', kind='LSTM', detail='input_size=40, hidden_size=64, float32', documented='')
    """

    name: str  # as the file has it: "encoder.lstm"
    kind: str  # "LSTM"
    detail: str  # "input_size=40, hidden_size=64, num_layers=2, bidirectional, float32"
    documented: str = ""  # what the file itself says of it in words, where it does
