"""Sequential: the bits of layers called by hand; what is valid from layer to layer; streams; the surface of a layer."""

import contextlib
import copy
import itertools
import pickle
import sys
import threading

import numpy as np
import pytest

import cylstm
from cylstm import (
    GRU,
    LSTM,
    RNN,
    Activation,
    Dense,
    Dropout,
    Embedding,
    JordanRNN,
    Last,
    LayerNorm,
    Masking,
    Repeat,
    Sequential,
    Tape,
)
from cylstm.testing import TOLERANCES, assert_close, numerical_gradient

N, T, F = 5, 6, 3
LENGTHS = [6, 2, 0, 5, 1]


def normal(*shape, dtype=np.float32, seed=5):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def assert_same_bits(actual, expected):
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    assert actual.tobytes() == expected.tobytes()


def assert_same_states(one, other):
    """Lists of states, of tuples of arrays, of arrays and of None."""
    assert type(one) is type(other)
    if isinstance(one, (list, tuple)):
        for a, b in zip(one, other, strict=True):
            assert_same_states(a, b)
    elif one is not None:
        assert_same_bits(one, other)


def tagger(**options):
    """An output at each step."""
    return Sequential([
        LSTM(F, 4, 2, rng=0, **options), LayerNorm(4, **options), Dense(4, 3, activation="relu", rng=1, **options),
        GRU(3, 4, rng=2, batch_first=True, **options), ("out", Dense(4, 2, activation="softmax", rng=3, **options)),
    ])  # fmt: skip


def classifier(**options):
    """One output per sequence; masks; looks into the future."""
    return Sequential([
        Masking(), LSTM(F, 4, bidirectional=True, rng=0, **options), Dropout(0.5),
        RNN(8, 3, reverse=True, rng=1, **options), Last(), Dense(3, 2, rng=2, **options), Activation("softmax"),
    ])  # fmt: skip


def reader(**options):
    """Of integers; can be streamed."""
    return Sequential([
        Embedding(7, F, mask_zero=True, rng=0, **options), JordanRNN(F, 4, 2, rng=1, **options),
        Sequential([("inner", LSTM(2, 3, rng=2, **options)), Last(), Activation("tanh")]),
        Dense(3, 2, rng=3, **options),
    ])  # fmt: skip


def listener(**options):
    """Of numbers, masked on the way in; can be streamed."""
    return Sequential([
        Masking(-1.0), LSTM(F, 4, 2, rng=0, **options), Dropout(0.5), GRU(4, 3, rng=1, **options), Last(),
        Dense(3, 2, activation="sigmoid", rng=2, **options),
    ])  # fmt: skip


models = pytest.mark.parametrize("make", [tagger, classifier, reader])
streamed = pytest.mark.parametrize("make", [tagger, reader, listener])
copies = pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])


def input_of(make, batch=N, seq_len=T, dtype=np.float32):
    if make is reader:
        return np.random.default_rng(6).integers(0, 7, (batch, seq_len))
    return normal(batch, seq_len, F, dtype=dtype)


# Construction -------------------------------------------------------------------------------------


def test_layers_are_reached_by_index_and_by_name():
    lstm, dense = LSTM(2, 3, rng=0), Dense(3, 1, rng=0)
    model = Sequential([lstm, ("out", dense)])
    assert model.layers == (lstm, dense) == tuple(model) and len(model) == 2
    assert model[0] is model["0"] is lstm and model[-1] is model["out"] is dense
    assert model[:1] == (lstm,)
    assert list(model.parameters) == [f"0.{name}" for name in lstm.parameters] + ["out.weight", "out.bias"]
    with pytest.raises(KeyError, match="there is no layer '1', expected one of '0', 'out'"):
        model["1"]


def test_repr_is_the_call_that_makes_it():
    model = Sequential([LSTM(2, 3), ("out", Dense(3, 1)), Sequential([Activation("tanh")])])
    assert repr(model) == "Sequential([LSTM(2, 3), ('out', Dense(3, 1)), Sequential([Activation('tanh')])])"
    assert repr(eval(repr(model), {name: getattr(cylstm, name) for name in cylstm.__all__})) == repr(model)


def shared():
    lstm = LSTM(2, 2)
    return [lstm, Sequential([lstm])]


MISTAKES = {
    "no list": (3, TypeError, "layers is a int, expected a list of layers or of (name, layer) pairs"),
    "empty": ([], ValueError, "layers is empty, expected at least one layer"),
    "no layer": ([LSTM(2, 2), 3], TypeError, "layers[1] is a int, expected a layer or a (name, layer) pair"),
    "no name": ([(3, LSTM(2, 2))], TypeError, "layers[0] is called 3, expected a string"),
    "dot": ([("a.b", LSTM(2, 2))], ValueError, "layers[0] is called 'a.b', expected a name without a dot"),
    "empty name": ([("", LSTM(2, 2))], ValueError, "layers[0] is called '', expected a name without a dot, and not"),
    "name twice": ([("1", LSTM(2, 2)), LSTM(2, 2)], ValueError, "layers[1] is called '1', as is a layer before it"),
    "layer twice": (shared(), ValueError, "layers '0' and '1.0' are the same one, LSTM(2, 2): expected each"),
    "dtypes": (
        [LSTM(2, 2), ("x", LSTM(2, 2, dtype="float64"))], ValueError,
        "layers are '0' of float32 and 'x' of float64: expected one dtype",
    ),
    "embedding behind": (
        [Last(), Sequential([Embedding(3, 4)])], ValueError,
        "layer '1.0', Embedding(3, 4), is not the first one, and a layer makes no integers",
    ),
    "widths": (
        [LSTM(2, 4, bidirectional=True), ("out", Dense(4, 1))], ValueError,
        "layer 'out', Dense(4, 1), does not take what layer '0', LSTM(2, 4, bidirectional=True), makes: "
        "x has shape (None, None, 8), expected (..., in_features=4)",
    ),
    "widths behind a mask": ([Masking(), Dense(4, 3), Dropout(0.5), Dense(4, 1)], ValueError, "layer '3', Dense(4, 1)"),
    "embedding": ([Embedding(9, 4), LSTM(3, 2)], ValueError, "layer '1', LSTM(3, 2), does"),
    "no time": ([Dense(4, 4), Last(), LSTM(4, 2)], ValueError, "layer '2', LSTM(4, 2), does"),
    "no rows": ([Dense(4, 4), Repeat(3), LSTM(3, 2)], ValueError, "layer '2', LSTM(3, 2), does"),
    "nested": ([LSTM(2, 3), Sequential([Dense(4, 1)])], ValueError, "layer '1', Sequential([Dens"),
    "pair": ([LSTM(2, 3, bidirectional=True, merge=None)], ValueError, "merge=None, so y is a pair: a container"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_layers_that_are_no_model_are_refused_by_name(name):
    layers, kind, message = MISTAKES[name]
    with pytest.raises(kind) as error:
        Sequential(layers)
    assert message in str(error.value)


# Forwards and backwards ---------------------------------------------------------------------------


def by_hand(layers, tapes, x, lengths=None):
    """y and the final states of a plain chain of recurrent, elementwise and Last layers; their tapes are filled."""
    states = []
    for layer, tape in zip(layers, tapes, strict=True):
        state = None
        if hasattr(layer, "num_layers"):
            if layer.batch_first:
                x, state = layer.forward(x, lengths=lengths, tape=tape)
            else:
                x, state = layer.forward(x.swapaxes(0, 1), lengths=lengths, tape=tape)
                x = x.swapaxes(0, 1)
        elif isinstance(layer, Last):
            x = layer.forward(x, lengths, tape=tape)
        else:
            x = layer.forward(x, tape=tape)
        states.append(state)
    return x, states


def backward_by_hand(layers, tapes, dy):
    found = []
    for layer, tape in zip(layers[::-1], tapes[::-1], strict=True):
        swap = hasattr(layer, "num_layers") and not layer.batch_first
        found.append(layer.backward(tape, dy.swapaxes(0, 1) if swap else dy))
        dy = found[-1].dx.swapaxes(0, 1) if swap else found[-1].dx
    return dy, found[::-1]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
@pytest.mark.parametrize("last", [False, True], ids=["all steps", "last"])
def test_forward_and_backward_give_the_bits_of_the_layers_called_by_hand(last, lengths, dtype):
    layers = [*tagger(dtype=dtype), *([Last(), Dense(2, 3, rng=4, dtype=dtype)] if last else [])]
    model, tape = Sequential(layers), Tape(training=False)
    tapes = [Tape(training=False) for _ in layers]
    x = normal(N, T, F, dtype=dtype)
    expected, states = by_hand(layers, tapes, x, lengths)
    for found in (model.forward(x, lengths=lengths), model(x, None, lengths), model(x, lengths=lengths, tape=tape)):
        assert_same_bits(found[0], expected)
        assert_same_states(found[1], states)
    dy = normal(*expected.shape, dtype=dtype, seed=8)
    dx, by_layer = backward_by_hand(layers, tapes, dy)
    gradients = model.backward(tape, dy)
    assert_same_bits(gradients.dx, dx)
    assert_same_states(gradients.dstate, [part.dstate for part in by_layer])
    assert list(gradients.parameters) == list(model.parameters)
    for name, layer, part in zip(model._names, layers, by_layer, strict=True):
        for inner in layer.parameters:
            assert_same_bits(gradients.parameters[f"{name}.{inner}"], part.parameters[inner])


def test_models_without_time_take_rows():
    model = Sequential([Dense(4, 3, activation="tanh", rng=0), Dropout(0.5), Dense(3, 2, rng=1)])
    x = normal(N, 4)
    assert_same_bits(model(x)[0], model[2].forward(model[0].forward(x)))
    assert_same_bits(model(normal(N, T, 4))[0][:, 1], model(normal(N, T, 4)[:, 1])[0])


def test_states_go_in_and_come_out_by_layer():
    model, x = tagger(), normal(N, T, F)
    whole, states = model(x)
    first, between = model(x[:, :2])
    rest, end = model(x[:, 2:], between)
    assert [state is None for state in end] == [False, True, True, False, True]
    assert_same_bits(np.concatenate([first, rest], axis=1), whole)
    assert_same_states(end, states)
    gru = model[3]
    h_0 = normal(1, N, 4)
    y, _ = gru.forward(x.repeat(1, axis=1), h_0)
    assert_same_bits(Sequential([gru])(x, [h_0])[0], y)


@models
def test_a_row_has_the_same_bits_in_any_batch_on_any_number_of_threads(make):
    model, x = make(), input_of(make, 40, 9)
    lengths = np.random.default_rng(3).integers(0, 10, 40)
    whole, states = model(x, lengths=lengths)
    threads = cylstm.get_num_threads()
    try:
        for count in (1, 2, 3):
            cylstm.set_num_threads(count)
            for rows in (slice(0, 40), slice(3, 4), slice(5, 18)):
                y, some = model(x[rows], lengths=lengths[rows])
                assert_same_bits(np.ascontiguousarray(y), np.ascontiguousarray(whole[rows]))
                for a, b in zip(some, states, strict=True):
                    if isinstance(b, tuple):
                        assert_same_bits(np.ascontiguousarray(a[0]), np.ascontiguousarray(b[0][:, rows]))
    finally:
        cylstm.set_num_threads(threads)


@models
def test_padding_reaches_nothing(make):
    model, x = make(), input_of(make)
    y, states = model(x, lengths=LENGTHS)
    other = x.copy()
    for row, length in enumerate(LENGTHS):
        other[row, length:] = 1 if make is reader else np.nan
    z, others = model(other, lengths=LENGTHS)
    for row, length in enumerate(LENGTHS):
        assert_same_bits(z[row, :length] if z.ndim == 3 else z[row], y[row, :length] if y.ndim == 3 else y[row])
    assert_same_states(others, states)


@pytest.mark.parametrize("make", [classifier, reader])
def test_a_padded_batch_that_is_masked_is_the_sequences_by_themselves(make):
    """Masking and mask_zero say what lengths would; holes in the middle are as if they were not there."""
    model, x = make(), input_of(make)
    valid = np.random.default_rng(9).random((N, T)) < 0.6
    valid[0], valid[1] = True, False
    x = np.where(valid, np.maximum(x, 1), 0) if make is reader else np.where(valid[..., None], x, np.float32(0))
    y, states = model(x)
    for row in range(N):
        if not valid[row].any():  # Last gives zeros where there is nothing
            tail = model["3"] if make is reader else Sequential(model[5:])
            zeros = np.tanh(np.zeros((1, 3), np.float32))
            expected = tail(zeros)
            assert_same_bits(y[row : row + 1], expected[0] if isinstance(expected, tuple) else expected)
            continue
        alone, state = model(x[row : row + 1, valid[row]])
        assert_same_bits(y[row : row + 1], alone)
        h = states[1][0][:, row] if isinstance(states[1], tuple) else states[1][:, row]
        h_alone = state[1][0][:, 0] if isinstance(state[1], tuple) else state[1][:, 0]
        assert_same_bits(np.ascontiguousarray(h), np.ascontiguousarray(h_alone))


def test_lengths_and_masks_together_leave_what_both_leave():
    model, x = classifier(), input_of(classifier)
    x[:, 1] = 0
    short = x.copy()
    for row, length in enumerate(LENGTHS):
        short[row, length:] = 0
    assert_same_bits(model(x, lengths=LENGTHS)[0], model(short)[0])


GRADIENT_MODELS = {
    "masking, bidirectional, last": lambda: Sequential([
        Masking(), LSTM(2, 2, bidirectional=True, rng=0, dtype="float64"), Last(), Dense(4, 2, rng=1, dtype="float64"),
    ]),
    "embedding, norm, every step": lambda: Sequential([
        Embedding(4, 2, mask_zero=True, rng=0, dtype="float64"), GRU(2, 2, rng=1, dtype="float64", batch_first=True),
        LayerNorm(2, dtype="float64"), Sequential([RNN(2, 2, rng=2, dtype="float64"), Activation("sigmoid")]),
    ]),
    "repeat": lambda: Sequential([
        Dense(2, 2, activation="tanh", rng=0, dtype="float64"), Repeat(3), LSTM(2, 2, rng=1, dtype="float64"),
    ]),
}  # fmt: skip


@pytest.mark.parametrize("name", GRADIENT_MODELS)
def test_gradients_agree_with_central_differences(name):
    model = GRADIENT_MODELS[name]()
    rng = np.random.default_rng(7)
    lengths = [4, 2, 3]
    if "embedding" in name:
        x = rng.integers(0, 4, (3, 4))
    elif "masking" in name:
        x = rng.standard_normal((3, 4, 2))
        x[1, 0] = x[2, 2] = 0
    else:
        x, lengths = rng.standard_normal((3, 2)), None
    tape = Tape()
    y, states = model.forward(x, lengths=lengths, tape=tape)
    dy = rng.standard_normal(y.shape)

    def random_like(state):
        if isinstance(state, (list, tuple)):
            return type(state)(map(random_like, state))
        return None if state is None else rng.standard_normal(state.shape)

    def product(one, other):
        if isinstance(one, (list, tuple)):
            return sum(map(product, one, other))
        return 0.0 if one is None else float((one * other).sum())

    def loss(x=x, states=None):
        y, states_n = model.forward(x, states, lengths=lengths)
        return product(y, dy) + product(states_n, dstates)

    dstates = random_like(states)
    gradients = model.backward(tape, dy, dstates)
    central = TOLERANCES[np.dtype("float64")].central

    if "embedding" in name:
        assert gradients.dx is None
    else:
        nudged = numerical_gradient(lambda v: loss(v), x)
        if "masking" in name:  # a masked step that is nudged is masked no more: its gradient is zero by definition
            nudged[(x == 0).all(axis=-1)] = 0
        assert_close(gradients.dx, nudged, central, "dx")
    for parameter, value in model.parameters.items():

        def with_parameter(v, parameter=parameter):
            with model.writable() as p:
                p[parameter] = v
            return loss()

        expected = numerical_gradient(with_parameter, value)
        with_parameter(value)
        assert_close(gradients.parameters[parameter], expected, central, parameter)
    n = next(n for n, state in enumerate(states) if state is not None and not isinstance(state, list))
    first = states[n][0] if isinstance(states[n], tuple) else states[n]

    def with_h_0(h_0):
        start = [None] * len(model)
        start[n] = (h_0, np.zeros_like(states[n][1])) if isinstance(states[n], tuple) else h_0
        return loss(states=start)

    dh_0 = gradients.dstate[n][0] if isinstance(gradients.dstate[n], tuple) else gradients.dstate[n]
    assert_close(dh_0, numerical_gradient(with_h_0, np.zeros_like(first)), central, "dh_0")


def test_states_alone_may_have_a_gradient():
    """An encoder: nobody looks at y."""
    for others in ([], [Dense(4, 2, rng=1)], [Sequential([Last()])]):
        model, tape, x = Sequential([GRU(F, 4, rng=0), *others]), Tape(), normal(N, T, F)
        y, states = model.forward(x, tape=tape)
        dstates = [np.ones_like(states[0]), *[None] * len(others)]
        found = model.backward(tape, None, dstates)
        model.forward(x, tape=tape)
        expected = model.backward(tape, np.zeros(y.shape, y.dtype), dstates)
        assert_same_bits(np.ascontiguousarray(found.dx), np.ascontiguousarray(expected.dx))
        assert np.abs(found.dx).max() > 0.01


def test_gradients_add_and_scale_with_the_states_of_layers():
    model, tape, x = tagger(), Tape(), normal(N, T, F)
    y, _ = model.forward(x, tape=tape)
    g = model.backward(tape, np.ones_like(y))
    total = g + 2.0 * g
    assert_same_bits(total.dstate[0][1], g.dstate[0][1] + 2 * g.dstate[0][1])
    assert total.dstate[1] is None
    assert_same_bits(total.parameters["out.bias"], g.parameters["out.bias"] + 2 * g.parameters["out.bias"])


# Tapes --------------------------------------------------------------------------------------------


def test_the_parts_of_a_tape_have_seeds_of_their_own_and_follow_its_calls():
    tape = Tape(seed=3)
    seeds = [tape.part(n).seed for n in range(50)] + [tape.part(0).part(n).seed for n in range(50)]
    assert len({*seeds, 3}) == 101 and all(0 <= seed < 1 << 64 for seed in seeds)
    # the first two numbers of SplitMix64's stream from state 0, as its authors' program prints them
    assert [Tape(seed=0).part(n).seed for n in range(2)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]
    assert [Tape(seed=3).part(n).seed for n in range(3)] == seeds[:3]
    assert Tape(seed=4).part(0).seed != seeds[0]
    tape.calls, tape.training = 7, False
    part = tape.part(0)
    assert part is tape.part(0) and not part.training
    part.begin()
    assert part.calls == 7


def test_masks_are_decided_by_the_seed_and_the_call_of_the_one_tape():
    model = Sequential([LSTM(F, 4, 2, dropout=0.5, rng=0), Dropout(0.5), Sequential([Dropout(0.5)])])
    x, tape = normal(N, T, F), Tape(seed=1)
    first, second = (model.forward(x, tape=tape)[0] for _ in range(2))
    again = Tape(seed=1)
    assert_same_bits(model.forward(x, tape=again)[0], first)
    resumed = pickle.loads(pickle.dumps(again))
    assert_same_bits(model.forward(x, tape=resumed)[0], second)
    assert (first != second).any()
    outer = model[1].forward(np.ones((N, T, 4)), tape=tape.part(1))
    inner = model[2][0].forward(np.ones((N, T, 4)), tape=tape.part(2).part(0))
    assert (outer != inner).any()
    assert_same_bits(model.forward(x, tape=Tape(seed=1, training=False))[0], model(x)[0])


def test_a_wrong_gradient_spends_no_tape():
    model, tape, x = tagger(), Tape(), normal(N, T, F)
    y, states = model.forward(x, tape=tape)
    wrong = [
        ((None,), ValueError, "dy and dstates are both None"),
        ((y[:2],), ValueError, r"dy has shape \(2, 6, 2\), expected \(5, 6, 2\)"),
        ((y.astype("f8"),), TypeError, "dy is of dtype float64"),
        ((y, states[:2]), ValueError, "dstates has 2 entries, expected 5, one per layer"),
        ((y, 3), TypeError, "dstates is a int, expected a list with one entry per layer"),
        ((y, [states[3], None, None, None, None]), TypeError, r"dstates\[0\] is a ndarray, expected a tuple"),
        ((y, [None, states[0], None, None, None]), ValueError, r"dstates\[1\] is a tuple, expected None: LayerNorm"),
    ]
    for arguments, kind, message in wrong:
        with pytest.raises(kind, match=message):
            model.backward(tape, *arguments)
    model.backward(tape, y, states)
    with pytest.raises(RuntimeError, match="already spent"):
        model.backward(tape, y)


@pytest.mark.parametrize("changed", ["0", "out"])
def test_a_layer_that_changed_since_forward_is_found_before_any_tape_is_spent(changed):
    inner = tagger()
    model, tape, x = Sequential([inner]), Tape(), normal(N, T, F)
    y, _ = model.forward(x, tape=tape)
    before = inner[changed].state_dict()
    with inner[changed].writable():
        pass
    with pytest.raises(RuntimeError, match="changed between forward and backward"):
        model.backward(tape, y)
    for n in range(len(inner)):
        assert tape.part(0).part(n)._record is not None
    inner[changed].load_state_dict(before)


def test_a_tape_belongs_to_the_model_that_filled_it():
    one, other, tape, x = tagger(), tagger(), Tape(), normal(N, T, F)
    y, _ = one.forward(x, tape=tape)
    with pytest.raises(RuntimeError, match="recorded by another layer"):
        other.backward(tape, y)
    one[0].forward(x.swapaxes(0, 1), tape=tape)
    with pytest.raises(RuntimeError, match="recorded by another layer"):
        one.backward(tape, y)
    with pytest.raises(TypeError, match=r"tape is a int, expected a cylstm\.Tape"):
        one.forward(x, tape=3)
    with pytest.raises(TypeError, match=r"tape is a int, expected a cylstm\.Tape"):
        one.backward(3, y)


X_MISTAKES = {
    "axes": (tagger, normal(T, F), ValueError, "x has shape (6, 3), expected (batch, seq_len, features=3)"),
    "width": (classifier, normal(N, T, 4), ValueError, "x has shape (5, 6, 4), expected (batch, seq_len, features=3)"),
    "list": (tagger, [[[0.0] * F]], TypeError, "x is a list, expected a float32 ndarray"),
    "dtype": (classifier, normal(N, T, F, dtype="f8"), TypeError, "x is of dtype float64, expected float32"),
    "floats": (reader, normal(N, T), TypeError, "x is of dtype float32, expected integers"),
    "integers": (reader, np.ones((N, T, 1), int), ValueError, "x has shape (5, 6, 1), expected (batch, seq_len)"),
    "index": (reader, np.full((N, T), 7), ValueError, "x has 7, expected 0 to num_embeddings - 1 = 6"),
    "rows": (
        lambda: Sequential([Dense(4, 2)]), normal(N, 3), ValueError,
        "x has shape (5, 3), expected (batch, seq_len, features=4) or (batch, features=4)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", X_MISTAKES)
def test_an_x_that_does_not_fit_is_told_what_would(name):
    make, x, kind, message = X_MISTAKES[name]
    with pytest.raises(kind) as error:
        make().forward(x)
    assert message in str(error.value)


def test_states_and_lengths_that_do_not_fit_are_told_what_would():
    model, x = tagger(), normal(N, T, F)
    _, states = model(x)
    with pytest.raises(ValueError, match="states has 1 entries, expected 5, one per layer"):
        model(x, states[:1])
    with pytest.raises(ValueError, match=r"states\[0\] h has shape \(2, 5, 4\), expected .*batch=2"):
        model(x[:2], states)
    with pytest.raises(ValueError, match=r"states\[0\]\[0\] is a ndarray, expected None: Last\(\) has no state"):
        Sequential([Sequential([Last()])])(x, [[x]])
    with pytest.raises(ValueError, match=r"lengths\[1\] is 7, expected 0 to seq_len=6"):
        model(x, lengths=[1, 7, 2, 3, 4])
    with pytest.raises(ValueError, match=r"lengths is given, but x of shape \(5, 3\) has no time axis"):
        Sequential([Dense(F, 2)])(normal(N, F), lengths=LENGTHS)


# Parameters ---------------------------------------------------------------------------------------


def test_parameters_are_a_snapshot_that_can_not_be_written():
    model = reader()
    parameters = model.parameters
    assert "2.inner.weight_ih_l0" in parameters
    with pytest.raises(ValueError, match="read-only"):
        parameters["3.bias"][0] = 1
    with pytest.raises(TypeError):
        parameters["3.bias"] = np.zeros(2, np.float32)
    before = parameters["3.bias"].copy()
    with model[3].writable() as p:
        p["bias"][:] = 9
    assert_same_bits(parameters["3.bias"], before)
    assert model.parameters["3.bias"].tolist() == [9, 9]


def test_writable_changes_all_layers_or_none():
    model = reader()
    before = model.state_dict()
    for wrong in (np.zeros(3, np.float32), np.zeros(2, np.int32)):
        with pytest.raises((ValueError, TypeError)), model.writable() as p:
            p["0.weight"][:] = 0
            p["3.bias"] = wrong
    with pytest.raises(KeyError), model.writable() as p:
        p["0.weight"][:] = 0
        raise KeyError
    for name, value in before.items():
        assert_same_bits(model.parameters[name], value)
    with model.writable() as p:
        p["0.weight"][:] = 0
        p["2.inner.bias_ih_l0"][:] = 1
    assert not model[0].parameters["weight"].any() and model[2][0].parameters["bias_ih_l0"].all()


@contextlib.contextmanager
def between_all_bytecodes(action):
    """What a thread or a signal handler could do there."""

    def trace(frame, event, argument):
        frame.f_trace_opcodes = True
        action()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def test_all_layers_change_at_once_and_are_read_at_once():
    model, seen, number = Sequential([Dense(2, 2, rng=n) for n in range(4)]), [], itertools.count(1)

    def biases(parameters):
        return {float(value[0]) for name, value in parameters.items() if name.endswith("bias")}

    def write():
        value = next(number)
        with model.writable() as p:
            for name in p:
                p[name][...] = value

    write()
    with between_all_bytecodes(lambda: seen.append(biases(model.parameters))):
        write()
    assert {1.0} in seen and {2.0} in seen and all(len(found) == 1 for found in seen)
    with between_all_bytecodes(write):
        parameters = model.parameters
    assert len(biases(parameters)) == 1 and next(number) > 10


def test_writers_of_models_that_share_layers_in_another_order_do_not_wait_for_each_other():
    a, b = Dense(2, 2, rng=0), Dense(2, 2, rng=1)
    one, other = Sequential([a, b]), Sequential([b, a])
    done = []

    def write(model):
        for _ in range(300):
            with model.writable() as p:
                p["0.bias"] += 1
                p["1.bias"] += 1
        done.append(model)

    before = a.parameters["bias"].copy()
    threads = [threading.Thread(target=write, args=(model,), daemon=True) for model in (one, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(done) == 2
    np.testing.assert_allclose(a.parameters["bias"], before + 600, rtol=1e-5)


def test_a_thread_inside_writable_of_a_layer_is_told_so_by_the_model_and_the_other_way_round():
    model = tagger()
    for outer, inner in ((model, model[0]), (model[4], model)):
        with outer.writable(), pytest.raises(RuntimeError, match="already inside"), inner.writable():
            pass
    with model.writable():
        pass


def test_state_dicts_are_strict_and_cast():
    model, other = tagger(), tagger()
    with other.writable() as p:
        for value in p.values():
            value[...] = 0.5
    model.load_state_dict({name: value.astype("float64") for name, value in other.state_dict().items()})
    assert_same_bits(model.parameters["3.weight_hh_l0"], other.parameters["3.weight_hh_l0"])
    broken = other.state_dict()
    broken["4.bias"] = broken.pop("out.bias")
    with pytest.raises(ValueError, match=r"missing: out\.bias; unexpected: 4\.bias"):
        model.load_state_dict(broken)
    with pytest.raises(ValueError, match=r"parameter out\.bias has shape \(3,\)"):
        model.load_state_dict(other.state_dict() | {"out.bias": np.zeros(3)})


def test_an_optimiser_takes_a_model_as_one_layer():
    layers, model = list(tagger()), tagger()
    tapes, tape, x = [Tape(training=False) for _ in layers], Tape(training=False), normal(N, T, F)
    by_layer, as_one = cylstm.Adam(layers, lr=0.1), cylstm.Adam([model], lr=0.1)
    for _ in range(2):
        y, _ = by_hand(layers, tapes, x)
        by_layer.step(backward_by_hand(layers, tapes, y - 1)[1])
        z, _ = model.forward(x, tape=tape)
        assert_same_bits(z, y)
        as_one.step([model.backward(tape, z - 1)])
    for name, value in Sequential([*layers[:4], ("out", layers[4])]).parameters.items():
        assert_same_bits(model.parameters[name], value)


def test_an_optimiser_leaves_frozen_layers_of_a_model_as_they_are():
    model, tape, x = reader(), Tape(training=False), input_of(reader)
    model[2].trainable = False
    optimiser, before = cylstm.Adam([model], lr=0.1), model.state_dict()
    frozen = model[2][0]._store.snapshot
    y, _ = model.forward(x, tape=tape)
    optimiser.step([model.backward(tape, np.ones_like(y))])
    assert model[2][0]._store.snapshot is frozen  # so that nothing is packed again
    for name, value in model.parameters.items():
        assert (value == before[name]).all() == name.startswith("2.")


def test_trainable_is_asked_of_the_layers_and_set_for_all():
    model = reader()
    assert model.trainable and list(model._trainable_names()) == list(model.parameters)
    model[2].trainable = False
    assert model.trainable and not model[2][0].trainable
    assert [name for name in model.parameters if name not in model._trainable_names()] == [
        f"2.inner.{name}" for name in model[2][0].parameters
    ]
    assert Sequential([*model]).layers[2][0].trainable is False  # a new container leaves the layers as they are
    model.trainable = False
    assert not any(layer.trainable for layer in model) and not list(model._trainable_names())


@copies
def test_a_copy_has_the_same_bits_and_a_life_of_its_own(duplicate):
    model, x = reader(), input_of(reader)
    model[1].trainable = False
    twin = duplicate(model)
    y, states = model(x)
    with model.writable() as p:
        p["3.bias"] += 1
    z, others = twin(x)
    assert_same_bits(z, y)
    assert_same_states(others, states)
    assert repr(twin) == repr(model) and [layer.trainable for layer in twin] == [True, False, True, True]
    assert_same_bits(twin.parameters["0.weight"], model.parameters["0.weight"])
    with twin.writable() as p:
        p["0.weight"] += 1


def test_a_pickle_of_another_version_is_refused():
    state = reader().__getstate__() | {"version": 99}
    with pytest.raises(ValueError, match="this Sequential was pickled with version 99"):
        Sequential.__new__(Sequential).__setstate__(state)


# Streams ------------------------------------------------------------------------------------------


def chunk_of(make, batch_size, seq_len=T):
    """Time-major, without masked steps."""
    x = input_of(make, 1 if batch_size is None else batch_size, seq_len).swapaxes(0, 1).copy()
    if make is reader:
        x[x == 0] = 1
    return x[:, 0] if batch_size is None else x


def outputs_of_prefixes(model, x):
    """What forward gives for the first step, the first two, ...: time-major x, one batch axis."""
    found = []
    for t in range(len(x)):
        y, _ = model(x[: t + 1].swapaxes(0, 1))
        found.append(y[:, -1] if y.ndim == 3 else y)
    return np.stack(found)


@streamed
@pytest.mark.parametrize("batch_size", [None, 1, 3])
def test_steps_and_chunks_have_the_bits_of_forward(make, batch_size):
    model, x = make(), chunk_of(make, batch_size)
    batched = x if batch_size is not None else x[:, None]
    expected = outputs_of_prefixes(model, batched)
    expected = expected if batch_size is not None else expected[:, 0]
    stream = model.stream(batch_size)
    assert_same_bits(np.stack([stream.step(x_t) for x_t in x]), expected)
    _, states = model(batched.swapaxes(0, 1))
    for cuts in ([], [1, 4]):
        chunks = model.stream(batch_size)
        assert_same_bits(np.concatenate([chunks.run(part) for part in np.split(x, cuts)]), expected)
        assert_same_states(chunks.state, stream.state)
    if batch_size is not None:
        assert_same_states(stream.state, states)
    mixed = model.stream(batch_size)
    out = np.full_like(expected[0], np.nan)
    assert_same_bits(mixed.run(x[:2]), expected[:2])
    assert mixed.step(x[2], out) is out
    assert_same_bits(out, expected[2])
    assert mixed.run(x[:0]).shape == (0, *expected.shape[1:])
    assert_same_bits(mixed.run(x[3:]), expected[3:])


@pytest.mark.parametrize("make", [reader, listener])
@pytest.mark.parametrize("batch_size", [None, 1, 4])
def test_a_masked_step_holds_what_is_behind_the_mask_and_repeats_the_output(make, batch_size):
    model, seq_len = make(), 12
    x = chunk_of(make, batch_size, seq_len)
    valid = np.random.default_rng(2).random(x.shape[: 1 if batch_size is None else 2]) < 0.5
    valid[0] = valid[4] = False
    valid[6] = True
    x[~valid] = 0 if make is reader else -1
    batched, seen = (x[:, None], valid[:, None]) if batch_size is None else (x, valid)
    rows = []
    for row in range(seen.shape[1]):  # each row by itself, without its masked steps
        ys = outputs_of_prefixes(model, batched[seen[:, row], row][:, None])[:, 0]
        before = np.cumsum(seen[:, row])
        rows.append(np.where(before[:, None] > 0, ys[before - 1], np.float32(0)))
    expected = np.stack(rows, axis=1)
    expected = expected[:, 0] if batch_size is None else expected
    stream = model.stream(batch_size)
    assert_same_bits(np.stack([stream.step(x_t) for x_t in x]), expected)
    for cuts in ([], [1, 5, 6]):
        chunks = model.stream(batch_size)
        assert_same_bits(np.concatenate([chunks.run(part) for part in np.split(x, cuts)]), expected)
        assert_same_states(chunks.state, stream.state)
    out = np.full_like(expected[0], np.nan)
    held = np.full_like(x[0], 0 if make is reader else -1)
    assert stream.step(held, out) is out
    assert_same_bits(out, expected[-1])


def test_layers_in_front_of_a_mask_go_on():
    model = Sequential([RNN(1, 1, rng=3), Activation("relu"), Masking(), GRU(1, 3, rng=1)])
    x = normal(30, 1)
    front = model[1].forward(model[0].forward(x)[0])
    masked = ~front.any(axis=1)
    assert 3 < masked.sum() < 27
    stream = model.stream()
    ys = np.stack([stream.step(x_t) for x_t in x])
    before = np.concatenate([np.zeros((1, 3), np.float32), ys[:-1]])
    assert ((ys == before).all(axis=1) == masked).all()
    _, states = model(x[None])
    assert_same_bits(stream.state[0], states[0][:, 0])
    assert_same_bits(stream.state[3], states[3][:, 0])
    chunks = model.stream()
    assert_same_bits(chunks.run(x), ys)
    assert_same_states(chunks.state, stream.state)


def test_a_step_that_one_of_two_masks_holds_is_held():
    model = Sequential([Masking(np.nan), RNN(1, 1, rng=3), Activation("relu"), Masking(), GRU(1, 2, rng=1)])
    x = normal(20, 4, 1)
    x[np.random.default_rng(1).random((20, 4)) < 0.3] = np.nan
    stream, chunks = model.stream(4), model.stream(4)
    ys = np.stack([stream.step(x_t) for x_t in x])
    assert_same_bits(chunks.run(x), ys)
    _, states = model(x.swapaxes(0, 1))
    assert_same_states(stream.state, states)
    assert_same_states(chunks.state, states)
    assert 0 < (ys[1:] == ys[:-1]).all(axis=2).mean() < 1


@pytest.mark.parametrize("empty", ["initial", "zero"])
def test_a_chunk_that_is_masked_whole_keeps_the_state(empty):
    stream = Sequential([Masking(), LSTM(F, 2, rng=0, empty=empty)]).stream(2)
    stream.step(normal(2, F))
    before = stream.state
    stream.run(np.zeros((3, 2, F), np.float32))
    assert_same_states(stream.state, before)


def test_a_step_that_fails_in_a_later_layer_takes_back_those_before_it():
    model = listener()
    for batch_size, shape in ((None, (F,)), (2, (2, F))):
        stream = model.stream(batch_size)
        stream.step(normal(*shape))
        before, held = stream.state, stream._get()[1].copy()
        right = np.zeros((*shape[:-1], 2), np.float32)
        frozen = right.copy()
        frozen.flags.writeable = False
        for x, out in (
            (normal(*shape), right[..., :1]),
            (normal(*shape), right.astype("f8")),
            (normal(*shape), frozen),
            (np.full(shape, -1, np.float32), right.astype("f8")),
            (normal(*shape)[..., :2], None),
            (normal(*shape, dtype="f8"), None),
            ([0.0] * F, None),
        ):
            with pytest.raises((ValueError, TypeError)):
                stream.step(x, out)
            assert_same_states(stream.state, before)
            assert_same_bits(stream._get()[1], held)
        with pytest.raises(ValueError, match=r"x has shape .*, expected .*features=3"):
            stream.run(normal(4, *shape)[..., :2])
        with pytest.raises(TypeError, match="x is of dtype float64"):
            stream.run(normal(4, *shape, dtype="f8"))
        assert_same_states(stream.state, before)


def test_a_run_that_fails_in_a_later_layer_changes_nothing(monkeypatch):
    model = tagger()
    stream = model.stream()
    stream.step(normal(F))
    before = stream.state

    def fail(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(model["out"], "_pass", fail, raising=False)
        with pytest.raises(KeyboardInterrupt):
            stream.run(normal(4, F))
    assert_same_states(stream.state, before)
    stream.step(normal(F))  # not busy for ever


def test_new_parameters_count_from_the_next_step():
    model, x = tagger(), normal(4, F)
    stream = model.stream()
    stream.run(x[:2])
    state = stream.state
    with model.writable() as p:
        for value in p.values():
            value *= 2
    y = stream.step(x[2])
    fresh = model.stream()
    fresh.reset(state)
    assert_same_bits(fresh.step(x[2]), y)


@pytest.mark.parametrize("batch_size", [None, 2])
def test_a_stream_is_reset_to_zeros_or_to_a_state_all_of_it_or_nothing(batch_size):
    model, x = listener(), chunk_of(listener, batch_size)
    stream = model.stream(batch_size)
    y = stream.run(x)
    state = stream.state
    stream.reset()
    assert_same_bits(stream.run(x), y)
    before = stream.state
    for wrong in (state[:3], [None, state[1], None, state[3][..., :1], None, None], 3):
        with pytest.raises((ValueError, TypeError)):
            stream.reset(wrong)
        assert_same_states(stream.state, before)
    more = stream.run(x)
    stream.reset(state)
    assert_same_bits(stream.run(x), more)
    stream.reset([None, None, None, state[3], None, None])
    assert not stream.state[1][0].any()
    assert_same_bits(stream.state[3], state[3])
    masked = np.full_like(x[0], -1)
    assert not stream.step(masked).any()  # the output of the step before is forgotten too


@copies
@pytest.mark.parametrize("batch_size", [None, 2])
def test_a_copy_of_a_stream_goes_on_by_itself(batch_size, duplicate):
    model, x = listener(), chunk_of(listener, batch_size)
    stream = model.stream(batch_size)
    stream.run(x)
    twin = duplicate(stream)
    assert repr(twin) == repr(stream) == f"{model!r}.stream({'' if batch_size is None else batch_size})"
    assert (twin.model is model) == (duplicate is copy.copy)
    masked = np.full_like(x[0], -1)
    assert_same_bits(twin.step(masked), stream.step(masked))
    assert_same_bits(twin.run(x), stream.run(x))
    assert_same_states(twin.state, stream.state)
    with pytest.raises(ValueError, match="this stream was pickled with version 99"):
        rebuild, arguments = stream.__reduce__()
        rebuild(99, *arguments[1:])


def test_layers_that_can_not_stream_are_named():
    for layers, message in (
        ([LSTM(2, 2, bidirectional=True)], r"layer '0', LSTM\(2, 2, bidirectional=True\): a bidirectional "),
        ([Dense(2, 2), Sequential([("back", GRU(2, 2, reverse=True))])], r"layer '1\.back', GRU.*: a layer with re"),
        ([Dense(2, 2), Repeat(2)], r"layer '1', Repeat\(2\): "),
        ([Masking()], "a stream with a Masking needs a layer that knows the features of y"),
    ):
        with pytest.raises(ValueError, match=message):
            Sequential(layers).stream()
    with pytest.raises(ValueError, match="batch_size is -1"):
        tagger().stream(-1)


def test_a_second_thread_in_a_stream_gets_an_error():
    stream = tagger().stream()
    stream._enter()
    for call in (lambda: stream.step(normal(F)), lambda: stream.run(normal(2, F)), stream.reset, lambda: stream.state):
        with pytest.raises(RuntimeError, match="another thread is inside this stream"):
            call()
    stream._leave()
    stream.step(normal(F))


def test_models_without_numbers_stream_too():
    x = normal(4, 3, F)
    for layers in ([Last()], [Dropout(0.5)], [Activation("tanh"), Last()]):
        stream = Sequential(layers).stream(3)
        y = stream.run(x)
        assert_same_bits(y, np.stack([stream.step(x_t) for x_t in x]))
        assert not np.shares_memory(y, x) and stream.state == [None] * len(layers)
    assert_same_bits(Sequential([Last()]).stream(3).run(x), x)


# Many rows ----------------------------------------------------------------------------------------


@models
@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_predict_has_the_bits_of_forward_whatever_the_batches(make, batch_size, monkeypatch):
    monkeypatch.setattr("cylstm.sequential.BATCH_NUMBERS", 0)
    model, x = make(), input_of(make, 7)
    lengths = [6, 0, 3, 1, 2, 6, 5]
    for more in ({}, {"lengths": lengths}):
        expected = np.ascontiguousarray(model(x, **more)[0])
        for given in (x, x.tolist(), x.astype("f8"), x.astype(object), np.asfortranarray(x)):
            y = model.predict(given, batch_size, **more)
            assert_same_bits(y, expected)
            assert y.flags.c_contiguous
    assert model.predict(x[:0]).shape == (0, *expected.shape[1:])


def test_batches_are_shared_out_evenly_and_small_rows_make_large_ones(monkeypatch):
    model, sizes = Sequential([Dense(2, 10, rng=0)]), []
    run = model._pass
    monkeypatch.setattr(model, "_pass", lambda x, *more: (sizes.append(len(x)), run(x, *more))[1])
    model.predict(np.zeros((1000, 2)), batch_size=32)
    monkeypatch.setattr("cylstm.sequential.BATCH_NUMBERS", 400)
    model.predict(np.zeros((90, 2)), batch_size=32)
    model.predict(np.zeros((90, 2)), batch_size=89)
    assert sizes == [1000, 30, 30, 30, 45, 45]


PREDICT_MISTAKES = {
    "ragged": (tagger, [[[0.0] * F], [[0.0] * F] * 2], ValueError, "sequences of different lengths are padded"),
    "words": (tagger, [[["a"] * F]], TypeError, "x is of dtype <U1, expected numbers"),
    "masked": (tagger, np.ma.ones((1, 2, F)), TypeError, "x is a masked array"),
    "complex": (tagger, np.ones((1, 2, F), complex), TypeError, "x is of dtype complex128, expected numbers"),
    "too large": (tagger, np.full((1, 2, F), 1e300), ValueError, "x has values too large for float32"),
    "fractions": (reader, [[1.0, 1.5]], ValueError, "x has 1.5, expected integers"),
    "not a number": (reader, [[1.0, np.nan]], ValueError, "x has nan, expected integers"),
    "axes": (tagger, [[0.0] * F], ValueError, "x has shape (1, 3), expected (batch, seq_len, features=3)"),
}


@pytest.mark.parametrize("name", PREDICT_MISTAKES)
def test_predict_says_what_it_can_not_convert(name):
    make, x, kind, message = PREDICT_MISTAKES[name]
    with pytest.raises(kind) as error:
        make().predict(x)
    assert message in str(error.value)


def test_predict_without_a_dtype_keeps_that_of_floats():
    model = Sequential([Activation("tanh")])
    assert model.predict(normal(2, 3, dtype="f8")).dtype == "f8"
    assert model.predict([[1, 2]]).dtype == "f4"


def test_evaluate_is_the_loss_and_the_metrics_of_all_rows_at_once(monkeypatch):
    monkeypatch.setattr("cylstm.sequential.BATCH_NUMBERS", 0)
    model, x, rng = tagger(), normal(7, T, F), np.random.default_rng(1)
    target, lengths = rng.integers(0, 2, (7, T)), [6, 0, 3, 1, 2, 6, 5]
    y, _ = model(x)
    for steps in ({}, {"lengths": lengths}):
        for weight in (None, rng.random(7), rng.random((7, T))):
            found = model.evaluate(
                x.tolist(), target.tolist(), "sparse_categorical_crossentropy", ["accuracy"], 3, **steps,
                sample_weight=weight,
            )  # fmt: skip
            where = {**steps, "sample_weight": weight, "batch_first": True}
            loss, _ = cylstm.losses.sparse_categorical_crossentropy(y, target, **where)
            accuracy = cylstm.metrics.accuracy(y, target, **where)
            assert found == {"loss": pytest.approx(float(loss), rel=1e-6), "accuracy": pytest.approx(accuracy)}
    assert model.evaluate(x, np.zeros((7, T, 2)), None, ["rmse"], 2) == {
        "rmse": pytest.approx(cylstm.metrics.rmse(y, np.zeros((7, T, 2))), rel=1e-6)
    }


def test_evaluate_leaves_out_what_the_model_masks():
    model = Sequential([Masking(), Activation("linear")])
    x, y = normal(4, T, 1), normal(4, T, 1, seed=9)
    x[0, 2:] = x[3, 1] = 0
    valid = x[..., 0] != 0
    expected = float(((x[valid] - y[valid]).astype(float) ** 2).mean())
    assert model.evaluate(x, y, "mse") == {"loss": pytest.approx(expected, rel=1e-6)}


def test_evaluate_says_what_does_not_fit():
    model, x = tagger(), normal(4, T, F)
    with pytest.raises(ValueError, match=r"y has shape \(3,\), expected \(4, \.\.\.\), as x has 4 rows"):
        model.evaluate(x, [0, 1, 0], "mse")
    with pytest.raises(ValueError, match=r"sample_weight has shape \(5,\), expected \(4, \.\.\.\), as x has 4 rows"):
        model.evaluate(x, np.zeros((4, T, 2)), "mse", sample_weight=np.ones(5))
    with pytest.raises(ValueError, match="loss is 'mean', expected one of"):
        model.evaluate(x, np.zeros((4, T, 2)), "mean")


# Summary ------------------------------------------------------------------------------------------


def test_the_summary_counts_parameters_as_the_layers_hold_them():
    """Figures that Keras gives for the same layers; PyTorch's two biases add 4H to an LSTM."""
    model = Sequential([
        LSTM(126, 64, bias="single"), LSTM(64, 128, bias="single"), LSTM(128, 64, bias="single"), Last(), Dense(64, 64),
        Dense(64, 3),
    ])  # fmt: skip
    summary = model.summary()
    assert [row.parameters for row in summary.rows] == [48_896, 98_816, 49_408, 0, 4160, 195]
    assert summary.total == sum(value.size for value in model.parameters.values()) == 201_475
    assert Sequential([LSTM(126, 64)]).summary().total == 48_896 + 4 * 64
    small = Sequential([LSTM(3, 4, bias="single"), Last(), Dense(4, 2)]).summary()
    assert (small.rows[0].parameters, small.total) == (128, 138)


def test_the_summary_names_layers_shapes_and_what_is_frozen():
    model = reader()
    model[2].trainable = False
    summary = model.summary()
    assert summary.rows[2] == ("2.inner", "LSTM", (None, None, 3), 84, 0)
    assert (summary.total, summary.trainable, summary.frozen) == (21 + 38 + 84 + 8, 67, 84)
    assert str(summary).splitlines() == [
        "layer             output shape  parameters",
        "------------------------------------------",
        "0 (Embedding)     (N, T, 3)             21",
        "1 (JordanRNN)     (N, T, 2)             38",
        "2.inner (LSTM)    (N, T, 3)             84",
        "2.1 (Last)        (N, 3)                 0",
        "2.2 (Activation)  (N, 3)                 0",
        "3 (Dense)         (N, 2)                 8",
        "------------------------------------------",
        "total 151, trainable 67, frozen 84",
    ]
    assert "(N, ?)" in str(Sequential([Last(), Activation("relu")]).summary())
    assert "(N, T, 2)" in str(Sequential([Dense(3, 2)]).summary())


def test_a_model_begins_with_the_default_states_of_its_layers():
    one, other = cylstm.LSTM(3, 4, rng=0), cylstm.GRU(4, 2, 2, rng=1)
    model = cylstm.Sequential([one, cylstm.Sequential([cylstm.Masking(9.0), other])])
    rng = np.random.default_rng(0)
    h, c, both = (rng.standard_normal(shape).astype(np.float32) for shape in ((1, 4), (1, 4), (2, 2)))
    x = rng.standard_normal((3, 5, 3)).astype(np.float32)
    rows = [part[:, None].repeat(3, axis=1) for part in (h, c, both)]
    expected, _ = model.forward(x, [tuple(rows[:2]), [None, rows[2]]])
    zeros, _ = model.forward(x)
    one.default_state, other.default_state = (h, c), both
    np.testing.assert_array_equal(model.forward(x)[0], expected)
    np.testing.assert_array_equal(model.predict(x), expected)
    stream = model.stream(3)
    np.testing.assert_array_equal(stream.run(x.swapaxes(0, 1)).swapaxes(0, 1), expected)
    stream.reset()
    np.testing.assert_array_equal(stream.step(x[:, 0]), expected[:, 0])
    stream.reset([None, [None, np.zeros((2, 3, 2), np.float32)]])
    np.testing.assert_array_equal(stream.state[0][1][0], c.repeat(3, 0))
    assert not stream.state[1][1].any()
    one.default_state = other.default_state = None
    np.testing.assert_array_equal(model.forward(x)[0], zeros)


def test_a_gradient_that_is_not_given_is_zero_whatever_the_default_state():
    model = cylstm.Sequential([cylstm.GRU(3, 4, rng=0), cylstm.Final(cylstm.LSTM(4, 2, rng=1))])
    x, tape = np.ones((2, 5, 3), np.float32), cylstm.Tape()
    default = np.full((1, 2), 0.5, np.float32)
    model[1].layer.default_state = default, default
    y, _ = model.forward(x, tape=tape)
    found = model.backward(tape, y).dx
    model[1].layer.default_state = None
    start = np.full((1, 2, 2), 0.5, np.float32)
    model.forward(x, [None, (start, start)], tape=tape)
    np.testing.assert_array_equal(model.backward(tape, y).dx, found)
