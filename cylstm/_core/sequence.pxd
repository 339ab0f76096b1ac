# One time step of one layer in one direction, for whoever drives it.

from cpython.pystate cimport PyThreadState

from cylstm._core.cells cimport cell
from cylstm._core.kernels cimport cell_options, forward_rows, kernel_table, tile_product
from cylstm._core.packing cimport Weights, matrix, panel_product


cdef class Cancellation:
    cdef bint requested
    cdef Py_ssize_t released   # whoever gave them to threads has given up the GIL: who wants it need not sleep


cdef class Pass:
    # What forward and backward of one layer in one direction read and write: see sequence.pyx.
    cdef public object x, x_kept, y, h, c, states, gates, recurrent, lengths, mask
    cdef public Py_ssize_t k
    cdef public bint reverse
    cdef public object h_in, inner, second, c_fresh, drop_h, keep_h, keep_c


cdef struct layer_description:
    # What a step needs besides rows: all that differs between cells is here, set before the time loop.
    const kernel_table *kernels
    cell cell
    bint apart                  # pre-activations in two buffers: see cells.pxd
    matrix x
    matrix h
    matrix second               # of a second phase
    const char *bias
    const char *bias_h
    const char *bias_second
    const char *keep_h          # of zoneout in inference, or NULL
    const char *keep_c
    const cell_options *options
    Py_ssize_t first_unit       # of the units that are made; 0 but where a team shares them out
    Py_ssize_t hidden_size      # how many
    Py_ssize_t state_size       # of h
    bint sole                   # one row alone, of a cell whose steps can be planned
    bint beside                 # the cell turns one block into h beside the product of the next
    Py_ssize_t at_once          # vectors of one product: whole panels
    Py_ssize_t together         # vectors whose products are made before the cell turns them into h: whole products
    Py_ssize_t units_together   # the hidden units of those
    Py_ssize_t last_together    # first vector of the last that are worked on together,
    Py_ssize_t last_unit        # and the hidden unit of that


cdef struct planned:
    # One row: a product, the same in every step, and what the cell does with its units, once it has all their products.
    Py_ssize_t vectors
    tile_product tile
    const forward_rows *rows


cdef struct step_rows:
    # Pointers to the active rows of one step, each array (capacity,).
    const void **x            # (I,)                  IN
    const void **h_prev       # (P,)                  IN
    const void **h_in         # (P,)                  IN   what is multiplied by W_hh: h_prev, or that with dropout
    const void **start        # (blocks, G, lanes)    IN   what the sums begin with: bias, or bias + x W_ih
    void **gates              # (blocks, G, lanes)    OUT  a tape, or scratch for what is worked on together
    void **recurrent          # (blocks, G, lanes)    OUT  likewise, of a cell whose pre-activations are apart
    const void **c_prev       # (H,)                  IN   a cell without c does not look at it
    void **c                  # (H,)                  OUT  may be c_prev
    void **c_next             # (H,)                  OUT  c, or with zoneout what becomes of it
    void **h                  # (P,)                  OUT
    void **y                  # (P,)                  OUT
    void **inner              # (H,)                  OUT  of two phases: what the first leaves for the second product
    void **second             # (state_blocks, lanes) OUT  and that product's sums, which begin
    const void **second_start  # (state_blocks, lanes) IN  here
    const void **keep_h       # (P,)                  IN   of zoneout
    const void **keep_c       # (H,)                  IN
    # And what prepare() makes of them.
    bint with_input
    bint taped
    bint entire               # gates are whole rows
    forward_rows cell
    panel_product product     # x W_ih, and h W_hh where that is not apart; or h W_hh alone
    panel_product product_h   # where it is apart
    planned *plan             # (blocks,)              of a sole row: all that a step does, upwards,
    Py_ssize_t plan_length
    forward_rows *plan_rows   # (blocks,)              and what `rows` of those points to


cdef layer_description describe(Weights weights, Py_ssize_t rows)
cdef Py_ssize_t scratch_bytes(const layer_description *layer, Py_ssize_t rows) noexcept nogil
cdef Py_ssize_t blocks_of_plan(Weights weights, Py_ssize_t rows)
cdef int allocate_rows(step_rows *rows, Py_ssize_t capacity, Py_ssize_t blocks) except -1 nogil
cdef step_rows from_row(const step_rows *rows, Py_ssize_t row) noexcept nogil
cdef void free_rows(step_rows *rows) noexcept nogil
cdef void scratch_rows(
    const layer_description *layer, step_rows *rows, Py_ssize_t count, char *scratch) noexcept nogil
cdef void prepare(
    const layer_description *layer, step_rows *rows, bint with_input, bint taped, char *work
) noexcept nogil
cdef void step(
    const layer_description *layer, step_rows *rows, Py_ssize_t count, bint downwards
) noexcept nogil
cdef Py_ssize_t work_bytes(const layer_description *layer) noexcept nogil
cdef PyThreadState *release(Py_ssize_t operations, Cancellation cancellation) noexcept
cdef void take_back(PyThreadState *state) noexcept
cdef Py_ssize_t rows_per_part(Py_ssize_t operations_of_a_row) noexcept
cdef bint interrupted(Cancellation cancellation) except -1
cpdef infer_all(
    list weights, x, y, states_0, lengths, mask, bint reverse, Py_ssize_t most)
