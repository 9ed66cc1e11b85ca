/* All layers of a Llama-family model in one call, from embeddings to the last norm. The arithmetic is kernels.c's. */
#include <stdlib.h>
#include <string.h>
#include "kernels.h"

#define ALIGNED 64 /* bytes; every part of the scratch is a multiple of 16 floats */

/* The structs are decoder.py's, field by field. Norms [hidden]; products packed as for linear(), gate_up in
 * tiles of the two in turn. */
struct layer {
    const float *attention_norm, *mlp_norm;
    const void *qkv, *o, *gate_up, *down;
};

struct decoder {
    const struct layer *layers;
    const float *norm;
    long count, hidden, inner, hq, hk, d;
    float eps, scale;
    int bf16;
};

/* Arguments of rope_append() and paged_attention(); keys, values: of all layers, so many floats each. */
struct step {
    const float *cos, *sin;
    const int64_t *slots;
    float *keys, *values;
    const int32_t *tables, *starts, *contexts;
    long floats, tokens, sequences, width, window;
};

static inline long most(long a, long b) { return a > b ? a : b; }

/* y = norm(layers(x)), [tokens][hidden]. Returns 0, or -1 if memory ran out. */
int decode(const struct decoder *m, const struct step *s, const float *x, float *y) {
    long t = s->tokens, hidden = m->hidden, inner = m->inner, heads = m->hq * m->d, joined = heads + 2 * m->hk * m->d;
    int rounded = m->bf16 && bfloat16_products();
    float *stream = aligned_alloc(ALIGNED, t * (2 * hidden + joined + most(hidden, heads) + inner) * sizeof *stream);
    float *side = stream + t * hidden, *qkv = side + t * hidden;
    void *input = qkv + t * joined, *gated = (float *)input + t * most(hidden, heads); /* of products */
    if (!stream) return -1;
    memcpy(stream, x, t * hidden * sizeof *stream);
    for (long i = 0; i < m->count; i++) {
        const struct layer *l = m->layers + i;
        float *keys = s->keys + i * s->floats, *values = s->values + i * s->floats;
        rms_norm(stream, i ? side : 0, l->attention_norm, input, t, hidden, m->eps, rounded);
        multiply_rows(input, rounded, l->qkv, qkv, t, hidden, joined, m->bf16);
        rope_append(qkv, s->cos, s->sin, s->slots, keys, values, t, m->hq, m->hk, m->d);
        if (paged_attention(qkv, input, keys, values, s->tables, s->starts, s->contexts, s->sequences, s->width, m->hq,
                            m->hk, m->d, m->scale, s->window, 0, 0, rounded)) {
            free(stream);
            return -1;
        }
        multiply_rows(input, rounded, l->o, side, t, heads, hidden, m->bf16);
        rms_norm(stream, side, l->mlp_norm, input, t, hidden, m->eps, rounded);
        gated_rows(input, rounded, l->gate_up, gated, t, hidden, inner, m->bf16);
        multiply_rows(gated, rounded, l->down, side, t, inner, hidden, m->bf16);
    }
    rms_norm(stream, side, m->norm, y, t, hidden, m->eps, 0);
    free(stream);
    return 0;
}
