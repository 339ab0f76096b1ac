# Dropout masks by a counter-based generator: each value is a function of its position alone, so neither threads
# nor the order of the work can change a mask.
"""Philox4x32-10 (Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011)."""

cimport numpy as cnp
from libc.stdint cimport uint32_t, uint64_t

cnp.import_array()

ctypedef fused floating:
    float
    double


cdef inline uint64_t mix(uint64_t z) noexcept nogil:
    """splitmix64's finaliser (Steele, Lea & Flood 2014): spreads (seed, call) over the 64 bits of the key."""
    z = (z ^ (z >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * <uint64_t>0x94D049BB133111EB
    return z ^ (z >> 31)


cdef inline void philox(uint32_t *counter, uint64_t key) noexcept nogil:
    """Ten rounds over the four words of ``counter``, in place."""
    cdef uint32_t key_0 = <uint32_t>key
    cdef uint32_t key_1 = <uint32_t>(key >> 32)
    cdef uint64_t product_0, product_2
    cdef int _round
    for _round in range(10):
        product_0 = <uint64_t>0xD2511F53 * counter[0]
        product_2 = <uint64_t>0xCD9E8D57 * counter[2]
        counter[0] = <uint32_t>(product_2 >> 32) ^ counter[1] ^ key_0
        counter[1] = <uint32_t>product_2
        counter[2] = <uint32_t>(product_0 >> 32) ^ counter[3] ^ key_1
        counter[3] = <uint32_t>product_0
        key_0 += <uint32_t>0x9E3779B9
        key_1 += <uint32_t>0xBB67AE85


def random_words(counter, uint64_t key):
    """The four words of philox, for the known answers of its authors."""
    cdef uint32_t[4] words
    cdef int k
    for k in range(4):
        words[k] = counter[k]
    philox(words, key)
    return [words[0], words[1], words[2], words[3]]


cdef void choose_all(
    floating[:, :, :] array, uint64_t key, uint32_t stream, double p, bint factors, floating chosen, floating others
) noexcept nogil:
    """Each element becomes ``chosen`` with probability p; the others ``others``, or that times more as ``factors``."""
    cdef uint64_t threshold = <uint64_t>(p * 4294967296.0)  # 2^32: chosen below
    cdef uint32_t[4] words
    cdef Py_ssize_t t, row, unit
    for t in range(array.shape[0]):
        for row in range(array.shape[1]):
            for unit in range(array.shape[2]):
                if unit % 4 == 0:
                    words[0] = <uint32_t>(unit // 4)
                    words[1] = <uint32_t>row
                    words[2] = <uint32_t>t
                    words[3] = stream
                    philox(words, key)
                if words[unit % 4] < threshold:
                    array[t, row, unit] = chosen
                else:
                    array[t, row, unit] = array[t, row, unit] * others if factors else others


def choose(
    array, uint64_t seed, uint64_t call, uint32_t stream, double p, double chosen, double others, bint factors=False
):
    """Fill ``array`` (T, B, units): ``chosen`` with probability p, ``others`` elsewhere; or multiply by those."""
    cdef uint64_t key = mix(seed ^ mix(call))
    cdef float[:, :, :] single
    cdef double[:, :, :] double_
    if array.dtype.itemsize == 4:
        single = array
        with nogil:
            choose_all(single, key, stream, p, factors, <float>chosen, <float>others)
    else:
        double_ = array
        with nogil:
            choose_all(double_, key, stream, p, factors, chosen, others)


def drop(array, uint64_t seed, uint64_t call, uint32_t layer, double p):
    """Multiply ``array`` (T, B, units) by a mask of 0 (with probability p) and 1 / (1 - p), in place."""
    choose(array, seed, call, layer, p, 0.0, 1 / (1 - p) if p < 1 else 0.0, True)
