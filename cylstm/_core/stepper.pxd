# What every step does with its arrays.

cdef bint fits(array, int type_number, Py_ssize_t rows, Py_ssize_t width) noexcept
cdef object output_of_step(out, int type_number, Py_ssize_t rows, Py_ssize_t width, const char *x, Py_ssize_t x_bytes)
