/* Which sequences run side by side, which alone. */
#ifndef HIERMM_DENSE_PLAN_H
#define HIERMM_DENSE_PLAN_H

#include "dense_lanes.h"
#include "dense_one.h"
#include "dense_steps.h"

/* A call: the packed arrays of all sequences, and where the results of each go. */
typedef struct {
    const Chain *c;
    const Run *all; /* at the start of the packed arrays */
    const int64_t *offsets;
    int64_t m;
    int smooth;
    double *loglik;
    int64_t *status;
    Symbols *symbols; /* then all->ll is the table (M, N) and nothing is written by step; or NULL */
    Outputs *outputs; /* then all->ll and all->gamma are NULL; or NULL */
    double *scratch;  /* of one_run, made when first needed, */
    double *rows;     /* and room for the rows of one sequence of symbols or outputs */
} Call;

typedef struct {
    int64_t T, s;
} Entry;

static int longer_first(const void *a, const void *b) {
    const Entry *x = (const Entry *)a, *y = (const Entry *)b;
    if (x->T != y->T) return x->T < y->T ? 1 : -1;
    return x->s < y->s ? -1 : 1;
}

static int64_t call_longest(const Call *call) {
    int64_t T = 0;
    for (int64_t s = 0; s < call->m; s++) {
        int64_t length = call->offsets[s + 1] - call->offsets[s];
        T = length > T ? length : T;
    }
    return T;
}

/* Log-likelihoods (T, N) of a sequence of symbols, and the way back: posteriors (T, N) summed by symbol. */
static void spread_symbols(Symbols *s, int64_t N, const double *table, const double *of, int64_t T, double *ll) {
    for (int64_t t = 0; t < T; t++, ll += N) {
        int64_t row = symbol_row(s, of[t]);
        if (row < s->M) memcpy(ll, table + row * N, (size_t)N * sizeof(double));
        else memset(ll, 0, (size_t)N * sizeof(double));
    }
}
static void collect_symbols(Symbols *s, int64_t N, const double *of, int64_t T, const double *gamma, double *first) {
    memcpy(first, gamma, (size_t)N * sizeof(double));
    for (int64_t t = 0; t < T; t++, gamma += N) {
        int64_t row = symbol_row(s, of[t]);
        for (int64_t j = 0; row < s->M && j < N; j++) s->gamma[row * N + j] += gamma[j];
    }
}

/* Posteriors (T, N) of a sequence of outputs; returns 0 without memory. */
static int collect_outputs(const Outputs *o, const double *y, int64_t T, const double *gamma) {
    for (int64_t j = 0; j < o->e->N; j++) o->first[j] += gamma[j];
    return normal_moments(o->e, T, y, NULL, gamma, &o->to);
}

/* Sequence s alone; returns 0 without memory. */
static int run_alone(Call *call, int64_t s) {
    const Chain *c = call->c;
    Symbols *symbols = call->symbols;
    Outputs *outputs = call->outputs;
    int64_t N = c->N, start = call->offsets[s];
    Run r = *call->all;
    if (!call->scratch) call->scratch = simd_alloc(one_scratch(c, call_longest(call), call->smooth));
    if ((symbols || outputs) && !call->rows) call->rows = simd_alloc(call_longest(call) * N);
    if (!call->scratch || ((symbols || outputs) && !call->rows)) return 0;
    r.start = start;
    r.T = call->offsets[s + 1] - start;
    if (symbols) {
        spread_symbols(symbols, N, r.ll, symbols->of + start, r.T, call->rows);
        r.ll = r.gamma = call->rows;
    } else if (outputs) {
        if (!normal_loglik(outputs->e, r.T, outputs->y + start * outputs->e->D, NULL, call->rows)) return 0;
        r.ll = r.gamma = call->rows;
    } else {
        r.ll += start * N;
        if (r.gamma) r.gamma += start * N;
    }
    if (r.xi_steps) {
        r.xi_steps += start * N * N;
        if (!r.alpha_in) memset(r.xi_steps, 0, (size_t)(N * N) * sizeof(double));
    }
    call->status[s] = one_run(c, &r, call->smooth, call->scratch);
    call->loglik[s] = r.loglik;
    if (symbols) collect_symbols(symbols, N, symbols->of + start, r.T, r.gamma, symbols->first + s * N);
    if (outputs && !collect_outputs(outputs, outputs->y + start * outputs->e->D, r.T, r.gamma)) return 0;
    return call->status[s] != NO_MEMORY;
}

/* States that the zeros of `initial` and A keep out of reach at each step, whatever the data: rows of 0 and 1 until
 * they repeat. Returns their number, 0 if all states are open from step 1 on or the rows never settle. */
static int64_t apart_table(const Chain *c, double *apart, int64_t most) {
    int64_t N = c->N;
    for (int64_t j = 0; j < N; j++) apart[j] = !(c->initial[j] > 0);
    for (int64_t t = 1; t < most; t++) {
        double *row = apart + t * N, *before = row - N, closed = 0;
        for (int64_t j = 0; j < N; j++) {
            int open = 0;
            for (int64_t i = 0; i < N; i++) open |= before[i] == 0 && c->A[i * N + j] > 0;
            row[j] = !open;
            closed += row[j];
        }
        if (!memcmp(row, before, (size_t)N * sizeof(double))) return closed ? t + 1 : 0;
    }
    return 0;
}

/* Lanes pay when enough of them are filled: early for small chains, where a sequence alone waits on latency. */
static int worth_lanes(const Chain *c, const Entry *e, int64_t count, int NV) {
    int64_t steps = 0;
    for (int64_t k = 0; k < count; k++) steps += e[k].T;
    return (double)steps >= (c->N < 24 ? 0.3 : 0.75) * (double)(VL * NV * e[0].T);
}

/* Put sequences e[0 .. count) into the lanes. */
static void fill_lanes(const Call *call, Group *g, const Entry *e, int64_t count) {
    g->lanes = (int)count;
    for (int l = 0; l < MAX_LANES; l++) {
        int64_t row = l < count ? call->offsets[e[l].s] : 0, start = row * call->c->N;
        g->T[l] = l < count ? e[l].T : 0;
        g->doubtful[l] = l >= count;
        if (call->symbols) {
            g->of[l] = call->symbols->of + row;
            g->first[l] = call->symbols->first + (l < count ? e[l].s : 0) * call->c->N;
            continue;
        }
        if (call->outputs) {
            call->outputs->from.ll[l] = call->outputs->y + row * call->outputs->e->D;
            continue;
        }
        g->ll[l] = call->all->ll + start;
        g->gamma[l] = call->all->gamma ? call->all->gamma + start : NULL;
    }
}

/* What the lanes found; the doubtful sequences again alone. Returns 0 without memory. */
static int empty_lanes(Call *call, const Group *g, const Entry *e, int64_t count) {
    for (int l = 0; l < count; l++) {
        call->loglik[e[l].s] = g->loglik[l];
        call->status[e[l].s] = FINE;
        if (g->doubtful[l] && !run_alone(call, e[l].s)) return 0;
    }
    return 1;
}

/* The sums of a group, which hold nothing of doubtful lanes, to those of the call. */
static void add_group(const Call *call, const Group *g) {
    const Chain *c = call->c;
    const Symbols *s = call->symbols;
    int64_t N = c->N;
    for (int64_t i = 0; g->counts && i < N; i++)
        for (int64_t j = 0; j < N; j++) call->all->xi[i * N + j] += c->A[i * N + j] * count_of(N, g->counts, i, j);
    for (int64_t k = 0; s && k < s->M; k++)
        for (int64_t j = 0; j < N; j++) s->gamma[k * N + j] += s->sums[k * s->stride + j];
    if (call->outputs) add_outputs(call->outputs);
}

static int any_doubtful(const Group *g) {
    int found = 0;
    for (int l = 0; l < g->lanes; l++) found |= g->doubtful[l];
    return found;
}

/* A copy of numbers that a group changes, or the way back; returns what follows `kept`. */
static double *keep(double *numbers, int64_t size, double *kept, int back) {
    memcpy(back ? numbers : kept, back ? kept : numbers, (size_t)size * sizeof(double));
    return kept + size;
}

/* The same for the rows of all lanes, where gamma takes the place of ll. */
static void keep_rows(const Call *call, const Entry *e, int64_t count, double *kept, int back) {
    int64_t N = call->c->N;
    for (int64_t l = 0; l < count; l++)
        kept = keep(call->all->gamma + call->offsets[e[l].s] * N, e[l].T * N, kept, back);
}

/* The same for the sums of moves: all of them, or those of the steps of all lanes where these are fewer. */
static void keep_moves(const Call *call, const Entry *e, int64_t count, double *kept, int back) {
    const Chain *c = call->c;
    int64_t size = c->N * c->N, steps = 0;
    for (int64_t l = 0; l < count; l++) steps += e[l].T;
    if (c->L <= steps) {
        keep(call->all->xi, c->L * size, kept, back);
        return;
    }
    for (int64_t l = 0; l < count; l++)
        for (int64_t k = call->offsets[e[l].s]; k < call->offsets[e[l].s + 1]; k++)
            kept = keep(call->all->xi + matrix_of(c, k) * size, size, kept, back);
}

/* Sequences e[0 .. count) side by side under a constant matrix. If the way back finds that some of them cannot be done
 * so, nothing of the group counts, and the others are done again without them. Returns 0 without memory. */
static int run_lanes(Call *call, Group *g, const Entry *e, int64_t count, int NV, int keep, double *kept) {
    int64_t N = call->c->N, rows = kept_rows(N, NV, e[0].T), segments = (e[0].T + rows - 1) / rows;
    Symbols *s = call->symbols;
    fill_lanes(call, g, e, count);
    g->alpha = g->lik + rows * N * NV;
    g->work = g->alpha + rows * N * NV;
    g->marks = g->work + 2 * N * NV + moves_size(N, NV);
    g->spare = (double *)(g->marks + segments * (N + 1) * NV);
    if (kept) keep_rows(call, e, count, kept, 0);
    for (int smooth = call->smooth;;) {
        if (g->counts) memset(g->counts, 0, (size_t)counts_size(N) * sizeof(double));
        if (s) memset(s->sums, 0, (size_t)((s->M + 2) * s->stride) * sizeof(double));
        if (call->outputs) clear_outputs(call->outputs);
        lanes_group(NV, g, smooth, keep || smooth);
        if (!keep && !smooth && any_doubtful(g)) { /* likelihoods alone: the way back may vouch for them */
            for (int l = 0; l < g->lanes; l++) g->doubtful[l] = 0;
            smooth = 1;
        } else if (g->spoilt) {
            if (kept) keep_rows(call, e, count, kept, 1);
        } else {
            break;
        }
    }
    add_group(call, g);
    return empty_lanes(call, g, e, count);
}

/* Smoothing of short rows under a matrix a step, as run_lanes; returns 0 without memory. */
static int run_steps(Call *call, Entry *e) {
    const Chain *c = call->c;
    int64_t N = c->N, size = N * N, most = (call->m < VL ? call->m : VL) * call_longest(call);
    Steps s = {.g = {.c = c}, .xi = call->all->xi, .xi_steps = call->all->xi_steps};
    int keeps = s.xi && !c->positive;
    double *kept = NULL;
    qsort(e, (size_t)call->m, sizeof(Entry), longer_first);
    double *scratch = simd_alloc(steps_scratch(N, e[0].T) * VL);
    if (keeps) kept = simd_alloc((c->L < most ? c->L : most) * size);
    int enough = scratch && (kept || !keeps);
    s.matrices = (vd *)scratch;
    s.joint = s.matrices + BLOCK * size;
    s.rows = (double *)(s.joint + BLOCK * size);
    s.g.work = s.joint + 2 * BLOCK * size;
    s.g.spare = (double *)(s.g.work + N);
    s.g.lik = (vd *)(s.g.spare + MAX_LANES * BLOCK * N);
    s.g.alpha = s.g.lik + (e[0].T + BLOCK - 1) / BLOCK * BLOCK * N;
    for (int64_t k = 0, count; enough && k < call->m; k += count) {
        count = call->m - k < VL ? call->m - k : VL;
        if (worth_lanes(c, e + k, count, 1)) {
            fill_lanes(call, &s.g, e + k, count);
            for (int l = 0; l < VL; l++) s.start[l] = l < count ? call->offsets[e[k + l].s] : 0;
            if (kept) keep_moves(call, e + k, count, kept, 0);
            for (steps_group(&s); s.g.spoilt; steps_group(&s))
                if (kept) keep_moves(call, e + k, count, kept, 1);
            enough = empty_lanes(call, &s.g, e + k, count);
        } else {
            count = 1;
            enough = run_alone(call, e[k].s);
        }
    }
    simd_free(scratch);
    simd_free(kept);
    return enough;
}

/* Everything under one constant matrix; returns 0 without memory. */
static int run_side_by_side(Chain *c, Call *call, Entry *e) {
    int64_t N = c->N, table = c->positive ? 0 : 4 * N + 4;
    int keep = call->smooth || call->all->gamma, widest = widest_lanes(N);
    Group g = {.c = c, .symbols = call->symbols, .outputs = call->outputs};
    double *apart = NULL, *kept = NULL;
    int enough = 1, keeps = call->smooth && !c->positive && call->all->gamma && call->all->gamma == call->all->ll;
    qsort(e, (size_t)call->m, sizeof(Entry), longer_first);
    g.lik = (vd *)simd_alloc(lanes_scratch(N, e[0].T) * VL);
    if (call->all->xi) g.counts = simd_alloc(counts_size(N));
    c->tiles = simd_alloc(2 * N * N);
    if (table) apart = simd_alloc(table * N);
    if (keeps) kept = simd_alloc((call->m < MAX_LANES ? call->m : MAX_LANES) * e[0].T * N);
    enough = g.lik && c->tiles && (g.counts || !call->all->xi) && (apart || !table) && (kept || !keeps);
    if (enough) {
        pack_tiles(N, c->rows, c->NP, c->tiles);
        pack_tiles(N, c->cols, c->NP, c->tiles + N * N);
    }
    if (enough && table) g.apart_rows = apart_table(c, apart, table);
    g.apart = apart;
    for (int64_t k = 0, count; enough && k < call->m; k += count) {
        int NV = call->m - k > VL ? widest : 1;
        count = call->m - k < NV * VL ? call->m - k : NV * VL;
        if (worth_lanes(c, e + k, count, NV)) {
            enough = run_lanes(call, &g, e + k, count, NV, keep, kept);
        } else {
            count = 1;
            enough = run_alone(call, e[k].s);
        }
    }
    simd_free(g.lik);
    simd_free(c->tiles);
    simd_free(g.counts);
    simd_free(apart);
    simd_free(kept);
    return enough;
}

/* Can no matrix that is used let a state fall out of range? Rows that begin a sequence are not used. */
static void judge_entries(Chain *c, const Call *call) {
    int64_t size = c->N * c->N, first = call->all->alpha_in ? 0 : 1;
    double least = 1;
    if (c->constant || c->index) least = smallest_entry(c->A, c->L * size);
    for (int64_t s = 0; s < call->m && !c->constant && !c->index; s++) {
        int64_t start = call->offsets[s] + first;
        double here = smallest_entry(c->A + start * size, (call->offsets[s + 1] - start) * size);
        least = here < least ? here : least;
    }
    c->positive = least >= RANGE;
    c->pace = 1;
    for (double left = least; c->pace < 8 && (left *= least) >= 1e-60;) c->pace++;
}

/* All sequences of a call; returns 0 without memory. */
static int run_all(Chain *c, const Run *all, int smooth, const int64_t *offsets, int64_t m, double *loglik,
                   int64_t *status, Symbols *symbols, Outputs *outputs) {
    Call call = {c, all, offsets, m, smooth, loglik, status, symbols, outputs, NULL, NULL};
    Entry *e = (Entry *)malloc((size_t)m * sizeof(Entry));
    int enough = chain_prepare(c, 0.0) && e;
    if (enough) {
        judge_entries(c, &call);
        for (int64_t s = 0; s < m; s++) e[s] = (Entry){offsets[s + 1] - offsets[s], s};
        if (c->constant && m > 1 && !all->xi_steps) enough = run_side_by_side(c, &call, e);
        else if (smooth && m > 1 && c->N > 1 && c->N <= STEPS_MOST) enough = run_steps(&call, e);
        else
            for (int64_t s = 0; s < m && enough; s++) enough = run_alone(&call, s);
    }
    free(e);
    simd_free(call.scratch);
    simd_free(call.rows);
    simd_free(c->rows);
    return enough;
}

/* The smoother of steps known by symbol: `all->ll` (M, N) is the log-likelihood of each. Returns 0 without memory. */
static int run_symbols(Chain *c, const Run *all, const int64_t *offsets, int64_t m, double *loglik, int64_t *status,
                       Symbols *s) {
    int64_t N = c->N, M = s->M, stride = s->stride = (N + VL - 1) / VL * VL, size = (M + 2) * stride;
    s->likelihood = simd_alloc(2 * size + M + 2);
    if (!s->likelihood) return 0;
    s->sums = s->likelihood + size;
    s->top = s->sums + size;
    memset(s->gamma, 0, (size_t)(M * N) * sizeof(double));
    for (int64_t k = 0; k < M; k++) s->top[k] = relative_likelihoods(N, stride, all->ll + k * N, s->likelihood + k * stride);
    for (int64_t q = M * stride; q < size; q++) s->likelihood[q] = 1.0;
    s->top[M] = s->top[M + 1] = 0.0;
    int enough = run_all(c, all, 1, offsets, m, loglik, status, s, NULL);
    simd_free(s->likelihood);
    return enough;
}

#endif
