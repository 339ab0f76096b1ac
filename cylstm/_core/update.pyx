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
    cdef readonly str label      # in those of the optimiser's layer, which leaf may be a part of
    cdef readonly tuple shape
    cdef readonly cnp.dtype dtype
    cdef public Py_ssize_t steps
    cdef public tuple moments    # C-contiguous arrays

    def __init__(self, leaf, str name, str label, moments):
        parameter = leaf.parameters[name]
        self.leaf = leaf
        self.name = name
        self.label = label
        self.shape = parameter.shape
        self.dtype = parameter.dtype
        self.moments = tuple([
            None if moment is None else aligned_empty(self.shape, self.dtype, True) for moment in moments
        ])


def collect(gradients, list layers, list slots, bint finite):
    """Look at Gradients, one for each layer, and pick those of trainable parameters.

    Parameters
    ----------
    gradients : list of Gradients
    layers : list of layers
    slots : list of {name: Slot}
        Of each layer. Those of one leaf follow each other.
    finite : bool
        Whether a NaN or an infinity is an error.

    Returns
    -------
    changes : list of (Slot, gradient)
    leaves : list
        Those that hold these parameters.
    """
    cdef list changes = []
    cdef list leaves = []
    cdef Slot slot
    cdef str name
    cdef Py_ssize_t n
    leaf = None
    if len(gradients) != len(layers):
        raise ValueError(f"gradients has {len(gradients)} entries, expected {len(layers)}, one per layer")
    for n in range(len(layers)):
        given = gradients[n].parameters
        of_layer = slots[n]
        if given.keys() != of_layer.keys():
            raise ValueError(
                f"gradients[{n}] has the names {', '.join(given)}, "
                f"expected {', '.join(of_layer)}: those of layers[{n}]"
            )
        trainable = layers[n]._trainable_names()
        for name, slot in of_layer.items():
            g = given[name]
            if (
                not cnp.PyArray_CheckExact(g) or (<cnp.ndarray>g).dtype is not slot.dtype
                or g.shape != slot.shape or not cnp.PyArray_ISCARRAY_RO(g)
            ):
                what = f"gradients[{n}] {name}"
                g = validation.array(what, g, slot.dtype)
                validation.shape(what, g, slot.shape, slot.shape)
                g = np.array(g, order="C")  # contiguous and aligned
            if name in trainable:
                if finite and not reduced(g, False):
                    raise FloatingPointError(f"the gradient of {name} is infinite or NaN")
                changes.append((slot, g))
                if slot.leaf is not leaf:
                    leaf = slot.leaf
                    leaves.append(leaf)
    return changes, leaves


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


def apply(str rule, list changes, numbers, snapshot, counter, bint finite):
    """One step of an optimiser, or, if this raises, none of the parameters is changed. The leaves' locks are held.

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
    finite : bool
        Whether a parameter that would no longer be finite is an error. Moments and counts are those after it then: they
        are changed in place, and keeping those of before would cost a copy of all of them in each step.
    """
    cdef list jobs = []
    cdef list swaps = []
    cdef dict numbers_of = {}
    cdef dict new = None
    cdef Slot slot
    cdef Slot broken = None
    cdef update at
    cdef update_function *function
    cdef PyThreadState *state
    cdef int k
    leaf = None
    for slot, g in changes:
        if slot.leaf is not leaf:
            if leaf is not None:
                swaps.append((leaf._store, snapshot(new)))
            leaf = slot.leaf
            new = leaf.parameters.copy()
        if slot.steps not in numbers_of:
            numbers_of[slot.steps] = numbers(slot.steps + 1)
        p = new[slot.name]
        new[slot.name] = p_new = frozen_empty(p)
        jobs.append((slot, p_new, p, g, numbers_of[slot.steps]))
    if leaf is not None:
        swaps.append((leaf._store, snapshot(new)))

    # No Python code runs from here on, unless something is broken, so no signal is answered before all is done.
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
        state = release(OPERATIONS * at.count, None)
        function(&at)
        take_back(state)
        slot.steps += 1
        if finite and broken is None and not reduced(p_new, False) and (np.isfinite(p) & ~np.isfinite(p_new)).any():
            broken = slot
    counter.steps += 1
    if broken is not None:
        raise FloatingPointError(f"{broken.label} would become infinite or NaN")
    for store, snapshot_ in swaps:
        (<Store>store).snapshot = snapshot_


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
    cdef double total = 0
    for array in arrays:
        total += reduced(array, True)
    return total


cdef double reduced(given, bint squares) except? -1:
    """The sum of the squares of an array, or whether all of it is finite."""
    cdef cnp.ndarray array = _contiguous(given)
    cdef const kernel_table *table = table_of(array.dtype)
    cdef Py_ssize_t count = cnp.PyArray_SIZE(array)
    cdef const void *data = cnp.PyArray_DATA(array)
    cdef PyThreadState *state = release(count, None)
    cdef double found = table.sum_of_squares(count, data) if squares else table.all_finite(count, data)
    take_back(state)
    return found


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
        state = release(count, None)
        table.rescale(count, factor, data)
        take_back(state)
        if contiguous is not array:
            array[...] = contiguous


cdef _contiguous(array):
    """The array, or a copy that is contiguous and aligned."""
    return array if cnp.PyArray_ISCARRAY_RO(array) else np.array(array, order="C")
