/* The next token of one row, as sampling.py defines it, in few passes over the vocabulary and without sorting it. */
#include "sampling.h"
#include "draw.h"
#include "scores.h"
#include <stdlib.h>

static void insert(float *top, int64_t *ids, long *count, long most, float x, long id) {
    long at = *count < most ? (*count)++ : most - 1;
    for (; at > 0 && top[at - 1] < x; at--) top[at] = top[at - 1], ids[at] = ids[at - 1];
    top[at] = x, ids[at] = id;
}

/* The highest logits and their tokens. No token below the highest ones of so many blocks is among them. */
static void most_likely_ones(const struct sampled_row *row, const float *high) {
    const float *x = row->logits;
    const long most = row->most, blocks = blocks_of(row->vocab);
    long count = 0;
    if (!most) return;
    for (long b = 0; b < blocks; b++)
        if (count < most || high[b] > row->top[most - 1]) insert(row->top, row->ids, &count, most, high[b], b);
    const float from = count < most ? -INFINITY : row->top[most - 1];
    count = 0;
    for (long b = 0; b < blocks; b++) {
        if (high[b] < from) continue;
        for (long i = b * BLOCK; i < (b + 1) * BLOCK && i < row->vocab; i += LANES) {
            uint32_t some = i + LANES <= row->vocab ? lanes_of(*(const vf *)(x + i) >= from) : (1u << LANES) - 1;
            for (; some; some &= some - 1) {
                long id = i + __builtin_ctz(some);
                if (id >= row->vocab) break;
                if (count < most || x[id] > row->top[most - 1]) insert(row->top, row->ids, &count, most, x[id], id);
            }
        }
    }
    for (; count < most; count++) row->top[count] = -INFINITY, row->ids[count] = 0; /* there are NaN among the logits */
}

/* log sum e^(x - high). */
static float log_sum(const float *x, long n, float high) {
    double sum = 0;
    long i = 0;
    while (i + LANES <= n) {
        vf part = {0};
        for (long end = i + 64 * LANES; i + LANES <= n && i < end; i += LANES)
            part += exp_float(*(const vf *)(x + i) - high);
        sum += float_total(part);
    }
    for (; i < n; i++) sum += expf(x[i] - high);
    return logf(sum);
}

/* Memory of this thread that is used again; rows of one step are all of one size. */
static struct room room_for(long vocab) {
    static _Thread_local char *memory;
    static _Thread_local size_t size;
    const size_t blocks = blocks_of(vocab), tokens = blocks * BLOCK;
    const size_t needed = tokens * (sizeof(double) + 2 * sizeof(float) + 2 * sizeof(struct candidate)) +
                          blocks * (sizeof(double) + sizeof(float));
    if (size < needed) {
        free(memory);
        memory = malloc(needed);
        if (!memory) abort(); /* some megabytes: the process is lost anyway */
        size = needed;
    }
    struct room room = {.ordered = (double *)memory};
    room.sums = room.ordered + tokens;
    room.some = (struct candidate *)(room.sums + blocks);
    room.scores = (float *)(room.some + 2 * tokens);
    room.shares = room.scores + tokens;
    room.high = room.shares + tokens;
    return room;
}

static int64_t choose(const struct sampled_row *row, const struct room *room) {
    const float *n = row->numbers;
    if (!n[TEMPERATURE] && !n[COUNTED] && !n[BIASED] && !row->mask && row->context >= n[MIN_LENGTH])
        return most_likely(row->logits, row->vocab);
    float highest = score_all(row, room->scores, room->high), least = highest + n[LEAST];
    if (!n[TEMPERATURE] || !(highest > -INFINITY && highest < INFINITY)) return most_likely(room->scores, row->vocab);
    if (n[TOP_K] > 0 || n[TOP_P] < 1) return draw_in_order(row, highest, least, room);
    return draw(room->scores, blocks_of(row->vocab), highest, least, row->uniform, room->shares, room->sums);
}

int64_t sample_row(const struct sampled_row *row) {
    const struct room room = room_for(row->vocab);
    int64_t token = choose(row, &room);
    if (row->numbers[COUNTED]) {
        row->counts[token]++;
        row->changed[token / 32] |= (uint32_t)1 << token % 32;
    }
    if (row->numbers[LOGPROBS] >= 0) {
        const float highest = highest_by_block(row->logits, row->vocab, room.high);
        const float whole = log_sum(row->logits, row->vocab, highest);
        most_likely_ones(row, room.high);
        for (long i = 0; i < row->most; i++) row->top[i] = row->top[i] - highest - whole;
        *row->own = row->logits[token] - highest - whole;
    }
    return token;
}
