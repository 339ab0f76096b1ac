"""EncoderDecoder: the states between the two models, forwards and backwards; the tokens it writes."""

import copy
import itertools
import math
import pickle

import numpy as np
import pytest

import cylstm
from cylstm import (
    GRU,
    LSTM,
    RNN,
    Adam,
    Dense,
    Dropout,
    Embedding,
    EncoderDecoder,
    JordanRNN,
    Last,
    Sequential,
    Tape,
)
from cylstm.losses import sparse_categorical_crossentropy
from cylstm.testing import TOLERANCES, assert_close, numerical_gradient

N, T, S, F, K = 4, 5, 3, 3, 2
LENGTHS, Y_LENGTHS = [5, 1, 0, 3], [3, 2, 1, 0]
START, END = 4, 0


def normal(*shape, dtype=np.float64, seed=5):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def assert_same_bits(actual, expected):
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    assert actual.tobytes() == expected.tobytes()


def plain(dtype="float64"):
    """Stacked, of several cells; layers without a state among them, and one behind the last state."""
    return EncoderDecoder(
        [LSTM(F, 4, 2, rng=0, dtype=dtype), Dense(4, 3, rng=1, dtype=dtype), GRU(3, 3, rng=2, dtype=dtype),
         Dense(3, 1, rng=3, dtype=dtype)],
        Sequential([LSTM(K, 4, 2, rng=4, dtype=dtype), ("mid", JordanRNN(4, 5, 3, rng=5, dtype=dtype)),
                    Dense(3, 2, rng=6, dtype=dtype)]),
    )  # fmt: skip


def two_ways(dtype="float64"):
    """Two directions into one that is twice as wide; a reversed one; models in models; proj_size."""
    return EncoderDecoder(
        Sequential([LSTM(F, 4, 2, bidirectional=True, proj_size=3, rng=0, dtype=dtype),
                    Sequential([RNN(6, 2, reverse=True, rng=1, dtype=dtype), Last()])]),
        [Sequential([LSTM(K, 8, 2, proj_size=6, batch_first=True, rng=2, dtype=dtype)]),
         GRU(6, 2, rng=3, dtype=dtype)],
    )  # fmt: skip


def writer(dtype="float64", classes=4, seed=0, **dense):
    """Of tokens."""
    return EncoderDecoder(
        [Embedding(6, 3, mask_zero=True, rng=seed, dtype=dtype), GRU(3, 4, rng=seed + 1, dtype=dtype)],
        [Embedding(classes + 1, 3, rng=seed + 2, dtype=dtype), GRU(3, 4, rng=seed + 3, dtype=dtype),
         Dense(4, classes, rng=seed + 4, dtype=dtype, **dense)],
    )  # fmt: skip


models = pytest.mark.parametrize("make", [plain, two_ways])
ragged = pytest.mark.parametrize("lengths", [(None, None), (LENGTHS, Y_LENGTHS)], ids=["full", "ragged"])


# Forwards and backwards ---------------------------------------------------------------------------


def test_the_decoder_begins_with_the_states_after_the_last_valid_steps():
    model, x, y_in = plain(), normal(N, T, F), normal(N, S, K)
    y, states = model(x, y_in, LENGTHS, Y_LENGTHS)
    for n, (length, y_length) in enumerate(zip(LENGTHS, Y_LENGTHS, strict=True)):
        _, (first, _, second, _) = model.encoder(x[n : n + 1, :length])
        expected, (h_c, h, _) = model.decoder(y_in[n : n + 1, :y_length], [first, second, None])
        assert_same_bits(np.ascontiguousarray(y[n, :y_length]), np.ascontiguousarray(expected[0]))
        assert_same_bits(np.ascontiguousarray(states[1][:, n]), h[:, 0])
        assert_same_bits(np.ascontiguousarray(states[0][1][:, n]), h_c[1][:, 0])
    assert states[2] is None


def test_the_states_of_two_directions_stand_side_by_side():
    model, x, y_in = two_ways(), normal(N, T, F), normal(N, S, K)
    _, ((h, c), (h_r, _)) = model.encoder(x)
    initial = [[tuple(np.stack([np.hstack([part[2 * k], part[2 * k + 1]]) for k in range(2)]) for part in (h, c))], h_r]
    expected, states = model.decoder(y_in, initial)
    y, found = model(x, y_in)
    assert_same_bits(y, expected)
    assert_same_bits(found[0][0][1], states[0][0][1])


@models
def test_no_row_is_legal(make):
    model, tape = make(), Tape()
    y, states = model(np.empty((0, T, F)), np.empty((0, S, K)), tape=tape)
    assert y.shape == (0, *model(normal(1, T, F), normal(1, S, K))[0].shape[1:]) and states[0] is not None
    gradients = model.backward(tape, y)
    assert [dx.shape for dx in gradients.dx] == [(0, T, F), (0, S, K)]
    assert not any(value.any() for value in gradients.parameters.values())


@models
@ragged
def test_gradients_are_those_of_central_differences(make, lengths):
    model, tape = make(), Tape(training=False)
    x, y_in = normal(N, T, F), normal(N, S, K, seed=6)
    y, _ = model(x, y_in, *lengths, tape=tape)
    weight = normal(*y.shape, seed=7)
    gradients = model.backward(tape, weight)
    assert gradients.dstate is None and list(gradients.parameters) == list(model.parameters)

    def loss(x=x, y_in=y_in):
        return (weight * model(x, y_in, *lengths)[0]).sum()

    tolerance = TOLERANCES[np.dtype("float64")].central
    assert_close(gradients.dx[0], numerical_gradient(loss, x), tolerance, "dx")
    assert_close(gradients.dx[1], numerical_gradient(lambda y_in: loss(x, y_in), y_in), tolerance, "dy_in")
    kept = model.state_dict()
    for name in list(kept)[:: 3 if make is plain else 4]:
        def loss_with(value, name=name):
            model.load_state_dict({**kept, name: value})
            return loss()

        assert_close(gradients.parameters[name], numerical_gradient(loss_with, kept[name]), tolerance, name)
    assert np.abs(gradients.parameters["encoder.0.weight_hh_l0"]).max() > 1e-4  # not zeros that agree


def test_gradients_of_integers_are_none_and_those_of_embeddings_go_through_the_states():
    model, tape = writer(), Tape()
    x, y_in = np.array([[3, 2, 0], [5, 0, 0]]), np.array([[4, 1], [4, 2]])
    y, _ = model(x, y_in, tape=tape)
    gradients = model.backward(tape, np.ones_like(y))
    assert gradients.dx == [None, None]
    changed = np.abs(gradients.parameters["encoder.0.weight"]).sum(axis=1) > 0
    assert changed.tolist() == [False, False, True, True, False, True]  # the tokens of x that are valid
    half = 0.5 * (gradients + gradients)
    assert half.dx == [None, None]
    assert_same_bits(half.parameters["encoder.1.weight_ih_l0"], gradients.parameters["encoder.1.weight_ih_l0"])
    assert "2 inputs" in repr(gradients)


def test_masks_of_noise_are_a_function_of_the_seed_and_the_call():
    def run(seed):
        model = EncoderDecoder([Dropout(0.5), GRU(F, 4, rng=0)], [Dropout(0.5), GRU(F, 4, rng=1)])
        tape, x = Tape(seed), normal(N, T, F, dtype=np.float32)
        found = [model(x, x, tape=tape)[0] for _ in range(2)]
        return [*found, model.backward(tape, found[1]).dx[0]]

    one, other, third = run(3), run(3), run(4)
    for a, b in zip(one, other, strict=True):
        assert_same_bits(a, b)
    assert (one[0] != one[1]).any() and (one[0] != third[0]).any()
    zeros_of_x, zeros_of_y = one[2] == 0, one[1] == 0
    assert zeros_of_x.any() and not zeros_of_y.all()


def test_a_tape_is_used_once_and_with_the_parameters_of_its_forward():
    model, tape, x, y_in = plain(), Tape(), normal(N, T, F), normal(N, S, K)
    y, _ = model(x, y_in, tape=tape)
    with pytest.raises(ValueError, match=r"dy has shape \(4, 3\)"):
        model.backward(tape, y[..., 0])
    model.backward(tape, y)  # a dy that was refused has not spent it
    with pytest.raises(RuntimeError, match="already spent"):
        model.backward(tape, y)
    model(x, y_in, tape=tape)
    with model.writable() as p:
        p["decoder.0.bias_ih_l0"][:] = 0
    with pytest.raises(RuntimeError, match="changed between forward and backward"):
        model.backward(tape, y)
    with pytest.raises(TypeError, match=r"tape is a int, expected a cylstm\.Tape"):
        model(x, y_in, tape=3)


# The surface of a layer ---------------------------------------------------------------------------


def test_parameters_are_those_of_both_models_under_their_names():
    model = writer()
    names = [f"{part}.{name}" for part in ("encoder", "decoder") for name in getattr(model, part).parameters]
    assert list(model.parameters) == list(model.state_dict()) == names
    assert model.parameters["decoder.2.bias"] is model.decoder[2].parameters["bias"]
    other = writer(seed=7)
    other.load_state_dict(model.state_dict())
    assert_same_bits(other(*PAIR)[0], model(*PAIR)[0])
    with pytest.raises(ValueError, match=r"decoder\.2\.bias"):
        model.load_state_dict(dict(itertools.islice(model.state_dict().items(), len(names) - 1)))


PAIR = np.array([[3, 2, 0], [5, 0, 0]]), np.array([[4, 1], [4, 2]])


def test_an_optimiser_takes_it_as_one_layer_and_leaves_what_is_frozen():
    model, tape = writer("float32"), Tape()
    model.encoder.trainable = False
    assert model.trainable and not model.encoder[1].trainable
    before, optimizer, losses = model.state_dict(), Adam([model], lr=0.05), []
    for _ in range(30):
        y, _ = model(*PAIR, tape=tape)
        loss, dy = sparse_categorical_crossentropy(y, [[1, 2], [3, 0]], from_logits=True)
        optimizer.step([model.backward(tape, dy)])
        losses.append(loss)
    assert losses[-1] < 0.1 * losses[0]
    for name, value in model.parameters.items():
        assert (value == before[name]).all() == name.startswith("encoder.")


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_copies_are_of_their_own(duplicate):
    model = two_ways()
    model.decoder.trainable = False
    other = duplicate(model)
    x, y_in = normal(N, T, F), normal(N, S, K)
    y = model(x, y_in)[0]
    with model.writable() as p:
        p["encoder.0.bias_ih_l0"][:] = 1
    assert_same_bits(other(x, y_in)[0], y)
    assert [layer.trainable for layer in other._leaves] == [True, True, True, False, False]
    assert repr(other) == repr(model)


def test_repr_is_the_call_that_makes_it():
    model = EncoderDecoder(GRU(2, 3), [GRU(1, 3), ("out", Dense(3, 1))])
    assert repr(model) == "EncoderDecoder(Sequential([GRU(2, 3)]), Sequential([GRU(1, 3), ('out', Dense(3, 1))]))"
    assert repr(eval(repr(model), {name: getattr(cylstm, name) for name in cylstm.__all__})) == repr(model)


def test_the_summary_has_the_layers_of_both():
    summary = EncoderDecoder(GRU(2, 3), [GRU(1, 3), ("out", Dense(3, 1))]).summary()
    assert [row.name for row in summary.rows] == ["encoder.0", "decoder.0", "decoder.out"]
    assert summary.total == 3 * 3 * (2 + 3 + 2) + 3 * 3 * (1 + 3 + 2) + 4


def test_a_file_brings_it_back_to_the_same_bits(tmp_path):
    model = two_ways()
    model.encoder.trainable = False
    model.save(tmp_path / "model.safetensors")
    other = cylstm.load(tmp_path / "model.safetensors")
    assert repr(other) == repr(model)
    assert [layer.trainable for layer in other._leaves] == [False, False, False, True, True]
    x, y_in = normal(N, T, F), normal(N, S, K)
    assert_same_bits(other(x, y_in)[0], model(x, y_in)[0])


MISTAKES = {
    "no model": (3, GRU(2, 2), TypeError, "encoder is a int, expected a Sequential, a recurrent layer or a list"),
    "feedforward": (GRU(2, 2), Dense(2, 2), TypeError, "decoder is a Dense, expected a Sequential, a recurrent"),
    "nothing carried": (GRU(2, 2), [Dense(2, 2)], ValueError, "decoder has no recurrent layer, so nothing of x"),
    "count": ([GRU(2, 2)], [GRU(2, 2), GRU(2, 2)], ValueError, "encoder has 1 recurrent layers and decoder 2"),
    "ahead": (GRU(2, 2), GRU(2, 2, reverse=True), ValueError, "layer '0', GRU(2, 2, reverse=True), looks ahead"),
    "width": (
        LSTM(2, 3), LSTM(2, 4), ValueError,
        "encoder layer '0', LSTM(2, 3), ends with h (1, batch, 3) and c (1, batch, 3), but decoder layer '0', "
        "LSTM(2, 4), begins with h (1, batch, 4) and c (1, batch, 4)",
    ),
    "cell": (LSTM(2, 3), GRU(2, 3), ValueError, "c (1, batch, 3), but decoder layer '0', GRU(2, 3), begins with h (1"),
    "stack": (GRU(2, 3, 2), GRU(2, 3), ValueError, "ends with h (2, batch, 3), but decoder layer"),
    "two directions": (
        GRU(2, 3, bidirectional=True), GRU(2, 3), ValueError,
        "ends with h (1, batch, 6) (two directions side by side), but decoder layer '0', GRU(2, 3), begins with h (1",
    ),
    "dtypes": (GRU(2, 3), GRU(2, 3, dtype="float64"), ValueError, "'encoder.0' of float32 and 'decoder.0' of float64"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_models_that_do_not_fit_are_refused_by_name(name):
    encoder, decoder, kind, message = MISTAKES[name]
    with pytest.raises(kind) as error:
        EncoderDecoder(encoder, decoder)
    assert message in str(error.value)


def test_one_layer_for_both_is_refused():
    layer = GRU(2, 2)
    with pytest.raises(ValueError, match=r"layers 'encoder\.0' and 'decoder\.0' are the same one"):
        EncoderDecoder(layer, layer)


def test_a_sequential_does_not_take_it():
    with pytest.raises(ValueError, match="EncoderDecoder takes two inputs"):
        Sequential([plain()])


def test_inputs_that_do_not_fit_are_named():
    model, x, y_in = plain(), normal(N, T, F), normal(N, S, K)
    for arguments, message in [
        ((x[..., :2], y_in), r"x has shape \(4, 5, 2\), expected \(batch, seq_len, features=3\)"),
        ((x, y_in[0]), r"y_in has shape \(3, 2\), expected \(batch, seq_len, features=2\)"),
        ((x, y_in[:2]), r"y_in has shape \(2, 3, 2\), expected \(4, \.\.\.\)"),
        ((x, y_in, [1, 2, 3, 6]), r"lengths\[3\] is 6, expected 0 to seq_len=5"),
        ((x, y_in, None, [1, 2, 3, 4]), r"y_lengths\[3\] is 4, expected 0 to seq_len=3"),
    ]:
        with pytest.raises(ValueError, match=message):
            model(*arguments)
    with pytest.raises(TypeError, match="y_in is of dtype float32"):
        model(x, y_in.astype(np.float32))


# Many rows ----------------------------------------------------------------------------------------


def test_predict_and_evaluate_take_numbers_in_batches(monkeypatch):
    monkeypatch.setattr(cylstm.sequential, "BATCH_NUMBERS", 1)
    model, x, y_in = plain("float32"), normal(N, T, F), normal(N, S, K)
    expected, _ = model(x.astype(np.float32), y_in.astype(np.float32), LENGTHS, Y_LENGTHS)
    for batch_size in (1, 3, 99):
        y = model.predict((x.tolist(), y_in), batch_size, (LENGTHS, Y_LENGTHS))
        assert_same_bits(y, np.ascontiguousarray(expected))
    weight = np.array([1.0, 2.0, 0.5, 3.0])
    found = model.evaluate((x, y_in), y + 1.0, "mse", ["mae"], 3, (LENGTHS, Y_LENGTHS), weight)
    assert found == {"loss": pytest.approx(1.0, rel=1e-5), "mae": pytest.approx(1.0, rel=1e-5)}
    valid = np.arange(S) < np.array(Y_LENGTHS)[:, None]
    target = np.where(valid, 0.0, np.nan)[..., None].repeat(2, axis=2)
    found = model.evaluate((x, y_in), target, "mae", batch_size=2, lengths=(LENGTHS, Y_LENGTHS))
    assert found["loss"] == pytest.approx(np.abs(y[valid]).mean(), rel=1e-5)


def test_fit_gives_the_bits_of_a_loop_with_teacher_forcing():
    x, y_in = np.random.default_rng(1).integers(1, 6, (10, 4)), np.random.default_rng(2).integers(0, 5, (10, 3))
    y = (y_in + 1) % 4
    lengths, y_lengths = [4, 3, 2, 1, 4, 4, 3, 2, 1, 0], [3, 2, 1, 3, 2, 1, 3, 2, 1, 3]
    orders = [np.random.default_rng(seed).permutation(10) for seed in range(2)]
    model, other = writer("float32", activation="softmax"), writer("float32", activation="softmax")
    history = model.fit(
        (x, y_in), y, loss="sparse_categorical_crossentropy", optimizer=Adam(lr=0.01), epochs=2, batch_size=4,
        lengths=(lengths, y_lengths), shuffle=orders, progress=False,
        validation_data=((x, y_in), y, None, (lengths, y_lengths)),
    )  # fmt: skip
    optimizer, tape = Adam([other], lr=0.01), Tape()
    for order in orders:
        for rows in (order[:4], order[4:8], order[8:]):
            of_y = np.array(y_lengths)[rows]
            y_pred, _ = other(x[rows], y_in[rows], np.array(lengths)[rows], of_y, tape=tape)
            _, dy = sparse_categorical_crossentropy(y_pred, y[rows], lengths=of_y, batch_first=True)
            optimizer.step([other.backward(tape, dy)])
    for name, value in model.parameters.items():
        assert_same_bits(value, other.parameters[name])
    y_pred, _ = other(x, y_in, lengths, y_lengths)
    value, _ = sparse_categorical_crossentropy(y_pred, y, lengths=y_lengths, batch_first=True)
    assert history["val_loss"][-1] == pytest.approx(value, rel=1e-6)
    assert history["loss"][1] < history["loss"][0]


def test_inputs_that_are_no_pair_are_refused():
    model, x, y_in = plain(), normal(N, T, F), normal(N, S, K)
    for arguments, kind, message in [
        ((x,), TypeError, r"x is a ndarray, expected a pair \(x, y_in\)"),
        (((x, y_in), 32, LENGTHS), TypeError, r"lengths is a list, expected a pair \(lengths, y_lengths\)"),
        (((x, y_in[:2]),), ValueError, r"y_in has shape \(2, 3, 2\)"),
        (((x, y_in[..., :1]),), ValueError, r"y_in has shape \(4, 3, 1\)"),
        (((x, y_in), 32, (None, [9, 0, 0, 0])), ValueError, r"y_lengths\[0\] is 9"),
    ]:
        with pytest.raises(kind, match=message):
            model.predict(*arguments)
    with pytest.raises(ValueError, match="tbptt is given, but the model has more than one input"):
        model.fit((x, y_in), x[:, :S, :2], loss="mse", tbptt=2, progress=False)


# Writing tokens -----------------------------------------------------------------------------------


def sharp(seed=4, classes=4, scale=8):
    """With outputs that are far apart, so that ends come at different steps."""
    model = writer(classes=classes, seed=seed, activation="softmax")
    with model.writable() as p:
        p["decoder.2.weight"] *= scale
        p["encoder.0.weight"] *= 3
    return model


def log_probability(model, x, tokens, start=START):
    """Of one row, by teacher forcing; ``tokens`` has the end, if there is one."""
    y, _ = model(x[None], np.array([[start, *tokens[:-1]]]))
    return math.fsum(math.log(y[0, t, token]) for t, token in enumerate(tokens))


def greedy_by_hand(model, x, max_steps, length=None):
    tokens = []
    while len(tokens) < max_steps:
        y, _ = model(x[None], np.array([[START, *tokens]]), lengths=length and [length])
        token = int(y[0, -1].argmax())
        if token == END:
            break
        tokens.append(token)
    return tokens


X = np.random.default_rng(2).integers(1, 6, (12, 5))
X_LENGTHS = [5, 4, 3, 2, 1, 5, 5, 2, 3, 1, 4, 5]


def test_greedy_writes_what_teacher_forcing_with_its_own_tokens_finds_best():
    model = sharp()
    tokens, lengths = model.greedy(X, START, END, 6, X_LENGTHS)
    for n, length in enumerate(X_LENGTHS):
        expected = greedy_by_hand(model, X[n], 6, length)
        assert tokens[n].tolist() == expected + [END] * (6 - len(expected))
        assert lengths[n] == len(expected)
    assert len(set(lengths.tolist())) > 2  # ends come at different steps


def test_a_beam_of_one_is_greedy_and_knows_its_probability():
    model = sharp()
    tokens, lengths = model.greedy(X, START, END, 6)
    same, as_long, log_p = model.beam(X, START, END, 6, width=1)
    np.testing.assert_array_equal(same, tokens)
    np.testing.assert_array_equal(as_long, lengths)
    for x, row, length, found in zip(X, tokens, lengths, log_p, strict=True):
        assert found == pytest.approx(log_probability(model, x, row[: length + 1].tolist()), abs=1e-12)


def every_sequence(classes, max_steps):
    """Those that end within ``max_steps`` tokens, and those that are cut off."""
    others = [token for token in range(classes) if token != END]
    for count in range(max_steps):
        for tokens in itertools.product(others, repeat=count):
            yield [*tokens, END]
    yield from map(list, itertools.product(others, repeat=max_steps))


@pytest.mark.parametrize(("classes", "max_steps", "penalty"), [(3, 3, 0.0), (3, 3, 1.5), (2, 5, 6.0)])
def test_a_beam_as_wide_as_there_are_sequences_finds_the_best_of_all(classes, max_steps, penalty):
    """In the last case ends that lead are overtaken by longer sequences."""
    model = sharp(classes=classes, scale=3)
    differs = 0
    for x in X[:6]:
        tokens, lengths, log_p = model.beam(x[None], classes, END, max_steps, width=27, length_penalty=penalty)
        scored = []
        for sequence in every_sequence(classes, max_steps):
            total = log_probability(model, x, sequence, start=classes)
            scored.append((total / ((5 + len(sequence)) / 6) ** penalty, total, sequence))
        _, total, best = max(scored)
        assert tokens[0].tolist() == best + [END] * (max_steps - len(best))
        assert lengths[0] == len([token for token in best if token != END])
        assert log_p[0] == pytest.approx(total, abs=1e-12)
        differs += model.greedy(x[None], classes, END, max_steps)[0].tolist() != tokens.tolist()
    assert differs > 0  # or the search would not have been needed


def test_rows_are_written_alike_in_any_batch_and_wider_beams_are_no_worse_here():
    model = sharp(1)
    whole = model.beam(X, START, END, 6, width=5, lengths=X_LENGTHS, length_penalty=0.7)
    for n in (0, 4, 11):
        alone = model.beam(X[n : n + 1], START, END, 6, width=5, lengths=X_LENGTHS[n : n + 1], length_penalty=0.7)
        for a, b in zip(alone, whole, strict=True):
            assert_same_bits(a, b[n : n + 1])
    found = [model.beam(X, START, END, 6, width)[2].sum() for width in (1, 3, 8)]
    assert found[0] < found[1] <= found[2]


@pytest.mark.parametrize("seed", [1, 2, 4, 6, 9])
@pytest.mark.parametrize("penalty", [0.0, 2.0])
def test_the_probability_of_a_beam_is_that_of_teacher_forcing(seed, penalty):
    model = sharp(seed, scale=4)
    tokens, lengths, log_p = model.beam(X, START, END, 6, width=3, length_penalty=penalty)
    for x, row, length, found in zip(X, tokens, lengths, log_p, strict=True):
        assert found == pytest.approx(log_probability(model, x, row[: length + 1].tolist()), abs=1e-12)
    assert (tokens != model.greedy(X, START, END, 6)[0]).any()  # another beam has come to the front


def test_beams_take_along_what_a_masked_step_will_hold():
    model = Sequential([Embedding(5, 3, mask_zero=True, rng=0), LSTM(3, 4, 2, rng=1), Dense(4, 2, rng=2)])
    stream, singles = model.stream(3), [model.stream() for _ in range(3)]
    stream.step(np.array([1, 2, 3]))
    before = [single.step(n + 1) for n, single in enumerate(singles)]
    stream._pick(np.array([2, 0, 2]))
    held = stream.step(np.array([0, 0, 4]))
    for row, expected in zip(held, [before[2], before[0], singles[2].step(4)], strict=True):
        assert_same_bits(row, expected)


def test_logits_and_their_softmax_are_searched_alike():
    logits, probabilities = writer(seed=4), writer(seed=4, activation="softmax")
    for width in (1, 4):
        one = logits.beam(X, START, END, 5, width, from_logits=True)
        other = probabilities.beam(X, START, END, 5, width)
        np.testing.assert_array_equal(one[0], other[0])
        assert_close(one[2], other[2], 1e-12)


def test_what_is_alike_is_taken_in_the_order_of_parents_and_tokens():
    model = writer()
    with model.writable() as p:
        p["decoder.2.weight"][:] = 0
        p["decoder.2.bias"][:] = [-1.0, 2.0, -1.0, 2.0]
    tokens, lengths, log_p = model.beam(X[:1], START, END, 3, width=2, from_logits=True)
    assert tokens.tolist() == [[1, 1, 1]] and lengths.tolist() == [3]
    assert log_p[0] == pytest.approx(-3 * math.log(2 + 2 * math.exp(-3)))
    assert model.greedy(X[:1], START, END, 3)[0].tolist() == [[1, 1, 1]]


def test_tokens_that_can_not_be_have_no_part():
    model = writer()
    with model.writable() as p:
        p["decoder.2.bias"][1:] = -math.inf
    tokens, lengths, log_p = model.beam(X[:2], START, END, 3, width=4, from_logits=True)
    assert (tokens == END).all() and lengths.tolist() == [0, 0] and log_p.tolist() == [0.0, 0.0]


def test_no_rows_are_written_to_no_tokens():
    tokens, lengths, log_p = sharp().beam(X[:0], START, END, 3)
    assert tokens.shape == (0, 3) and lengths.shape == log_p.shape == (0,)


def test_arguments_of_a_search_that_do_not_fit_are_named():
    model = writer()
    for change, kind, message in [
        ({"start": 5}, ValueError, "start is 5, expected 0 to num_embeddings - 1 = 4"),
        ({"end": 4}, ValueError, "end is 4, expected 0 to features of y - 1 = 3"),
        ({"max_steps": 0}, ValueError, "max_steps is 0"),
        ({"width": 0}, ValueError, "width is 0"),
        ({"length_penalty": -1}, ValueError, "length_penalty is -1"),
        ({"x": X[0]}, ValueError, r"x has shape \(5,\)"),
        ({"lengths": [9] * 12}, ValueError, r"lengths\[0\] is 9"),
        ({}, ValueError, "no probability: from_logits=True"),
    ]:
        with pytest.raises(kind, match=message):
            model.beam(**{"x": X, "start": START, "end": END, "max_steps": 3, **change})
    with pytest.raises(ValueError, match=r"begins with LSTM.*, expected an Embedding"):
        plain().greedy(normal(N, T, F), 0, 1, 3)
    small = EncoderDecoder(GRU(F, 2), [Embedding(3, 2), GRU(2, 2), Dense(2, 4)])
    with pytest.raises(ValueError, match="writes 4 tokens, but its Embedding reads 3"):
        small.greedy(normal(N, T, F), 0, 1, 3)
    with model.writable() as p:
        p["decoder.2.bias"][2] = math.nan
    with pytest.raises(FloatingPointError, match="NaN or infinite at step 0"):
        model.greedy(X, START, END, 3)
