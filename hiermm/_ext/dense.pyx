"""Flat chains: filtering, smoothing with expected transition counts, Viterbi and path sampling.

n packed steps of m sequences (`offsets`), N states. `A` (L, N, N) holds the transition matrices: one for ever
(L = 1, `index` None), one a step (`index` None: `A[k]` is the move into packed row k; the rows that begin a sequence
are not used), or `A[index[k]]`. Log-likelihoods are in nats and may be -inf; outputs belong to the caller.

Status of a sequence: 0 fine; 1 computed again in log space, because states may have fallen out of the range of doubles
beside the others and mattered (the result is exact all the same); -1-t impossible at its step t (log-likelihood -inf,
rows 0, no counts), with t = its length when only `beta_in` makes it so. `forward` adds 2 when the last filtered row,
held as plain numbers, could not carry the sequence on without losing such a state: then a sequence cut into blocks
here would not equal the whole. How the kernels know is said in dense.h: posteriors are within 1e-100 of those without
underflow, zeros of the parameters stay zeros in all counts, and a state that only the data rule out may keep as much.
"""

from cython.parallel import prange
from libc.math cimport INFINITY
from libc.stdint cimport int64_t

from hiermm._ext.normal cimport Normal, NormalSums

cdef extern from "dense_plan.h" nogil:
    ctypedef struct Chain:
        int64_t N
        int64_t NP
        int64_t L
        int constant
        const double *initial
        const double *A
        const int64_t *index
        double *rows

    ctypedef struct Run:
        const double *ll
        const double *alpha_in
        const double *beta_in
        double *gamma
        double *xi
        double *xi_steps
        double *beta_out
        int dust

    ctypedef struct Symbols:
        int64_t M
        const double *of
        double *gamma
        double *first
        int unknown

    ctypedef struct Outputs:
        pass

    int chain_prepare(Chain *c, double fill)
    double *simd_alloc(int64_t doubles)
    void simd_free(void *piece)
    int run_all(Chain *c, const Run *all, int smooth, const int64_t *offsets, int64_t m, double *loglik,
                int64_t *status, Symbols *symbols, Outputs *outputs)
    int run_symbols(Chain *c, const Run *all, const int64_t *offsets, int64_t m, double *loglik, int64_t *status,
                    Symbols *s)

cdef extern from "dense_normal.h" nogil:
    const int OPENMP

    ctypedef struct NormalPieces:
        Chain c
        Normal e
        const double *y
        const double *u
        const int64_t *offsets
        const int64_t *bounds
        double *loglik
        int64_t *status
        double *sums

    ctypedef struct Sums:
        double *first
        double *xi
        NormalSums emission

    int64_t piece_size(const Normal *e)
    int normal_piece(const NormalPieces *all, int64_t k)
    void add_pieces(const NormalPieces *all, int64_t pieces, const Sums *to)

cdef extern from "dense_viterbi.h" nogil:
    int64_t viterbi_scratch(const Chain *c, int64_t T)
    double one_viterbi(const Chain *c, int64_t start, int64_t T, const double *ll, int64_t *path, double *scratch)

cdef extern from "<string.h>" nogil:
    void *memset(void *p, int value, size_t bytes)


HAS_THREADS = bool(OPENMP)  # whether `smooth_normal` was compiled to use several


cdef check(str name, const Py_ssize_t *found, tuple shape):
    """Compare the shape of an array (with no shape: of none) before it becomes an object, which takes a while."""
    cdef int k
    for k in range(len(shape)):
        if found[k] != shape[k]:
            raise ValueError(f"{name} must have shape {shape}, got {tuple([found[j] for j in range(len(shape))])}")


cdef check_chain(int64_t n, int64_t N, const int64_t[::1] offsets, const double[::1] initial,
                 const double[:, :, ::1] A, const int64_t[::1] index):
    """Shapes and ranges of what all four functions take."""
    cdef int64_t s, k, L = A.shape[0], m = offsets.shape[0] - 1
    if N < 1 or m < 1 or n < 1 or offsets[0] != 0 or offsets[m] != n:
        raise ValueError(f"offsets must run from 0 to the number of rows {n} >= 1, with at least one state")
    for s in range(m):
        if offsets[s + 1] <= offsets[s]:
            raise ValueError(f"sequence {s} is empty")
    check("initial", initial.shape, (N,))
    check("A", A.shape, (L, N, N))
    if index is None and L != 1 and L != n:
        raise ValueError(f"A must hold 1 or {n} matrices when there is no index, got {L}")
    if index is not None:
        check("index", index.shape, (n,))
        for k in range(n):
            if index[k] < 0 or index[k] >= L:
                raise ValueError(f"index must lie in 0..{L - 1}, row {k} has {index[k]}")


cdef Chain chain(int64_t N, const double[::1] initial, const double[:, :, ::1] A, const int64_t[::1] index):
    cdef Chain c
    memset(&c, 0, sizeof(Chain))
    c.N = N
    c.L = A.shape[0]
    c.constant = c.L == 1
    c.initial = &initial[0]
    c.A = &A[0, 0, 0]
    if index is not None:
        c.index = &index[0]
    return c


cdef int64_t longest(const int64_t[::1] offsets) noexcept nogil:
    cdef int64_t s, T = 0
    for s in range(offsets.shape[0] - 1):
        T = max(T, offsets[s + 1] - offsets[s])
    return T


def forward(const double[:, ::1] ll,            # IN (n, N)
            const int64_t[::1] offsets,         # IN (m + 1,)
            const double[::1] initial,          # IN (N,)
            const double[:, :, ::1] A,          # IN (L, N, N)
            const int64_t[::1] index,           # IN (n,) or None
            const double[::1] alpha_in,         # IN (N,) or None
            double[:, ::1] alpha,               # OUT (n, N) or None
            double[::1] loglik,                 # OUT (m,)
            int64_t[::1] status,                # OUT (m,)
            bint judged=False):
    """Filter: `alpha[k]` is the distribution of the state at row k given the rows of its sequence up to k.

    With `alpha_in` (one sequence only) row 0 continues from that filtered distribution instead of `initial`, and
    `loglik` is that of the block given what came before. `alpha` may be the same memory as `ll`. `judged` (one
    sequence only): `smooth` will go over the same rows and say whether what underflow takes from here matters, so
    masses that are small are no reason for log space.
    """
    cdef int64_t n = ll.shape[0], N = ll.shape[1], m = offsets.shape[0] - 1
    cdef Chain c
    cdef Run r
    cdef int enough
    check_chain(n, N, offsets, initial, A, index)
    check("alpha_in", alpha_in.shape, () if alpha_in is None else (N,))
    check("alpha", alpha.shape, () if alpha is None else (n, N))
    check("loglik", loglik.shape, (m,))
    check("status", status.shape, (m,))
    if alpha_in is not None and m != 1:
        raise ValueError(f"alpha_in continues one sequence, got {m}")
    if judged and m != 1:
        raise ValueError(f"judged is for one sequence, got {m}")
    c = chain(N, initial, A, index)
    memset(&r, 0, sizeof(Run))
    r.ll = &ll[0, 0]
    r.dust = judged
    if alpha_in is not None:
        r.alpha_in = &alpha_in[0]
    if alpha is not None:
        r.gamma = &alpha[0, 0]
    with nogil:
        enough = run_all(&c, &r, 0, &offsets[0], m, &loglik[0], &status[0], NULL, NULL)
    if not enough:
        raise MemoryError("no memory for the scratch of the forward pass")


def smooth(const double[:, ::1] ll,             # IN (n, N)
           const int64_t[::1] offsets,          # IN (m + 1,)
           const double[::1] initial,           # IN (N,)
           const double[:, :, ::1] A,           # IN (L, N, N)
           const int64_t[::1] index,            # IN (n,) or None
           const double[::1] alpha_in,          # IN (N,) or None
           const double[::1] beta_in,           # IN (N,) or None
           double[:, ::1] gamma,                # OUT (n, N), may be the same memory as ll
           double[::1] loglik,                  # OUT (m,)
           int64_t[::1] status,                 # OUT (m,)
           double[:, :, ::1] xi=None,           # OUT (L, N, N), added to
           double[:, :, ::1] xi_steps=None,     # OUT (n, N, N)
           double[::1] beta_out=None):          # OUT (N,), with alpha_in only
    """Smooth: `gamma[k]` is the distribution of the state at row k given all rows of its sequence.

    `xi` gains the expected number of moves i -> j under each matrix; `xi_steps[k]` is the joint distribution of the
    states at rows k - 1 and k (0 where a sequence begins). Blocks (one sequence only): `alpha_in` as for `forward`,
    the move into row 0 being counted; `beta_in`, of any positive scale, says what the rows after the block tell of
    the state at its last row; `beta_out` (sum 1) says what the block and the rows after it tell of the state before
    row 0. States that `alpha_in` excludes have no message of their own.
    """
    cdef int64_t n = ll.shape[0], N = ll.shape[1], m = offsets.shape[0] - 1
    cdef Chain c
    cdef Run r
    cdef int enough
    check_chain(n, N, offsets, initial, A, index)
    check("alpha_in", alpha_in.shape, () if alpha_in is None else (N,))
    check("beta_in", beta_in.shape, () if beta_in is None else (N,))
    check("gamma", gamma.shape, (n, N))
    check("loglik", loglik.shape, (m,))
    check("status", status.shape, (m,))
    check("xi", xi.shape, () if xi is None else (A.shape[0], N, N))
    check("xi_steps", xi_steps.shape, () if xi_steps is None else (n, N, N))
    check("beta_out", beta_out.shape, () if beta_out is None else (N,))
    if m != 1 and (alpha_in is not None or beta_in is not None):
        raise ValueError(f"alpha_in and beta_in belong to a block of one sequence, got {m}")
    if beta_out is not None and alpha_in is None:
        raise ValueError("beta_out needs alpha_in")
    c = chain(N, initial, A, index)
    memset(&r, 0, sizeof(Run))
    r.ll = &ll[0, 0]
    if alpha_in is not None:
        r.alpha_in = &alpha_in[0]
    if beta_in is not None:
        r.beta_in = &beta_in[0]
    r.gamma = &gamma[0, 0]
    if xi is not None:
        r.xi = &xi[0, 0, 0]
    if xi_steps is not None:
        r.xi_steps = &xi_steps[0, 0, 0]
    if beta_out is not None:
        r.beta_out = &beta_out[0]
    with nogil:
        enough = run_all(&c, &r, 1, &offsets[0], m, &loglik[0], &status[0], NULL, NULL)
    if not enough:
        raise MemoryError("no memory for the scratch of the smoother")


def smooth_symbols(const double[:, ::1] table,      # IN (M, N)
                   const double[::1] symbols,       # IN (n,) 0..M-1, or NaN where nothing was observed
                   const int64_t[::1] offsets,      # IN (m + 1,)
                   const double[::1] initial,       # IN (N,)
                   const double[:, :, ::1] A,       # IN (1, N, N)
                   double[:, ::1] gamma,            # OUT (M, N)
                   double[:, ::1] first,            # OUT (m, N)
                   double[::1] loglik,              # OUT (m,)
                   int64_t[::1] status,             # OUT (m,)
                   double[:, :, ::1] xi):           # OUT (1, N, N), added to
    """Smooth steps that are known by symbol, without any array over steps.

    `table[s]` are the log-likelihoods of symbol s. `gamma[s]` is the sum of the smoothed distributions over the steps
    with that symbol, `first` those of the sequences' first steps; `xi`, `loglik` and `status` as for `smooth`.
    """
    cdef int64_t n = symbols.shape[0], M = table.shape[0], N = table.shape[1], m = offsets.shape[0] - 1
    cdef Chain c
    cdef Run r
    cdef Symbols s
    cdef int enough
    check_chain(n, N, offsets, initial, A, None)
    check("A", A.shape, (1, N, N))
    check("gamma", gamma.shape, (M, N))
    check("first", first.shape, (m, N))
    check("loglik", loglik.shape, (m,))
    check("status", status.shape, (m,))
    check("xi", xi.shape, (1, N, N))
    c = chain(N, initial, A, None)
    memset(&r, 0, sizeof(Run))
    memset(&s, 0, sizeof(Symbols))
    r.ll = &table[0, 0]
    r.xi = &xi[0, 0, 0]
    s.M = M
    s.of = &symbols[0]
    s.gamma = &gamma[0, 0]
    s.first = &first[0, 0]
    with nogil:
        enough = run_symbols(&c, &r, &offsets[0], m, &loglik[0], &status[0], &s)
    if not enough:
        raise MemoryError("no memory for the scratch of the smoother")
    if s.unknown:
        raise ValueError(f"symbols must be whole numbers in 0..{M - 1} or NaN")


def smooth_normal(const double[:, ::1] outputs,         # IN (n, D)
                  const double[:, ::1] inputs,          # IN (n, P)
                  const double[:, :, ::1] coef,         # IN (N, D, P)
                  const double[:, ::1] intercept,       # IN (N, D)
                  const double[:, ::1] variances,       # IN (N, D)
                  const int64_t[::1] offsets,           # IN (m + 1,)
                  const int64_t[::1] bounds,            # IN (pieces + 1,), from 0 to m
                  const double[::1] initial,            # IN (N,)
                  const double[:, :, ::1] A,            # IN (1, N, N)
                  double[::1] loglik,                   # OUT (m,)
                  int64_t[::1] status,                  # OUT (m,)
                  double[::1] first,                    # OUT (N,), added to, as all below
                  double[:, ::1] xi,                    # OUT (N, N)
                  double[:, :, :, ::1] gram,            # OUT (N, D, P + 1, P + 1)
                  double[:, :, ::1] cross,              # OUT (N, D, P + 1)
                  double[:, ::1] scatter,               # OUT (N, D)
                  int threads=1):                       # IN, at least 1; more than 1 has an effect with OPENMP only
    """Smooth outputs with independent normal noise: `emission.linear_loglik`, `smooth` and `emission.linear_moments`.

    Returns the log-likelihood of the sequences in these pieces.
    The sums are `first`, of the posteriors of first steps, `xi`, of the moves, and those of `linear_moments`. Those of
    piece k, the sequences bounds[k] .. bounds[k + 1] - 1, are worked out by themselves and added in the order of the
    pieces, whatever the number of threads.
    """
    cdef int64_t n = outputs.shape[0], D = outputs.shape[1], P = inputs.shape[1], N = intercept.shape[0]
    cdef int64_t m = offsets.shape[0] - 1, pieces = bounds.shape[0] - 1, k
    cdef NormalPieces all
    cdef Sums to
    cdef int failed = 0
    cdef double total = 0.0
    check_chain(n, N, offsets, initial, A, None)
    check("inputs", inputs.shape, (n, P))
    check("coef", coef.shape, (N, D, P))
    check("intercept", intercept.shape, (N, D))
    check("variances", variances.shape, (N, D))
    check("A", A.shape, (1, N, N))
    check("loglik", loglik.shape, (m,))
    check("status", status.shape, (m,))
    check("first", first.shape, (N,))
    check("xi", xi.shape, (N, N))
    check("gram", gram.shape, (N, D, P + 1, P + 1))
    check("cross", cross.shape, (N, D, P + 1))
    check("scatter", scatter.shape, (N, D))
    if pieces < 1 or bounds[0] < 0 or bounds[pieces] > m or threads < 1:
        raise ValueError(f"bounds must lie in 0..{m}, the number of sequences, with at least one thread")
    for k in range(pieces):
        if bounds[k + 1] <= bounds[k]:
            raise ValueError(f"piece {k} of the bounds is empty")
    all.c = chain(N, initial, A, None)
    all.e.N, all.e.D, all.e.P = N, D, P
    all.e.coef = &coef[0, 0, 0] if P else NULL
    all.e.intercept, all.e.variances = &intercept[0, 0], &variances[0, 0]
    all.y = &outputs[0, 0]
    all.u = &inputs[0, 0] if P else NULL
    all.offsets, all.bounds = &offsets[0], &bounds[0]
    all.loglik, all.status = &loglik[0], &status[0]
    all.sums = simd_alloc(pieces * piece_size(&all.e))
    to.first, to.xi = &first[0], &xi[0, 0]
    to.emission.gram, to.emission.cross, to.emission.scatter = &gram[0, 0, 0, 0], &cross[0, 0, 0], &scatter[0, 0]
    if all.sums != NULL:
        for k in prange(pieces, nogil=True, num_threads=threads, schedule="dynamic", chunksize=1):
            if not normal_piece(&all, k):
                failed += 1
    if all.sums == NULL or failed:
        simd_free(all.sums)
        raise MemoryError("no memory for the scratch of the smoother")
    add_pieces(&all, pieces, &to)
    simd_free(all.sums)
    for k in range(bounds[0], bounds[pieces]):
        total += loglik[k]
    return total


def viterbi(const double[:, ::1] ll,            # IN (n, N)
            const int64_t[::1] offsets,         # IN (m + 1,)
            const double[::1] log_initial,      # IN (N,)
            const double[:, :, ::1] log_A,      # IN (L, N, N)
            const int64_t[::1] index,           # IN (n,) or None
            int64_t[::1] path,                  # OUT (n,)
            double[::1] log_prob):              # OUT (m,)
    """Most likely path of every sequence and its joint log-probability; ties go to the lower state.

    Where no path is possible, `log_prob` is -inf and the path -1.
    """
    cdef int64_t n = ll.shape[0], N = ll.shape[1], m = offsets.shape[0] - 1, s
    cdef Chain c
    cdef double *scratch
    check_chain(n, N, offsets, log_initial, log_A, index)
    check("path", path.shape, (n,))
    check("log_prob", log_prob.shape, (m,))
    c = chain(N, log_initial, log_A, index)
    scratch = NULL
    with nogil:
        if chain_prepare(&c, -INFINITY):
            scratch = simd_alloc(viterbi_scratch(&c, longest(offsets)))
        if scratch != NULL:
            for s in range(m):
                log_prob[s] = one_viterbi(&c, offsets[s], offsets[s + 1] - offsets[s], &ll[offsets[s], 0],
                                          &path[offsets[s]], scratch)
        simd_free(c.rows)
    if scratch == NULL:
        raise MemoryError("no memory for the scores of the most likely path")
    simd_free(scratch)


cdef int64_t draw(int64_t N, const double *probs, double u) noexcept nogil:
    """Inverse of the distribution function; rounding at its end falls back to the last possible state."""
    cdef int64_t j, last = 0
    cdef double total = 0
    for j in range(N):
        if probs[j] > 0:
            last = j
            total += probs[j]
            if u < total:
                return j
    return last


def sample_path(const double[::1] initial,      # IN (N,)
                const double[:, :, ::1] A,      # IN (L, N, N)
                const int64_t[::1] index,       # IN (n,) or None
                const int64_t[::1] offsets,     # IN (m + 1,)
                const double[::1] uniforms,     # IN (n,) in [0, 1)
                int64_t[::1] path):             # OUT (n,)
    """Draw hidden paths from the chain itself: state k is the inverse distribution function at `uniforms[k]`."""
    cdef int64_t n = uniforms.shape[0], N = initial.shape[0], s, k, which
    check_chain(n, N, offsets, initial, A, index)
    check("path", path.shape, (n,))
    with nogil:
        for s in range(offsets.shape[0] - 1):
            path[offsets[s]] = draw(N, &initial[0], uniforms[offsets[s]])
            for k in range(offsets[s] + 1, offsets[s + 1]):
                which = 0 if A.shape[0] == 1 else (k if index is None else index[k])
                path[k] = draw(N, &A[which, path[k - 1], 0], uniforms[k])
