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

#define ROWS(NAME)                                                                                         \
    static void NAME(const float *x, long ldx, const void *w, long k, float *y, long ldy, long m) {        \
        for (; m >= 6; m -= 6, x += 6 * ldx, y += 6 * ldy) NAME##_6(x, ldx, w, k, y, ldy);                 \
        switch (m) {                                                                                       \
        case 1: NAME##_1(x, ldx, w, k, y, ldy); break;                                                     \
        case 2: NAME##_2(x, ldx, w, k, y, ldy); break;                                                     \
        case 3: NAME##_3(x, ldx, w, k, y, ldy); break;                                                     \
        case 4: NAME##_4(x, ldx, w, k, y, ldy); break;                                                     \
        case 5: NAME##_5(x, ldx, w, k, y, ldy); break;                                                     \
        }                                                                                                  \
    }

MICRO_F32(1) MICRO_F32(2) MICRO_F32(3) MICRO_F32(4) MICRO_F32(5) MICRO_F32(6) ROWS(tile_f32)
MICRO_BF16(1) MICRO_BF16(2) MICRO_BF16(3) MICRO_BF16(4) MICRO_BF16(5) MICRO_BF16(6) ROWS(tile_bf16)
