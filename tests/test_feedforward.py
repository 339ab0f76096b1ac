"""Layers without a state, by numbers: forward, backward, one step, what containers ask of them, what they refuse."""

import copy
import math
import pickle

import numpy as np
import pytest

import cylstm
from cylstm import (
    LSTM,
    Activation,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    Last,
    LayerNorm,
    Masking,
    Repeat,
    Reverse,
    Sequential,
    Tape,
    reference,
)
from cylstm._core import cells
from cylstm.steps import Steps
from cylstm.testing import TOLERANCES, assert_close, gradcheck, numerical_gradient

N, T, F = 3, 4, 5
NAN = math.nan
DTYPES = ["float32", "float64"]
# Every activation, those that have numbers with numbers of their own too.
SPECS = [
    *cells.ROW_ACTIVATIONS, ("leaky_relu", 0.3), ("thresholded_relu", 0.5), ("affine", 2.0, -0.5),
    ("scaled_tanh", 1.5, 0.5), ("hard_sigmoid", 0.4, 0.3), ("elu", 0.7),
]  # fmt: skip

# name: (the layer of a dtype, an x for it)
LAYERS = {
    "Dense": (lambda dtype: Dense(F, 2, activation=("elu", 0.5), dtype=dtype, rng=0), (N, T, F)),
    "LayerNorm": (lambda dtype: varied(LayerNorm(F, dtype=dtype)), (N, T, F)),
    "Activation": (lambda dtype: Activation("softmax"), (N, T, F)),
    "Dropout": (lambda dtype: Dropout(0.5), (N, T, F)),
    "Masking": (lambda dtype: Masking(0.5), (N, T, F)),
    "Last": (lambda dtype: Last(), (N, T, F)),
    "Repeat": (lambda dtype: Repeat(2), (N, F)),
    "Reverse": (lambda dtype: Reverse(), (N, T, F)),
    "Flatten": (lambda dtype: Flatten(), (N, T, F)),
}
every_layer = pytest.mark.parametrize(("make", "shape"), LAYERS.values(), ids=LAYERS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def normal(*shape, dtype="float32", seed=5):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def varied(layer):
    """With parameters that differ from each other."""
    with layer.writable() as p:
        for seed, value in enumerate(p.values()):
            value[:] = normal(*value.shape, dtype=value.dtype, seed=seed)
    return layer


def assert_same_bits(actual, expected):
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    assert actual.tobytes() == expected.tobytes()


# What all of them share ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "Dense(3, 4, activation=('leaky_relu', 0.5))", "Dense(3, 4, activation='linear')", "Embedding(7, 3)",
        "Embedding(7, 3, mask_zero=True, dtype='float64')", "LayerNorm(4)", "LayerNorm(4, eps=0.001, dtype='float64')",
        "Activation('tanh')", "Activation(('affine', 2.0, 0.0))", "Dropout(0.25)", "Masking()", "Masking(value=-1.0)",
        "Last()", "Repeat(3)", "Reverse()", "Reverse(keep_mask=True)", "Flatten()",
    ],
)  # fmt: skip
def test_the_repr_is_the_call_that_makes_the_layer(text):
    assert repr(eval(text, vars(cylstm) | {name: getattr(cylstm, name) for name in cylstm.__all__})) == text


@pytest.mark.parametrize("duplicate", [lambda layer: pickle.loads(pickle.dumps(layer)), copy.deepcopy, copy.copy])
@every_layer
def test_a_duplicate_gives_the_same_bits(make, shape, duplicate):
    layer, x = make("float32"), normal(*shape)
    other = duplicate(layer)
    assert repr(other) == repr(layer)
    assert_same_bits(other.forward(x), layer.forward(x))


def test_a_duplicate_of_an_embedding_has_its_table():
    embedding = Embedding(4, 3, mask_zero=True, rng=0)
    other = pickle.loads(pickle.dumps(embedding))
    assert other.mask_zero
    assert_same_bits(other.parameters["weight"], embedding.parameters["weight"])


@every_dtype
@every_layer
def test_y_and_gradients_have_the_dtype_of_x(make, shape, dtype):
    layer, tape = make(dtype), Tape(0)
    y = layer.forward(normal(*shape, dtype=dtype), tape=tape)
    gradients = layer.backward(tape, y)
    assert {y.dtype, gradients.dx.dtype, *(a.dtype for a in gradients.parameters.values())} == {np.dtype(dtype)}
    assert gradients.dx.shape == shape
    assert gradients.dstate is None


@every_layer
def test_every_gradient_agrees_with_central_differences(make, shape):
    gradcheck(make("float64"), normal(*shape, dtype="float64"), tape=lambda: Tape(seed=3))


@every_layer
def test_strided_and_read_only_arrays_give_the_bits_of_a_copy(make, shape):
    layer, tape = make("float64"), Tape(0)
    x = normal(*shape, 2, dtype="float64")[..., 0]
    x.setflags(write=False)
    y = layer.forward(x)
    assert_same_bits(y, layer.forward(x.copy()))
    dy = normal(*y.shape[::-1], dtype="float64").T
    layer.forward(x, tape=Tape(0))
    layer.forward(x, tape=tape)
    actual = layer.backward(tape, dy)
    tape.calls = 0
    layer.forward(x, tape=tape)
    expected = layer.backward(tape, dy.copy())
    assert_same_bits(actual.dx, expected.dx)
    for name, gradient in expected.parameters.items():
        assert_same_bits(actual.parameters[name], gradient)


@every_layer
def test_a_batch_of_none_is_legal(make, shape):
    layer, tape = make("float32"), Tape(0)
    y = layer.forward(np.zeros((0, *shape[1:]), np.float32), tape=tape)
    gradients = layer.backward(tape, y)
    assert gradients.dx.shape == (0, *shape[1:])
    assert not any(gradient.any() for gradient in gradients.parameters.values())


@pytest.mark.parametrize("layer", [Activation("tanh"), Activation("softmax"), Dropout(0.5), Masking(), Last()], ids=str)
def test_no_features_are_legal(layer):
    tape, x = Tape(), np.empty((2, 3, 0), np.float32)
    y = layer.forward(x, tape=tape)
    assert y.size == 0
    assert layer.backward(tape, y).dx.shape == x.shape
    assert layer._stream_part(2).step(x[:, 0]).shape == (2, 0)


@every_layer
def test_y_shares_no_memory_with_x_nor_dx_with_dy(make, shape):
    layer, tape, x = make("float32"), Tape(0, training=False), normal(*shape)
    y = layer.forward(x, tape=tape)
    assert not np.shares_memory(x, y)
    assert not np.shares_memory(x, layer.forward(x))
    assert not np.shares_memory(y, layer.backward(tape, y).dx)


@every_layer
def test_what_is_done_to_x_and_y_after_forward_does_not_reach_backward(make, shape):
    layer, x = make("float64"), normal(*shape, dtype="float64")
    results = []
    for spoil in (False, True):
        tape, given = Tape(0), x.copy()
        y = layer.forward(given, tape=tape)
        dy = normal(*y.shape, dtype="float64", seed=1)
        if spoil:
            y[:] = given[:] = NAN
        results.append(layer.backward(tape, dy).dx)
    assert_same_bits(*results)


@every_layer
def test_a_tape_is_spent_by_backward_and_kept_by_a_refused_one(make, shape):
    layer, tape = make("float32"), Tape()
    y = layer.forward(normal(*shape), tape=tape)
    with pytest.raises(ValueError, match="dy has shape"):
        layer.backward(tape, y[:1])
    layer.backward(tape, y)
    with pytest.raises(RuntimeError, match="already spent"):
        layer.backward(tape, y)


@every_layer
def test_the_shape_of_y_is_known_before_it_is_made(make, shape):
    layer = make("float32")
    assert layer._output_shape(shape) == layer.forward(normal(*shape)).shape
    unknown = layer._output_shape((*[None] * (len(shape) - 1), F))
    assert unknown == tuple(None if n in (N, T, T * F) else n for n in layer._output_shape(shape))


# Dense and Activation -----------------------------------------------------------------------------


@every_dtype
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_dense_and_activation_agree_with_the_reference(spec, dtype):
    dense, tape = Dense(F, 19, activation=spec, dtype=dtype, rng=0), Tape()
    x, dy = normal(N, T, F, dtype=dtype), normal(N, T, 19, dtype=dtype, seed=6)
    wanted, cache = reference.dense_forward(x, **dense.parameters, activation=spec)
    forward, backward = TOLERANCES[np.dtype(dtype)][:2]
    assert_close(dense.forward(x, tape=tape), wanted, forward)
    expected, actual = reference.dense_backward(cache, dy), dense.backward(tape, dy)
    assert_close(actual.dx, expected.dx, backward)
    for name, gradient in expected.parameters.items():
        assert_close(actual.parameters[name], gradient, backward)
    # the same activation, as a layer of its own
    sums = Dense(F, 19, dtype=dtype)
    sums.load_state_dict(dense.parameters)
    activation = Activation(spec)
    z = sums.forward(x)
    assert_same_bits(activation.forward(z, tape=tape), dense.forward(x))
    _, cache = reference.dense_forward(z, np.eye(19, dtype=dtype), activation=spec)
    assert_close(activation.backward(tape, dy).dx, reference.dense_backward(cache, dy).dx, backward)


@every_dtype
@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec != "softmax"], ids=str)
def test_activation_gives_the_bits_of_a_recurrent_layer(spec, dtype):
    """h of one step of an RNN whose W is the unit matrix, with neither U nor a bias."""
    rnn = cylstm.RNN(F, F, bias=False, nonlinearity=spec, dtype=dtype)
    rnn.load_state_dict({"weight_ih_l0": np.eye(F), "weight_hh_l0": np.zeros((F, F))})
    x = 2 * normal(N, F, dtype=dtype)
    assert_same_bits(Activation(spec).forward(x), rnn.forward(x[None])[0][0])


@every_dtype
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_the_bits_of_an_activation_do_not_depend_on_what_is_beside_a_row(spec, dtype):
    x = 3 * normal(33, 77, dtype=dtype)
    y = Activation(spec).forward(x)
    for row in (0, 17, 32):
        assert_same_bits(Activation(spec).forward(x[row : row + 1]), y[row : row + 1])
        assert_same_bits(Activation(spec).forward(x[row]), y[row])


def test_activations_give_the_numbers_worked_by_hand():
    x = np.array([-2.0, 0.0, 4.0])
    expected = {
        "relu": [0, 0, 4], ("leaky_relu", 0.25): [-0.5, 0, 4], ("hard_sigmoid", 0.25, 0.5): [0, 0.5, 1],
        ("affine", 2.0, 1.0): [-3, 1, 9], ("thresholded_relu", 1.0): [0, 0, 4], "softsign": [-2 / 3, 0, 0.8],
        "linear": [-2, 0, 4],
    }  # fmt: skip
    for spec, y in expected.items():
        assert Activation(spec).forward(x).tolist() == y, spec
    assert Activation("softmax").forward(np.log([[1.0, 3.0]]))[0].tolist() == pytest.approx([0.25, 0.75])


def test_dense_shows_its_activation_as_it_was_meant():
    assert Dense(2, 2).activation is None
    assert Dense(2, 2, activation="tanh").activation == "tanh"
    assert Dense(2, 2, activation=("affine", 2)).activation == ("affine", 2.0, 0.0)
    assert Activation(["elu", 0.5]).activation == ("elu", 0.5)


def test_dense_counts_changed_parameters_from_the_next_forward():
    dense, x = Dense(F, 2, activation="relu", rng=0), np.ones((1, F), np.float32)
    dense.forward(x)
    with dense.writable() as p:
        p["weight"][:], p["bias"][:] = 1, [0.5, -7]
    assert dense.forward(x).tolist() == [[5.5, 0.0]]


# LayerNorm ----------------------------------------------------------------------------------------


def test_layer_norm_gives_the_numbers_worked_by_hand():
    # mean 3, variance (4 + 1 + 0 + 9) / 4 = 3.5, and 0.5 more make 4
    norm = LayerNorm(4, eps=0.5, dtype="float64")
    norm.load_state_dict({"weight": np.array([1.0, 2, 3, 4]), "bias": np.ones(4)})
    assert norm.forward(np.array([1.0, 2.0, 3.0, 6.0])).tolist() == [0.0, 0.0, 1.0, 7.0]


@every_dtype
@pytest.mark.parametrize("features", [1, 7, 8, 33, 100])
def test_layer_norm_agrees_with_the_reference(features, dtype):
    norm, tape = varied(LayerNorm(features, dtype=dtype)), Tape()
    x, dy = 3 + normal(2, N, T, features, dtype=dtype)
    wanted, cache = reference.layer_norm_forward(x, **norm.parameters)
    forward, backward = TOLERANCES[np.dtype(dtype)][:2]
    assert_close(norm.forward(x, tape=tape), wanted, forward)
    expected, actual = reference.layer_norm_backward(cache, dy), norm.backward(tape, dy)
    assert_close(actual.dx, expected.dx, backward)
    for name, gradient in expected.parameters.items():
        assert_close(actual.parameters[name], gradient, backward)


def test_layer_norm_begins_as_no_more_than_a_normalisation():
    p = LayerNorm(3).parameters
    assert (p["weight"].tolist(), p["bias"].tolist()) == ([1, 1, 1], [0, 0, 0])


@every_dtype
def test_the_bits_of_a_normalised_row_do_not_depend_on_what_is_beside_it(dtype):
    norm, x = varied(LayerNorm(77, dtype=dtype)), normal(33, 77, dtype=dtype)
    y = norm.forward(x)
    for row in (0, 17, 32):
        assert_same_bits(norm.forward(x[row : row + 1]), y[row : row + 1])
    assert_same_bits(norm.forward(np.asfortranarray(x)), y)


def test_layer_norm_counts_changed_parameters_from_the_next_forward():
    norm, x = LayerNorm(2), np.array([3, 5], np.float32)
    norm.forward(x)
    with norm.writable() as p:
        p["bias"][:] = 7
    assert norm.forward(x).round(3).tolist() == [6.0, 8.0]


# Embedding ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["int64", "int8", "uint16", "uint64"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 4), (2, 0), (2, 3, 1)])
def test_an_embedding_looks_up_rows(shape, dtype):
    embedding, tape = Embedding(6, 3, rng=0), Tape()
    x = np.random.default_rng(1).integers(0, 6, shape).astype(dtype)
    y = embedding.forward(x, tape=tape)
    assert_same_bits(y, embedding.parameters["weight"][x])
    assert embedding.backward(tape, y).dx is None


def test_the_gradient_of_a_row_is_the_sum_of_all_places_that_have_its_index():
    embedding, tape = Embedding(4, 2, dtype="float64", rng=0), Tape()
    embedding.forward(np.array([[1, 3, 1], [1, 0, 0]]), tape=tape)
    dy = np.arange(12.0).reshape(2, 3, 2)
    gradient = embedding.backward(tape, dy).parameters["weight"]
    assert gradient.tolist() == [[8 + 10, 9 + 11], [0 + 4 + 6, 1 + 5 + 7], [0, 0], [2, 3]]


def test_the_gradient_of_an_embedding_agrees_with_central_differences():
    embedding, tape, x = Embedding(5, 3, dtype="float64", rng=0), Tape(), np.array([[0, 4, 4], [1, 0, 4]])
    dy = normal(2, 3, 3, dtype="float64")
    embedding.forward(x, tape=tape)
    gradient = embedding.backward(tape, dy).parameters["weight"]

    def loss(weight):
        with embedding.writable() as p:
            p["weight"][:] = weight
        return np.sum(dy * embedding.forward(x))

    wanted = numerical_gradient(loss, embedding.state_dict()["weight"])
    assert_close(gradient, wanted, TOLERANCES[np.dtype("float64")].central)


def test_repeated_indices_are_added_in_their_order():
    """In float32 the order shows: 2^24 + 1 + 1 is 2^24 from the left, and 1 + 1 + 2^24 is more."""
    embedding, tape = Embedding(1, 1, rng=0), Tape()
    gradients = []
    for dy in ([2**24, 1, 1], [1, 1, 2**24]):
        embedding.forward(np.zeros(3, int), tape=tape)
        gradients.append(embedding.backward(tape, np.array(dy, np.float32)[:, None]).parameters["weight"].item())
    assert gradients == [2**24, 2**24 + 2]


def test_the_initial_table_is_standard_normal():
    weight = Embedding(100, 100, dtype="float64", rng=0).parameters["weight"]
    assert abs(weight.mean()) < 5 / math.sqrt(weight.size)
    assert weight.var() == pytest.approx(1, abs=5 * math.sqrt(2 / weight.size))


def test_zeros_are_padding_where_they_are_said_to_be():
    x = np.array([[1, 2, 0], [0, 3, 0]])
    y, state, steps = Embedding(4, 2, rng=0)._pass(x, None, None, None)
    assert (y.shape, state, steps) == ((2, 3, 2), None, None)
    masked = Embedding(4, 2, mask_zero=True, rng=0)
    y, _, steps = masked._pass(x, None, None, None)
    assert_same_bits(y, masked.parameters["weight"][x])
    assert steps.mask.tolist() == [[True, True, False], [False, True, False]]
    _, _, steps = masked._pass(x, None, Steps(lengths=np.array([1, 3])), None)
    assert steps.mask.tolist() == [[True, False, False], [False, True, False]]


# Dropout ------------------------------------------------------------------------------------------


def test_dropout_leaves_zeros_and_multiples():
    x = normal(40, 50, 10)
    y = Dropout(0.25).forward(x, tape=Tape(1))
    kept = y != 0
    assert_same_bits(y[kept], (x * np.float32(1 / 0.75))[kept])
    share = np.count_nonzero(kept) / x.size
    assert abs(share - 0.75) < 5 * math.sqrt(0.75 * 0.25 / x.size)


def test_dropout_acts_in_training_alone():
    x = normal(N, T, F)
    for tape in (None, Tape(training=False)):
        assert_same_bits(Dropout(0.5).forward(x, tape=tape), x)
    assert_same_bits(Dropout(0.0).forward(x, tape=Tape()), x)
    assert not Dropout(1.0).forward(x, tape=Tape()).any()


def test_a_mask_is_a_function_of_seed_call_and_position():
    ones, dropout = np.ones((6, 7, 9), np.float32), Dropout(0.5)

    def mask(x, seed=0, calls=0):
        tape = Tape(seed)
        for _ in range(calls + 1):
            y = dropout.forward(x, tape=tape)
        return y

    whole = mask(ones)
    assert_same_bits(mask(ones), whole)
    assert_same_bits(mask(ones[:2, :3]), np.ascontiguousarray(whole[:2, :3]))
    assert_same_bits(mask(np.ones((7, 6, 9), np.float32).swapaxes(0, 1)), whole)
    assert_same_bits(mask(ones[:, 0]), np.ascontiguousarray(whole[:, 0]))
    assert_same_bits(mask(ones.astype("float64")), whole.astype("float64"))
    for other in (mask(ones, seed=1), mask(ones, calls=1)):
        assert 0.3 < (other == whole).mean() < 0.7


def test_backward_has_the_mask_of_its_forward():
    dropout, tape, ones = Dropout(0.5), Tape(3), np.ones((N, T, F), np.float32)
    y = dropout.forward(ones, tape=tape)
    assert_same_bits(dropout.backward(tape, ones).dx, y)


# Masking ------------------------------------------------------------------------------------------


@every_dtype
@pytest.mark.parametrize("value", [0.0, -1.5, 0.1, NAN])
def test_steps_that_have_the_value_in_all_features_are_not_valid(value, dtype):
    x = normal(2, 3, 4, dtype=dtype)
    x[0, 1] = x[1, 2] = x[1, 0, :3] = value
    masking, tape = Masking(value), Tape()
    valid = np.array([[True, False, True], [True, True, False]])
    assert masking.valid(x).tolist() == valid.tolist()
    assert_same_bits(masking.forward(x, tape=tape), np.where(valid[..., None], x, x.dtype.type(0)))
    dy = normal(2, 3, 4, dtype=dtype, seed=1)
    dy[~valid] = NAN
    assert_same_bits(masking.backward(tape, dy).dx, np.where(valid[..., None], dy, x.dtype.type(0)))


def test_masking_adds_to_the_steps_that_were_not_valid_before():
    x = np.ones((2, 3, 1), np.float32)
    x[0, 0] = 0
    y, state, steps = Masking()._pass(x, None, None, None)
    assert (state, steps.lengths) == (None, None)
    assert steps.mask.tolist() == [[False, True, True], [True, True, True]]
    assert_same_bits(y, x)
    _, _, steps = Masking()._pass(x, None, Steps(lengths=np.array([2, 1])), None)
    assert steps.mask.tolist() == [[False, True, False], [True, False, False]]


# Last and Repeat ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "last"),
    [
        ({}, [3, 3, 3]),
        ({"lengths": [4, 1, 0]}, [3, 0, None]),
        ({"mask": np.array([[1, 0, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0]], bool)}, [2, None, 0]),
        ({"lengths": [2, 4, 1], "mask": np.array([[1, 0, 1, 1], [1, 0, 1, 0], [0, 1, 1, 1]], bool)}, [0, 2, None]),
    ],
)
def test_last_is_the_last_valid_step(steps, last):
    x, tape, layer = normal(N, T, F), Tape(), Last()
    y = layer.forward(x, **steps, tape=tape)
    dx = layer.backward(tape, np.ones((N, F), np.float32)).dx
    for row, t in enumerate(last):
        expected = np.zeros((T, F))
        if t is None:
            assert not y[row].any()
        else:
            assert_same_bits(y[row], x[row, t])
            expected[t] = 1
        assert dx[row].tolist() == expected.tolist()


def test_last_of_no_steps_is_zeros():
    layer, tape = Last(), Tape()
    y = layer.forward(np.ones((2, 0, 3), np.float32), tape=tape)
    assert y.tolist() == [[0, 0, 0], [0, 0, 0]]
    assert layer.backward(tape, y).dx.shape == (2, 0, 3)


def test_last_takes_the_time_axis_and_its_steps_away():
    x = normal(N, T, F)
    y, _, steps = Last()._pass(x, None, Steps(lengths=np.array([1, 2, 3])), None)
    assert steps is None
    assert_same_bits(y, x[[0, 1, 2], [0, 1, 2]])


def test_backward_of_repeat_sums_over_the_steps():
    layer, tape = Repeat(3), Tape()
    assert layer.forward(np.array([[1.0, 2.0]]), tape=tape).tolist() == [[[1, 2], [1, 2], [1, 2]]]
    assert layer.backward(tape, np.array([[[1.0, 2], [30, 40], [500, 600]]])).dx.tolist() == [[531, 642]]


# Reverse and Flatten --------------------------------------------------------------------------------


def test_reverse_is_time_from_its_end():
    x, tape, layer = normal(N, T, F), Tape(), Reverse()
    y = layer.forward(x, tape=tape)
    assert_same_bits(y, np.stack([x[:, t] for t in (3, 2, 1, 0)], axis=1))
    assert not np.shares_memory(layer.forward(x[:, :1]), x)
    dy = normal(N, T, F, seed=6)
    assert_same_bits(layer.backward(tape, dy).dx, np.flip(dy, 1).copy())
    assert layer.forward(x[:, :0]).shape == (N, 0, F)


def test_reverse_takes_the_valid_steps_along():
    x = normal(N, T, F)
    steps = Steps(lengths=np.array([4, 1, 0]))
    expected = [[True] * 4, [False, False, False, True], [False] * 4]
    assert Reverse()._pass(x, None, steps, None)[2].mask.tolist() == expected
    mask = Steps(mask=np.array(expected))
    assert Reverse()._pass(x, None, mask, None)[2].valid(T).tolist() == steps.valid(T).tolist()
    assert Reverse(keep_mask=True)._pass(x, None, steps, None)[2] is steps
    assert Reverse()._pass(x, None, None, None)[2] is None


def test_a_layer_between_two_reverses_walks_time_from_its_end():
    one, other = LSTM(F, 4, rng=0), LSTM(F, 4, reverse=True, rng=0)
    x = normal(N, T, F)
    for lengths in (None, [4, 1, 0]):
        expected, _ = Sequential([other]).forward(x, lengths=lengths)
        assert_same_bits(Sequential([Reverse(), one, Reverse()]).predict(x, lengths=lengths), expected.copy())


def test_flatten_puts_the_steps_side_by_side():
    x, tape, layer = normal(N, T, F), Tape(), Flatten()
    y = layer.forward(x.swapaxes(0, 1).copy().swapaxes(0, 1), tape=tape)
    assert_same_bits(y, np.concatenate([x[:, t] for t in range(T)], axis=1))
    dy = normal(N, T * F, seed=6)
    assert_same_bits(layer.backward(tape, dy).dx, np.stack(np.split(dy, T, axis=1), axis=1))
    assert layer.forward(x[:, :0]).shape == (N, 0)
    assert layer.forward(x[:0]).shape == (0, T * F)
    assert_same_bits(layer.forward(x[:, 0]), x[:, 0].copy())
    assert not np.shares_memory(layer.forward(x), x)
    assert layer._output_shape((None, None, 3)) == (None, None)


def test_a_layer_behind_a_flatten_knows_the_features_of_all_steps():
    lstm, dense = LSTM(F, 2, rng=0), Dense(2 * T, 3, rng=1)
    model = Sequential([lstm, Sequential([Flatten(), dense])])
    x = normal(N, T, F)
    expected = dense.forward(lstm.forward(x.swapaxes(0, 1))[0].swapaxes(0, 1).reshape(N, 2 * T))
    assert_same_bits(model.forward(x)[0], expected)
    assert [row.output_shape for row in model.summary().rows] == [(None, None, 2), (None, None), (None, 3)]
    for call in (model.forward, model.predict):
        with pytest.raises(ValueError, match=r"layer '1', Dense\(8, 3\), does not take .* \(3, 6\), expected"):
            call(x[:, :3])
    first = Sequential([Flatten(), Dense(T * F, 2, rng=0)])
    assert_same_bits(first.forward(x)[0], first.forward(x.reshape(N, T * F))[0])
    history = first.fit(x, np.ones((N, 2)), loss="mse", optimizer=cylstm.SGD(lr=0.05), epochs=5, progress=False, rng=0)
    assert history["loss"][-1] < history["loss"][0]


def test_a_flatten_streams_what_has_no_time_and_nothing_else():
    lstm = LSTM(F, 2, rng=0)
    model = Sequential([lstm, Last(), Flatten(), Dense(2, 1, rng=0)])
    x = normal(T, F)
    stream = model.stream()
    assert_same_bits(np.stack([stream.step(row) for row in x])[-1], model.forward(x[None])[0][0])
    assert_same_bits(model.stream().run(x)[-1], model.forward(x[None])[0][0])
    with pytest.raises(ValueError, match=r"layer '1', Flatten\(\): Flatten can not stream: it needs all time steps"):
        Sequential([lstm, Flatten()]).stream()
    with pytest.raises(ValueError, match=r"layer '0', Reverse\(\): Reverse can not stream: its first step is the last"):
        Sequential([Reverse(), lstm]).stream()


def test_states_are_not_handed_on_through_a_reverse():
    model = Sequential([Reverse(), LSTM(F, 2, rng=0)])
    with pytest.raises(ValueError, match=r"stateful is given, but Reverse\(\) goes backwards in time"):
        model.fit(ONES, ONES[..., :2], loss="mse", stateful=True, shuffle=False, batch_size=3)


# Steps --------------------------------------------------------------------------------------------


def test_steps_have_lengths_or_a_mask_and_never_both():
    mask = np.array([[True, False, True], [True, True, True]])
    assert Steps.of(None, None, 2, 3) is None
    assert Steps.of([2, 3], None, 2, 3).lengths.tolist() == [2, 3]
    assert Steps.of(None, mask, 2, 3).mask.tolist() == mask.tolist()
    both = Steps.of([2, 1], mask, 2, 3)
    assert both.lengths is None
    assert both.mask.tolist() == [[True, False, False], [True, False, False]]
    assert both.valid(3) is both.mask
    assert both.last(3).tolist() == [0, 0]


def test_a_mask_of_no_steps_has_no_last_one():
    assert Steps(mask=np.ones((2, 0), bool)).last(0).tolist() == [-1, -1]


# One step at a time -------------------------------------------------------------------------------


@every_dtype
@pytest.mark.parametrize("batch_size", [None, 1, 7])
@pytest.mark.parametrize("name", sorted(LAYERS.keys() - {"Flatten", "Repeat", "Reverse"}))
def test_steps_give_the_bits_of_forward(name, batch_size, dtype):
    layer = LAYERS[name][0](dtype)
    x = normal(T, *(() if batch_size is None else (batch_size,)), F, dtype=dtype)
    x[1] = 0.5
    sequences = x[None] if batch_size is None else x.swapaxes(0, 1)
    y = sequences if name == "Last" else layer.forward(sequences)
    part = layer._stream_part(batch_size)
    for t in range(T):
        expected = y[0, t] if batch_size is None else np.ascontiguousarray(y[:, t])
        assert_same_bits(part.step(x[t]), expected)
        out = np.empty_like(expected)
        assert part.step(x[t], out=out) is out
        assert_same_bits(out, expected)
        if batch_size:
            assert_same_bits(part.step(np.asfortranarray(x[t])), expected)


def test_an_embedding_steps_by_indices():
    embedding = Embedding(5, 3, rng=0)
    weight = embedding.parameters["weight"]
    assert_same_bits(embedding._stream_part(None).step(np.int32(4)), weight[4])
    part, x = embedding._stream_part(2), np.array([3, 1])
    assert_same_bits(part.step(x), weight[[3, 1]])
    out = np.empty((2, 3), np.float32)
    assert part.step(x, out) is out
    assert_same_bits(out, weight[[3, 1]])


def test_changed_parameters_count_from_the_next_step():
    for layer in (Dense(2, 2, rng=0), LayerNorm(2), Embedding(3, 2, rng=0)):
        x = 1 if isinstance(layer, Embedding) else np.array([1, 3], np.float32)
        part = layer._stream_part(None)
        before = part.step(x)
        with layer.writable() as p:
            for value in p.values():
                value += 1
        assert (part.step(x) != before).all()


# Refusals -----------------------------------------------------------------------------------------

ONES = np.ones((N, T, F), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Activation("mish"), ValueError, "activation is 'mish', expected one of sigmoid, .*, softmax"),
        (lambda: Activation(("tanh", 1.0)), ValueError, "tanh has no alpha or beta"),
        (lambda: Activation(None), TypeError, "activation is None, expected a name"),
        (lambda: cylstm.RNN(2, 2, nonlinearity="softmax"), ValueError, "nonlinearity is 'softmax', expected one of"),
        (lambda: Dropout(1.5), ValueError, r"p is 1.5, expected a number in \[0.0, 1.0\]"),
        (lambda: Embedding(0, 3), ValueError, "num_embeddings is 0"),
        (lambda: Embedding(3, 2.5), TypeError, "embedding_dim is 2.5"),
        (lambda: Embedding(3, 2, mask_zero=1), TypeError, "mask_zero is 1, expected True or False"),
        (lambda: LayerNorm(3, eps=0), ValueError, "eps is 0, expected"),
        (lambda: Masking("x"), TypeError, "value is 'x', expected a number"),
        (lambda: Masking(math.inf), ValueError, "value is inf"),
        (lambda: Repeat(0), ValueError, "n is 0, expected an integer of at least 1"),
        (lambda: LayerNorm(3).forward(ONES), ValueError, r"x has shape \(3, 4, 5\), expected \(..., features=3\)"),
        (lambda: Activation("tanh").forward(np.array(1.0)), ValueError, r"x has shape \(\), expected \(..., features"),
        (lambda: Activation("tanh").forward([1.0]), TypeError, "x is a list, expected a float32 or float64 ndarray"),
        (lambda: Dropout(0.5).forward(ONES.astype(int)), TypeError, "x is of dtype int64, expected float32 or float64"),
        (lambda: Dropout(0.5).forward(ONES.astype(">f4")), TypeError, "x is of dtype >f4, expected float32"),
        (lambda: Dropout(0.5).forward(ONES, tape=1), TypeError, "tape is a int, expected a cylstm.Tape"),
        (lambda: Masking().forward(ONES[0]), ValueError, r"expected \(batch, seq_len, features\)"),
        (lambda: Last().forward(ONES[0]), ValueError, r"expected \(batch, seq_len, features\)"),
        (lambda: Last().forward(ONES, lengths=[1, 5, 2]), ValueError, r"lengths\[1\] is 5, expected 0 to seq_len=4"),
        (lambda: Last().forward(ONES, mask=ONES > 0), ValueError, r"mask has shape .*expected \(batch=3, seq_len=4\)"),
        (lambda: Reverse(1), TypeError, "keep_mask is 1, expected True or False"),
        (lambda: Reverse().forward(ONES[0]), ValueError, r"expected \(batch, seq_len, features\)"),
        (lambda: Flatten().forward(ONES[0, 0]), ValueError, r"expected \(batch, seq_len, features\) or \(batch, feat"),
        (lambda: Repeat(2).forward(ONES), ValueError, r"x has shape \(3, 4, 5\), expected \(batch, features\)"),
        (lambda: Embedding(3, 2).forward(np.array([7])), ValueError, "has 7, expected 0 to num_embeddings - 1 = 2"),
        (lambda: Embedding(3, 2).forward(np.array([-1])), ValueError, "x has -1, expected 0 to"),
        (lambda: Embedding(3, 2).forward(np.array([2**63], "u8")), ValueError, "x has 9223372036854775808, exp"),
        (lambda: Embedding(3, 2).forward(np.array([True])), TypeError, "x is of dtype bool, expected integers"),
        (lambda: Embedding(3, 2).forward([1]), TypeError, "x is a list, expected an ndarray of integers"),
        (lambda: Embedding(3, 2, True).forward(np.array([1])), ValueError, r"expected \(batch, seq_len\)"),
        (lambda: Embedding(3, 2)._stream_part(None).step(3), ValueError, "x is 3, expected 0 to num_embeddings"),
        (lambda: Embedding(3, 2)._stream_part(2).step(np.array([1])), ValueError, r"expected \(batch_size=2,\)"),
        (lambda: Repeat(2)._stream_part(None), ValueError, "Repeat can not stream"),
        (lambda: Dense(3, 2)._stream_part(2).step(ONES[0]), ValueError, r"expected \(batch_size=2, in_features=3\)"),
        (lambda: Dense(3, 2)._stream_part(None).step(np.ones(3)), TypeError, "x is of dtype float64, expected float32"),
        (lambda: Dropout(0.5)._stream_part(2).step(ONES[0]), ValueError, r"expected \(batch_size=2, features\)"),
        (lambda: Dense(5, 2)._stream_part(None).step(ONES[0, 0], np.ones(3)), TypeError, "out is float64"),
        (lambda: Dense(5, 2)._stream_part(None).step(ONES[0, 0], ONES[0, 0]), ValueError, r"out has shape \(5,\)"),
        (lambda: Dropout(0)._stream_part(None).step(ONES[0, 0], ONES[0, 0]), ValueError, "out overlaps x"),
        (lambda: Dense(3, 2)._output_shape((None, None, 4)), ValueError, r"x has shape \(None, None, 4\), expected"),
        (lambda: Last()._output_shape((None, 4)), ValueError, r"expected \(batch, seq_len, features\)"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()
