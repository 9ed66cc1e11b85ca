/* Attention of a block of query tokens over the pages of one sequence and one KV head. */
#pragma once
#include <math.h>
#include "tiles.h"

#define PAGE 16
#define MASKED -1e30f /* -ffast-math knows no infinity */
#define SPAN 128      /* keys between two updates of the running maximum */

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

/* What shapes the scores: scale times q k; cap 0: none, else cap * tanh(score / cap); window 0: none; sinks[head]: one
 * more score of a query head, whose value is zero, or null. */
struct terms {
    float scale, cap;
    long window;
    const float *sinks;
};

/* Fetches a page of one head: pages lie anywhere, so nothing foresees the next one. */
static inline void ahead(const float *page, long d) {
    for (long i = 0; i < d * PAGE; i += 16) __builtin_prefetch(page + i);
}

/* One KV head, query tokens at positions first .. first + count - 1 of one sequence, group query heads each.
 * out is bfloat16 if rounded. Online softmax over spans of keys (Milakov and Gimelshein 2018, arXiv 1805.02867). */
static void attend_block(const float *qkv, long ldq, void *out, long ldo, int rounded, const float *keys,
                         const float *values, const int32_t *table, long first, long count, long hk, long d,
                         long group, long head, const struct terms *terms, float *buffer) {
    const long window = terms->window;
    const float cap = terms->cap;
    long rows = count * group, last = first + count - 1;
    float *q = buffer, *sum = q + rows * d, *scores = sum + rows * d, *top = scores + rows * SPAN, *total = top + rows;
    for (long r = 0; r < rows; r++) {
        const float *from = qkv + (r / group) * ldq + (head * group + r % group) * d;
        for (long j = 0; j < d; j++) q[r * d + j] = from[j] * terms->scale;
        top[r] = MASKED;
        total[r] = 0;
    }
    memset(sum, 0, rows * d * sizeof(float));
    long oldest = window > 0 && first - window + 1 > 0 ? first - window + 1 : 0;
    for (long at = oldest / PAGE * PAGE; at <= last; at += SPAN) {
        long keys_here = last + 1 - at < SPAN ? last + 1 - at : SPAN, pages = (keys_here + PAGE - 1) / PAGE;
        for (long p = 0; p < pages; p++) {
            const float *key = keys + ((long)table[at / PAGE + p] * hk + head) * d * PAGE;
            if (at + (p + 1) * PAGE <= last) ahead(keys + ((long)table[at / PAGE + p + 1] * hk + head) * d * PAGE, d);
            ahead(values + ((long)table[at / PAGE + p] * hk + head) * d * PAGE, d);
            tile_f32(q, d, key, d, scores + p * PAGE, SPAN, rows);
        }
        for (long r = 0; r < rows; r++) {
            float *s = scores + r * SPAN, best = top[r], added = 0;
            long position = first + r / group, high = position - at + 1, low = window > 0 ? position - window + 1 - at : 0;
            if (high > pages * PAGE) high = pages * PAGE;
            if (high < 0) high = 0;
            if (low < 0) low = 0;
            if (low > high) low = high;
            if (cap > 0)
                for (long j = low; j < high; j++) s[j] = cap * tanhf(s[j] / cap);
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
        float rest = 0, shrink = 1, inverse;
        if (terms->sinks) { /* it may be higher than every score */
            float sink = terms->sinks[head * group + r % group], best = sink > top[r] ? sink : top[r];
            shrink = expf(top[r] - best);
            rest = expf(sink - best);
        }
        inverse = shrink / (total[r] * shrink + rest);
        for (long j = 0; j < d; j++) sum[r * d + j] *= inverse;
        put(sum + r * d, out, (r / group) * ldo + (head * group + r % group) * d, d, rounded);
    }
}
