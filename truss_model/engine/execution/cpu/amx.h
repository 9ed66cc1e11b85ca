/* Products of bfloat16 in the tile registers of AMX: 16 rows of x times 32 inputs of 16 outputs in one instruction. */
#pragma once
#include "tiles.h"

#if !DOT_BF16 || !defined(__AMX_BF16__) || !defined(__linux__)
#define AMX 0
#define AMX_INPUTS 1
#else
#include <sys/syscall.h>
#include <unistd.h>
#define AMX 1
#define AMX_ROWS 16
#define AMX_INPUTS 32
#define AMX_ROW_BYTES 64
#define AMX_CACHED_ROWS 256 /* rows of x that stay in the second-level cache while the weights pass by */

/* Of all eight registers, as the processor reads it (Intel SDM, LDTILECFG). */
struct amx_shapes {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

/* Asks Linux for the registers, for all threads of the process (Documentation/arch/x86/xstate.rst). Whether it gave them. */
static int amx_request(void) {
    const long request_permission = 0x1023, tile_data = 18;
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}

/* Sums 0 and 1 and x in 2 have so many rows, at least one; 3 and 4 hold weights. Only what lies between begin and end may use them. */
static void amx_begin(long rows) {
    struct amx_shapes shapes = {.palette = 1, .row_bytes = {64, 64, 64, 64, 64}, .rows = {rows, rows, rows, 16, 16}};
    /* Not _tile_loadconfig(): GCC before 14 takes it to read 8 bytes and drops the stores of the others. */
    __asm__ volatile("ldtilecfg %0" : : "m"(shapes) : "memory");
}

static void amx_end(void) { _tile_release(); }

/* y[rows][TILE] = x[rows][k] * tile, k a multiple of AMX_INPUTS. One chain of sums for a row, whatever is beside it. */
static void amx_block_1(const uint16_t *x, long ldx, const char *w, long k, float *y, long ldy) {
    _tile_zero(0);
    for (long i = 0; i < k; i += AMX_INPUTS) {
        _tile_loadd(2, x + i, ldx * sizeof *x);
        _tile_loadd(3, w + i * TILE * 2, AMX_ROW_BYTES);
        _tile_dpbf16ps(0, 2, 3);
    }
    _tile_stored(0, y, ldy * sizeof *y);
}

/* The same for two tiles, which share what is loaded of x. */
static void amx_block_2(const uint16_t *x, long ldx, const char *w, long k, float *y, long ldy) {
    const char *second = w + k * TILE * 2;
    _tile_zero(0);
    _tile_zero(1);
    for (long i = 0; i < k; i += AMX_INPUTS) {
        _tile_loadd(2, x + i, ldx * sizeof *x);
        _tile_loadd(3, w + i * TILE * 2, AMX_ROW_BYTES);
        _tile_dpbf16ps(0, 2, 3);
        _tile_loadd(4, second + i * TILE * 2, AMX_ROW_BYTES);
        _tile_dpbf16ps(1, 2, 4);
    }
    _tile_stored(0, y, ldy * sizeof *y);
    _tile_stored(1, y + TILE, ldy * sizeof *y);
}
#endif
