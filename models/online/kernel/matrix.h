/* Dense float32 arithmetic on one core: products with packed weights, and what goes between them.
 *
 * Written with GCC's vector types, so that one source serves AVX-512, AVX2 and NEON. Knows nothing
 * of models.
 *
 * M = rows, K = inputs, N = outputs
 */
#ifndef MATRIX_H
#define MATRIX_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* One register of the machine: of wider vectors GCC keeps none in registers (15 times slower with AVX2). */
#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif

#define PANEL 32 /* outputs that a packed weight keeps together */

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES), aligned(4)));

/* How many rows share one pass over two vectors of a panel: 2 * ROWS accumulators, these two and a
 * value must fit the registers, 16 with AVX2 and 32 elsewhere. */
#if defined(__AVX__) && !defined(__AVX512F__)
#define ROWS 6
#else
#define ROWS 12
#endif

/* y = x W^T + b, W packed as (ceil(N / PANEL), K, PANEL), zeros behind the last output. */
typedef struct {
    const float *packed, *bias;
    int32_t inputs, outputs;
} Linear;

typedef struct {
    const float *scale, *shift;
} Norm;

#define INLINE static inline __attribute__((always_inline))

INLINE vec splat(float value) { return (vec){} + value; }
INLINE vec load(const float *from) { return *(const vec *)from; }
INLINE void store(float *to, vec value) { *(vec *)to = value; }

/* `yes` in the lanes where `mask` is set, `no` in the others. */
INLINE vec choose(ivec mask, vec yes, vec no) {
    return (vec)((mask & (ivec)yes) | (~mask & (ivec)no));
}

INLINE vec larger(vec a, vec b) { return choose(a > b, a, b); }

INLINE float largest_lane(vec value) {
    float largest = value[0];
    for (int lane = 1; lane < LANES; lane++) largest = value[lane] > largest ? value[lane] : largest;
    return largest;
}

INLINE float sum_lanes(vec value) {
    float total = 0;
    for (int lane = 0; lane < LANES; lane++) total += value[lane];
    return total;
}

/* `rows` rows against two vectors of a panel, `width` of whose outputs there are: a constant number
 * of rows at every call, so that the compiler unrolls it. */
INLINE void pair_product(int rows, const float *x, int64_t x_stride, const float *packed,
                         int32_t inputs, const float *bias, int32_t width, float *y,
                         int64_t y_stride, int adds) {
    vec low[ROWS], high[ROWS];
    for (int row = 0; row < rows; row++) low[row] = high[row] = splat(0);
    for (int32_t k = 0; k < inputs; k++) {
        vec left = load(packed + (int64_t)k * PANEL), right = load(packed + (int64_t)k * PANEL + LANES);
        for (int row = 0; row < rows; row++) {
            vec value = splat(x[row * x_stride + k]);
            low[row] += value * left;
            high[row] += value * right;
        }
    }
    for (int row = 0; row < rows; row++) {
        float both[2 * LANES];
        store(both, low[row]);
        store(both + LANES, high[row]);
        float *out = y + row * y_stride;
        if (adds)
            for (int32_t at = 0; at < width; at++) out[at] += both[at] + bias[at];
        else
            for (int32_t at = 0; at < width; at++) out[at] = both[at] + bias[at];
    }
}

static void block_product(int rows, const float *x, int64_t x_stride, const float *packed,
                          int32_t inputs, const float *bias, int32_t width, float *y,
                          int64_t y_stride, int adds) {
#define CASE(R) \
    case R: \
        pair_product(R, x, x_stride, packed, inputs, bias, width, y, y_stride, adds); \
        break;
    switch (rows) {
        CASE(1)
        CASE(2)
        CASE(3)
        CASE(4)
        CASE(5)
        CASE(6)
#if ROWS > 6
        CASE(7)
        CASE(8)
        CASE(9)
        CASE(10)
        CASE(11)
        CASE(12)
#endif
    }
#undef CASE
}

/* y (M, N) = or += x (M, K) W^T + b. Rows are shared out evenly: a last block of one would idle. */
static void product(const Linear *linear, const float *x, int64_t x_stride, int32_t num_rows,
                    float *y, int64_t y_stride, int adds) {
    int32_t num_blocks = (num_rows + ROWS - 1) / ROWS;
    for (int32_t first = 0; first < linear->outputs; first += 2 * LANES) {
        int32_t panel = first / PANEL * PANEL, left = linear->outputs - first;
        const float *packed = linear->packed + (int64_t)panel * linear->inputs + (first - panel);
        int32_t width = left < 2 * LANES ? left : 2 * LANES;
        for (int32_t block = 0; block < num_blocks; block++) {
            int32_t begin = (int64_t)num_rows * block / num_blocks;
            int32_t end = (int64_t)num_rows * (block + 1) / num_blocks;
            block_product(end - begin, x + begin * x_stride, x_stride, packed, linear->inputs,
                          linear->bias + first, width, y + begin * y_stride + first, y_stride,
                          adds);
        }
    }
}

/* Cephes' expf: relative error 2e-7. -infinity gives 0. */
INLINE vec exp_vec(vec x) {
    const vec lowest = splat(-87.0f), highest = splat(88.0f);
    ivec is_low = x < lowest;
    x = choose(is_low, lowest, x);
    x = choose(x > highest, highest, x);
    vec scaled = x * 1.44269504088896341f + 12582912.0f; /* rounds to an integer */
    vec whole = scaled - 12582912.0f;
    vec r = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    vec p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    ivec power = (__builtin_convertvector(whole, ivec) + 127) << 23;
    vec result = p * (vec)power;
    return choose(is_low, splat(0), result);
}

/* x * Phi(x), with erf after Abramowitz and Stegun 7.1.26: absolute error 1.5e-7. */
INLINE vec gelu_vec(vec x) {
    vec z = x * 0.70710678118654752f;
    vec size = choose(z < 0, -z, z);
    vec t = 1.0f / (1.0f + 0.3275911f * size);
    vec p = splat(1.061405429f);
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    vec erf_size = 1.0f - p * t * exp_vec(-size * size);
    vec erf = choose(z < 0, -erf_size, erf_size);
    return 0.5f * x * (1.0f + erf);
}

/* In place, over `num` floats with room for whole vectors behind them. */
static void gelu(float *x, int64_t num) {
    for (int64_t at = 0; at < num; at += LANES) store(x + at, gelu_vec(load(x + at)));
}

/* Sums are taken lane by lane: in order, one addition would wait for the last. */
INLINE float sum_of(const float *x, int32_t num) {
    vec lanes = splat(0);
    float total = 0;
    int32_t at = 0;
    for (; at + LANES <= num; at += LANES) lanes += load(x + at);
    for (; at < num; at++) total += x[at];
    return total + sum_lanes(lanes);
}

INLINE float sum_of_squares(const float *x, float mean, int32_t num) {
    vec lanes = splat(0);
    float total = 0;
    int32_t at = 0;
    for (; at + LANES <= num; at += LANES) {
        vec off = load(x + at) - mean;
        lanes += off * off;
    }
    for (; at < num; at++) total += (x[at] - mean) * (x[at] - mean);
    return total + sum_lanes(lanes);
}

INLINE float dot(const float *x, const float *y, int32_t num) {
    vec lanes = splat(0);
    float total = 0;
    int32_t at = 0;
    for (; at + LANES <= num; at += LANES) lanes += load(x + at) * load(y + at);
    for (; at < num; at++) total += x[at] * y[at];
    return total + sum_lanes(lanes);
}

static void layer_norm(const Norm *norm, const float *x, int32_t num_rows, int32_t width,
                       float *y) {
    for (int32_t row = 0; row < num_rows; row++, x += width, y += width) {
        float mean = sum_of(x, width) / width;
        float factor = 1.0f / sqrtf(sum_of_squares(x, mean, width) / width + 1e-5f);
        for (int32_t at = 0; at < width; at++)
            y[at] = (x[at] - mean) * factor * norm->scale[at] + norm->shift[at];
    }
}

/* log_softmax in place, over `num` floats with room for whole vectors behind them. */
static void log_softmax(float *x, int32_t num) {
    int32_t padded = (num + LANES - 1) / LANES * LANES;
    for (int32_t at = num; at < padded; at++) x[at] = -INFINITY;
    vec most = splat(-INFINITY), total = splat(0);
    for (int32_t at = 0; at < padded; at += LANES) most = larger(load(x + at), most);
    float largest = largest_lane(most);
    for (int32_t at = 0; at < padded; at += LANES) total += exp_vec(load(x + at) - largest);
    float log_total = largest + logf(sum_lanes(total));
    for (int32_t at = 0; at < num; at++) x[at] -= log_total;
}

#endif
