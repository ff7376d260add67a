/* Exact best-first search over a tree of SIDs (models/best_first.py says why it may stop).
 *
 * log P(node | history) bounds everything below, so the nodes of the highest bounds are decoded, a
 * batch at a time whatever their depths, until no bound left reaches the K-th best found.
 */
#ifndef SEARCH_H
#define SEARCH_H

#include "history.h"

/* The nodes of one depth as the tree numbers them; first_child is NULL at the prefixes, below
 * which the trie's own numbers (`node`) count. */
typedef struct {
    const int32_t *code;
    const int64_t *first_child, *node;
} Stage;

/* trie_first[d], trie_code[d]: where the children of depth d begin; the last codes of depth d + 1.
 * Without stages the tree is the whole trie. */
typedef struct {
    int32_t num_stages;
    int64_t num_first;
    Stage stages[MAX_LEVELS];
    const int64_t *trie_first[MAX_LEVELS];
    const int32_t *trie_code[MAX_LEVELS];
} Tree;

/* What may be found. first_row: of each leaf, or NULL where a leaf is a row; banned, allowed: a
 * byte a row, or NULL. At depths above the leaves everything may be. */
typedef struct {
    const int64_t *first_row;
    const uint8_t *banned, *allowed;
} Rows;

typedef struct {
    double logprob;
    int64_t at;
    int32_t slot_above, depth, code;
} Pending;

/* A decoded node. codes: the way to it. */
typedef struct {
    double logprob;
    int64_t at;
    int32_t slot_above, depth;
    int32_t codes[MAX_LEVELS];
} Slot;

typedef struct {
    double logprob;
    int64_t entry;
} Found;

typedef struct {
    const Model *model;
    const History *history;
    const Tree *tree;
    const Rows *rows;
    Workspace *workspace;
    int32_t goal, k;
    int64_t num_pending, num_slots, num_found, num_worst;
    double worst; /* the K-th best found */
} Search;

#define AT(search, which, type) ((type *)(search)->workspace->room[which])

static int push_pending(Search *search, Pending node) {
    size_t bytes = sizeof(Pending) * (search->num_pending + 1);
    Pending *heap = reserve(search->workspace, ROOM_HEAP, bytes);
    if (!heap) return -1;
    int64_t at = search->num_pending++;
    for (; at && heap[(at - 1) / 2].logprob < node.logprob; at = (at - 1) / 2)
        heap[at] = heap[(at - 1) / 2];
    heap[at] = node;
    return 0;
}

static Pending pop_pending(Search *search) {
    Pending *heap = AT(search, ROOM_HEAP, Pending), top = heap[0];
    Pending last = heap[--search->num_pending];
    int64_t at = 0, num = search->num_pending;
    for (int64_t child; (child = 2 * at + 1) < num; at = child) {
        if (child + 1 < num && heap[child + 1].logprob > heap[child].logprob) child++;
        if (heap[child].logprob <= last.logprob) break;
        heap[at] = heap[child];
    }
    heap[at] = last;
    return top;
}

/* Keep the K best log-probabilities, the least of them first. */
static void note_worst(Search *search, double logprob) {
    double *heap = AT(search, ROOM_WORST, double);
    int64_t at;
    if (search->num_worst < search->k) {
        for (at = search->num_worst++; at && heap[(at - 1) / 2] > logprob; at = (at - 1) / 2)
            heap[at] = heap[(at - 1) / 2];
    } else {
        int64_t num = search->num_worst;
        at = 0;
        for (int64_t child; (child = 2 * at + 1) < num; at = child) {
            if (child + 1 < num && heap[child + 1] < heap[child]) child++;
            if (heap[child] >= logprob) break;
            heap[at] = heap[child];
        }
    }
    heap[at] = logprob;
    if (search->num_worst == search->k) search->worst = heap[0];
}

static int keep_found(Search *search, int64_t entry, double logprob) {
    if (logprob < search->worst) return 0;
    Found *found = reserve(search->workspace, ROOM_FOUND, sizeof(Found) * (search->num_found + 1));
    if (!found) return -1;
    found[search->num_found++] = (Found){logprob, entry};
    note_worst(search, logprob);
    return 0;
}

static int keep_leaf(Search *search, int64_t leaf, double logprob) {
    const Rows *rows = search->rows;
    if (search->goal < search->model->levels) return keep_found(search, leaf, logprob);
    int64_t first = rows->first_row ? rows->first_row[leaf] : leaf;
    int64_t end = rows->first_row ? rows->first_row[leaf + 1] : leaf + 1;
    for (int64_t row = first; row < end; row++) {
        if (rows->banned && rows->banned[row]) continue;
        if (rows->allowed && !rows->allowed[row]) continue;
        if (keep_found(search, row, logprob)) return -1;
    }
    return 0;
}

/* A child of a decoded node, or of the root: a result at the goal, pending before it. */
static int reach(Search *search, int32_t depth, int64_t at, int32_t code, int32_t slot_above,
                 double logprob) {
    if (!isfinite(logprob) || logprob < search->worst) return 0;
    if (depth == search->goal) return keep_leaf(search, at, logprob);
    return push_pending(search, (Pending){logprob, at, slot_above, depth, code});
}

static int reach_children(Search *search, int32_t slot_number, const float *logp) {
    const Slot *slot = AT(search, ROOM_SLOTS, Slot) + slot_number;
    const Tree *tree = search->tree;
    int32_t depth = slot->depth;
    int64_t at = slot->at;
    double above = slot->logprob;
    const int64_t *first = tree->trie_first[depth];
    const int32_t *code = tree->trie_code[depth];
    if (depth < tree->num_stages) {
        first = tree->stages[depth - 1].first_child;
        code = tree->stages[depth].code;
    } else if (depth == tree->num_stages) {
        at = tree->stages[depth - 1].node[at];
    }
    for (int64_t child = first[at]; child < first[at + 1]; child++)
        if (reach(search, depth + 1, child, code[child], slot_number, above + logp[code[child]]))
            return -1;
    return 0;
}

static int reach_first(Search *search) {
    const Tree *tree = search->tree;
    const int32_t *code = tree->num_stages ? tree->stages[0].code : tree->trie_code[0];
    for (int64_t at = 0; at < tree->num_first; at++)
        if (reach(search, 1, at, code[at], -1, search->history->logp[code[at]])) return -1;
    return 0;
}

/* Up to `limit` of the highest bounds into slots, by depth; how many, or -1. */
static int64_t take_batch(Search *search, int64_t limit) {
    int64_t num = search->num_pending < limit ? search->num_pending : limit, taken = 0;
    size_t bytes = sizeof(Slot) * (search->num_slots + num);
    Slot *slots = reserve(search->workspace, ROOM_SLOTS, bytes);
    if (!slots) return -1;
    Slot *batch = slots + search->num_slots;
    while (taken < num && AT(search, ROOM_HEAP, Pending)[0].logprob >= search->worst) {
        Pending node = pop_pending(search);
        int64_t place = taken++;
        for (; place && batch[place - 1].depth > node.depth; place--) batch[place] = batch[place - 1];
        Slot *slot = batch + place;
        *slot = (Slot){node.logprob, node.at, node.slot_above, node.depth, {0}};
        if (node.slot_above >= 0)
            memcpy(slot->codes, slots[node.slot_above].codes, sizeof(slot->codes));
        slot->codes[node.depth - 1] = node.code;
    }
    return taken;
}

/* Keys and values of a decoded node: (layers, 2, W). */
static float *slot_keys(const Search *search, int64_t slot, int32_t layer) {
    int64_t width = search->model->width;
    return AT(search, ROOM_KV, float) + (slot * search->model->num_layers + layer) * 2 * width;
}

static void embed_node(const Model *model, const int32_t *codes, int32_t depth, float *x) {
    int64_t width = model->width;
    int64_t pair = ((int64_t)codes[0] * model->sizes[1] + codes[1]) % model->pair_rows;
    const float *depth_row = model->depth_embedding + (depth - 1) * width;
    const float *pair_row = model->pair_embedding + pair * width;
    sum_codes(model, codes, depth, x);
    for (int32_t at = 0; at < width; at++) x[at] += depth_row[at];
    for (int32_t at = 0; depth > 1 && at < width; at++) x[at] += pair_row[at];
}

static void decode_layer(Search *search, int32_t at, int64_t first_slot, int32_t num, float *x) {
    const Model *model = search->model;
    const Layer *layer = &model->layers[at];
    const History *made = search->history;
    int32_t width = model->width;
    float *normed = AT(search, ROOM_NORMED, float), *wide = AT(search, ROOM_WIDE, float);
    float *mixed = AT(search, ROOM_MIXED, float);
    Attended history = {made->keys[at], made->values[at], made->tail[at],
                        made->stride,   made->stride,     made->rows};
    layer_norm(&layer->norm, x, num, width, normed);
    product(&layer->qkv, normed, width, num, wide, 3 * width, 0);
    for (int32_t row = 0; row < num; row++) {
        Own own[MAX_LEVELS];
        int32_t num_own = 0;
        memcpy(slot_keys(search, first_slot + row, at), wide + (int64_t)row * 3 * width + width,
               sizeof(float) * 2 * width);
        for (int64_t slot = first_slot + row; slot >= 0;
             slot = AT(search, ROOM_SLOTS, Slot)[slot].slot_above) {
            const float *keys = slot_keys(search, slot, at);
            own[num_own++] = (Own){keys, keys + width};
        }
        attend_row(model, wide + (int64_t)row * 3 * width, &history, own, num_own,
                   AT(search, ROOM_SCORES, float), mixed + (int64_t)row * width);
    }
    finish_layer(layer, width, num, mixed, x, normed, AT(search, ROOM_INNER, float));
}

/* The log-probabilities below `num` nodes of one depth, and their children reached. */
static int open_depth(Search *search, int64_t first_slot, int32_t num, const float *hidden) {
    const Model *model = search->model;
    int32_t depth = AT(search, ROOM_SLOTS, Slot)[first_slot].depth, size = model->sizes[depth];
    int64_t stride = padded(size);
    float *logits = reserve_floats(search->workspace, ROOM_LOGITS, num * stride);
    if (!logits) return -1;
    product(&model->heads_of[depth], hidden, model->width, num, logits, stride, 0);
    for (int32_t row = 0; row < num; row++) {
        log_softmax(logits + row * stride, size);
        if (reach_children(search, first_slot + row, logits + row * stride)) return -1;
    }
    return 0;
}

static int open_batch(Search *search, int32_t num) {
    const Model *model = search->model;
    int32_t width = model->width;
    int64_t first_slot = search->num_slots;
    size_t keys = (first_slot + num) * model->num_layers * 2 * width;
    if (!reserve_floats(search->workspace, ROOM_KV, keys)) return -1;
    if (!reserve_rows(model, num, search->history->rows, search->workspace)) return -1;
    float *x = AT(search, ROOM_X, float);
    Slot *batch = AT(search, ROOM_SLOTS, Slot) + first_slot;
    for (int32_t row = 0; row < num; row++) {
        embed_node(model, batch[row].codes, batch[row].depth, x + (int64_t)row * width);
    }
    for (int32_t at = 0; at < model->num_layers; at++)
        decode_layer(search, at, first_slot, num, x);
    layer_norm(&model->norm, x, num, width, x);
    search->num_slots += num;
    for (int32_t begin = 0, end; begin < num; begin = end) {
        for (end = begin + 1; end < num && batch[end].depth == batch[begin].depth; end++) continue;
        if (open_depth(search, first_slot + begin, end - begin, x + (int64_t)begin * width))
            return -1;
    }
    return 0;
}

static int by_rank(const void *left, const void *right) {
    const Found *a = left, *b = right;
    if (a->logprob != b->logprob) return a->logprob > b->logprob ? -1 : 1;
    return a->entry < b->entry ? -1 : a->entry > b->entry;
}

/* The K best of `goal` codes below the tree: entries and log-probabilities, best first, ties by
 * entry. history: a buffer of extend_history() with `num_rows` rows. first_batch: nodes decoded
 * together at first; every batch is `growth` times the last. num_decoded: (L,) how many nodes of
 * each depth were. Returns how many were found, or -1 for no memory. */
int64_t search_tree(const Model *model, float *history_buffer, int32_t num_rows, const Tree *tree,
                    const Rows *rows, int32_t goal, int32_t k, int64_t first_batch, double growth,
                    int64_t *entries, double *logprobs, int64_t *num_decoded,
                    Workspace *workspace) {
    History history;
    lay_out(model, history_buffer, num_rows, &history);
    Search search = {.model = model, .history = &history, .tree = tree, .rows = rows,
                     .workspace = workspace, .goal = goal, .k = k, .worst = -INFINITY};
    if (!reserve(workspace, ROOM_WORST, sizeof(double) * k) || reach_first(&search)) return -1;
    double limit = first_batch;
    for (;; limit *= growth) {
        int64_t num = take_batch(&search, limit < 1e6 ? (int64_t)limit : 1000000);
        if (num < 0) return -1;
        if (!num) break;
        if (open_batch(&search, (int32_t)num)) return -1;
    }
    for (int64_t slot = 0; slot < search.num_slots; slot++)
        num_decoded[AT(&search, ROOM_SLOTS, Slot)[slot].depth]++;
    Found *found = AT(&search, ROOM_FOUND, Found);
    int64_t num_best = 0;
    for (int64_t at = 0; at < search.num_found; at++)
        if (found[at].logprob >= search.worst) found[num_best++] = found[at];
    if (num_best) qsort(found, num_best, sizeof(Found), by_rank);
    if (num_best > k) num_best = k;
    for (int64_t at = 0; at < num_best; at++) {
        entries[at] = found[at].entry;
        logprobs[at] = found[at].logprob;
    }
    return num_best;
}

void release_workspace(Workspace *workspace) {
    for (int which = 0; which < NUM_ROOMS; which++) free(workspace->room[which]);
    memset(workspace, 0, sizeof(*workspace));
}

#endif
