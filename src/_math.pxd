"""exp, tanh, sigmoid and others as branch-free polynomials that the compiler vectorises.

libm's versions cost ten to forty times as much, since they compute one number at a time. Every function here is within
4 ulp wherever the result is a normal number, exact at +-0 and +-inf, never overflows, and passes NaN on. The method is
Cody and Waite's (1980): x = n ln 2 + r with |r| <= ln 2 / 2, a polynomial for expm1(r), and 2**n written directly into
the exponent bits. For rows of floats with AVX-512, _vectors.h has faster functions.

Literals are cast to `real`: a bare 1.0 would carry float arithmetic through double.
"""

ctypedef fused real:
    float
    double


cdef inline Py_ssize_t pieces(Py_ssize_t size, Py_ssize_t width) noexcept nogil:
    """The number of pieces of `width` that cover `size`: size / width, rounded up."""
    return (size + width - 1) // width


cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    #include <math.h>

    /* Adding 1.5 * 2**(mantissa bits) rounds to an integer and leaves it in the low bits,
       where a shift turns n into the exponent of 2**n; no conversion to int is needed. */
    static inline float rnn_pow2f(float shifted) {
        uint32_t bits; float power;
        memcpy(&bits, &shifted, sizeof bits);
        bits = (bits + 127) << 23;
        memcpy(&power, &bits, sizeof power);
        return power;
    }
    static inline double rnn_pow2(double shifted) {
        uint64_t bits; double power;
        memcpy(&bits, &shifted, sizeof bits);
        bits = (bits + 1023) << 52;
        memcpy(&power, &bits, sizeof power);
        return power;
    }

    /* sqrt(x) for x >= 0, as x times 1 / sqrt(x): the bits of x give a first guess of the inverse, and three steps of
       Newton's method refine it. A division next to it then does not share the divider with a square root. That pays
       where multiply-adds are cheap. */
    static inline float rnn_root_f(float x) {
    #if defined(__AVX512F__)
        const float most = 3.40282347e38f;
        float finite = x < most ? x : most, half = 0.5f * finite, inverse;
        uint32_t bits;
        memcpy(&bits, &finite, sizeof bits);
        bits = 0x5f3759df - (bits >> 1);
        memcpy(&inverse, &bits, sizeof inverse);
        inverse *= 1.5f - half * inverse * inverse;
        inverse *= 1.5f - half * inverse * inverse;
        inverse *= 1.5f - half * inverse * inverse;
        return x * inverse;
    #else
        return sqrtf(x);
    #endif
    }

    /* RNN_LOW and RNN_HIGH bound the x of a sigmoid; from RNN_ONE on, tanh is 1. They are variables that are never
       changed, because the minimum of two variables is one instruction, but compilers need two for a constant. */
    enum { RNN_LOW, RNN_HIGH, RNN_ONE };
    float rnn_bounds_f[] = {-89, 87, 10};
    double rnn_bounds_d[] = {-710, 708, 20};
    """
    enum:
        LOW "RNN_LOW"
        HIGH "RNN_HIGH"
        ONE "RNN_ONE"
    const float* bounds_f "rnn_bounds_f"
    const double* bounds_d "rnn_bounds_d"
    float power_of_two_f "rnn_pow2f"(float shifted) noexcept nogil
    double power_of_two_d "rnn_pow2"(double shifted) noexcept nogil
    float root_f "rnn_root_f"(float x) noexcept nogil

cdef extern from "_vectors.h" nogil:
    enum:
        LOOKS_UP "RNN_LOOKS_UP"
    void sigmoids_f "rnn_sigmoids"(Py_ssize_t size, const float* x, float* y) noexcept
    void hyperbolic_tangents_f "rnn_tanhs"(Py_ssize_t size, const float* x, float* y) noexcept
    void exponentials_f "rnn_exponentials"(Py_ssize_t size, const float* x, float top, float* y) noexcept

cdef extern from "<math.h>" nogil:
    float fabsf(float x) noexcept
    double fabs(double x) noexcept
    float copysignf(float magnitude, float sign) noexcept
    double copysign(double magnitude, double sign) noexcept
    float sqrtf(float x) noexcept
    double c_sqrt "sqrt"(double x) noexcept


cdef inline real bound(int which, real kind) noexcept nogil:
    if real is float:
        return bounds_f[which]
    else:
        return bounds_d[which]


cdef inline real square_root(real x) noexcept nogil:
    if real is float:
        return sqrtf(x)
    else:
        return c_sqrt(x)


cdef inline real root_of_squares(real x) noexcept nogil:
    """sqrt(x) for x >= 0, where a division by it follows."""
    if real is float:
        return root_f(x)
    else:
        return c_sqrt(x)


cdef inline real absolute(real x) noexcept nogil:
    if real is float:
        return fabsf(x)
    else:
        return fabs(x)


cdef inline real with_sign(real magnitude, real sign) noexcept nogil:
    if real is float:
        return copysignf(magnitude, sign)
    else:
        return copysign(magnitude, sign)


cdef inline real shifted_log2(real factor, real x) noexcept nogil:
    """n + the rounding constant, where n is factor * x / ln 2 rounded to an integer."""
    if real is float:
        return x * (factor * <float>1.44269504088896341) + <float>12582912.0
    else:
        return x * (factor * <double>1.44269504088896341) + <double>6755399441055744.0


cdef inline real unshift(real shifted) noexcept nogil:
    if real is float:
        return shifted - <float>12582912.0
    else:
        return shifted - <double>6755399441055744.0


cdef inline real shift(real n) noexcept nogil:
    if real is float:
        return n + <float>12582912.0
    else:
        return n + <double>6755399441055744.0


cdef inline real power_of_two(real shifted) noexcept nogil:
    if real is float:
        return power_of_two_f(shifted)
    else:
        return power_of_two_d(shifted)


cdef inline real remainder_ln2(real x, real n) noexcept nogil:
    """x - n ln 2, with ln 2 in two parts; the first has so few bits that its product with n is exact."""
    if real is float:
        return (x - n * <float>0.693359375) - n * <float>-2.12194440054690583e-4
    else:
        return (x - n * <double>6.93147180369123816490e-1) - n * <double>1.90821492927058770002e-10


cdef inline real expm1_reduced(real r) noexcept nogil:
    """expm1(r) for |r| <= ln 2 / 2: minimax polynomials for (expm1(r) - r) / r**2.

    They are polynomials in r**2 whose coefficients are linear in r, so that only half as many operations depend on
    each other.
    """
    cdef real square = r * r
    cdef real p
    if real is float:
        p = <float>1.38825018925e-3
        p = p * square + (<float>8.36654792887e-3 * r + <float>4.1667200924e-2)
        p = p * square + (<float>1.66665434159e-1 * r + <float>4.9999998149e-1)
    else:
        p = <double>2.5056237913999470757e-8 * r + <double>2.7626146425780751085e-7
        p = p * square + (<double>2.7557400021146825228e-6 * r + <double>2.4801504983201851246e-5)
        p = p * square + (<double>1.9841269727117661087e-4 * r + <double>1.3888888931831837951e-3)
        p = p * square + (<double>8.3333333333859638344e-3 * r + <double>4.1666666666575789091e-2)
        p = p * square + (<double>1.66666666666665946e-1 * r + <double>0.5)
    return p * square + r


cdef inline real exponential(real x) noexcept nogil:
    """e**x. 2**n is applied in two halves, since n itself may leave the range of exponents."""
    cdef real low = <real>-104.0 if real is float else <real>-746.0
    cdef real high = <real>89.0 if real is float else <real>710.0
    cdef real n, r, half
    x = low if x < low else x          # NaN fails both comparisons and passes on
    x = high if x > high else x
    n = unshift(shifted_log2(<real>1, x))
    r = remainder_ln2(x, n)
    half = shift(n * <real>0.5)
    return ((<real>1 + expm1_reduced(r)) * power_of_two(half)) * power_of_two(shift(n - unshift(half)))


cdef inline real sigmoid(real x) noexcept nogil:
    """1 / (1 + e**-x). Where e**-x overflows, the result is 0; the exact one is then too small to be normal."""
    cdef real low = bound(LOW, x)
    cdef real high = bound(HIGH, x)
    cdef real shifted, r
    x = low if x < low else x          # NaN fails both comparisons and passes on
    x = high if x > high else x
    shifted = shifted_log2(<real>-1, x)
    r = remainder_ln2(-x, unshift(shifted))
    return <real>1 / (<real>1 + (<real>1 + expm1_reduced(r)) * power_of_two(shifted))


cdef inline real hyperbolic_tangent(real x) noexcept nogil:
    """tanh(x) = E / (E + 2), E = expm1(2|x|): no cancellation anywhere."""
    cdef real one = bound(ONE, x)
    cdef real size = absolute(x)
    cdef real shifted, power, e
    size = one if size > one else size
    shifted = shifted_log2(<real>2, size)
    power = power_of_two(shifted)
    e = power * expm1_reduced(remainder_ln2(size + size, unshift(shifted))) + (power - <real>1)
    return with_sign(e / (e + <real>2), x)


# ---------------------------------------------------------------------------------------------
# Sums. Each lane of the widest vector has a sum of its own; then halves of the lanes are added to each other.

cdef enum:
    LANES = 16


cdef inline void add_half(const Py_ssize_t half, real* lanes) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(half):
        lanes[j] += lanes[half + j]


cdef inline real sum_of_lanes(real* lanes) noexcept nogil:
    add_half(8, lanes)
    add_half(4, lanes)
    add_half(2, lanes)
    return lanes[0] + lanes[1]


cdef inline real sum_up(const bint products, Py_ssize_t size, const real* x, const real* y) noexcept nogil:
    """The sum of x, or of x y."""
    cdef real lanes[LANES]
    cdef Py_ssize_t whole = size // LANES
    cdef Py_ssize_t i, j
    cdef real sum_
    for j in range(LANES):
        lanes[j] = 0
    for i in range(whole):
        for j in range(LANES):
            lanes[j] += x[i * LANES + j] * y[i * LANES + j] if products else x[i * LANES + j]
    sum_ = sum_of_lanes(lanes)
    for j in range(whole * LANES, size):
        sum_ += x[j] * y[j] if products else x[j]
    return sum_


cdef inline real total(Py_ssize_t size, const real* x) noexcept nogil:
    return sum_up(False, size, x, x)


cdef inline real dot(Py_ssize_t size, const real* x, const real* y) noexcept nogil:
    return sum_up(True, size, x, y)


# ---------------------------------------------------------------------------------------------
# Functions of whole rows, padded to whole vectors as gates are; y may be x. The iterations of a loop that calls a
# single function overlap; in a loop that calls several, each call waits for the one before.

cdef inline void sigmoids(Py_ssize_t size, const real* x, real* y) noexcept nogil:
    """y = sigmoid(x)"""
    cdef Py_ssize_t j
    if real is float and LOOKS_UP:
        sigmoids_f(size, x, y)
    else:
        for j in range(size):
            y[j] = sigmoid(x[j])


cdef inline void hyperbolic_tangents(Py_ssize_t size, const real* x, real* y) noexcept nogil:
    """y = tanh(x)"""
    cdef Py_ssize_t j
    if real is float and LOOKS_UP:
        hyperbolic_tangents_f(size, x, y)
    else:
        for j in range(size):
            y[j] = hyperbolic_tangent(x[j])


cdef inline void exponentials(Py_ssize_t size, const real* x, real top, real* y) noexcept nogil:
    """y = e**(x - top), where no x is larger than top. `size` may be any number."""
    cdef Py_ssize_t j
    if real is float and LOOKS_UP:
        exponentials_f(size, x, top, y)
    else:
        for j in range(size):
            y[j] = exponential(x[j] - top)
