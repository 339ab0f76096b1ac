# The kernels' table as _core sees it: `real` is void here, so sizes are counted in bytes by the caller and
# one compiled driver serves every dtype. What each function does: _kernels/table.h.

cdef extern from "table.h" nogil:
    ctypedef void real
    const char *KERNEL_TABLE_NAME
    const int BESIDE_TERMS
    const int VARIANT_SCRATCH
    ctypedef struct tile_operand:
        Py_ssize_t depth
        const void *const *x
        Py_ssize_t x_offset
        const void *weights
        Py_ssize_t second_half
        const char *next
    ctypedef struct tile_product:
        tile_operand[2] operands
        Py_ssize_t weights_step
        const void *const *start
        Py_ssize_t start_offset
        void *const *out
        Py_ssize_t out_offset
        void *const *total
    const int SIGMOID, TANH, RELU, LEAKY_RELU, THRESHOLDED_RELU, AFFINE, SCALED_TANH, HARD_SIGMOID, ELU, SOFTSIGN
    const int SOFTPLUS, LINEAR, SWISH, GELU, SOFTMAX
    const int UNCOUPLED, FORGET_IS_REST, INPUT_IS_REST
    const int NOT_NORMALISED, NORMALISED_JOINTLY, NORMALISED_PER_GATE
    ctypedef struct activation:
        int kind
        double alpha
        double beta
    ctypedef struct cell_options:
        activation gate
        activation candidate
        activation output
        activation projection
        double clip_gates
        double clip_cell
        double clip_projection
        int coupling
        int normalisation
        double epsilon
        const void *extras
        Py_ssize_t width
        Py_ssize_t peephole
        Py_ssize_t gain
        Py_ssize_t gain_h
        Py_ssize_t shift
        Py_ssize_t gain_c
        Py_ssize_t shift_c
    ctypedef struct forward_rows:
        void *const *gates
        void *const *recurrent
        const void *const *h_prev
        const void *const *c_prev
        void *const *c
        void *const *h
        void *const *y
        void *const *second
        const cell_options *options
        void *scratch
        Py_ssize_t first
        Py_ssize_t count
        Py_ssize_t gates_offset
        Py_ssize_t recurrent_offset
        Py_ssize_t unit_offset
        Py_ssize_t units
        Py_ssize_t ahead
    ctypedef struct backward_rows:
        void *const *gates
        void *const *recurrent
        const void *const *h_prev
        const void *const *c_prev
        const void *const *c
        const void *const *dy
        void *const *dh
        void *const *dc
        Py_ssize_t count
        Py_ssize_t units
        void *const *second
        void *const *dh_prev
        void *const *dextras
        const cell_options *options
        void *scratch
    ctypedef void forward_function(const forward_rows *) noexcept nogil
    ctypedef void forward_beside_function(const forward_rows *, const tile_product *) noexcept nogil
    ctypedef void backward_function(const backward_rows *) noexcept nogil
    ctypedef struct update:
        Py_ssize_t count
        const void *g
        const void *p
        void *p_new
        void *moments[3]
        double numbers[5]
    ctypedef void update_function(const update *) noexcept nogil
    ctypedef struct kernel_table:
        Py_ssize_t itemsize
        Py_ssize_t lanes
        Py_ssize_t tile_rows
        Py_ssize_t stretch_bytes
        void (*tile)(Py_ssize_t, Py_ssize_t, const tile_product *) noexcept nogil
        void (*multiply_adds)(Py_ssize_t, void *) noexcept nogil
        void (*sum_row)(Py_ssize_t, const tile_product *) noexcept nogil
        void (*pack)(Py_ssize_t, Py_ssize_t, const void *, Py_ssize_t, void *, Py_ssize_t) noexcept nogil
        void (*unpack)(Py_ssize_t, Py_ssize_t, const void *, Py_ssize_t, void *, Py_ssize_t) noexcept nogil
        forward_function *lstm_forward
        forward_beside_function *lstm_forward_beside
        forward_function *gru_forward
        forward_function *rnn_tanh_forward
        forward_function *rnn_relu_forward
        backward_function *lstm_backward
        backward_function *gru_backward
        backward_function *rnn_tanh_backward
        backward_function *rnn_relu_backward
        forward_function *lstm_variant_forward
        forward_function *gru_variant_forward
        forward_function *rnn_variant_forward
        forward_function *gru_before_forward
        forward_function *gru_before_second_forward
        forward_function *projection_forward
        backward_function *lstm_variant_backward
        backward_function *gru_variant_backward
        backward_function *rnn_variant_backward
        backward_function *gru_before_backward
        backward_function *gru_before_second_backward
        backward_function *projection_backward
        void (*blend)(Py_ssize_t, const void *, const void *, const void *, void *, void *) noexcept nogil
        void (*unblend)(Py_ssize_t, const void *, const void *, void *, void *) noexcept nogil
        void (*scale)(Py_ssize_t, const void *, const void *, void *) noexcept nogil
        void (*add)(Py_ssize_t, const void *, void *) noexcept nogil
        void (*activate)(const activation *, Py_ssize_t, void *) noexcept nogil
        void (*activate_backward)(const activation *, Py_ssize_t, void *, void *) noexcept nogil
        void (*layer_norm)(Py_ssize_t, double, const void *, const void *, void *) noexcept nogil
        void (*layer_norm_backward)(
            Py_ssize_t, double, const void *, void *, void *, void *, void *
        ) noexcept nogil
        update_function *sgd
        update_function *nesterov
        update_function *rmsprop
        update_function *adam
        double (*sum_of_squares)(Py_ssize_t, const void *) noexcept nogil
        int (*all_finite)(Py_ssize_t, const void *) noexcept nogil
        void (*rescale)(Py_ssize_t, double, void *) noexcept nogil
