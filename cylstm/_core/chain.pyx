# One time step through the layers of a model: the steps of their parts one after the other, and what holds rows that
# are masked. Does no arithmetic; undoes and holds states by what Steppers keep of the step before.
"""The compiled half of SequentialStream."""

import numpy as np

cimport numpy as cnp
from libc.string cimport memcpy

from cylstm import validation

from cylstm._core.stepper cimport fits, flag_drop, flag_take, output_of_step

cnp.import_array()

ctypedef fused real:
    float
    double


cdef bint all_are(const real *x, Py_ssize_t width, real value) noexcept:
    cdef Py_ssize_t k
    for k in range(width):
        if x[k] != value and not (x[k] != x[k] and value != value):
            return False
    return True


def _refuse():
    raise RuntimeError("another thread is inside this stream: give each thread a stream of its own")


cdef class Stage:
    """What is done with x at one place of a model.

    Parameters
    ----------
    part : what the layer's ``_stream_part`` returned, or None: nothing is done
    buffer : where the part puts its result, unless it is the last; None: a new array
    has_state : whether the part is a Stepper, which can take a step back
    masks : None: nothing. "zero": x is integers, of which 0 is masked. A float: rows of x that have it everywhere are
    """

    cdef readonly object part
    cdef object step
    cdef object buffer
    cdef readonly object masks
    cdef double value
    cdef bint has_state
    cdef bint looks_at_rows

    def __init__(self, part, buffer, has_state, masks):
        self.part = part
        self.step = None if part is None else part.step
        self.buffer = buffer
        self.has_state = has_state
        self.masks = masks
        self.looks_at_rows = isinstance(masks, float)
        self.value = masks if self.looks_at_rows else 0


cdef class Chain:
    """The stages of a model in their order.

    A step either moves all of them or none: a part that fails makes those before it take their step back.
    """

    cdef readonly object model
    cdef readonly object batch_size
    cdef list stages
    cdef object last                # the output of the last step, where rows may be masked; otherwise None
    cdef Py_ssize_t batch_axis      # n, or -1: there is none
    cdef Py_ssize_t input_size      # -1: any
    cdef int type_number            # -1: float32 or float64
    cdef char busy

    def __init__(self, model, batch_size, stages, last):
        self.model = model
        self.batch_size = batch_size
        self.stages = stages
        self.last = last
        self.batch_axis = -1 if batch_size is None else batch_size
        self.input_size = -1 if model._input_width is None else model._input_width
        self.type_number = -1 if model.dtype is None else model.dtype.num

    cdef object _masked(self, Stage stage, x):
        """None, or which rows of x are masked: (n,) of bool, or True where there is no batch axis."""
        cdef Py_ssize_t r, width
        cdef Py_ssize_t rows = 1 if self.batch_axis < 0 else self.batch_axis
        cdef char *data
        cdef bint found
        cdef object masked = None
        if not stage.looks_at_rows:
            if self.batch_axis < 0:
                return True if x == 0 else None
            masked = x == 0
            return masked if masked.any() else None
        width = cnp.PyArray_DIM(x, cnp.PyArray_NDIM(x) - 1)
        data = <char *>cnp.PyArray_DATA(x)
        for r in range(rows):
            if cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT:
                found = all_are(<const float *>data + r * width, width, <float>stage.value)
            else:
                found = all_are(<const double *>data + r * width, width, stage.value)
            if found:
                if self.batch_axis < 0:
                    return True
                if masked is None:
                    masked = np.zeros(rows, np.bool_)
                masked[r] = True
        return masked

    def step(self, x, out=None):
        """One time step.

        Parameters
        ----------
        x : ndarray, shape (features,), or (n, features) for a stream of n
            Of the model's dtype; where an Embedding is first an integer, or an ndarray (n,) of integers.
        out : ndarray, optional
            Where to put the result: of the model's dtype, C-contiguous, not overlapping ``x``.

        Returns
        -------
        ndarray, shape (features of y,) or (n, features of y)
            The last layer's output: ``out``, or a new array. Where x is masked, all layers behind the mask keep their
            state, and this is the output of the step before, zeros before the first.

        Raises
        ------
        ValueError, TypeError
            If x or out does not fit. A failed call changes nothing.
        RuntimeError
            If another thread is inside this stream.
        """
        cdef Stage stage
        cdef Py_ssize_t k
        cdef Py_ssize_t moved = 0   # stages
        cdef Py_ssize_t count = len(self.stages)
        cdef object held = None     # rows that are masked
        cdef object y
        if not flag_take(&self.busy):
            _refuse()
        try:
            if (<Stage>self.stages[0]).looks_at_rows and not fits(
                x, self.type_number, self.batch_axis, self.input_size
            ):
                x = validation.input_of_step(x, self.model.dtype, self.batch_size, self.input_size, "features")
            for k in range(count):
                stage = self.stages[k]
                y = x
                if stage.step is not None:
                    y = stage.step(x, out if k == count - 1 else stage.buffer)
                    moved = k + 1
                    if held is not None and stage.has_state:
                        stage.part._hold(held)
                if stage.masks is not None:
                    masked = self._masked(stage, x)
                    if masked is not None:
                        held = masked if held is None else held | masked
                        if self.batch_axis < 0 or held.all():
                            out = output_of_step(
                                out, cnp.PyArray_TYPE(self.last), self.batch_axis,
                                cnp.PyArray_DIM(self.last, cnp.PyArray_NDIM(self.last) - 1), NULL, 0,
                            )
                            memcpy(cnp.PyArray_DATA(out), cnp.PyArray_DATA(self.last), cnp.PyArray_NBYTES(self.last))
                            return out
                x = y
            if held is not None:
                x[held] = self.last[held]
            if self.last is not None:
                memcpy(cnp.PyArray_DATA(self.last), cnp.PyArray_DATA(x), cnp.PyArray_NBYTES(self.last))
            return x
        except:  # noqa: E722  Ctrl-C too
            for k in range(moved):
                stage = self.stages[k]
                if stage.has_state:
                    stage.part._back()
            raise
        finally:
            flag_drop(&self.busy)

    def _enter(self):
        """Take the stream for work that is not a step; :meth:`_leave` gives it back."""
        if not flag_take(&self.busy):
            _refuse()

    def _leave(self):
        flag_drop(&self.busy)

    def _get(self):
        """The state of each stage that has one, as Steppers have it, and the last output: views."""
        return [(<Stage>stage).part._get() for stage in self.stages if (<Stage>stage).has_state], self.last

    def _set(self, states, last):
        """Copy such states and such an output, zeros for None, into the current ones: all at once."""
        cdef Stage stage
        cdef Py_ssize_t n = 0
        for stage in self.stages:
            if stage.has_state:
                stage.part._set(states[n])
                n += 1
        if self.last is not None:
            self.last[...] = 0 if last is None else last
