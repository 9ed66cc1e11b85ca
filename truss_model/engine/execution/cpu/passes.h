/* Passes over the vocabulary: vectors, exponentials, maxima. For sampling.c alone, which is not compiled with -ffast-math. */
#pragma once
#include <math.h>
#include <stdint.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

/* Bytes of a register: of wider vectors some compilers compare lane by lane. */
#if defined(__AVX512F__)
#define WIDTH 64
#elif defined(__AVX2__)
#define WIDTH 32
#else
#define WIDTH 16
#endif
#define LANES (WIDTH / 4)
#define HALF (LANES / 2)

typedef float vf __attribute__((vector_size(WIDTH), aligned(4)));
typedef int32_t vi __attribute__((vector_size(WIDTH), aligned(4)));
typedef float vh __attribute__((vector_size(WIDTH / 2), aligned(4)));
typedef double vd __attribute__((vector_size(WIDTH), aligned(8)));
typedef int64_t vl __attribute__((vector_size(WIDTH), aligned(8)));

/* A bit for each lane; lanes are 0 or -1. */
static inline uint32_t lanes_of(vi lanes) {
#if defined(__AVX512F__)
    return _mm512_test_epi32_mask((__m512i)lanes, (__m512i)lanes);
#elif defined(__AVX2__)
    return _mm256_movemask_ps((__m256)lanes);
#else
    uint32_t bits = 0;
    for (int l = 0; l < LANES; l++) bits |= (uint32_t)(lanes[l] & 1) << l;
    return bits;
#endif
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

static inline double double_total(vd sum) {
    double total = 0;
    for (int l = 0; l < HALF; l++) total += sum[l];
    return total;
}

static inline double float_total(vf sum) {
    double total = 0;
    for (int l = 0; l < LANES; l++) total += sum[l];
    return total;
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
        if (lanes_of(*(const vf *)(x + i) == best)) break;
    for (; i < n; i++)
        if (x[i] == best) return i;
    return 0;
}
