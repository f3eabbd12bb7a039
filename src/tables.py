"""Writes _tables.h: what the functions of _vectors.h look up. Run by hand; NumPy is all it needs."""

from pathlib import Path

import numpy as np
from numpy.polynomial import Chebyshev, Polynomial

TANH_SHIFT = 0.75  # added to |x|, whose three highest bits behind the exponent then tell the interval
TANH_ONE = 9.24  # from here on tanh is 1 in float32, and so is the polynomial of the last interval


def interpolate(function, degree: int, half_width: float) -> np.ndarray:
    """Coefficients of a polynomial that is nearly the best one on [-half_width, half_width]."""
    return Chebyshev.interpolate(function, degree, [-half_width, half_width]).convert(kind=Polynomial).coef


def tanh_table() -> np.ndarray:
    """(6, 32): the middle of each interval, then the coefficients of a polynomial in |x| - middle."""
    table = np.zeros((6, 32))
    low = TANH_SHIFT
    while low < TANH_SHIFT + TANH_ONE:
        width = 2 ** np.floor(np.log2(low)) / 8
        middle = low + width / 2 - TANH_SHIFT
        column = np.float32(low).view(np.uint32) >> 20 & 31
        if low == TANH_SHIFT:  # near 0 the relative error counts: x times a polynomial
            odd = Chebyshev.interpolate(lambda x: np.tanh(x) / x, 3, [0, width]).convert(kind=Polynomial)
            table[:, column] = 0, 0, *odd.coef
        else:
            table[:, column] = middle, *interpolate(lambda r, m=middle: np.tanh(m + r), 4, width / 2)
        low += width
    return table


def power_table() -> np.ndarray:
    """(16,): the bits of 2**(j/16), less j << 19: adding the bits of n = k + j/16, shifted so, gives 2**n."""
    j = np.arange(16)
    return (2 ** (j / 16)).astype(np.float32).view(np.uint32) - (j << 19).astype(np.uint32)


def rows(numbers: list[str]) -> str:
    return ",\n".join("    " + ", ".join(numbers[i : i + 6]) for i in range(0, len(numbers), 6))


def decimal(number: float) -> str:
    return f"{np.float32(number):.8e}f"


def header() -> str:
    tanh = ",\n".join(f"    {{\n{rows([decimal(c) for c in row])}\n    }}" for row in tanh_table())
    power = interpolate(np.exp2, 3, 1 / 32)
    return f"""/* Written by tables.py. */

/* tanh: for each interval of |x| its middle m, then the coefficients of a polynomial in |x| - m.
   Its column is what the bits of |x| + shift, without the 20 lowest ones, are modulo 32. */
static const float rnn_tanh_shift = {TANH_SHIFT}f, rnn_tanh_one = {TANH_ONE}f;
static const float rnn_tanh_table[6][32] = {{
{tanh}
}};

/* The bits of 2**(j/16), less j << 19. */
static const unsigned rnn_power_table[16] = {{
{rows([f"0x{bits:08x}" for bits in power_table()])}
}};

/* 2**r for |r| <= 1/32, as a polynomial. */
static const float rnn_power[4] = {{{", ".join(decimal(c) for c in power)}}};
"""


if __name__ == "__main__":
    Path(__file__).with_name("_tables.h").write_text(header())
