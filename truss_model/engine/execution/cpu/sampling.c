/* The next token of one row, as sampling.py defines it, in few passes over the vocabulary and without sorting it.
 *
 * top_k and top_p look at the tokens within some distance of the likeliest, as many as they need: these alone are sorted.
 */
#include "sampling.h"
#include "passes.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define IN_PROMPT (1 << 24)
#define SCALE (1 - 1e-12)
#define BLOCK 512 /* entries of the cumulated distribution that are looked at one by one */

static void insert(float *top, int64_t *ids, long *count, long most, float x, long id) {
    long at = *count < most ? (*count)++ : most - 1;
    for (; at > 0 && top[at - 1] < x; at--) top[at] = top[at - 1], ids[at] = ids[at - 1];
    top[at] = x, ids[at] = id;
}

/* The highest logits, minus `whole`. */
static void most_likely_ones(const struct sampled_row *row, float whole) {
    const float *x = row->logits;
    long most = row->most < row->vocab ? row->most : row->vocab, count = 0, i = 0;
    for (; i < most; i++) insert(row->top, row->ids, &count, most, x[i], i);
    for (; most && i < row->vocab; i += LANES) {
        if (i + LANES <= row->vocab && !any(*(const vf *)(x + i) > row->top[most - 1])) continue;
        for (long j = i; j < i + LANES && j < row->vocab; j++)
            if (x[j] > row->top[most - 1]) insert(row->top, row->ids, &count, most, x[j], j);
    }
    for (long j = 0; j < most; j++) row->top[j] -= whole;
}

/* log sum e^x. */
static float log_sum(const float *x, long n) {
    float high = highest_of(x, n);
    double sum = 0;
    long i = 0;
    while (i + LANES <= n) {
        vf part = {0};
        for (long end = i + 64 * LANES; i + LANES <= n && i < end; i += LANES)
            part += exp_float(*(const vf *)(x + i) - high);
        for (int l = 0; l < LANES; l++) sum += part[l];
    }
    for (; i < n; i++) sum += expf(x[i] - high);
    return high + logf(sum);
}

/* Penalties, bias, no end before its time, and the mask; y has room for a whole number of LANES. */
static void process(const struct sampled_row *row, float *y) {
    const float *n = row->numbers;
    memcpy(y, row->logits, row->vocab * sizeof(float));
    for (long i = 0; n[COUNTED] && i < row->vocab; i += LANES) {
        if (i + LANES <= row->vocab && !any(*(const vi *)(row->counts + i))) continue;
        for (long j = i; j < i + LANES && j < row->vocab; j++) {
            if (!row->counts[j]) continue;
            y[j] = y[j] > 0 ? y[j] / n[REPETITION] : y[j] * n[REPETITION];
            int32_t count = row->counts[j] % IN_PROMPT;
            if (count) {
                volatile float much = count * n[FREQUENCY]; /* rounded, as torch does */
                y[j] -= much + n[PRESENCE];
            }
        }
    }
    for (long i = 0; n[BIASED] && i < row->vocab; i++) y[i] += row->bias[i];
    if (row->context < n[MIN_LENGTH])
        for (long i = 0; i < row->end_count; i++) y[row->ends[i]] = -INFINITY;
    for (long i = 0; row->mask && i < row->vocab; i += 32) {
        uint32_t bits = row->mask[i / 32];
        for (long j = i; bits != 0xffffffff && j < i + 32 && j < row->vocab; j++)
            if (!(bits >> (j - i) & 1)) y[j] = -INFINITY;
    }
}

/* In the order of the ids: the first whose cumulated share exceeds the uniform number's part of the whole. */
static int64_t draw(const float *scores, long n, float highest, float least, double uniform, double *sums) {
    double whole = 0, upto = 0;
    long blocks = (n + BLOCK - 1) / BLOCK, last = 0;
    for (long b = 0; b < blocks; b++) {
        vd sum = {0};
        long end = (b + 1) * BLOCK < n ? (b + 1) * BLOCK : n, i = b * BLOCK;
        for (; i < end; i += 8) { /* behind the end the scores are -infinity */
            vh s = *(const vh *)(scores + i);
            vl kept = __builtin_convertvector(s >= least, vl);
            sum += (vd)((vl)share(scores + i, highest) & kept);
        }
        whole += sums[b] = total8(sum);
    }
    double target = uniform * SCALE * whole;
    for (long b = 0; b < blocks; upto += sums[b++]) {
        if (upto + sums[b] <= target) continue;
        double here = upto;
        for (long i = b * BLOCK; i < (b + 1) * BLOCK && i < n; i += 8) {
            vd shares = share(scores + i, highest);
            for (long l = 0; l < 8 && i + l < n; l++) {
                if (scores[i + l] < least || shares[l] == 0) continue;
                last = i + l;
                if ((here += shares[l]) > target) return last;
            }
        }
    }
    return last; /* sums of blocks and of their entries differ in the last bit */
}

struct candidate {
    uint32_t distance; /* from the highest score; the bits of a float >= 0 are in its order */
    int32_t id;
};

static float distance(struct candidate c) {
    float d;
    memcpy(&d, &c.distance, sizeof d);
    return d;
}

static long gather(const float *scores, long n, float highest, float reach, struct candidate *into) {
    long count = 0;
    for (long i = 0; i < n; i += LANES) { /* behind the end the scores are -infinity */
        if (!any(highest - *(const vf *)(scores + i) <= reach)) continue;
        for (long j = i; j < i + LANES; j++) {
            float d = highest - scores[j] + 0.0f; /* no -0, whose bits are high */
            if (!(d <= reach)) continue;
            memcpy(&into[count].distance, &d, sizeof d);
            into[count++].id = j;
        }
    }
    return count;
}

/* Nearest first; equal ones stay in their order. Three rounds by 11 bits; returns where they lie, c or other. */
static struct candidate *sort(struct candidate *c, struct candidate *other, long n) {
    if (n <= 48) {
        for (long i = 1; i < n; i++) {
            struct candidate moved = c[i];
            long at = i;
            for (; at > 0 && c[at - 1].distance > moved.distance; at--) c[at] = c[at - 1];
            c[at] = moved;
        }
        return c;
    }
    static _Thread_local uint32_t begins[3][2048];
    memset(begins, 0, sizeof begins);
    for (long i = 0; i < n; i++)
        for (int round = 0; round < 3; round++) begins[round][c[i].distance >> 11 * round & 2047]++;
    for (int round = 0; round < 3; round++) {
        uint32_t sum = 0;
        for (int b = 0; b < 2048; b++) {
            uint32_t here = begins[round][b];
            begins[round][b] = sum, sum += here;
        }
        for (long i = 0; i < n; i++) other[begins[round][c[i].distance >> 11 * round & 2047]++] = c[i];
        struct candidate *swap = c;
        c = other, other = swap;
    }
    return c;
}

static double shares_of(const struct candidate *c, long n, double *shares) {
    double sum = 0;
    for (long i = 0; i < n; i += 8) {
        vd x;
        for (long l = 0; l < 8; l++) x[l] = i + l < n ? -(double)distance(c[i + l]) : -1000.0;
        *(vd *)(shares + i) = exp_double(x);
        sum += total8(*(vd *)(shares + i));
    }
    return sum;
}

/* The same in falling order of the scores, cut by top_k, top_p and the least score. */
static int64_t draw_in_order(const float *scores, long n, float highest, float least, const struct sampled_row *row,
                             struct candidate *room, double *shares) {
    static const float reaches[] = {3, 6, 12, 24, 48, 3.4e38f};
    const long top_k = row->numbers[TOP_K] < n ? (long)row->numbers[TOP_K] : 0;
    const double top_p = row->numbers[TOP_P];
    double whole = 0, found;
    if (!top_k) {
        vd sum = {0};
        for (long i = 0; i < n; i += 8) sum += share(scores + i, highest);
        whole = total8(sum);
    }
    long count = 0, end, i;
    for (int r = 0; r < 6; r++) {
        count = gather(scores, n, highest, reaches[r], room);
        if (top_k) {
            if (count >= top_k) break;
        } else if (top_p < 1) {
            found = shares_of(room, count, shares);
            if (found > top_p * whole * (1 + 1e-9)) break;
        }
    }
    const struct candidate *c = sort(room, room + n, count);
    shares_of(c, count, shares);
    end = top_k && top_k < count ? top_k : count;
    if (top_k)
        for (i = 0; i < end; i++) whole += shares[i];
    found = 0;
    for (i = 0; i < end; found += shares[i++])
        if (i && ((top_p < 1 && found >= top_p * whole) || scores[c[i].id] < least)) break;
    double target = row->uniform * SCALE * found, upto = 0;
    for (end = i, i = 0; i < end - 1; i++)
        if ((upto += shares[i]) > target) break;
    return c[i].id;
}

/* Memory of this thread that is used again; rows of one step are all of one size. */
static void *room_for(size_t bytes) {
    static _Thread_local char *memory;
    static _Thread_local size_t size;
    if (size < bytes) {
        free(memory);
        memory = malloc(bytes);
        if (!memory) abort(); /* about a megabyte: the process is lost anyway */
        size = bytes;
    }
    return memory;
}

int64_t sample_row(const struct sampled_row *row) {
    const float *n = row->numbers;
    const long vocab = row->vocab, padded = (vocab + BLOCK - 1) / BLOCK * BLOCK;
    int drawn = n[TEMPERATURE] != 0, plain = !n[COUNTED] && !n[BIASED] && !row->mask && !(row->context < n[MIN_LENGTH]);
    float *scores = room_for(padded * (sizeof(float) + sizeof(double) + 2 * sizeof(struct candidate)));
    double *shares = (double *)(scores + padded);
    int64_t token;
    if (plain && !drawn) {
        token = most_likely(row->logits, vocab);
    } else {
        process(row, scores);
        for (long i = vocab; i < padded; i++) scores[i] = -INFINITY;
        if (!drawn) {
            token = most_likely(scores, vocab);
        } else {
            for (long i = 0; n[TEMPERATURE] != 1 && i < vocab; i++) scores[i] /= n[TEMPERATURE];
            float highest = highest_of(scores, vocab), least = highest + n[LEAST];
            if (!(highest > -INFINITY && highest < INFINITY))
                token = most_likely(scores, vocab);
            else if (n[TOP_K] > 0 || n[TOP_P] < 1)
                token = draw_in_order(scores, vocab, highest, least, row, (struct candidate *)(shares + padded), shares);
            else
                token = draw(scores, vocab, highest, least, row->uniform, shares);
        }
    }
    if (n[COUNTED]) row->counts[token]++;
    if (n[LOGPROBS] >= 0) {
        float whole = log_sum(row->logits, vocab);
        most_likely_ones(row, whole);
        *row->own = row->logits[token] - whole;
    }
    return token;
}
