"""Softmax rows driven by inputs: probabilities, divergence, and the sums that a Newton step needs.

There are G groups (a row of a transition matrix, or a state of a categorical regression), M destinations and P inputs:
z[k, g] = intercept[g] + coef[g] @ inputs[k] and p = softmax(z). With `stay` (G,) and 0 <= w < 1, destination stay[g]
has the constant probability w and the softmax divides 1 - w among the others, the free ones. An intercept of -inf
forbids a destination: its probability is exactly zero. The steps run in the lanes of the processor's vectors, block by
block; softmax.h holds the loops.
"""

from libc.stdint cimport int64_t

import numpy as np

cdef extern from "softmax.h" nogil:
    ctypedef struct vd:  # VL doubles; only pointers to it are used here
        pass
    enum:
        VL
        BLOCK_CHUNKS
        BLOCK_STEPS
    double *simd_alloc(int64_t doubles)
    void simd_free(void *piece)
    int64_t load_block(const double *rows, int64_t stride, int64_t steps, int64_t width, vd *columns)
    void store_block(const vd *columns, int64_t stride, int64_t steps, int64_t width, double *rows)
    void group_probabilities(int64_t F, int64_t chunks, const vd *u, int64_t P, const double *coef,
                             const double *intercept, double mass, vd *scratch, int64_t skip, vd *out, int64_t width)
    void group_divergence(int64_t F, int64_t chunks, const vd *u, int64_t P, const double *coef,
                          const double *intercept, const double *coef_change, const double *intercept_change,
                          vd *scratch, const vd *leaving, int64_t n_groups, vd *value)
    void group_normalizer(int64_t F, int64_t chunks, const vd *u, int64_t P, const double *coef,
                          const double *intercept, vd *scratch, vd *out, int64_t width)
    void feature_products(int64_t chunks, const vd *u, int64_t P, vd *products)
    void add_moments(int64_t chunks, int64_t steps, int64_t P, const vd *products, double *moments)
    int64_t sums_size(int64_t F, int64_t P)
    int64_t weights_size(int64_t F)
    void add_sums(int64_t F, int64_t P, int64_t chunks, const vd *p, const vd *c, int64_t width, int64_t skip,
                  double scale, const vd *products, vd *scratch, vd *leaving, int64_t n_groups, vd *sums)
    double spread(int64_t F, int64_t M, int64_t P, int64_t skip, const vd *sums, double *gradient, double *hessian)
    void clear(int64_t vectors, vd *sums)
    double total(const vd *sums)

cdef int64_t SUMS_AT_ONCE = 1 << 14  # vectors of running sums held at a time; more groups than fit take more passes


cdef int64_t row_stride(const double[:, :, :] x, tuple shape, str name) except -1:
    """Elements from one step of `x` to the next; the two axes behind must be contiguous."""
    if (x.shape[0], x.shape[1], x.shape[2]) != shape:
        raise ValueError(f"{name} has shape {(x.shape[0], x.shape[1], x.shape[2])}, expected {shape}")
    cdef int64_t size = sizeof(double)
    if (x.shape[2] > 1 and x.strides[2] != size) or (x.shape[1] > 1 and x.strides[1] != x.shape[2] * size):
        raise ValueError(f"the last two axes of {name} must be contiguous")
    return x.strides[0] // <int64_t>sizeof(double)


cdef int64_t leaving_stride(const double[:, :] x, int64_t n, int64_t G) except -1:
    """Elements from one step of `leaving` to the next."""
    if x.shape[0] != n or x.shape[1] != G or (G > 1 and x.strides[1] != sizeof(double)):
        raise ValueError(f"leaving must have shape {(n, G)} and contiguous rows, got {np.shape(x)}")
    return x.strides[0] // <int64_t>sizeof(double)


def _free(coef, intercept, w, stay):
    """Check the shapes and return (F, coef, intercept, skip): parameters of the free destinations, column left out."""
    G, M = intercept.shape
    if coef.shape[:2] != (G, M):
        raise ValueError(f"coef has shape {coef.shape}, expected {(G, M)} and the inputs")
    F, skip = _skips(G, M, w, stay)
    if F < M:
        free_ = np.arange(M) != np.asarray(stay)[:, None]
        coef, intercept = coef[free_].reshape(G, F, coef.shape[2]), intercept[free_].reshape(G, F)
    return F, np.ascontiguousarray(coef, float), np.ascontiguousarray(intercept, float), skip


def _skips(G, M, w, stay):
    """Return the number of free destinations and the one left out in each group (M + 1: none)."""
    if stay is None or w < 0:
        return M, np.full(G, M + 1, np.int64)
    skip = np.ascontiguousarray(stay, np.int64)
    if skip.shape != (G,) or (skip < 0).any() or (skip >= M).any():
        raise ValueError(f"stay must hold {G} destinations below {M}")
    if M < 2 or w >= 1:
        raise ValueError(f"a fixed probability w = {w} of {M} destinations leaves nothing to divide; need M > 1, w < 1")
    return M - 1, skip


def probabilities(const double[:, ::1] inputs,  # IN (n, P)
                  coef,  # IN (G, M, P)
                  intercept,  # IN (G, M)
                  double w,  # IN, < 0: none
                  stay,  # IN (G,) or None
                  double[:, :, :] out,  # OUT (n, G, M), any stride along the first axis
                  ):
    """Probabilities of all destinations in all groups at every step."""
    F_, coef_, intercept_, skip_ = _free(np.asarray(coef), np.asarray(intercept), w, stay)
    cdef const double[:, :, ::1] W = coef_
    cdef const double[:, ::1] b = intercept_
    cdef const int64_t[::1] skip = skip_
    cdef int64_t n = inputs.shape[0], P = inputs.shape[1], G = b.shape[0], M = np.shape(intercept)[1], F = F_
    cdef int64_t stride = row_stride(out, (n, G, M), "out"), t, g, chunks, steps
    cdef double mass = 1.0 - w if F < M else 1.0
    if W.shape[2] != P:
        raise ValueError(f"coef has {W.shape[2]} inputs, the inputs have {P}")
    cdef int64_t blocks = (n + BLOCK_STEPS - 1) // BLOCK_STEPS, block
    if n == 0 or G == 0:
        return
    cdef vd *u = <vd *> simd_alloc(VL * (BLOCK_CHUNKS * (P + G * M) + F))
    if u == NULL:
        raise MemoryError
    cdef vd *p = u + BLOCK_CHUNKS * P
    cdef vd *scratch = p + BLOCK_CHUNKS * G * M
    with nogil:
        for block in range(blocks):
            t = block * BLOCK_STEPS
            steps = min(n - t, <int64_t>BLOCK_STEPS)
            chunks = load_block(&inputs[t, 0], P, steps, P, u)
            for g in range(G):
                group_probabilities(F, chunks, u, P, &W[g, 0, 0], &b[g, 0], mass, scratch, skip[g], p + g * M, G * M)
            store_block(p, stride, steps, G * M, &out[t, 0, 0])
        simd_free(u)


def newton_sums(const double[:, ::1] inputs,  # IN (n, P)
                const double[:, :, :] probs,  # IN (n, G, M), any stride along the first axis
                const double[:, :, :] counts,  # IN (n, G, M), the same
                double w,  # IN, < 0: none
                stay,  # IN (G,) or None
                double[:, :, ::1] gradient,  # OUT (G, M, P+1), added to
                double[:, :, ::1] hessian,  # OUT (G, M*(P+1), M*(P+1)), added to
                double[::1] weight=None,  # OUT (G,), added to: total counts of the free destinations
                double[:, ::1] moments=None,  # OUT (P+1, P+1), added to: sum over steps of f f^T, f = [1, inputs]
                double[:, :] leaving=None,  # OUT (n, G), any stride along the first axis: each step's counts of them
                ):
    """Gradient of sum counts * log p in (intercept, slopes) and the Hessian of its negative, at the given probs."""
    cdef int64_t n = inputs.shape[0], P = inputs.shape[1], G = gradient.shape[0], M = gradient.shape[1]
    F_, skip_ = _skips(G, M, w, stay)
    cdef const int64_t[::1] skip = skip_
    cdef int64_t p_stride = row_stride(probs, (n, G, M), "probs"), c_stride = row_stride(counts, (n, G, M), "counts")
    cdef int64_t F = F_, features = (P + 1) * (P + 2) // 2, per_group = sums_size(F, P), size = M * (P + 1)
    cdef int64_t l_stride = 0
    if gradient.shape[2] != P + 1:
        raise ValueError(f"gradient has shape {np.shape(gradient)}, expected {(G, M, P + 1)}")
    if hessian.shape[0] != G or hessian.shape[1] != size or hessian.shape[2] != size:
        raise ValueError(f"hessian has shape {np.shape(hessian)}, expected {(G, size, size)}")
    if weight is not None and weight.shape[0] != G:
        raise ValueError(f"weight has length {weight.shape[0]}, expected {G}")
    if moments is not None and (moments.shape[0] != P + 1 or moments.shape[1] != P + 1):
        raise ValueError(f"moments has shape {np.shape(moments)}, expected {(P + 1, P + 1)}")
    if leaving is not None:
        l_stride = leaving_stride(leaving, n, G)
    cdef int64_t blocks = (n + BLOCK_STEPS - 1) // BLOCK_STEPS, block
    if n == 0 or G == 0:
        return
    cdef int64_t at_once = min(G, max(1, SUMS_AT_ONCE // per_group)), first, last, width, t, g, chunks, steps
    cdef int64_t rows = P + features + (2 * M + 1) * at_once, turns = (G + at_once - 1) // at_once, turn
    cdef vd *u = <vd *> simd_alloc(VL * (BLOCK_CHUNKS * rows + weights_size(F) + at_once * per_group))
    if u == NULL:
        raise MemoryError
    cdef vd *products = u + BLOCK_CHUNKS * P
    cdef vd *p = products + BLOCK_CHUNKS * features
    cdef vd *c = p + BLOCK_CHUNKS * at_once * M
    cdef vd *totals = c + BLOCK_CHUNKS * at_once * M
    cdef vd *scratch = totals + BLOCK_CHUNKS * at_once
    cdef vd *sums = scratch + weights_size(F)
    cdef double group_weight
    cdef double scale = 1.0 / (1.0 - w) if F < M else 1.0
    with nogil:
        for turn in range(turns):
            first = turn * at_once
            last = min(first + at_once, G)
            width = (last - first) * M
            clear((last - first) * per_group, sums)
            for block in range(blocks):
                t = block * BLOCK_STEPS
                steps = min(n - t, <int64_t>BLOCK_STEPS)
                chunks = load_block(&inputs[t, 0], P, steps, P, u)
                load_block(&probs[t, first, 0], p_stride, steps, width, p)
                load_block(&counts[t, first, 0], c_stride, steps, width, c)
                feature_products(chunks, u, P, products)
                if moments is not None and first == 0:
                    add_moments(chunks, steps, P, products, &moments[0, 0])
                for g in range(first, last):
                    add_sums(F, P, chunks, p + (g - first) * M, c + (g - first) * M, width, skip[g], scale, products,
                             scratch, totals + g - first, last - first, sums + (g - first) * per_group)
                if leaving is not None:
                    store_block(totals, l_stride, steps, last - first, &leaving[t, first])
            for g in range(first, last):
                group_weight = spread(F, M, P, skip[g], sums + (g - first) * per_group, &gradient[g, 0, 0],
                                      &hessian[g, 0, 0])
                if weight is not None:
                    weight[g] += group_weight
        simd_free(u)


def divergence(const double[:, ::1] inputs,  # IN (n, P)
               coef,  # IN (G, M, P)
               intercept,  # IN (G, M)
               coef_change,  # IN (G, M, P)
               intercept_change,  # IN (G, M), finite
               stay,  # IN (G,) or None
               const double[:, :] leaving,  # IN (n, G), any stride along the first axis
               ):
    """Sum of leaving * KL(p || p') in nats over steps and groups, p' the softmax of the changed parameters.

    Destinations that are not free take no part, whatever their probability.
    """
    F_, coef_, intercept_, _ = _free(np.asarray(coef), np.asarray(intercept), 0.0, stay)
    _, coef_change_, intercept_change_, _ = _free(np.asarray(coef_change), np.asarray(intercept_change), 0.0, stay)
    if coef_change_.shape != coef_.shape:
        raise ValueError(f"coef_change has shape {np.shape(coef_change)}, expected {np.shape(coef)}")
    cdef const double[:, :, ::1] W = coef_, dW = coef_change_
    cdef const double[:, ::1] b = intercept_, db = intercept_change_
    cdef int64_t n = inputs.shape[0], P = inputs.shape[1], G = b.shape[0], F = F_, t, g, chunks, steps
    cdef double value
    if W.shape[2] != P:
        raise ValueError(f"coef has {W.shape[2]} inputs, the inputs have {P}")
    cdef int64_t stride = leaving_stride(leaving, n, G)
    cdef int64_t blocks = (n + BLOCK_STEPS - 1) // BLOCK_STEPS, block
    if n == 0 or G == 0:
        return 0.0
    cdef vd *u = <vd *> simd_alloc(VL * (BLOCK_CHUNKS * (P + G) + 3 * F + 1))
    if u == NULL:
        raise MemoryError
    cdef vd *counts = u + BLOCK_CHUNKS * P
    cdef vd *scratch = counts + BLOCK_CHUNKS * G
    cdef vd *sums = scratch + 3 * F
    with nogil:
        clear(1, sums)
        for block in range(blocks):
            t = block * BLOCK_STEPS
            steps = min(n - t, <int64_t>BLOCK_STEPS)
            chunks = load_block(&inputs[t, 0], P, steps, P, u)
            load_block(&leaving[t, 0], stride, steps, G, counts)
            for g in range(G):
                group_divergence(F, chunks, u, P, &W[g, 0, 0], &b[g, 0], &dW[g, 0, 0], &db[g, 0], scratch, counts + g,
                                 G, sums)
        value = total(sums)
        simd_free(u)
    return value


def log_normalizer(const double[:, ::1] inputs,  # IN (n, P)
                   const double[:, :, ::1] coef,  # IN (G, M, P)
                   const double[:, ::1] intercept,  # IN (G, M)
                   double[:, ::1] out,  # OUT (n, G)
                   ):
    """log sum exp z of every group at every step, so that log p = z - out keeps its digits where p underflows."""
    cdef int64_t n = inputs.shape[0], P = inputs.shape[1], G = intercept.shape[0], M = intercept.shape[1]
    cdef int64_t t, g, chunks, steps
    if coef.shape[0] != G or coef.shape[1] != M or coef.shape[2] != P or out.shape[0] != n or out.shape[1] != G:
        raise ValueError(f"coef {np.shape(coef)}, intercept {np.shape(intercept)}, inputs {np.shape(inputs)} "
                         f"and out {np.shape(out)} do not fit")
    cdef int64_t blocks = (n + BLOCK_STEPS - 1) // BLOCK_STEPS, block
    if n == 0 or G == 0:
        return
    cdef vd *u = <vd *> simd_alloc(VL * (BLOCK_CHUNKS * (P + G) + M))
    if u == NULL:
        raise MemoryError
    cdef vd *z = u + BLOCK_CHUNKS * P
    cdef vd *scratch = z + BLOCK_CHUNKS * G
    with nogil:
        for block in range(blocks):
            t = block * BLOCK_STEPS
            steps = min(n - t, <int64_t>BLOCK_STEPS)
            chunks = load_block(&inputs[t, 0], P, steps, P, u)
            for g in range(G):
                group_normalizer(M, chunks, u, P, &coef[g, 0, 0], &intercept[g, 0], scratch, z + g, G)
            store_block(z, G, steps, G, &out[t, 0])
        simd_free(u)
