"""Products with packed weights: the tiles behind _gemm.pxd."""

from cpython.pycapsule cimport PyCapsule_New

from _gemm cimport (
    ASKS, BAND, COLUMNS, DEPTH, FLOATS, IN_PARTS, NARROW_VECTORS, ROWS, STRIP, VECTORS, Gemm, Term, copy_bytes,
    copy_columns, fill_bytes, lanes, padded, panel_begin, panel_count, panel_width, prefetch, prefetch_far,
    prefetch_near, tile_row, two_and_two,
)
from _digits cimport SIDE, add_digits_product, add_outer_digits, digits_begin, digits_end, digits_of_some_rows
from _math cimport pieces, real
from _plan cimport BLOCK_ROWS

# ---------------------------------------------------------------------------------------------
# Tiles. `asks`, `rows`, `panels`, `width` and `narrow` are constants wherever these functions are inlined, so that
# the sums become registers.

cdef enum:
    SUMS = ROWS * VECTORS        # Vectors of sums that stay in registers.
    LARGE = 2 << 20              # Bytes of panels; no second cache holds more than these, so they are prefetched.
    NEAR = 40 << 12              # Bytes of 40 pages; the first TLB holds the pages of rows that span no more.


cdef struct Product:             # c (M, N) = start + the sum of the terms.
    const Term* terms            # (count,)
    Py_ssize_t count             # One or more.
    const void* start            # Row i of c begins as row i of start, or as row ids[i] unless ids is NULL.
    Py_ssize_t start_row
    const Py_ssize_t* ids
    void* c
    Py_ssize_t c_row
    const char* ahead            # The next memory to prefetch, if tiles do so.
    Py_ssize_t ahead_k           # Bytes that `ahead` advances for each k.
    bint back                    # Whether few rows take whole panels from last to first.


cdef inline const void* start_of_row(const Product* product, Py_ssize_t i, Py_ssize_t j, real* kind) noexcept nogil:
    """The numbers that row i of c begins as, from column j on."""
    return <const real*>product.start + (i if product.ids is NULL else product.ids[i]) * product.start_row + j


cdef inline void multiply_add(
    const bint asks, const Py_ssize_t rows, const Py_ssize_t panels, const Py_ssize_t width,
    const Py_ssize_t narrow, Product* product, Py_ssize_t i, Py_ssize_t j, real* sums,
) noexcept nogil:
    """Compute the tile of c from row i and column j on: `panels` panels of `width` columns, then `narrow` panels.

    Narrow panels have NARROW_VECTORS vectors. The loops over terms and over k test at their bottom (K is never 0):
    otherwise the compiler keeps the sums in memory for the case that nothing is added.
    """
    cdef Py_ssize_t narrow_width = NARROW_VECTORS * lanes(sums)
    cdef Py_ssize_t whole = panels * width
    cdef Py_ssize_t columns = whole + narrow * narrow_width
    cdef Py_ssize_t t = 0
    cdef Py_ssize_t r, q, p, K, a_row
    cdef const Term* term
    cdef const real* restrict a
    cdef const real* restrict high
    cdef real factor
    cdef const real* end
    cdef const real* restrict b
    cdef const real* restrict narrow_b
    cdef const real* from_
    cdef const char* ahead = product.ahead
    cdef Py_ssize_t ahead_k = product.ahead_k
    cdef real* to = <real*>product.c + i * product.c_row + j
    for r in range(rows):
        from_ = <const real*>start_of_row(product, i + r, j, sums)
        for p in range(panels):
            for q in range(width):
                sums[r * columns + p * width + q] = from_[p * width + q]
        for p in range(narrow):
            for q in range(narrow_width):
                sums[r * columns + whole + p * narrow_width + q] = from_[whole + p * narrow_width + q]
    while True:
        term = &product.terms[t]
        K, a_row = term.K, term.a_row
        a = <const real*>term.a + i * a_row
        b = <const real*>term.panels + j * K
        narrow_b = b + whole * K
        high = a + 4 * a_row             # rows 4 and on: addressing rows from two pointers takes fewer registers
        end = a + K
        while True:
            if asks:
                prefetch_far(ahead)
                ahead += ahead_k
            for r in range(rows):
                factor = (a if r < 4 else high)[(r & 3) * a_row]
                for p in range(panels):
                    for q in range(width):
                        sums[r * columns + p * width + q] += factor * b[p * K * width + q]
                for p in range(narrow):
                    for q in range(narrow_width):
                        sums[r * columns + whole + p * narrow_width + q] += factor * narrow_b[p * K * narrow_width + q]
            a += 1
            high += 1
            b += width
            narrow_b += narrow_width
            if a >= end:
                break
        t += 1
        if t == product.count:
            break
    if asks:
        product.ahead = ahead
    for r in range(rows):
        for p in range(panels):
            for q in range(width):
                to[r * product.c_row + p * width + q] = sums[r * columns + p * width + q]
        for p in range(narrow):
            for q in range(narrow_width):
                to[r * product.c_row + whole + p * narrow_width + q] = sums[r * columns + whole + p * narrow_width + q]


cdef inline void tile(
    const bint asks, const Py_ssize_t rows, const Py_ssize_t panels, const Py_ssize_t vectors, const Py_ssize_t narrow,
    Product* product, Py_ssize_t i, Py_ssize_t j, real* kind,
) noexcept nogil:
    """Call multiply_add with local sums."""
    cdef real sums[SUMS * FLOATS]
    multiply_add(asks, rows, panels, vectors * lanes(kind), narrow, product, i, j, sums)


cdef inline void tile_of(
    const bint asks, const Py_ssize_t rows, Py_ssize_t vectors, Product* product, Py_ssize_t i, Py_ssize_t j,
    real* kind,
) noexcept nogil:
    """A tile of one panel, with any number of vectors."""
    if vectors == VECTORS:
        tile(asks, rows, 1, VECTORS, 0, product, i, j, kind)
    elif vectors == 1:
        tile(asks, rows, 1, 1, 0, product, i, j, kind)
    elif VECTORS > 3 and vectors == 3:
        tile(asks, rows, 1, 3, 0, product, i, j, kind)
    else:
        tile(asks, rows, 1, 2, 0, product, i, j, kind)


cdef inline void edge(
    const bint asks, const Py_ssize_t rows, Py_ssize_t columns, Product* product, Py_ssize_t i, Py_ssize_t j,
    real* kind,
) noexcept nogil:
    """A tile of one panel. Only its first `columns` columns exist in start and c."""
    cdef real buffer[SUMS * FLOATS]
    cdef Term terms[2]
    cdef Product whole
    cdef Py_ssize_t width = padded(columns, kind)
    cdef Py_ssize_t vectors = width // lanes(kind)
    cdef Py_ssize_t t, r, q
    cdef const real* from_
    cdef real* to = <real*>product.c + i * product.c_row + j
    if columns == width:
        tile_of(asks, rows, vectors, product, i, j, kind)
        return
    for t in range(product.count):
        terms[t] = product.terms[t]
        terms[t].a = <const real*>terms[t].a + i * terms[t].a_row
        terms[t].panels = <const real*>terms[t].panels + j * terms[t].K
    whole = product[0]
    whole.terms = &terms[0]
    whole.start = whole.c = &buffer[0]
    whole.start_row = whole.c_row = width
    whole.ids = NULL
    fill_bytes(buffer, 0, rows * width * sizeof(real))
    for r in range(rows):
        from_ = <const real*>start_of_row(product, i + r, j, kind)
        for q in range(columns):
            buffer[r * width + q] = from_[q]
    tile_of(asks, rows, vectors, &whole, 0, 0, kind)
    for r in range(rows):
        for q in range(columns):
            to[r * product.c_row + q] = buffer[r * width + q]


cdef void rest_of_rows(
    Py_ssize_t rows, Py_ssize_t columns, Product* product, Py_ssize_t i, Py_ssize_t j, real* kind,
) noexcept nogil:
    """The panel at column j for the last rows from i on, fewer than ROWS."""
    if rows == 1:
        edge(False, 1, columns, product, i, j, kind)
    elif rows == 2:
        edge(False, 2, columns, product, i, j, kind)
    elif rows == 3:
        edge(False, 3, columns, product, i, j, kind)
    elif ROWS > 4 and rows == 4:
        edge(False, 4, columns, product, i, j, kind)
    elif ROWS > 4 and rows == 5:
        edge(False, 5, columns, product, i, j, kind)
    elif ROWS > 4 and rows == 6:
        edge(False, 6, columns, product, i, j, kind)
    elif ROWS > 4 and rows == 7:
        edge(False, 7, columns, product, i, j, kind)


cdef inline void some_panels(
    const Py_ssize_t rows, const Py_ssize_t panels, const Py_ssize_t narrow,
    Product* product, Py_ssize_t i, Py_ssize_t j, real* kind,
) noexcept nogil:
    """Whole panels from column j on and the narrow ones behind them, in one tile if registers hold all their sums."""
    if rows * (panels * VECTORS + narrow * NARROW_VECTORS) <= SUMS:
        tile(False, rows, panels, VECTORS, narrow, product, i, j, kind)
    else:
        tile(False, rows, panels, VECTORS, 0, product, i, j, kind)
        tile(False, rows, 0, VECTORS, narrow, product, i, j + panels * panel_width(kind), kind)


cdef inline void last_panels(
    const Py_ssize_t rows, const Py_ssize_t panels, Py_ssize_t narrow,
    Product* product, Py_ssize_t i, Py_ssize_t j, real* kind,
) noexcept nogil:
    """Call some_panels for any number of narrow panels."""
    if narrow == 2 and rows * 2 * NARROW_VECTORS <= SUMS:
        some_panels(rows, panels, 2, product, i, j, kind)
    elif narrow == 1:
        some_panels(rows, panels, 1, product, i, j, kind)
    elif panels > 0:
        some_panels(rows, panels, 0, product, i, j, kind)


cdef inline void few_rows(
    const Py_ssize_t rows, const Py_ssize_t panels, Py_ssize_t N, Product* product, Py_ssize_t i, real* kind,
) noexcept nogil:
    """All panels for fewer than ROWS rows: several panels side by side hide the latency of the sums."""
    cdef Py_ssize_t width = panel_width(kind)
    cdef Py_ssize_t whole = N // width - two_and_two(N, kind)
    cdef Py_ssize_t rest = whole % panels
    cdef Py_ssize_t narrow = panel_count(N, kind) - whole
    cdef Py_ssize_t p, j
    if N != whole * width + narrow * NARROW_VECTORS * lanes(kind) or rows * narrow * NARROW_VECTORS > SUMS:
        narrow = 0
    for p in range(whole // panels):
        j = whole // panels - 1 - p if product.back else p
        some_panels(rows, panels, 0, product, i, j * panels * width, kind)
    j = (whole - rest) * width
    if panels > 3 and rest == 3:
        last_panels(rows, 3, narrow, product, i, j, kind)
    elif panels > 2 and rest == 2:
        last_panels(rows, 2, narrow, product, i, j, kind)
    elif panels > 1 and rest == 1:
        last_panels(rows, 1, narrow, product, i, j, kind)
    else:
        last_panels(rows, 0, narrow, product, i, j, kind)
    for p in range(whole + narrow, panel_count(N, kind)):
        j = panel_begin(p, N, kind)
        rest_of_rows(rows, min(panel_begin(p + 1, N, kind), N) - j, product, i, j, kind)


cdef inline void last_rows(Py_ssize_t rows, Py_ssize_t N, Product* product, Py_ssize_t i, real* kind) noexcept nogil:
    """All panels for the last rows from i on, fewer than ROWS."""
    if rows == 1:
        few_rows(1, 4, N, product, i, kind)
    elif rows == 2:
        few_rows(2, 2, N, product, i, kind)
    elif rows == 3:
        few_rows(3, 1, N, product, i, kind)
    elif ROWS > 4 and rows == 4:
        few_rows(4, 1, N, product, i, kind)
    elif ROWS > 4 and rows == 5:
        few_rows(5, 1, N, product, i, kind)
    elif ROWS > 4 and rows == 6:
        few_rows(6, 1, N, product, i, kind)
    elif ROWS > 4 and rows == 7:
        few_rows(7, 1, N, product, i, kind)


cdef inline void prefetch_tile(const real* c, Py_ssize_t c_row) noexcept nogil:
    """Prefetch the next tile of c: its rows lie too far apart for the hardware to prefetch them."""
    cdef Py_ssize_t r
    for r in range(ROWS if ASKS else 0):
        prefetch(c + r * c_row)
        prefetch(c + r * c_row + VECTORS * lanes(<real*>c) - 1)


cdef inline void panel_of_rows(
    const bint asks, Py_ssize_t low, Py_ssize_t high, Py_ssize_t columns, Product* product, Py_ssize_t j,
    real* kind,
) noexcept nogil:
    """The panel at column j for rows low .. high-1. If not `asks`, whole tiles only: other rows are left out."""
    cdef Py_ssize_t tiles = (high - low) // ROWS
    cdef Py_ssize_t q, i
    for q in range(tiles):
        i = low + q * ROWS
        if i + ROWS < high:              # another thread may be writing the rows from `high` on
            prefetch_tile(<real*>product.c + (i + ROWS) * product.c_row + j, product.c_row)
        edge(asks, ROWS, columns, product, i, j, kind)
    i = low + tiles * ROWS
    if asks and i < high:
        rest_of_rows(high - i, columns, product, i, j, kind)


cdef inline void panel_in_parts(
    const bint asks, bint large, Py_ssize_t low, Py_ssize_t high, Py_ssize_t columns, Product* product, Py_ssize_t j,
    real* kind,
) noexcept nogil:
    """panel_of_rows, DEPTH steps of k at a time: that part of a panel stays in the nearest cache, and so does c.

    If panels are large, the next part is what is prefetched.
    """
    cdef Term term
    cdef Product part = product[0]
    cdef Py_ssize_t width = padded(columns, kind)
    cdef Py_ssize_t t, q, k
    part.terms, part.count = &term, 1
    part.start, part.c = <const real*>part.start + j, <real*>part.c + j
    for t in range(product.count):
        for q in range(pieces(product.terms[t].K, DEPTH)):
            k = q * DEPTH
            term = product.terms[t]
            term.a = <const real*>term.a + k
            term.panels = <const real*>term.panels + j * term.K + k * width
            term.K = min(<Py_ssize_t>DEPTH, term.K - k)
            if large:
                part.ahead = <const char*>(<const real*>term.panels + term.K * width)
                part.ahead_k = width * sizeof(real) // ((high - low) // ROWS)
            panel_of_rows(asks, low, high, columns, &part, 0, kind)
            part.start, part.start_row, part.ids = part.c, part.c_row, NULL
    product.ahead = part.ahead


cdef void multiply(
    Py_ssize_t M, Py_ssize_t N, const real* start, Py_ssize_t start_row, const Py_ssize_t* ids,
    const Term* terms, Py_ssize_t count, real* c, Py_ssize_t c_row, const void* ahead, Py_ssize_t ahead_size,
    bint back,
) noexcept nogil:
    """c (M, N) = start + the sum of the terms.

    Meanwhile the next part of large panels, or otherwise the memory at `ahead`, is prefetched into the second cache,
    one cache line at a time: many at once would delay the loads that the tiles wait for.
    """
    cdef Product product = Product(terms, count, start, start_row, ids, c, c_row, <const char*>ahead, 0, False)
    cdef Py_ssize_t tiled = M // ROWS * ROWS
    cdef Py_ssize_t K = 0
    cdef Py_ssize_t band, p, i, j, t, high, columns
    cdef bint large, apart
    if count == 0:
        for i in range(M):
            copy_bytes(c + i * c_row, start + (i if ids is NULL else ids[i]) * start_row, N * sizeof(real))
        return
    for t in range(count):
        K += terms[t].K
    large = K * N * <Py_ssize_t>sizeof(real) > LARGE
    product.back = back and K * N * <Py_ssize_t>sizeof(real) >= LARGE
    # The last rows go along with the other rows of a large panel, while it is near. Otherwise they are faster apart,
    # in tiles of several panels.
    apart = not large or tiled == 0
    if ahead_size > 0 and tiled > 0:
        product.ahead_k = pieces(ahead_size, tiled // ROWS * panel_count(N, c) * K)
    for band in range(pieces(tiled, BAND)):
        i = band * BAND
        high = i + BAND if i + BAND < tiled else (tiled if apart else M)
        for p in range(panel_count(N, c)):
            j = panel_begin(p, N, c)
            columns = min(panel_begin(p + 1, N, c), N) - j
            if large or (IN_PARTS and ahead_size > 0):
                panel_in_parts(True, large, i, high, columns, &product, j, c)
            elif IN_PARTS:
                panel_in_parts(False, False, i, high, columns, &product, j, c)
            elif ahead_size > 0:
                panel_of_rows(True, i, high, columns, &product, j, c)
            else:
                panel_of_rows(False, i, high, columns, &product, j, c)
    if apart:
        last_rows(M - tiled, N, &product, tiled, c)


cdef void multiply_digits(
    Py_ssize_t M, Py_ssize_t N, const float* start, Py_ssize_t start_row, const Py_ssize_t* ids,
    const Term* terms, Py_ssize_t count, float* c, Py_ssize_t c_row, const void* ahead, Py_ssize_t ahead_size,
    bint back,
) noexcept nogil:
    """`multiply` for last terms of digits, which are added to the result of the other terms."""
    cdef Py_ssize_t others = count
    cdef Py_ssize_t t
    while others > 0 and terms[others - 1].digits:
        others -= 1
    if others > 0:
        multiply(M, N, start, start_row, ids, terms, others, c, c_row, NULL, 0, back)
    for t in range(others, count if M > 0 and N > 0 else 0):
        if t > 0:
            start, start_row, ids = c, c_row, NULL
        add_digits_product(M, N, terms[t].K, start, start_row, ids, <const float*>terms[t].a, terms[t].a_row,
                           <const char*>terms[t].panels, c, c_row, <const char*>ahead,
                           ahead_size if t == count - 1 else 0, back)


# ---------------------------------------------------------------------------------------------
# Weight gradients: c += a.T @ b, where a and b lie as the steps wrote them, row after row.

cdef void multiply_outer(
    const Py_ssize_t* rows, Py_ssize_t K, Py_ssize_t groups, Py_ssize_t size, Py_ssize_t stride, Py_ssize_t N,
    const real* a, Py_ssize_t a_row, const real* b, Py_ssize_t b_row, const Py_ssize_t* b_rows,
    real* c, Py_ssize_t c_row, real* scratch, Py_ssize_t part, Py_ssize_t parts,
) noexcept nogil:
    cdef Py_ssize_t q, k
    for q in range(pieces(K, DEPTH)):
        k = q * DEPTH
        multiply_some_outer(rows + k, min(<Py_ssize_t>DEPTH, K - k), groups, size, stride, N, a, a_row, b, b_row,
                            b_rows, c, c_row, scratch, part, parts)


cdef void multiply_some_outer(
    const Py_ssize_t* rows, Py_ssize_t K, Py_ssize_t groups, Py_ssize_t size, Py_ssize_t stride, Py_ssize_t N,
    const real* a, Py_ssize_t a_row, const real* b, Py_ssize_t b_row, const Py_ssize_t* b_rows,
    real* c, Py_ssize_t c_row, real* scratch, Py_ssize_t part, Py_ssize_t parts,
) noexcept nogil:
    cdef real* strip = scratch
    cdef real* panels = scratch + DEPTH * STRIP
    cdef Py_ssize_t low = tile_row(size, N, part, parts, c)
    cdef Py_ssize_t high = tile_row(size, N, part + 1, parts, c)
    # Whole tiles of a are not worth packing where DEPTH rows lie on few pages.
    cdef bint near = DEPTH * a_row * <Py_ssize_t>sizeof(real) <= NEAR
    cdef Py_ssize_t p, j, columns, g, r, i, width
    if groups * size <= STRIP and N % lanes(c) == 0 and b_rows is NULL:
        for g in range(groups):
            narrow_product(rows, K, high - low, N, a + g * stride + low, a_row, b, b_row, c + (g * size + low) * c_row,
                           c_row)
        return
    for p in range(pieces(N, COLUMNS)):
        j = p * COLUMNS
        columns = min(<Py_ssize_t>COLUMNS, N - j)
        pack_rows(panels, rows, K, columns, b + j, b_row, b_rows)
        for g in range(groups):
            for r in range(pieces(high - low, STRIP)):
                i = low + r * STRIP
                width = min(<Py_ssize_t>STRIP, high - i)
                pack_strip(strip, rows, K, width // ROWS if near else 0, width, a + g * stride + i, a_row)
                outer_tiles(rows, K, width, columns, a + g * stride + i, a_row, near, strip, panels,
                            c + (g * size + i) * c_row + j, c_row)


cdef void narrow_product(
    const Py_ssize_t* rows, Py_ssize_t K, Py_ssize_t M, Py_ssize_t N,
    const real* a, Py_ssize_t a_row, const real* b, Py_ssize_t b_row, real* c, Py_ssize_t c_row,
) noexcept nogil:
    """c (M, N) += a.T @ b, where a has so few columns that packing b does not pay. N is a multiple of a vector.

    The rows of an unpacked b lie far apart, and fewer of them stay in the nearest cache: hence half the depth.
    """
    cdef Py_ssize_t deep = DEPTH // 2
    cdef Py_ssize_t k, depth, p, q, r, i, j, vectors
    for q in range(pieces(K, deep)):
        k = q * deep
        depth = min(deep, K - k)
        for p in range(panel_count(N, c)):
            j = panel_begin(p, N, c)
            vectors = (panel_begin(p + 1, N, c) - j) // lanes(c)
            for r in range(pieces(M, ROWS)):
                i = r * ROWS
                narrow_tile(min(<Py_ssize_t>ROWS, M - i), vectors, rows + k, depth, a + i, a_row, b + j, b_row,
                            c + i * c_row + j, c_row)


cdef void pack_rows(
    real* panels, const Py_ssize_t* rows, Py_ssize_t K, Py_ssize_t N,
    const real* b, Py_ssize_t b_row, const Py_ssize_t* b_rows,
) noexcept nogil:
    """Pack K rows of b as panels (K, N)."""
    cdef Py_ssize_t k, p, begin, end, columns
    cdef const real* source
    cdef real* place
    for k in range(K):
        source = b + (b_rows[rows[k]] if b_rows is not NULL else rows[k]) * b_row
        end = 0
        for p in range(panel_count(N, panels)):
            begin, end = end, panel_begin(p + 1, N, panels)
            columns = min(end, N) - begin
            place = panels + begin * K + k * (end - begin)
            copy_columns(place, source + begin, columns)
            if columns < end - begin:
                fill_bytes(place + columns, 0, (end - begin - columns) * sizeof(real))


cdef inline void pack_strip(
    real* restrict strip, const Py_ssize_t* rows, Py_ssize_t K, Py_ssize_t first, Py_ssize_t columns,
    const real* restrict a, Py_ssize_t a_row,
) noexcept nogil:
    """Pack neighbouring columns of a, [tile][k][ROWS columns], from tile `first` on; missing columns are zero."""
    cdef Py_ssize_t k, i, q
    if first == 0 and columns == STRIP:
        for k in range(K):
            for q in range(STRIP // ROWS):
                for i in range(ROWS):
                    strip[(q * K + k) * ROWS + i] = a[rows[k] * a_row + q * ROWS + i]
        return
    for q in range(first, pieces(columns, ROWS)):
        for k in range(K):
            for i in range(ROWS):
                strip[(q * K + k) * ROWS + i] = a[rows[k] * a_row + q * ROWS + i] if q * ROWS + i < columns else 0


cdef void outer_tiles(
    const Py_ssize_t* rows, Py_ssize_t K, Py_ssize_t M, Py_ssize_t N, const real* a, Py_ssize_t a_row, bint near,
    const real* strip, const real* panels, real* c, Py_ssize_t c_row,
) noexcept nogil:
    """c (M, N) += a.T @ panels, while the next columns of a are prefetched.

    The M columns of a are packed in `strip`, except those of whole tiles if `near`, which are read in place.
    """
    cdef const real* ahead = a + STRIP
    cdef Py_ssize_t some = pieces(K, panel_count(N, c) * pieces(M, ROWS))
    cdef Py_ssize_t k = 0
    cdef Py_ssize_t p, q, i, j, columns, end
    cdef const real* panel
    cdef real* place
    for p in range(panel_count(N, c)):
        j = panel_begin(p, N, c)
        panel = panels + j * K
        columns = min(panel_begin(p + 1, N, c), N) - j
        for q in range(pieces(M, ROWS)):
            i = q * ROWS
            place = c + i * c_row + j
            if i + ROWS < M:
                prefetch_tile(place + ROWS * c_row, c_row)
            end = min(k + some, K)
            while k < end:
                prefetch_near(ahead + rows[k] * a_row)
                k += 1
            if near and i + ROWS <= M:
                outer_edge(False, ROWS, ROWS, columns, rows, K, a + i, a_row, panel, place, c_row)
            elif M - i == 1:
                outer_edge(True, 1, 1, columns, rows, K, strip + i * K, 0, panel, place, c_row)
            elif M - i == 2:
                outer_edge(True, 2, 2, columns, rows, K, strip + i * K, 0, panel, place, c_row)
            else:
                outer_edge(True, ROWS, min(<Py_ssize_t>ROWS, M - i), columns, rows, K, strip + i * K, 0, panel, place,
                           c_row)


cdef inline void outer_edge(
    const bint a_packed, const Py_ssize_t height, Py_ssize_t valid, Py_ssize_t columns, const Py_ssize_t* rows,
    Py_ssize_t K, const real* a, Py_ssize_t a_row, const real* panel, real* c, Py_ssize_t c_row,
) noexcept nogil:
    """A tile. Only its first `columns` columns and `valid` rows exist in c."""
    cdef real buffer[SUMS * FLOATS]
    cdef Py_ssize_t width = padded(columns, c)
    cdef bint whole = columns == width and valid == height
    cdef Py_ssize_t r, q
    if not whole:
        fill_bytes(buffer, 0, height * width * sizeof(real))
        for r in range(valid):
            for q in range(columns):
                buffer[r * width + q] = c[r * c_row + q]
    outer_tile_of(a_packed, True, height, width // lanes(c), rows, K, a, a_row, panel, 0, c if whole else &buffer[0],
                  c_row if whole else width)
    if not whole:
        for r in range(valid):
            for q in range(columns):
                c[r * c_row + q] = buffer[r * width + q]


cdef inline void narrow_tile(
    Py_ssize_t height, Py_ssize_t vectors, const Py_ssize_t* rows, Py_ssize_t K,
    const real* a, Py_ssize_t a_row, const real* b, Py_ssize_t b_row, real* c, Py_ssize_t c_row,
) noexcept nogil:
    if height == ROWS:
        outer_tile_of(False, False, ROWS, vectors, rows, K, a, a_row, b, b_row, c, c_row)
    elif height == 1:
        outer_tile_of(False, False, 1, vectors, rows, K, a, a_row, b, b_row, c, c_row)
    elif height == 2:
        outer_tile_of(False, False, 2, vectors, rows, K, a, a_row, b, b_row, c, c_row)
    elif height == 3:
        outer_tile_of(False, False, 3, vectors, rows, K, a, a_row, b, b_row, c, c_row)
    elif ROWS > 4 and height == 4:
        outer_tile_of(False, False, 4, vectors, rows, K, a, a_row, b, b_row, c, c_row)
    elif ROWS > 4 and height == 5:
        outer_tile_of(False, False, 5, vectors, rows, K, a, a_row, b, b_row, c, c_row)
    elif ROWS > 4 and height == 6:
        outer_tile_of(False, False, 6, vectors, rows, K, a, a_row, b, b_row, c, c_row)
    elif ROWS > 4 and height == 7:
        outer_tile_of(False, False, 7, vectors, rows, K, a, a_row, b, b_row, c, c_row)


cdef inline void outer_tile_of(
    const bint a_packed, const bint b_packed, const Py_ssize_t height, Py_ssize_t vectors, const Py_ssize_t* rows,
    Py_ssize_t K, const real* a, Py_ssize_t a_row, const real* b, Py_ssize_t b_row, real* c, Py_ssize_t c_row,
) noexcept nogil:
    """A tile of any number of vectors."""
    if vectors == VECTORS:
        outer_tile(a_packed, b_packed, height, VECTORS, rows, K, a, a_row, b, b_row, c, c_row)
    elif vectors == 1:
        outer_tile(a_packed, b_packed, height, 1, rows, K, a, a_row, b, b_row, c, c_row)
    elif VECTORS > 3 and vectors == 3:
        outer_tile(a_packed, b_packed, height, 3, rows, K, a, a_row, b, b_row, c, c_row)
    else:
        outer_tile(a_packed, b_packed, height, 2, rows, K, a, a_row, b, b_row, c, c_row)


cdef inline void outer_tile(
    const bint a_packed, const bint b_packed, const Py_ssize_t height, const Py_ssize_t vectors, const Py_ssize_t* rows,
    Py_ssize_t K, const real* a, Py_ssize_t a_row, const real* b, Py_ssize_t b_row, real* c, Py_ssize_t c_row,
) noexcept nogil:
    """c += a.T @ b, for the first `height` columns of a and `vectors` vectors of b.

    Step k takes row rows[k] of an operand, or its k-th if it is packed. The K products are summed first, and their sum
    is then added to c: a single sum over very many rows would lose digits. The loop over k tests at its bottom, as in
    multiply_add.
    """
    cdef real sums[SUMS * FLOATS]
    cdef Py_ssize_t width = vectors * lanes(c)
    cdef Py_ssize_t k = 0
    cdef Py_ssize_t r, q
    cdef real factor
    cdef const real* restrict a_now
    cdef const real* restrict b_now
    for r in range(height):
        for q in range(width):
            sums[r * width + q] = 0
    while True:
        a_now = a + (k * ROWS if a_packed else rows[k] * a_row)
        b_now = b + (k * width if b_packed else rows[k] * b_row)
        if not b_packed:                 # no hardware prefetches it; this also keeps GCC from merging two steps of k
            prefetch_near(b_now + 8 * b_row)
        for r in range(height):
            factor = a_now[r]
            for q in range(width):
                sums[r * width + q] += factor * b_now[q]
        k += 1
        if k >= K:
            break
    for r in range(height):
        for q in range(width):
            c[r * c_row + q] += sums[r * width + q]


cdef void multiply_outer_digits(
    const Py_ssize_t* rows, Py_ssize_t K, Py_ssize_t groups, Py_ssize_t size, Py_ssize_t stride, Py_ssize_t N,
    const float* a, Py_ssize_t a_row, const float* b, Py_ssize_t b_row, const Py_ssize_t* b_rows,
    float* c, Py_ssize_t c_row, float* scratch, Py_ssize_t part, Py_ssize_t parts,
) noexcept nogil:
    cdef Py_ssize_t low = tile_row(size, N, part, parts, c)
    cdef Py_ssize_t high = tile_row(size, N, part + 1, parts, c)
    cdef char* digits = <char*>scratch
    cdef const float* rows_of_a[BLOCK_ROWS]
    cdef const float* rows_of_b[BLOCK_ROWS]
    cdef Py_ssize_t k, p, j, columns, g
    for k in range(K):
        rows_of_a[k] = a + rows[k] * a_row
        rows_of_b[k] = b + (rows[k] if b_rows is NULL else b_rows[rows[k]]) * b_row
    digits_begin(SIDE)
    for p in range(pieces(N, COLUMNS)):
        j = p * COLUMNS
        columns = min(<Py_ssize_t>COLUMNS, N - j)
        digits_of_some_rows(digits, rows_of_b, K, j, columns)
        for g in range(groups):
            add_outer_digits(rows_of_a, K, g * stride, low, high, columns, digits, c + g * size * c_row + j, c_row)
    digits_end()


cdef Gemm table
table.product_f = multiply[float]
table.product_d = multiply[double]
table.outer_product_f = multiply_outer[float]
table.outer_product_d = multiply_outer[double]
table.product_digits = multiply_digits
table.outer_product_digits = multiply_outer_digits

capsule = PyCapsule_New(&table, "rnncore.Gemm", NULL)
