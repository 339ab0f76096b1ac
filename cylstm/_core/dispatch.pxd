from cylstm._core.kernels cimport kernel_table


cdef const kernel_table *table_of(object dtype) except NULL
