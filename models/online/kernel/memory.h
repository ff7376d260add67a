/* The memory of a search: what the newest items of a history and the night say of other items,
 * spread over the catalog and the nodes above it (models/online/memory/tree_memory.py is the readable form).
 *
 * A = recent items, newest first
 */
#ifndef MEMORY_H
#define MEMORY_H

#include "history.h"

#define NUM_REASONS 3 /* most items that explain another one */

/* first, neighbour, weight: the neighbours of each catalog row. above: the node of each row at
 * depth L - 1. parent[d]: the parent, at depth d, of each node of depth d + 1. row_evidence and, for
 * 1 <= d < L, node_evidence[d]: room that is zero between calls. */
typedef struct {
    int32_t levels;
    double decay, scale, floor;
    const int64_t *first;
    const int32_t *neighbour;
    const float *weight;
    const int32_t *above, *parent[MAX_LEVELS];
    double *row_evidence, *node_evidence[MAX_LEVELS];
} Memory;

/* The newest rows of one history, and the rows that a night raises. night_factor: the factor of
 * floor + evidence, above 1; a bonus of b nats is exp(b / scale). */
typedef struct {
    const Memory *memory;
    const int64_t *recent, *night_row;
    const double *night_factor;
    int32_t num, num_night;
} Recalled;

/* log() takes a third of log1p()'s time, and the absolute error is 1e-16 either way. */
static double bonus(const Memory *memory, double evidence) {
    return evidence > 0 ? memory->scale * log(1 + evidence / memory->floor) : 0;
}

static int64_t num_pairs(const Recalled *recalled) {
    const int64_t *first = recalled->memory->first;
    int64_t num = 0;
    for (int32_t age = 0; age < recalled->num; age++)
        num += first[recalled->recent[age] + 1] - first[recalled->recent[age]];
    return num;
}

/* Keep the largest evidence below each node above a row. */
static void spread_up(const Memory *memory, int64_t row) {
    double evidence = memory->row_evidence[row];
    int64_t node = memory->above[row];
    for (int32_t depth = memory->levels - 1; depth > 0; depth--) {
        double *most = &memory->node_evidence[depth][node];
        if (*most >= evidence) return;
        *most = evidence;
        node = memory->parent[depth - 1][node];
    }
}

/* Fill the room; returns how many rows `touched` then holds, or -1 when there is no memory. */
static int64_t recall(const Recalled *recalled, Workspace *workspace) {
    const Memory *memory = recalled->memory;
    size_t most = num_pairs(recalled) + recalled->num_night + 1;
    int32_t *touched = reserve(workspace, ROOM_TOUCHED, sizeof(int32_t) * most);
    if (!touched) return -1;
    int64_t num = 0;
    double share = 1;
    for (int32_t age = 0; age < recalled->num; age++, share *= memory->decay) {
        int64_t row = recalled->recent[age];
        for (int64_t pair = memory->first[row]; pair < memory->first[row + 1]; pair++) {
            double *evidence = &memory->row_evidence[memory->neighbour[pair]];
            if (*evidence == 0) touched[num++] = memory->neighbour[pair];
            *evidence += share * memory->weight[pair];
        }
    }
    for (int32_t at = 0; at < recalled->num_night; at++) {
        double *evidence = &memory->row_evidence[recalled->night_row[at]];
        if (*evidence == 0) touched[num++] = (int32_t)recalled->night_row[at];
        *evidence = (memory->floor + *evidence) * recalled->night_factor[at] - memory->floor;
    }
    for (int64_t at = 0; at < num; at++) spread_up(memory, touched[at]);
    return num;
}

/* Empty the room. */
static void forget(const Memory *memory, const Workspace *workspace, int64_t num_touched) {
    const int32_t *touched = workspace->room[ROOM_TOUCHED];
    for (int64_t at = 0; at < num_touched; at++) {
        memory->row_evidence[touched[at]] = 0;
        int64_t node = memory->above[touched[at]];
        for (int32_t depth = memory->levels - 1; depth > 0; depth--) {
            if (memory->node_evidence[depth][node] == 0) break; /* and so are the nodes above */
            memory->node_evidence[depth][node] = 0;
            node = memory->parent[depth - 1][node];
        }
    }
}

/* The largest shares (A,), as rows, most first, ties by the newest; -1 behind them. */
static void rank_reasons(const Recalled *recalled, double *shares, int64_t *because) {
    for (int32_t at = 0; at < NUM_REASONS; at++) {
        int32_t best = 0;
        for (int32_t age = 1; age < recalled->num; age++)
            if (shares[age] > shares[best]) best = age;
        because[at] = shares[best] > 0 ? recalled->recent[best] : -1;
        shares[best] = 0;
    }
}

/* The items of the history that gave each of `rows` (distinct) most evidence: because (num_rows,
 * NUM_REASONS). An item that comes twice counts once, by the sum. The room must be zero. Returns -1
 * when there is no memory. */
static int explain(const Recalled *recalled, const int64_t *rows, int64_t num_rows, int64_t *because,
                   Workspace *workspace) {
    const Memory *memory = recalled->memory;
    int64_t width = recalled->num;
    double *shares = reserve(workspace, ROOM_SHARES, sizeof(double) * (num_rows * width + 1));
    if (!shares) return -1;
    memset(shares, 0, sizeof(double) * num_rows * width);
    /* The room of the evidence holds the places of the rows, as numbers from -1 downward. */
    for (int64_t at = 0; at < num_rows; at++) memory->row_evidence[rows[at]] = -1 - (double)at;
    double share = 1;
    for (int32_t age = 0; age < width; age++, share *= memory->decay) {
        int64_t row = recalled->recent[age];
        int32_t newest = 0; /* place of the same item */
        while (recalled->recent[newest] != row) newest++;
        for (int64_t pair = memory->first[row]; pair < memory->first[row + 1]; pair++) {
            double place = memory->row_evidence[memory->neighbour[pair]];
            if (place < 0)
                shares[(int64_t)(-1 - place) * width + newest] += share * memory->weight[pair];
        }
    }
    for (int64_t at = 0; at < num_rows; at++) {
        memory->row_evidence[rows[at]] = 0;
        rank_reasons(recalled, shares + at * width, because + at * NUM_REASONS);
    }
    return 0;
}

#endif
