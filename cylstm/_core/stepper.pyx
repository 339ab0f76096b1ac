# One step at a time through a stack of layers: the compiled half of Stream. Checks its arrays by the C API, calls the
# same step as the time loop, allocates nothing but a new output.
"""The compiled stepper behind Stream."""

import numpy as np

cimport numpy as cnp
from cpython.pystate cimport PyThreadState
from libc.stdlib cimport calloc, free

from cylstm import validation
from cylstm._core.packing import aligned_empty

from cylstm._core.packing cimport Store, Weights
from cylstm._core.sequence cimport (
    allocate_rows,
    blocks_of_plan,
    describe,
    free_rows,
    from_row,
    interrupted,
    layer_description,
    prepare,
    release,
    rows_per_part,
    scratch_bytes,
    scratch_rows,
    step,
    step_rows,
    take_back,
    work_bytes,
)

cnp.import_array()


cdef bint fits(array, int type_number, Py_ssize_t rows, Py_ssize_t width) noexcept:
    """Whether it is an exact ndarray, native, aligned, C-contiguous and of shape (width,), where rows is -1, or
    (rows, width). A type_number of -1 stands for float32 and float64, a width of -1 for any."""
    if not cnp.PyArray_CheckExact(array) or not cnp.PyArray_ISCARRAY_RO(array):
        return False
    cdef int found = cnp.PyArray_TYPE(array)
    cdef int axes = 1 if rows < 0 else 2
    return (
        (found == type_number or (type_number < 0 and (found == cnp.NPY_FLOAT or found == cnp.NPY_DOUBLE)))
        and cnp.PyArray_NDIM(array) == axes
        and (rows < 0 or cnp.PyArray_DIM(array, 0) == rows)
        and (width < 0 or cnp.PyArray_DIM(array, axes - 1) == width)
    )


cdef tuple shape_of(Py_ssize_t rows, Py_ssize_t width):
    if rows < 0:
        return (width,)
    return (rows, width)


cdef object output_of_step(
    out, int type_number, Py_ssize_t rows, Py_ssize_t width, const char *x, Py_ssize_t x_bytes
):
    """Where a step puts its result: ``out``, which fits and does not overlap x, or a new array."""
    cdef cnp.npy_intp[2] shape
    cdef const char *y
    if out is None:
        shape[0] = rows
        shape[1] = width
        return cnp.PyArray_EMPTY(1 if rows < 0 else 2, &shape[1] if rows < 0 else shape, type_number, 0)
    if not fits(out, type_number, rows, width) or not cnp.PyArray_ISWRITEABLE(out):
        _refuse(out, cnp.PyArray_DescrFromType(type_number), shape_of(rows, width))
    y = <const char *>cnp.PyArray_DATA(out)
    if y < x + x_bytes and x < y + (1 if rows < 0 else rows) * width * cnp.PyArray_ITEMSIZE(out):
        raise ValueError("out overlaps x, expected separate memory")
    return out


def _refuse(out, dtype, expected):
    """The error for an out that does not fit."""
    if not isinstance(out, np.ndarray) or out.dtype != dtype or not out.dtype.isnative:
        found = out.dtype if isinstance(out, np.ndarray) else type(out).__name__
        raise TypeError(f"out is {found}, expected an ndarray of dtype {dtype}")
    validation.shape("out", out, expected, expected)
    raise ValueError("out is not a plain, aligned, C-contiguous and writable ndarray")


cdef class Stepper:
    """A layer, a batch size, and the state between steps.

    The state is kept twice: a step reads one slot and writes the other, so that all blocks see the old h, and a step
    that Ctrl-C ends has changed nothing.
    """

    cdef readonly object layer
    cdef readonly object batch_size
    cdef Store store
    cdef object snapshot                # whose packed weights `layers` points into
    cdef object weights                 # keeps them alive
    cdef layer_description *layers      # (num_layers,)
    cdef step_rows *rows                # (2 slots, num_layers)
    cdef object h                       # (2, num_layers, rows, P)
    cdef object c                       # (2, num_layers, rows, H), or None where the cell has no c
    cdef object scratch
    cdef Py_ssize_t num_layers
    cdef Py_ssize_t count               # rows
    cdef Py_ssize_t batch_axis          # as many, or -1: there is none
    cdef Py_ssize_t input_size
    cdef readonly Py_ssize_t output_size
    cdef Py_ssize_t row_bytes           # of h
    cdef char *work
    cdef Py_ssize_t operations          # multiply-adds of one row in one step
    cdef Py_ssize_t part                # rows between two looks for Ctrl-C
    cdef int type_number
    cdef int itemsize
    cdef int slot                       # of the current h
    cdef char busy

    def __cinit__(self, layer, batch_size=None):
        cdef Py_ssize_t k
        cdef int slot
        cdef Weights packed
        self.count = validation.streamable(layer, batch_size)
        self.layer = layer
        self.batch_size = None if batch_size is None else self.count
        self.batch_axis = -1 if batch_size is None else self.count
        self.store = layer._store
        self.num_layers = layer.num_layers
        self.input_size = layer.input_size
        self.output_size = layer._state_size
        dtype = layer.dtype
        self.itemsize = dtype.itemsize
        self.type_number = dtype.num
        self.row_bytes = self.output_size * self.itemsize
        shape = (2, self.num_layers, self.count)
        self.h = aligned_empty((*shape, self.output_size), dtype, zero=True)
        self.c = aligned_empty((*shape, layer.hidden_size), dtype, zero=True) if len(layer._states) == 2 else None
        self.layers = <layer_description *>calloc(self.num_layers, sizeof(layer_description))
        self.rows = <step_rows *>calloc(2 * self.num_layers, sizeof(step_rows))
        if self.layers == NULL or self.rows == NULL:
            raise MemoryError
        weights = layer._packed(self.store.snapshot)
        for k in range(2 * self.num_layers):
            packed = weights[k % self.num_layers]
            allocate_rows(&self.rows[k], self.count, blocks_of_plan(packed, self.count))
            self.rows[k].h_in = self.rows[k].h_prev
            self.rows[k].c_next = self.rows[k].c
        self._refresh()
        for slot in range(2):
            for k in range(self.num_layers):
                self._point(&self.rows[slot * self.num_layers + k], slot, k)
        if layer._default is not None:
            self._set(None)

    def __dealloc__(self):
        cdef Py_ssize_t k
        if self.rows != NULL:
            for k in range(2 * self.num_layers):
                free_rows(&self.rows[k])
        free(self.rows)
        free(self.layers)

    cdef _point(self, step_rows *rows, int slot, Py_ssize_t k):
        """All pointers of layer k that do not change from step to step."""
        cdef char *c = NULL if self.c is None else <char *>cnp.PyArray_DATA(self.c)
        cdef char *h = <char *>cnp.PyArray_DATA(self.h)
        cdef Py_ssize_t slot_bytes = self.num_layers * self.count * self.row_bytes
        cdef Py_ssize_t c_bytes = self.layer.hidden_size * self.itemsize
        cdef Py_ssize_t c_slot_bytes = self.num_layers * self.count * c_bytes
        cdef Py_ssize_t r, row, c_row
        for r in range(self.count):
            row = (k * self.count + r) * self.row_bytes
            c_row = (k * self.count + r) * c_bytes
            rows.h_prev[r] = h + slot * slot_bytes + row
            rows.h[r] = h + (1 - slot) * slot_bytes + row
            if c != NULL:
                rows.c_prev[r] = c + slot * c_slot_bytes + c_row
                rows.c[r] = c + (1 - slot) * c_slot_bytes + c_row
            # Layer k + 1 reads the new h of layer k; only the first x and the last y come from the caller.
            rows.y[r] = rows.h[r]
            rows.x[r] = NULL if k == 0 else h + (1 - slot) * slot_bytes + row - self.count * self.row_bytes

    cdef _refresh(self):
        """Take the layer's current weights."""
        cdef Py_ssize_t k, r, most = 0, work = 0
        cdef int slot
        cdef step_rows *rows
        cdef Weights packed
        snapshot = self.store.snapshot
        weights = self.layer._packed(snapshot)
        self.operations = 0
        for k in range(self.num_layers):
            packed = weights[k]
            self.layers[k] = describe(packed, self.count)
            self.operations += packed.operations
            most = max(most, scratch_bytes(&self.layers[k], self.count))
            work = max(work, work_bytes(&self.layers[k]))
        self.part = rows_per_part(self.operations)
        self.scratch = aligned_empty((work + most,), np.dtype(np.uint8))
        self.work = <char *>cnp.PyArray_DATA(self.scratch)
        for slot in range(2):
            for k in range(self.num_layers):
                rows = &self.rows[slot * self.num_layers + k]
                scratch_rows(&self.layers[k], rows, self.count, self.work + work)
                prepare(&self.layers[k], rows, True, False, self.work)
                for r in range(self.count):
                    rows.start[r] = self.layers[k].bias
                    rows.keep_h[r] = self.layers[k].keep_h
                    rows.keep_c[r] = self.layers[k].keep_c
        self.weights = weights
        self.snapshot = snapshot

    def step(self, x, out=None):
        """One time step.

        Parameters
        ----------
        x : ndarray, shape (input_size,), or (n, input_size) for a stream of n
            Of the layer's dtype.
        out : ndarray, shape (hidden_size,) or (n, hidden_size), or with proj_size or output_size instead, optional
            Where to put the result: C-contiguous, not overlapping ``x``. With it a step allocates nothing.

        Returns
        -------
        ndarray
            The last layer's h: ``out``, or a new array.

        Raises
        ------
        ValueError, TypeError
            If x or out does not fit. A failed call changes nothing; only Ctrl-C in a huge batch may leave ``out`` (not
            the state) half written.
        RuntimeError
            If another thread is inside this stream.
        """
        cdef char *x_data
        cdef char *y_data
        cdef PyThreadState *state
        cdef step_rows *rows
        cdef step_rows part
        cdef Py_ssize_t r, k, row, some
        if not fits(x, self.type_number, self.batch_axis, self.input_size):
            x = validation.input_of_step(x, self.layer.dtype, self.batch_size, self.input_size, "input_size")
        x_data = <char *>cnp.PyArray_DATA(x)
        out = output_of_step(
            out, self.type_number, self.batch_axis, self.output_size, x_data,
            self.count * self.input_size * self.itemsize,
        )
        y_data = <char *>cnp.PyArray_DATA(out)
        if not flag_take(&self.busy):
            raise RuntimeError("another thread is inside this stream: give each thread a stream of its own")
        try:
            if self.store.snapshot is not self.snapshot:
                self._refresh()
            rows = &self.rows[self.slot * self.num_layers]
            for r in range(self.count):
                rows[0].x[r] = x_data + r * self.input_size * self.itemsize
                rows[self.num_layers - 1].y[r] = y_data + r * self.row_bytes
            row = 0
            while row < self.count:  # in parts that can be interrupted; all of them but for huge batches
                some = min(self.count - row, self.part)
                state = release(self.operations * some, None)
                for k in range(self.num_layers):
                    if row == 0:
                        step(&self.layers[k], &rows[k], some, self.slot)
                    else:
                        part = from_row(&rows[k], row)
                        prepare(&self.layers[k], &part, True, False, self.work)
                        step(&self.layers[k], &part, some, self.slot)
                take_back(state)
                row += some
                if row < self.count:
                    interrupted(None)
            self.slot = 1 - self.slot
        finally:
            flag_drop(&self.busy)
        return out

    def _enter(self):
        """Take the stream for work that is not a step; :meth:`_leave` gives it back."""
        if not flag_take(&self.busy):
            raise RuntimeError("another thread is inside this stream: give each thread a stream of its own")

    def _leave(self):
        flag_drop(&self.busy)

    def _get(self):
        """[h] or [h, c]: views of the current state, (num_layers, n, H)."""
        return [self.h[self.slot]] if self.c is None else [self.h[self.slot], self.c[self.slot]]

    def _set(self, states):
        """Copy arrays, or for None those of the layer's default state or zeros, into the current state."""
        for part, state in zip(self._get(), states or self.layer._default or (0, 0)):
            part[...] = state

    def _back(self):
        """Take back the last step: the state before it is in the other slot."""
        self.slot = 1 - self.slot

    def _hold(self, rows):
        """Take back the last step of ``rows``, an index, alone."""
        for state in (self.h, self.c):
            if state is not None:
                state[self.slot][:, rows] = state[1 - self.slot][:, rows]
