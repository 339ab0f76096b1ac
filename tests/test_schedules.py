"""Learning rates by hand and PyTorch's, and what is kept of them."""

import math
import pickle
import runpy
from pathlib import Path

import pytest

from cylstm import schedules
from cylstm.schedules import ReduceOnPlateau, Schedule, constant, cosine, step_decay, warmup

GOLDEN = Path(__file__).parent / "golden"
CASES = runpy.run_path(str(GOLDEN / "store.py"))["load"](GOLDEN / "schedules.npz")


def rates(schedule, count):
    return [schedule(step) for step in range(count)]


def reported(schedule, values):
    """The learning rate after each value."""
    path = []
    for value in values:
        schedule.update(value)
        path.append(schedule(0))
    return path


# By hand ------------------------------------------------------------------------------------------


def test_a_constant_is_the_same_at_every_step():
    assert rates(constant(0.25), 3) == [0.25, 0.25, 0.25]


def test_a_step_decay_multiplies_after_every_step_size():
    assert rates(step_decay(1.0, 2, 0.25), 6) == [1.0, 1.0, 0.25, 0.25, 0.0625, 0.0625]


def test_a_cosine_goes_down_in_a_half_wave_and_stays():
    """(1 + cos 60 degrees) / 2 = 3/4."""
    schedule = cosine(1.0, 3, lr_min=0.2)
    assert rates(schedule, 5) == pytest.approx([1.0, 0.2 + 0.8 * 3 / 4, 0.2 + 0.8 / 4, 0.2, 0.2], rel=1e-15)
    assert schedule(10**9) == 0.2


def test_a_warm_up_is_a_line_that_begins_above_zero_and_then_the_other_schedule():
    assert rates(warmup(step_decay(1.0, 2, 0.5), 3), 8) == [0.25, 0.5, 0.75, 1.0, 1.0, 0.5, 0.5, 0.25]


def test_a_warm_up_of_a_number_or_a_function_is_one_of_a_schedule():
    assert rates(warmup(1.0, 1), 3) == [0.5, 1.0, 1.0]
    assert rates(warmup(lambda step: 8.0 + step, 1), 3) == [4.0, 8.0, 9.0]
    assert rates(warmup(1.0, 0), 2) == [1.0, 1.0]


def test_a_plateau_is_more_than_patience_epochs_without_a_better_value():
    schedule = ReduceOnPlateau(1.0, factor=0.5, patience=2)
    assert reported(schedule, [5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0]) == [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25]


def test_a_better_value_begins_the_count_anew():
    schedule = ReduceOnPlateau(1.0, factor=0.5, patience=1)
    assert reported(schedule, [5.0, 5.0, 4.0, 4.0, 3.0, 3.0, 3.0]) == [1.0] * 6 + [0.5]


def test_better_is_by_more_than_the_threshold_times_the_size_of_the_best():
    for sign in (1.0, -1.0):
        best = 8.0 * sign
        schedule = ReduceOnPlateau(1.0, factor=0.5, patience=0, threshold=0.25)
        assert reported(schedule, [best, best - 2.0]) == [1.0, 0.5]
        schedule = ReduceOnPlateau(1.0, factor=0.5, patience=0, threshold=0.25)
        assert reported(schedule, [best, best - 2.5]) == [1.0, 1.0]


def test_nan_is_never_better_and_infinity_may_be_the_first():
    assert reported(ReduceOnPlateau(1.0, 0.5, patience=0), [math.nan, 3.0, math.nan]) == [0.5, 0.5, 0.25]
    assert reported(ReduceOnPlateau(1.0, 0.5, patience=0), [math.inf, 3.0]) == [0.5, 0.5]


def test_epochs_of_the_cooldown_do_not_count():
    schedule = ReduceOnPlateau(1.0, factor=0.5, patience=0, cooldown=2)
    assert reported(schedule, [5.0] * 6) == [1.0, 0.5, 0.5, 0.5, 0.25, 0.25]


def test_nothing_is_reduced_below_the_least():
    assert reported(ReduceOnPlateau(1.0, 0.5, patience=0, lr_min=0.3), [5.0] * 4) == [1.0, 0.5, 0.3, 0.3]


@pytest.mark.parametrize("schedule", [constant(0.5), step_decay(0.5, 1), cosine(0.5, 9), warmup(0.5, 3)])
def test_a_schedule_of_steps_does_not_mind_the_loss(schedule):
    before = rates(schedule, 12)
    schedule.update(math.nan)
    assert rates(schedule, 12) == before


# PyTorch's ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("case", "schedule"), [
    ("step", step_decay(0.5, 3, 0.5)),
    ("cosine", cosine(0.5, 19, 0.125)),
    ("linear", warmup(0.5, 8)),
])  # fmt: skip
def test_the_learning_rate_of_every_step_is_that_of_pytorch(case, schedule):
    expected = CASES[case][1]["rates"]
    # PyTorch multiplies its way from one rate to the next
    assert rates(schedule, len(expected)) == pytest.approx(list(expected), rel=1e-13)


@pytest.mark.parametrize("case", ["plateau", "plateau_max"])
def test_the_learning_rate_of_every_epoch_is_that_of_pytorch(case):
    about, arrays = CASES[case]
    options = {"lr_min" if name == "min_lr" else name: value for name, value in about["options"].items()}
    schedule = ReduceOnPlateau(0.5, **options)
    expected = list(arrays["rates"])
    assert [0.5, *reported(schedule, arrays["values"])][:-1] == expected
    assert len(set(expected)) > 2


# Keeping them -------------------------------------------------------------------------------------

SCHEDULES = [
    "constant(lr=0.1)",
    "step_decay(lr=0.1, step_size=3, gamma=0.5)",
    "cosine(lr=0.1, total_steps=30, lr_min=0.01)",
    "warmup(schedule=cosine(lr=0.1, total_steps=30, lr_min=0.01), steps=3)",
    "warmup(schedule=0.1, steps=3)",
    "ReduceOnPlateau(lr=1.0, factor=0.5, patience=3, threshold=0.1, mode='max', cooldown=2, lr_min=0.0, monitor='mae')",
]


@pytest.mark.parametrize("text", SCHEDULES)
def test_the_repr_is_the_call_that_makes_it(text):
    assert repr(eval(text)) == text


@pytest.mark.parametrize("text", SCHEDULES)
def test_a_schedule_is_pickled_with_its_state(text):
    schedule = eval(text)
    reported(schedule, [1.0, 1.0, 0.5, 0.25, 0.25])
    other = pickle.loads(pickle.dumps(schedule))
    assert (repr(other), other.state_dict(), rates(other, 40)) == (text, schedule.state_dict(), rates(schedule, 40))


@pytest.mark.parametrize("wrap", [lambda schedule: schedule, lambda schedule: warmup(schedule, 0)])
@pytest.mark.parametrize("seen", range(8))
def test_a_plateau_goes_on_from_its_state(seen, wrap):
    values = [5.0, 6.0, 6.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0]
    one, other = (wrap(ReduceOnPlateau(1.0, 0.5, patience=1, cooldown=1)) for _ in range(2))
    reported(one, values[:seen])
    other.load_state_dict(one.state_dict())
    assert reported(other, values[seen:]) == reported(one, values[seen:])


def test_the_state_is_of_numbers():
    schedule = ReduceOnPlateau(1.0, 0.5, patience=0, cooldown=3)
    reported(schedule, [4.0, 5.0, 5.0])
    assert schedule.state_dict() == {"lr": 0.5, "best": 4.0, "waited": 0, "cooling": 2}
    assert constant(0.5).state_dict() == {"lr": 0.5}
    assert cosine(0.5, 9).state_dict() == {}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"lr": math.nan}, ValueError, "lr is nan"),
        ({"best": "low"}, TypeError, "best is 'low', expected a number"),
        ({"waited": -1}, ValueError, "waited is -1, expected an integer of at least 0"),
        ({"cooling": 0.5}, TypeError, "cooling is 0.5, expected an integer"),
        ({"more": 1}, ValueError, "state names do not match this schedule; unexpected: more"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_whole(change, error, message):
    schedule = ReduceOnPlateau(1.0)
    given = {"lr": 0.5, "best": 4.0, "waited": 1, "cooling": 2}
    before = schedule.state_dict()
    with pytest.raises(error, match=message):
        schedule.load_state_dict(given | change)
    assert schedule.state_dict() == before
    with pytest.raises(ValueError, match="missing: lr"):
        constant(1.0).load_state_dict({})


def test_a_schedule_of_ones_own_needs_a_call_alone():
    class Inverse(Schedule):
        def __init__(self, lr):
            self.lr = lr

        def __call__(self, step):
            return self.lr / (1 + step)

    schedule = warmup(Inverse(1.0), 1)
    schedule.update(3.0)
    schedule.load_state_dict(schedule.state_dict())
    assert rates(schedule, 4) == [0.5, 1.0, 0.5, 1 / 3]
    assert repr(schedule) == "warmup(schedule=Inverse(lr=1.0), steps=1)"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: constant(-1), ValueError, "lr is -1, expected a number in"),
        (lambda: step_decay(0.1, 0), ValueError, "step_size is 0, expected an integer of at least 1"),
        (lambda: step_decay(0.1, 3, 1.5), ValueError, "gamma is 1.5"),
        (lambda: cosine(0.1, 3.5), TypeError, "total_steps is 3.5, expected an integer"),
        (lambda: cosine(0.1, 3, 0.2), ValueError, r"lr_min is 0.2, expected a number in \[0, 0.1\]"),
        (lambda: warmup("fast", 3), TypeError, "lr is 'fast', expected a number"),
        (lambda: warmup(0.1, -1), ValueError, "steps is -1"),
        (lambda: ReduceOnPlateau(0.1, factor=1.0), ValueError, "factor is 1.0"),
        (lambda: ReduceOnPlateau(0.1, patience=-1), ValueError, "patience is -1"),
        (lambda: ReduceOnPlateau(0.1, threshold=-1), ValueError, "threshold is -1"),
        (lambda: ReduceOnPlateau(0.1, mode="best"), ValueError, "mode is 'best', expected one of 'min', 'max'"),
        (lambda: ReduceOnPlateau(0.1, cooldown=None), TypeError, "cooldown is None"),
        (lambda: ReduceOnPlateau(0.1, lr_min=0.2), ValueError, "lr_min is 0.2"),
        (lambda: ReduceOnPlateau(0.1).update("low"), TypeError, "value is 'low', expected a number"),
        (lambda: schedules.as_schedule(None), TypeError, "lr is None, expected a number"),
    ],
)
def test_a_wrong_argument_is_refused_by_its_name(call, error, message):
    with pytest.raises(error, match=f"^{message}"):
        call()
