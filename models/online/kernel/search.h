/* Exact best-first search over a tree of SIDs (models/online/best_first.py says why it may stop).
 *
 * log P(node | history) and the largest bonus of the memory below bound every score below. So the
 * node of the highest bound is opened, one after the other whatever their depths, until no bound
 * left reaches the K-th best found. To open a node is a softmax over all its children in the
 * catalog, whether the tree holds them or not.
 */
#ifndef SEARCH_H
#define SEARCH_H

#include "memory.h"

/* The nodes of one depth at or above the prefixes, as the trie numbers them, and where the children
 * of each node of the stage above begin among them. */
typedef struct {
    const int64_t *node, *first;
} Stage;

/* trie_first[d], trie_code[d]: where the children of depth d begin; the last codes of depth d + 1.
 * own_row[d]: rows of those in the model's table of known prefixes, which has `unknown[d]` last.
 * Without stages the tree is the whole trie. */
typedef struct {
    int32_t num_stages;
    Stage stages[MAX_LEVELS];
    const int64_t *trie_first[MAX_LEVELS];
    const int32_t *trie_code[MAX_LEVELS], *own_row[MAX_LEVELS];
    int32_t unknown[MAX_LEVELS];
} Tree;

/* The rows that may be results. first_row: of each leaf, or NULL where a leaf is a row. banned,
 * allowed: one byte a row, or NULL. Above the leaves every node may be a result. */
typedef struct {
    const int64_t *first_row;
    const uint8_t *banned, *allowed;
} Rows;

/* A node that is not opened yet. at: its number in the tree. */
typedef struct {
    double bound, logprob;
    int64_t at;
    int32_t depth;
} Pending;

typedef struct {
    double score, logprob;
    int64_t entry;
} Found;

typedef struct {
    const Model *model;
    const History *history;
    const Tree *tree;
    const Rows *rows;
    const Memory *memory; /* NULL for scores without a bonus */
    Workspace *workspace;
    int32_t goal, k, prunes;
    int64_t num_pending, num_found, num_worst, num_scored;
    double worst; /* the K-th best found */
} Search;

#define AT(search, which, type) ((type *)(search)->workspace->room[which])

static int push_pending(Search *search, Pending node) {
    size_t bytes = sizeof(Pending) * (search->num_pending + 1);
    Pending *heap = reserve(search->workspace, ROOM_HEAP, bytes);
    if (!heap) return -1;
    int64_t at = search->num_pending++;
    for (; at && heap[(at - 1) / 2].bound < node.bound; at = (at - 1) / 2)
        heap[at] = heap[(at - 1) / 2];
    heap[at] = node;
    return 0;
}

static Pending pop_pending(Search *search) {
    Pending *heap = AT(search, ROOM_HEAP, Pending), top = heap[0];
    Pending last = heap[--search->num_pending];
    int64_t at = 0, num = search->num_pending;
    for (int64_t child; (child = 2 * at + 1) < num; at = child) {
        if (child + 1 < num && heap[child + 1].bound > heap[child].bound) child++;
        if (heap[child].bound <= last.bound) break;
        heap[at] = heap[child];
    }
    heap[at] = last;
    return top;
}

/* Keep the K best scores, the least of them first. */
static void note_worst(Search *search, double score) {
    double *heap = AT(search, ROOM_WORST, double);
    int64_t at;
    if (search->num_worst < search->k) {
        for (at = search->num_worst++; at && heap[(at - 1) / 2] > score; at = (at - 1) / 2)
            heap[at] = heap[(at - 1) / 2];
    } else {
        int64_t num = search->num_worst;
        at = 0;
        for (int64_t child; (child = 2 * at + 1) < num; at = child) {
            if (child + 1 < num && heap[child + 1] < heap[child]) child++;
            if (heap[child] >= score) break;
            heap[at] = heap[child];
        }
    }
    heap[at] = score;
    if (search->num_worst == search->k) search->worst = heap[0];
}

static int keep_found(Search *search, int64_t entry, double logprob, double score) {
    if (score < search->worst) return 0;
    Found *found = reserve(search->workspace, ROOM_FOUND, sizeof(Found) * (search->num_found + 1));
    if (!found) return -1;
    found[search->num_found++] = (Found){score, logprob, entry};
    note_worst(search, score);
    return 0;
}

/* Keep the allowed rows of a leaf, each with its own bonus. */
static int keep_leaf(Search *search, int64_t leaf, double logprob) {
    const Rows *rows = search->rows;
    const Memory *memory = search->memory;
    int64_t first = rows->first_row ? rows->first_row[leaf] : leaf;
    int64_t end = rows->first_row ? rows->first_row[leaf + 1] : leaf + 1;
    for (int64_t row = first; row < end; row++) {
        if (rows->banned && rows->banned[row]) continue;
        if (rows->allowed && !rows->allowed[row]) continue;
        double more = memory ? bonus(memory, memory->row_evidence[row]) : 0;
        if (keep_found(search, row, logprob, logprob + more)) return -1;
    }
    return 0;
}

/* A child of an opened node: a result at the goal, pending before it. at: its number in the tree;
 * trie_node: in the trie. */
static int reach(Search *search, int32_t depth, int64_t at, int64_t trie_node, double logprob) {
    if (!isfinite(logprob)) return 0;
    if (depth == search->model->levels) return keep_leaf(search, at, logprob);
    const Memory *memory = search->memory;
    double more = memory ? bonus(memory, memory->node_evidence[depth][trie_node]) : 0;
    double bound = logprob + more;
    if (depth == search->goal) return keep_found(search, at, logprob, bound);
    if (search->prunes && bound < search->worst) return 0;
    return push_pending(search, (Pending){bound, logprob, at, depth});
}

/* The logits of children `first` to `end` of a trie node at `depth`. */
static void score_children(const Search *search, int32_t depth, int64_t first, int64_t end,
                           float *logits) {
    const Tree *tree = search->tree;
    const float *base = search->history->logits[depth], *own = search->model->own[depth];
    const float *query = search->history->query[depth];
    const int32_t *code = tree->trie_code[depth], *row = tree->own_row[depth];
    int32_t width = search->model->width, unknown = tree->unknown[depth];
    for (int64_t child = first; child < end; child++) {
        float logit = base[code[child]];
        if (own && row[child] != unknown)
            logit += dot(query, own + (int64_t)row[child] * width, width);
        logits[child - first] = logit;
    }
}

/* Take a softmax over a node's children, and reach the children within the tree. */
static int open_node(Search *search, Pending node) {
    const Tree *tree = search->tree;
    int32_t depth = node.depth;
    int is_staged = depth && depth <= tree->num_stages;
    int64_t trie_node = is_staged ? tree->stages[depth - 1].node[node.at] : node.at;
    int64_t first = tree->trie_first[depth][trie_node];
    int64_t end = tree->trie_first[depth][trie_node + 1];
    float *logits = reserve_floats(search->workspace, ROOM_LOGITS, end - first);
    if (!logits) return -1;
    score_children(search, depth, first, end, logits);
    search->num_scored += end - first;
    log_softmax(logits, (int32_t)(end - first));
    const Stage *below = depth < tree->num_stages ? &tree->stages[depth] : NULL;
    int64_t from = below ? below->first[node.at] : first;
    int64_t to = below ? below->first[node.at + 1] : end;
    for (int64_t child = from; child < to; child++) {
        int64_t below_node = below ? below->node[child] : child;
        double logprob = node.logprob + logits[below_node - first];
        if (reach(search, depth + 1, child, below_node, logprob)) return -1;
    }
    return 0;
}

static int by_rank(const void *left, const void *right) {
    const Found *a = left, *b = right;
    if (a->score != b->score) return a->score > b->score ? -1 : 1;
    return a->entry < b->entry ? -1 : a->entry > b->entry;
}

/* Open nodes until no bound left reaches the K-th best. Returns -1 for no memory. */
static int run_search(Search *search, int64_t *num_opened) {
    if (open_node(search, (Pending){0, 0, 0, 0})) return -1;
    while (search->num_pending) {
        Pending node = pop_pending(search);
        if (search->prunes && node.bound < search->worst) break;
        num_opened[node.depth]++;
        if (open_node(search, node)) return -1;
    }
    return 0;
}

/* What a search returns. entries, logprobs, scores: (K,), best first, ties by entry; because: (K,
 * NUM_REASONS) rows, filled for catalog rows with a memory. num_opened: (L,) how many nodes of each
 * depth were, without the root; num_scored: the children of all. */
typedef struct {
    int64_t *entries, *because, *num_opened;
    double *logprobs, *scores;
    int64_t num_scored;
} Results;

/* The K best of `goal` codes below the tree. history: a buffer of extend_history() with `num_rows`
 * rows. recalled: NULL for no memory. prunes: 0 opens every node. Returns how many were found, or -1
 * when there is no memory for it. */
int64_t search_tree(const Model *model, float *history_buffer, int32_t num_rows, const Tree *tree,
                    const Rows *rows, const Recalled *recalled, int32_t goal, int32_t k,
                    int32_t prunes, Results *results, Workspace *workspace) {
    History history;
    lay_out(model, history_buffer, num_rows, &history);
    Search search = {.model = model, .history = &history, .tree = tree, .rows = rows,
                     .memory = recalled ? recalled->memory : NULL, .workspace = workspace,
                     .goal = goal, .k = k, .prunes = prunes, .worst = -INFINITY};
    if (!reserve(workspace, ROOM_WORST, sizeof(double) * k)) return -1;
    int64_t num_touched = recalled ? recall(recalled, workspace) : 0;
    if (num_touched < 0) return -1;
    memset(results->num_opened, 0, sizeof(int64_t) * model->levels);
    int failed = run_search(&search, results->num_opened);
    if (recalled) forget(recalled->memory, workspace, num_touched);
    if (failed) return -1;
    results->num_scored = search.num_scored;
    Found *found = AT(&search, ROOM_FOUND, Found);
    int64_t num_best = 0;
    for (int64_t at = 0; at < search.num_found; at++)
        if (found[at].score >= search.worst) found[num_best++] = found[at];
    if (num_best) qsort(found, num_best, sizeof(Found), by_rank);
    if (num_best > k) num_best = k;
    for (int64_t at = 0; at < num_best; at++) {
        results->entries[at] = found[at].entry;
        results->logprobs[at] = found[at].logprob;
        results->scores[at] = found[at].score;
    }
    if (recalled && goal == model->levels &&
        explain(recalled, results->entries, num_best, results->because, workspace))
        return -1;
    return num_best;
}

void release_workspace(Workspace *workspace) {
    for (int which = 0; which < NUM_ROOMS; which++) free(workspace->room[which]);
    memset(workspace, 0, sizeof(*workspace));
}

#endif
