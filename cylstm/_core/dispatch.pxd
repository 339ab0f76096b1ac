from cylstm._core.kernels cimport activation_backward_function, activation_function, kernel_table


cdef const kernel_table *table_of(object dtype) except NULL
cdef activation_function *activation_of(const kernel_table *table, str name) except NULL
cdef activation_backward_function *activation_backward_of(const kernel_table *table, str name) except NULL
