"""Every wrong argument is refused at the door: one row per check.

A row is a call and the error it must raise; the pattern names the argument, what came and what was wanted.
After each row everything that the call could have spoilt is as it was.
"""

import functools
import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest

import cylstm
from cylstm import LSTM, Dense, Stream, Tape, validation

T, B, I, H, L = 5, 2, 3, 4, 2  # of the world below  # noqa: E741
SECONDS = 1.0  # a refusal takes microseconds; allocating or touching what is refused here takes far longer


def zeros(*shape):
    return np.zeros(shape, np.float32)


def masked(array):
    return np.ma.MaskedArray(array, mask=np.zeros(array.shape, bool))


def broadcast(*shape):
    """A huge array of no memory: every stride is zero."""
    return np.broadcast_to(np.float32(0), shape)


class World:
    """Layers, streams and recorded tapes in a known state, which a refused call must leave as it is."""

    def __init__(self):
        rng = np.random.default_rng(7)
        self.x = rng.standard_normal((T, B, I), dtype=np.float32)
        self.dy = rng.standard_normal((T, B, H), dtype=np.float32)
        self.state = (zeros(L, B, H) + 0.25, zeros(L, B, H) - 0.5)
        self.lstm = LSTM(I, H, num_layers=L, rng=0)
        self.other = LSTM(I, H, num_layers=L, rng=1)
        self.bidirectional = LSTM(I, H, bidirectional=True, rng=2)
        self.batch_first = LSTM(I, H, batch_first=True, rng=3)
        self.dense = Dense(I, 2, rng=4)
        self.tape, self.dense_tape, self.unbatched_tape = (Tape(seed=1, training=False) for _ in range(3))
        self.lstm.forward(self.x, self.state, tape=self.tape)
        self.lstm.forward(self.x[:, 0], tape=self.unbatched_tape)
        self.dense.forward(self.x, tape=self.dense_tape)
        self.stream = self.lstm.stream()
        self.stream.step(self.x[0, 0])
        self.streams = self.lstm.stream(B)
        self.streams.step(self.x[0])

    def spent_tape(self):
        tape = Tape()
        self.lstm.forward(self.x, tape=tape)
        self.lstm.backward(tape, self.dy)
        return tape

    def changed_state_dict(self, name, value, drop=()):
        return {
            key: array for key, array in (self.lstm.state_dict() | {name: value}).items() if key not in drop
        }

    def edit(self, name, value):
        """Put one value in under writable()."""
        with self.lstm.writable() as p:
            p[name] = value

    def remove(self, name):
        with self.lstm.writable() as p:
            del p[name]

    def picture(self):
        """The bytes of everything (equal bits are promised), and the gradients still on the tapes."""
        arrays = [self.x, self.dy, *self.state]
        arrays += [array for layer in (self.lstm, self.dense) for array in layer.parameters.values()]
        arrays += [*self.stream.state, *self.streams.state]
        arrays += [self.lstm.forward(self.x)[0], self.dense.forward(self.x)]
        arrays += [self.stream.step(self.x[1, 0]), self.streams.step(self.x[1])]
        gradients = [
            self.lstm.backward(self.tape, self.dy),
            self.lstm.backward(self.unbatched_tape, self.dy[:, 0]),
            self.dense.backward(self.dense_tape, zeros(T, B, 2) + 1),
        ]
        return [array.tobytes() for array in arrays], gradients, cylstm.get_num_threads()


@functools.cache
def untouched_picture():
    return World().picture()


@pytest.fixture
def world():
    return World()


def assert_refused(world, call, error, pattern):
    threads = cylstm.get_num_threads()
    began = time.perf_counter()
    with pytest.raises(error) as caught:
        call(world)
    assert time.perf_counter() - began < SECONDS
    assert re.search(pattern, str(caught.value)), f"the message is: {caught.value}"
    bits, gradients, threads_after = world.picture()
    expected_bits, expected_gradients, _ = untouched_picture()
    assert bits == expected_bits
    assert threads_after == threads
    for found, expected in zip(gradients, expected_gradients, strict=True):
        for name, array in expected.parameters.items():
            np.testing.assert_allclose(found.parameters[name], array, rtol=1e-6, atol=1e-6)


def rows(*table):
    """(what is wrong, call, error, pattern) as parameters."""
    return pytest.mark.parametrize(
        ("call", "error", "pattern"), [pytest.param(*row[1:], id=row[0]) for row in table]
    )


def whole(name, came):
    return rf"^{name} is {came}, expected an integer of at least "


@rows(
    ("input_size 0", lambda w: LSTM(0, 4), ValueError, whole("input_size", "0")),
    ("input_size -1", lambda w: LSTM(-1, 4), ValueError, whole("input_size", "-1")),
    ("input_size 2.0", lambda w: LSTM(2.0, 4), TypeError, whole("input_size", r"2\.0")),
    ("input_size '2'", lambda w: LSTM("2", 4), TypeError, whole("input_size", "'2'")),
    ("input_size None", lambda w: LSTM(None, 4), TypeError, whole("input_size", "None")),
    ("input_size True", lambda w: LSTM(True, 4), TypeError, whole("input_size", "True")),
    ("input_size list", lambda w: LSTM([2], 4), TypeError, whole("input_size", r"\[2\]")),
    ("hidden_size 0", lambda w: LSTM(3, 0), ValueError, whole("hidden_size", "0")),
    ("hidden_size 1.5", lambda w: LSTM(3, 1.5), TypeError, whole("hidden_size", r"1\.5")),
    ("hidden_size None", lambda w: LSTM(3, None), TypeError, whole("hidden_size", "None")),
    ("num_layers 0", lambda w: LSTM(3, 4, 0), ValueError, whole("num_layers", "0")),
    ("num_layers 2.0", lambda w: LSTM(3, 4, 2.0), TypeError, whole("num_layers", r"2\.0")),
    ("bias word", lambda w: LSTM(3, 4, bias="double"), ValueError,
     r"bias is 'double', expected True, False or"),
    ("bias None", lambda w: LSTM(3, 4, bias=None), ValueError, "bias is None, expected True, False or"),
    ("bias array", lambda w: LSTM(3, 4, bias=zeros(2)), (TypeError, ValueError),
     "bias is .*, expected True, False"),
    ("batch_first 1", lambda w: LSTM(3, 4, batch_first=1), TypeError,
     "batch_first is 1, expected True or False"),
    ("batch_first None", lambda w: LSTM(3, 4, batch_first=None), TypeError,
     "batch_first is None, expected True"),
    ("bidirectional 'no'", lambda w: LSTM(3, 4, bidirectional="no"), TypeError,
     "bidirectional is 'no', expected"),
    ("dropout -0.1", lambda w: LSTM(3, 4, 2, dropout=-0.1), ValueError,
     r"dropout is -0\.1, expected .*\[0\.0, 1\.0"),
    ("dropout 1.1", lambda w: LSTM(3, 4, 2, dropout=1.1), ValueError,
     r"dropout is 1\.1, expected a number in"),
    ("dropout nan", lambda w: LSTM(3, 4, 2, dropout=np.nan), ValueError,
     "dropout is nan, expected a number in"),
    ("dropout None", lambda w: LSTM(3, 4, 2, dropout=None), TypeError, "dropout is None, expected a number"),
    ("dropout text", lambda w: LSTM(3, 4, 2, dropout="0.5"), TypeError,
     r"dropout is '0\.5', expected a number"),
    ("dropout 10**400", lambda w: LSTM(3, 4, 2, dropout=10**400), ValueError,
     "dropout is 10+, expected a number in"),
    ("proj_size -1", lambda w: LSTM(3, 4, proj_size=-1), ValueError, whole("proj_size", "-1")),
    ("proj_size 1.0", lambda w: LSTM(3, 4, proj_size=1.0), TypeError, whole("proj_size", r"1\.0")),
    ("dtype float16", lambda w: LSTM(3, 4, dtype="float16"), TypeError,
     "dtype is 'float16', expected 'float32' or"),
    ("dtype int32", lambda w: LSTM(3, 4, dtype=np.int32), TypeError,
     "dtype is .*int32.*, expected 'float32' or"),
    ("dtype order", lambda w: LSTM(3, 4, dtype=np.dtype("f4").newbyteorder()), TypeError,
     "native byte order"),
    ("dtype unknown", lambda w: LSTM(3, 4, dtype="single precision"), TypeError,
     "dtype is 'single precision', exp"),
    ("dtype None", lambda w: LSTM(3, 4, dtype=None), TypeError,
     "dtype is None, expected 'float32' or 'float64'"),
    ("rng text", lambda w: LSTM(3, 4, rng="seed"), TypeError, "rng is 'seed', expected"),
    ("rng 1.5", lambda w: LSTM(3, 4, rng=1.5), TypeError, r"rng is 1\.5, expected"),
    ("rng -1", lambda w: LSTM(3, 4, rng=-1), ValueError, "rng is -1, expected"),
    ("unknown option", lambda w: LSTM(3, 4, hidden=2), TypeError, "hidden"),
    ("rng by position", lambda w: LSTM(3, 4, 1, True, False, 0.0, False, 0, "float32"), TypeError,
     "positional"),
)  # fmt: skip
def test_lstm_refuses_a_wrong_argument(world, call, error, pattern):
    assert_refused(world, call, error, pattern)


@rows(
    ("in_features 0", lambda w: Dense(0, 4), ValueError, whole("in_features", "0")),
    ("in_features 1.5", lambda w: Dense(1.5, 4), TypeError, whole("in_features", r"1\.5")),
    ("out_features -3", lambda w: Dense(3, -3), ValueError, whole("out_features", "-3")),
    ("out_features None", lambda w: Dense(3, None), TypeError, whole("out_features", "None")),
    ("bias 'single'", lambda w: Dense(3, 4, bias="single"), TypeError,
     "bias is 'single', expected True or False"),
    ("activation", lambda w: Dense(3, 4, activation="mish"), ValueError,
     "activation is 'mish', expected one of sigmoid, .*, softmax$"),
    ("activation array", lambda w: Dense(3, 4, activation=zeros(2)), (TypeError, ValueError),
     "activation is .*, exp"),
    ("dtype", lambda w: Dense(3, 4, dtype="float16"), TypeError,
     "dtype is 'float16', expected 'float32' or 'float64'"),
    ("rng", lambda w: Dense(3, 4, rng="seed"), TypeError, "rng is 'seed', expected"),
)  # fmt: skip
def test_dense_refuses_a_wrong_argument(world, call, error, pattern):
    assert_refused(world, call, error, pattern)


@rows(
    ("seed -1", lambda w: Tape(seed=-1), ValueError, whole("seed", "-1")),
    ("seed 0.5", lambda w: Tape(seed=0.5), TypeError, whole("seed", r"0\.5")),
    ("seed text", lambda w: Tape(seed="1"), TypeError, whole("seed", "'1'")),
    ("seed 2**64", lambda w: Tape(seed=2**64), ValueError,
     r"seed is 18446744073709551616, expected one below 2\*\*64"),
    ("training 1", lambda w: Tape(training=1), TypeError, "training is 1, expected True or False"),
    ("training None", lambda w: Tape(training=None), TypeError, "training is None, expected True or False"),
)  # fmt: skip
def test_tape_refuses_a_wrong_argument(world, call, error, pattern):
    assert_refused(world, call, error, pattern)


@rows(
    ("0", lambda w: cylstm.set_num_threads(0), ValueError, whole("n", "0")),
    ("-2", lambda w: cylstm.set_num_threads(-2), ValueError, whole("n", "-2")),
    ("1.0", lambda w: cylstm.set_num_threads(1.0), TypeError, whole("n", r"1\.0")),
    ("text", lambda w: cylstm.set_num_threads("2"), TypeError, whole("n", "'2'")),
    ("None", lambda w: cylstm.set_num_threads(None), TypeError, whole("n", "None")),
    ("True", lambda w: cylstm.set_num_threads(True), TypeError, whole("n", "True")),
)  # fmt: skip
def test_set_num_threads_refuses_a_wrong_argument(world, call, error, pattern):
    assert_refused(world, call, error, pattern)


ARRAY = "x is of dtype {}, expected float32: use x.astype"


@rows(
    ("float64", lambda w: w.lstm.forward(w.x.astype("f8")), TypeError, ARRAY.format("float64")),
    ("float16", lambda w: w.lstm.forward(w.x.astype("f2")), TypeError, ARRAY.format("float16")),
    ("integers", lambda w: w.lstm.forward(w.x.astype(int)), TypeError, ARRAY.format("int64")),
    ("objects", lambda w: w.lstm.forward(w.x.astype(object)), TypeError, ARRAY.format("object")),
    ("byte order", lambda w: w.lstm.forward(w.x.astype(np.dtype("f4").newbyteorder())), TypeError,
     ARRAY.format("[<>]f4")),
    ("masked", lambda w: w.lstm.forward(masked(w.x)), TypeError, "x is a masked array, .*fill it"),
    ("list", lambda w: w.lstm.forward(w.x.tolist()), TypeError,
     r"x is a list, expected a float32 ndarray: use np\.as"),
    ("None", lambda w: w.lstm.forward(None), TypeError, "x is a NoneType, expected a float32 ndarray"),
    ("number", lambda w: w.lstm.forward(1.0), TypeError, "x is a float, expected a float32 ndarray"),
    ("rank 0", lambda w: w.lstm.forward(np.array(1, "f4")), ValueError,
     r"x has shape \(\), expected \(seq_len, batch,"),
    ("rank 1", lambda w: w.lstm.forward(w.x[0, 0]), ValueError,
     r"x has shape \(3,\), expected \(seq_len, batch, input"),
    ("rank 4", lambda w: w.lstm.forward(w.x[None]), ValueError, r"x has shape \(1, 5, 2, 3\), expected"),
    ("features", lambda w: w.lstm.forward(zeros(5, 2, 4)), ValueError,
     r"x has shape \(5, 2, 4\), expected \(seq_len, batch, input_size=3\) or \(seq_len, input_size=3\)"),
    ("unbatched features", lambda w: w.lstm.forward(zeros(5, 2)), ValueError,
     r"x has shape \(5, 2\), expected"),
    ("batch first", lambda w: w.batch_first.forward(zeros(5, 2, 4)), ValueError,
     r"x has shape \(5, 2, 4\), expected \(batch, seq_len, input_size=3\)"),
    ("called", lambda w: w.lstm(zeros(5, 2, 4)), ValueError, r"x has shape \(5, 2, 4\), expected"),
)  # fmt: skip
def test_forward_refuses_a_wrong_x(world, call, error, pattern):
    assert_refused(world, call, error, pattern)


PAIR = r"expected a tuple of two arrays \(h, c\)"


@rows(
    ("bare array", lambda w: w.lstm.forward(w.x, zeros(2, L, B, H)), TypeError,
     "state is a ndarray, " + PAIR),
    ("one array", lambda w: w.lstm.forward(w.x, (zeros(L, B, H),)), (TypeError, ValueError),
     "state .*" + PAIR),
    ("three", lambda w: w.lstm.forward(w.x, (*w.state, w.x)), (TypeError, ValueError),
     r"state .*\b3\b.*" + PAIR),
    ("number", lambda w: w.lstm.forward(w.x, 0), TypeError, "state is a int, " + PAIR),
    ("h None", lambda w: w.lstm.forward(w.x, (None, w.state[1])), TypeError,
     "state h is a NoneType, expected a float32"),
    ("c None", lambda w: w.lstm.forward(w.x, (w.state[0], None)), TypeError,
     "state c is a NoneType, expected a float32"),
    ("c list", lambda w: w.lstm.forward(w.x, (w.state[0], w.state[1].tolist())), TypeError,
     "state c is a list"),
    ("h float64", lambda w: w.lstm.forward(w.x, (w.state[0].astype("f8"), w.state[1])), TypeError,
     "state h is of dtype float64, expected float32"),
    ("c float16", lambda w: w.lstm.forward(w.x, (w.state[0], w.state[1].astype("f2"))), TypeError,
     "state c is of dtype float16, expected float32"),
    ("c masked", lambda w: w.lstm.forward(w.x, (w.state[0], masked(w.state[1]))), TypeError,
     "state c is a masked"),
    ("layers", lambda w: w.lstm.forward(w.x, (zeros(1, B, H), w.state[1])), ValueError,
     r"state h has shape \(1, 2, 4\), expected \(num_layers \* num_directions=2, batch=2, hidden_size=4\)"),
    ("batch", lambda w: w.lstm.forward(w.x, (w.state[0], zeros(L, 3, H))), ValueError,
     r"state c has shape \(2, 3, 4\), expected .*batch=2"),
    ("hidden", lambda w: w.lstm.forward(w.x, (zeros(L, B, 5), w.state[1])), ValueError,
     r"state h has shape \(2, 2, 5\), expected .*hidden_size=4"),
    ("rank", lambda w: w.lstm.forward(w.x, (zeros(L, H), zeros(L, H))), ValueError,
     r"state h has shape \(2, 4\), exp"),
    ("flat", lambda w: w.lstm.forward(w.x, (zeros(L * B * H), w.state[1])), ValueError,
     r"state h has shape \(16,\), exp"),
    ("batched for unbatched", lambda w: w.lstm.forward(w.x[:, 0], w.state), ValueError,
     r"state h has shape \(2, 2, 4\), expected .*=2, hidden_size=4\), as x is unbatched"),
    ("directions", lambda w: w.bidirectional.forward(w.x, (zeros(1, B, H), zeros(1, B, H))), ValueError,
     r"state h has shape \(1, 2, 4\), expected \(num_layers \* num_directions=2"),
)  # fmt: skip
def test_forward_refuses_a_wrong_state(world, call, error, pattern):
    assert_refused(world, call, error, pattern)


@rows(
    ("too long", lambda w: w.lstm.forward(w.x, lengths=[5, 6]), ValueError,
     r"lengths\[1\] is 6, expected 0 to seq_len=5"),
    ("negative", lambda w: w.lstm.forward(w.x, lengths=[-1, 5]), ValueError,
     r"lengths\[0\] is -1, expected 0 to seq_len=5"),
    ("unsigned", lambda w: w.lstm.forward(w.x, lengths=np.array([2**63, 1], "u8")), ValueError,
     r"lengths\[0\] is 9223372036854775808, expected 0 to seq_len=5"),
    ("too few", lambda w: w.lstm.forward(w.x, lengths=[5]), ValueError,
     r"lengths has shape \(1,\), expected \(2,\)"),
    ("too many", lambda w: w.lstm.forward(w.x, lengths=[5, 4, 3]), ValueError,
     r"lengths has shape \(3,\), expected \(2,\)"),
    ("rank", lambda w: w.lstm.forward(w.x, lengths=[[5, 5]]), ValueError,
     r"lengths has shape \(1, 2\), expected \(2,\)"),
    ("ragged", lambda w: w.lstm.forward(w.x, lengths=[[1, 2], [3]]), (TypeError, ValueError),
     "lengths .*expected"),
    ("one number", lambda w: w.lstm.forward(w.x, lengths=5), ValueError,
     r"lengths has shape \(\), expected \(2,\)"),
    ("floats", lambda w: w.lstm.forward(w.x, lengths=[5.0, 2.0]), TypeError,
     "lengths is of dtype float64, expected int"),
    ("bools", lambda w: w.lstm.forward(w.x, lengths=[True, False]), TypeError,
     "lengths is of dtype bool, expected int"),
    ("text", lambda w: w.lstm.forward(w.x, lengths=["5", "2"]), TypeError,
     "lengths is of dtype [<>]U1, expected integers"),
    ("2**70", lambda w: w.lstm.forward(w.x, lengths=[2**70, 1]), (TypeError, ValueError),
     "lengths.* expected"),
    ("unbatched, two", lambda w: w.lstm.forward(w.x[:, 0], lengths=[5, 5]), ValueError,
     r"lengths has shape \(2,\), expected a single integer, as x is unbatched"),
    ("unbatched, too long", lambda w: w.lstm.forward(w.x[:, 0], lengths=6), ValueError,
     r"lengths\[0\] is 6, expected 0 to"),
    ("unbatched, float", lambda w: w.lstm.forward(w.x[:, 0], lengths=5.0), TypeError,
     "lengths is of dtype float64"),
    ("batch first", lambda w: w.batch_first.forward(zeros(2, 5, 3), lengths=[5, 6]), ValueError,
     "expected 0 to seq_len=5"),
)  # fmt: skip
def test_forward_refuses_wrong_lengths(world, call, error, pattern):
    assert_refused(world, call, error, pattern)


@rows(
    ("a class", lambda w: w.lstm.forward(w.x, tape=Tape), TypeError,
     r"tape is a type, expected a cylstm\.Tape"),
    ("a dict", lambda w: w.lstm.forward(w.x, tape={}), TypeError, r"tape is a dict, expected a cylstm\.Tape"),
    ("True", lambda w: w.lstm.forward(w.x, tape=True), TypeError, r"tape is a bool, expected a cylstm\.Tape"),
    ("x is wrong", lambda w: w.lstm.forward(zeros(5, 2, 4), tape=w.tape), ValueError, "x has shape"),
    ("state is wrong", lambda w: w.lstm.forward(w.x, 0, tape=w.tape), TypeError, "state is a int"),
    ("lengths are wrong", lambda w: w.lstm.forward(w.x, lengths=[1], tape=w.tape), ValueError,
     "lengths has shape"),
    ("too large", lambda w: w.lstm.forward(broadcast(10**8, 10**9, I), tape=w.tape), MemoryError, ""),
    ("Dense, x is wrong", lambda w: w.dense.forward(zeros(5), tape=w.dense_tape), ValueError, "x has shape"),
)  # fmt: skip
def test_a_refused_forward_leaves_the_tape_as_it_was(world, call, error, pattern):
    assert_refused(world, call, error, pattern)


@rows(
    ("float64", lambda w: w.lstm.backward(w.tape, w.dy.astype("f8")), TypeError,
     "dy is of dtype float64, expected float32"),
    ("float16", lambda w: w.lstm.backward(w.tape, w.dy.astype("f2")), TypeError,
     "dy is of dtype float16, expected float32"),
    ("byte order", lambda w: w.lstm.backward(w.tape, w.dy.astype(np.dtype("f4").newbyteorder())), TypeError,
     "dy is of dtype [<>]f4, expected float32"),
    ("list", lambda w: w.lstm.backward(w.tape, w.dy.tolist()), TypeError,
     "dy is a list, expected a float32 ndarray"),
    ("masked", lambda w: w.lstm.backward(w.tape, masked(w.dy)), TypeError, "dy is a masked array"),
    ("rank", lambda w: w.lstm.backward(w.tape, w.dy[:, 0]), ValueError,
     r"dy has shape \(5, 4\), expected \(5, 2, 4\)"),
    ("steps", lambda w: w.lstm.backward(w.tape, w.dy[1:]), ValueError,
     r"dy has shape \(4, 2, 4\), expected \(5, 2, 4\)"),
    ("units", lambda w: w.lstm.backward(w.tape, zeros(5, 2, 5)), ValueError,
     r"dy has shape \(5, 2, 5\), expected \(5, 2, 4"),
    ("unbatched", lambda w: w.lstm.backward(w.unbatched_tape, w.dy), ValueError,
     r"dy has shape \(5, 2, 4\), expected \(5, 4\)"),
    ("both None", lambda w: w.lstm.backward(w.tape, None), ValueError,
     "dy and dstate are both None, expected at least one"),
    ("dstate array", lambda w: w.lstm.backward(w.tape, w.dy, zeros(2, L, B, H)), TypeError,
     "dstate is a ndarray, " + PAIR),
    ("dstate None", lambda w: w.lstm.backward(w.tape, w.dy, (None, None)), TypeError,
     "dstate h is a NoneType, expected"),
    ("dstate float64", lambda w: w.lstm.backward(w.tape, w.dy, (zeros(L, B, H), np.zeros((L, B, H)))),
     TypeError, "dstate c is of dtype float64, expected float32"),
    ("dstate shape", lambda w: w.lstm.backward(w.tape, None, (zeros(1, B, H), zeros(L, B, H))), ValueError,
     r"dstate h has shape \(1, 2, 4\), expected \(num_layers \* num_directions=2"),
    ("dstate unbatched", lambda w: w.lstm.backward(w.unbatched_tape, None, (zeros(L, 1, H), zeros(L, 1, H))),
     ValueError, r"dstate h has shape \(2, 1, 4\), expected .*as x is unbatched"),
    ("Dense None", lambda w: w.dense.backward(w.dense_tape, None), TypeError,
     "dy is a NoneType, expected a float32 ndarray"),
    ("Dense float64", lambda w: w.dense.backward(w.dense_tape, np.zeros((T, B, 2))), TypeError,
     "dy is of dtype float64"),
    ("Dense shape", lambda w: w.dense.backward(w.dense_tape, zeros(T, B, 3)), ValueError,
     r"dy has shape \(5, 2, 3\), expected \(5, 2, 2\)"),
)  # fmt: skip
def test_backward_refuses_a_wrong_gradient_and_does_not_spend_the_tape(world, call, error, pattern):
    assert_refused(world, call, error, pattern)


@rows(
    ("empty", lambda w: w.lstm.backward(Tape(), w.dy), RuntimeError, "tape is empty or already spent"),
    ("spent", lambda w: w.lstm.backward(w.spent_tape(), w.dy), RuntimeError,
     "tape is empty or already spent"),
    ("another LSTM's", lambda w: w.other.backward(w.tape, w.dy), RuntimeError,
     r"tape was recorded by another layer, LSTM\(3, 4, num_layers=2\)"),
    ("an LSTM's, to Dense", lambda w: w.dense.backward(w.tape, w.dy), RuntimeError,
     r"by another layer, LSTM\("),
    ("a Dense's, to LSTM", lambda w: w.lstm.backward(w.dense_tape, w.dy), RuntimeError,
     r"by another layer, Dense\("),
    ("None", lambda w: w.lstm.backward(None, w.dy), TypeError,
     r"tape is a NoneType, expected a cylstm\.Tape"),
    ("arguments exchanged", lambda w: w.lstm.backward(w.dy, w.tape), TypeError,
     r"tape is a ndarray, expected a cylstm"),
    ("Dense None", lambda w: w.dense.backward(None, w.dy), TypeError,
     r"tape is a NoneType, expected a cylstm\.Tape"),
    ("Dense spent", lambda w: w.dense.backward(Tape(), w.dy), RuntimeError, "tape is empty or already spent"),
)  # fmt: skip
def test_backward_refuses_a_tape_that_does_not_belong_to_the_call(world, call, error, pattern):
    assert_refused(world, call, error, pattern)


def touch(layer):
    with layer.writable():
        pass


@pytest.mark.parametrize("change", [touch, lambda layer: layer.load_state_dict(layer.state_dict())])
@pytest.mark.parametrize(("name", "tape_name", "width"), [("lstm", "tape", H), ("dense", "dense_tape", 2)])
def test_backward_refuses_parameters_that_were_replaced_since_even_by_equal_ones(
    world, change, name, tape_name, width
):
    layer = getattr(world, name)
    change(layer)
    with pytest.raises(RuntimeError, match="parameters were changed between forward and backward"):
        layer.backward(getattr(world, tape_name), zeros(T, B, width))


@rows(
    ("float64", lambda w: w.dense.forward(w.x.astype("f8")), TypeError, ARRAY.format("float64")),
    ("float16", lambda w: w.dense.forward(w.x.astype("f2")), TypeError, ARRAY.format("float16")),
    ("list", lambda w: w.dense.forward(w.x.tolist()), TypeError, "x is a list, expected a float32 ndarray"),
    ("None", lambda w: w.dense.forward(None), TypeError, "x is a NoneType, expected a float32 ndarray"),
    ("masked", lambda w: w.dense.forward(masked(w.x)), TypeError, "x is a masked array"),
    ("rank 0", lambda w: w.dense.forward(np.array(1, "f4")), ValueError,
     r"x has shape \(\), expected \(\.\.\., in_feat"),
    ("features", lambda w: w.dense.forward(zeros(5, 4)), ValueError,
     r"x has shape \(5, 4\), expected \(\.\.\., in_featu"),
    ("no features", lambda w: w.dense.forward(zeros(5, 0)), ValueError, r"x has shape \(5, 0\), expected"),
    ("tape", lambda w: w.dense.forward(w.x, []), TypeError, r"tape is a list, expected a cylstm\.Tape"),
)  # fmt: skip
def test_dense_forward_refuses_a_wrong_argument(world, call, error, pattern):
    assert_refused(world, call, error, pattern)


@rows(
    ("0.5", lambda w: w.lstm.stream(0.5), TypeError, whole("batch_size", r"0\.5")),
    ("-1", lambda w: w.lstm.stream(-1), ValueError, whole("batch_size", "-1")),
    ("text", lambda w: w.lstm.stream("1"), TypeError, whole("batch_size", "'1'")),
    ("True", lambda w: w.lstm.stream(True), TypeError, whole("batch_size", "True")),
    ("bidirectional", lambda w: w.bidirectional.stream(), ValueError,
     "bidirectional layer can not stream: its reverse"),
    ("Stream of -1", lambda w: Stream(w.lstm, -1), ValueError, whole("batch_size", "-1")),
    ("Stream of 2.5", lambda w: Stream(w.lstm, 2.5), TypeError, whole("batch_size", r"2\.5")),
    ("Stream bidirectional", lambda w: Stream(w.bidirectional, None), ValueError,
     "bidirectional layer can not stream"),
    ("Stream of a Dense", lambda w: Stream(w.dense, None), TypeError, "layer is a Dense, expected"),
    ("Stream of None", lambda w: Stream(None, None), TypeError, "layer is a NoneType, expected"),
)  # fmt: skip
def test_stream_refuses_a_wrong_argument(world, call, error, pattern):
    assert_refused(world, call, error, pattern)


def overlapping(shape, out_shape, first):
    """x of ``shape`` and an out of ``out_shape`` that begins ``first`` elements after it in one memory."""
    memory = zeros(64)
    count, out_count = np.prod(shape), np.prod(out_shape)
    return memory[8 : 8 + count].reshape(shape), memory[8 + first : 8 + first + out_count].reshape(out_shape)


def read_only(array):
    array.setflags(write=False)
    return array


@rows(
    ("x float64", lambda w: w.stream.step(np.zeros(I)), TypeError, ARRAY.format("float64")),
    ("x float16", lambda w: w.stream.step(np.zeros(I, "f2")), TypeError, ARRAY.format("float16")),
    ("x byte order", lambda w: w.stream.step(np.zeros(I, np.dtype("f4").newbyteorder())), TypeError,
     ARRAY.format("[<>]f4")),
    ("x list", lambda w: w.stream.step([0.0] * I), TypeError, "x is a list, expected a float32 ndarray"),
    ("x None", lambda w: w.stream.step(None), TypeError, "x is a NoneType, expected a float32 ndarray"),
    ("x masked", lambda w: w.stream.step(masked(zeros(I))), TypeError, "x is a masked array"),
    ("x size", lambda w: w.stream.step(zeros(I + 1)), ValueError,
     r"x has shape \(4,\), expected \(input_size=3,\)"),
    ("x rank", lambda w: w.stream.step(zeros(1, I)), ValueError,
     r"x has shape \(1, 3\), expected \(input_size=3,\)"),
    ("x rank 0", lambda w: w.stream.step(np.array(1, "f4")), ValueError,
     r"x has shape \(\), expected \(input_size=3,\)"),
    ("x of one for many", lambda w: w.streams.step(zeros(I)), ValueError,
     r"x has shape \(3,\), expected \(batch_size=2, input_size=3\)"),
    ("x rows", lambda w: w.streams.step(zeros(3, I)), ValueError,
     r"x has shape \(3, 3\), expected \(batch_size=2, input"),
    ("out float64", lambda w: w.stream.step(zeros(I), np.zeros(H)), TypeError,
     "out is float64, expected .*float32"),
    ("out list", lambda w: w.stream.step(zeros(I), [0.0] * H), TypeError, "out is list, expected an ndarray"),
    ("out size", lambda w: w.stream.step(zeros(I), zeros(H + 1)), ValueError,
     r"out has shape \(5,\), expected \(4,\)"),
    ("out rank", lambda w: w.stream.step(zeros(I), zeros(1, H)), ValueError,
     r"out has shape \(1, 4\), expected \(4,\)"),
    ("out rows", lambda w: w.streams.step(zeros(B, I), zeros(3, H)), ValueError,
     r"out has shape \(3, 4\), expected \(2, 4\)"),
    ("out strided", lambda w: w.stream.step(zeros(I), zeros(2 * H)[::2]), ValueError,
     "out is not .*C-contiguous"),
    ("out Fortran", lambda w: w.streams.step(zeros(B, I), zeros(H, B).T), ValueError,
     "out is not .*C-contiguous"),
    ("out read-only", lambda w: w.stream.step(zeros(I), read_only(zeros(H))), ValueError,
     "out is not .*writable"),
    ("out masked", lambda w: w.stream.step(zeros(I), masked(zeros(H))), (TypeError, ValueError), "out is"),
    ("out is x", lambda w: w.stream.step(*overlapping(I, H, 0)), ValueError,
     "out overlaps x, expected separate memory"),
    ("out after x", lambda w: w.stream.step(*overlapping(I, H, I - 1)), ValueError, "out overlaps x"),
    ("out before x", lambda w: w.stream.step(*overlapping(I, H, 1 - H)), ValueError, "out overlaps x"),
    ("out over rows", lambda w: w.streams.step(*overlapping((B, I), (B, H), B * I - 1)), ValueError,
     "out overlaps x"),
)  # fmt: skip
def test_step_refuses_a_wrong_argument(world, call, error, pattern):
    assert_refused(world, call, error, pattern)


@rows(
    ("float64", lambda w: w.stream.run(np.zeros((T, I))), TypeError, ARRAY.format("float64")),
    ("list", lambda w: w.stream.run([[0.0] * I]), TypeError, "x is a list, expected a float32 ndarray"),
    ("None", lambda w: w.stream.run(None), TypeError, "x is a NoneType, expected a float32 ndarray"),
    ("masked", lambda w: w.stream.run(masked(zeros(T, I))), TypeError, "x is a masked array"),
    ("one step", lambda w: w.stream.run(zeros(I)), ValueError,
     r"x has shape \(3,\), expected \(seq_len, input_size=3\)"),
    ("features", lambda w: w.stream.run(zeros(T, 4)), ValueError,
     r"x has shape \(5, 4\), expected \(seq_len, input_size=3"),
    ("a batch of one", lambda w: w.stream.run(zeros(T, 1, I)), ValueError,
     r"x has shape \(5, 1, 3\), expected \(seq_len, in"),
    ("unbatched", lambda w: w.streams.run(zeros(T, I)), ValueError,
     r"x has shape \(5, 3\), expected \(seq_len, batch_size=2, input_size=3\)"),
    ("rows", lambda w: w.streams.run(zeros(T, 3, I)), ValueError,
     r"x has shape \(5, 3, 3\), expected .*batch_size=2"),
)  # fmt: skip
def test_run_refuses_a_wrong_x(world, call, error, pattern):
    assert_refused(world, call, error, pattern)


@rows(
    ("array", lambda w: w.stream.reset(zeros(2, L, H)), TypeError, "state is a ndarray, " + PAIR),
    ("number", lambda w: w.stream.reset(0), TypeError, "state is a int, " + PAIR),
    ("float64", lambda w: w.stream.reset((zeros(L, H), np.zeros((L, H)))), TypeError,
     "state c is of dtype float64, expected"),
    ("list", lambda w: w.stream.reset((zeros(L, H).tolist(), zeros(L, H))), TypeError,
     "state h is a list, expected"),
    ("batched", lambda w: w.stream.reset((zeros(L, 1, H), zeros(L, 1, H))), ValueError,
     r"state h has shape \(2, 1, 4\), expected \(num_layers \* num_directions=2, hidden_size=4\)"),
    ("unbatched", lambda w: w.streams.reset((zeros(L, H), zeros(L, H))), ValueError,
     r"state h has shape \(2, 4\), expected \(num_layers \* num_directions=2, batch=2, hidden_size=4\)"),
    ("c alone", lambda w: w.streams.reset((zeros(L, B, H), zeros(L, B, H + 1))), ValueError,
     r"state c has shape \(2, 2, 5\), expected .*hidden_size=4"),
)  # fmt: skip
def test_reset_refuses_a_wrong_state(world, call, error, pattern):
    assert_refused(world, call, error, pattern)


def load(world, name, value, drop=()):
    world.lstm.load_state_dict(world.changed_state_dict(name, value, drop))


W, V = "weight_hh_l1", "bias_ih_l0"  # a matrix and a vector of the world's LSTM
TOO_LARGE = np.full(4 * H, 1e39)  # float32 ends at 3.4e38


@rows(
    ("None", lambda w: w.lstm.load_state_dict(None), TypeError,
     "came as a NoneType, expected a mapping of names"),
    ("a number", lambda w: w.lstm.load_state_dict(3), TypeError,
     "came as a int, expected a mapping of names"),
    ("names alone", lambda w: w.lstm.load_state_dict(["weight"]), TypeError,
     "came as a list, expected a mapping of names"),
    ("empty", lambda w: w.lstm.load_state_dict({}), ValueError,
     "missing: weight_ih_l0, weight_hh_l0, bias_ih_l0, .*bias_hh_l1$"),
    ("missing", lambda w: load(w, V, zeros(16), drop=[V, W]), ValueError,
     "missing: bias_ih_l0, weight_hh_l1$"),
    ("unexpected", lambda w: load(w, "weight_ih_l2", zeros(1)), ValueError, "; unexpected: weight_ih_l2$"),
    ("both", lambda w: load(w, "bias", zeros(1), drop=[V]), ValueError,
     "missing: bias_ih_l0; unexpected: bias$"),
    ("a name that is no text", lambda w: load(w, 7, zeros(1)), ValueError, "unexpected: 7$"),
    ("shape", lambda w: load(w, W, zeros(16, 5)), ValueError,
     r"weight_hh_l1 has shape \(16, 5\), expected \(16, 4\)"),
    ("transposed", lambda w: load(w, W, zeros(4, 16)), ValueError,
     r"weight_hh_l1 has shape \(4, 16\), expected \(16, 4\)"),
    ("rank", lambda w: load(w, V, zeros(16, 1)), ValueError,
     r"bias_ih_l0 has shape \(16, 1\), expected \(16,\)"),
    ("ragged", lambda w: load(w, W, [[1.0], [2.0, 3.0]]), (TypeError, ValueError), "weight_hh_l1 .*expected"),
    ("integers", lambda w: load(w, V, np.zeros(16, int)), TypeError,
     "bias_ih_l0 is of dtype int64, expected a float dtype"),
    ("complex", lambda w: load(w, V, np.zeros(16, complex)), TypeError,
     "bias_ih_l0 is of dtype complex128, expected a fl"),
    ("text", lambda w: load(w, V, ["0"] * 16), TypeError,
     "bias_ih_l0 is of dtype [<>]U1, expected a float dtype"),
    ("value None", lambda w: load(w, V, None), TypeError,
     "bias_ih_l0 is of dtype object, expected a float dtype"),
    ("overflow", lambda w: load(w, V, TOO_LARGE), ValueError, "bias_ih_l0 has values too large for float32"),
    ("overflow beside inf", lambda w: load(w, V, np.r_[np.inf, TOO_LARGE[1:]]), ValueError,
     "bias_ih_l0 has values too large"),
    ("Dense", lambda w: w.dense.load_state_dict({"weight": zeros(2, 3)}), ValueError, "missing: bias$"),
)  # fmt: skip
def test_load_state_dict_refuses_what_does_not_fit_and_changes_nothing(world, call, error, pattern):
    assert_refused(world, call, error, pattern)


@rows(
    ("shape", lambda w: w.edit(W, zeros(16, 5)), ValueError,
     r"weight_hh_l1 has shape \(16, 5\), expected \(16, 4\)"),
    ("None", lambda w: w.edit(V, None), TypeError, "bias_ih_l0 is of dtype object, expected a float dtype"),
    ("integers", lambda w: w.edit(V, np.zeros(16, int)), TypeError,
     "bias_ih_l0 is of dtype int64, expected a float"),
    ("overflow", lambda w: w.edit(V, TOO_LARGE), ValueError, "bias_ih_l0 has values too large for float32"),
    ("new name", lambda w: w.edit("bias_l0", zeros(1)), ValueError, "unexpected: bias_l0$"),
    ("name removed", lambda w: w.remove(V), ValueError, "missing: bias_ih_l0$"),
)  # fmt: skip
def test_writable_refuses_on_leaving_what_does_not_fit_and_changes_nothing(world, call, error, pattern):
    assert_refused(world, call, error, pattern)


def tampered(layer, name, value):
    state = layer.__getstate__()
    state["parameters"][name] = value
    type(layer).__new__(type(layer)).__setstate__(state)


@rows(
    ("shape", lambda w: tampered(w.lstm, W, zeros(16, 3)), ValueError,
     r"weight_hh_l1 has shape \(16, 3\), expected \(16, 4"),
    ("dtype", lambda w: tampered(w.lstm, W, np.zeros((16, 4), int)), TypeError,
     "weight_hh_l1 is of dtype int64, expected"),
    ("Dense", lambda w: tampered(w.dense, "weight", zeros(1, 3)), ValueError,
     r"weight has shape \(1, 3\), expected \(2, 3"),
)  # fmt: skip
def test_a_pickle_whose_parameters_do_not_fit_is_refused(world, call, error, pattern):
    assert_refused(world, call, error, pattern)


GB = r"would need [\d,.]+ GB; this machine has [\d,.]+ GB"
HUGE = (10**8, 10**9, 1)  # 10^17 elements: more than any machine holds


@rows(
    ("LSTM(10**9, 10**9)", lambda w: LSTM(10**9, 10**9), MemoryError, "these parameters " + GB),
    ("LSTM(2**62, 2)", lambda w: LSTM(2**62, 2), MemoryError, "these parameters " + GB),
    ("LSTM(2, 2**62)", lambda w: LSTM(2, 2**62), MemoryError, "these parameters " + GB),
    ("LSTM(2**64, 2)", lambda w: LSTM(2**64, 2), MemoryError, "these parameters " + GB),
    ("LSTM(10**200, 10**200)", lambda w: LSTM(10**200, 10**200), MemoryError, "these parameters would need"),
    ("Dense(10**9, 10**9)", lambda w: Dense(10**9, 10**9), MemoryError, "these parameters " + GB),
    ("Dense(2**62, 2)", lambda w: Dense(2**62, 2), MemoryError, "these parameters " + GB),
    ("forward", lambda w: LSTM(1, 1).forward(broadcast(*HUGE)), MemoryError, GB),
    ("forward, 400 GB", lambda w: LSTM(1, 200).forward(broadcast(10**7, 10**4, 1)), MemoryError, GB),
    ("forward, batch first", lambda w: LSTM(1, 1, batch_first=True).forward(broadcast(*HUGE)), MemoryError,
     GB),
    ("forward, unbatched", lambda w: LSTM(1, 1).forward(broadcast(10**17, 1)), MemoryError, GB),
    ("forward, tape", lambda w: LSTM(1, 1).forward(broadcast(*HUGE), tape=Tape()), MemoryError, GB),
    ("forward, wrong shape", lambda w: LSTM(2, 1).forward(broadcast(*HUGE)), ValueError,
     "x has shape .*input_size=2"),
    ("forward, state", lambda w: w.lstm.forward(w.x, (broadcast(*HUGE),) * 2), ValueError,
     "state h has shape"),
    ("backward", lambda w: w.lstm.backward(w.tape, broadcast(*HUGE)), ValueError, "dy has shape"),
    ("Dense.forward", lambda w: Dense(1, 1).forward(broadcast(*HUGE)), MemoryError, GB),
    ("Dense.forward of wide x", lambda w: Dense(10**6, 1).forward(broadcast(10**9, 10**6)), MemoryError, GB),
    ("stream(10**15)", lambda w: w.lstm.stream(10**15), MemoryError, "this stream " + GB),
    ("stream(2**62)", lambda w: w.lstm.stream(2**62), MemoryError, "this stream " + GB),
    ("stream(2**70)", lambda w: w.lstm.stream(2**70), MemoryError, "this stream " + GB),
    ("step", lambda w: w.stream.step(broadcast(10**15)), ValueError,
     r"x has shape \(10+,\), expected \(input_size=3,\)"),
    ("run", lambda w: LSTM(1, 1).stream().run(broadcast(10**17, 1)), MemoryError, GB),
    ("reset", lambda w: w.stream.reset((broadcast(*HUGE),) * 2), ValueError, "state h has shape"),
    ("load_state_dict", lambda w: load(w, W, broadcast(*HUGE)), ValueError, "weight_hh_l1 has shape"),
)  # fmt: skip
def test_what_no_machine_could_hold_is_refused_before_it_is_touched(world, call, error, pattern):
    assert_refused(world, call, error, pattern)


def test_a_number_of_layers_that_no_machine_could_hold_is_refused_at_once():
    """In a process of its own with an end: a list of 4 * 10^12 names would take the machine down."""
    program = "import cylstm\ntry: cylstm.LSTM(2, 2, 10**12)\nexcept MemoryError as error: print(error)"
    command = [sys.executable, "-c", program]
    limit = None
    if os.name == "posix":
        import resource

        def limit():
            resource.setrlimit(resource.RLIMIT_CPU, (3, 3))

    done = subprocess.run(command, capture_output=True, text=True, timeout=60, preexec_fn=limit)
    assert re.search("these parameters " + GB, done.stdout), done.stderr


# Numbers ----------------------------------------------------------------------------------------


@rows(
    ("None", lambda w: validation.numbers("x", [[None], [1.0]]), TypeError, "x is of dtype object, expected numbers"),
    ("text", lambda w: validation.numbers("x", np.array([1, "2"], object)), TypeError, "x is of dtype object"),
    ("too large", lambda w: validation.numbers("x", [[10**400]]), ValueError, "x has values too large for float64"),
    ("a list in it", lambda w: validation.numbers("x", np.array([1, [2]], object)), ValueError, "x is not an array of"),
    ("True", lambda w: validation.number("lr", True, 0, 1), TypeError, "lr is True, expected a number"),
    ("True of NumPy", lambda w: validation.number("lr", np.True_, 0, 1), TypeError, "lr is .*True"),
    ("Dropout(True)", lambda w: cylstm.Dropout(True), TypeError, "p is True, expected a number"),
    ("SGD(lr=True)", lambda w: cylstm.SGD(lr=True), TypeError, "lr is True"),
)
def test_what_is_no_number_is_refused(world, call, error, pattern):
    assert_refused(world, call, error, pattern)


def test_numbers_of_python_are_numbers():
    found = validation.numbers("x", np.array([1, 2.5, True, 2**70], object))
    assert found.dtype == np.float64
    assert found.tolist() == [1.0, 2.5, 1.0, 2.0**70]


def test_advice_is_code_or_names_nothing():
    state = (zeros(L, B, H).astype("f8"), zeros(L, B, H))
    with pytest.raises(TypeError, match=r"^state h is of dtype float64, expected float32: use \.astype\('float32'\)$"):
        LSTM(I, H, L).forward(zeros(T, B, I), state)
    with pytest.raises(TypeError, match=r"^state h is a list, .* use np\.asarray\(\.\.\., dtype='float32'\)$"):
        LSTM(I, H, L).forward(zeros(T, B, I), ([], []))
