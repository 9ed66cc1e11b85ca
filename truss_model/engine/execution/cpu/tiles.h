/* Register-blocked products: up to six rows of x times one tile of 16 outputs. GCC/Clang vector extensions. */
#pragma once
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define VL 16
#else
#define VL 8
#endif
#define TILE 16
#define NV (TILE / VL)

typedef float vf __attribute__((vector_size(VL * 4), aligned(4), may_alias));
typedef uint32_t vu __attribute__((vector_size(VL * 4), aligned(4), may_alias));

/* y[M][TILE] = x[M][k] * tile, M known to the compiler so that the sums stay in registers. */
#define MICRO_F32(M)                                                                                       \
    static void tile_f32_##M(const float *x, long ldx, const void *w, long k, float *y, long ldy) {        \
        vf acc[M][NV];                                                                                     \
        memset(acc, 0, sizeof acc);                                                                        \
        for (long i = 0; i < k; i++) {                                                                     \
            const vf *row = (const vf *)((const float *)w + i * TILE);                                     \
            vf b[NV];                                                                                      \
            for (int v = 0; v < NV; v++) b[v] = row[v];                                                    \
            for (int r = 0; r < M; r++)                                                                    \
                for (int v = 0; v < NV; v++) acc[r][v] += b[v] * x[r * ldx + i];                           \
        }                                                                                                  \
        for (int r = 0; r < M; r++)                                                                        \
            for (int v = 0; v < NV; v++) *(vf *)(y + r * ldy + v * VL) = acc[r][v];                        \
    }

#define MICRO_BF16(M)                                                                                      \
    static void tile_bf16_##M(const float *x, long ldx, const void *w, long k, float *y, long ldy) {       \
        vf acc[M][NV];                                                                                     \
        memset(acc, 0, sizeof acc);                                                                        \
        for (long i = 0; i < k; i += 2) {                                                                  \
            const vu *row = (const vu *)((const uint32_t *)w + i / 2 * TILE);                              \
            vf even[NV], odd[NV];                                                                          \
            for (int v = 0; v < NV; v++) even[v] = (vf)(row[v] << 16), odd[v] = (vf)(row[v] & 0xffff0000u); \
            for (int r = 0; r < M; r++)                                                                    \
                for (int v = 0; v < NV; v++)                                                               \
                    acc[r][v] += even[v] * x[r * ldx + i] + odd[v] * x[r * ldx + i + 1];                   \
        }                                                                                                  \
        for (int r = 0; r < M; r++)                                                                        \
            for (int v = 0; v < NV; v++) *(vf *)(y + r * ldy + v * VL) = acc[r][v];                        \
    }

#define ROWS(NAME, X)                                                                                      \
    static void NAME(const X *x, long ldx, const void *w, long k, float *y, long ldy, long m) {            \
        for (long blocks = (m + 5) / 6, now; blocks > 0; blocks--, m -= now, x += now * ldx, y += now * ldy) { \
            now = (m + blocks - 1) / blocks;                                                               \
            switch (now) {                                                                                 \
            case 1: NAME##_1(x, ldx, w, k, y, ldy); break;                                                 \
            case 2: NAME##_2(x, ldx, w, k, y, ldy); break;                                                 \
            case 3: NAME##_3(x, ldx, w, k, y, ldy); break;                                                 \
            case 4: NAME##_4(x, ldx, w, k, y, ldy); break;                                                 \
            case 5: NAME##_5(x, ldx, w, k, y, ldy); break;                                                 \
            case 6: NAME##_6(x, ldx, w, k, y, ldy); break;                                                 \
            }                                                                                              \
        }                                                                                                  \
    }

MICRO_F32(1) MICRO_F32(2) MICRO_F32(3) MICRO_F32(4) MICRO_F32(5) MICRO_F32(6) ROWS(tile_f32, float)
MICRO_BF16(1) MICRO_BF16(2) MICRO_BF16(3) MICRO_BF16(4) MICRO_BF16(5) MICRO_BF16(6) ROWS(tile_bf16, float)

#if !defined(__AVX512BF16__) || !defined(__AVX512VL__)
#define DOT_BF16 0
#else
#include <immintrin.h>
#define DOT_BF16 1

static inline __m512bh pair(const uint16_t *x) {
    int two;
    memcpy(&two, x, sizeof two);
    return (__m512bh)_mm512_set1_epi32(two);
}

/* y[M][T * TILE] = x[M][k] * T tiles, in products of two bfloat16 whose sums are float32. Two tiles share what is loaded of
 * x; one chain of sums would wait for itself where M is small, so there are two for any M: what comes out for a row does not
 * depend on the rows beside it. */
#define MICRO_DOT(M, T)                                                                                    \
    static void tile_dot_##T##_##M(const uint16_t *x, long ldx, const void *w, long k, float *y, long ldy) { \
        __m512 acc[M][2][T];                                                                               \
        for (int r = 0; r < M; r++)                                                                        \
            for (int c = 0; c < 2; c++)                                                                    \
                for (int t = 0; t < T; t++) acc[r][c][t] = _mm512_setzero_ps();                            \
        for (long i = 0; i < k; i += 4)                                                                    \
            for (int c = 0; c < 2 && i + 2 * c < k; c++) {                                                 \
                __m512bh b[T];                                                                             \
                for (int t = 0; t < T; t++)                                                                \
                    b[t] = (__m512bh)_mm512_loadu_si512((const uint16_t *)w + (t * k + i + 2 * c) * TILE);  \
                for (int r = 0; r < M; r++) {                                                              \
                    __m512bh a = pair(x + r * ldx + i + 2 * c);                                            \
                    for (int t = 0; t < T; t++) acc[r][c][t] = _mm512_dpbf16_ps(acc[r][c][t], b[t], a);    \
                }                                                                                          \
            }                                                                                              \
        for (int r = 0; r < M; r++)                                                                        \
            for (int t = 0; t < T; t++)                                                                    \
                _mm512_storeu_ps(y + r * ldy + t * TILE, _mm512_add_ps(acc[r][0][t], acc[r][1][t]));       \
    }

#define MICRO_DOTS(T) \
    MICRO_DOT(1, T) MICRO_DOT(2, T) MICRO_DOT(3, T) MICRO_DOT(4, T) MICRO_DOT(5, T) MICRO_DOT(6, T)
MICRO_DOTS(1) MICRO_DOTS(2) ROWS(tile_dot_1, uint16_t) ROWS(tile_dot_2, uint16_t)

/* To the nearest, even at a tie. */
static void round_bf16(const float *x, uint16_t *y, long n) {
    long i = 0;
    for (; i + 16 <= n; i += 16) {
        __m256bh rounded = _mm512_cvtneps_pbh(_mm512_loadu_ps(x + i));
        memcpy(y + i, &rounded, sizeof rounded);
    }
    for (; i < n; i++) {
        __m128bh rounded = _mm_cvtneps_pbh(_mm_set_ss(x[i]));
        memcpy(y + i, &rounded, sizeof *y);
    }
}
#endif

/* Item i of an array of bfloat16, if rounded, or float. */
static inline void *at_item(const void *y, long i, int rounded) { return (char *)y + i * (rounded ? 2 : 4); }

/* x[n] to y[at ..], rounded to bfloat16 or as it is. */
static inline void put(const float *x, void *y, long at, long n, int rounded) {
#if DOT_BF16
    if (rounded) {
        round_bf16(x, at_item(y, at, 1), n);
        return;
    }
#endif
    memcpy(at_item(y, at, 0), x, n * sizeof *x);
}
