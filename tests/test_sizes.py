"""Every size near the edge of a vector, a block or a tile, forwards and backwards, against the reference."""

import numpy as np
import pytest

import cylstm
from cylstm import reference
from cylstm.testing import TOLERANCES, assert_close

# Vectors have 2 to 16 lanes and one row alone is computed in up to 8 of them; 100 fills none.
# 40: of float64 the smallest whose cell runs beside the next product, which has no term left for afterwards (AVX-512)
HIDDEN_SIZES = [*range(1, 18), 31, 32, 33, 40, 63, 64, 65, 100]
INPUT_SIZES = [1, 3, 17]
BATCHES = [1, 2, 5, 7]
SEQ_LEN = 3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("input_size", INPUT_SIZES)
@pytest.mark.parametrize("hidden_size", HIDDEN_SIZES)
def test_outputs_and_gradients_agree_with_the_reference(hidden_size, input_size, dtype):
    check_against_the_reference(input_size, hidden_size, BATCHES, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("input_size", "hidden_size"), [(270, 260), (3, 300), (600, 10), (700, 590)])
def test_layers_that_fit_no_cache_agree_with_the_reference(input_size, hidden_size, dtype):
    check_against_the_reference(input_size, hidden_size, [1, 7, 50], dtype)


def check_against_the_reference(input_size, hidden_size, batches, dtype):
    tolerances = TOLERANCES[np.dtype(dtype)]
    lstm = cylstm.LSTM(input_size, hidden_size, dtype=dtype, rng=1)
    parameters = {name: value.astype(np.float64) for name, value in lstm.parameters.items()}
    for batch in batches:
        rng = np.random.default_rng(batch)

        def draw(*shape, rng=rng):
            return rng.standard_normal(shape).astype(dtype)

        x, dy = draw(SEQ_LEN, batch, input_size), draw(SEQ_LEN, batch, hidden_size)
        state = (draw(1, batch, hidden_size), draw(1, batch, hidden_size))
        dstate = (draw(1, batch, hidden_size), draw(1, batch, hidden_size))

        y, state_n, cache = reference.lstm_forward(
            parameters, x.astype(np.float64), tuple(s.astype(np.float64) for s in state)
        )
        expected = reference.lstm_backward(
            cache, dy.astype(np.float64), tuple(d.astype(np.float64) for d in dstate)
        )

        tape = cylstm.Tape()
        for one in (None, tape):
            y_actual, state_actual = lstm.forward(x, state, tape=one)
            assert_close(y_actual, y.astype(dtype), tolerances.forward, "y")
            for name, actual, wanted in zip(("h_n", "c_n"), state_actual, state_n, strict=True):
                assert_close(actual, wanted.astype(dtype), tolerances.forward, name)

        gradients = lstm.backward(tape, dy, dstate)
        assert_close(gradients.dx, expected.dx.astype(dtype), tolerances.backward, "dx")
        for name, actual, wanted in zip(("dh_0", "dc_0"), gradients.dstate, expected.dstate, strict=True):
            assert_close(actual, wanted.astype(dtype), tolerances.backward, name)
        for name, wanted in expected.parameters.items():
            assert_close(gradients.parameters[name], wanted.astype(dtype), tolerances.backward, f"d{name}")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("hidden_size", HIDDEN_SIZES)
def test_both_directions_agree_with_the_reference_at_every_size(hidden_size, dtype):
    lstm = cylstm.LSTM(3, hidden_size, num_layers=2, bidirectional=True, dtype=dtype, rng=1)
    parameters = {name: value.astype(np.float64) for name, value in lstm.parameters.items()}
    for seq_len in (1, 2):
        x = np.random.default_rng(2).standard_normal((seq_len, 5, 3)).astype(dtype)
        y, state_n, _ = reference.lstm_forward(parameters, x.astype(np.float64))
        y_actual, state_actual = lstm.forward(x)
        forward = TOLERANCES[np.dtype(dtype)].forward
        assert_close(y_actual, y.astype(dtype), forward, "y")
        for name, actual, wanted in zip(("h_n", "c_n"), state_actual, state_n, strict=True):
            assert_close(actual, wanted.astype(dtype), forward, name)
