"""JAX: jit of lax.scan, the input product for all steps before it, with several unrollings;
gradients by vjp inside one jit, which also changes the bias.

A call runs in the caller's thread: handing it to another one doubles a small step's time. For
inference the weights are constants of the compiled function; for training, arguments.
"""

import os
from functools import partial

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import numpy as np
from shapes import BIAS_CHANGE

from contenders import Job

jax.config.update("jax_cpu_enable_async_dispatch", False)


def _row(gates, c):
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def _forward(parameters, x, h_0, c_0, *, case, unroll):
    """x (T, B, I) -> y (T, B, D*H)."""
    p = parameters
    for layer in range(case.num_layers):
        outputs = []
        for direction, reverse in enumerate((False, True)[: case.directions]):
            suffix = f"l{layer}_reverse" if reverse else f"l{layer}"
            bias = p[f"bias_ih_{suffix}"] + p[f"bias_hh_{suffix}"]
            from_x = x @ p[f"weight_ih_{suffix}"].T + bias
            weight_hh = p[f"weight_hh_{suffix}"].T

            def body(state, from_x_t, weight_hh=weight_hh):
                h, c = state
                h, c = _row(from_x_t + h @ weight_hh, c)
                return (h, c), h

            index = layer * case.directions + direction
            state = (h_0[index], c_0[index])
            _, y = jax.lax.scan(body, state, from_x, reverse=reverse, unroll=unroll)
            outputs.append(y)
        x = jnp.concatenate(outputs, axis=-1) if len(outputs) > 1 else outputs[0]
    return x


def _prepare(case, data, unroll):
    parameters = {name: jnp.asarray(value) for name, value in data.parameters.items()}
    x, h_0, c_0 = (jnp.asarray(array) for array in (data.x, data.h_0, data.c_0))
    if case.kind == "step":
        return _stepping(parameters, x, h_0, c_0)
    forward = partial(_forward, case=case, unroll=unroll)
    if case.kind == "train":
        return _training(forward, parameters, x, h_0, c_0, jnp.asarray(data.dy))
    call = jax.jit(lambda x: forward(parameters, x, h_0, c_0))
    names = {"call": call, "x": x}
    return Job("call(x).block_until_ready()", names, lambda: {"y": np.asarray(call(x))})


def prepare_unroll_1(case, data):
    return _prepare(case, data, 1)


def prepare_unroll_10(case, data):
    return _prepare(case, data, 10)


def _stepping(parameters, x, h, c):
    p = parameters
    bias = p["bias_ih_l0"] + p["bias_hh_l0"]
    weight_ih, weight_hh = p["weight_ih_l0"].T, p["weight_hh_l0"].T
    x, h, c = x[0], h[0], c[0]
    call = jax.jit(lambda x, h, c: _row(x @ weight_ih + h @ weight_hh + bias, c))

    def step():
        nonlocal h, c
        h, c = call(x, h, c)
        return h.block_until_ready()

    return Job("step()", {"step": step}, lambda: {"y": np.asarray(step())[None]})


def _training(forward, parameters, x, h_0, c_0, dy):
    @jax.jit
    def call(parameters, x, h_0, c_0):
        bias = parameters["bias_ih_l0"] + BIAS_CHANGE
        parameters = {**parameters, "bias_ih_l0": bias}
        y, backward = jax.vjp(forward, parameters, x, h_0, c_0)
        return bias, y, backward(dy)

    def iterate():
        bias, y, grads = jax.block_until_ready(call(parameters, x, h_0, c_0))
        parameters["bias_ih_l0"] = bias
        return y, grads

    def check():
        y, (dparameters, dx, dh_0, dc_0) = iterate()
        results = {"y": y, "x": dx, "h_0": dh_0, "c_0": dc_0, **dparameters}
        return {name: np.asarray(value) for name, value in results.items()}

    return Job("iterate()", {"iterate": iterate}, check)
