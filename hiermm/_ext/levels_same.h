/* All levels at once, for chains of S levels of K values each under the coupling "slower": the loops of levels.h with
 * their bounds known to the compiler, so that they unroll and one level's work overlaps with the next one's. */
#ifndef HIERMM_LEVELS_SAME_H
#define HIERMM_LEVELS_SAME_H

#include "levels.h"

INLINE ptrdiff_t same_padded(const int K, const ptrdiff_t tail) { return tail % VL == 0 ? K : K == 3 ? 4 : K; }

/* Level s with the geometry of levels_init, as constants. */
INLINE Level same_level(const Level *g, const int K, const int S, const int s) {
    Level out = *g;
    ptrdiff_t tail = 1, positions = 1;
    for (int i = 3; i >= 0; i--) {
        if (i < S && i > s) tail *= same_padded(K, tail);
        if (i < S) positions *= same_padded(K, positions);
    }
    positions = positions < VL ? VL : positions;
    out.size = K, out.tail = tail, out.padded = same_padded(K, tail), out.block = out.padded * tail;
    out.wide = tail % VL == 0, out.parent_slower = s > 0;
    if (out.wide) {
        out.groups = s ? K : 1, out.vectors = tail / VL, out.blocks = positions / out.block;
    } else {
        const ptrdiff_t parents = s ? same_padded(K, out.block) : 1;
        out.vectors = out.block < VL ? 1 : out.block / VL;
        out.blocks = positions / (out.vectors * VL);
        out.groups = !s ? 1 : out.block >= VL ? parents : parents * out.block >= VL ? parents * out.block / VL : 1;
    }
    return out;
}

INLINE void same_move(const int K, const Level *g, const double *c, const double *x, double *out) {
    if (g->wide) wide_move_held(K, g, c, x, out);
    else if (g->vectors == 1) narrow_move_held(K, 1, g, c, x, out);
    else narrow_move_held(K, 2, g, c, x, out);
}

INLINE void same_products(const int K, const Level *g, const double *F, const double *G) {
    if (g->wide) wide_products_held(K, g, g->products, F, G);
    else if (g->vectors == 1) narrow_products_held(K, 1, g, g->products, F, G);
    else narrow_products_held(K, 2, g, g->products, F, G);
}

/* x moved by all levels, leaf first; room for two vectors of n. */
INLINE const double *same_advance(const int K, const int S, const Level *levels, const double *x, double *room,
                                  ptrdiff_t n) {
    for (int s = S - 1; s >= 0; s--) {
        const Level g = same_level(levels + s, K, S, s);
        double *out = room + (S - 1 - s) % 2 * n;
        same_move(K, &g, levels[s].to.coefficients, x, out);
        x = out;
    }
    return x;
}

/* w moved back by all levels, root first; partial[s] is the message before level s moves, room for S vectors of n. */
INLINE const double *same_retreat(const int K, const int S, const Level *levels, const double *w, double *room,
                                  ptrdiff_t n, const double **partial) {
    for (int s = 0; s < S; s++) {
        const Level g = same_level(levels + s, K, S, s);
        partial[s] = w;
        same_move(K, &g, levels[s].from.coefficients, w, room + s * n);
        w = room + s * n;
    }
    return w;
}

/* Products of all levels from x = alpha / evidence and the partial messages; room for two vectors of n. */
INLINE void same_count(const int K, const int S, const Level *levels, const double *x, double *room, ptrdiff_t n,
                       const double **partial) {
    for (int s = S - 1; s >= 0; s--) {
        const Level g = same_level(levels + s, K, S, s);
        double *out = room + (S - 1 - s) % 2 * n;
        same_products(K, &g, x, partial[s]);
        if (s > 0) same_move(K, &g, levels[s].to.coefficients, x, out);
        x = out;
    }
}

/* The chains that have such loops, as 10 K + S; else 0. */
static int same_kind(const Level *levels, ptrdiff_t S, int parent) {
    const ptrdiff_t K = levels[0].size;
    for (ptrdiff_t s = 0; s < S; s++)
        if (levels[s].size != K) return 0;
    const int kind = (int)(10 * K + S);
    return parent < 0 && (kind == 22 || kind == 23 || kind == 32 || kind == 33 || (kind >= 42 && kind <= 44)) ? kind : 0;
}

#define SAME_KINDS(CALL)      \
    switch (kind) {           \
    case 22: CALL(2, 2)       \
    case 23: CALL(2, 3)       \
    case 32: CALL(3, 2)       \
    case 33: CALL(3, 3)       \
    case 42: CALL(4, 2)       \
    case 43: CALL(4, 3)       \
    default: CALL(4, 4)       \
    }

static const double *kind_advance(int kind, const Level *levels, const double *x, double *room, ptrdiff_t n) {
#define CALL(K, S) return same_advance(K, S, levels, x, room, n);
    SAME_KINDS(CALL)
#undef CALL
}

static const double *kind_retreat(int kind, const Level *levels, const double *w, double *room, ptrdiff_t n,
                                  const double **partial) {
#define CALL(K, S) return same_retreat(K, S, levels, w, room, n, partial);
    SAME_KINDS(CALL)
#undef CALL
}

static void kind_count(int kind, const Level *levels, const double *x, double *room, ptrdiff_t n,
                       const double **partial) {
#define CALL(K, S) same_count(K, S, levels, x, room, n, partial); return;
    SAME_KINDS(CALL)
#undef CALL
}

#endif
