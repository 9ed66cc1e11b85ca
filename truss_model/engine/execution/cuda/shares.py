# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""What the sampling kernels compare and add up: scores as integers in their order, and their shares of the whole.

A share is e^(score - highest) as a multiple of 2^-44. Sums of integers are the same in every order, so that a row's
token depends on neither the number of rows nor that of programs, and all devices find the same one. float64 would do
the same at a 64th of an A10G's or L4's pace. It is exact enough: a share is within 2^-43 of itself or within 2^-45, and
so are the ends of the tokens' parts of [0, 1) within 2^-26 of where float64 has them for 2^18 tokens in the worst case,
2^-36 in fact. A uniform number that falls between the two is what gives another token.
"""

import triton
import triton.language as tl

MOST_TOKENS = 1 << 18  # of the vocabulary: the sum of all shares has to stay below 2^63
NO_TOKEN = tl.constexpr(-(1 << 63))


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
def first_of_highest(x, ids, inside):
    """One int64 for the highest of a block and, of equal ones, the lowest id: the larger, the more so."""
    key = ordered(x + 0.0).to(tl.int64)
    return tl.max(tl.where(inside, (key << 32) | (0x7FFFFFFF - ids).to(tl.int64), NO_TOKEN), 0)


@triton.jit
def value_of(highest):
    return unordered((highest >> 32).to(tl.int32))


@triton.jit
def id_of(highest):
    return 0x7FFFFFFF - (highest & 0x7FFFFFFF)


@triton.jit
def _times(x, y):
    """x * y / 2^62, of uint64 up to 2^62, to the last bits: three products of 32 bits each."""
    middle = (x >> 32) * (y & 0xFFFFFFFF) + (x & 0xFFFFFFFF) * (y >> 32)
    return (((x >> 32) * (y >> 32)) << 2) + (middle >> 30)


@triton.jit
def shares_of(distance):
    """float32 >= 0 or infinite, below the highest score -> int64, 2^44 for 0. e^-d = 2^-n 2^-f, 0 <= f < 1."""
    near = tl.minimum(distance, 32.0)
    d = (near * 72057594037927936.0).to(tl.int64).to(tl.uint64)  # 2^56
    binary = _times(d, tl.full([], 3326628274461080623, tl.uint64)) << 1  # log2(e) 2^61
    n = binary >> 56
    f = (binary & 0xFFFFFFFFFFFFFF) << 6
    # 2^-f 2^62; the polynomial that meets it at the zeros of a Chebyshev polynomial and at 0, to 2^-44.
    p = 5873255731319 - _times(f, tl.full([], 344619392787, tl.uint64))
    p = 70123071635335 - _times(p, f)
    p = 710236144278606 - _times(p, f)
    p = 6148975070529943 - _times(p, f)
    p = 44355783162661273 - _times(p, f)
    p = 255967521083061002 - _times(p, f)
    p = 1107849223368554335 - _times(p, f)
    p = 3196577161300476459 - _times(p, f)
    p = 4611686018427387904 - _times(p, f)
    return (((p >> (n + 17)) + 1) >> 1).to(tl.int64)
