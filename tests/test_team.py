"""Two threads that share out the hidden units of a step: the same bits, whether, when and how long they do."""

import threading

import numpy as np
import pytest
from cylstm._core.team import Team

import cylstm
from cylstm import parallel
from cylstm._core import sequence, stack


@pytest.fixture
def shared(monkeypatch):
    """Every pass of few rows is shared by two threads."""
    monkeypatch.setattr(stack, "SHARED_BYTES", 0)
    monkeypatch.setattr(stack, "PARALLEL_OPERATIONS", 0)
    monkeypatch.setattr(stack, "BUSY_SECONDS", 0.0)
    before = parallel.get_num_threads()
    yield
    cylstm.set_num_threads(before)


def on_threads(n, function):
    cylstm.set_num_threads(n)
    return function()


def flat(result):
    y, states = result
    return [y, *(states if isinstance(states, tuple) else (states,))]


def assert_same_bits(first, second):
    for a, b in zip(flat(first), flat(second), strict=True):
        assert a.tobytes() == b.tobytes()


@pytest.fixture
def teams(monkeypatch):
    """All teams that are made."""
    made = []

    class Recorded(Team):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr(stack, "Team", Recorded)
    return made


@pytest.mark.parametrize("cell", [cylstm.LSTM, cylstm.GRU])
def test_same_tape(shared, teams, cell):
    layer = cell(5, 40, rng=0, dtype="float64")
    rng = np.random.default_rng(1)
    x, dy = rng.standard_normal((2000, 2, 5)), rng.standard_normal((2000, 2, 40))
    tape = cylstm.Tape()

    def gradients():
        y, _ = layer.forward(x, tape=tape)
        return y, layer.backward(tape, dy)

    y, alone = on_threads(1, gradients)
    for _ in range(100):  # until the helper was there in time
        y_shared, together = on_threads(2, gradients)
        assert y_shared.tobytes() == y.tobytes()
        if teams[-1].shared[0] < len(x):
            break
    else:
        pytest.fail("no step was shared")
    assert alone.dx.tobytes() == together.dx.tobytes()
    for name, gradient in alone.parameters.items():
        assert together.parameters[name].tobytes() == gradient.tobytes()


@pytest.mark.parametrize(
    "options",
    [
        {"proj_size": 4},
        {"peepholes": True},
        {"layer_norm": "joint"},
        {"clip": {"cell": 0.5}},
        {"zoneout_h": 0.1},
        {"reverse": True},
    ],
    ids=str,
)
def test_options_are_right_whether_they_share_or_not(shared, options):
    layer = cylstm.LSTM(5, 40, rng=0, **options)
    x = np.random.default_rng(1).standard_normal((30, 1, 5)).astype("float32")
    assert_same_bits(on_threads(1, lambda: layer.forward(x)), on_threads(2, lambda: layer.forward(x)))


@pytest.mark.parametrize("hidden_size", [100, 300])
def test_halves_whose_blocks_are_worked_on_otherwise_than_those_of_all(shared, teams, hidden_size):
    # float32, AVX-512: of 100 units W_hh comes from L2, of half of them from L1; of 300 from beyond L2, and from L2
    layer = cylstm.LSTM(5, hidden_size, rng=0)
    x = np.random.default_rng(1).standard_normal((2000, 1, 5)).astype("float32")
    alone = on_threads(1, lambda: layer.forward(x))
    for _ in range(100):  # until the helper was there in time
        together = on_threads(2, lambda: layer.forward(x))
        assert_same_bits(alone, together)
        if teams[-1].shared[0] < len(x):
            return
    pytest.fail("no step was shared")


def test_lengths(shared):
    layer = cylstm.LSTM(5, 40, rng=0)
    x = np.random.default_rng(1).standard_normal((30, 3, 5)).astype("float32")

    def forward():
        return layer.forward(x, lengths=[30, 0, 11])

    assert_same_bits(on_threads(1, forward), on_threads(2, forward))


class OnePass:
    """A layer, 500 steps, and what its forward pass is called with, so that a test can be both threads."""

    STEPS = 500

    def __init__(self, cell=cylstm.LSTM, hidden_size=40, batch=1, dtype="float32"):
        self.layer = cell(5, hidden_size, rng=0, dtype=dtype)
        self.x = np.random.default_rng(1).standard_normal((self.STEPS, batch, 5)).astype(dtype)
        self.weights = self.layer._packed(self.layer._store.snapshot)[0]
        assert sequence.can_share_units(self.weights)
        self.cancellation = sequence.Cancellation()
        self.team = Team(self.STEPS, self.cancellation)
        self.y = np.full((self.STEPS, batch, hidden_size), np.nan, dtype)
        self.states = sequence.new_states(self.weights, 1, batch, None)

    def forward(self, helper):
        sequence.infer(
            self.weights, self.x, self.y, self.states, 0, None, None, False, 0, self.x.shape[1], self.cancellation,
            self.team, helper,
        )  # fmt: skip

    def forward_with_helper(self):
        thread = threading.Thread(target=self.forward, args=(True,))
        thread.start()
        while not self.team.helper_is_here:
            pass
        self.forward(helper=False)
        thread.join(60)
        assert not thread.is_alive()

    def check(self):
        cylstm.set_num_threads(1)
        y, states = self.layer.forward(self.x)
        assert self.y.tobytes() == y.tobytes()
        found = sequence.final_states(self.weights, self.states, self.STEPS)
        for state, expected in zip(found, states if isinstance(states, tuple) else [states], strict=True):
            assert state.tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("batch", [1, 3, 7])
@pytest.mark.parametrize(
    ("cell", "hidden_size"),
    [(cylstm.LSTM, 40), (cylstm.LSTM, 100), (cylstm.GRU, 65), (cylstm.GRU, 200), (cylstm.RNN, 200)],
)
def test_shared_steps_have_the_same_bits(shared, cell, hidden_size, batch, dtype):
    one = OnePass(cell, hidden_size, batch, dtype)
    one.forward_with_helper()
    first, end = one.team.shared
    assert 0 < first < end  # the leader begins alone; a busy machine may end it early
    one.check()


def test_helper_that_does_not_come(shared):
    one = OnePass()
    one.forward(helper=False)
    assert one.team.shared == (one.STEPS, one.STEPS)
    one.check()


def test_helper_that_comes_after_the_end(shared):
    one = OnePass()
    one.forward(helper=False)
    one.forward(helper=True)
    one.check()


def test_slow_helper_is_left(shared):
    one = OnePass()
    one.team.slow = True  # as the leader notes it where it had to wait
    one.forward_with_helper()
    first, end = one.team.shared
    assert first > 0
    assert end == first + 1 < one.STEPS
    one.check()


def test_helper_ends_when_the_call_is_cancelled(shared):
    one = OnePass()
    thread = threading.Thread(target=one.forward, args=(True,))
    thread.start()
    one.cancellation.request()
    thread.join(60)
    assert not thread.is_alive()


def test_a_busy_machine_is_left_alone_for_a_while(shared, monkeypatch):
    monkeypatch.setattr(stack, "BUSY_SECONDS", 1000.0)
    monkeypatch.setattr(stack, "_busy_until", 0.0)
    teams = []

    class SlowTeam(Team):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.slow = True
            teams.append(self)

    monkeypatch.setattr(stack, "Team", SlowTeam)
    layer = cylstm.LSTM(5, 40, rng=0)
    x = np.zeros((30, 1, 5), "float32")
    on_threads(2, lambda: layer.forward(x))
    on_threads(2, lambda: layer.forward(x))
    assert len(teams) == 1
