"""Hold the float32 sigmoid and tanh against float64 for every one of the 2^32 inputs.

    python tools/sweep_activations.py [sigmoid] [tanh] [--every N]      (both functions if none is named)

CYLSTM_ISA chooses the instruction-set level. It prints, per function, the largest error in units of the last
place and the input it belongs to, separately for results that are normal numbers and for those below 2^-126,
and a hash of all outputs: levels with a fused multiply-add print the same one. The exit status is 1 if an
error is above the bound, or a result outside of the function's range or a NaN where there should be none.
One function takes some minutes.
"""

import argparse
import hashlib
import sys

import numpy as np

import cylstm
from cylstm._core import dispatch

BLOCK = 1 << 18  # inputs at once: their float64 arrays stay in a cache
SMALLEST_NORMAL = 2.0**-126

# name -> (largest error in ulp of a normal result, of a subnormal one, least value, largest value)
BOUNDS = {"sigmoid": (2.5, 1.0, 0.0, 1.0), "tanh": (1.5, 1.5, -1.0, 1.0)}


def exact_sigmoid(x):
    """1 / (1 + e^-x) in float64, without cancellation in either tail."""
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1.0) / (1.0 + e)


EXACT = {"sigmoid": exact_sigmoid, "tanh": np.tanh}


def ulps(actual, exact):
    """|actual - exact| in units of float32's last place at ``exact``, where both are finite."""
    exponent = np.abs(exact).view(np.int64) >> 52  # biased, of float64
    power = np.maximum(exponent, 1023 - 126) - 23
    return np.abs(actual - exact) / (power << 52).view(np.float64)


def sweep(name, every):
    """Print what was found; returns whether all of it is within the bounds."""
    normal_bound, subnormal_bound, least, largest = BOUNDS[name]
    worst = {"normal": (-1.0, 0.0), "subnormal": (-1.0, 0.0)}
    outside = wrong_nans = 0
    digest = hashlib.blake2b(digest_size=16)
    for start in range(0, 1 << 32, BLOCK * every):
        stop = min(start + BLOCK * every, 1 << 32)
        x = np.arange(start, stop, every, dtype=np.uint64).astype(np.uint32).view(np.float32)
        y = cylstm.Activation(name).forward(x)
        nan = np.isnan(y)
        wrong_nans += int(np.count_nonzero(nan != np.isnan(x)))
        if nan.any():
            x, y = x[~nan], y[~nan]
        digest.update(y)
        outside += int(np.count_nonzero((y < least) | (y > largest)))
        exact = EXACT[name](x.astype(np.float64))
        error = ulps(y.astype(np.float64), exact)
        is_normal = np.abs(exact) >= SMALLEST_NORMAL
        for kind, selected in (("normal", is_normal), ("subnormal", ~is_normal)):
            candidates = np.where(selected, error, -1.0)
            if candidates.size and candidates.max() > worst[kind][0]:
                at = int(np.argmax(candidates))
                worst[kind] = (float(candidates[at]), float(x[at]))
    good = (
        worst["normal"][0] <= normal_bound
        and worst["subnormal"][0] <= subnormal_bound
        and not outside
        and not wrong_nans
    )
    print(f"{name}, level {dispatch.level}, every {every} of 2^32 inputs: {'good' if good else 'BAD'}")
    for kind, bound in (("normal", normal_bound), ("subnormal", subnormal_bound)):
        error, at = worst[kind]
        print(f"  {kind:9} results: {error:.4f} ulp at x = {at!r} = {at.hex()} (bound {bound})")
    print(f"  outside of [{least:g}, {largest:g}]: {outside}   NaN missing or too many: {wrong_nans}")
    print(f"  hash of all results but NaNs: {digest.hexdigest()}", flush=True)
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("functions", nargs="*", metavar="{sigmoid,tanh}")
    parser.add_argument("--every", type=int, default=1, help="take every N-th input only")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.functions) - set(BOUNDS))
    if unknown:
        parser.error(f"unknown functions: {', '.join(unknown)}")
    with np.errstate(all="ignore"):
        results = [sweep(name, arguments.every) for name in arguments.functions or BOUNDS]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
