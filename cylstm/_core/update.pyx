# Optimisers and clipping, from arrays to the kernels' loops. Knows no equation, and of a layer its store alone.
"""One step of an optimiser over many arrays, made whole or not at all; the norm of gradients, and their scaling."""

import numpy as np

cimport numpy as cnp
from cpython.pystate cimport PyThreadState

from cylstm import validation
from cylstm._core.packing import aligned_empty

from cylstm._core.dispatch cimport table_of
from cylstm._core.kernels cimport kernel_table, update, update_function
from cylstm._core.packing cimport Store, frozen_empty
from cylstm._core.sequence cimport release, take_back

cnp.import_array()

cdef enum:
    OPERATIONS = 8   # of an element: a guess at what the rules cost, in multiply-adds


cdef class Slot:
    """One parameter: the layer that holds it, how many steps it has made, and its moments, None for one it has not."""
    cdef readonly object leaf
    cdef readonly str name       # in leaf.parameters
    cdef readonly tuple shape
    cdef readonly cnp.dtype dtype
    cdef public Py_ssize_t steps
    cdef public tuple moments    # C-contiguous arrays

    def __init__(self, leaf, str name, moments):
        parameter = leaf.parameters[name]
        self.leaf = leaf
        self.name = name
        self.shape = parameter.shape
        self.dtype = parameter.dtype
        self.moments = tuple([
            None if moment is None else aligned_empty(self.shape, self.dtype, True) for moment in moments
        ])


def collect(str what, dict slots, gradients, trainable, list changes, list leaves):
    """Look at the gradients {name: array} of one layer, and add to ``changes`` (slot, gradient) of what is trainable.

    ``slots`` {name: Slot} has the same keys; those of one leaf follow each other. Their leaves are added to ``leaves``.
    """
    cdef Slot slot
    cdef str name
    for name, slot in slots.items():
        g = gradients[name]
        if (
            not cnp.PyArray_CheckExact(g) or (<cnp.ndarray>g).dtype is not slot.dtype
            or g.shape != slot.shape or not cnp.PyArray_ISCARRAY_RO(g)
        ):
            g = validation.array(f"{what} {name}", g, slot.dtype)
            validation.shape(f"{what} {name}", g, slot.shape, slot.shape)
            g = np.array(g, order="C")  # contiguous and aligned
        if name in trainable:
            changes.append((slot, g))
            if not leaves or leaves[len(leaves) - 1] is not slot.leaf:
                leaves.append(slot.leaf)


cdef update_function *rule_of(const kernel_table *table, str name) except NULL:
    if name == "sgd":
        return table.sgd
    if name == "nesterov":
        return table.nesterov
    if name == "rmsprop":
        return table.rmsprop
    if name == "adam":
        return table.adam
    raise ValueError(f"rule is {name!r}, expected sgd, nesterov, rmsprop or adam")


def apply(str rule, list changes, numbers, snapshot, counter):
    """One step of an optimiser, or, if this raises, nothing of one. The leaves' locks are held.

    Parameters
    ----------
    rule : str
        Which moments and numbers it has: updates.pxi.
    changes : list of (Slot, gradient)
        Those of one leaf one after the other, the gradients C-contiguous. The moments are changed in place.
    numbers : function of the count of a step, from 1, to a tuple
    snapshot : function of {name: array} to a snapshot of a layer
    counter
        An object whose ``steps`` grows by one, as the slots' do.
    """
    cdef list jobs = []
    cdef list swaps = []
    cdef dict numbers_of = {}
    cdef dict new = None
    cdef Slot slot
    cdef update at
    cdef update_function *function
    cdef PyThreadState *state
    cdef int k
    leaf = old = None
    for slot, g in changes:
        if slot.leaf is not leaf:
            if leaf is not None:
                swaps.append((leaf._store, snapshot(new)))
            leaf = slot.leaf
            old = leaf.parameters
            new = dict(old)
        if slot.steps not in numbers_of:
            numbers_of[slot.steps] = numbers(slot.steps + 1)
        p = old[slot.name]
        new[slot.name] = p_new = frozen_empty(p)
        jobs.append((slot, p_new, p, g, numbers_of[slot.steps]))
    if leaf is not None:
        swaps.append((leaf._store, snapshot(new)))

    # No Python code runs from here on, so no signal is answered before all is done.
    for slot, p_new, p, g, values in jobs:
        function = rule_of(table_of(slot.dtype), rule)
        at.count = cnp.PyArray_SIZE(p)
        at.g = cnp.PyArray_DATA(g)
        at.p = cnp.PyArray_DATA(p)
        at.p_new = cnp.PyArray_DATA(p_new)
        at.moments = [NULL, NULL, NULL]
        for k in range(len(slot.moments)):
            if slot.moments[k] is not None:
                at.moments[k] = cnp.PyArray_DATA(slot.moments[k])
        for k in range(len(values)):
            at.numbers[k] = values[k]
        state = release(OPERATIONS * at.count)
        function(&at)
        take_back(state)
        slot.steps += 1
    for store, snapshot_ in swaps:
        (<Store>store).snapshot = snapshot_
    counter.steps += 1


def writable_arrays(grads):
    """All arrays of parameters' gradients in a list of Gradients, to be changed in place; looked at before any is."""
    cdef list arrays = []
    for n, g in enumerate(grads):
        for name, array in g.parameters.items():
            if (
                not cnp.PyArray_CheckExact(array) or not cnp.PyArray_ISBEHAVED(array)
                or cnp.PyArray_TYPE(array) not in (cnp.NPY_FLOAT, cnp.NPY_DOUBLE)
            ):
                array = validation.writable_floats(f"grads[{n}] {name}", array)
            arrays.append(array)
    return arrays


def sum_of_squares(list arrays):
    """Of arrays of float32 or float64, in float64: of each in the order that updates.pxi says, one after the other."""
    cdef const kernel_table *table
    cdef PyThreadState *state
    cdef Py_ssize_t count
    cdef const void *data
    cdef double part
    cdef double total = 0
    cdef cnp.ndarray array
    for array in arrays:
        array = _contiguous(array)
        table = table_of(array.dtype)
        count = cnp.PyArray_SIZE(array)
        data = cnp.PyArray_DATA(array)
        state = release(count)
        part = table.sum_of_squares(count, data)
        take_back(state)
        total += part
    return total


def rescale(list arrays, double factor):
    """Multiply arrays of float32 or float64 in place, in float64 and rounded once."""
    cdef const kernel_table *table
    cdef PyThreadState *state
    cdef Py_ssize_t count
    cdef void *data
    cdef cnp.ndarray array
    for array in arrays:
        contiguous = _contiguous(array)
        table = table_of(array.dtype)
        count = cnp.PyArray_SIZE(array)
        data = cnp.PyArray_DATA(contiguous)
        state = release(count)
        table.rescale(count, factor, data)
        take_back(state)
        if contiguous is not array:
            array[...] = contiguous


cdef _contiguous(array):
    """The array, or a copy that is contiguous and aligned."""
    return array if cnp.PyArray_ISCARRAY_RO(array) else np.array(array, order="C")
