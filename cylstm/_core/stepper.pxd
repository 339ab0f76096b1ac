# What every step does with its arrays, and what keeps a second thread out.

cdef extern from "atomic.h" nogil:
    bint flag_take(char *flag)
    void flag_drop(char *flag)

cdef bint fits(array, int type_number, Py_ssize_t rows, Py_ssize_t width) noexcept
cdef object output_of_step(out, int type_number, Py_ssize_t rows, Py_ssize_t width, const char *x, Py_ssize_t x_bytes)
