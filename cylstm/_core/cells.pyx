# The list of cells: the row functions of each, and what the time loop must know of it. Holds no equation.
"""Cells by name."""

from cylstm._core.kernels cimport backward_function, forward_function, kernel_table


cdef cell described(
    forward_function *forward, backward_function *backward, Py_ssize_t gates, Py_ssize_t carried, bint has_c,
    bint bypass,
):
    cdef cell c
    c.forward = forward
    c.backward = backward
    c.gates = gates
    c.carried = carried
    c.has_c = has_c
    c.bypass = bypass
    return c


cdef cell cell_of(const kernel_table *kernels, str name) except *:
    if name == "lstm":
        return described(kernels.lstm_forward, kernels.lstm_backward, 4, 4, True, False)
    if name == "gru":
        return described(kernels.gru_forward, kernels.gru_backward, 3, 2, False, True)
    if name == "rnn_tanh":
        return described(kernels.rnn_tanh_forward, kernels.rnn_tanh_backward, 1, 1, False, False)
    if name == "rnn_relu":
        return described(kernels.rnn_relu_forward, kernels.rnn_relu_backward, 1, 1, False, False)
    raise ValueError(f"cell is {name!r}, expected lstm, gru, rnn_tanh or rnn_relu")
