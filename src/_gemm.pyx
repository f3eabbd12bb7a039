"""Products with packed weights: the tiles behind _gemm.pxd."""

from cpython.pycapsule cimport PyCapsule_New

from _gemm cimport (
    BAND, COLUMNS, DEPTH, DOUBLES, FLOATS, ROWS, STRIP, VECTORS, Gemm, Term, copy_bytes, copy_columns, fill_bytes,
    lanes, padded, panel_begin, panel_count, panel_width, pieces, prefetch, prefetch_far, prefetch_near, two_and_two,
)
from _math cimport real

cdef enum:
    LARGE = 2 << 20  # bytes of panels that no second cache holds: they are taken in parts, and asked for ahead


# ---------------------------------------------------------------------------------------------
# Tiles. `rows`, `panels` and `width` are constants wherever these are inlined, so that the sums
# become registers; each caller owns an array of just that size, since a larger one would be
# kept in memory.

cdef inline void multiply_add(
    const Py_ssize_t rows, const Py_ssize_t panels, const Py_ssize_t width, const Py_ssize_t a_k, Py_ssize_t b_k,
    const Term* terms, Py_ssize_t count, const real* start, Py_ssize_t start_row, const Py_ssize_t* ids,
    real* c, Py_ssize_t c_row, real* sums,
) noexcept nogil:
    """A tile of c, where all pointers point at it; a[i, k] lies at a[i * a_row + k * a_k], b[k] at b[k * b_k].

    The loops over terms and over k end at their bottom (there is a term, and K is never 0): otherwise the compiler
    keeps the sums in memory for the case that nothing is added.
    """
    cdef Py_ssize_t t = 0
    cdef Py_ssize_t i, j, p, K, a_row
    cdef const real* restrict a
    cdef const real* end
    cdef const real* restrict b
    cdef const real* from_
    for i in range(rows):
        from_ = start + (i if ids is NULL else ids[i]) * start_row
        for p in range(panels):
            for j in range(width):
                sums[(i * panels + p) * width + j] = from_[p * width + j]
    while True:
        K, a_row = terms[t].K, terms[t].a_row
        a = <const real*>terms[t].a
        b = <const real*>terms[t].panels
        end = a + K * a_k
        while True:
            for i in range(rows):
                for p in range(panels):
                    for j in range(width):
                        sums[(i * panels + p) * width + j] += a[i * a_row] * b[p * K * width + j]
            a += a_k
            b += b_k
            if a >= end:
                break
        t += 1
        if t == count:
            break
    for i in range(rows):
        for p in range(panels):
            for j in range(width):
                c[i * c_row + p * width + j] = sums[(i * panels + p) * width + j]


cdef inline void tile(
    const Py_ssize_t rows, const Py_ssize_t panels, const Py_ssize_t vectors, const Py_ssize_t a_k, Py_ssize_t b_k,
    const Term* terms, Py_ssize_t count, const real* start, Py_ssize_t start_row, const Py_ssize_t* ids,
    real* c, Py_ssize_t c_row,
) noexcept nogil:
    """multiply_add with sums of the right size. Panels are packed, and follow each other, where b_k is 0."""
    cdef float f1[FLOATS]
    cdef float f2[2 * FLOATS]
    cdef float f3[3 * FLOATS]
    cdef float f4[4 * FLOATS]
    cdef float f6[6 * FLOATS]
    cdef float f8[8 * FLOATS]
    cdef float f9[9 * FLOATS]
    cdef float f12[12 * FLOATS]
    cdef float f16[16 * FLOATS]
    cdef double d1[DOUBLES]
    cdef double d2[2 * DOUBLES]
    cdef double d3[3 * DOUBLES]
    cdef double d4[4 * DOUBLES]
    cdef double d6[6 * DOUBLES]
    cdef double d8[8 * DOUBLES]
    cdef double d9[9 * DOUBLES]
    cdef double d12[12 * DOUBLES]
    cdef double d16[16 * DOUBLES]
    cdef Py_ssize_t size = rows * panels * vectors
    cdef Py_ssize_t width = vectors * lanes(c)
    cdef Py_ssize_t b_step = b_k if b_k > 0 else width
    if real is float:
        if size == 1:
            multiply_add(rows, panels, width, a_k, b_step, terms, count, start, start_row, ids, c, c_row, f1)
        elif size == 2:
            multiply_add(rows, panels, width, a_k, b_step, terms, count, start, start_row, ids, c, c_row, f2)
        elif size == 3:
            multiply_add(rows, panels, width, a_k, b_step, terms, count, start, start_row, ids, c, c_row, f3)
        elif size == 4:
            multiply_add(rows, panels, width, a_k, b_step, terms, count, start, start_row, ids, c, c_row, f4)
        elif size == 6:
            multiply_add(rows, panels, width, a_k, b_step, terms, count, start, start_row, ids, c, c_row, f6)
        elif size == 8:
            multiply_add(rows, panels, width, a_k, b_step, terms, count, start, start_row, ids, c, c_row, f8)
        elif size == 9:
            multiply_add(rows, panels, width, a_k, b_step, terms, count, start, start_row, ids, c, c_row, f9)
        elif size == 12:
            multiply_add(rows, panels, width, a_k, b_step, terms, count, start, start_row, ids, c, c_row, f12)
        else:
            multiply_add(rows, panels, width, a_k, b_step, terms, count, start, start_row, ids, c, c_row, f16)
    else:
        if size == 1:
            multiply_add(rows, panels, width, a_k, b_step, terms, count, start, start_row, ids, c, c_row, d1)
        elif size == 2:
            multiply_add(rows, panels, width, a_k, b_step, terms, count, start, start_row, ids, c, c_row, d2)
        elif size == 3:
            multiply_add(rows, panels, width, a_k, b_step, terms, count, start, start_row, ids, c, c_row, d3)
        elif size == 4:
            multiply_add(rows, panels, width, a_k, b_step, terms, count, start, start_row, ids, c, c_row, d4)
        elif size == 6:
            multiply_add(rows, panels, width, a_k, b_step, terms, count, start, start_row, ids, c, c_row, d6)
        elif size == 8:
            multiply_add(rows, panels, width, a_k, b_step, terms, count, start, start_row, ids, c, c_row, d8)
        elif size == 9:
            multiply_add(rows, panels, width, a_k, b_step, terms, count, start, start_row, ids, c, c_row, d9)
        elif size == 12:
            multiply_add(rows, panels, width, a_k, b_step, terms, count, start, start_row, ids, c, c_row, d12)
        else:
            multiply_add(rows, panels, width, a_k, b_step, terms, count, start, start_row, ids, c, c_row, d16)


cdef inline void tile_of(
    const Py_ssize_t rows, Py_ssize_t vectors, const Py_ssize_t a_k, Py_ssize_t b_k,
    const Term* terms, Py_ssize_t count, const real* start, Py_ssize_t start_row, const Py_ssize_t* ids,
    real* c, Py_ssize_t c_row,
) noexcept nogil:
    """One panel of any number of vectors."""
    if vectors == VECTORS:
        tile(rows, 1, VECTORS, a_k, b_k, terms, count, start, start_row, ids, c, c_row)
    elif vectors == 1:
        tile(rows, 1, 1, a_k, b_k, terms, count, start, start_row, ids, c, c_row)
    elif VECTORS > 3 and vectors == 3:
        tile(rows, 1, 3, a_k, b_k, terms, count, start, start_row, ids, c, c_row)
    else:
        tile(rows, 1, 2, a_k, b_k, terms, count, start, start_row, ids, c, c_row)


cdef inline void edge(
    const Py_ssize_t rows, Py_ssize_t valid_rows, Py_ssize_t columns, const Py_ssize_t a_k, Py_ssize_t b_k,
    const Term* terms, Py_ssize_t count, const real* start, Py_ssize_t start_row, const Py_ssize_t* ids,
    real* c, Py_ssize_t c_row,
) noexcept nogil:
    """A panel of which only `columns` columns (and `valid_rows` rows) exist in start and c."""
    cdef real buffer[ROWS * VECTORS * FLOATS]
    cdef Py_ssize_t width = padded(columns, c)
    cdef Py_ssize_t vectors = width // lanes(c)
    cdef Py_ssize_t r, q
    cdef const real* from_
    if columns == width and valid_rows == rows:
        tile_of(rows, vectors, a_k, b_k, terms, count, start, start_row, ids, c, c_row)
        return
    fill_bytes(buffer, 0, rows * width * sizeof(real))
    for r in range(valid_rows):
        from_ = start + (r if ids is NULL else ids[r]) * start_row
        for q in range(columns):
            buffer[r * width + q] = from_[q]
    tile_of(rows, vectors, a_k, b_k, terms, count, buffer, width, NULL, buffer, width)
    for r in range(valid_rows):
        for q in range(columns):
            c[r * c_row + q] = buffer[r * width + q]


cdef struct Place:               # the terms and the start of a product, from some row and column on
    Term terms[2]
    Py_ssize_t count
    const void* start
    Py_ssize_t start_row
    const Py_ssize_t* ids


cdef inline Place place_at(
    const Term* terms, Py_ssize_t count, const real* start, Py_ssize_t start_row, const Py_ssize_t* ids,
    Py_ssize_t i, Py_ssize_t j,
) noexcept nogil:
    cdef Place at
    cdef Py_ssize_t t
    at.count, at.start_row, at.ids = count, start_row, ids
    at.start = start + j
    if ids is NULL:
        at.start = start + i * start_row + j
    else:
        at.ids = ids + i
    for t in range(count):
        at.terms[t] = terms[t]
        at.terms[t].a = <const real*>terms[t].a + i * terms[t].a_row
        at.terms[t].panels = <const real*>terms[t].panels + j * terms[t].K
    return at


cdef inline void some_panels(
    const Py_ssize_t rows, const Py_ssize_t panels, const Py_ssize_t vectors, Py_ssize_t columns, Py_ssize_t j,
    const Place* row, real* c, Py_ssize_t c_row,
) noexcept nogil:
    """The tile of panels side by side that begin at column j, of which `columns` columns exist."""
    cdef Place at = place_at(row.terms, row.count, <const real*>row.start, row.start_row, row.ids, 0, j)
    if panels == 1:
        edge(rows, rows, columns, 1, 0, at.terms, at.count, <const real*>at.start, at.start_row, at.ids, c + j, c_row)
    else:
        tile(rows, panels, vectors, 1, 0, at.terms, at.count, <const real*>at.start, at.start_row, at.ids, c + j, c_row)


cdef inline void few_rows(
    const Py_ssize_t rows, const Py_ssize_t panels, Py_ssize_t N, const Place* row, real* c, Py_ssize_t c_row,
) noexcept nogil:
    """All panels for fewer than ROWS rows: several panels side by side hide the latency of the sums."""
    cdef Py_ssize_t width = panel_width(c)
    cdef Py_ssize_t end = panel_begin(panel_count(N, c) - 2, N, c) if two_and_two(N, c) else N // width * width
    cdef Py_ssize_t p = 0
    cdef Py_ssize_t j = 0
    while panels > 1 and j + panels * width <= end:
        some_panels(rows, panels, VECTORS, panels * width, j, row, c, c_row)
        j += panels * width
    if panels > 3 and j + 3 * width <= end:
        some_panels(rows, 3, VECTORS, 3 * width, j, row, c, c_row)
        j += 3 * width
    elif panels > 2 and j + 2 * width <= end:
        some_panels(rows, 2, VECTORS, 2 * width, j, row, c, c_row)
        j += 2 * width
    if VECTORS == 3 and j == end and end + 4 * lanes(c) == N:
        some_panels(rows, 2, 2, 4 * lanes(c), j, row, c, c_row)
        return
    for p in range(j // width, panel_count(N, c)):
        j = panel_begin(p, N, c)
        some_panels(rows, 1, VECTORS, min(panel_begin(p + 1, N, c), N) - j, j, row, c, c_row)


cdef inline void prefetch_tile(const real* c, Py_ssize_t c_row) noexcept nogil:
    """Ask for a tile that comes next: its rows lie far apart, where no hardware looks ahead."""
    cdef Py_ssize_t r
    for r in range(ROWS):
        prefetch(c + r * c_row)
        prefetch(c + r * c_row + VECTORS * lanes(<real*>c) - 1)


cdef inline void panel_of_rows(
    Py_ssize_t M, Py_ssize_t columns, const Place* first, Py_ssize_t size_ahead, real* c, Py_ssize_t c_row,
) noexcept nogil:
    """One panel for M rows, whole tiles of them; meanwhile so many bytes behind it come into the second cache."""
    cdef const char* ahead = <const char*>first.terms[0].panels + size_ahead
    cdef const char* end = ahead + size_ahead
    cdef const char* stop = ahead
    cdef Py_ssize_t some = pieces(size_ahead, M // ROWS)
    cdef Py_ssize_t q, i
    cdef Place at
    for q in range(M // ROWS):
        i = q * ROWS
        stop = min(stop + some, end)
        while ahead < stop:
            prefetch_far(ahead)
            ahead += 64
        at = place_at(first.terms, first.count, <const real*>first.start, first.start_row, first.ids, i, 0)
        if i + ROWS < M:                 # rows behind may be another thread's, which is writing them
            prefetch_tile(c + (i + ROWS) * c_row, c_row)
        edge(ROWS, ROWS, columns, 1, 0, at.terms, at.count, <const real*>at.start, at.start_row, at.ids,
             c + i * c_row, c_row)


cdef inline void large_panel_of_rows(
    Py_ssize_t M, Py_ssize_t columns, const Place* first, real* c, Py_ssize_t c_row,
) noexcept nogil:
    """The same, DEPTH steps of k at a time: that much of a panel stays in the nearest cache, and so does c."""
    cdef Place at = first[0]
    cdef Py_ssize_t width = padded(columns, c)
    cdef Py_ssize_t t, q, k
    for t in range(first.count):
        for q in range(pieces(first.terms[t].K, DEPTH)):
            k = q * DEPTH
            at.count = 1
            at.terms[0] = first.terms[t]
            at.terms[0].K = min(<Py_ssize_t>DEPTH, first.terms[t].K - k)
            at.terms[0].a = <const real*>first.terms[t].a + k
            at.terms[0].panels = <const real*>first.terms[t].panels + k * width
            panel_of_rows(M, columns, &at, at.terms[0].K * width * sizeof(real), c, c_row)
            at.start, at.start_row, at.ids = c, c_row, NULL


cdef void multiply(
    Py_ssize_t M, Py_ssize_t N, const real* start, Py_ssize_t start_row, const Py_ssize_t* ids,
    const Term* terms, Py_ssize_t count, real* c, Py_ssize_t c_row,
) noexcept nogil:
    """c (M, N) = start + the sum of the terms."""
    cdef Py_ssize_t tiled = M // ROWS * ROWS
    cdef Py_ssize_t size = 0
    cdef Py_ssize_t band, p, i, j, t, rows, columns
    cdef Place at
    if count == 0:
        for i in range(M):
            copy_bytes(c + i * c_row, start + (i if ids is NULL else ids[i]) * start_row, N * sizeof(real))
        return
    for t in range(count):
        size += terms[t].K * N * sizeof(real)
    for band in range(pieces(tiled, BAND)):
        i = band * BAND
        rows = min(<Py_ssize_t>BAND, tiled - i)
        for p in range(panel_count(N, c)):
            j = panel_begin(p, N, c)
            columns = min(panel_begin(p + 1, N, c), N) - j
            at = place_at(terms, count, start, start_row, ids, i, j)
            if size > LARGE:
                large_panel_of_rows(rows, columns, &at, c + i * c_row + j, c_row)
            else:
                panel_of_rows(rows, columns, &at, 0, c + i * c_row + j, c_row)
    i = tiled
    if ROWS > 4 and i + 4 <= M:
        at = place_at(terms, count, start, start_row, ids, i, 0)
        few_rows(4, 1, N, &at, c + i * c_row, c_row)
        i += 4
    if i + 2 <= M:
        at = place_at(terms, count, start, start_row, ids, i, 0)
        few_rows(2, 2, N, &at, c + i * c_row, c_row)
        i += 2
    if i < M:
        at = place_at(terms, count, start, start_row, ids, i, 0)
        few_rows(1, 4, N, &at, c + i * c_row, c_row)


# ---------------------------------------------------------------------------------------------
# Weight gradients: c += a.T @ b, both operands row after row as the steps left them.

cdef void multiply_outer(
    Py_ssize_t K, Py_ssize_t groups, Py_ssize_t size, Py_ssize_t stride, Py_ssize_t N,
    const real* a, Py_ssize_t a_row, const real* b, Py_ssize_t b_row, const Py_ssize_t* b_rows,
    real* c, real* scratch, Py_ssize_t part, Py_ssize_t parts,
) noexcept nogil:
    cdef real* strip = scratch
    cdef real* panels = scratch + DEPTH * STRIP
    cdef Py_ssize_t tiles = pieces(size, ROWS)
    cdef Py_ssize_t low = tiles * part // parts * ROWS
    cdef Py_ssize_t high = min(tiles * (part + 1) // parts * ROWS, size)
    # What a single strip multiplies is not worth packing, but for vectors that would end behind a row. It comes from
    # far apart, so fewer rows of it stay in the nearest cache.
    cdef bint in_place = groups * size <= STRIP and N % lanes(c) == 0 and b_rows is NULL
    cdef Py_ssize_t deep = DEPTH // 2 if in_place else DEPTH
    cdef Py_ssize_t p, j, columns, q, k, depth, g, r, i, rows
    cdef const real* columns_of_a
    for p in range(pieces(N, COLUMNS)):
        j = p * COLUMNS
        columns = min(<Py_ssize_t>COLUMNS, N - j)
        for q in range(pieces(K, deep)):
            k = q * deep
            depth = min(deep, K - k)
            if not in_place:
                pack_rows(panels, depth, columns, b + j, b_row, b_rows, k)
            for g in range(groups):
                for r in range(pieces(high - low, STRIP)):
                    i = low + r * STRIP
                    rows = min(<Py_ssize_t>STRIP, high - i)
                    columns_of_a = a + k * a_row + g * stride + i
                    pack_strip(strip, depth, rows, columns_of_a, a_row)
                    outer_tiles(depth, columns, rows, strip, b + k * b_row + j if in_place else panels,
                                b_row if in_place else 0, c + (g * size + i) * N + j, N, columns_of_a + STRIP, a_row)


cdef void pack_rows(
    real* panels, Py_ssize_t K, Py_ssize_t N, const real* b, Py_ssize_t b_row, const Py_ssize_t* b_rows, Py_ssize_t k0,
) noexcept nogil:
    """Panels (K, N) of rows k0 .. k0 + K of b."""
    cdef Py_ssize_t k, p, begin, end, columns
    cdef const real* source
    cdef real* place
    for k in range(K):
        source = b + (b_rows[k0 + k] if b_rows is not NULL else k0 + k) * b_row
        end = 0
        for p in range(panel_count(N, panels)):
            begin, end = end, panel_begin(p + 1, N, panels)
            columns = min(end, N) - begin
            place = panels + begin * K + k * (end - begin)
            copy_columns(place, source + begin, columns)
            if columns < end - begin:
                fill_bytes(place + columns, 0, (end - begin - columns) * sizeof(real))


cdef inline void pack_strip(
    real* restrict strip, Py_ssize_t K, Py_ssize_t columns, const real* restrict a, Py_ssize_t a_row,
) noexcept nogil:
    """Some neighbouring columns of a in tiles of ROWS, each k after k; missing ones are zero."""
    cdef Py_ssize_t k, i, q
    if columns == STRIP:
        for k in range(K):
            for q in range(STRIP // ROWS):
                for i in range(ROWS):
                    strip[(q * K + k) * ROWS + i] = a[k * a_row + q * ROWS + i]
        return
    for q in range(pieces(columns, ROWS)):
        for k in range(K):
            for i in range(ROWS):
                strip[(q * K + k) * ROWS + i] = a[k * a_row + q * ROWS + i] if q * ROWS + i < columns else 0


cdef void outer_tiles(
    Py_ssize_t K, Py_ssize_t N, Py_ssize_t rows, const real* strip, const real* panels, Py_ssize_t b_k,
    real* c, Py_ssize_t c_row, const real* ahead, Py_ssize_t a_row,
) noexcept nogil:
    """c (rows, N) += strip.T @ panels; meanwhile the next strip, K rows at `ahead`, comes into the cache.

    Where b_k is not 0, the rows of `panels` lie so far apart, and whole.
    """
    cdef Py_ssize_t some = pieces(K, panel_count(N, c) * pieces(rows, ROWS))
    cdef Py_ssize_t k = 0
    cdef Py_ssize_t p, q, i, j, columns, end
    cdef real* place
    cdef Term term
    term.K, term.a_row = K, 1
    for p in range(panel_count(N, c)):
        j = panel_begin(p, N, c)
        term.panels = panels + (j if b_k > 0 else j * K)
        columns = min(panel_begin(p + 1, N, c), N) - j
        for q in range(pieces(rows, ROWS)):
            i = q * ROWS
            place = c + i * c_row + j
            if i + ROWS < rows:
                prefetch_tile(place + ROWS * c_row, c_row)
            end = min(k + some, K)
            while k < end:
                prefetch_near(ahead + k * a_row)
                k += 1
            term.a = strip + i * K
            if rows - i == 1:
                edge(1, 1, columns, ROWS, b_k, &term, 1, place, c_row, NULL, place, c_row)
            elif rows - i == 2:
                edge(2, 2, columns, ROWS, b_k, &term, 1, place, c_row, NULL, place, c_row)
            else:
                edge(ROWS, min(<Py_ssize_t>ROWS, rows - i), columns, ROWS, b_k, &term, 1, place, c_row, NULL,
                     place, c_row)


cdef Gemm table
table.product_f = multiply[float]
table.product_d = multiply[double]
table.outer_product_f = multiply_outer[float]
table.outer_product_d = multiply_outer[double]

capsule = PyCapsule_New(&table, "rnncore.Gemm", NULL)
