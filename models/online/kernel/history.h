/* An encoded history in one buffer, and the function that extends it.
 *
 * R = rows (start + items), S = R padded to whole vectors
 */
#ifndef HISTORY_H
#define HISTORY_H

#include <stdlib.h>

#include "layers.h"

enum { ROOM_X, ROOM_NORMED, ROOM_WIDE, ROOM_INNER, ROOM_MIXED, ROOM_SCORES, ROOM_LOGITS,
       ROOM_HEAP, ROOM_FOUND, ROOM_WORST, ROOM_TOUCHED, ROOM_SHARES, NUM_ROOMS };

/* Memory that grows and is kept between calls. One call at a time. */
typedef struct {
    void *room[NUM_ROOMS];
    size_t bytes[NUM_ROOMS];
} Workspace;

/* Return a room of at least `bytes`, with its contents kept; NULL when there is no memory. */
static void *reserve(Workspace *workspace, int which, size_t bytes) {
    if (workspace->bytes[which] < bytes) {
        size_t wanted = bytes + bytes / 2;
        void *grown = realloc(workspace->room[which], wanted);
        if (!grown) return NULL;
        workspace->room[which] = grown;
        workspace->bytes[which] = wanted;
    }
    return workspace->room[which];
}

static float *reserve_floats(Workspace *workspace, int which, int64_t num) {
    return reserve(workspace, which, sizeof(float) * (num + LANES));
}

/* By layer: keys (W, S) and values (R, W). By level: the query for the next code (W), and the
 * logits, which are its products with the embeddings of the codes. */
typedef struct {
    int32_t rows;
    int64_t stride;
    float *keys[MAX_LAYERS], *values[MAX_LAYERS], *query[MAX_LEVELS], *logits[MAX_LEVELS];
} History;

/* Lay out a buffer; returns its number of floats. */
static int64_t lay_out(const Model *model, float *buffer, int32_t rows, History *history) {
    int64_t width = model->width, stride = padded(rows), at = 0;
    history->rows = rows;
    history->stride = stride;
#define PLACE(field, floats) (history->field = buffer + at, at += (floats))
    for (int32_t level = 0; level < model->levels; level++) {
        PLACE(query[level], width);
        PLACE(logits[level], padded(model->sizes[level]));
    }
    for (int32_t layer = 0; layer < model->num_layers; layer++) {
        PLACE(keys[layer], width * stride);
        PLACE(values[layer], width * rows);
    }
#undef PLACE
    return at + LANES;
}

int64_t history_floats(const Model *model, int32_t rows) {
    History history;
    float *nowhere = NULL;
    return lay_out(model, nowhere, rows, &history);
}

/* Keys (W, S) and values (R, W) of old and new rows. x: (num_new, x_stride), key then value. */
static void append_keys(int32_t width, const float *old_keys, int64_t old_stride,
                        const float *old_values, int32_t num_old, const float *x,
                        int64_t x_stride, int32_t num_new, float *keys, int64_t stride,
                        float *values) {
    for (int32_t e = 0; e < width; e++) {
        float *row = keys + e * stride;
        if (num_old) memcpy(row, old_keys + e * old_stride, sizeof(float) * num_old);
        for (int32_t at = 0; at < num_new; at++) row[num_old + at] = x[at * x_stride + e];
        for (int64_t at = num_old + num_new; at < stride; at++) row[at] = 0;
    }
    if (num_old) memcpy(values, old_values, sizeof(float) * (int64_t)num_old * width);
    for (int32_t at = 0; at < num_new; at++)
        memcpy(values + (int64_t)(num_old + at) * width, x + at * x_stride + width,
               sizeof(float) * width);
}

static void encode_layer(const Model *model, int32_t at, const History *past, const History *made,
                         int32_t num_new, float *x, Workspace *workspace) {
    const Layer *layer = &model->layers[at];
    int32_t width = model->width, num_old = made->rows - num_new;
    float *normed = workspace->room[ROOM_NORMED], *wide = workspace->room[ROOM_WIDE];
    float *mixed = workspace->room[ROOM_MIXED], *scores = workspace->room[ROOM_SCORES];
    layer_norm(&layer->norm, x, num_new, width, normed);
    product(&layer->qkv, normed, width, num_new, wide, 3 * width, 0);
    append_keys(width, past->keys[at], past->stride, past->values[at], num_old, wide + width,
                3 * width, num_new, made->keys[at], made->stride, made->values[at]);
    for (int32_t row = 0; row < num_new; row++) {
        int32_t position = num_old + row;
        Attended history = {made->keys[at], made->values[at],
                            layer->bias + model->max_rows - 1 - position, made->stride,
                            model->bias_stride, position + 1};
        attend_row(model, wide + row * 3 * width, &history, scores, mixed + row * width);
    }
    finish_layer(layer, width, num_new, mixed, x, normed, workspace->room[ROOM_INNER]);
}

static int reserve_rows(const Model *model, int32_t num_rows, int32_t num_keys,
                        Workspace *workspace) {
    int64_t width = model->width;
    return reserve_floats(workspace, ROOM_X, num_rows * width) &&
           reserve_floats(workspace, ROOM_NORMED, num_rows * width) &&
           reserve_floats(workspace, ROOM_MIXED, num_rows * width) &&
           reserve_floats(workspace, ROOM_WIDE, num_rows * 3 * width) &&
           reserve_floats(workspace, ROOM_INNER, num_rows * model->layers[0].up.outputs) &&
           reserve_floats(workspace, ROOM_SCORES, padded(num_keys) + LANES);
}

/* Queries and logits of the next code, read from the last row (W). */
static void ask(const Model *model, float *last, const History *made) {
    layer_norm(&model->norm, last, 1, model->width, last);
    for (int32_t level = 0; level < model->levels; level++) {
        product(&model->queries[level], last, model->width, 1, made->query[level], model->width, 0);
        product(&model->codes[level], made->query[level], model->width, 1, made->logits[level],
                padded(model->sizes[level]), 0);
    }
}

/* Append `num_items` items, oldest first, to the `past_rows` rows of `past` (NULL begins a
 * history). items: their embeddings (num_items, W). made_buffer: room for history_floats() of all
 * rows. Returns 0, or -1 when there is no memory. */
int extend_history(const Model *model, float *past, int32_t past_rows, const float *items,
                   int32_t num_items, float *made_buffer, Workspace *workspace) {
    int begins = past_rows == 0;
    int32_t width = model->width, num_new = num_items + begins, rows = past_rows + num_new;
    if (!reserve_rows(model, num_new, rows, workspace)) return -1;
    History before, made;
    lay_out(model, past, past_rows, &before);
    lay_out(model, made_buffer, rows, &made);
    float *x = workspace->room[ROOM_X];
    if (begins) memcpy(x, model->start, sizeof(float) * width);
    memcpy(x + begins * width, items, sizeof(float) * num_items * width);
    for (int32_t at = 0; at < model->num_layers; at++)
        encode_layer(model, at, &before, &made, num_new, x, workspace);
    ask(model, x + (int64_t)(num_new - 1) * width, &made);
    return 0;
}

#endif
