"""Layers made of recurrent ones: the numbers of the layers they are made of, and their gradients."""

import copy
import pickle

import numpy as np
import pytest

import cylstm
from cylstm import GRU, LSTM, RNN, Bidirectional, Dense, Final, JordanRNN, Sequential, saving
from cylstm.testing import gradcheck

SCHEMES = [
    {}, {"reverse": True}, {"num_layers": 2}, {"bidirectional": True}, {"bidirectional": True, "merge": "sum"},
    {"bidirectional": True, "merge": "mul", "num_layers": 2}, {"bidirectional": True, "merge": "average"},
]  # fmt: skip
MERGES = {
    "concat": lambda a, b: np.concatenate([a, b], axis=-1), "sum": np.add, "mul": np.multiply,
    "average": lambda a, b: (a + b) / 2,
}  # fmt: skip
LENGTHS = [4, 0, 2]


def batch(shape=(3, 4, 2), dtype=np.float64):
    return np.random.default_rng(5).standard_normal(shape).astype(dtype)


def pair(merge="concat", dtype="float64"):
    """Two that differ in all but their width."""
    one = LSTM(2, 2, 2, padding="repeat", dtype=dtype, rng=1)
    other = JordanRNN(2, 5, 2, reverse=True, empty="zero", padding=0.5, batch_first=True, dtype=dtype, rng=2)
    return Bidirectional(one, other, merge)


class Flat:
    """A Bidirectional of an LSTM and a cell without c whose state is a tuple of three, as gradcheck knows states."""

    def __init__(self, layer):
        self.layer, self.parameters, self.writable = layer, layer.parameters, layer.writable

    def forward(self, x, state=None, lengths=None, tape=None):
        state = None if state is None else [state[:2], state[2]]
        y, ((h, c), h_other) = self.layer.forward(x, state, lengths, tape=tape)
        return y, (h, c, h_other)

    def backward(self, tape, dy, dstate):
        gradients = self.layer.backward(tape, dy, [dstate[:2], dstate[2]])
        (h, c), h_other = gradients.dstate
        return cylstm.Gradients(gradients.dx, (h, c, h_other), gradients.parameters)


def final_h(layer, state):
    """What Final gives, by the definition."""
    h = state[0] if isinstance(state, tuple) else state
    return MERGES[layer.merge](h[-2], h[-1]) if layer.bidirectional else h[-1]


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("kind", [LSTM, GRU])
def test_final_is_the_final_h_of_the_last_layer(kind, scheme):
    layer = kind(2, 3, batch_first=True, rng=1, **scheme)
    x = batch(dtype=np.float32)
    for steps in ({}, {"lengths": LENGTHS}, {"mask": np.arange(12).reshape(3, 4) % 3 > 0}):
        _, expected = layer.forward(x, **steps)
        y, state = Final(layer).forward(x, **steps)
        np.testing.assert_array_equal(y, final_h(layer, expected))
        for one, other in zip(state, expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_final_of_one_direction_is_the_last_valid_step_whatever_batch_first_says():
    layer = LSTM(2, 3, rng=1)
    x = batch(dtype=np.float32)
    y, _ = Final(layer).forward(x, lengths=[4, 1, 2])
    np.testing.assert_array_equal(y, cylstm.Last().forward(layer(x.swapaxes(0, 1))[0].swapaxes(0, 1), [4, 1, 2]))


def test_final_of_h_that_is_narrower_or_an_output():
    x = batch(dtype=np.float32)
    for layer in (LSTM(2, 3, proj_size=2, rng=1), JordanRNN(2, 5, 2, rng=1)):
        np.testing.assert_array_equal(Final(layer).forward(x)[0], layer.forward(x.swapaxes(0, 1))[0][-1])


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("empty", ["initial", "zero"])
def test_gradients_of_final(scheme, empty):
    gradcheck(Final(LSTM(2, 2, dtype="float64", empty=empty, rng=1, **scheme)), batch(), lengths=LENGTHS)


def test_gradients_of_final_from_a_state_and_of_one_step():
    h, c = batch((2, 3, 2)), batch((2, 3, 2))
    gradcheck(Final(LSTM(2, 2, bidirectional=True, merge="mul", dtype="float64", rng=1)), batch((3, 1, 2)), (h, c))
    gradcheck(Final(GRU(2, 2, 2, dtype="float64", rng=1)), batch(), h)


def test_final_takes_dy_or_dstate_alone_and_adds_them():
    final, tape, x = Final(GRU(2, 3, dtype="float64", rng=1)), cylstm.Tape(training=False), batch()
    y, state = final.forward(x, tape=tape)
    both = final.backward(tape, 2 * np.ones_like(y), np.ones_like(state))
    dstate = 3 * np.ones_like(state)
    final.forward(x, tape=tape)
    alone = final.backward(tape, None, dstate)
    np.testing.assert_array_equal(both.dx, alone.dx)
    np.testing.assert_array_equal(both.dstate, alone.dstate)
    assert (dstate == 3).all()


def test_final_leaves_its_outputs_to_the_caller():
    final, tape = Final(LSTM(2, 3, bidirectional=True, merge="mul", dtype="float64", rng=1)), cylstm.Tape()
    y, (h_n, _) = final.forward(batch(), tape=tape)
    expected = final.backward(tape, np.ones_like(y)).dx
    y, (h_n, _) = final.forward(batch(), tape=tape)
    h_n[:] = y[:] = np.nan
    np.testing.assert_array_equal(final.backward(tape, np.ones_like(y)).dx, expected)


def test_final_of_no_step_and_of_no_row():
    final = Final(LSTM(2, 3, 2, dtype="float64", rng=1))
    h, c = batch((2, 3, 3)), batch((2, 3, 3))
    tape = cylstm.Tape()
    y, _ = final.forward(batch((3, 0, 2)), (h, c), tape=tape)
    np.testing.assert_array_equal(y, h[-1])
    gradients = final.backward(tape, np.full_like(y, 2))
    assert gradients.dx.shape == (3, 0, 2)
    assert gradients.dstate[0].tolist() == [[[0.0] * 3] * 3, [[2.0] * 3] * 3]
    y, _ = final.forward(batch((0, 4, 2)), tape=tape)
    assert y.shape == (0, 3)
    assert final.backward(tape, y).dx.shape == (0, 4, 2)


def test_final_in_a_model_is_an_lstm_with_a_last():
    lstm, dense = LSTM(2, 3, rng=1), Dense(3, 1, rng=2)
    last, model = Sequential([lstm, cylstm.Last(), dense]), Sequential([Final(lstm), dense])
    x = batch(dtype=np.float32)
    y, states = model.forward(x, lengths=[4, 1, 2])
    np.testing.assert_array_equal(y, last.forward(x, lengths=[4, 1, 2])[0])
    assert [type(state) for state in states] == [tuple, type(None)]
    np.testing.assert_array_equal(model.forward(x, states)[0], last.forward(x, [states[0], None, None])[0])
    one, other = cylstm.Tape(training=False), cylstm.Tape(training=False)
    y, _ = model.forward(x, tape=one)
    last.forward(x, tape=other)
    gradients, expected = model.backward(one, y), last.backward(other, y)
    np.testing.assert_allclose(gradients.dx, expected.dx, 1e-6)
    assert next(iter(gradients.parameters)) == "0.layer.weight_ih_l0"
    np.testing.assert_allclose(
        gradients.parameters["0.layer.weight_ih_l0"], expected.parameters["0.weight_ih_l0"], 1e-6
    )
    assert str(model.summary()).splitlines()[2:4] == [
        "0 (Final(LSTM))  (N, 3)                84", "1 (Dense)        (N, 1)                 4",
    ]  # fmt: skip


def test_a_stream_of_a_model_with_final_has_an_output_at_each_step():
    lstm, dense = LSTM(2, 3, 2, rng=1), Dense(3, 1, rng=2)
    inner = Sequential([cylstm.Masking(9.0), ("final", Final(lstm))])
    model = Sequential([inner, cylstm.Dropout(0.5), dense])
    x = batch((6, 2), np.float32)
    x[2] = 9.0
    stream = model.stream()
    ys = np.stack([stream.step(row) for row in x])
    np.testing.assert_array_equal(ys[5], model.forward(x[None])[0][0])
    np.testing.assert_array_equal(ys[2], ys[1])
    np.testing.assert_array_equal(stream.state[0][1][0], model.forward(x[None])[1][0][1][0][:, 0])
    chunks = model.stream()
    np.testing.assert_array_equal(np.concatenate([chunks.run(x[:2]), chunks.run(x[2:])]), ys)
    other = pickle.loads(pickle.dumps(stream))
    np.testing.assert_array_equal(other.step(x[0]), copy.deepcopy(stream).step(x[0]))
    stream.reset(stream.state)
    np.testing.assert_array_equal(Final(lstm).stream(1).run(x[:, None]), lstm.stream(1).run(x[:, None]))


@pytest.mark.parametrize("layer", [
    Final(LSTM(2, 3, bidirectional=True)), Final(GRU(2, 3, reverse=True)),
    Bidirectional(GRU(2, 3), GRU(2, 3, reverse=True)), Final(Bidirectional(GRU(2, 3), GRU(2, 3, reverse=True))),
], ids=repr)  # fmt: skip
def test_a_layer_that_looks_ahead_can_not_stream(layer):
    with pytest.raises(ValueError, match="can not stream"):
        layer.stream()
    with pytest.raises(ValueError, match=r"layer '0.a', (Final|Bid)\w*\(.*\): .* can not stream: .* the last step"):
        Sequential([Sequential([("a", layer)])]).stream()


def wrappers():
    return [
        Final(LSTM(2, 3, rng=1)), Final(GRU(2, 3, 2, bidirectional=True, merge="sum", dtype="float64", rng=1)),
        Bidirectional(LSTM(2, 3, rng=1), GRU(2, 2, 2, reverse=True, rng=2)), Final(pair("mul")),
    ]  # fmt: skip


@pytest.mark.parametrize("layer", wrappers(), ids=repr)
def test_a_wrapper_is_kept_by_pickle_copies_and_files(layer, tmp_path):
    layer._leaves[0].trainable = False
    path = tmp_path / "model.safetensors"
    Sequential([layer]).save(path)
    layer.save(tmp_path / "layer.safetensors")
    x = batch(dtype=layer.dtype)
    for other in (
        pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer), copy.copy(layer), cylstm.load(path)[0],
        cylstm.load(tmp_path / "layer.safetensors"),
        eval(repr(layer), {name: getattr(cylstm, name) for name in cylstm.__all__}),
    ):  # fmt: skip
        assert repr(other) == repr(layer)
        other.load_state_dict(layer.state_dict())
        np.testing.assert_array_equal(other.forward(x)[0], layer.forward(x)[0])
        assert list(other.parameters) == list(layer.parameters)
    assert [leaf.trainable for leaf in cylstm.load(path)._leaves] == [leaf.trainable for leaf in layer._leaves]


@pytest.mark.parametrize("layer", wrappers(), ids=repr)
def test_a_wrapper_is_trained(layer):
    x = batch(dtype=layer.dtype)
    before = layer.state_dict()
    optimizer, tape = cylstm.SGD([layer], lr=0.5), cylstm.Tape()
    y, _ = layer.forward(x, tape=tape)
    gradients = layer.backward(tape, y)
    optimizer.step([gradients])
    for name, value in layer.parameters.items():
        np.testing.assert_allclose(value, before[name] - 0.5 * gradients.parameters[name], 1e-5, 1e-7)
    with layer.writable() as parameters:
        parameters[name][:] = 0
    assert not layer.parameters[name].any()
    layer.trainable = False
    assert [leaf.trainable for leaf in layer._leaves] == [False] * len(layer._leaves)


def test_a_model_with_final_is_fitted():
    x = np.random.default_rng(0).standard_normal((64, 5, 1)).astype(np.float32)
    y = (x.sum(axis=(1, 2)) > 0)[:, None]
    model = Sequential([Final(LSTM(1, 8, bidirectional=True, rng=0)), Dense(16, 1, activation="sigmoid", rng=1)])
    history = model.fit(
        x, y, loss="binary_crossentropy", optimizer=cylstm.Adam(lr=0.05), epochs=10, rng=0, progress=False,
        lengths=[5] * 64,
    )  # fmt: skip
    assert history["loss"][-1] < history["loss"][0] / 2
    np.testing.assert_array_equal(model.predict(x, lengths=[5] * 64), model.forward(x)[0])


def test_final_says_what_is_wrong():
    with pytest.raises(TypeError, match="layer is a Dense, expected a recurrent layer"):
        Final(Dense(2, 3))
    with pytest.raises(ValueError, match="merge=None, so y is a pair"):
        Final(LSTM(2, 3, bidirectional=True, merge=None))
    final = Final(LSTM(2, 3))
    x = batch(dtype=np.float32)
    with pytest.raises(ValueError, match=r"x has shape \(3, 4\), expected \(batch, seq_len, input_size=2\)"):
        final.forward(x[..., 0])
    with pytest.raises(TypeError, match="x is of dtype float64"):
        final.forward(batch())
    with pytest.raises(TypeError, match="state is a ndarray, expected a tuple"):
        final.forward(x, np.zeros((1, 3, 3), np.float32))
    with pytest.raises(ValueError, match="lengths"):
        final.forward(x, lengths=[5, 0, 0])
    with pytest.raises(TypeError, match="tape is a int"):
        final.forward(x, tape=1)
    with pytest.raises(ValueError, match=r"does not take what layer '0', Final\(LSTM\(2, 3\)\), makes"):
        Sequential([final, LSTM(3, 4)])
    tape = cylstm.Tape()
    y, state = final.forward(x, tape=tape)
    with pytest.raises(ValueError, match="dy and dstate are both None"):
        final.backward(tape, None)
    with pytest.raises(ValueError, match="dy has shape"):
        final.backward(tape, y[:, :2])
    with pytest.raises(ValueError, match="dstate h has shape"):
        final.backward(tape, y, tuple(part[:, :2] for part in state))
    final.backward(tape, y)  # which none of them has spent
    with pytest.raises(RuntimeError, match="spent"):
        final.backward(tape, y)
    final.forward(x, tape=tape)
    with final.layer.writable():
        pass
    with pytest.raises(RuntimeError, match="parameters were changed"):
        final.backward(tape, y)


# Bidirectional


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("steps", [
    {}, {"lengths": LENGTHS}, {"mask": np.arange(12).reshape(3, 4) % 3 > 0},
    {"lengths": LENGTHS, "mask": np.arange(12).reshape(3, 4) % 5 > 0},
], ids=str)  # fmt: skip
def test_bidirectional_is_both_layers(merge, steps):
    layer, x = pair(merge), batch()
    one, other = layer.layers
    y_one, state_one = one.forward(x.swapaxes(0, 1), **steps)
    y_other, h_other = other.forward(x, **steps)
    expected = MERGES[merge](y_one.swapaxes(0, 1), y_other)
    y, ((h, c), h_n) = layer(x, **steps)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(h, state_one[0])
    np.testing.assert_array_equal(c, state_one[1])
    np.testing.assert_array_equal(h_n, h_other)
    np.testing.assert_array_equal(Final(layer).forward(x, **steps)[0], MERGES[merge](h[-1], h_n[-1]))


@pytest.mark.parametrize("kind", [LSTM, GRU, RNN])
@pytest.mark.parametrize("merge", MERGES)
def test_two_that_are_alike_are_a_bidirectional_layer(kind, merge):
    alike = kind(2, 3, bidirectional=True, merge=merge, rng=1)
    parameters = alike.parameters.items()
    suffix = "_reverse"
    layer = Bidirectional(
        kind._of(2, 3, arrays={name: value for name, value in parameters if not name.endswith(suffix)}),
        kind._of(
            2, 3, reverse=True,
            arrays={name.removesuffix(suffix): value for name, value in parameters if name.endswith(suffix)},
        ),
        merge,
    )  # fmt: skip
    x = batch(dtype=np.float32)
    for one, other in ((layer, Sequential([alike])), (Final(layer), Final(alike))):
        y, _ = other.forward(x, None, LENGTHS)
        np.testing.assert_array_equal(one.forward(x, lengths=LENGTHS)[0], y)


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("wrap", [lambda layer: layer, Final], ids=["Bidirectional", "Final"])
def test_gradients_of_bidirectional(merge, wrap):
    gradcheck(Flat(wrap(pair(merge))), batch(), lengths=LENGTHS)


def test_gradients_of_bidirectional_from_a_state_and_of_widths_that_differ():
    state = batch((1, 3, 3)), batch((1, 3, 3)), batch((2, 3, 2))
    layer = Bidirectional(LSTM(2, 3, dtype="float64", rng=1), RNN(2, 2, 2, reverse=True, dtype="float64", rng=2))
    gradcheck(Flat(layer), batch((3, 1, 2)), state)
    gradcheck(Flat(Final(layer)), batch((3, 2, 2)), state)


def test_bidirectional_takes_states_and_their_gradients_of_one_side_alone():
    layer, x, tape = pair(), batch(), cylstm.Tape()
    one, other = layer.layers
    h = batch((1, 3, 2))
    y, _ = layer.forward(x, (None, h), tape=tape)
    np.testing.assert_array_equal(y[..., :2], one(x.swapaxes(0, 1))[0].swapaxes(0, 1))
    np.testing.assert_array_equal(y[..., 2:], other(x, h)[0])
    found = layer.backward(tape, None, [None, h])
    other.forward(x, h, tape=(of_other := cylstm.Tape()))
    expected = other.backward(of_other, None, h)
    np.testing.assert_array_equal(found.dx, expected.dx)
    np.testing.assert_array_equal(found.dstate[1], expected.dstate)
    assert not found.parameters["forward.weight_ih_l1"].any()
    total = found + 2 * found
    np.testing.assert_allclose(total.dstate[1], 3 * expected.dstate, 1e-15)
    assert total.dstate[0][1].shape == (2, 3, 2)


def test_bidirectional_of_no_step_and_of_no_row():
    layer, tape = pair("sum"), cylstm.Tape()
    h = batch((1, 3, 2))
    y, (_, h_n) = layer.forward(batch((3, 0, 2)), [None, h], tape=tape)
    assert y.shape == (3, 0, 2) and not h_n.any()  # empty="zero"
    assert not layer.backward(tape, y).parameters["backward.weight_hh_l0"].any()
    y, _ = layer.forward(batch((0, 4, 2)), tape=tape)
    assert layer.backward(tape, y).dx.shape == (0, 4, 2)


def test_a_model_with_bidirectional():
    layer, dense = Bidirectional(LSTM(2, 3, rng=1), GRU(2, 2, reverse=True, rng=2)), Dense(5, 1, rng=3)
    final = Final(Bidirectional(GRU(5, 2, rng=4), LSTM(5, 3, reverse=True, rng=5)))
    model = Sequential([Sequential([("both", layer)]), final, dense])
    x = batch(dtype=np.float32)
    middle, state = layer.forward(x, lengths=LENGTHS)
    end, final_state = final.forward(middle, lengths=LENGTHS)
    y, states = model.forward(x, lengths=LENGTHS)
    np.testing.assert_array_equal(y, dense.forward(end))
    np.testing.assert_array_equal(states[0][0][1], state[1])
    np.testing.assert_array_equal(states[1][1][1], final_state[1][1])
    np.testing.assert_array_equal(model.forward(x, states, lengths=LENGTHS)[0], model.forward(x, states, LENGTHS)[0])
    assert [(row.name, row.type, row.output_shape, row.parameters) for row in model.summary().rows] == [
        ("0.both", "Bidirectional(LSTM, GRU)", (None, None, 5), 84 + 36),
        ("1", "Final(Bidirectional(GRU, LSTM))", (None, 5), 54 + 120),
        ("2", "Dense", (None, 1), 6),
    ]
    layer.layers[1].trainable = False
    assert model.summary().frozen == 36
    history = model.fit(x, np.ones((3, 1)), loss="mse", optimizer="adam", epochs=4, progress=False, rng=0)
    assert history["loss"][-1] < history["loss"][0]
    with pytest.raises(ValueError, match=r"stateful is given, but GRU\(2, 2, reverse=True\) goes backwards in time"):
        model.fit(x, np.ones((3, 1)), loss="mse", stateful=True, shuffle=False, batch_size=3)


def test_dropout_of_a_model_with_wrappers_is_that_of_its_seed():
    model = Sequential([
        Bidirectional(LSTM(2, 3, input_dropout=0.5, rng=1), GRU(2, 3, reverse=True, zoneout_h=0.5, rng=2)),
        Final(LSTM(6, 2, recurrent_dropout=0.5, rng=3)),
    ])  # fmt: skip
    x = batch(dtype=np.float32)
    ys = [model.forward(x, tape=cylstm.Tape(seed))[0] for seed in (1, 1, 2)]
    np.testing.assert_array_equal(ys[0], ys[1])
    assert (ys[0] != ys[2]).all() and (ys[0] != model.forward(x)[0]).all()


def test_the_directions_of_an_encoder_are_a_recurrent_layer_each():
    one, other = GRU(2, 3, rng=1), GRU(2, 3, reverse=True, rng=2)
    decoder = [GRU(1, 3, rng=3), GRU(3, 3, rng=4)]
    model = cylstm.EncoderDecoder(Bidirectional(one, other), decoder)
    x, y_in = batch(dtype=np.float32), batch((3, 2, 1), np.float32)
    tape = cylstm.Tape(training=False)
    y, _ = model.forward(x, y_in, tape=tape)
    states = [layer.forward(x.swapaxes(0, 1))[1] for layer in (one, other)]
    expected, _ = Sequential(decoder).forward(y_in, states)
    np.testing.assert_array_equal(y, expected)
    found = model.backward(tape, y)
    of_decoder, plain = cylstm.Tape(training=False), Sequential(decoder)
    plain.forward(y_in, states, tape=of_decoder)
    dstates = plain.backward(of_decoder, y).dstate
    for name, layer, dstate in (("forward", one, dstates[0]), ("backward", other, dstates[1])):
        layer.forward(x.swapaxes(0, 1), tape=tape)
        expected = layer.backward(tape, None, dstate).parameters["weight_ih_l0"]
        np.testing.assert_array_equal(found.parameters[f"encoder.0.{name}.weight_ih_l0"], expected)
    with pytest.raises(ValueError, match=r"decoder layer '0.backward', .* looks ahead"):
        cylstm.EncoderDecoder(decoder, [Bidirectional(one, other)])


@pytest.mark.parametrize(("call", "error", "words"), [
    (lambda: Bidirectional(Dense(2, 3), GRU(2, 3)), TypeError, "forward is a Dense, expected a recurrent layer"),
    (lambda: Bidirectional(GRU(2, 3), Final(GRU(2, 3))), TypeError, "backward is a Final, expected a recurrent"),
    (lambda: Bidirectional(GRU(2, 3), GRU(2, 3)), ValueError,
     r"backward is GRU\(2, 3\), expected one direction, reverse=True"),
    (lambda: Bidirectional(GRU(2, 3, reverse=True), GRU(2, 3, reverse=True)), ValueError,
     "forward is .*, expected one direction, in the direction of time"),
    (lambda: Bidirectional(GRU(2, 3, bidirectional=True), GRU(2, 3, reverse=True)), ValueError, "forward is GRU"),
    (lambda: Bidirectional(GRU(2, 3), GRU(4, 3, reverse=True)), ValueError, "have input_size 2 and 4"),
    (lambda: Bidirectional(GRU(2, 3), GRU(2, 4, reverse=True), "sum"), ValueError, "make 3 and 4 features"),
    (lambda: Bidirectional(GRU(2, 3), GRU(2, 3, reverse=True), None), ValueError, "merge is None, expected"),
    (lambda: Bidirectional(GRU(2, 3), GRU(2, 3, reverse=True, dtype="float64")), ValueError, "expected one dtype"),
    (lambda: Sequential([gru := GRU(2, 2), Final(gru)]), ValueError, "'0' and '1.layer' are the same one"),
    (lambda: Sequential([pair(), Dense(3, 1, dtype="float64")]), ValueError, "does not take what layer '0', Bidir"),
    (lambda: pair().forward(batch(), np.zeros((1, 3, 2))), TypeError, "state is a ndarray, expected a list"),
    (lambda: pair().forward(batch(), [None]), ValueError, "state has 1 entries, expected 2"),
    (lambda: pair().forward(batch(), [None, np.zeros((1, 3, 3))]), ValueError, r"state\[1\] has shape \(1, 3, 3\)"),
    (lambda: pair().forward(batch((3, 4, 3))), ValueError, r"x has shape \(3, 4, 3\)"),
    (lambda: Final(pair()).forward(batch(), [None, np.zeros((1, 3, 3))]), ValueError, r"state\[1\] has shape"),
], ids=range(16))  # fmt: skip
def test_bidirectional_says_what_is_wrong(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize(("change", "words"), [
    ({"options": {"merge": "max"}}, "merge is 'max'"), ({"options": {"merged": "sum"}}, "merged"),
    ({"options": []}, "options of the model, Bidirectional, is a list, expected a dict"),
    ({"parts": [["forward", None]]}, "layer 'forward' is a NoneType"), ({"more": 1}, "unexpected: more"),
    ({"class": "Sequential"}, "can not be: .*merge"), ({"class": "Final"}, "expected layer"),
])  # fmt: skip
def test_a_file_of_a_wrapper_that_can_not_be_is_refused(change, words, tmp_path):
    path = tmp_path / "model.safetensors"
    pair("sum").save(path)
    arrays, metadata = saving.read_file(path)
    if "parts" in change:
        arrays = {name: value for name, value in arrays.items() if name.startswith("forward")}
    saving.write_file(path, arrays, {"architecture": metadata["architecture"] | change})
    with pytest.raises(ValueError, match=f"model.safetensors is damaged: .*{words}"):
        cylstm.load(path)


def test_the_parts_of_a_file_stand_in_their_order(tmp_path):
    path = tmp_path / "model.safetensors"
    pair().save(path)
    arrays, metadata = saving.read_file(path)
    assert metadata["architecture"].keys() == {"class", "parts"}
    metadata["architecture"]["parts"].reverse()
    saving.write_file(path, arrays, {"architecture": metadata["architecture"]})
    with pytest.raises(ValueError, match="its parts are backward, forward, expected forward and backward"):
        cylstm.load(path)
