"""Fit the polynomials of cylstm/_kernels/simd.h: e^r and the small branch of tanh.

    python tools/fit_activations.py        (needs mpmath and NumPy)

It prints, per dtype, coefficients that are already rounded to that dtype, and the largest relative error of
the rounded fit against mpmath. Weighted least squares over Chebyshev nodes, the weights
multiplied by the error in each round (Lawson's algorithm), in 60-digit arithmetic.

    e^r      = 1 + r + r^2 * C(r)             |r| <= ln(2) / 2
    tanh(x)  = x + x^3 * P(x^2) / Q(x^2)      |x| <= bound,   Q(0) = 1
"""

import mpmath
import numpy as np

mpmath.mp.dps = 60
ROUNDS = 12


def chebyshev_nodes(low, high, count):
    return [
        (low + high) / 2 + (high - low) / 2 * mpmath.cos(mpmath.pi * (2 * j + 1) / (2 * count))
        for j in range(count)
    ]


def lawson(rows, targets, scales):
    """Minimise max |scale * (row @ solution - target)|; returns the solution."""
    weights = [mpmath.mpf(1)] * len(rows)
    for _ in range(ROUNDS):
        matrix = mpmath.matrix(len(rows), len(rows[0]))
        right = mpmath.matrix(len(rows), 1)
        for j, (row, target, scale, weight) in enumerate(
            zip(rows, targets, scales, weights, strict=True)
        ):
            factor = mpmath.sqrt(weight) * scale
            right[j] = factor * target
            for k, value in enumerate(row):
                matrix[j, k] = factor * value
        solution = mpmath.lu_solve(matrix, right)
        errors = [
            abs(scale * (mpmath.fdot(row, solution) - target))
            for row, target, scale in zip(rows, targets, scales, strict=True)
        ]
        weights = [w * e for w, e in zip(weights, errors, strict=True)]
        total = sum(weights)
        weights = [w / total for w in weights]
    return list(solution)


def rounded(values, dtype):
    if dtype is np.float32:
        return [mpmath.mpf(float(np.float32(float(v)))) for v in values]
    return [mpmath.mpf(float(v)) for v in values]


def fit_exp(degree, dtype):
    half = mpmath.log(2) / 2
    nodes = [r for r in chebyshev_nodes(-half * 1.01, half * 1.01, 8 * degree) if r != 0]
    rows = [[r**k for k in range(degree - 1)] for r in nodes]
    targets = [(mpmath.exp(r) - 1 - r) / r**2 for r in nodes]
    scales = [r**2 / mpmath.exp(r) for r in nodes]
    coefficients = rounded(lawson(rows, targets, scales), dtype)
    worst = max(
        abs((1 + r + r**2 * mpmath.polyval(coefficients[::-1], r)) / mpmath.exp(r) - 1)
        for r in nodes
    )
    return coefficients, worst


def fit_tanh(p_degree, q_degree, bound, dtype):
    nodes = [mpmath.sqrt(u) for u in chebyshev_nodes(mpmath.mpf(0), mpmath.mpf(bound) ** 2, 80)]
    goal = [(mpmath.tanh(x) - x) / x**3 for x in nodes]
    denominators = [mpmath.mpf(1)] * len(nodes)
    for _ in range(4):
        # P(u) - g * (q1 u + ...) = g, each row divided by the last round's Q: linear in p and q.
        rows = [
            [x ** (2 * k) for k in range(p_degree + 1)]
            + [-g * x ** (2 * k) for k in range(1, q_degree + 1)]
            for x, g in zip(nodes, goal, strict=True)
        ]
        scales = [
            x**3 / mpmath.tanh(x) / d for x, d in zip(nodes, denominators, strict=True)
        ]
        solution = lawson(rows, goal, scales)
        p = solution[: p_degree + 1]
        q = [mpmath.mpf(1), *solution[p_degree + 1 :]]
        denominators = [mpmath.polyval(q[::-1], x * x) for x in nodes]
    p, q = rounded(p, dtype), rounded(q, dtype)
    worst = max(
        abs(
            (x + x**3 * mpmath.polyval(p[::-1], x * x) / mpmath.polyval(q[::-1], x * x))
            / mpmath.tanh(x)
            - 1
        )
        for x in nodes
    )
    return p, q, worst


def show(name, values, dtype):
    suffix = "f" if dtype is np.float32 else ""
    digits = 9 if dtype is np.float32 else 17
    print(f"{name}: " + ", ".join(f"{float(v):.{digits}g}{suffix}" for v in values))


def main():
    for dtype, exp_degree, p_degree, q_degree, bound in (
        (np.float32, 6, 1, 2, "0.75"),
        (np.float64, 11, 2, 3, "0.625"),
    ):
        print(np.dtype(dtype).name)
        coefficients, worst = fit_exp(exp_degree, dtype)
        show("  exp C, low to high", coefficients, dtype)
        print(f"  relative error {float(worst):.2e}")
        p, q, worst = fit_tanh(p_degree, q_degree, bound, dtype)
        show("  tanh P, low to high", p, dtype)
        show("  tanh Q, low to high", q, dtype)
        print(f"  relative error {float(worst):.2e} for |x| <= {bound}")


if __name__ == "__main__":
    main()
