/* A token drawn from scores by one uniform number, as torch_sample's float64 does: scores are whole blocks.
 *
 * Sums over all tokens are taken in float first, QUICK of them wrong at most; where that could decide, in double. */
#pragma once
#include "scores.h"
#include <string.h>

#define SCALE (1 - 1e-12)
#define QUICK (BLOCK / LANES * 0x1p-24 + 1e-6) /* the additions of a lane, and the last bits of exp_float */

/* The shares e^(score - highest) of the scores from `least` on, and their sums by block. */
static double quick_sums(const float *scores, long blocks, float highest, float least, float *shares, double *sums) {
    double whole = 0;
    for (long b = 0; b < blocks; b++) {
        vf sum = {0};
        for (long i = b * BLOCK; i < (b + 1) * BLOCK; i += LANES) {
            vf s = *(const vf *)(scores + i);
            vf share = (vf)((vi)exp_float(s - highest) & (s >= least));
            *(vf *)(shares + i) = share;
            sum += share;
        }
        whole += sums[b] = float_total(sum);
    }
    return whole;
}

static double exact_sums(const float *scores, long blocks, float highest, float least, double *sums) {
    double whole = 0;
    for (long b = 0; b < blocks; b++) {
        vd sum = {0};
        for (long i = b * BLOCK; i < (b + 1) * BLOCK; i += HALF) {
            vh s = *(const vh *)(scores + i);
            vl kept = __builtin_convertvector(s >= least, vl);
            sum += (vd)((vl)share(scores + i, highest) & kept);
        }
        whole += sums[b] = double_total(sum);
    }
    return whole;
}

/* In the order of the ids: the first whose cumulated share exceeds the target, else the last with a share. `margin` says
 * by how much the target lies within that token's part. */
static int64_t find(const float *scores, long blocks, float highest, float least, double target, const double *sums,
                    double *margin) {
    double upto = 0;
    int64_t last = 0;
    *margin = -1;
    for (long b = 0; b < blocks; upto += sums[b++]) {
        if (upto + sums[b] <= target) continue;
        double here = upto;
        for (long i = b * BLOCK; i < (b + 1) * BLOCK; i += HALF) {
            vd shares = share(scores + i, highest);
            for (long l = 0; l < HALF; l++) {
                if (scores[i + l] < least || shares[l] == 0) continue;
                last = i + l;
                if (here + shares[l] > target) {
                    *margin = fmin(here + shares[l] - target, target - here);
                    return last;
                }
                here += shares[l];
            }
        }
    }
    return last; /* sums of blocks and of their entries differ in the last bit */
}

static int64_t draw(const float *scores, long blocks, float highest, float least, double uniform, float *shares,
                    double *sums) {
    double margin, whole = quick_sums(scores, blocks, highest, least, shares, sums);
    int64_t token = find(scores, blocks, highest, least, uniform * SCALE * whole, sums, &margin);
    if (margin > QUICK * whole) return token;
    whole = exact_sums(scores, blocks, highest, least, sums);
    return find(scores, blocks, highest, least, uniform * SCALE * whole, sums, &margin);
}

struct candidate {
    uint32_t order; /* lower for a higher score */
    int32_t id;
};

static uint32_t order_of(float score) {
    uint32_t bits;
    score += 0.0f; /* no -0, which is another number by its bits */
    memcpy(&bits, &score, sizeof bits);
    return bits >> 31 ? bits : bits ^ 0x7fffffff;
}

static float score_of(struct candidate c) {
    const uint32_t bits = c.order >> 31 ? c.order : c.order ^ 0x7fffffff;
    float score;
    memcpy(&score, &bits, sizeof score);
    return score;
}

/* The tokens that are not farther than `reach`. */
static long gather(const float *scores, long blocks, float highest, const float *high, float reach,
                   struct candidate *into) {
    long count = 0;
    for (long b = 0; b < blocks; b++) {
        if (!(highest - high[b] <= reach)) continue;
        for (long i = b * BLOCK; i < (b + 1) * BLOCK; i += LANES)
            for (uint32_t near = lanes_of(highest - *(const vf *)(scores + i) <= reach); near; near &= near - 1) {
                long id = i + __builtin_ctz(near);
                into[count].order = order_of(scores[id]);
                into[count++].id = id;
            }
    }
    return count;
}

/* The sum of the shares of all others. */
static double beyond(const float *scores, const float *shares, const double *sums, long blocks, float highest,
                     const float *high, float reach) {
    double far = 0;
    for (long b = 0; b < blocks; b++) {
        if (!(highest - high[b] <= reach)) {
            far += sums[b];
            continue;
        }
        vf sum = {0};
        for (long i = b * BLOCK; i < (b + 1) * BLOCK; i += LANES)
            sum += (vf)((vi)(*(const vf *)(shares + i)) & ~(highest - *(const vf *)(scores + i) <= reach));
        far += float_total(sum);
    }
    return far;
}

/* The highest first; equal ones stay in their order. Three rounds by 11 bits; returns where they lie, c or other. */
static struct candidate *sort(struct candidate *c, struct candidate *other, long n) {
    if (n <= 48) {
        for (long i = 1; i < n; i++) {
            struct candidate moved = c[i];
            long at = i;
            for (; at > 0 && c[at - 1].order > moved.order; at--) c[at] = c[at - 1];
            c[at] = moved;
        }
        return c;
    }
    static _Thread_local uint32_t begins[3][2048];
    memset(begins, 0, sizeof begins);
    for (long i = 0; i < n; i++)
        for (int round = 0; round < 3; round++) begins[round][c[i].order >> 11 * round & 2047]++;
    for (int round = 0; round < 3; round++) {
        uint32_t sum = 0;
        for (int b = 0; b < 2048; b++) {
            uint32_t here = begins[round][b];
            begins[round][b] = sum, sum += here;
        }
        for (long i = 0; i < n; i++) other[begins[round][c[i].order >> 11 * round & 2047]++] = c[i];
        struct candidate *swap = c;
        c = other, other = swap;
    }
    return c;
}

/* Their sum is taken one by one, as torch does. */
static double shares_of(const struct candidate *c, long n, float highest, double *shares) {
    double sum = 0;
    for (long i = 0; i < n; i += HALF) {
        vd x;
        for (long l = 0; l < HALF; l++) x[l] = i + l < n ? (double)(score_of(c[i + l]) - highest) : -1000.0;
        *(vd *)(shares + i) = exp_double(x);
        for (long l = 0; l < HALF; l++) sum += shares[i + l];
    }
    return sum;
}

struct room {
    double *sums, *ordered; /* of blocks; of sorted candidates */
    float *scores, *shares, *high;
    struct candidate *some; /* twice as many as scores */
};

/* In falling order of the scores, cut by top_k, top_p and the least score.
 *
 * Where the sum of the shares beyond the sorted ones could decide where top_p cuts, it is taken in double; where its last
 * bits could, which is so for equal scores with nearly all of the whole, everything is sorted, as the definition does. */
static int64_t draw_in_order(const struct sampled_row *row, float highest, float least, const struct room *room) {
    static const float reaches[] = {2, 4, 6, 8, 10, 12, 16, 24, 48, 3.4e38f};
    const long last = sizeof reaches / sizeof *reaches - 1, blocks = blocks_of(row->vocab);
    const long top_k = row->numbers[TOP_K] < row->vocab ? (long)row->numbers[TOP_K] : 0;
    const double top_p = row->numbers[TOP_P], last_bits = blocks * BLOCK * 0x1p-53;
    const float *scores = room->scores, *high = room->high;
    struct candidate *some = room->some, *other = some + blocks * BLOCK;
    double whole = 0, far = 0, error = 0, found;
    long count = 0, i, r = 0;
    if (!top_k) whole = quick_sums(scores, blocks, highest, -INFINITY, room->shares, room->sums);
    for (;; r++) {
        if (top_k)
            count = gather(scores, blocks, highest, high, reaches[r], some);
        else
            far = beyond(scores, room->shares, room->sums, blocks, highest, high, reaches[r]);
        if (r == last || (top_k ? count >= top_k : far + 4 * QUICK * whole < (1 - top_p) * whole)) break;
    }
    if (!top_k) count = gather(scores, blocks, highest, high, reaches[r], some);
    const struct candidate *c = sort(some, other, count);
    if (top_k && top_k < count) count = top_k;
    whole = shares_of(c, count, highest, room->ordered) + far;
    if (!top_k && r < last) error = QUICK * far + last_bits * whole;
    for (int exact = 0;; exact = 1) {
        int unsure = 0;
        found = 0;
        for (i = 0; i < count; found += room->ordered[i++]) {
            unsure |= fabs(found - top_p * whole) <= error;
            if (i && ((top_p < 1 && found >= top_p * whole) || score_of(c[i]) < least)) break;
        }
        if (!unsure || !error) break;
        if (!exact) {
            whole = exact_sums(scores, blocks, highest, -INFINITY, room->sums), error = last_bits * whole;
        } else {
            count = gather(scores, blocks, highest, high, reaches[last], some);
            c = sort(some, other, count);
            whole = shares_of(c, count, highest, room->ordered), error = 0;
        }
    }
    double target = row->uniform * SCALE * found, upto = 0;
    const long kept = i;
    for (i = 0; i < kept - 1; i++)
        if ((upto += room->ordered[i]) > target) break;
    return c[i].id;
}
