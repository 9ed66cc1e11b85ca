/* What decoder.c calls of kernels.c; shapes are told there. */
#pragma once
#include <stdint.h>

int bfloat16_products(void);
void multiply_rows(const void *x, int rounded, const void *w, float *y, long m, long k, long n, int bf16);
void gated_rows(const void *x, int rounded, const void *w, void *y, long m, long k, long n, int bf16);
void rms_norm(float *x, const float *added, const float *weight, void *y, long m, long n, float eps, int rounded);
void rope_append(float *qkv, const float *cos, const float *sin, const int64_t *slots, float *keys, float *values,
                 long t, long hq, long hk, long d);
int paged_attention(const float *qkv, void *out, const float *keys, const float *values, const int32_t *tables,
                    const int32_t *starts, const int32_t *contexts, long sequences, long width, long hq, long hk, long d,
                    float scale, long window, float cap, const float *sinks, int rounded);
