# The list of cells: the row functions of each, and what the time loop must know of it. Holds no equation.
"""Cells by name."""

from cylstm._core.kernels cimport kernel_table


cdef cell cell_of(const kernel_table *kernels, str name) except *:
    if name == "lstm":
        return cell(
            forward=kernels.lstm_forward, backward=kernels.lstm_backward,
            gates=4, carried=4, has_c=True, bypass=False,
        )
    if name == "gru":
        return cell(
            forward=kernels.gru_forward, backward=kernels.gru_backward,
            gates=3, carried=2, has_c=False, bypass=True,
        )
    if name == "rnn_tanh":
        return cell(
            forward=kernels.rnn_tanh_forward, backward=kernels.rnn_tanh_backward,
            gates=1, carried=1, has_c=False, bypass=False,
        )
    if name == "rnn_relu":
        return cell(
            forward=kernels.rnn_relu_forward, backward=kernels.rnn_relu_backward,
            gates=1, carried=1, has_c=False, bypass=False,
        )
    raise ValueError(f"cell is {name!r}, expected lstm, gru, rnn_tanh or rnn_relu")
