/* Passes over the vocabulary: vectors, exponentials, maxima. For sampling.c alone, which is not compiled with -ffast-math. */
#pragma once
#include <math.h>
#include <stdint.h>

#define LANES 16

typedef float vf __attribute__((vector_size(64), aligned(4)));
typedef int32_t vi __attribute__((vector_size(64), aligned(4)));
typedef int64_t vq __attribute__((vector_size(16)));
typedef float vh __attribute__((vector_size(32), aligned(4)));
typedef double vd __attribute__((vector_size(64), aligned(8)));
typedef int64_t vl __attribute__((vector_size(64), aligned(8)));

static inline int any(vi bits) {
    union {
        vi all;
        vq quarters[4];
    } of = {bits};
    vq joined = (of.quarters[0] | of.quarters[1]) | (of.quarters[2] | of.quarters[3]);
    return (joined[0] | joined[1]) != 0;
}

/* e^x for x <= 0 to the last bits of a double, 0 below -700. 2^k e^r with |r| <= log(2) / 2, e^r by its series. */
static inline vd exp_double(vd x) {
    const double shift = 0x1.8p52; /* k is in the last bits of x / log(2) + shift */
    vl tiny = x < -700.0;
    x = (vd)((vl)x & ~tiny);
    vd moved = x * 0x1.71547652b82fep0 + shift, k = moved - shift;
    vd r = x - k * 0x1.62e42fefa3800p-1 - k * 0x1.ef35793c76730p-45;
    vd p = r * (1.0 / 6227020800) + 1.0 / 479001600;
    p = p * r + 1.0 / 39916800;
    p = p * r + 1.0 / 3628800;
    p = p * r + 1.0 / 362880;
    p = p * r + 1.0 / 40320;
    p = p * r + 1.0 / 5040;
    p = p * r + 1.0 / 720;
    p = p * r + 1.0 / 120;
    p = p * r + 1.0 / 24;
    p = p * r + 1.0 / 6;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    return (vd)(((vl)p + ((vl)moved << 52)) & ~tiny);
}

/* The same in float, 0 below -87. */
static inline vf exp_float(vf x) {
    const float shift = 0x1.8p23f;
    vi tiny = x < -87.0f;
    x = (vf)((vi)x & ~tiny);
    vf moved = x * 0x1.715476p0f + shift, k = moved - shift;
    vf r = x - k * 0x1.62e400p-1f - k * 0x1.7f7d1cp-20f;
    vf p = r * (1.0f / 5040) + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return (vf)(((vi)p + ((vi)moved << 23)) & ~tiny);
}

static inline vd share(const float *scores, float highest) {
    return exp_double(__builtin_convertvector(*(const vh *)scores - highest, vd));
}

static inline double total8(vd sum) {
    return ((sum[0] + sum[4]) + (sum[1] + sum[5])) + ((sum[2] + sum[6]) + (sum[3] + sum[7]));
}

static float highest_of(const float *x, long n) {
    vf high = {0};
    high = high - INFINITY;
    long i = 0;
    for (; i + LANES <= n; i += LANES) {
        vf v = *(const vf *)(x + i);
        vi more = v > high;
        high = (vf)(((vi)v & more) | ((vi)high & ~more));
    }
    float best = -INFINITY;
    for (int l = 0; l < LANES; l++)
        if (high[l] > best) best = high[l];
    for (; i < n; i++)
        if (x[i] > best) best = x[i];
    return best;
}

/* The first of the highest; 0 if there is none. */
int64_t most_likely(const float *x, long n) {
    float best = highest_of(x, n);
    long i = 0;
    for (; i + LANES <= n; i += LANES)
        if (any(*(const vf *)(x + i) == best)) break;
    for (; i < n; i++)
        if (x[i] == best) return i;
    return 0;
}
