"""Known accuracy: sigmoid and tanh at every instruction-set level, against float64 and mpmath.

A level is forced in a process of its own: as a script, this file measures the level in force and prints
JSON. float32 is swept here by every 997th of the 2^32 inputs and all of some regions;
tools/sweep_activations.py takes all of them.
"""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import mpmath
import numpy as np
import pytest

import cylstm
from cylstm import reference
from cylstm._core import dispatch
from cylstm.testing import TOLERANCES, assert_close

LEVELS = dispatch.supported_levels()
FUNCTIONS = ["sigmoid", "tanh"]
DTYPES = ["float32", "float64"]

# Largest error in units of the last place. The portable level rounds each product on its own and was measured
# within the same bounds: of what it rounds, almost all is a small correction of a large term.
BOUNDS = {
    ("sigmoid", "float32"): 2.5,
    ("tanh", "float32"): 1.5,
    ("sigmoid", "float64"): 2.5,
    ("tanh", "float64"): 2.5,
}
SUBNORMAL_BOUND = 1.0  # of results below the smallest normal number, in units of the smallest subnormal one


# What is measured -------------------------------------------------------------------------------


def patterns(first, last, step=1):
    """The float32 numbers whose bits, as an integer, are first, first + step, ... below last."""
    return np.arange(first, last, step, dtype=np.uint64).astype(np.uint32).view(np.float32)


def around(value, count=1 << 16):
    """float32 neighbours of ``value`` and of its negative."""
    middle = int(np.float32(value).view(np.uint32))
    some = patterns(max(middle - count, 0), middle + count)
    return np.concatenate([-some[::-1], some])


def float32_inputs():
    """Finite ones."""
    # branches, saturation, subnormal results, reduction by multiples of ln 2, and the smallest numbers
    edges = [0.0, 1e-20, 0.25, 0.625, 0.75, 1.0, 2.0, 3.4, 8.66, 9.01, 10.0, 16.6, 17.3]
    edges += [87.34, 88.7, 103.28, 104.0]
    logs = [(k + 0.5) * float(mpmath.log(2)) for k in range(0, 30)]
    regions = [around(edge) for edge in edges] + [around(log, 1 << 10) for log in logs]
    x = np.concatenate([patterns(0, 1 << 32, 997), *regions])
    return x[np.isfinite(x)]


def float64_inputs():
    """A few thousand: random ones of every size, and neighbours of the places where something changes."""
    rng = np.random.default_rng(1)
    x = [
        rng.uniform(-1, 1, 800),
        rng.uniform(-45, 45, 800),
        rng.uniform(-760, 760, 400),
        10 ** rng.uniform(-323, 308, 400),
        10 ** rng.uniform(-10, 0, 400),
        [5e-324, 2.2250738585072014e-308, 1.7976931348623157e308],
    ]
    edges = [0.625, 0.75, 1.0, 18.7, 19.06, 20.0, 36.74, 37.5, 40.0, 708.4, 709.78, 745.13, 746.0]
    edges += [(k + 0.5) * float(mpmath.log(2)) for k in range(0, 60, 3)]
    x += [edge + np.spacing(edge) * np.arange(-20, 21) for edge in edges]
    x = np.concatenate(x)
    return np.concatenate([x, -x])


def exact_sigmoid(x):
    """1 / (1 + e^-x) in float64, without cancellation in either tail."""
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1.0) / (1.0 + e)


def float32_errors(name, x, y):
    """(error in ulp, whether the result is normal), by float64, whose own error does not count here."""
    exact = {"sigmoid": exact_sigmoid, "tanh": np.tanh}[name](x.astype(np.float64))
    is_normal = np.abs(exact) >= 2.0**-126
    ulp = np.exp2(np.maximum(np.frexp(exact)[1] - 1, -126) - 23.0)
    return np.abs(y - exact) / ulp, is_normal


def float64_errors(name, x, y):
    """The same by mpmath."""
    mpmath.mp.prec = 150
    errors, is_normal = [], []
    for x_j, y_j in zip(x.tolist(), y.tolist(), strict=True):
        if name == "tanh":
            # tanh loses the digits of a tiny x; the next term of the series, x^5, is far below its last place
            exact = mpmath.tanh(x_j) if abs(x_j) > 1e-8 else x_j - mpmath.mpf(x_j) ** 3 / 3
        else:
            exact = 1 / (1 + mpmath.exp(-mpmath.mpf(x_j)))
        exponent = mpmath.frexp(exact)[1] - 1 if exact else -1074
        errors.append(float(abs(y_j - exact) / mpmath.mpf(2) ** (max(exponent, -1022) - 52)))
        is_normal.append(exponent >= -1022)
    return np.array(errors), np.array(is_normal)


def largest_drop(x, y):
    """By how many ulp the results ever fall from one input to the next greater one."""
    order = np.argsort(x, kind="stable")
    y = y[order]
    return float(np.max((y[:-1] - y[1:]) / np.spacing(np.abs(y[1:])), initial=0.0))


def measure():
    """f"{function}-{dtype}-{quantity}" -> number, of the level in force."""
    found = {"level": dispatch.level}
    for dtype, inputs, errors_of in (
        ("float32", float32_inputs(), float32_errors),
        ("float64", float64_inputs(), float64_errors),
    ):
        specials = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0], dtype)
        # one odd array length after the other, so that a special value meets every lane
        shifts = [np.concatenate([np.zeros(k, dtype), specials]) for k in range(17)]
        for name in FUNCTIONS:

            def record(quantity, value, name=name, dtype=dtype):
                found[f"{name}-{dtype}-{quantity}"] = value

            y = cylstm.Activation(name).forward(inputs)
            errors, is_normal = errors_of(name, inputs, y)
            record("normal", float(np.max(errors[is_normal])))
            record("subnormal", float(np.max(errors[~is_normal], initial=0.0)))
            record("least", float(y.min()))
            record("largest", float(y.max()))
            record("drop", largest_drop(inputs, y))
            record("differ when negated", int(np.count_nonzero(cylstm.Activation(name).forward(-inputs) != -y)))
            record("specials", [cylstm.Activation(name).forward(shift)[-5:].tolist() for shift in shifts])
            record(
                "sign of -0", [float(np.copysign(1, cylstm.Activation(name).forward(shift)[-1])) for shift in shifts]
            )
            moved = 0
            x = np.random.default_rng(2).choice(inputs, 40)
            alone = np.concatenate([cylstm.Activation(name).forward(x[j : j + 1]) for j in range(40)])
            for count in range(1, 41):
                for first in range(0, 41 - count):
                    part = cylstm.Activation(name).forward(x[first : first + count])
                    moved += part.tobytes() != alone[first : first + count].tobytes()
            record("differ by position", moved)
    return found


@functools.cache
def measured(level):
    package = str(Path(cylstm.__file__).parents[1])
    search = os.pathsep.join([package, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    result = subprocess.run(
        [sys.executable, __file__],
        env={**os.environ, "CYLSTM_ISA": level, "PYTHONPATH": search},
        check=True,
        stdout=subprocess.PIPE,
        timeout=1800,  # long enough for an emulated processor
    )
    found = json.loads(result.stdout)
    assert found["level"] == level
    return found


levels = pytest.mark.parametrize("level", LEVELS)
functions = pytest.mark.parametrize("name", FUNCTIONS)
dtypes = pytest.mark.parametrize("dtype", DTYPES)


# What must hold ---------------------------------------------------------------------------------


@dtypes
@functions
@levels
def test_the_error_is_within_the_bound(level, name, dtype):
    assert measured(level)[f"{name}-{dtype}-normal"] <= BOUNDS[name, dtype]


@dtypes
@functions
@levels
def test_the_error_of_a_subnormal_result_is_within_one_unit(level, name, dtype):
    assert measured(level)[f"{name}-{dtype}-subnormal"] <= SUBNORMAL_BOUND


@dtypes
@levels
def test_sigmoid_is_between_0_and_1(level, dtype):
    found = measured(level)
    assert found[f"sigmoid-{dtype}-least"] == 0
    assert found[f"sigmoid-{dtype}-largest"] == 1


@dtypes
@levels
def test_tanh_is_between_minus_1_and_1(level, dtype):
    found = measured(level)
    assert found[f"tanh-{dtype}-least"] == -1
    assert found[f"tanh-{dtype}-largest"] == 1


@dtypes
@levels
def test_tanh_is_odd_to_the_bit(level, dtype):
    assert measured(level)[f"tanh-{dtype}-differ when negated"] == 0


@dtypes
@functions
@levels
def test_a_greater_input_gives_no_lesser_result_but_for_one_ulp(level, name, dtype):
    assert measured(level)[f"{name}-{dtype}-drop"] <= 1


@dtypes
@functions
@levels
def test_nan_is_kept_and_infinities_saturate(level, name, dtype):
    expected = {"sigmoid": [np.nan, 1.0, 0.0, 0.5, 0.5], "tanh": [np.nan, 1.0, -1.0, 0.0, 0.0]}[name]
    for row in measured(level)[f"{name}-{dtype}-specials"]:
        np.testing.assert_array_equal(row, expected)


@dtypes
@levels
def test_tanh_keeps_the_sign_of_zero(level, dtype):
    assert set(measured(level)[f"tanh-{dtype}-sign of -0"]) == {-1.0}


@dtypes
@functions
@levels
def test_the_position_in_a_vector_does_not_matter(level, name, dtype):
    assert measured(level)[f"{name}-{dtype}-differ by position"] == 0


# relu and softmax, at the level in force ---------------------------------------------------------


@dtypes
def test_relu_is_the_greater_of_x_and_zero_and_keeps_nan(dtype):
    x = np.array([-np.inf, -1.5, -0.0, 0.0, 2.5, np.inf, np.nan] * 5, dtype)
    for count in range(1, x.size + 1):
        y = cylstm.Activation("relu").forward(x[:count])
        np.testing.assert_array_equal(y, np.maximum(x[:count], 0))


@dtypes
@pytest.mark.parametrize("count", [1, 2, 7, 16, 33])
@pytest.mark.parametrize("scale", [1.0, 30.0, 1e30])
def test_softmax_agrees_with_the_reference(scale, count, dtype):
    x = (scale * np.random.default_rng(3).standard_normal(count)).astype(dtype)
    expected = reference.softmax(x.astype(np.float64)).astype(dtype)
    assert_close(cylstm.Activation("softmax").forward(x), expected, TOLERANCES[np.dtype(dtype)].forward, "softmax")


@dtypes
def test_softmax_of_equal_elements_is_one_over_their_number(dtype):
    for count in (1, 2, 4, 8, 64):  # whose inverses are exact
        y = cylstm.Activation("softmax").forward(np.full(count, -3.25, dtype))
        np.testing.assert_array_equal(y, np.full(count, 1 / count, dtype))


@dtypes
def test_softmax_of_nan_anywhere_is_nan_everywhere(dtype):
    for at in range(19):
        x = np.zeros(19, dtype)
        x[at] = np.nan
        assert np.isnan(cylstm.Activation("softmax").forward(x)).all()


@dtypes
def test_softmax_gives_nothing_to_minus_infinity(dtype):
    y = cylstm.Activation("softmax").forward(np.array([-np.inf, 0.0, -np.inf, 0.0], dtype))
    np.testing.assert_array_equal(y, np.array([0.0, 0.5, 0.0, 0.5], dtype))


if __name__ == "__main__":
    json.dump(measure(), sys.stdout)
