/* CPU kernels of the engine: linear layers over packed weights, RMS norm, SiLU gate, rotary + KV append, paged attention.
 *
 * Plain C with GCC/Clang vector extensions, so that one source serves AVX2, AVX-512 and NEON; built by build.py for the
 * machine it runs on. Each function is tested against a torch twin. Activations and the KV cache are float32.
 *
 * Packed weights, tiles of 16 outputs: float32 [N/16][K][16]; bfloat16 [N/16][K/2][16][2], so that one 32-bit lane holds
 * two neighbours of K and unpacking is a shift and a mask. Products and sums are float32 either way.
 *
 * A KV page holds 16 tokens of one layer and one KV head: keys transposed [D][16], values [16][D]. Scores of a page are
 * then the same outer product as a linear tile. -ffast-math is on: masked scores are a large finite number, not -inf.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
#define VL 16
#else
#define VL 8
#endif
#define TILE 16
#define NV (TILE / VL)
#define PAGE 16
#define MASKED -1e30f
#define Q_BLOCK 8   /* query tokens a task */
#define SPAN 128    /* keys between two updates of the running maximum */

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

/* y[m][n] = x[m][k] * W^T; n a multiple of 16, k even. Rows go in blocks that stay in the second-level cache. */
void linear(const float *x, const void *w, float *y, long m, long k, long n, int bf16) {
    long tiles = n / TILE, block = m <= 96 ? m : 48;
    #pragma omp parallel
    for (long at = 0; at < m; at += block) {
        long rows = m - at < block ? m - at : block;
        #pragma omp for schedule(static) nowait
        for (long t = 0; t < tiles; t++) {
            const char *tile = (const char *)w + t * k * TILE * (bf16 ? 2 : 4);
            (bf16 ? tile_bf16 : tile_f32)(x + at * k, k, tile, k, y + at * n + t * TILE, n, rows);
        }
    }
}

/* y = x / rms(x) * weight, rows of n. */
void rms_norm(const float *x, const float *weight, float *y, long m, long n, float eps) {
    #pragma omp parallel for schedule(static) if (m * n > 16384)
    for (long r = 0; r < m; r++) {
        const float *row = x + r * n;
        float sum = 0;
        for (long i = 0; i < n; i++) sum += row[i] * row[i];
        float scale = 1.0f / sqrtf(sum / n + eps);
        for (long i = 0; i < n; i++) y[r * n + i] = weight[i] * (row[i] * scale);
    }
}

/* y[m][n] = silu(gate) * up for rows [gate n | up n]. */
void silu_mul(const float *gate_up, float *y, long m, long n) {
    #pragma omp parallel for schedule(static) if (m * n > 8192)
    for (long r = 0; r < m; r++) {
        const float *gate = gate_up + r * 2 * n, *up = gate + n;
        for (long i = 0; i < n; i++) y[r * n + i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
    }
}

static void rotate(float *x, const float *cos, const float *sin, long d) {
    for (long i = 0, half = d / 2; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cos[i] - b * sin[i];
        x[i + half] = b * cos[i + half] + a * sin[i + half];
    }
}

/* Rotates q and k of qkv [t][(hq + 2 hk) * d] in place and puts k and v of token i into slot slots[i] of the pages.
 * keys [pages][hk][d][16], values [pages][hk][16][d]; slot = page * 16 + offset; cos, sin [t][d]. */
void rope_append(float *qkv, const float *cos, const float *sin, const int64_t *slots, float *keys, float *values,
                 long t, long hq, long hk, long d) {
    #pragma omp parallel for schedule(static) if (t > 4)
    for (long i = 0; i < t; i++) {
        float *row = qkv + i * (hq + 2 * hk) * d;
        for (long h = 0; h < hq + hk; h++) rotate(row + h * d, cos + i * d, sin + i * d, d);
        long page = slots[i] / PAGE, offset = slots[i] % PAGE;
        for (long h = 0; h < hk; h++) {
            const float *k = row + (hq + h) * d, *v = row + (hq + hk + h) * d;
            float *key = keys + (page * hk + h) * d * PAGE + offset;
            for (long j = 0; j < d; j++) key[j * PAGE] = k[j];
            memcpy(values + ((page * hk + h) * PAGE + offset) * d, v, d * sizeof(float));
        }
    }
}

/* out[rows][d] += p[rows][16 of SPAN] * value[16][d]; d a multiple of 16. */
#define MICRO_PV(M)                                                                                        \
    static void weigh_##M(const float *p, const float *value, float *out, long d, long used) {             \
        for (long c = 0; c < d; c += TILE) {                                                               \
            vf acc[M][NV];                                                                                 \
            for (int r = 0; r < M; r++)                                                                    \
                for (int v = 0; v < NV; v++) acc[r][v] = *(vf *)(out + r * d + c + v * VL);                \
            for (long j = 0; j < used; j++)                                                                \
                for (int v = 0; v < NV; v++) {                                                             \
                    vf b = *(const vf *)(value + j * d + c + v * VL);                                      \
                    for (int r = 0; r < M; r++) acc[r][v] += b * p[r * SPAN + j];                          \
                }                                                                                          \
            for (int r = 0; r < M; r++)                                                                    \
                for (int v = 0; v < NV; v++) *(vf *)(out + r * d + c + v * VL) = acc[r][v];                \
        }                                                                                                  \
    }
MICRO_PV(1) MICRO_PV(2) MICRO_PV(3) MICRO_PV(4) MICRO_PV(5) MICRO_PV(6)

static void weigh(const float *p, const float *value, float *out, long d, long used, long m) {
    for (; m >= 6; m -= 6, p += 6 * SPAN, out += 6 * d) weigh_6(p, value, out, d, used);
    switch (m) {
    case 1: weigh_1(p, value, out, d, used); break;
    case 2: weigh_2(p, value, out, d, used); break;
    case 3: weigh_3(p, value, out, d, used); break;
    case 4: weigh_4(p, value, out, d, used); break;
    case 5: weigh_5(p, value, out, d, used); break;
    }
}

/* One KV head, query tokens at positions first .. first + count - 1 of one sequence, group query heads each.
 * Online softmax over spans of keys (Milakov and Gimelshein 2018, arXiv 1805.02867). */
static void attend_block(const float *qkv, long ldq, float *out, long ldo, const float *keys, const float *values,
                         const int32_t *table, long first, long count, long hk, long d, long group, long head,
                         float scale, long window, float *buffer) {
    long rows = count * group, last = first + count - 1;
    float *q = buffer, *sum = q + rows * d, *scores = sum + rows * d, *top = scores + rows * SPAN, *total = top + rows;
    for (long r = 0; r < rows; r++) {
        const float *from = qkv + (r / group) * ldq + (head * group + r % group) * d;
        for (long j = 0; j < d; j++) q[r * d + j] = from[j] * scale;
        top[r] = MASKED;
        total[r] = 0;
    }
    memset(sum, 0, rows * d * sizeof(float));
    long oldest = window > 0 && first - window + 1 > 0 ? first - window + 1 : 0;
    for (long at = oldest / PAGE * PAGE; at <= last; at += SPAN) {
        long keys_here = last + 1 - at < SPAN ? last + 1 - at : SPAN, pages = (keys_here + PAGE - 1) / PAGE;
        for (long p = 0; p < pages; p++) {
            const float *key = keys + ((long)table[at / PAGE + p] * hk + head) * d * PAGE;
            tile_f32(q, d, key, d, scores + p * PAGE, SPAN, rows);
        }
        for (long r = 0; r < rows; r++) {
            float *s = scores + r * SPAN, best = top[r], added = 0;
            long position = first + r / group, high = position - at + 1, low = window > 0 ? position - window + 1 - at : 0;
            if (high > pages * PAGE) high = pages * PAGE;
            if (high < 0) high = 0;
            if (low < 0) low = 0;
            if (low > high) low = high;
            for (long j = 0; j < low; j++) s[j] = MASKED;
            for (long j = high; j < pages * PAGE; j++) s[j] = MASKED;
            for (long j = low; j < high; j++) best = s[j] > best ? s[j] : best;
            float shrink = expf(top[r] - best);
            for (long j = 0; j < pages * PAGE; j++) s[j] = expf(s[j] - best);
            for (long j = 0; j < low; j++) s[j] = 0;
            for (long j = high; j < pages * PAGE; j++) s[j] = 0;
            for (long j = low; j < high; j++) added += s[j];
            total[r] = total[r] * shrink + added;
            if (best != top[r])
                for (long j = 0; j < d; j++) sum[r * d + j] *= shrink;
            top[r] = best;
        }
        for (long p = 0; p < pages; p++) {
            long used = keys_here - p * PAGE < PAGE ? keys_here - p * PAGE : PAGE;
            const float *value = values + ((long)table[at / PAGE + p] * hk + head) * PAGE * d;
            weigh(scores + p * PAGE, value, sum, d, used, rows);
        }
    }
    for (long r = 0; r < rows; r++) {
        float *to = out + (r / group) * ldo + (head * group + r % group) * d, inverse = 1.0f / total[r];
        for (long j = 0; j < d; j++) to[j] = sum[r * d + j] * inverse;
    }
}

/* Causal attention of every sequence of a step over its pages. Sequence s owns query tokens starts[s] .. starts[s+1]-1,
 * which are its last ones: contexts[s] counts all its tokens, these included. tables [sequences][width] of page numbers.
 * window 0: none. Returns 0, or -1 if memory ran out. */
int paged_attention(const float *qkv, float *out, const float *keys, const float *values, const int32_t *tables,
                    const int32_t *starts, const int32_t *contexts, long sequences, long width, long hq, long hk, long d,
                    float scale, long window) {
    long group = hq / hk, rows = Q_BLOCK * group, blocks = 0, failed = 0;
    for (long s = 0; s < sequences; s++) blocks += (starts[s + 1] - starts[s] + Q_BLOCK - 1) / Q_BLOCK;
    int32_t *owner = malloc(2 * blocks * sizeof(int32_t)), *begin = owner + blocks;
    if (!owner) return -1;
    for (long s = 0, b = 0; s < sequences; s++)
        for (long at = starts[s]; at < starts[s + 1]; at += Q_BLOCK) owner[b] = s, begin[b++] = at;
    #pragma omp parallel
    {
        float *buffer = malloc((rows * (2 * d + SPAN) + 2 * rows) * sizeof(float));
        if (!buffer) failed = 1;
        #pragma omp for schedule(dynamic)
        for (long task = 0; task < blocks * hk; task++) {
            if (!buffer) continue;
            long b = task / hk, s = owner[b], at = begin[b], count = starts[s + 1] - at;
            if (count > Q_BLOCK) count = Q_BLOCK;
            attend_block(qkv + at * (hq + 2 * hk) * d, (hq + 2 * hk) * d, out + at * hq * d, hq * d, keys, values,
                         tables + s * width, contexts[s] - (starts[s + 1] - at), count, hk, d, group, task % hk, scale,
                         window, buffer);
        }
        free(buffer);
    }
    free(owner);
    return failed ? -1 : 0;
}
