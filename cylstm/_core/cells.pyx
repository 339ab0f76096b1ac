# The list of cells: the row functions of each, and what the time loop must know of it; and the list of activations.
# Holds no equation.
"""Cells and activations by name."""

from libc.math cimport INFINITY
from libc.string cimport memset

from cylstm._core.kernels cimport (
    AFFINE,
    ELU,
    FORGET_IS_REST,
    GELU,
    HARD_SIGMOID,
    INPUT_IS_REST,
    LEAKY_RELU,
    LINEAR,
    NORMALISED_JOINTLY,
    NORMALISED_PER_GATE,
    NOT_NORMALISED,
    RELU,
    SCALED_TANH,
    SIGMOID,
    SOFTMAX,
    SOFTPLUS,
    SOFTSIGN,
    SWISH,
    TANH,
    THRESHOLDED_RELU,
    UNCOUPLED,
    activation,
    backward_function,
    cell_options,
    forward_function,
    kernel_table,
)

# name: (kind, the default alpha, the default beta), as many of these as the activation has
ACTIVATIONS = {
    "sigmoid": (SIGMOID,),
    "tanh": (TANH,),
    "relu": (RELU,),
    "leaky_relu": (LEAKY_RELU, 0.01),
    "thresholded_relu": (THRESHOLDED_RELU, 1.0),
    "affine": (AFFINE, 1.0, 0.0),
    "scaled_tanh": (SCALED_TANH, 1.0, 1.0),
    "hard_sigmoid": (HARD_SIGMOID, 0.2, 0.5),
    "elu": (ELU, 1.0),
    "softsign": (SOFTSIGN,),
    "softplus": (SOFTPLUS,),
    "linear": (LINEAR,),
    "swish": (SWISH,),
    "gelu": (GELU,),
}
# Of layers without a state, which have all of a row: those, and one more.
ROW_ACTIVATIONS = {**ACTIVATIONS, "softmax": (SOFTMAX,)}

# What a variance is increased by: Haste's, whose joint normalisation this is, and TensorFlow Lite's.
EPSILON_JOINT = 1e-5
EPSILON_PER_GATE = 1e-8


cdef cell new_cell(
    forward_function *forward, backward_function *backward, Py_ssize_t gates, Py_ssize_t carried
) noexcept:
    cdef cell c
    memset(&c, 0, sizeof(cell))
    c.forward = forward
    c.backward = backward
    c.gates = gates
    c.carried = carried
    return c


cdef cell cell_of(const kernel_table *kernels, str name, dict options) except *:
    """A cell by name. Of ``options`` those that change what the time loop must know."""
    cdef cell c
    cdef Py_ssize_t gates
    if name == "lstm":
        c = new_cell(kernels.lstm_forward, kernels.lstm_backward, 4, 4)
        c.has_c = True
        c.forward_beside = kernels.lstm_forward_beside
    elif name == "lstm_variant":
        gates = 4 if options.get("coupled") is None else 3
        c = new_cell(
            kernels.lstm_variant_forward, kernels.lstm_variant_backward, gates,
            0 if options.get("layer_norm") == "joint" else gates,
        )
        c.has_c = c.whole = True
    elif name == "gru":
        c = new_cell(kernels.gru_forward, kernels.gru_backward, 3, 2)
        c.bypass = True
    elif name == "gru_variant":
        c = new_cell(kernels.gru_variant_forward, kernels.gru_variant_backward, 3, 2)
        c.bypass = True
    elif name == "gru_before":
        c = new_cell(kernels.gru_before_forward, kernels.gru_before_backward, 3, 3)
        c.bypass = c.begun = True
        c.second_forward = kernels.gru_before_second_forward
        c.second_backward = kernels.gru_before_second_backward
    elif name == "rnn_tanh":
        c = new_cell(kernels.rnn_tanh_forward, kernels.rnn_tanh_backward, 1, 1)
    elif name == "rnn_relu":
        c = new_cell(kernels.rnn_relu_forward, kernels.rnn_relu_backward, 1, 1)
    elif name == "rnn_variant":
        c = new_cell(kernels.rnn_variant_forward, kernels.rnn_variant_backward, 1, 1)
    else:
        raise ValueError(f"cell is {name!r}, which is none of those in cells.pyx")
    if "projection" in options:
        c.second_forward = kernels.projection_forward
        c.second_backward = kernels.projection_backward
    c.whole = c.whole or c.second_forward != NULL
    return c


cdef activation activation_of(value) except *:
    """From (name, alpha, beta), the numbers only where the activation has them."""
    cdef activation f
    f.kind = ROW_ACTIVATIONS[value[0]][0]
    f.alpha = value[1] if len(value) > 1 else 0
    f.beta = value[2] if len(value) > 2 else 0
    return f


cdef cell_options options_of(dict options) except *:
    """What row functions must know of a layer's options, but for the parameters among them."""
    cdef cell_options o
    clip = options.get("clip") or {}
    o.gate = activation_of(options.get("gate", ("sigmoid",)))
    o.candidate = activation_of(options.get("candidate", ("tanh",)))
    o.output = activation_of(options.get("output", ("tanh",)))
    o.projection = activation_of(options.get("projection", ("linear",)))
    o.clip_gates = clip.get("gates", INFINITY)
    o.clip_cell = clip.get("cell", INFINITY)
    o.clip_projection = clip.get("projection", INFINITY)
    o.coupling = {None: UNCOUPLED, "f=1-i": FORGET_IS_REST, "i=1-f": INPUT_IS_REST}[options.get("coupled")]
    o.normalisation = {
        None: NOT_NORMALISED, "joint": NORMALISED_JOINTLY, "per_gate": NORMALISED_PER_GATE
    }[options.get("layer_norm")]
    o.epsilon = EPSILON_JOINT if o.normalisation == NORMALISED_JOINTLY else EPSILON_PER_GATE
    o.extras = NULL
    o.width = 0
    o.peephole = o.gain = o.gain_h = o.shift = o.gain_c = o.shift_c = -1
    return o
