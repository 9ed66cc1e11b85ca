/* What one row draws from: its logits after penalties, bias, what may not come yet, the grammar's mask and temperature,
 * the same numbers as in torch. By blocks, whose highest scores say where there is nothing to look for. */
#pragma once
#include "passes.h"
#include "sampling.h"

#define IN_PROMPT (1 << 24)
#define BLOCK 512 /* tokens */

static inline long blocks_of(long n) {
    return (n + BLOCK - 1) / BLOCK;
}

/* The highest of all, and of each block. */
static float highest_by_block(const float *x, long n, float *high) {
    float highest = -INFINITY;
    for (long b = 0; b < blocks_of(n); b++) {
        high[b] = highest_of(x + b * BLOCK, n - b * BLOCK < BLOCK ? n - b * BLOCK : BLOCK);
        if (high[b] > highest) highest = high[b];
    }
    return highest;
}

/* Which tokens have a count or a bias, few of all: found when the row comes, and with each token that it is given. */
static void find_changed(const struct sampled_row *row) {
    const float *bias = row->bias, *n = row->numbers;
    const int32_t *counts = row->counts;
    for (long i = 0; i < (row->vocab + 31) / 32; i++) row->changed[i] = 0;
    long i = 0;
    for (; i + LANES <= row->vocab; i += LANES) {
        vi lanes = {0};
        if (n[COUNTED]) lanes |= *(const vi *)(counts + i) != 0;
        if (n[BIASED]) lanes |= *(const vf *)(bias + i) != 0;
        row->changed[i / 32] |= lanes_of(lanes) << i % 32;
    }
    for (; i < row->vocab; i++)
        row->changed[i / 32] |= (uint32_t)((n[COUNTED] && counts[i]) || (n[BIASED] && bias[i] != 0)) << i % 32;
    *row->known = row->tenancy;
}

static float penalized(const struct sampled_row *row, long token) {
    const float *n = row->numbers;
    float x = row->logits[token];
    if (n[COUNTED] && row->counts[token]) {
        int32_t count = row->counts[token] % IN_PROMPT;
        volatile float product = x > 0 ? x / n[REPETITION] : x * n[REPETITION]; /* rounded, as torch does */
        volatile float much = count * n[FREQUENCY];
        x = count ? product - (much + n[PRESENCE]) : product;
    }
    return n[BIASED] ? x + row->bias[token] : x;
}

/* Of the tokens begin .. end - 1; begin is a multiple of 32. */
static void score(const struct sampled_row *row, long begin, long end, float *scores) {
    const float *n = row->numbers, *x = row->logits;
    const float temperature = n[TEMPERATURE] ? n[TEMPERATURE] : 1;
    long i = begin;
    for (; i + LANES <= end; i += LANES) *(vf *)(scores + i) = *(const vf *)(x + i) / temperature;
    for (; i < end; i++) scores[i] = x[i] / temperature;
    for (long word = begin / 32; (n[COUNTED] || n[BIASED]) && word * 32 < end; word++)
        for (uint32_t bits = row->changed[word]; bits; bits &= bits - 1) {
            long token = word * 32 + __builtin_ctz(bits);
            scores[token] = penalized(row, token) / temperature;
        }
    for (long e = 0; row->context < n[MIN_LENGTH] && e < row->end_count; e++)
        if (row->ends[e] >= begin && row->ends[e] < end) scores[row->ends[e]] = -INFINITY;
    for (long word = begin / 32; row->mask && word * 32 < end; word++)
        for (i = word * 32; row->mask[word] != 0xffffffff && i < word * 32 + 32 && i < end; i++)
            if (!(row->mask[word] >> (i % 32) & 1)) scores[i] = -INFINITY;
}

/* Scores of all tokens, -infinity behind them up to a whole block; returns the highest. */
static float score_all(const struct sampled_row *row, float *scores, float *high) {
    float highest = -INFINITY;
    if ((row->numbers[COUNTED] || row->numbers[BIASED]) && *row->known != row->tenancy) find_changed(row);
    for (long b = 0; b < blocks_of(row->vocab); b++) {
        long begin = b * BLOCK, end = begin + BLOCK < row->vocab ? begin + BLOCK : row->vocab;
        score(row, begin, end, scores);
        for (long i = end; i < begin + BLOCK; i++) scores[i] = -INFINITY;
        high[b] = highest_of(scores + begin, BLOCK);
        if (high[b] > highest) highest = high[b];
    }
    return highest;
}
