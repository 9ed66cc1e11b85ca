/* Products of rows with packed weights: in the tiles of AMX, in dot products of bfloat16, or in float32. */
#pragma once
#include <math.h>
#include "amx.h"
#include "pool.h"
#include "tiles.h"

#define TASKS_PER_THREAD 4
#define CACHED_ROWS 48 /* rows of x that stay in the second-level cache while the weights pass by */

static inline long least(long a, long b) { return a < b ? a : b; }

static int amx; /* whether Linux lets this process use its registers */

/* y[m][n] = x W^T; gated: y[m][n / 2] = silu(even tiles) * odd tiles. x is bfloat16 if rounded, for which the weights must
 * be that, too; y if gated and rounded. */
struct product {
    const void *x;
    const char *w;
    void *y;
    long m, k, n, tiles_per_task;
    int bf16, rounded, gated;
};

static int in_tiles(const struct product *j) { return AMX && amx && j->rounded && j->k % AMX_INPUTS == 0; }

/* sums[rows][TILE or 2 * TILE] of tile t, and the next one if two. */
static void multiply(const struct product *j, long at, long rows, long t, int two, float *sums, long lds) {
    long tile = j->k * TILE * (j->bf16 ? 2 : 4);
    const char *w = j->w + t * tile;
    if (j->rounded) {
#if DOT_BF16
        const uint16_t *x = (const uint16_t *)j->x + at * j->k;
#if AMX
        if (in_tiles(j)) {
            (two ? amx_block_2 : amx_block_1)(x, j->k, w, j->k, sums, lds);
            return;
        }
#endif
        (two ? tile_dot_2 : tile_dot_1)(x, j->k, w, j->k, sums, lds, rows);
#endif
        return;
    }
    for (int i = 0; i <= two; i++, w += tile)
        (j->bf16 ? tile_bf16 : tile_f32)((const float *)j->x + at * j->k, j->k, w, j->k, sums + i * TILE, lds, rows);
}

/* Not inlined, n unknown: a loop of so few rounds would be unrolled before it is made one of vectors. */
static __attribute__((noinline)) void silu(const float *gate, const float *up, float *y, long n) {
    for (long i = 0; i < n; i++) y[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
}

/* y[rows][TILE], rows apart by ldy, of sums[rows][2 * TILE]. */
static void gate(const float *sums, void *y, long ldy, long rows, int rounded) {
    for (long r = 0; r < rows; r++, sums += 2 * TILE) {
        float made[TILE];
        silu(sums, sums + TILE, made, TILE);
        put(made, y, r * ldy, TILE, rounded);
    }
}

static void product_task(const void *job, long task) {
    const struct product *j = job;
    long tiles = j->n / TILE, begin = task * j->tiles_per_task, end = least(begin + j->tiles_per_task, tiles);
    long block = j->m <= 2 * CACHED_ROWS ? j->m : CACHED_ROWS, cached = block;
    float sums[2 * CACHED_ROWS * 2 * TILE];
#if AMX
    if (in_tiles(j)) {
        block = least(j->m, AMX_ROWS), cached = AMX_CACHED_ROWS;
        amx_begin(block);
    }
#endif
    for (long first = 0; first < j->m; first += cached)
        for (long t = begin; t < end; t += 2)
            for (long at = first; at < least(first + cached, j->m); at += block) {
                int two = t + 1 < end;
                long from = at, rows = least(block, j->m - at);
                /* A block of AMX is whole: the last one begins within the one before and makes the same again. */
                if (in_tiles(j)) from = least(at, j->m - block), rows = block;
                if (j->gated) {
                    multiply(j, from, rows, t, two, sums, 2 * TILE);
                    gate(sums, at_item(j->y, from * (j->n / 2) + t / 2 * TILE, j->rounded), j->n / 2, rows, j->rounded);
                } else
                    multiply(j, from, rows, t, two, (float *)j->y + from * j->n + t * TILE, j->n);
            }
#if AMX
    if (in_tiles(j)) amx_end();
#endif
}

static void run_product(struct product *j) {
    if (j->m == 0) return; /* the head of a step in which no row samples */
    long tiles = j->n / TILE, wanted = TASKS_PER_THREAD * (pool.workers + 1);
    j->tiles_per_task = (tiles + 2 * wanted - 1) / (2 * wanted) * 2; /* two share what is loaded of x */
    pool_run(product_task, j, (tiles + j->tiles_per_task - 1) / j->tiles_per_task);
}
