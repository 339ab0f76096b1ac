"""JAX: jit of lax.scan, the input product for all steps before it, with several unrollings;
gradients by vjp inside one jit, which also changes the bias.

A call runs in the caller's thread: handing it to another one doubles a small step's time. For
inference the weights are constants of the compiled function; for training, arguments. Of a ragged batch all steps
are made, and y is set to zero past the lengths.
"""

import os
from functools import partial

from ..cases import BIAS_CHANGE, as_state, by_name, states_of
from ..machine import threads
from . import Job, Unsupported

if threads() == 1:
    one = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {one}".strip()
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import numpy as np

jax.config.update("jax_cpu_enable_async_dispatch", False)


def _lstm(from_x, from_h, state):
    i, f, g, o = jnp.split(from_x + from_h, 4, axis=-1)
    c = jax.nn.sigmoid(f) * state[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def _gru(from_x, from_h, state):
    r_x, z_x, n_x = jnp.split(from_x, 3, axis=-1)
    r_h, z_h, n_h = jnp.split(from_h, 3, axis=-1)
    z = jax.nn.sigmoid(z_x + z_h)
    return ((1 - z) * jnp.tanh(n_x + jax.nn.sigmoid(r_x + r_h) * n_h) + z * state[0],)


def _rnn(from_x, from_h, state):
    return (jnp.tanh(from_x + from_h),)


_ROWS = {"lstm": _lstm, "gru": _gru, "rnn": _rnn}


def _biases(case, parameters, suffix):
    """What is added to x's product, for all steps before the scan, and to h's."""
    of_x, of_h = parameters[f"bias_ih_{suffix}"], parameters[f"bias_hh_{suffix}"]
    return (of_x, of_h) if case.cell == "gru" else (of_x + of_h, jnp.zeros((), of_x.dtype))


def _forward(parameters, x, states, *, case, unroll):
    """x (T, B, I) -> y (T, B, D*H)."""
    row = _ROWS[case.cell]
    for layer in range(case.num_layers):
        outputs = []
        for direction, reverse in enumerate((False, True)[: case.directions]):
            suffix = f"l{layer}_reverse" if reverse else f"l{layer}"
            bias_x, bias_h = _biases(case, parameters, suffix)
            from_x = x @ parameters[f"weight_ih_{suffix}"].T + bias_x
            weight_hh = parameters[f"weight_hh_{suffix}"].T

            def body(state, from_x_t, weight_hh=weight_hh, bias_h=bias_h):
                state = row(from_x_t, state[0] @ weight_hh + bias_h, state)
                return state, state[0]

            state = tuple(state[layer * case.directions + direction] for state in states)
            _, y = jax.lax.scan(body, state, from_x, reverse=reverse, unroll=unroll)
            outputs.append(y)
        x = jnp.concatenate(outputs, axis=-1) if len(outputs) > 1 else outputs[0]
    return x


def _prepare(case, data, unroll):
    jax.config.update("jax_enable_x64", case.dtype == "float64")
    parameters = {name: jnp.asarray(value) for name, value in data.parameters.items()}
    x, *states = (jnp.asarray(array) for array in (data.x, *states_of(case, data).values()))
    states = tuple(states)
    if case.kind == "step":
        return _stepping(case, parameters, x[0], tuple(state[0] for state in states))
    forward = partial(_forward, case=case, unroll=unroll)
    if case.kind == "train":
        return _training(case, forward, parameters, x, states, jnp.asarray(data.dy))
    if case.ragged:
        return _ragged(case, partial(forward, parameters), x, states, jnp.asarray(data.lengths))
    call = jax.jit(lambda x: forward(parameters, x, states))
    names = {"call": call, "x": x}
    return Job("call(x).block_until_ready()", names, lambda: {"y": np.asarray(call(x))})


def _ragged(case, forward, x, states, lengths):
    if case.bidirectional:
        raise Unsupported("ragged batches in one direction: the other one would have to begin at the lengths")
    valid = jnp.arange(case.seq_len)[:, None, None]
    call = jax.jit(lambda x, lengths: jnp.where(valid < lengths[:, None], forward(x, states), 0))
    names = {"call": call, "x": x, "lengths": lengths}
    return Job("call(x, lengths).block_until_ready()", names, lambda: {"y": np.asarray(call(x, lengths))})


def prepare_unroll_1(case, data):
    return _prepare(case, data, 1)


def prepare_unroll_10(case, data):
    return _prepare(case, data, 10)


def _stepping(case, parameters, x, state):
    bias_x, bias_h = _biases(case, parameters, "l0")
    weight_ih, weight_hh = parameters["weight_ih_l0"].T, parameters["weight_hh_l0"].T
    row = _ROWS[case.cell]
    call = jax.jit(lambda x, state: row(x @ weight_ih + bias_x, state[0] @ weight_hh + bias_h, state))

    def step():
        nonlocal state
        state = call(x, state)
        return state[0].block_until_ready()

    return Job("step()", {"step": step}, lambda: {"y": np.asarray(step())[None]})


def _training(case, forward, parameters, x, states, dy):
    @jax.jit
    def call(parameters, x, states):
        bias = parameters["bias_ih_l0"] + BIAS_CHANGE
        parameters = {**parameters, "bias_ih_l0": bias}
        y, backward = jax.vjp(forward, parameters, x, states)
        return bias, y, backward(dy)

    def iterate():
        bias, y, grads = jax.block_until_ready(call(parameters, x, states))
        parameters["bias_ih_l0"] = bias
        return y, grads

    def check():
        y, (dparameters, dx, dstates) = iterate()
        results = {"y": y, "x": dx, **by_name(case, as_state(dstates)), **dparameters}
        return {name: np.asarray(value) for name, value in results.items()}

    return Job("iterate()", {"iterate": iterate}, check)
