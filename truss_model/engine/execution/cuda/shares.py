# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""What the sampling kernels compare and add up: scores as integers in their order, and their shares of the whole.

A share is e^(score - highest) as a multiple of 2^-44. Sums of integers are the same in every order, so that a row's
token depends neither on the other rows nor on the number of programs, and all devices find the same one. float64 is
done at a 64th of the pace on an A10G or L4, and float32 loses what a sum of 2^17 shares needs. Integers are exact
enough: each share is off by at most 2^-43 of itself and 2^-45. Of 2^17 tokens the sum of all is off by 2^-28 of the
highest share at worst, and as errors have both signs by about 2^-36: one of 10^10 uniform numbers falls where float64
would give the neighbour.
"""

import triton
import triton.language as tl

MOST_TOKENS = (1 << 19) - 1  # of the vocabulary: the sum of all shares has to stay below 2^63
NO_TOKEN = tl.constexpr(-(1 << 63))
LOG2_E_HIGH, LOG2_E_LOW = (tl.constexpr(part) for part in divmod(3326628274461080623, 1 << 32))  # log2(e) 2^61
# 2^-f 2^62 = c9 - (c8 - (c7 - ...) f) f: the polynomial that meets it at the zeros of a Chebyshev polynomial and at 0;
# to 2^-44 of itself.
COEFFICIENTS = tl.constexpr((
    344619392787, 5873255731319, 70123071635335, 710236144278606, 6148975070529943, 44355783162661273,
    255967521083061002, 1107849223368554335, 3196577161300476459, 4611686018427387904,
))  # fmt: skip


@triton.jit
def ordered(x):
    """The bits of float32 as int32 in the order of the numbers, NaN above all, -0 like 0; its own inverse for the rest.

    x must not be -0 but by `+ 0.0`."""
    bits = x.to(tl.int32, bitcast=True)
    return tl.where(x == x, bits ^ ((bits >> 31) & 0x7FFFFFFF), 0x7FFFFFFF)


@triton.jit
def unordered(key):
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def ranked(x, ids):
    """One int64 for each, the larger the higher x is and, of equal ones, the lower the id."""
    return (ordered(x + 0.0).to(tl.int64) << 32) | (0x7FFFFFFF - ids).to(tl.int64)


@triton.jit
def first_of_highest(x, ids, inside):
    """The first in rank of a block."""
    return tl.max(tl.where(inside, ranked(x, ids), NO_TOKEN), 0)


@triton.jit
def value_of(highest):
    return unordered((highest >> 32).to(tl.int32))


@triton.jit
def id_of(highest):
    return 0x7FFFFFFF - (highest & 0x7FFFFFFF)


@triton.jit
def shares_of(distance):
    """float32 >= 0 or infinite, below the highest score -> int64, 2^44 for 0. e^-d = 2^-n 2^-f, 0 <= f < 1.

    Products of uint64 up to 2^62 to their last bits: x * y / 2^62, of three products of 32 bits each.
    """
    d = (tl.minimum(distance, 32.0) * 72057594037927936.0).to(tl.int64).to(tl.uint64)  # 2^56
    middle = (d >> 32) * LOG2_E_LOW + (d & 0xFFFFFFFF) * LOG2_E_HIGH
    binary = (((d >> 32) * LOG2_E_HIGH) << 3) + (middle >> 29)
    n, f = binary >> 56, (binary & 0xFFFFFFFFFFFFFF) << 6
    high, low = f >> 32, f & 0xFFFFFFFF
    p = tl.zeros_like(f) + COEFFICIENTS[0]
    for i in tl.static_range(1, 10):
        middle = (p >> 32) * low + (p & 0xFFFFFFFF) * high
        p = COEFFICIENTS[i] - (((p >> 32) * high) << 2) - (middle >> 30)
    return (((p >> (n + 17)) + 1) >> 1).to(tl.int64)
