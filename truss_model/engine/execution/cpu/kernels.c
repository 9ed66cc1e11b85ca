/* CPU kernels of the engine: linear layers over packed weights, RMS norm, SiLU gate, rotary + KV append, paged attention,
 * sampling.
 *
 * Plain C with GCC/Clang vector extensions, so that one source serves AVX2, AVX-512 and NEON; built by build.py for the
 * machine it runs on. Each function is tested against a torch twin. Activations and the KV cache are float32,
 * but for what a product takes where products are of bfloat16.
 *
 * Packed weights, tiles of 16 outputs: float32 [N/16][K][16]; bfloat16 [N/16][K/2][16][2], so that one 32-bit lane holds
 * two neighbours of K: what AVX512-BF16's dot product and AMX's tiles take, for which x is rounded to bfloat16, and
 * elsewhere unpacking is a shift and a mask and products are float32. Sums are float32 everywhere.
 *
 * A KV page holds 16 tokens of one layer and one KV head: keys transposed [D][16], values [16][D]. Scores of a page are
 * then the same outer product as a linear tile.
 */
#include <sched.h>
#include <stdlib.h>
#include "attention.h"
#include "kernels.h"
#include "pool.h"
#include "products.h"
#include "sampling.h"

#define ROUNDED_ROWS 16    /* a task */
#define AT_ONCE 64         /* floats of a norm that are rounded together */
#define Q_BLOCK 8          /* query tokens a task */
#define APPENDED_TOKENS 16 /* a task: those of one page mostly, or two threads write to one line of the cache */

/* Before anything else is called; threads as for pool_start(). */
void kernels_start(int threads) {
#if AMX
    amx = amx_request();
#endif
    pool_start(threads);
}

/* How products with bfloat16 weights are made: 0 in float32; of x that is rounded to bfloat16, too: 1 in dot products,
 * 2 in tiles where k is a multiple of 32, else as 1. */
int bfloat16_products(void) { return DOT_BF16 + amx; }

struct rounding {
    const float *x;
    uint16_t *y;
    long m, k;
};

static void round_task(const void *job, long task) {
    const struct rounding *j = job;
    long at = task * ROUNDED_ROWS * j->k;
    put(j->x + at, j->y, at, least(ROUNDED_ROWS * j->k, j->m * j->k - at), 1);
}

/* y[m][n] = x[m][k] * W^T; n a multiple of 16, k even. */
void linear(const float *x, const void *w, float *y, long m, long k, long n, int bf16) {
    uint16_t *rounded = bf16 && DOT_BF16 ? malloc(m * k * sizeof *rounded) : 0;
    if (rounded) { /* without memory for it: the slower product */
        struct rounding job = {x, rounded, m, k};
        pool_run(round_task, &job, (m + ROUNDED_ROWS - 1) / ROUNDED_ROWS);
    }
    multiply_rows(rounded ? (const void *)rounded : x, rounded != 0, w, y, m, k, n, bf16);
    free(rounded);
}

/* The same for x that is rounded to bfloat16 already, or not. */
void multiply_rows(const void *x, int rounded, const void *w, float *y, long m, long k, long n, int bf16) {
    struct product job = {x, w, y, m, k, n, 0, bf16, rounded, 0};
    run_product(&job);
}

/* y[m][n] = silu(x G^T) * x U^T, bfloat16 like x if rounded. w: tiles of G and U in turn. */
void gated_rows(const void *x, int rounded, const void *w, void *y, long m, long k, long n, int bf16) {
    struct product job = {x, w, y, m, k, 2 * n, 0, bf16, rounded, 1};
    run_product(&job);
}

struct norm {
    const float *added, *weight;
    float *x;
    void *y;
    long m, n, rows_per_task;
    float eps;
    int rounded;
};

static void norm_task(const void *job, long task) {
    const struct norm *j = job;
    for (long r = task * j->rows_per_task; r < least((task + 1) * j->rows_per_task, j->m); r++) {
        float *row = j->x + r * j->n, sum = 0;
        for (long i = 0; j->added && i < j->n; i++) row[i] += j->added[r * j->n + i];
        for (long i = 0; i < j->n; i++) sum += row[i] * row[i];
        float scale = 1.0f / sqrtf(sum / j->n + j->eps);
        for (long at = 0; at < j->n; at += AT_ONCE) {
            float made[AT_ONCE];
            long count = least(AT_ONCE, j->n - at);
            for (long i = 0; i < count; i++) made[i] = j->weight[at + i] * (row[at + i] * scale);
            put(made, j->y, r * j->n + at, count, j->rounded);
        }
    }
}

/* x += added, unless that is null; y = x / rms(x) * weight, m rows of n, bfloat16 if rounded. */
void rms_norm(float *x, const float *added, const float *weight, void *y, long m, long n, float eps, int rounded) {
    long rows = 1 + 16384 / n;
    struct norm job = {added, weight, x, y, m, n, rows, eps, rounded};
    pool_run(norm_task, &job, (m + rows - 1) / rows);
}

struct append {
    float *qkv, *keys, *values;
    const float *cos, *sin;
    const int64_t *slots;
    long t, hq, hk, d;
};

static void rotate(float *x, const float *cos, const float *sin, long d) {
    for (long i = 0, half = d / 2; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cos[i] - b * sin[i];
        x[i + half] = b * cos[i + half] + a * sin[i + half];
    }
}

static void append_task(const void *job, long task) {
    const struct append *j = job;
    long hq = j->hq, hk = j->hk, d = j->d;
    for (long i = task * APPENDED_TOKENS; i < least((task + 1) * APPENDED_TOKENS, j->t); i++) {
        float *row = j->qkv + i * (hq + 2 * hk) * d;
        for (long h = 0; j->cos && h < hq + hk; h++) rotate(row + h * d, j->cos + i * d, j->sin + i * d, d);
        long page = j->slots[i] / PAGE, offset = j->slots[i] % PAGE;
        for (long h = 0; h < hk; h++) {
            const float *k = row + (hq + h) * d, *v = row + (hq + hk + h) * d;
            float *key = j->keys + (page * hk + h) * d * PAGE + offset;
            for (long e = 0; e < d; e++) key[e * PAGE] = k[e];
            memcpy(j->values + ((page * hk + h) * PAGE + offset) * d, v, d * sizeof(float));
        }
    }
}

/* Rotates q and k of qkv [t][(hq + 2 hk) * d] in place, unless cos is null, and puts k and v of token i into slot
 * slots[i] of the pages. keys [pages][hk][d][16], values [pages][hk][16][d]; slot = page * 16 + offset; cos, sin [t][d]. */
void rope_append(float *qkv, const float *cos, const float *sin, const int64_t *slots, float *keys, float *values,
                 long t, long hq, long hk, long d) {
    struct append job = {qkv, keys, values, cos, sin, slots, t, hq, hk, d};
    pool_run(append_task, &job, (t + APPENDED_TOKENS - 1) / APPENDED_TOKENS);
}

struct attention {
    const float *qkv, *keys, *values;
    void *out;
    const int32_t *tables, *starts, *contexts, *owner, *begin;
    long width, hq, hk, d, floats_per_task;
    int rounded;
    struct terms terms;
};

static void attention_task(const void *job, long task) {
    const struct attention *j = job;
    long b = task / j->hk, s = j->owner[b], at = j->begin[b], ldq = (j->hq + 2 * j->hk) * j->d;
    long count = least(Q_BLOCK, j->starts[s + 1] - at), first = j->contexts[s] - (j->starts[s + 1] - at);
    float *buffer = malloc(j->floats_per_task * sizeof(float));
    if (!buffer) abort(); /* some ten kilobytes: the process is lost anyway */
    attend_block(j->qkv + at * ldq, ldq, at_item(j->out, at * j->hq * j->d, j->rounded), j->hq * j->d, j->rounded,
                 j->keys, j->values, j->tables + s * j->width, first, count, j->hk, j->d, j->hq / j->hk, task % j->hk,
                 &j->terms, buffer);
    free(buffer);
}

/* Causal attention of every sequence of a step over its pages. Sequence s owns query tokens starts[s] .. starts[s+1]-1,
 * which are its last ones: contexts[s] counts all its tokens, these included. tables [sequences][width] of page numbers.
 * cap, window 0: none. sinks [hq], or null. out is bfloat16 if rounded. Returns 0, or -1 if memory ran out. */
int paged_attention(const float *qkv, void *out, const float *keys, const float *values, const int32_t *tables,
                    const int32_t *starts, const int32_t *contexts, long sequences, long width, long hq, long hk, long d,
                    float scale, long window, float cap, const float *sinks, int rounded) {
    long blocks = 0, rows = Q_BLOCK * (hq / hk), count = 0;
    for (long s = 0; s < sequences; s++) blocks += (starts[s + 1] - starts[s] + Q_BLOCK - 1) / Q_BLOCK;
    int32_t *owner = malloc(2 * blocks * sizeof(int32_t)), *begin = owner + blocks;
    if (!owner) return -1;
    for (long s = 0; s < sequences; s++)
        for (long at = starts[s]; at < starts[s + 1]; at += Q_BLOCK) owner[count] = s, begin[count++] = at;
    struct attention job = {
        .qkv = qkv, .keys = keys, .values = values, .out = out, .tables = tables, .starts = starts, .contexts = contexts,
        .owner = owner, .begin = begin, .width = width, .hq = hq, .hk = hk, .d = d,
        .terms = {.scale = scale, .cap = cap, .window = window, .sinks = sinks},
        .rounded = rounded,
        .floats_per_task = rows * (2 * d + SPAN) + 2 * rows,
    };
    pool_run(attention_task, &job, blocks * hk);
    free(owner);
    return 0;
}

struct sampling {
    const float *logits, *numbers, *bias;
    int32_t *counts;
    const int32_t *slots, *contexts, *mask_of;
    const uint32_t *masks;
    uint32_t *changed;
    const int64_t *ends, *tenancies;
    const double *uniform;
    int64_t *known, *tokens, *ids;
    float *own, *top;
    long vocab, fields, end_count, most;
};

static void sampling_task(const void *job, long i) {
    const struct sampling *j = job;
    if (!j->numbers) {
        j->tokens[i] = most_likely(j->logits + i * j->vocab, j->vocab);
        return;
    }
    long slot = j->slots[i], words = (j->vocab + 31) / 32;
    struct sampled_row row = {
        .logits = j->logits + i * j->vocab, .numbers = j->numbers + slot * j->fields, .counts = j->counts + slot * j->vocab,
        .bias = j->bias + slot * j->vocab, .mask = j->mask_of[i] < 0 ? 0 : j->masks + j->mask_of[i] * words,
        .ends = j->ends, .changed = j->changed + slot * words, .known = j->known + slot, .tenancy = j->tenancies[slot],
        .uniform = j->uniform[i], .vocab = j->vocab, .context = j->contexts[i], .end_count = j->end_count,
        .own = j->own + i, .top = j->top + i * j->most, .ids = j->ids + i * j->most, .most = j->most,
    };
    j->tokens[i] = sample_row(&row);
}

/* The tokens [rows] for logits [rows][vocab]; by slot: numbers [..][fields], counts, bias [..][vocab], the number of its
 * tenancy, and what is kept of one tenancy from step to step, known and changed [..][ceil(vocab / 32)]; of rows: slots,
 * contexts, mask_of (index in masks [..][ceil(vocab / 32)], -1: none), uniform. own [rows], top and ids [rows][most]: of
 * rows that want log probabilities. numbers null: the most likely tokens; nothing else is read. */
void sample(const float *logits, const float *numbers, int32_t *counts, const float *bias, const uint32_t *masks,
            const int64_t *ends, const int64_t *tenancies, int64_t *known, uint32_t *changed, const int32_t *slots,
            const int32_t *contexts, const int32_t *mask_of, const double *uniform, int64_t *tokens, float *own,
            float *top, int64_t *ids, long rows, long vocab, long fields, long end_count, long most) {
    struct sampling job = {
        .logits = logits, .numbers = numbers, .bias = bias, .counts = counts, .slots = slots, .contexts = contexts,
        .mask_of = mask_of, .masks = masks, .ends = ends, .tenancies = tenancies, .known = known, .changed = changed,
        .uniform = uniform, .tokens = tokens, .ids = ids, .own = own, .top = top, .vocab = vocab, .fields = fields,
        .end_count = end_count, .most = most,
    };
    pool_run(sampling_task, &job, rows);
}
