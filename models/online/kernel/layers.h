/* The layers of the online recommender (models/online/recommender.py) over packed weights.
 *
 * M = rows, W = model width, N = heads, E = head width, L = levels
 */
#ifndef LAYERS_H
#define LAYERS_H

#include "matrix.h"

#define MAX_LEVELS 8
#define MAX_LAYERS 8

/* bias: (N, bias_stride) by head. Column c is a key `max_rows - 1 - c` rows back. Columns of rows
 * ahead hold -infinity. */
typedef struct {
    Norm norm;
    Linear qkv, out;
    Norm mlp_norm;
    Linear up, down;
    const float *bias;
} Layer;

typedef struct {
    int32_t width, heads, levels, max_rows, bias_stride, num_layers;
    int32_t sizes[MAX_LEVELS];
    const float *start;
    Norm norm;
    Linear queries[MAX_LEVELS];
    Linear codes[MAX_LEVELS];       /* embeddings of the codes, multiplied with a query */
    const float *own[MAX_LEVELS];   /* (known + 1, W) of prefixes, by level; NULL at the first */
    Layer layers[MAX_LAYERS];
} Model;

/* The keys and values that a row attends to. keys: (N * E, stride), a column a key; values: (keys,
 * W); bias: (N, bias_stride), -infinity where there is no key. */
typedef struct {
    const float *keys, *values, *bias;
    int64_t stride, bias_stride;
    int32_t num;
} Attended;

static inline int32_t padded(int32_t num) { return (num + LANES - 1) / LANES * LANES; }

/* Up to four vectors of scores at once, so that the additions do not wait for each other. */
INLINE void score_block(int num_vecs, const float *q, const float *keys, int64_t stride,
                        int32_t head_width, const float *bias, float *scores) {
    vec total[4];
    for (int at = 0; at < num_vecs; at++) total[at] = load(bias + at * LANES);
    for (int32_t e = 0; e < head_width; e++) {
        vec value = splat(q[e]);
        for (int at = 0; at < num_vecs; at++)
            total[at] += value * load(keys + e * stride + at * LANES);
    }
    for (int at = 0; at < num_vecs; at++) store(scores + at * LANES, total[at]);
}

static void score(const float *q, const float *keys, int64_t stride, int32_t head_width,
                  const float *bias, int32_t num, float *scores) {
    int32_t at = 0;
    for (; at + 4 * LANES <= num; at += 4 * LANES)
        score_block(4, q, keys + at, stride, head_width, bias + at, scores + at);
    for (; at < num; at += LANES)
        score_block(1, q, keys + at, stride, head_width, bias + at, scores + at);
}

/* weights of one softmax, not yet divided by their sum, which is returned. num: whole vectors. */
static float exponents(float *scores, int32_t num) {
    vec most = splat(-INFINITY), total = splat(0);
    for (int32_t at = 0; at < num; at += LANES) most = larger(load(scores + at), most);
    float largest = largest_lane(most);
    for (int32_t at = 0; at < num; at += LANES) {
        vec share = exp_vec(load(scores + at) - largest);
        store(scores + at, share);
        total += share;
    }
    return sum_lanes(total);
}

/* Up to four vectors of the sum of the values by weight at once. */
INLINE void mix_block(int num_vecs, const float *weights, const float *values, int64_t stride,
                      int32_t num, float *out) {
    vec total[4];
    for (int at = 0; at < num_vecs; at++) total[at] = splat(0);
    for (int32_t key = 0; key < num; key++) {
        vec weight = splat(weights[key]);
        for (int at = 0; at < num_vecs; at++)
            total[at] += weight * load(values + key * stride + at * LANES);
    }
    for (int at = 0; at < num_vecs; at++) store(out + at * LANES, total[at]);
}

/* out (E) = the sum of the values by weight. */
static void mix(const float *weights, const float *values, int64_t stride, int32_t num,
                int32_t head_width, float *out) {
    int32_t e = 0;
    for (; e + 4 * LANES <= head_width; e += 4 * LANES)
        mix_block(4, weights, values + e, stride, num, out + e);
    for (; e + 2 * LANES <= head_width; e += 2 * LANES)
        mix_block(2, weights, values + e, stride, num, out + e);
    for (; e + LANES <= head_width; e += LANES)
        mix_block(1, weights, values + e, stride, num, out + e);
    for (; e < head_width; e++) {
        float total = 0;
        for (int32_t key = 0; key < num; key++) total += weights[key] * values[key * stride + e];
        out[e] = total;
    }
}

/* One row's attention over a history (M = 1). scores: room for the history's keys. */
static void attend_row(const Model *model, const float *q, const Attended *history, float *scores,
                       float *out) {
    int32_t head_width = model->width / model->heads, num = padded(history->num);
    float scale = 1.0f / sqrtf(head_width), scaled[head_width];
    for (int32_t head = 0; head < model->heads; head++) {
        int32_t first = head * head_width;
        for (int32_t e = 0; e < head_width; e++) scaled[e] = q[first + e] * scale;
        score(scaled, history->keys + first * history->stride, history->stride, head_width,
              history->bias + head * history->bias_stride, num, scores);
        float sum = exponents(scores, num);
        mix(scores, history->values + first, model->width, history->num, head_width, out + first);
        for (int32_t e = 0; e < head_width; e++) out[first + e] /= sum;
    }
}

/* x (M, W) plus what the attention mixed and plus the MLP, in place. normed: room for (M, W);
 * inner: for (M, up.outputs) and a vector more. */
static void finish_layer(const Layer *layer, int32_t width, int32_t num_rows, const float *mixed,
                         float *x, float *normed, float *inner) {
    int32_t inner_width = layer->up.outputs;
    product(&layer->out, mixed, width, num_rows, x, width, 1);
    layer_norm(&layer->mlp_norm, x, num_rows, width, normed);
    product(&layer->up, normed, width, num_rows, inner, inner_width, 0);
    gelu(inner, (int64_t)num_rows * inner_width);
    product(&layer->down, inner, inner_width, num_rows, x, width, 1);
}

#endif
