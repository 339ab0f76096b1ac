# The packed form of weights, and products with it.

cimport numpy as cnp

from cylstm._core.cells cimport cell
from cylstm._core.kernels cimport cell_options, kernel_table, tile_product


cdef struct matrix:
    # Weights (depth, vectors * lanes), packed as [panel][k][vector][lane].
    char *data
    Py_ssize_t depth
    Py_ssize_t vectors
    Py_ssize_t vector_bytes  # of one vector for all k
    Py_ssize_t panel      # vectors of one tile of many rows; the last panel may have fewer
    Py_ssize_t last_panel  # first vector of the last panel
    Py_ssize_t last_pair   # and of the last two, or of a last one that is left alone
    bint near             # the layer's are so small that they stay in L2 from step to step: nothing is fetched ahead
    bint distant          # these are so large that they are fetched ahead for one row or two, too
    bint in_pairs         # one row takes two panels at once
    bint any_order        # one row's sums may be made in any order: depth is a multiple of 8


cdef enum:
    ROWS_AT_ONCE = 48     # whose sums and x stay in L1


cdef inline Py_ssize_t rows_now(const kernel_table *kernels, Py_ssize_t left) noexcept nogil:
    """Of ``left`` rows those to work on next: the tiles of all are shared out evenly to turns of ROWS_AT_ONCE."""
    cdef Py_ssize_t tiles, tiles_of_turn, turns
    if left <= ROWS_AT_ONCE:  # the divisions take a sixth of a small step
        return left
    tiles = (left + kernels.tile_rows - 1) // kernels.tile_rows
    tiles_of_turn = ROWS_AT_ONCE // kernels.tile_rows
    turns = (tiles + tiles_of_turn - 1) // tiles_of_turn
    return min(left, (tiles + turns - 1) // turns * kernels.tile_rows)


cdef inline Py_ssize_t vectors_at_once(const matrix *weights, Py_ssize_t rows) noexcept nogil:
    """How many :func:`multiply_panels` takes: a panel, and for one row perhaps two.

    Sums in any order have chains of their own.
    """
    return 2 * weights.panel if rows == 1 and weights.in_pairs and not weights.any_order else weights.panel


cdef inline Py_ssize_t vectors_of_tile(const matrix *weights, Py_ssize_t vectors) noexcept nogil:
    """Of so many those of one tile: two panels or one, as the last may have fewer and no tile has two that differ."""
    return vectors if vectors == 2 * weights.panel else min(weights.panel, vectors)


cdef inline Py_ssize_t last_at_once(const matrix *weights, Py_ssize_t at_once) noexcept nogil:
    """The first vector of those that it takes last."""
    return weights.last_panel if at_once == weights.panel else weights.last_pair


cdef inline Py_ssize_t bytes_of_matrix(const matrix *weights) noexcept nogil:
    return weights.vectors * weights.vector_bytes


cdef struct panel_product:
    # A product of some rows with a packed matrix, or with two of the same panels, panel by panel.
    const kernel_table *kernels
    const matrix *weights
    const matrix *then        # NULL: none
    Py_ssize_t rows
    tile_product tile         # of all these rows and all k


cdef inline void set_product(
    panel_product *product, const kernel_table *kernels, const matrix *weights, const matrix *then
) noexcept nogil:
    """The matrices; then come the rows."""
    product.kernels = kernels
    product.weights = weights
    product.then = then
    product.tile.total = NULL
    product.tile.operands[0].x_offset = 0
    product.tile.operands[0].depth = weights.depth
    product.tile.operands[1].x_offset = 0
    product.tile.operands[1].weights = NULL
    product.tile.operands[1].next = NULL
    product.tile.operands[1].depth = then.depth if then != NULL else 0


cdef inline void take_rows(
    panel_product *product,
    Py_ssize_t rows,
    const void *const *x,        # (rows,) pointers to (depth,)      IN
    const void *const *x_then,   # (rows,) pointers to (depth,)      IN   of the second matrix
    const void *const *start,    # (rows,) pointers                  IN
    void *const *out,            # (rows,) pointers                  OUT  may be start
) noexcept nogil:
    """out[r] = start[r] + x[r] W + x_then[r] W_then, of which :func:`multiply_panels` makes some vectors."""
    product.rows = rows
    product.tile.operands[0].x = x
    product.tile.operands[1].x = x_then
    product.tile.start = start
    product.tile.out = out


cdef inline void take_panels(
    panel_product *product,
    Py_ssize_t first_vector,     # of a panel, in both matrices
    Py_ssize_t width,            # of that panel
    Py_ssize_t start_offset,     # of the first vector
    Py_ssize_t out_offset,
) noexcept nogil:
    """The tile of one panel, or for one row of two of the same width; of more rows than two it fetches nothing yet."""
    cdef const matrix *weights = product.weights
    cdef const matrix *then = product.then
    cdef tile_product *tile = &product.tile
    tile.weights_step = width * product.kernels.lanes
    tile.start_offset = start_offset
    tile.out_offset = out_offset
    tile.operands[0].weights = weights.data + first_vector * weights.vector_bytes
    tile.operands[0].second_half = weights.depth * tile.weights_step
    tile.operands[0].next = NULL
    if then != NULL:
        tile.operands[1].weights = then.data + first_vector * then.vector_bytes
        tile.operands[1].second_half = then.depth * tile.weights_step
    # (A tile of one row or two has its weights near, unless they are distant.)
    if product.rows <= 2 and (weights.distant or (then != NULL and then.distant)):
        tile.operands[0].next = <const char *>tile.operands[0].weights


cdef void multiply_panels(
    panel_product *product, Py_ssize_t first_vector, Py_ssize_t vectors, Py_ssize_t start_offset,
    Py_ssize_t out_offset, const void *following, const void *following_then,
) noexcept nogil

cdef matrix part_of(
    const kernel_table *kernels, const matrix *weights, Py_ssize_t first_vector, Py_ssize_t last_vector
) noexcept nogil


cdef inline const void *panel_at(const matrix *weights, Py_ssize_t vector) noexcept nogil:
    """Where the panel that begins with ``vector`` is; an end of the matrix where there is none."""
    return weights.data + max(0, min(vector, weights.vectors)) * weights.vector_bytes


cdef void multiply(
    const kernel_table *kernels, const matrix *weights, Py_ssize_t rows,
    const void *const *x, const void *const *start, void *const *out, bint downwards,
) noexcept nogil


cdef char *aligned(raw) noexcept

cdef raw_bytes(Py_ssize_t count, bint zero)

cpdef aligned_empty(tuple shape, cnp.dtype dtype, bint zero=*)

cpdef cut(raw, tuple shape, cnp.dtype dtype)

cdef matrix matrix_of(
    const kernel_table *kernels, char *data, Py_ssize_t depth, Py_ssize_t vectors, Py_ssize_t panel
) noexcept nogil

cdef char *vector_at(
    const kernel_table *kernels, const matrix *weights, Py_ssize_t vector, Py_ssize_t k, Py_ssize_t *step
) noexcept nogil


cdef class Weights:
    cdef const kernel_table *kernels
    cdef cell cell
    cdef cell_options options
    cdef readonly Py_ssize_t input_size
    cdef readonly Py_ssize_t hidden_size
    cdef readonly Py_ssize_t state_size   # of h: hidden_size, or that of a projection
    cdef readonly Py_ssize_t gates
    cdef readonly Py_ssize_t blocks
    cdef readonly Py_ssize_t state_blocks
    cdef readonly Py_ssize_t lanes
    cdef readonly Py_ssize_t operations   # multiply-adds of one row in one step
    cdef readonly Py_ssize_t extra_rows   # parameters of one value per unit, in rows of blocks * lanes
    cdef readonly Py_ssize_t state_slots  # of h, two, and of c, in a pass without a tape
    cdef readonly Py_ssize_t widest_state
    cdef readonly bint projected          # state_size is not hidden_size
    cdef readonly bint has_c
    cdef readonly bint apart              # what h adds to the pre-activations has a buffer of its own
    cdef readonly bint two_phases
    cdef readonly bint zoneout
    cdef readonly object dtype
    cdef readonly tuple form              # what the shapes of a tape's buffers depend on, besides T and B
    cdef readonly dict arrays             # the parameters, by their names without suffix
    cdef matrix x                 # weight_ih: input_size deep
    cdef matrix h                 # weight_hh: state_size deep
    cdef matrix second            # of a second phase: hidden_size deep
    cdef matrix h_transposed      # weight_hh the other way round, for backward: blocks * gates * lanes deep
    cdef matrix x_transposed      # weight_ih likewise
    cdef matrix second_transposed
    cdef bint has_backward        # those are there
    cdef char *bias               # (blocks, gates, lanes)  what sums of x W_ih begin with
    cdef char *bias_h             # likewise, of h W_hh where they begin anew
    cdef char *bias_second        # (state_blocks, lanes)   likewise, of a second phase
    cdef char *keep_h             # (state_blocks, lanes)   of zoneout, what is kept of h in inference
    cdef char *keep_c             # (blocks, lanes)         of c
    cdef list memory              # what owns the pointers above
    cdef dict copies              # see of_slice
    cdef dict extras              # name: (first row, number of rows)
    cdef str name
    cdef dict given_options
    cdef object weight_hh         # of the first phase
    cdef object weight_second
    cdef int prepare_backward(self) except -1
    cdef matrix _transposed(self, array, Py_ssize_t gates, Py_ssize_t units, list memory)
    cdef _bias_of(self, str name, Py_ssize_t size)
    cdef char *_packed_bias(self, bias, Py_ssize_t gates, Py_ssize_t units) except NULL
    cdef _pack_extras(self, dict options, bias)


cdef class PackedDense:
    cdef const kernel_table *kernels
    cdef matrix weight
    cdef char *bias
    cdef Py_ssize_t outputs
    cdef int type_number
    cdef list memory


cdef frozen_empty(like)


cdef class Store:
    cdef readonly object snapshot
