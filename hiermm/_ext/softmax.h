/* Inner loops of softmax.pyx. A "chunk" is VL consecutive steps, one a lane; a block is BLOCK_CHUNKS chunks.
 * Loops over destinations are compiled for the fixed sizes 1..8, so that they unroll, and once for any size. */
#ifndef HIERMM_SOFTMAX_H
#define HIERMM_SOFTMAX_H

#include "simd.h"

enum { BLOCK_CHUNKS = 8, BLOCK_STEPS = BLOCK_CHUNKS * VL, TILE_ROWS = VL == 8 ? 6 : 3, TILE_COLUMNS = 4 };

/* Calls BODY with the number of free destinations as a constant where it is small. */
#define BY_SIZE(F, BODY, ...)                                                                                          \
    switch (F) {                                                                                                       \
    case 1: BODY(1, __VA_ARGS__); break;                                                                               \
    case 2: BODY(2, __VA_ARGS__); break;                                                                               \
    case 3: BODY(3, __VA_ARGS__); break;                                                                               \
    case 4: BODY(4, __VA_ARGS__); break;                                                                               \
    case 5: BODY(5, __VA_ARGS__); break;                                                                               \
    case 6: BODY(6, __VA_ARGS__); break;                                                                               \
    case 7: BODY(7, __VA_ARGS__); break;                                                                               \
    case 8: BODY(8, __VA_ARGS__); break;                                                                               \
    default: BODY(F, __VA_ARGS__);                                                                                     \
    }

/* Column of free destination f when destination `skip` is left out (skip > F leaves none out). */
INLINE int64_t column(int64_t f, int64_t skip) { return f + (f >= skip); }

/* ---- between steps in rows of memory and steps in lanes ------------------------------------------------------- */

#if VL == 8
/* Columns of eight rows of at most four numbers: rows l and l + 4 share a vector, so half the moves do. */
INLINE void load_narrow(const double *rows, int64_t stride, int64_t width, vd *columns) {
    const __mmask8 some = (__mmask8)((1 << width) - 1);
    const __m512i low = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13), high = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
    __m512d v[4], pairs[4];
    for (int l = 0; l < 4; l++)
        v[l] = _mm512_insertf64x4(_mm512_castpd256_pd512(_mm256_maskz_loadu_pd(some, rows + l * stride)),
                                  _mm256_maskz_loadu_pd(some, rows + (l + 4) * stride), 1);
    for (int l = 0; l < 4; l += 2) {
        pairs[l] = _mm512_unpacklo_pd(v[l], v[l + 1]);
        pairs[l + 1] = _mm512_unpackhi_pd(v[l], v[l + 1]);
    }
    for (int c = 0; c < width; c++) columns[c] = (vd)_mm512_permutex2var_pd(pairs[c % 2], c < 2 ? low : high, pairs[2 + c % 2]);
}
#endif

/* columns[c] = column c of `steps` <= VL rows of memory, one row a lane; lanes beyond `steps` are zero. Whole tiles of
 * VL x VL numbers, and narrow rows, have paths of their own, which stay in registers. */
INLINE void load_chunk(const double *rows, int64_t stride, int64_t steps, int64_t width, vd *columns) {
    int64_t c = 0;
#if VL == 8
    if (steps == VL && width <= 4) {
        load_narrow(rows, stride, width, columns);
        return;
    }
#endif
    for (; steps == VL && c + VL <= width; c += VL) {
        vd v[VL];
        for (int l = 0; l < VL; l++) v[l] = vload(rows + l * stride + c);
        vtranspose(v);
        for (int l = 0; l < VL; l++) columns[c + l] = v[l];
    }
    for (; c < width; c += VL) {
        int64_t some = width - c < VL ? width - c : VL;
        vd v[VL];
        for (int64_t l = 0; l < VL; l++) v[l] = l < steps ? vload_part(rows + l * stride + c, some, 0.0) : (vd){0};
        vtranspose(v);
        for (int64_t l = 0; l < some; l++) columns[c + l] = v[l];
    }
}

/* The reverse of load_chunk. */
INLINE void store_chunk(const vd *columns, int64_t stride, int64_t steps, int64_t width, double *rows) {
    int64_t c = 0;
    for (; steps == VL && c + VL <= width; c += VL) {
        vd v[VL];
        for (int l = 0; l < VL; l++) v[l] = columns[c + l];
        vtranspose(v);
        for (int l = 0; l < VL; l++) vstore(rows + l * stride + c, v[l]);
    }
    for (; c < width; c += VL) {
        int64_t some = width - c < VL ? width - c : VL;
        vd v[VL];
        for (int64_t l = 0; l < VL; l++) v[l] = l < some ? columns[c + l] : (vd){0};
        vtranspose(v);
        for (int64_t l = 0; l < steps; l++) vstore_part(rows + l * stride + c, some, v[l]);
    }
}

/* A block of up to BLOCK_STEPS steps; chunk k of the result begins at columns + k * width. Returns its chunks. */
static int64_t load_block(const double *rows, int64_t stride, int64_t steps, int64_t width, vd *columns) {
    int64_t chunks = 0;
    for (int64_t t = 0; t < steps; t += VL, chunks++)
        load_chunk(rows + t * stride, stride, steps - t < VL ? steps - t : VL, width, columns + chunks * width);
    return chunks;
}

static void store_block(const vd *columns, int64_t stride, int64_t steps, int64_t width, double *rows) {
    for (int64_t t = 0, k = 0; t < steps; t += VL, k++)
        store_chunk(columns + k * width, stride, steps - t < VL ? steps - t : VL, width, rows + t * stride);
}

static void clear(int64_t vectors, vd *sums) {
    for (int64_t i = 0; i < vectors; i++) sums[i] = (vd){0};
}

static double total(const vd *sums) { return hsum(*sums); }

/* ---- logits, probabilities, divergence of one group over one block -------------------------------------------- */

/* log x for normal x > 0: x = 2^k m with m around 1, and log m = 2 atanh((m - 1) / (m + 1)). */
INLINE vd vlog_normal(vd x) {
    vi bits = (vi)x + 0x95f6198000000; /* moves the break of the exponent to sqrt(2) */
    vi k = (bits >> 52) - 1023;
    vd m = (vd)((vi)x - (k << 52)), s = (m - 1.0) / (m + 1.0), q = s * s, sum = vset(2.0 / 23.0);
    for (int i = 21; i >= 3; i -= 2) sum = sum * q + 2.0 / i;
    return __builtin_convertvector(k, vd) * 0.6931471805599453 + (s * 2.0 + s * q * sum);
}

/* Logits of the free destinations into z[0..F-1]. */
INLINE void logits(int64_t F, const vd *u, int64_t P, const double *coef, const double *intercept, vd *z) {
    for (int64_t f = 0; f < F; f++) z[f] = vset(intercept[f]);
    for (int64_t p = 0; p < P; p++)
        for (int64_t f = 0; f < F; f++) z[f] += u[p] * coef[f * P + p];
}

#define NEAR 300.0 /* a gap between logits whose exponential is far from the ends of the range */

/* Turns logits into exponentials relative to one of them, z[f] = exp(z[f] - *base), and returns their sum. The base is
 * the first logit where all others are near it, so that its own exponential need not be worked out, else the largest. */
INLINE vd exponentials(int64_t F, vd *z, vd *base) {
    vd far = {0}, sum = vset(1.0);
    for (int64_t f = 1; f < F; f++) {
        far = vmax((vd)((vi)(z[f] - z[0]) & INT64_MAX), far);
    }
    if (vfirst(far > vset(NEAR)) == VL) {
        *base = z[0];
        for (int64_t f = 1; f < F; f++) sum += z[f] = vexp_near(z[f] - *base);
        z[0] = vset(1.0);
        return sum;
    }
    vd top = z[0];
    for (int64_t f = 1; f < F; f++) top = vmax(top, z[f]);
    sum = (vd){0};
    for (int64_t f = 0; f < F; f++) sum += z[f] = vexp_low(z[f] - top);
    *base = top;
    return sum;
}

INLINE void probabilities_body(int64_t F, int64_t chunks, const vd *u, int64_t P, const double *coef,
                                       const double *intercept, double mass, vd *scratch, int64_t skip, vd *out,
                                       int64_t width) {
    vd few[8], *z = F <= 8 ? few : scratch, base;
    for (int64_t k = 0; k < chunks; k++, u += P, out += width) {
        logits(F, u, P, coef, intercept, z);
        vd scale = mass / exponentials(F, z, &base);
        for (int64_t f = 0; f < F; f++) out[column(f, skip)] = z[f] * scale;
    }
}

/* Softmax over the free destinations times `mass`; destination `skip`, if there is one, gets the rest. */
static void group_probabilities(int64_t F, int64_t chunks, const vd *u, int64_t P, const double *coef,
                                const double *intercept, double mass, vd *scratch, int64_t skip, vd *out,
                                int64_t width) {
    if (skip <= F)
        for (int64_t k = 0; k < chunks; k++) out[k * width + skip] = vset(1.0 - mass);
    BY_SIZE(F, probabilities_body, chunks, u, P, coef, intercept, mass, scratch, skip, out, width)
}

INLINE void divergence_body(int64_t F, int64_t chunks, const vd *u, int64_t P, const double *coef,
                            const double *intercept, const double *coef_change, const double *intercept_change,
                            vd *scratch, const vd *leaving, int64_t n_groups, vd *value) {
    vd few[24], *z = F <= 8 ? few : scratch, *change = z + F, *moved = change + F;
    vd ratio[BLOCK_CHUNKS], sum_value = {0}; /* logarithms apart: side by side they need not wait for each other */
    for (int64_t k = 0; k < chunks; k++, u += P, leaving += n_groups) {
        vd base, new_base, mean = {0};
        logits(F, u, P, coef, intercept, z);
        logits(F, u, P, coef_change, intercept_change, change);
        for (int64_t f = 0; f < F; f++) moved[f] = z[f] + change[f];
        vd scale = 1.0 / exponentials(F, z, &base), sum = exponentials(F, moved, &new_base);
        for (int64_t f = 0; f < F; f++) mean += z[f] * change[f];
        ratio[k] = sum * scale;
        sum_value += *leaving * ((new_base - base) - mean * scale);
    }
    leaving -= chunks * n_groups;
    for (int64_t k = 0; k < chunks; k++, leaving += n_groups) sum_value += *leaving * vlog_normal(ratio[k]);
    *value += sum_value;
}

/* Adds sum_k leaving[k * n_groups] KL(p || p') to *value, a partial sum a lane; p' has the changed parameters, and
 * KL = log sum exp z' - log sum exp z - sum p (z' - z). */
static void group_divergence(int64_t F, int64_t chunks, const vd *u, int64_t P, const double *coef,
                             const double *intercept, const double *coef_change, const double *intercept_change,
                             vd *scratch, const vd *leaving, int64_t n_groups, vd *value) {
    BY_SIZE(F, divergence_body, chunks, u, P, coef, intercept, coef_change, intercept_change, scratch, leaving,
            n_groups, value)
}

/* Log-normaliser, base + log sum exp(z - base), of every step of a block into out[k * width]. */
INLINE void normalizer_body(int64_t F, int64_t chunks, const vd *u, int64_t P, const double *coef,
                                    const double *intercept, vd *scratch, vd *out, int64_t width) {
    vd few[8], *z = F <= 8 ? few : scratch;
    for (int64_t k = 0; k < chunks; k++, u += P, out += width) {
        vd base;
        logits(F, u, P, coef, intercept, z);
        vd sum = exponentials(F, z, &base);
        *out = base + vlog_normal(sum);
    }
}

static void group_normalizer(int64_t F, int64_t chunks, const vd *u, int64_t P, const double *coef,
                             const double *intercept, vd *scratch, vd *out, int64_t width) {
    BY_SIZE(F, normalizer_body, chunks, u, P, coef, intercept, scratch, out, width)
}

/* ---- gradient and Hessian ------------------------------------------------------------------------------------- */

/* Products f_a f_b, a <= b, of the features f = (1, u) of a block: row q of the result is products + q * BLOCK_CHUNKS.
 * The first P + 1 rows are the features themselves. */
static void feature_products(int64_t chunks, const vd *u, int64_t P, vd *products) {
    vd one = vset(1.0);
    for (int64_t a = 0; a <= P; a++)
        for (int64_t b = a; b <= P; b++, products += BLOCK_CHUNKS)
            for (int64_t k = 0; k < chunks; k++)
                products[k] = (a ? u[k * P + a - 1] : one) * (b ? u[k * P + b - 1] : one);
}

/* Adds the sum over a block's `steps` of f f^T to moments (P+1, P+1). Lanes beyond the steps hold f = (1, 0). */
static void add_moments(int64_t chunks, int64_t steps, int64_t P, const vd *products, double *moments) {
    for (int64_t a = 0; a <= P; a++)
        for (int64_t b = a; b <= P; b++, products += BLOCK_CHUNKS) {
            vd sum = {0};
            for (int64_t k = 0; k < chunks; k++) sum += products[k];
            double s = a || b ? hsum(sum) : (double)steps;
            moments[a * (P + 1) + b] += s;
            if (a != b) moments[b * (P + 1) + a] += s;
        }
}

/* Per step, with n the group's total count: residual_f = count_f - n p_f, written as a sum over pairs of
 * count_f p_g - count_g p_f so that saturated rows lose no digits, and weight_fg = n p_f p_g for f < g, the
 * off-diagonal part of the curvature; the diagonal follows, because the rows of the curvature sum to zero. n of chunk k
 * goes to leaving[k * n_groups]. */
INLINE void weights_body(int64_t F, int64_t chunks, const vd *p, const vd *c, int64_t width, int64_t skip,
                         double scale, vd *residual, vd *weight, vd *leaving, int64_t n_groups) {
    vd few[8];
    for (int64_t k = 0; k < chunks; k++, p += width, c += width) {
        vd total = {0}, *rest = F <= 8 ? few : residual + k;
        int64_t step = F <= 8 ? 1 : BLOCK_CHUNKS;
        for (int64_t f = 0; f < F; f++) {
            total += c[column(f, skip)];
            rest[f * step] = (vd){0};
        }
        leaving[k * n_groups] = total;
        vd *w = weight + k, scaled = total * (scale * scale);
        for (int64_t f = 0; f < F; f++) {
            vd pf = p[column(f, skip)], cf = c[column(f, skip)] * scale, wf = pf * scaled;
            for (int64_t g = f + 1; g < F; g++, w += BLOCK_CHUNKS) {
                vd pg = p[column(g, skip)], net = cf * pg - c[column(g, skip)] * (pf * scale);
                rest[f * step] += net;
                rest[g * step] -= net;
                *w = wf * pg;
            }
        }
        for (int64_t f = 0; F <= 8 && f < F; f++) residual[f * BLOCK_CHUNKS + k] = rest[f];
    }
}

/* sums[i][j] += sum over chunks of left[i] right[j]: one tile of a matrix product, held in registers. */
INLINE void tile(int rows, int columns, int64_t chunks, const vd *left, const vd *right, vd *sums,
                         int64_t stride) {
    vd s[TILE_ROWS][TILE_COLUMNS];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++) s[i][j] = sums[i * stride + j];
    for (int64_t k = 0; k < chunks; k++)
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < columns; j++) s[i][j] += left[i * BLOCK_CHUNKS + k] * right[j * BLOCK_CHUNKS + k];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++) sums[i * stride + j] = s[i][j];
}

INLINE void tile_row(int rows, int64_t n_columns, int64_t chunks, const vd *left, const vd *right, vd *sums,
                             int64_t stride) {
    int64_t j = 0;
    for (; j + TILE_COLUMNS <= n_columns; j += TILE_COLUMNS)
        tile(rows, TILE_COLUMNS, chunks, left, right + j * BLOCK_CHUNKS, sums + j, stride);
    switch (n_columns - j) {
    case 3: tile(rows, 3, chunks, left, right + j * BLOCK_CHUNKS, sums + j, stride); break;
    case 2: tile(rows, 2, chunks, left, right + j * BLOCK_CHUNKS, sums + j, stride); break;
    case 1: tile(rows, 1, chunks, left, right + j * BLOCK_CHUNKS, sums + j, stride); break;
    }
}

/* sums (n_rows, stride) += left (n_rows, chunks) right (n_columns, chunks)^T, lane by lane. */
static void add_products(int64_t n_rows, int64_t n_columns, int64_t chunks, const vd *left, const vd *right, vd *sums,
                         int64_t stride) {
    int64_t i = 0;
    for (; i + TILE_ROWS <= n_rows; i += TILE_ROWS)
        tile_row(TILE_ROWS, n_columns, chunks, left + i * BLOCK_CHUNKS, right, sums + i * stride, stride);
#define ROWS_LEFT(n) \
    case n: tile_row(n, n_columns, chunks, left + i * BLOCK_CHUNKS, right, sums + i * stride, stride); break;
    switch (n_rows - i) { ROWS_LEFT(1) ROWS_LEFT(2) ROWS_LEFT(3) ROWS_LEFT(4) ROWS_LEFT(5) }
#undef ROWS_LEFT
}

/* A group's lane sums: residuals by features (F, P + 1), curvature by products of features (pairs, features), count. */
INLINE int64_t sums_size(int64_t F, int64_t P) {
    return F * (P + 1) + F * (F - 1) / 2 * ((P + 1) * (P + 2) / 2) + 1;
}

/* Scratch of add_sums in vectors. */
INLINE int64_t weights_size(int64_t F) { return BLOCK_CHUNKS * (F + F * (F - 1) / 2); }

/* Adds a block of one group, with probabilities p and counts c, to its lane sums; see weights_body for the rest. */
static void add_sums(int64_t F, int64_t P, int64_t chunks, const vd *p, const vd *c, int64_t width, int64_t skip,
                     double scale, const vd *products, vd *scratch, vd *leaving, int64_t n_groups, vd *sums) {
    int64_t pairs = F * (F - 1) / 2, features = (P + 1) * (P + 2) / 2;
    vd *residual = scratch, *weight = scratch + F * BLOCK_CHUNKS, *curvature = sums + F * (P + 1);
    BY_SIZE(F, weights_body, chunks, p, c, width, skip, scale, residual, weight, leaving, n_groups)
    add_products(F, P + 1, chunks, residual, products, sums, P + 1);
    add_products(pairs, features, chunks, weight, products, curvature, features);
    for (int64_t k = 0; k < chunks; k++) curvature[pairs * features] += leaving[k * n_groups];
}

/* Adds a group's lane sums to its gradient (M, P+1) and Hessian (M (P+1))^2; returns its count. */
static double spread(int64_t F, int64_t M, int64_t P, int64_t skip, const vd *sums, double *gradient,
                     double *hessian) {
    int64_t nf = P + 1, n = M * nf;
    const vd *residual_sums = sums, *weight_sums = sums + F * nf;
    for (int64_t f = 0; f < F; f++)
        for (int64_t a = 0; a < nf; a++) gradient[column(f, skip) * nf + a] += hsum(residual_sums[f * nf + a]);
    for (int64_t f = 0; f < F; f++)
        for (int64_t g = f + 1; g < F; g++)
            for (int64_t a = 0; a < nf; a++)
                for (int64_t b = a; b < nf; b++, weight_sums++) {
                    int64_t i = column(f, skip) * nf, j = column(g, skip) * nf;
                    double s = hsum(*weight_sums);
                    for (int swap = 0; swap < (a == b ? 1 : 2); swap++) {
                        int64_t x = swap ? b : a, y = swap ? a : b;
                        hessian[(i + x) * n + i + y] += s;
                        hessian[(j + x) * n + j + y] += s;
                        hessian[(i + x) * n + j + y] -= s;
                        hessian[(j + x) * n + i + y] -= s;
                    }
                }
    return hsum(*weight_sums);
}
#endif
