"""verify: where a model and a reference first differ, by how much, and which mistake it was."""

import numpy as np
import pytest

import cylstm
from cylstm.interop.gates import reorder
from cylstm.verification import verify


def numbers(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def with_arrays(layer, change):
    """The same layer, its parameters changed by ``change(name, array)``."""
    arguments, options = layer._arguments
    arrays = {name: change(name, value) for name, value in layer.parameters.items()}
    return type(layer)._of(*arguments, arrays=arrays, **options)


def with_options(layer, **options):
    arguments, given = layer._arguments
    return type(layer)._of(*arguments, arrays=layer.parameters, **{**given, **options})


X = numbers(6, 3, 5)  # (T, N, F)
LSTM = cylstm.LSTM(5, 4, rng=1)
GRU = cylstm.GRU(5, 4, rng=2)
BOTH = cylstm.LSTM(5, 4, bidirectional=True, rng=3)


def test_a_model_agrees_with_its_own_numbers():
    report = verify(LSTM, LSTM.forward(X), X)
    assert report.ok and report.first is None and report.suspects == ()
    assert [row.name for row in report.rows] == ["y", "h_n", "c_n"]
    assert report.scaled == 0.0
    assert report.tolerance == 2e-5
    assert "agrees, tolerance 2e-05" in repr(report)


def test_a_report_is_true_where_all_agrees():
    y = LSTM.forward(X)[0]
    assert verify(LSTM, y, X)
    assert not verify(LSTM, y + 1, X)


def test_the_first_difference_is_found_in_time_and_its_size_told():
    y = LSTM.forward(X)[0]
    y[2, 1, 3] += 0.25
    y[4, 0, 0] += 0.5
    report = verify(LSTM, y, X)
    assert not report.ok
    assert report.first.first == {"step": 2, "row": 1, "unit": 3}
    assert report.first.max_abs == pytest.approx(0.5, rel=1e-6)
    assert report.first.by_step == pytest.approx([0, 0, 0.25, 0, 0.5, 0], abs=1e-6)
    assert report.suspects == () and report.tried > 50
    assert "no usual mistake explains it" in repr(report)


def test_a_reverse_layer_differs_first_where_it_began():
    layer = cylstm.GRU(5, 4, reverse=True, rng=0)
    y = layer.forward(X)[0]
    y[1, 0, 0] += 1
    y[4, 0, 2] += 1
    assert verify(layer, y, X).first.first == {"step": 4, "row": 0, "unit": 2}


def test_differences_are_measured_against_the_size_of_the_reference():
    dense = cylstm.Dense(1, 1, rng=0)
    with dense.writable() as p:
        p["weight"][:], p["bias"][:] = 1, 0
    report = verify(dense, np.array([[1001.0]], np.float32), np.array([[1000.0]], np.float32))
    assert report.first.max_abs == 1.0
    assert report.first.scaled == pytest.approx(1 / 1001)
    assert verify(dense, np.array([[1000.01]]), np.array([[1000.0]], np.float32)).ok


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-5), ("float64", 1e-12)])
def test_the_tolerance_is_that_of_the_dtype(dtype, tolerance):
    layer = cylstm.RNN(5, 4, dtype=dtype, rng=0)
    x = X.astype(dtype)
    y = layer.forward(x)[0]
    assert verify(layer, y + dtype_of(y, tolerance / 2), x).ok
    report = verify(layer, y + dtype_of(y, tolerance * 2), x)
    assert not report.ok and report.tolerance == tolerance
    assert verify(layer, y + dtype_of(y, tolerance * 2), x, tolerance=3 * tolerance).ok


def dtype_of(y, value):
    return np.asarray(value, y.dtype)


def test_a_float64_model_has_the_tolerance_of_a_float32_reference():
    layer = cylstm.RNN(5, 4, dtype="float64", rng=0)
    x = X.astype(np.float64)
    assert verify(layer, layer.forward(x)[0].astype(np.float32), x).tolerance == 2e-5


def test_a_float16_reference_is_of_three_digits():
    y = LSTM.forward(X)[0]
    report = verify(LSTM, y.astype(np.float16), X)
    assert report.ok and report.tolerance == 2**-10 and 2e-5 < report.scaled < 2**-12
    assert not verify(LSTM, (y + 2e-3).astype(np.float16), X).ok


def test_nan_on_both_sides_agrees_and_on_one_does_not():
    x = X.copy()
    x[3, 1, 0] = np.nan
    y = LSTM.forward(x)[0]
    assert np.isnan(y).any() and verify(LSTM, y, x).ok
    y[0, 0, 0] = np.nan
    report = verify(LSTM, y, x)
    assert report.first.first == {"step": 0, "row": 0, "unit": 0} and report.first.max_abs == np.inf
    assert "the reference alone has NaN at 1 of 72 places of y" in report.notes


def test_another_shape_is_a_finding():
    report = verify(LSTM, np.zeros((6, 3, 8)), X)
    assert not report.ok and np.isnan(report.scaled)
    assert (report.first.shape, report.first.expected_shape) == ((3, 6, 4), (3, 6, 8))
    assert "the reference's shape is (3, 6, 8)" in repr(report)


@pytest.mark.parametrize("expected", [np.zeros((6, 1, 4)), np.zeros((2, 3, 4)), np.zeros(4), np.array(1.0)])
def test_so_are_another_batch_and_no_axes_at_all(expected):
    report = verify(LSTM, expected, X)
    assert not report.ok and report.suspects == ()
    report = verify(LSTM, (expected, LSTM.forward(X)[1]), X)
    assert [row.ok for row in report.rows] == [False, True, True]


def test_no_rows_and_no_steps_agree_with_none():
    for shape in ((0, 3, 5), (6, 0, 5)):
        x = numbers(*shape)
        assert verify(LSTM, LSTM.forward(x), x).ok
    report = verify(LSTM, np.zeros((6, 1, 4)), numbers(6, 0, 5))
    assert not report.ok and report.suspects == ()


def order(read, letters):
    return lambda layer: with_arrays(layer, lambda name, a: reorder(a, read, letters))


def biases(change):
    return lambda layer: with_arrays(layer, lambda name, a: change(a) if name.startswith("bias_hh") else a)


def transposed(layer):
    def change(name, a):
        return np.concatenate([b.T for b in np.split(a, 4)]) if name.startswith("weight_hh") else a

    return with_arrays(layer, change)


def folded(layer):
    p = layer.state_dict()
    p["bias_ih_l0"][8:] += p["bias_hh_l0"][8:]
    p["bias_hh_l0"][8:] = 0
    return with_arrays(layer, lambda name, a: p[name])


@pytest.mark.parametrize(
    ("layer", "wrong", "name", "detail"),
    [
        (LSTM, order("iofg", "ifgo"), "gate order", "i, o, f, g (ONNX's)"),
        (LSTM, order("ifog", "ifgo"), "gate order", "i, f, o, g (ncnn's)"),
        (LSTM, order("igfo", "ifgo"), "gate order", "i, g, f, o (TensorFlow 1's and Haste's)"),
        (LSTM, order("ogif", "ifgo"), "gate order", "o, g, i, f"),
        (GRU, order("zrn", "rzn"), "gate order", "z, r, n (Keras' and ONNX's)"),
        (cylstm.LSTM(5, 4, coupled="f=1-i", rng=0), order("iog", "igo"), "gate order", "i, o, g"),
        (cylstm.LSTM(5, 4, num_layers=2, bidirectional=True, rng=0), order("figo", "ifgo"), "gate order", "OpenVINO's"),
        (LSTM, transposed, "transpose", "weight_hh transposed"),
        (LSTM, biases(np.zeros_like), "bias", "without bias_hh"),
        (cylstm.LSTM(5, 4, bias="single", rng=0), lambda layer: with_arrays(
            layer, lambda name, a: a * (2 if "bias" in name else 1)), "bias", "twice the bias"),
        (GRU, folded, "bias", "b_hn added to b_in"),
        (GRU, lambda layer: with_options(layer, reset_after=False), "reset_after", "reset_after=False"),
        (cylstm.GRU(5, 4, bias="single", reset_after=False, rng=0), lambda layer: cylstm.GRU._of(
            5, 4, arrays={**layer.parameters, "bias_hh_l0": np.zeros(12)}), "reset_after", "reset_after=True"),
        (LSTM, lambda layer: with_options(layer, activations=("hard_sigmoid", "tanh", "tanh")),
         "hard_sigmoid", "Keras 2's and ONNX's"),
        (GRU, lambda layer: with_options(layer, activations=(("hard_sigmoid", 1 / 6, 0.5), "tanh")),
         "hard_sigmoid", "Keras 3's"),
        (LSTM, lambda layer: with_options(layer, activations=("sigmoid", "relu", "relu")),
         "activation", "relu instead of tanh"),
        (cylstm.RNN(5, 4, rng=0), lambda layer: with_options(layer, nonlinearity="relu"), "activation", "'relu'"),
        (LSTM, lambda layer: with_options(layer, reverse=True), "direction", "reverse=True: time walked from its end"),
        (BOTH, lambda layer: with_arrays(layer, lambda name, a: layer.parameters[
            name[:-8] if name.endswith("_reverse") else name + "_reverse"]), "directions", "the weights of the two"),
        (BOTH, lambda layer: with_options(layer, merge="sum"), "merge", "merge='sum'"),
        (cylstm.LSTM(5, 4, zoneout_h=0.2, rng=0), lambda layer: with_options(layer, zoneout_h=0.0), "zoneout_h",
         "without zoneout_h"),
        (cylstm.LSTM(5, 4, clip={"gates": 0.1}, rng=0), lambda layer: with_options(layer, clip={}), "clip", "without"),
        (cylstm.LSTM(5, 4, peepholes=True, rng=0), lambda layer: with_arrays(
            layer, lambda name, a: reorder(a, "iof", "ifo") if "peephole" in name else a), "peephole order", "i, o, f"),
    ],
)  # fmt: skip
def test_a_mistake_is_named(layer, wrong, name, detail):
    reference = wrong(layer)
    report = verify(layer, reference.forward, X)
    assert not report.ok
    assert [suspect.name for suspect in report.suspects] == [name]
    assert detail in report.suspects[0].detail
    assert report.suspects[0].scaled <= 2e-5


def test_y_in_the_order_in_which_a_reverse_layer_makes_it_is_named():
    layer = cylstm.LSTM(5, 4, reverse=True, rng=0)
    report = verify(layer, layer.forward(X)[0][::-1], X)
    assert [suspect.detail for suspect in report.suspects] == ["y with time flipped"]


def test_halves_of_y_in_each_others_place_are_named():
    y = BOTH.forward(X)[0]
    report = verify(BOTH, np.concatenate([y[..., 4:], y[..., :4]], axis=-1), X)
    assert [suspect.detail for suspect in report.suspects] == ["the two halves of y in each other's place"]
    report = verify(BOTH, np.concatenate([y[..., :4], y[::-1, :, 4:]], axis=-1), X)
    assert [suspect.detail for suspect in report.suspects] == ["the second half of y in the order in which it is made"]


def test_two_mistakes_are_named_together():
    wrong = with_options(order("zrn", "rzn")(GRU), reset_after=False)
    report = verify(GRU, wrong.forward, X)
    assert [suspect.name for suspect in report.suspects] == ["gate order and reset_after"]
    assert "z, r, n" in report.suspects[0].detail and "reset_after=False" in report.suspects[0].detail


def test_lengths_that_the_reference_does_not_know_are_named():
    report = verify(BOTH, BOTH.forward(X)[0], X, lengths=[6, 3, 2])
    assert [(suspect.name, suspect.detail) for suspect in report.suspects] == [("padding", "lengths ignored")]


def test_lengths_that_the_model_was_not_told_are_named():
    x = X.copy()
    x[4:, 1] = 0
    report = verify(BOTH, BOTH.forward(x, lengths=[6, 4, 6])[0], x)
    assert "lengths up to the last step of x that is not all zeros" in [suspect.detail for suspect in report.suspects]


def test_what_is_put_out_at_padded_steps_is_named():
    keras = with_options(LSTM, padding="repeat")
    report = verify(LSTM, keras.forward(X, lengths=[6, 3, 2]), X, lengths=[6, 3, 2])
    assert [suspect.detail for suspect in report.suspects] == ["padding='repeat'"]


def test_a_state_that_the_reference_ignores_is_named():
    state = (numbers(1, 3, 4, seed=1), numbers(1, 3, 4, seed=2))
    assert verify(LSTM, LSTM.forward(X, state), X, state=state).ok
    report = verify(LSTM, LSTM.forward(X), X, state=state)
    assert [suspect.detail for suspect in report.suspects] == ["the initial state ignored"]


def test_axes_taken_for_each_other_are_named():
    x = numbers(4, 4, 5)
    report = verify(LSTM, lambda x: LSTM.forward(x.swapaxes(0, 1))[0].swapaxes(0, 1), x)
    assert [suspect.name for suspect in report.suspects] == ["axes"]


def test_arrays_of_the_other_order_of_axes_are_read_so_and_it_is_said():
    y = LSTM.forward(X)[0].swapaxes(0, 1)
    report = verify(LSTM, y, X)
    assert report.ok and report.notes == ("the reference's arrays were read as batch-first",)
    assert verify(LSTM, y, X, time_major=False).ok
    assert not verify(LSTM, y, X, time_major=True).ok


def test_an_unbatched_sequence_and_its_state():
    x = X[:, 0].copy()
    y, state = LSTM.forward(x)
    assert verify(LSTM, (y, state), x).ok
    report = verify(LSTM, LSTM.forward(x, state), x, state=state)
    assert report.ok and [row.shape for row in report.rows] == [(1, 6, 4), (1, 1, 4), (1, 1, 4)]
    assert verify(LSTM, LSTM.forward(x, lengths=4)[0], x, lengths=4).ok


MODEL = cylstm.Sequential(
    [("encoder", cylstm.GRU(5, 4, rng=1)), ("norm", cylstm.LayerNorm(4)), cylstm.Last(),
     ("out", cylstm.Dense(4, 2, activation="relu", rng=2))]
)  # fmt: skip
ROWS = numbers(3, 6, 5)  # (N, T, F)


def layers_of(model, x):
    """{name: y}, by the layers themselves."""
    found, y = {}, x
    for name, layer in model._parts:
        y, _, _ = layer._pass(y, None, None, None)
        found[name] = y
    return found


def test_the_first_layer_that_differs_is_found_and_the_mistake_sought_in_it():
    norm = cylstm.LayerNorm(4, eps=1e-3)
    wrong = cylstm.Sequential([(name, norm if name == "norm" else layer) for name, layer in MODEL._parts])
    for reference in (layers_of(wrong, ROWS), list(layers_of(wrong, ROWS).values()), wrong):
        report = verify(MODEL, reference, ROWS)
        assert [row.ok for row in report.rows][:2] == [True, False]
        assert report.first.name == "norm (LayerNorm)"
        assert [(s.name, s.layer, s.detail) for s in report.suspects] == [("epsilon", "norm", "eps=0.001")]
        assert report.tried < 10  # not those of the GRU before it, whose output is known to agree


def test_a_mistake_is_found_from_the_output_of_the_whole_model_alone():
    wrong = cylstm.Sequential(
        [(name, with_options(layer, reset_after=False) if name == "encoder" else layer) for name, layer in MODEL._parts]
    )
    report = verify(MODEL, lambda x: wrong.forward(x)[0], ROWS)
    assert [row.name for row in report.rows] == ["y"]
    assert [(s.name, s.layer) for s in report.suspects] == [("reset_after", "encoder")]


def test_states_and_mistakes_of_layers_made_of_others_have_their_names():
    forward, backward = cylstm.GRU(5, 4, rng=1), cylstm.LSTM(5, 3, reverse=True, rng=2)
    both = cylstm.Bidirectional(forward, backward)
    state = both.forward(ROWS)[1]
    assert verify(both, both.forward(ROWS, state), ROWS, state=state).ok
    wrong = cylstm.Bidirectional(forward, with_options(backward, activations=("hard_sigmoid", "tanh", "tanh")))
    report = verify(both, wrong.forward, ROWS)
    assert [row.name for row in report.rows] == ["y", "forward.h_n", "backward.h_n", "backward.c_n"]
    assert [row.ok for row in report.rows] == [False, True, False, False]
    assert [s.name for s in report.suspects] == ["hard_sigmoid"]
    assert report.suspects[0].detail.endswith("in its backward layer")
    model, other = (cylstm.Sequential([cylstm.Final(layer), cylstm.Dense(7, 2, rng=3)]) for layer in (both, wrong))
    report = verify(model, lambda x: other.forward(x)[0], ROWS)
    assert [(s.name, s.layer) for s in report.suspects] == [("hard_sigmoid", "0")]


def test_a_default_state_that_the_reference_does_not_have_is_named():
    layer = cylstm.GRU(5, 4, batch_first=True, rng=0)
    y, _ = layer.forward(ROWS)
    layer.default_state = numbers(1, 4)
    assert [s.detail for s in verify(layer, y, ROWS).suspects] == ["zeros instead of the default state"]
    session = Session(layer, [Value("x", ["B", "T", 5]), Value("h", [1, "B", 4])])
    with pytest.raises(ValueError, match="the model has default ones: give them as state"):
        verify(layer, session, ROWS)


def test_the_layers_of_models_within_models_have_their_names():
    nested = cylstm.Sequential([("inner", cylstm.Sequential([cylstm.LSTM(5, 4, rng=0)])), cylstm.Dense(4, 2, rng=1)])
    y, _ = nested.forward(ROWS)
    report = verify(nested, {"inner.0": numbers(3, 6, 4), "y": y}, ROWS)
    assert [(row.name, row.ok) for row in report.rows] == [("inner.0 (LSTM)", False), ("y", True)]


def test_a_state_that_differs_where_all_outputs_agree_is_looked_into_in_its_own_layer():
    model = cylstm.Sequential([cylstm.GRU(5, 4, rng=0, empty="zero"), cylstm.GRU(4, 3, rng=1)])
    other = cylstm.Sequential([cylstm.GRU(5, 4, rng=0), cylstm.GRU(4, 3, rng=1)])
    states = [numbers(1, 3, 4), numbers(1, 3, 3)]
    y, (_, second) = model.forward(ROWS, states, [6, 0, 2])
    y_other, (first, _) = other.forward(ROWS, states, [6, 0, 2])
    assert np.array_equal(y_other, y)
    report = verify(model, (y, [first, second]), ROWS, lengths=[6, 0, 2], state=states)
    assert [(row.name, row.ok) for row in report.rows] == [("y", True), ("0.h_n", False), ("1.h_n", True)]
    assert [(s.layer, s.detail) for s in report.suspects] == [("0", "empty='initial'")]


def test_states_of_another_number_are_not_compared_and_it_is_said():
    y, (h_n, _) = LSTM.forward(X)
    report = verify(LSTM, (y, h_n), X)
    assert report.ok and report.notes == ("states were not compared: the reference has 1 of them, the model 2",)


def test_y_beside_an_output_of_the_last_layer_counts():
    y, _ = MODEL.forward(ROWS)
    report = verify(MODEL, {"out": y, "y": y + 1}, ROWS)
    assert [(row.name, row.ok) for row in report.rows] == [("out (Dense)", True), ("y", False)]
    assert report.suspects == ()


def test_an_opened_npz_is_a_reference(tmp_path):
    y, (h_n, c_n) = LSTM.forward(X)
    np.savez(tmp_path / "expected.npz", x=X, y=y, h_n=h_n, c_n=c_n + 1)
    with np.load(tmp_path / "expected.npz") as file:
        report = verify(LSTM, file, X)
    assert [(row.name, row.ok) for row in report.rows] == [("y", True), ("h_n", True), ("c_n", False)]
    assert report.first.first == {"layer": 0, "row": 0, "unit": 0}


class Value:
    """An input of a session."""

    def __init__(self, name, shape, kind="tensor(float)"):
        self.name, self.shape, self.type = name, shape, kind


class Session:
    """What onnxruntime's has: its outputs are those of a layer of ours."""

    def __init__(self, layer, inputs, rank_4=False):
        self.layer, self.inputs, self.rank_4 = layer, inputs, rank_4

    def get_inputs(self):
        return self.inputs

    def run(self, names, feed):
        assert names is None and feed.keys() == {value.name for value in self.inputs}
        x, *others = (feed[value.name] for value in self.inputs)
        lengths = next((array for array in others if array.ndim == 1), None)
        state = tuple(array for array in others if array.ndim == 3) or None
        y, state_n = self.layer.forward(x, state, lengths=lengths)
        if self.rank_4:
            y = y.reshape(*y.shape[:2], -1, self.layer.hidden_size)
            y = y if self.layer.batch_first else y.transpose(0, 2, 1, 3)
        return [y, *state_n]


@pytest.mark.parametrize(
    ("shape", "note"), [(["seq", "batch", 5], ()), (["a", "b", 5], None), ([6, None, 5], ()), (["T", 3, 5], ())]
)
@pytest.mark.parametrize("rank_4", [False, True])
def test_a_session_gets_its_x_time_major_where_its_sizes_or_its_numbers_say_so(shape, note, rank_4):
    report = verify(BOTH, Session(BOTH, [Value("x", shape)], rank_4), X)
    assert report.ok and [row.name for row in report.rows] == ["y", "h_n", "c_n"]
    assert report.notes == (note if note is not None else ("x was given to the session time-major, and y read so",))


def test_a_session_of_layout_1_has_the_batch_first():
    layer = with_options(BOTH, batch_first=True)
    session = Session(layer, [Value("x", ["batch", "seq", 5])], rank_4=True)
    assert verify(layer, session, ROWS).ok
    assert verify(cylstm.Sequential([layer]), session, ROWS).ok


def test_lengths_and_states_go_to_the_inputs_of_their_rank():
    inputs = [Value("n", ["B"], "tensor(int32)"), Value("x", ["T", "B", 5]), Value("h", [2, "B", 4]),
              Value("c", [2, "B", 4])]  # fmt: skip
    session = Session(BOTH, [inputs[1], inputs[0], *inputs[2:]])
    state = (numbers(2, 3, 4, seed=1), numbers(2, 3, 4, seed=2))
    assert verify(BOTH, session, X, lengths=[6, 1, 3], state=state, time_major=True).ok
    assert verify(BOTH, session, X, time_major=True).ok


@pytest.mark.parametrize(("shape", "note"), [(["batch", "seq"], ()), (["a", "b"], ("batch-first",)), ([6, 3], ())])
def test_indices_have_a_time_axis_too(shape, note):
    table, gru = cylstm.Embedding(9, 5, rng=0), cylstm.GRU(5, 4, rng=1)
    time_major = shape[0] == 6

    class Tokens(Session):
        def run(self, names, feed):
            x = feed["x"].T if time_major else feed["x"]
            y, _ = gru.forward(table.forward(x).swapaxes(0, 1), lengths=feed["n"])
            return [y if time_major else y.swapaxes(0, 1)]

    session = Tokens(gru, [Value("x", shape, "tensor(int64)"), Value("n", ["B"], "tensor(int32)")])
    indices = np.arange(18).reshape(3, 6) % 9
    for lengths in (None, [6, 1, 3]):
        report = verify(cylstm.Sequential([table, gru]), session, indices, lengths=lengths)
        assert report.ok and len(report.notes) == len(note)


def test_a_session_has_the_states_of_many_layers_in_one_array(tmp_path):
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    stack, path = cylstm.LSTM(5, 4, 2, rng=0), str(tmp_path / "stack.onnx")
    cylstm.to_onnx(stack, path, states=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    layers = cylstm.from_onnx(path)
    assert len(layers) == 2
    x = X.swapaxes(0, 1).copy()
    assert verify(layers, session, x, time_major=True).ok
    states = [(numbers(1, 3, 4, seed=n), numbers(1, 3, 4, seed=n + 1)) for n in (1, 3)]
    assert verify(layers, session, x, state=states, time_major=True).ok


def test_an_input_that_nobody_knows_asks_for_a_callable():
    session = Session(LSTM, [Value("x", ["T", "B", 5]), Value("sr", [], "tensor(int64)")])
    with pytest.raises(ValueError, match=r"an input 'sr' \[\] of tensor\(int64\).*give a callable"):
        verify(LSTM, session, X)
    with pytest.raises(ValueError, match="none of 3 axes for x"):
        verify(LSTM, Session(LSTM, [Value("x", ["B", 5])]), X)


def test_an_lstm_node_of_onnx_in_onnxruntime():
    onnx, ort = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    p = LSTM.parameters
    arrays = {
        "W": reorder(p["weight_ih_l0"], "ifgo", "iofc")[None], "R": reorder(p["weight_hh_l0"], "ifgo", "iofc")[None],
        "B": np.concatenate([reorder(p[f"bias_{k}_l0"], "ifgo", "iofc") for k in ("ih", "hh")])[None],
    }  # fmt: skip
    graph = helper.make_graph(
        [helper.make_node("LSTM", ["x", "W", "R", "B"], ["y", "h", "c"], hidden_size=4)], "lstm",
        [helper.make_tensor_value_info("x", floats, ["seq", "batch", 5])],
        [helper.make_tensor_value_info(name, floats, None) for name in ("y", "h", "c")],
        [onnx.numpy_helper.from_array(np.ascontiguousarray(a), name) for name, a in arrays.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)])
    model.ir_version = 8
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert verify(LSTM, session, X).ok
    wrong = with_arrays(LSTM, lambda name, a: reorder(a, "ifgo", "iofc"))
    assert "ONNX's" in verify(wrong, session, X).suspects[0].detail


def test_modules_of_torch_are_run_as_they_are_and_stay_as_they_were():
    torch = pytest.importorskip("torch")
    modules = [torch.nn.LSTM(5, 4, batch_first=True, bidirectional=True), torch.nn.LSTM(5, 4), torch.nn.LSTMCell(5, 4)]
    for module in modules:
        layer = cylstm.LSTM(5, 4, bidirectional=getattr(module, "bidirectional", False))
        state = {name: value.detach().numpy() for name, value in module.state_dict().items()}
        layer.load_state_dict({name if "_l0" in name else f"{name}_l0": a for name, a in state.items()})
        report = verify(layer, module, X)
        assert report.ok and [row.name for row in report.rows] == ["y", "h_n", "c_n"]
        assert module.training
        double = with_options(layer, dtype="float64")
        assert verify(double, module, X.astype(np.float64)).tolerance == 2e-5  # the module is in float32
        if hasattr(module, "num_layers"):
            assert verify(layer, module, X, lengths=[4, 6, 1]).ok


@pytest.mark.parametrize("return_state", [False, True])
def test_of_a_model_of_keras_predict_is_asked(return_state):
    class Model:
        named_children = state_dict = None  # where torch is its backend it is a module as well

        def __call__(self, x):
            raise AssertionError("gives a tensor of whatever backend")

        def get_weights(self):
            return []

        def predict(self, x, verbose):
            y, state = MODEL.forward(x)
            return [y, state[0]] if return_state else y

    report = verify(MODEL, Model(), ROWS)
    assert report.ok and [row.name for row in report.rows] == ["y"]


def test_tensors_that_a_module_gave_are_arrays_with_gradients_or_without():
    torch = pytest.importorskip("torch")
    module = torch.nn.LSTM(5, 4)
    layer, x = cylstm.from_torch(module), torch.from_numpy(X)
    y, state = module(x)
    for reference in (y, y.detach(), (y, state), [y], {"y": y, "h_n": state[0], "c_n": state[1]}):
        assert verify(layer, reference, X).ok
    assert verify(layer, lambda x: module(torch.from_numpy(x)), X).ok
    assert verify(layer, y.detach() + 0.5, X).first.max_abs == pytest.approx(0.5, abs=1e-6)


def test_a_module_in_float16_is_held_to_float16s_digits():
    torch = pytest.importorskip("torch")
    for module in (torch.nn.GRU(5, 4), torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh())):
        report = verify(cylstm.from_torch(module.half()), module, X)
        assert report.ok and report.tolerance == 2**-10


def test_children_of_a_sequential_of_torch_are_compared_one_by_one():
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.GRU(5, 4, batch_first=True), torch.nn.Dropout(0.5), torch.nn.Linear(4, 2))
    nested = torch.nn.Sequential(torch.nn.Sequential(module[0], module[1]), module[2])
    gru, dense = cylstm.GRU(5, 4), cylstm.Dense(4, 2)
    gru.load_state_dict({name: value.numpy() for name, value in module[0].state_dict().items()})
    dense.load_state_dict({name: value.numpy() for name, value in module[2].state_dict().items()})
    model = cylstm.Sequential([gru, dense])
    report = verify(model, module, ROWS)
    assert report.ok and [row.name for row in report.rows] == ["0 (GRU)", "1 (Dense)", "y"]
    assert module[1].training
    assert [row.name for row in verify(model, nested, ROWS).rows] == ["0 (GRU)", "1 (Dense)", "y"]
    with pytest.raises(ValueError, match=r"the module does not run on x of shape \(3, 6, 5\)"):
        verify(model, torch.nn.Sequential(torch.nn.Linear(7, 2)), ROWS)
    with dense.writable() as p:
        p["bias"][:] += 1
    report = verify(model, module, ROWS)
    assert report.first.name == "1 (Dense)" and report.first.max_abs == pytest.approx(1)


@pytest.mark.parametrize("batch_first", [False, True])
def test_any_module_of_torch_gets_x_as_the_recurrent_layer_in_it_wants_it(batch_first):
    torch = pytest.importorskip("torch")

    class Tagger(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.out = torch.nn.GRU(5, 4, batch_first=batch_first), torch.nn.Linear(4, 2)

        def forward(self, x):
            y, h_n = self.rnn(x)
            return self.out(y), h_n

    module = Tagger()
    gru, dense = cylstm.GRU(5, 4), cylstm.Dense(4, 2)
    gru.load_state_dict({name: value.numpy() for name, value in module.rnn.state_dict().items()})
    dense.load_state_dict({name: value.numpy() for name, value in module.out.state_dict().items()})
    report = verify(cylstm.Sequential([gru, dense]), module, ROWS)
    assert report.ok and [row.name for row in report.rows] == ["y", "0.h_n"]
    module.out.bias.data += 1
    assert verify(cylstm.Sequential([gru, dense]), module, ROWS).first.max_abs == pytest.approx(1)


@pytest.mark.parametrize(
    ("model", "reference", "options", "error", "message"),
    [
        (None, X, {}, TypeError, "model is a NoneType"),
        (LSTM, None, {}, TypeError, "reference is a NoneType, expected a callable"),
        (LSTM, "text", {}, TypeError, "reference is a str, expected a callable"),
        (LSTM, {"Y": X}, {}, ValueError, "reference has 'Y', expected arrays by name, among 'y'"),
        (LSTM, {"y": X, "h_n": X}, {}, ValueError, "some of the states, expected all or none of h_n, c_n"),
        (LSTM, [X, X], {}, ValueError, "reference is a list of 2, expected 1"),
        (LSTM, [None], {}, ValueError, "reference has no array to compare"),
        (LSTM, lambda x: (x, x, x), {}, ValueError, "a tuple of 3, expected y or"),
        (LSTM, np.array(["a"]), {}, TypeError, "expected numbers"),
        (LSTM, X, {"lengths": [1]}, ValueError, "lengths"),
        (LSTM, X, {"tolerance": -1.0}, ValueError, "tolerance"),
        (cylstm.LSTM(5, 4, bidirectional=True, merge=None), X, {}, ValueError, "whose y is a pair"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(model, reference, options, error, message):
    with pytest.raises(error, match=message.replace("(", r"\(")):
        verify(model, reference, X, **options)


def test_the_table_has_a_line_for_each_array_and_one_for_each_suspect():
    text = repr(verify(LSTM, order("iofg", "ifgo")(LSTM).forward, X))
    lines = text.splitlines()
    assert lines[0].split() == ["array", "shape", "max", "|d|", "scaled", "first", "beyond", "the", "tolerance"]
    assert [line.split()[0] for line in lines[2:5]] == ["y", "h_n", "c_n"]
    assert lines[2].endswith("step 0, row 0, unit 0")
    assert lines[-1].startswith("suspect: gate order: agrees to ")
