/* One row of a step: its logits, and what sampling has to know of it. Compiled without -ffast-math: infinity marks what
 * is forbidden, and the scores must be the same numbers as in torch. */
#pragma once
#include <stdint.h>

/* The order of sampling_state.NUMBERS. */
enum number { TEMPERATURE, TOP_P, LEAST, PRESENCE, FREQUENCY, REPETITION, TOP_K, MIN_LENGTH, LOGPROBS, COUNTED, BIASED };

struct sampled_row {
    const float *logits;  /* [vocab] */
    const float *numbers; /* indexed by enum number */
    int32_t *counts;      /* [vocab], IN_PROMPT more for tokens of the prompt */
    const float *bias;    /* [vocab] */
    const uint32_t *mask; /* a bit a token, or null */
    const int64_t *ends;  /* end_count tokens that end an answer */
    uint32_t *changed;    /* a bit for each token that has a count or a bias, of the tenancy that is known */
    int64_t *known, tenancy;
    double uniform;
    long vocab, context, end_count;
    float *own, *top; /* the token's log probability; `most` of the likeliest in falling order, and their tokens */
    int64_t *ids;
    long most;
};

int64_t most_likely(const float *x, long n);
int64_t sample_row(const struct sampled_row *row);
