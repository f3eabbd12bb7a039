"""Products with packed weights: the tiles behind _gemm.pxd."""

from cpython.pycapsule cimport PyCapsule_New

from _gemm cimport (
    BLOCK, COLUMNS, DOUBLES, FLOATS, ROWS, VECTORS, Gemm, copy_bytes, fill_bytes, lanes, padded, panel_place,
    panel_width, pieces,
)
from _math cimport real


# ---------------------------------------------------------------------------------------------
# Tiles. `rows`, `panels` and `width` are constants wherever these are inlined, so that the sums
# become registers; each caller owns an array of just that size, since a larger one would be
# kept in memory.

cdef inline void multiply_add(
    const Py_ssize_t rows, const Py_ssize_t panels, const Py_ssize_t width, Py_ssize_t K,
    const real* restrict a, Py_ssize_t a_row, const Py_ssize_t a_k,
    const real* restrict b, Py_ssize_t b_panel,
    real* restrict c, Py_ssize_t c_row, real* sums,
) noexcept nogil:
    """c (rows, panels * width) += a (rows, K) @ panels; a[i, k] lies at a[i * a_row + k * a_k]."""
    cdef Py_ssize_t i, j, k, p
    for i in range(rows):
        for p in range(panels):
            for j in range(width):
                sums[(i * panels + p) * width + j] = c[i * c_row + p * width + j]
    for k in range(K):
        for i in range(rows):
            for p in range(panels):
                for j in range(width):
                    sums[(i * panels + p) * width + j] += a[i * a_row + k * a_k] * b[p * b_panel + k * width + j]
    for i in range(rows):
        for p in range(panels):
            for j in range(width):
                c[i * c_row + p * width + j] = sums[(i * panels + p) * width + j]


cdef inline void tile(
    const Py_ssize_t rows, const Py_ssize_t panels, const Py_ssize_t vectors, Py_ssize_t K,
    const real* a, Py_ssize_t a_row, const Py_ssize_t a_k, const real* b, real* c, Py_ssize_t c_row,
) noexcept nogil:
    """multiply_add with sums of the right size; the panels follow each other in memory."""
    cdef float f1[FLOATS]
    cdef float f2[2 * FLOATS]
    cdef float f3[3 * FLOATS]
    cdef float f4[4 * FLOATS]
    cdef float f6[6 * FLOATS]
    cdef float f8[8 * FLOATS]
    cdef float f12[12 * FLOATS]
    cdef float f16[16 * FLOATS]
    cdef double d1[DOUBLES]
    cdef double d2[2 * DOUBLES]
    cdef double d3[3 * DOUBLES]
    cdef double d4[4 * DOUBLES]
    cdef double d6[6 * DOUBLES]
    cdef double d8[8 * DOUBLES]
    cdef double d12[12 * DOUBLES]
    cdef double d16[16 * DOUBLES]
    cdef Py_ssize_t count = rows * panels * vectors
    cdef Py_ssize_t width = vectors * lanes(c)
    cdef Py_ssize_t step = K * width
    if real is float:
        if count == 1:
            multiply_add(rows, panels, width, K, a, a_row, a_k, b, step, c, c_row, f1)
        elif count == 2:
            multiply_add(rows, panels, width, K, a, a_row, a_k, b, step, c, c_row, f2)
        elif count == 3:
            multiply_add(rows, panels, width, K, a, a_row, a_k, b, step, c, c_row, f3)
        elif count == 4:
            multiply_add(rows, panels, width, K, a, a_row, a_k, b, step, c, c_row, f4)
        elif count == 6:
            multiply_add(rows, panels, width, K, a, a_row, a_k, b, step, c, c_row, f6)
        elif count == 8:
            multiply_add(rows, panels, width, K, a, a_row, a_k, b, step, c, c_row, f8)
        elif count == 12:
            multiply_add(rows, panels, width, K, a, a_row, a_k, b, step, c, c_row, f12)
        else:
            multiply_add(rows, panels, width, K, a, a_row, a_k, b, step, c, c_row, f16)
    else:
        if count == 1:
            multiply_add(rows, panels, width, K, a, a_row, a_k, b, step, c, c_row, d1)
        elif count == 2:
            multiply_add(rows, panels, width, K, a, a_row, a_k, b, step, c, c_row, d2)
        elif count == 3:
            multiply_add(rows, panels, width, K, a, a_row, a_k, b, step, c, c_row, d3)
        elif count == 4:
            multiply_add(rows, panels, width, K, a, a_row, a_k, b, step, c, c_row, d4)
        elif count == 6:
            multiply_add(rows, panels, width, K, a, a_row, a_k, b, step, c, c_row, d6)
        elif count == 8:
            multiply_add(rows, panels, width, K, a, a_row, a_k, b, step, c, c_row, d8)
        elif count == 12:
            multiply_add(rows, panels, width, K, a, a_row, a_k, b, step, c, c_row, d12)
        else:
            multiply_add(rows, panels, width, K, a, a_row, a_k, b, step, c, c_row, d16)


cdef inline void tile_of(
    const Py_ssize_t rows, Py_ssize_t vectors, Py_ssize_t K, const real* a, Py_ssize_t a_row, const Py_ssize_t a_k,
    const real* b, real* c, Py_ssize_t c_row,
) noexcept nogil:
    """One panel of any number of vectors."""
    if vectors == VECTORS:
        tile(rows, 1, VECTORS, K, a, a_row, a_k, b, c, c_row)
    elif vectors == 1:
        tile(rows, 1, 1, K, a, a_row, a_k, b, c, c_row)
    else:
        tile(rows, 1, 2, K, a, a_row, a_k, b, c, c_row)


cdef inline void edge(
    const Py_ssize_t rows, Py_ssize_t valid_rows, Py_ssize_t columns, Py_ssize_t K,
    const real* a, Py_ssize_t a_row, const Py_ssize_t a_k, const real* b, real* c, Py_ssize_t c_row,
) noexcept nogil:
    """A panel of which only `columns` columns (and `valid_rows` rows) exist in c."""
    cdef real buffer[ROWS * VECTORS * FLOATS]
    cdef Py_ssize_t width = padded(columns, c)
    cdef Py_ssize_t i, j
    if columns == width and valid_rows == rows:
        tile_of(rows, width // lanes(c), K, a, a_row, a_k, b, c, c_row)
        return
    for i in range(rows):
        for j in range(width):
            buffer[i * width + j] = c[i * c_row + j] if i < valid_rows and j < columns else 0
    tile_of(rows, width // lanes(c), K, a, a_row, a_k, b, buffer, width)
    for i in range(valid_rows):
        for j in range(columns):
            c[i * c_row + j] = buffer[i * width + j]


cdef inline void few_rows(
    const Py_ssize_t rows, const Py_ssize_t panels, Py_ssize_t N, Py_ssize_t K,
    const real* a, Py_ssize_t a_row, const real* b, real* c, Py_ssize_t c_row,
) noexcept nogil:
    """All panels for fewer than ROWS rows: several panels side by side hide the latency of the sums."""
    cdef Py_ssize_t width = panel_width(c)
    cdef Py_ssize_t j = 0
    while panels > 1 and j + panels * width <= N:
        tile(rows, panels, VECTORS, K, a, a_row, 1, b + j * K, c + j, c_row)
        j += panels * width
    while j < N:
        edge(rows, rows, min(width, N - j), K, a, a_row, 1, b + j * K, c + j, c_row)
        j += width


cdef void multiply(
    Py_ssize_t M, Py_ssize_t N, Py_ssize_t K,
    const real* a, Py_ssize_t a_row, const real* panels, real* c, Py_ssize_t c_row,
) noexcept nogil:
    """c (M, N) += a (M, K) @ panels (K, N)."""
    cdef Py_ssize_t width = panel_width(c)
    cdef Py_ssize_t p, q, i, j
    for p in range(pieces(N, width)):
        j = p * width
        for q in range(M // ROWS):
            i = q * ROWS
            edge(ROWS, ROWS, min(width, N - j), K, a + i * a_row, a_row, 1, panels + j * K, c + i * c_row + j, c_row)
    i = M // ROWS * ROWS
    if ROWS > 4 and i + 4 <= M:
        few_rows(4, 1, N, K, a + i * a_row, a_row, panels, c + i * c_row, c_row)
        i += 4
    if i + 2 <= M:
        few_rows(2, 2, N, K, a + i * a_row, a_row, panels, c + i * c_row, c_row)
        i += 2
    if i < M:
        few_rows(1, 4, N, K, a + i * a_row, a_row, panels, c + i * c_row, c_row)


# ---------------------------------------------------------------------------------------------
# Weight gradients: c += a.T @ b, both operands row after row as the steps left them.

cdef void multiply_outer(
    Py_ssize_t K, Py_ssize_t groups, Py_ssize_t size, Py_ssize_t stride, Py_ssize_t N,
    const real* a, Py_ssize_t a_row, const real* b, Py_ssize_t b_row, const Py_ssize_t* b_rows,
    real* c, real* scratch, Py_ssize_t part, Py_ssize_t parts,
) noexcept nogil:
    cdef real* a_panel = scratch
    cdef real* b_panels = scratch + BLOCK * ROWS
    cdef Py_ssize_t tiles = pieces(size, ROWS)
    cdef Py_ssize_t low = tiles * part // parts
    cdef Py_ssize_t high = tiles * (part + 1) // parts
    cdef Py_ssize_t k_block, j_block, k0, depth, j0, columns, g, q, i
    for j_block in range(pieces(N, COLUMNS)):
        j0 = j_block * COLUMNS
        columns = min(<Py_ssize_t>COLUMNS, N - j0)
        for k_block in range(pieces(K, BLOCK)):
            k0 = k_block * BLOCK
            depth = min(<Py_ssize_t>BLOCK, K - k0)
            pack_rows(b_panels, depth, columns, b + j0, b_row, b_rows, k0)
            for g in range(groups):
                for q in range(low, high):
                    i = q * ROWS
                    pack_tile(a_panel, depth, min(<Py_ssize_t>ROWS, size - i), a + k0 * a_row + g * stride + i, a_row)
                    outer_tiles(
                        depth, columns, min(<Py_ssize_t>ROWS, size - i), a_panel, b_panels,
                        c + (g * size + i) * N + j0, N,
                    )


cdef void pack_rows(
    real* panels, Py_ssize_t K, Py_ssize_t N, const real* b, Py_ssize_t b_row, const Py_ssize_t* b_rows, Py_ssize_t k0,
) noexcept nogil:
    """Panels (K, N) of rows k0 .. k0 + K of b."""
    cdef Py_ssize_t width = panel_width(panels)
    cdef Py_ssize_t k, p, j, step, columns
    cdef const real* source
    cdef real* place
    for k in range(K):
        source = b + (b_rows[k0 + k] if b_rows is not NULL else k0 + k) * b_row
        for p in range(pieces(N, width)):
            j = p * width
            columns = min(width, N - j)
            place = panels + panel_place(j, K, N, &step, panels) + k * step
            copy_bytes(place, source + j, columns * sizeof(real))
            if columns < step:
                fill_bytes(place + columns, 0, (step - columns) * sizeof(real))


cdef inline void pack_tile(real* panel, Py_ssize_t K, Py_ssize_t rows, const real* a, Py_ssize_t a_row) noexcept nogil:
    """ROWS neighbouring columns of a, k after k; missing ones are zero."""
    cdef Py_ssize_t k, i
    if rows == ROWS:
        for k in range(K):
            for i in range(ROWS):
                panel[k * ROWS + i] = a[k * a_row + i]
        return
    for k in range(K):
        for i in range(ROWS):
            panel[k * ROWS + i] = a[k * a_row + i] if i < rows else 0


cdef void outer_tiles(
    Py_ssize_t K, Py_ssize_t N, Py_ssize_t rows, const real* a_panel, const real* b_panels, real* c, Py_ssize_t c_row,
) noexcept nogil:
    cdef Py_ssize_t width = panel_width(c)
    cdef Py_ssize_t p, j
    for p in range(pieces(N, width)):
        j = p * width
        edge(ROWS, rows, min(width, N - j), K, a_panel, 1, ROWS, b_panels + j * K, c + j, c_row)


cdef Gemm table
table.product_f = multiply[float]
table.product_d = multiply[double]
table.outer_product_f = multiply_outer[float]
table.outer_product_d = multiply_outer[double]

capsule = PyCapsule_New(&table, "rnncore.Gemm", NULL)
