# Packing: from PyTorch's (G*H, K) weights to [panel][k][vector][lane], once per change of the parameters; and the
# product of many rows with a packed matrix. Knows no time and no state.
"""Packed weights. An object here has the same values all its life; new parameters make a new one."""

import numpy as np

cimport numpy as cnp
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.string cimport memcpy

from cylstm._core.cells cimport apart, cell_of, options_of
from cylstm._core.dispatch cimport table_of
from cylstm._core.kernels cimport kernel_table, tile_product

cnp.import_array()

cdef extern from "Python.h":
    Py_ssize_t PY_SSIZE_T_MAX

cdef enum:
    ALIGNMENT = 64             # a cache line, and the widest vector
    MAX_AXES = 5               # of a tape's buffer
    # Weights up to this size stay in L2: fetching what is there already cost batches 3 to 5 % (Cascade Lake, 1 MB).
    NEAR_BYTES = 524288
    # A matrix over this size comes from memory, or nearly, and is fetched to L1 for one row or two, too: with layers of
    # 15 and 25 MB they took 0.89 to 0.95 of the time (Cascade Lake); with 6 MB it cost 2 %, from L2 20 %.
    DISTANT_BYTES = 4194304
    LINE_BYTES = 64
    # Two panels at once are eight independent chains of additions instead of four, and two streams of memory, which
    # come faster than one from L3. But while four chains add 256 bytes, L2 does not give more than that, and gives one
    # stream faster: of so wide panels those of a matrix between these sizes are taken one by one (1.03 to 1.10 times
    # the speed at H = 128 and 256, on a Xeon with 2 MiB of L2, for LSTMs, which then had nothing beside a product).
    WIDE_BYTES = 256
    PAIRS_UP_TO = 65536
    PAIRS_OVER = 1048576


cdef char *aligned(raw) noexcept:
    """The first byte of an array, or the first at a multiple of 64."""
    cdef char *data = <char *>cnp.PyArray_DATA(raw)
    return data + (-<Py_ssize_t>data & (ALIGNMENT - 1))


cdef raw_bytes(Py_ssize_t count, bint zero):
    """An array of so many bytes behind :func:`aligned`, uninitialised or zero."""
    cdef cnp.npy_intp length = count + ALIGNMENT
    if zero:
        return cnp.PyArray_ZEROS(1, &length, cnp.NPY_UINT8, 0)
    return cnp.PyArray_EMPTY(1, &length, cnp.NPY_UINT8, 0)


cdef Py_ssize_t bytes_of(tuple shape, cnp.dtype dtype) except -1:
    cdef Py_ssize_t count = dtype.itemsize
    cdef Py_ssize_t length
    for length in shape:
        if length > 0 and count > (PY_SSIZE_T_MAX - ALIGNMENT) // length:
            raise MemoryError
        count *= length
    return count


cdef array_over(raw, tuple shape, cnp.dtype dtype):
    """A C-contiguous array over the bytes behind :func:`aligned`, which are enough."""
    cdef cnp.npy_intp lengths[MAX_AXES]
    cdef int axes = len(shape)
    cdef int axis
    if axes > MAX_AXES:
        raise ValueError(f"{axes} axes, expected at most {MAX_AXES}")
    for axis in range(axes):
        lengths[axis] = shape[axis]
    array = cnp.PyArray_SimpleNewFromData(axes, lengths, dtype.num, aligned(raw))
    cnp.set_array_base(array, raw)
    return array


cpdef aligned_empty(tuple shape, cnp.dtype dtype, bint zero=False):
    """An uninitialised (or zero) C-contiguous array that begins at a multiple of 64 bytes."""
    return array_over(raw_bytes(bytes_of(shape, dtype), zero), shape, dtype)


cpdef cut(raw, tuple shape, cnp.dtype dtype):
    """Likewise, over the bytes of ``raw``; None where they are too few."""
    if raw is None or bytes_of(shape, dtype) + ALIGNMENT > cnp.PyArray_SIZE(raw):
        return None
    return array_over(raw, shape, dtype)


def rows_like(x, Py_ssize_t width):
    """An uninitialised array (T, B, width) for x (T, B, I), of its dtype: numpy.empty in half of its time."""
    cdef cnp.npy_intp[3] lengths = [cnp.PyArray_DIM(x, 0), cnp.PyArray_DIM(x, 1), width]
    return cnp.PyArray_EMPTY(3, lengths, cnp.PyArray_TYPE(x), 0)


def is_plain(array, cnp.dtype dtype, int axes, Py_ssize_t width):
    """Whether it is an exact ndarray, aligned and C-contiguous, of this dtype, so many axes, and this last one."""
    return (
        cnp.PyArray_CheckExact(array) and (<cnp.ndarray>array).dtype is dtype and cnp.PyArray_ISCARRAY_RO(array)
        and cnp.PyArray_NDIM(array) == axes and cnp.PyArray_DIM(array, axes - 1) == width
    )


cdef frozen_empty(like):
    """An uninitialised array over memory that NumPy can not make writable, for whoever asks to fill at once.

    Of the shape and dtype of ``like``, which is contiguous; begins at a multiple of 64 bytes.
    """
    memory = PyBytes_FromStringAndSize(NULL, cnp.PyArray_NBYTES(like) + ALIGNMENT)
    cdef char *data = PyBytes_AS_STRING(memory)
    data += -<Py_ssize_t>data & (ALIGNMENT - 1)
    array = cnp.PyArray_SimpleNewFromData(
        cnp.PyArray_NDIM(like), cnp.PyArray_DIMS(like), cnp.PyArray_TYPE(like), data
    )
    cnp.PyArray_CLEARFLAGS(array, cnp.NPY_ARRAY_WRITEABLE)
    cnp.set_array_base(array, memory)
    return array


cdef frozen(array):
    """``array``, if it is over such memory; else a copy that is. (Unpickled arrays are over bytes, and writable.)"""
    if not cnp.PyArray_ISCARRAY_RO(array):
        array = np.array(array, order="C")
    elif type(array.base) is bytes and not cnp.PyArray_ISWRITEABLE(array):
        return array
    copy = frozen_empty(array)
    memcpy(cnp.PyArray_DATA(copy), cnp.PyArray_DATA(array), cnp.PyArray_NBYTES(array))
    return copy


def freeze(dict arrays):
    """A dict of arrays that nobody can change: those of ``arrays`` that nobody can, copies of the others."""
    return {name: frozen(array) for name, array in arrays.items()}


cdef void set_ends(matrix *weights) noexcept nogil:
    weights.last_panel = (weights.vectors - 1) // weights.panel * weights.panel
    weights.last_pair = (weights.vectors - 1) // (2 * weights.panel) * 2 * weights.panel


cdef void set_pairs(const kernel_table *kernels, matrix *weights) noexcept nogil:
    cdef Py_ssize_t panel_bytes = weights.panel * kernels.lanes * kernels.itemsize
    weights.in_pairs = panel_bytes < WIDE_BYTES or not PAIRS_UP_TO < bytes_of_matrix(weights) <= PAIRS_OVER


cdef matrix part_of(
    const kernel_table *kernels, const matrix *weights, Py_ssize_t first_vector, Py_ssize_t last_vector
) noexcept nogil:
    """The vectors first_vector .. last_vector - 1 of a matrix; both are multiples of its panel, or its end."""
    cdef matrix part = weights[0]
    part.data = <char *>panel_at(weights, first_vector)
    part.vectors = last_vector - first_vector
    set_ends(&part)
    set_pairs(kernels, &part)
    return part


cdef void multiply_panels(
    panel_product *product,
    Py_ssize_t first_vector,     # of a panel, in both matrices
    Py_ssize_t vectors,          # of that panel, or for one row of two
    Py_ssize_t start_offset,     # of the first vector
    Py_ssize_t out_offset,
    const void *following,       # the weights that will be read after these,
    const void *following_then,  # and those of the second matrix
) noexcept nogil:
    """The sums of one panel, or of two."""
    cdef const kernel_table *kernels = product.kernels
    cdef const matrix *weights = product.weights
    cdef Py_ssize_t width = min(weights.panel, vectors)
    if vectors_of_tile(weights, vectors) < vectors:
        multiply_panels(product, first_vector, width, start_offset, out_offset, following, following_then)
        multiply_panels(
            product, first_vector + width, vectors - width, start_offset + width * kernels.lanes,
            out_offset + width * kernels.lanes, following, following_then,
        )
        return
    take_panels(product, first_vector, width, start_offset, out_offset)
    if product.rows > kernels.tile_rows:
        multiply_many(product, width, following, following_then)
        return
    if product.rows > 2 and not weights.near:
        product.tile.operands[0].next = <const char *>following
        product.tile.operands[1].next = <const char *>following_then
    if product.rows == 1 and weights.any_order:
        kernels.sum_row(vectors, &product.tile)
    else:
        kernels.tile(product.rows, vectors, &product.tile)


cdef struct stretch_ahead:
    # What is read after a stretch: some lines of one block, and then another. (A tile that begins in the first goes on
    # behind it, and fetches the rest in vain.)
    const char *first
    Py_ssize_t lines
    const char *then


cdef inline const char *line_of(const stretch_ahead *ahead, Py_ssize_t line) noexcept nogil:
    if line < ahead.lines:
        return ahead.first + line * LINE_BYTES
    return ahead.then + (line - ahead.lines) * LINE_BYTES


cdef void multiply_many(
    const panel_product *product, Py_ssize_t vectors, const void *following, const void *following_then
) noexcept nogil:
    """Of more rows than a tile has, for the panel that ``product.tile`` is set to.

    A stretch of k is used by all rows before the next one, which is fetched to L2 meanwhile: a large block of weights
    comes from L3 or memory once, and without being waited for.
    """
    cdef const kernel_table *kernels = product.kernels
    cdef const tile_product *whole = &product.tile
    cdef tile_product tile = whole[0]
    cdef Py_ssize_t rows = product.rows
    cdef Py_ssize_t k_bytes = vectors * kernels.lanes * kernels.itemsize
    cdef Py_ssize_t turn = whole.operands[0].depth       # where the second product begins
    cdef Py_ssize_t depth = turn + whole.operands[1].depth
    cdef Py_ssize_t stretch = max(kernels.stretch_bytes // k_bytes, 1)
    # Rows are shared out evenly: 32 are 6 + 6 + 5 + 5 + 5 + 5 and not 5 * 6 + 2.
    cdef Py_ssize_t tiles = (rows + kernels.tile_rows - 1) // kernels.tile_rows
    cdef Py_ssize_t size = rows // tiles
    cdef Py_ssize_t k = 0
    cdef Py_ssize_t end, done, count, left
    cdef const char *data = <const char *>whole.operands[0].weights
    cdef const char *data_then = <const char *>whole.operands[1].weights
    cdef stretch_ahead ahead
    cdef Py_ssize_t line, lines
    while k < depth:
        end = min(depth, k + stretch)
        tile.operands[1].depth = 0
        tile.operands[1].x = whole.operands[1].x
        if k < turn:
            tile.operands[0].depth = min(end, turn) - k
            tile.operands[0].x = whole.operands[0].x
            tile.operands[0].x_offset = k
            tile.operands[0].weights = data + k * k_bytes
            if end > turn:
                tile.operands[1].depth = end - turn
        else:
            tile.operands[0].depth = end - k
            tile.operands[0].x = whole.operands[1].x
            tile.operands[0].x_offset = k - turn
            tile.operands[0].weights = data_then + (k - turn) * k_bytes
        tile.start = whole.start if k == 0 else <const void *const *>whole.out
        tile.start_offset = whole.start_offset if k == 0 else whole.out_offset
        tile.out = whole.out
        tile.total = whole.total if end == depth else NULL
        if end == depth:
            ahead.first = <const char *>following
            ahead.lines = turn * k_bytes // LINE_BYTES
            ahead.then = <const char *>following_then
        elif end < turn:
            ahead.first = data + end * k_bytes
            ahead.lines = (turn - end) * k_bytes // LINE_BYTES
            ahead.then = data_then
        else:
            ahead.first = data_then + (end - turn) * k_bytes
            ahead.lines = (depth - end) * k_bytes // LINE_BYTES
            ahead.then = <const char *>following
        lines = min(stretch, depth if end == depth else depth - end) * k_bytes // LINE_BYTES
        line = 0
        left = tiles
        done = 0
        while done < rows:
            count = size + (rows - done > size * left)
            tile.operands[0].next = NULL
            if count > 2 and not product.weights.near and following != NULL:
                tile.operands[0].next = tile.operands[1].next = <const char *>tile.operands[0].weights
                if line < lines:
                    tile.operands[0].next = line_of(&ahead, line)
                    tile.operands[1].next = line_of(&ahead, line + tile.operands[0].depth)
            line += end - k
            kernels.tile(count, vectors, &tile)
            tile.operands[0].x += count
            tile.operands[1].x += count
            tile.start += count
            tile.out += count
            if tile.total != NULL:
                tile.total += count
            done += count
            left -= 1
        k = end


cdef void multiply(
    const kernel_table *kernels,
    const matrix *weights,
    Py_ssize_t rows,
    const void *const *x,        # (rows,) pointers to (depth,)              IN
    const void *const *start,    # (rows,) pointers to (vectors, lanes)      IN
    void *const *out,            # (rows,) pointers to (vectors, lanes)      OUT  may be start
    bint downwards,              # from the last panel to the first
) noexcept nogil:
    """out[r] = start[r] + x[r] W, for any number of rows."""
    cdef Py_ssize_t at_once = vectors_at_once(weights, rows)
    cdef Py_ssize_t pace = -at_once if downwards else at_once
    cdef Py_ssize_t last = last_at_once(weights, at_once)
    cdef Py_ssize_t vector = last if downwards else 0
    cdef Py_ssize_t row, some, offset
    cdef panel_product product
    set_product(&product, kernels, weights, NULL)
    while 0 <= vector <= last:
        offset = vector * kernels.lanes
        row = 0
        while row < rows:
            some = rows_now(kernels, rows - row)
            take_rows(&product, some, x + row, NULL, start + row, out + row)
            multiply_panels(
                &product, vector, min(at_once, weights.vectors - vector), offset, offset,
                panel_at(weights, vector + pace), NULL,
            )
            row += some
        vector += pace


cdef matrix matrix_of(
    const kernel_table *kernels, char *data, Py_ssize_t depth, Py_ssize_t vectors, Py_ssize_t panel
) noexcept nogil:
    """A matrix over ``data``, of which nothing is fetched ahead."""
    cdef matrix weights
    weights.data = data
    weights.depth = depth
    weights.vector_bytes = depth * kernels.lanes * kernels.itemsize
    weights.vectors = vectors
    weights.panel = panel
    set_ends(&weights)
    weights.near = True
    weights.distant = False
    weights.in_pairs = True
    weights.any_order = False
    return weights


cdef matrix new_matrix(
    const kernel_table *kernels, Py_ssize_t depth, Py_ssize_t vectors, Py_ssize_t panel, Py_ssize_t layer_bytes,
    list memory,
):
    cdef Py_ssize_t size = depth * vectors * kernels.lanes * kernels.itemsize
    raw = raw_bytes(size, True)
    memory.append(raw)
    cdef matrix weights = matrix_of(kernels, aligned(raw), depth, vectors, panel)
    weights.near = layer_bytes <= NEAR_BYTES
    weights.distant = size > DISTANT_BYTES
    set_pairs(kernels, &weights)
    return weights


cdef char *vector_at(
    const kernel_table *kernels, const matrix *weights, Py_ssize_t vector, Py_ssize_t k, Py_ssize_t *step
) noexcept nogil:
    """Where vector number ``vector`` of depth ``k`` is; step: elements from one k to the next."""
    cdef Py_ssize_t first = vector - vector % weights.panel
    cdef Py_ssize_t width = min(weights.panel, weights.vectors - first)
    step[0] = width * kernels.lanes
    return weights.data + (first * weights.depth + k * width + vector - first) * kernels.lanes * kernels.itemsize


cdef pack_rows(const kernel_table *kernels, const matrix *to, array, Py_ssize_t gates, Py_ssize_t units):
    """Row gate * units + u of ``array`` (gates * units, depth) becomes lane u % lanes of vector
    (u // lanes) * gates + gate."""
    cdef const char *data = <const char *>cnp.PyArray_DATA(array)
    cdef Py_ssize_t row_bytes = to.depth * kernels.itemsize
    cdef Py_ssize_t block, gate, step
    cdef char *out
    with nogil:
        for block in range(to.vectors // gates):
            for gate in range(gates):
                out = vector_at(kernels, to, block * gates + gate, 0, &step)
                kernels.pack(
                    to.depth, min(kernels.lanes, units - block * kernels.lanes),
                    data + (gate * units + block * kernels.lanes) * row_bytes, to.depth, out, step,
                )


cdef class Weights:
    """The packed parameters of one layer in one direction.

    ``parameters``: by their names without suffix, C-contiguous, of one dtype: weight_ih (G*H, I), weight_hh (G*H, P)
    and what the cell has besides: bias_ih, bias_hh (G*H,); weight_hr, or weight_ho with bias_ho (P,), both
    (P, H); weight_peephole and those of a layer normalisation. The two biases of one sum are added, and rounded, here.
    ``options``: those of the cell, without what says nothing new.
    """

    def __init__(self, str name, dict parameters, dict options):
        weight_ih = parameters["weight_ih"]
        weight_hh = parameters["weight_hh"]
        cdef const kernel_table *kernels = table_of(weight_ih.dtype)
        self.kernels = kernels
        self.cell = cell_of(kernels, name, options)
        self.has_c = self.cell.has_c
        self.apart = apart(&self.cell)
        self.two_phases = self.cell.second_forward != NULL
        self.dtype = weight_ih.dtype
        self.arrays = parameters
        self.name = name
        self.given_options = options
        cdef Py_ssize_t gates = self.cell.gates
        self.input_size = weight_ih.shape[1]
        self.hidden_size = weight_ih.shape[0] // gates
        self.state_size = weight_hh.shape[1]
        self.gates = gates
        self.lanes = kernels.lanes
        self.blocks = (self.hidden_size + kernels.lanes - 1) // kernels.lanes
        self.state_blocks = (self.state_size + kernels.lanes - 1) // kernels.lanes
        self.memory = []
        self.copies = {}
        self.weight_second = None
        if name == "gru_before":  # n's part of weight_hh multiplies r h_prev, in the second phase
            self.weight_second = weight_hh[2 * self.hidden_size:]
            weight_hh = weight_hh.copy()
            weight_hh[2 * self.hidden_size:] = 0
        elif "projection" in options:
            self.weight_second = parameters["weight_hr"] if "weight_hr" in parameters else parameters["weight_ho"]
        self.weight_hh = weight_hh
        cdef Py_ssize_t vectors = self.blocks * gates
        cdef Py_ssize_t depth = self.input_size + self.state_size
        self.operations = vectors * kernels.lanes * depth
        cdef Py_ssize_t size = depth * vectors * kernels.lanes * kernels.itemsize
        cdef Py_ssize_t panel = gates if gates > 1 else 4   # whole blocks, enough of them for a tile
        self.x = new_matrix(kernels, self.input_size, vectors, panel, size, self.memory)
        self.h = new_matrix(kernels, self.state_size, vectors, panel, size, self.memory)
        pack_rows(kernels, &self.x, weight_ih, gates, self.hidden_size)
        pack_rows(kernels, &self.h, weight_hh, gates, self.hidden_size)
        bias_ih = self._bias_of("bias_ih", gates * self.hidden_size)
        bias_hh = self._bias_of("bias_hh", gates * self.hidden_size)
        bias = bias_ih + bias_hh
        if len(options) > 0:  # of a plain cell nothing looks at them
            self.options = options_of(options)
            self._pack_extras(options, bias)
            if options.get("layer_norm") is not None:  # the bias comes after it
                bias = bias_ih = bias_hh = np.zeros_like(bias)
        self.state_slots = 2 + (1 + self.zoneout if self.has_c else 0)
        self.widest_state = max(self.state_size, self.hidden_size)
        self.projected = self.state_size != self.hidden_size
        if self.apart:
            carried = self.cell.carried * self.hidden_size
            bias[carried:] = bias_ih[carried:]
            self.bias_h = self._packed_bias(bias_hh, gates, self.hidden_size)
        self.bias = self._packed_bias(bias, gates, self.hidden_size)
        if self.two_phases:
            size = self.hidden_size * self.state_blocks * kernels.lanes * kernels.itemsize
            self.second = new_matrix(kernels, self.hidden_size, self.state_blocks, 4, size, self.memory)
            pack_rows(kernels, &self.second, self.weight_second, 1, self.state_size)
            self.operations += self.hidden_size * self.state_blocks * kernels.lanes
            self.bias_second = self._packed_bias(self._bias_of("bias_ho", self.state_size), 1, self.state_size)
        self.form = (
            self.dtype, gates, self.input_size, self.hidden_size, self.state_size, self.has_c, self.apart,
            self.two_phases, self.zoneout,
        )

    cdef _bias_of(self, str name, Py_ssize_t size):
        """A parameter, or the zeros that stand for one that the layer does not have."""
        return self.arrays[name] if name in self.arrays else np.zeros(size, self.dtype)

    cdef char *_packed_bias(self, bias, Py_ssize_t gates, Py_ssize_t units) except NULL:
        cdef Py_ssize_t vectors = (units + self.lanes - 1) // self.lanes * gates
        cdef matrix row = new_matrix(self.kernels, 1, vectors, vectors, 0, self.memory)
        pack_rows(self.kernels, &row, bias, gates, units)
        return row.data

    cdef _pack_extras(self, dict options, bias):
        """The parameters of one value per unit, and what else the options bring."""
        cdef Py_ssize_t row = 0
        self.extras = {}
        rows = []
        shift = {"shift": bias} if options.get("layer_norm") is not None else {}
        prefixes = ("weight_peephole", "weight_ln", "bias_ln")
        given = {name: value for name, value in self.arrays.items() if name.startswith(prefixes)}
        for name, values in (given | shift).items():
            values = values.reshape(-1, self.hidden_size)
            self.extras[name] = (row, len(values))
            rows.append(values)
            row += len(values)
        self.extra_rows = row
        self.options.width = self.blocks * self.lanes
        if row > 0:
            packed = aligned_empty((row, self.options.width), self.dtype, zero=True)
            np.concatenate(rows, out=packed[:, :self.hidden_size])
            self.memory.append(packed)
            self.options.extras = cnp.PyArray_DATA(packed)
        none = (-1, 0)
        self.options.peephole = self.extras.get("weight_peephole", none)[0]
        self.options.gain = self.extras.get("weight_ln_ih", self.extras.get("weight_ln", none))[0]
        self.options.gain_h = self.extras.get("weight_ln_hh", none)[0]
        self.options.gain_c = self.extras.get("weight_ln_c", none)[0]
        self.options.shift_c = self.extras.get("bias_ln_c", none)[0]
        self.options.shift = self.extras.get("shift", none)[0]
        keep = options.get("zoneout_h", 0.0), options.get("zoneout_c", 0.0)
        self.zoneout = keep != (0.0, 0.0)
        if self.zoneout:
            self.keep_h = self._packed_bias(np.full(self.state_size, keep[0], self.dtype), 1, self.state_size)
            self.keep_c = self._packed_bias(np.full(self.hidden_size, keep[1], self.dtype), 1, self.hidden_size)

    def replaced(self, **arrays):
        """The same cell with other values of some parameters."""
        return Weights(self.name, self.arrays | arrays, self.given_options)

    def of_slice(self, Py_ssize_t n):
        """These weights as the n-th slice of a batch reads them: where they stay in L2, a copy for each but the first.

        Two cores that read the same lines get less each than of lines of their own: batches of (64, 128) in two threads
        take 1.02 to 1.08 times as long where both do (2 MiB of L2). The first call after a change of the parameters
        takes 1.03 times as long with copies.
        """
        if n == 0 or not self.h.near:
            return self
        if n not in self.copies:
            self.copies[n] = self.replaced()
        return self.copies[n]

    def place_second(self, dict gradients, dweight, dbias):
        """Add what a second phase's product says to ``gradients``; ``dweight`` (P, H)."""
        if self.name == "gru_before":
            gradients["weight_hh"][2 * self.hidden_size:] = dweight
        elif "weight_hr" in self.arrays:
            gradients["weight_hr"] = dweight
        else:
            gradients["weight_ho"] = dweight
            gradients["bias_ho"] = dbias

    def extra_gradients(self, dextras):
        """{name: gradient} of the parameters of one value per unit, from sums (B, extra_rows, blocks * lanes).

        "shift": that of the sum of the biases.
        """
        total = dextras.sum(axis=0)[:, :self.hidden_size]
        return {name: total[row:row + count].reshape(-1) for name, (row, count) in self.extras.items()}

    cdef int prepare_backward(self) except -1:
        """Pack what backward alone needs; a second thread that does the same at once does no harm."""
        cdef matrix h, x, second
        cdef list memory = []
        if not self.has_backward:
            h = self._transposed(self.weight_hh, self.gates, self.hidden_size, memory)
            x = self._transposed(self.arrays["weight_ih"], self.gates, self.hidden_size, memory)
            if self.two_phases:
                second = self._transposed(self.weight_second, 1, self.state_size, memory)
            if not self.has_backward:  # no other thread was faster
                self.memory.append(memory)
                self.h_transposed = h
                self.x_transposed = x
                if self.two_phases:
                    self.second_transposed = second
                self.has_backward = True
        return 0

    cdef matrix _transposed(self, array, Py_ssize_t gates, Py_ssize_t units, list memory):
        """(gates * units, n) with its rows, in the order (blocks, gates, lanes), as the depth, and n as vectors."""
        cdef const kernel_table *kernels = self.kernels
        cdef Py_ssize_t lanes = self.lanes
        cdef Py_ssize_t blocks = (units + lanes - 1) // lanes
        cdef Py_ssize_t width = array.shape[1]
        cdef Py_ssize_t row_bytes = width * kernels.itemsize
        cdef Py_ssize_t vectors = (width + lanes - 1) // lanes
        cdef Py_ssize_t depth = blocks * gates * lanes
        cdef Py_ssize_t size = depth * vectors * lanes * kernels.itemsize
        cdef matrix to = new_matrix(kernels, depth, vectors, 4, size, memory)
        cdef const char *data = <const char *>cnp.PyArray_DATA(array)
        cdef Py_ssize_t block, gate, vector, lane, step, vector_bytes
        cdef char *out
        with nogil:
            for vector in range(vectors):
                vector_bytes = min(lanes, width - vector * lanes) * kernels.itemsize
                for block in range(blocks):
                    for gate in range(gates):
                        out = vector_at(kernels, &to, vector, (block * gates + gate) * lanes, &step)
                        for lane in range(min(lanes, units - block * lanes)):
                            memcpy(
                                out + lane * step * kernels.itemsize,
                                data + (gate * units + block * lanes + lane) * row_bytes
                                + vector * lanes * kernels.itemsize,
                                vector_bytes,
                            )
        return to


cdef class PackedDense:
    """weight (out, in) and bias (out,) of a Dense layer."""

    def __init__(self, weight, bias):
        cdef const kernel_table *kernels = table_of(weight.dtype)
        cdef Py_ssize_t outputs = weight.shape[0]
        cdef Py_ssize_t vectors = (outputs + kernels.lanes - 1) // kernels.lanes
        self.kernels = kernels
        self.outputs = outputs
        self.type_number = cnp.PyArray_TYPE(weight)
        self.memory = []
        cdef Py_ssize_t size = weight.shape[1] * vectors * kernels.lanes * kernels.itemsize
        self.weight = new_matrix(kernels, weight.shape[1], vectors, 4, size, self.memory)
        cdef matrix bias_row = new_matrix(kernels, 1, vectors, vectors, 0, self.memory)
        self.bias = bias_row.data
        pack_rows(kernels, &self.weight, weight, 1, outputs)
        pack_rows(kernels, &bias_row, bias, 1, outputs)


cdef class Store:
    """Where a layer keeps its current parameters: one object, replaced whole, so nobody can see half a change."""

    def __init__(self, snapshot):
        self.snapshot = snapshot

    def replace(self, snapshot):
        self.snapshot = snapshot


def replace_all(stores, snapshots):
    """Replace the snapshots of several stores at once: no thread and no signal handler comes in between."""
    cdef Py_ssize_t n
    cdef Store store
    for n in range(len(stores)):
        store = stores[n]
        store.snapshot = snapshots[n]
