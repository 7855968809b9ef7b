/* Scaled forward-backward of many sequences side by side, one in each lane of NV vectors, under one constant matrix.
 *
 * K and NV are compile-time constants wherever these functions are inlined with them, so that small chains live in
 * registers. Row t of `lik` and `alpha` holds K states x NV vectors. A lane whose sequence has ended goes on with
 * likelihoods of 1 and is ignored. A lane in which some state loses its mass is reported and left to dense_one.h. */
#ifndef HIERMM_DENSE_LANES_H
#define HIERMM_DENSE_LANES_H

#include "dense_outputs.h"

#define TILE (VL == 8 ? 16 : 6) /* states whose sums stay in registers */
/* Vectors of lanes at the most: one where its sums are enough to hide their latency; two fill the caches twice as fast. */
INLINE int widest_lanes(int64_t K) { return K < (VL == 8 ? 9 : 32) ? MAX_NV : 1; }

enum { TILE_AHEAD = 16 }; /* rows of a tile that are asked for in advance */

/* y[j] = sum_i M[i, j] x[i] for `width` states j; x and y have NV vectors a state. Tiles of many states come from the
 * second cache, and all the loads are too many for the processor to ask ahead by itself. */
INLINE void lane_tile(const int width, const int NV, int64_t K, const double *M, int64_t ld, const vd *x, vd *y) {
    vd acc[TILE * MAX_NV];
    for (int a = 0; a < width * NV; a++) acc[a] = (vd){};
    for (int64_t i = 0; i < K; i++) {
        for (int j = 0; j < width && !__builtin_constant_p(K); j += 8) __builtin_prefetch(M + (i + TILE_AHEAD) * ld + j);
        for (int j = 0; j < width; j++)
            for (int v = 0; v < NV; v++) acc[j * NV + v] += vset(M[i * ld + j]) * x[i * NV + v];
    }
    for (int a = 0; a < width * NV; a++) y[a] = acc[a];
}

/* States of a tile, so that all are nearly equal. */
INLINE int64_t tile_states(int64_t K) {
    int64_t tiles = (K + TILE - 1) / TILE;
    return (K + tiles - 1) / tiles;
}

/* Copies of M (K, ld), tile after tile of its columns: a tile is read from end to end. */
static void pack_tiles(int64_t K, const double *M, int64_t ld, double *out) {
    for (int64_t j = 0, width = tile_states(K); j < K; j += width) {
        int64_t count = K - j < width ? K - j : width;
        for (int64_t i = 0; i < K; i++, out += count) memcpy(out, M + i * ld + j, (size_t)count * sizeof(double));
    }
}

#define TILES(W) \
    case W: lane_tile(W, NV, K, M + j * K, W, x, y + j * NV); break;
/* y = x M with the tiles of M. */
INLINE void lane_tiles(int64_t K, const int NV, const double *M, const vd *x, vd *y) {
    int64_t width = tile_states(K);
    for (int64_t j = 0; j < K; j += width) {
        switch (K - j < width ? K - j : width) {
            TILES(1) TILES(2) TILES(3) TILES(4) TILES(5) TILES(6)
#if VL == 8
            TILES(7) TILES(8) TILES(9) TILES(10) TILES(11) TILES(12) TILES(13) TILES(14) TILES(15) TILES(16)
#endif
        }
    }
}
static void lane_tiles_1(int64_t K, const double *M, const vd *x, vd *y) { lane_tiles(K, 1, M, x, y); }
static void lane_tiles_2(int64_t K, const double *M, const vd *x, vd *y) { lane_tiles(K, 2, M, x, y); }

/* The same, from M (K, ld) itself and without a loop over tiles where K is a small constant. */
INLINE void lane_product(const int64_t K, const int NV, const double *M, int64_t ld, const double *tiles, const vd *x,
                         vd *y) {
    const int half = (int)K / 2;
    if (__builtin_constant_p(K) && K <= TILE) {
        lane_tile((int)K, NV, K, M, ld, x, y);
    } else if (__builtin_constant_p(K) && K <= 2 * TILE) {
        lane_tile(half, NV, K, M, ld, x, y);
        lane_tile((int)K - half, NV, K, M + half, ld, x, y + half * NV);
    } else {
        (NV == 1 ? lane_tiles_1 : lane_tiles_2)(K, tiles, x, y);
    }
}

/* Sum over the states of NV vectors each. */
INLINE vd state_sum(const int64_t K, const int NV, const vd *x, int v) {
    vd even = x[v], odd = {};
    int64_t k = 1;
    for (; k + 1 < K; k += 2) {
        odd += x[k * NV + v];
        even += x[(k + 1) * NV + v];
    }
    if (k < K) odd += x[k * NV + v];
    return even + odd;
}

/* Log-likelihoods (K, NV) turn into likelihoods relative to the largest, which is added to `shift`. */
INLINE void lane_likelihoods(const int64_t K, const int NV, vd *x, vd *shift) {
    for (int v = 0; v < NV; v++) {
        vd top = vset(-1e300); /* all -inf: likelihoods of 0, which the sum will show */
        for (int64_t k = 0; k < K; k++) top = vmax(top, x[k * NV + v]);
        shift[v] += top;
        for (int64_t k = 0; k < K; k++) x[k * NV + v] = vexp_low(x[k * NV + v] - top);
    }
}

/* One step of the forward pass with likelihoods b, which become 0 for states `apart` (NULL: there are none). Masses get
 * dust, or `least` collects the smallest. */
INLINE void lane_step(const int64_t K, const int NV, const Chain *c, const double *apart, int dust, const vd *before,
                      vd *b, const vd *scale, vd *a, vd *least) {
    lane_product(K, NV, c->rows, c->NP, c->tiles, before, a);
    if (c->positive) {
        for (int64_t k = 0; k < K; k++)
            for (int v = 0; v < NV; v++) a[k * NV + v] *= b[k * NV + v] * scale[v];
        return;
    }
    for (int64_t k = 0; apart && k < K; k++)
        for (int v = 0; v < NV; v++) b[k * NV + v] *= vset(1.0 - apart[k]);
    for (int64_t k = 0; k < K; k++) {
        for (int v = 0; v < NV; v++) {
            vd mass = a[k * NV + v] * scale[v];
            if (dust) mass += vset(DUST);
            else least[v] = vmin(least[v], mass + vset(apart ? apart[k] : 0.0));
            a[k * NV + v] = mass * b[k * NV + v];
        }
    }
}

/* What the forward pass carries from step to step, beside the last row of alpha. */
typedef struct {
    vd shift[MAX_NV], exponent[MAX_NV], scale[MAX_NV]; /* log-likelihood so far; factor for the next step */
    vd least[MAX_NV], smallest[MAX_NV];                /* smallest predicted mass and smallest sum */
    int ending;                                        /* the lane that ends next; -1: nobody asks */
} Pass;

/* What is known of the sequences that end with step t, whose rows have the sums `total`. */
INLINE void lanes_end(Group *g, Pass *p, int64_t t, const vd *total) {
    for (; p->ending >= 0 && g->T[p->ending] == t + 1; p->ending--) {
        int v = p->ending / VL, l = p->ending % VL;
        g->loglik[p->ending] = p->shift[v][l] + p->exponent[v][l] * LOG2 + log(total[v][l]);
        g->doubtful[p->ending] |= !(p->smallest[v][l] >= RANGE) || !(p->least[v][l] >= RANGE);
    }
}

/* Forward pass over steps t0 .. t1 - 1 from the row `before` of alpha. keep: all rows stay, from the start of lik and
 * alpha on; otherwise BLOCK of them go round. dust: the way back will
 * judge what is lost. */
INLINE void lanes_forward(const int64_t K, const int NV, Group *g, Pass *pass, int64_t t0, int64_t t1,
                          const vd *before, int keep, int dust) {
    const Chain *c = g->c;
    const int64_t W = K * NV;
    Pass p = *pass;
    for (int64_t t = t0; t < t1; t++) {
        int64_t row = keep ? t - t0 : (t - t0) % BLOCK;
        vd *b = g->lik + row * W, *a = g->alpha + row * W, total[MAX_NV];
        if (g->symbols) {
            if (row % BLOCK == 0) gather_symbols(K, NV, g, t, b);
            for (int v = 0; v < NV; v++) p.shift[v] += g->tops[row % BLOCK * NV + v];
        } else {
            if (row % BLOCK == 0 && g->outputs) (NV == 1 ? gather_outputs_1 : gather_outputs_2)(g, t, b);
            else if (row % BLOCK == 0) gather(K, NV, g, t, b);
            if (!g->outputs) ask(K, NV, g, g->ll, t + BLOCK);
            lane_likelihoods(K, NV, b, p.shift);
        }
        if (t) {
            const double *apart = g->apart_rows ? g->apart + (t < g->apart_rows ? t : g->apart_rows - 1) * K : NULL;
            lane_step(K, NV, c, apart, dust, before, b, p.scale, a, p.least);
        } else {
            for (int64_t k = 0; k < K; k++)
                for (int v = 0; v < NV; v++) a[k * NV + v] = vset(c->initial[k]) * b[k * NV + v];
        }
        before = a;
        for (int v = 0; v < NV; v++) {
            total[v] = state_sum(K, NV, a, v);
            p.smallest[v] = vmin(p.smallest[v], total[v]);
        }
        if (p.ending >= 0 && g->T[p.ending] == t + 1) lanes_end(g, &p, t, total);
        for (int v = 0; v < NV; v++) p.scale[v] = vscale(total[v], &p.exponent[v]);
    }
    *pass = p;
}

/* counts[i, j] += sum over `rows` rows of alpha_i w_j for a tile of height x width states. */
INLINE void counts_tile(const int height, const int width, const int NV, int64_t K, int64_t rows, const vd *alpha,
                        const vd *w, vd *counts) {
    vd acc[16];
    for (int q = 0; q < height * width; q++) acc[q] = (vd){};
    for (int64_t r = 0; r < rows; r++, alpha += K * NV, w += K * NV)
        for (int v = 0; v < NV; v++)
            for (int q = 0; q < height * width; q++) acc[q] += alpha[q / width * NV + v] * w[q % width * NV + v];
    for (int q = 0; q < height * width; q++) counts[q / width * K + q % width] += acc[q];
}

#define COUNTS(H, W) \
    case 4 * H + W: counts_tile(H, W, NV, K, rows, alpha + i * NV, w + j * NV, counts + i * K + j); break;
#define COUNTS_ROW(H) COUNTS(H, 1) COUNTS(H, 2) COUNTS(H, 3) COUNTS(H, 4)
/* The same for all pairs of states, in tiles of at most 4 x 4, as square as can be. */
INLINE void lane_counts(const int NV, int64_t K, int64_t rows, const vd *alpha, const vd *w, vd *counts) {
    int64_t tiles = (K + 3) / 4, side = (K + tiles - 1) / tiles;
    for (int64_t i = 0; i < K; i += side) {
        for (int64_t j = 0; j < K; j += side) {
            switch (4 * (K - i < side ? K - i : side) + (K - j < side ? K - j : side)) {
                COUNTS_ROW(1) COUNTS_ROW(2) COUNTS_ROW(3) COUNTS_ROW(4)
            }
        }
    }
}

/* The same for many states: the lanes of a tile of VL x MOVES_HIGH states are added up after every block. What a tile
 * needs of alpha is put side by side first, because rows of many states evict each other. */
INLINE void many_counts(const int NV, int64_t K, int64_t rows, const vd *alpha, const vd *moves, double *counts) {
    vd near[BLOCK * MAX_NV * VL];
    for (int64_t i = 0; i < K; i += VL) {
        const int64_t width = K - i < VL ? K - i : VL;
        for (int64_t r = 0; r < rows; r++)
            for (int v = 0; v < NV; v++)
                for (int q = 0; q < VL; q++)
                    near[(r * NV + v) * VL + q] = alpha[(r * K + i + (q < width ? q : 0)) * NV + v];
        for (int64_t j = 0; j < K; j += MOVES_HIGH) {
            const vd *w = moves + move_at(K, NV, 0, j);
            vd acc[MOVES_HIGH * VL];
            for (int q = 0; q < MOVES_HIGH * VL; q++) acc[q] = (vd){};
            for (int h = 0; h < MOVES_HIGH; h++) __builtin_prefetch(counts + (j + h) * K + i, 1);
            for (int64_t r = 0; r < rows; r++) {
                for (int h = 0; h < MOVES_HIGH * NV; h++) __builtin_prefetch(w + (r + 8) * MOVES_HIGH * NV + h);
                for (int v = 0; v < NV; v++)
                    for (int q = 0; q < MOVES_HIGH * VL; q++)
                        acc[q] += w[(r * MOVES_HIGH + q / VL) * NV + v] * near[(r * NV + v) * VL + q % VL];
            }
            for (int h = 0; h < MOVES_HIGH && j + h < K; h++) {
                double *to = counts + (j + h) * K + i;
                vd more = vsums(acc + h * VL);
                if (width == VL) vstore(to, vload(to) + more);
                else vstore_part(to, width, vload_part(to, width, 0.0) + more);
            }
        }
    }
}

INLINE void add_counts(const int NV, int64_t K, int64_t rows, const vd *alpha, const vd *w, double *counts) {
    if (K > LANE_COUNTS) many_counts(NV, K, rows, alpha, w, counts);
    else lane_counts(NV, K, rows, alpha, w, (vd *)counts);
}
static void add_counts_1(int64_t K, int64_t rows, const vd *alpha, const vd *w, double *counts) {
    add_counts(1, K, rows, alpha, w, counts);
}
static void add_counts_2(int64_t K, int64_t rows, const vd *alpha, const vd *w, double *counts) {
    add_counts(2, K, rows, alpha, w, counts);
}

/* What the backward pass carries: w = likelihood x message of the step after, and the power of two that brings its sum
 * into [1, 2). The limits say from which step on a lane has no step after it; none counts in a doubtful lane. */
typedef struct {
    vd scale[MAX_NV], last[MAX_NV];
    double shortest;
    vd least[MAX_NV]; /* smallest evidence */
} Back;

static Back back_start(const Group *g, int NV, int64_t K) {
    Back back = {.shortest = HUGE_VAL};
    for (int l = 0; l < NV * VL; l++) {
        double end = g->doubtful[l] ? -1.0 : (double)(g->T[l] - 1);
        back.scale[l / VL][l % VL] = back.least[l / VL][l % VL] = 1.0;
        back.last[l / VL][l % VL] = end;
        back.shortest = end < back.shortest ? end : back.shortest;
    }
    memset(g->work, 0, (size_t)(K * NV) * sizeof(vd));
    return back;
}

/* Backward pass over steps t0 .. t1 - 1, kept by lanes_forward: rows of gamma to the caller, expected moves (before the
 * factor A) to counts. */
INLINE void lanes_backward(const int64_t K, const int NV, Group *g, Back *back, int64_t t0, int64_t t1) {
    const Chain *c = g->c;
    const int64_t W = K * NV;
    vd *w = g->work, *beta = w + W, *moves = beta + W, ignored = {};
    Back s = *back;
    for (int64_t t = t1 - 1; t >= t0; t--) {
        int64_t row = t - t0, r = row % BLOCK;
        vd *b = g->lik + row * W, *a = g->alpha + row * W;
        lane_product(K, NV, c->cols, c->NP, c->tiles + K * K, w, beta);
        if (!g->outputs && !g->symbols) ask(K, NV, g, (const double *const *)g->gamma, t - BLOCK);
        int edge = (double)t >= s.shortest;
        for (int v = 0; v < NV; v++) {
            vi inside = vset((double)t) < s.last[v];
            vd evidence = {}, sum = {};
            for (int64_t k = 0; k < K; k++) {
                vd x = beta[k * NV + v] * s.scale[v];
                if (edge) x = vselect(inside, x, vset(1.0));
                vd joint = a[k * NV + v] * x, next = b[k * NV + v] * x;
                beta[k * NV + v] = next;
                b[k * NV + v] = joint;
                evidence += joint;
                sum += next;
            }
            if (!c->positive) {
                vi counts = vset((double)t) <= s.last[v];
                s.least[v] = vmin(s.least[v], vselect(counts, evidence, vset(1.0)));
            }
            vd norm = vset(1.0) / evidence;
            vd weight = (vd)((vi)(norm * s.scale[v]) & inside);
            for (int64_t k = 0; k < K; k++) {
                b[k * NV + v] *= norm;
                if (g->counts) moves[move_at(K, NV, r, k) + v] = w[k * NV + v] * weight;
                w[k * NV + v] = beta[k * NV + v];
            }
            s.scale[v] = vscale(sum, &ignored);
        }
        if (r) continue;
        int64_t rows = t1 - t < BLOCK ? t1 - t : BLOCK;
        if (g->symbols) sum_symbols(K, NV, g, t, b);
        else if (g->outputs) (NV == 1 ? sum_outputs_1 : sum_outputs_2)(g, t, b);
        else scatter(K, NV, g, t, b);
        if (g->counts) (NV == 1 ? add_counts_1 : add_counts_2)(K, rows, a, moves, g->counts);
    }
    *back = s;
}

/* Lanes whose evidence was too small somewhere are doubtful after all. */
static void lanes_judge(Group *g, const Back *back) {
    g->spoilt = 0;
    for (int l = 0; l < g->lanes; l++) {
        int lost = !g->doubtful[l] && !(back->least[l / VL][l % VL] >= RANGE);
        g->doubtful[l] |= lost;
        g->spoilt |= lost;
    }
}

/* Filtered rows t0 .. t1 - 1, each divided by its sum, to the caller; uses the room of the likelihoods. */
static void lanes_filtered(int64_t K, int NV, Group *g, int64_t t0, int64_t t1) {
    for (int64_t t = t0; t < t1; t++) {
        int64_t row = t - t0, r = row % BLOCK;
        const vd *a = g->alpha + row * K * NV;
        vd *out = g->lik + row * K * NV;
        ask(K, NV, g, (const double *const *)g->gamma, t + BLOCK);
        for (int v = 0; v < NV; v++) {
            vd norm = vset(1.0) / state_sum(K, NV, a, v);
            for (int64_t q = v; q < K * NV; q += NV) out[q] = a[q] * norm;
        }
        if (r == BLOCK - 1 || t == t1 - 1) scatter(K, NV, g, t - r, out - r * K * NV);
    }
}

/* Bytes of a row of lik and alpha, and of all that should be kept. */
INLINE int64_t kept_row(int64_t K, int NV) { return 2 * K * NV * (int64_t)sizeof(vd); }
INLINE int64_t most_kept(int64_t K) { return K < 12 ? 6 << 20 : 24 << 20; }
INLINE int64_t whole_blocks(int64_t T) { return (T + BLOCK - 1) / BLOCK * BLOCK; }

/* Rows of lik and alpha that are kept at a time. A long group goes in segments: the forward pass leaves a checkpoint at
 * the start of each and is run again, segment by segment, before the way back. For few states the second run costs
 * less than rows that do not stay in the cache; for many it only bounds the memory. */
static int64_t kept_rows(int64_t K, int NV, int64_t T) {
    int64_t rows = whole_blocks(T), row = kept_row(K, NV);
    if (rows * row <= most_kept(K)) return rows;
    int64_t segment = (K < 12 ? most_kept(K) / 12 : most_kept(K)) / row / BLOCK * BLOCK;
    return segment > BLOCK ? segment : BLOCK;
}

/* Scratch in vectors of groups whose longest sequences have T steps or fewer, whatever the number of their lanes. The
 * most rows are kept of the longest sequence that needs no segments. */
static int64_t lanes_scratch(int64_t K, int64_t T) {
    int64_t most = 0;
    for (int NV = 1; NV <= widest_lanes(K); NV++) {
        int64_t rows = kept_rows(K, NV, T), segments = (T + rows - 1) / rows, whole = whole_blocks(T);
        int64_t work = 2 * K * NV + moves_size(K, NV), spare = MAX_LANES * BLOCK * K / VL;
        if (segments > 1) whole = most_kept(K) / kept_row(K, NV);
        rows = rows > whole ? rows : whole;
        int64_t vectors = 2 * rows * K * NV + work + segments * (K + 1) * NV + spare;
        most = vectors > most ? vectors : most;
    }
    return most;
}

/* A group: forward through all segments, then, if rows are wanted, back through them from the last one, which the
 * forward pass has kept. */
INLINE void lanes_run(const int64_t K, const int NV, Group *g, int smooth, int keep) {
    const int64_t W = K * NV, T = g->T[0], S = kept_rows(K, NV, T), n = (T + S - 1) / S;
    const int dust = smooth && !g->c->positive;
    if (g->outputs) outputs_ends(NV, g);
    Pass pass = {.ending = g->lanes - 1};
    Back back = {};
    for (int v = 0; v < NV; v++) pass.scale[v] = pass.least[v] = pass.smallest[v] = vset(1.0);
    for (int64_t q = 0; q < (keep ? 2 * n - 1 : n); q++) {
        int64_t segment = q < n ? q : 2 * n - 2 - q, t0 = segment * S, t1 = T - t0 < S ? T : t0 + S;
        int kept = keep && q >= n - 1;
        vd *mark = g->marks + segment * (W + NV);
        if (q && q < n) {
            memcpy(mark, g->alpha + (BLOCK - 1) * W, (size_t)W * sizeof(vd));
            memcpy(mark + W, pass.scale, NV * sizeof(vd));
        } else if (q) {
            memcpy(pass.scale, mark + W, NV * sizeof(vd));
        }
        lanes_forward(K, NV, g, &pass, t0, t1, mark, kept, dust);
        if (q == n - 1 && smooth) back = back_start(g, NV, K);
        if (q == n - 1 && g->outputs) outputs_ends(NV, g); /* the way forward may have found lanes doubtful */
        if (kept && smooth) lanes_backward(K, NV, g, &back, t0, t1);
        else if (kept) lanes_filtered(K, NV, g, t0, t1);
    }
    if (smooth) lanes_judge(g, &back);
}

#define LANES_OF(K) \
    case K: \
        if (NV == 1) lanes_run(K, 1, g, smooth, keep); \
        else lanes_run(K, 2, g, smooth, keep); \
        break;
/* A group with NV vectors of lanes; keep: rows are wanted, smoothed or filtered. */
static void lanes_group(int NV, Group *g, int smooth, int keep) {
    unsigned mode = flush_subnormals();
    switch (g->c->N) {
        LANES_OF(2) LANES_OF(3) LANES_OF(4) LANES_OF(5) LANES_OF(6) LANES_OF(8)
        default:
            if (NV == 1) lanes_run(g->c->N, 1, g, smooth, keep);
            else lanes_run(g->c->N, 2, g, smooth, keep);
    }
    restore_subnormals(mode);
}

#endif
