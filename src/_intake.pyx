"""Packs a caller's batch, and checks its values on the way.

Dimensions: N sequences, T steps.
"""

import numpy as np

from cpython.buffer cimport PyBUF_C_CONTIGUOUS, PyBUF_FORMAT, PyBuffer_Release, PyObject_GetBuffer
from libc.string cimport memcpy, strcmp

from _plan cimport Rows, address, packed_rows, row_count

cdef enum:
    LITTLE = 1 << 14             # Bytes; packing fewer takes less time than releasing the GIL for other threads.

ctypedef fused number:
    float
    double
    Py_ssize_t


cdef bint within(const number* values, Py_ssize_t size, double low, double high) noexcept nogil:
    """Whether all values lie in [low, high]; NaN does not."""
    cdef Py_ssize_t wrong = 0
    cdef Py_ssize_t j
    cdef number lowest = <number>low
    cdef number highest = <number>high
    for j in range(size):
        wrong += not (lowest <= values[j] <= highest)
    return wrong == 0


cdef class Intake:
    """Packs batches (N, T, ...) into an array (N*T, ...), or (N, ...) into (N, ...) behind a "last" output.

    Parameters
    ----------
    rows : Rows
    out : ndarray
    bounds : pair of float, optional
        Lowest and highest allowed value; if not given, values are not checked.
    last : bool
    """

    cdef Rows rows
    cdef const Py_ssize_t* order
    cdef const Py_ssize_t* begins
    cdef char* out
    cdef Py_ssize_t row_size, width, dimensions
    cdef bint last, checked
    cdef double low, high
    cdef object dtype, keep
    cdef bytes format_
    cdef const char* format
    cdef char kind
    cdef Py_ssize_t itemsize

    def __init__(self, rows, out, bounds=None, *, last=False):
        self.keep = [rows, out]
        self.rows = packed_rows(rows)
        self.order = <const Py_ssize_t*>address(rows.order)
        self.begins = <const Py_ssize_t*>address(rows.begins)
        self.out, self.dtype, self.last = <char*>address(out), out.dtype, last
        self.format_ = memoryview(out).format.encode()
        self.format, self.kind, self.itemsize = self.format_, ord(out.dtype.kind), out.itemsize
        self.row_size, self.dimensions = out.strides[0], out.ndim
        self.width = self.row_size // self.itemsize
        self.checked = bounds is not None
        if self.checked:
            self.low, self.high = bounds

    def take(self, x):
        """Pack x, (N, T, ...) or for T = 1 (N, ...); return whether all values of valid steps are within the bounds."""
        cdef Py_buffer view
        if not self.acquire(x, &view):
            self.acquire(np.array(x, self.dtype, order="C"), &view)
        if view.len < LITTLE:
            self.pack(<const char*>view.buf)
        else:
            with nogil:
                self.pack(<const char*>view.buf)
        PyBuffer_Release(&view)
        return not self.checked or self.look()

    def take_step(self, x):
        """Pack x if it has a step's shape and dtype, and return whether it has, with all values within the bounds."""
        cdef Py_buffer view
        cdef bint fits
        if not self.acquire(x, &view):
            return False
        fits = view.len == self.rows.N * self.row_size and view.ndim == self.dimensions and view.shape[0] == self.rows.N
        if fits:
            self.pack(<const char*>view.buf)
        PyBuffer_Release(&view)
        return fits and (not self.checked or self.look())

    cdef bint acquire(self, object x, Py_buffer* view) except -1:
        """Get a view of x's data; return False if x has another dtype or is not contiguous."""
        try:
            PyObject_GetBuffer(x, view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT)
        except (BufferError, TypeError, ValueError):
            return False
        if view.itemsize == self.itemsize and strcmp(view.format, self.format) == 0:
            return True
        PyBuffer_Release(view)
        return False

    cdef bint look(self) noexcept nogil:
        cdef Py_ssize_t size = row_count(&self.rows, self.last) * self.width
        if self.kind == c"i":
            return within(<Py_ssize_t*>self.out, size, self.low, self.high)
        if self.itemsize == sizeof(float):
            return within(<float*>self.out, size, self.low, self.high)
        return within(<double*>self.out, size, self.low, self.high)

    cdef void pack(self, const char* source) noexcept nogil:
        cdef Py_ssize_t size = self.row_size
        cdef char* to = self.out
        cdef Py_ssize_t n, p, t, first, last
        if self.last:
            for n in range(self.rows.N):
                copy(to + n * size, source + self.order[n] * size, size)
            return
        for p in range(self.rows.sizes[1]):
            first, last = self.rows.bounds[p], self.rows.bounds[p + 1]
            for t in range(self.rows.T):
                for n in range(first, min(last, self.rows.counts[t])):
                    copy(to, source + (self.begins[n] + t) * size, size)
                    to += size


cdef inline void copy(char* to, const char* source, Py_ssize_t size) noexcept nogil:
    """Copy `size` bytes. Rows often have one or two numbers, and a call of memcpy would take longer than a loop."""
    cdef Py_ssize_t j
    if size <= 16:
        for j in range(size // 4):
            (<unsigned int*>to)[j] = (<const unsigned int*>source)[j]
    else:
        memcpy(to, source, size)
