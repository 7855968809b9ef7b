# The chain of multiscale.pyx as the kernels see it: geometry, pointers, scratch; and the checks of its shapes.

cdef extern from "levels_log.h" nogil:
    ctypedef struct Shape:
        Py_ssize_t size, parent_size, tail, parent_tail, outer, start, period

    ctypedef struct Table:
        const double *row

    ctypedef struct Level:
        Table to
        Table back "from"

    Py_ssize_t levels_init(Level *levels, const Shape *shapes, Py_ssize_t S, int parent, Py_ssize_t unit)
    void levels_free(Level *levels, Py_ssize_t S)
    Py_ssize_t padded_position(const Level *levels, const Shape *shapes, Py_ssize_t S, Py_ssize_t j)
    void table_load(const Level *g, Table *table, const double *row)
    void level_move(const Level *g, const Table *table, const double *x, double *out)
    void level_products(const Level *g, const double *F, const double *G)
    void level_counts(const Level *g, const double *row, double *xi)
    double log_sum(const double *x, Py_ssize_t n, Py_ssize_t stride)
    void log_move(const Shape *s, const double *log_A, const double *x, double *out, int backward)
    void log_counts(const Shape *s, const double *log_A, const double *F, const double *G, double evidence, double *xi)
    void max_move(const Shape *s, const double *log_A, const double *x, double *out, int32_t *best)

cdef extern from "likelihood.h" nogil:
    ctypedef struct Packing:
        Py_ssize_t first
        int mask, count

    double scale1(double x, double *exponent)
    double *simd_alloc(int64_t doubles)
    unsigned int flush_subnormals()
    unsigned int keep_subnormals()
    void restore_subnormals(unsigned int before)
    void simd_free(void *piece)
    const int VL
    const int AHEAD
    void likelihood_states(const double *ll, Py_ssize_t rows, Py_ssize_t N, const Packing *packing, double *top,
                           double *out, Py_ssize_t n)
    void likelihood_rows(const double *ll, Py_ssize_t rows, Py_ssize_t M, double *top, double *out, Py_ssize_t stride)
    void expand(const double *x, const int64_t *column, Py_ssize_t n, double *out)
    double absorb(Py_ssize_t n, const double *predicted, double scale, const double *b, const double *lift,
                  double least, double *out, int *faint)
    double combine(Py_ssize_t n, const double *alpha, const double *beta, const double *b, double scale, double *w,
                   double *evidence)
    void posteriors(Py_ssize_t n, const double *alpha, const double *beta, double factor, double *share,
                    double *posterior)
    void ask_for(const double *x, Py_ssize_t n)
    double weigh_in_logs(Py_ssize_t n, Py_ssize_t step, const double *x, const double *alive, const double *ll,
                         const int64_t *column, Py_ssize_t M, double *out)

cdef extern from "levels_same.h" nogil:
    ctypedef struct Frame:
        const Level *levels
        const Shape *shapes
        int clocked
        const double *lift
        const Packing *packing
        Py_ssize_t states
        double faint, weak

    ctypedef struct Scale:
        double total, power, exponent, shift

    int same_kind(const Level *levels, Py_ssize_t S, int parent)
    Py_ssize_t kind_filter(int kind, const Frame *f, Py_ssize_t t, Py_ssize_t rows, const double *alpha,
                           const double *ll, double *b, Py_ssize_t stride, double *out, Scale *scale)
    Py_ssize_t kind_smooth(int kind, const Frame *f, Py_ssize_t t, Py_ssize_t rows, const double *alpha,
                           const double *b, const double *soon, double *w, double *posterior, const Packing *packing,
                           Scale *scale)
    Py_ssize_t kind_smooth_counting(int kind, const Frame *f, Py_ssize_t t, Py_ssize_t rows, const double *alpha,
                                    const double *b, const double *soon, double *w, double *posterior,
                                    const Packing *packing, Scale *scale)

cdef enum:
    MAX_LEVELS = 32
    KEPT = 1 << 20  # doubles: likelihoods that the backward recursion takes over from the forward one


cdef struct Chain:
    Py_ssize_t S, N, M, total, padded, t0
    int parent, first, step  # coupling; order of the forward moves: from the leaf of the coupling to its root
    bint natural, direct  # the padded layout is the natural one; likelihoods lie in it
    bint one_row
    int kind  # of the loops over whole rows (levels_same.h), or 0
    const double *ll
    const double *initial
    const double *A
    const int64_t *index
    const int64_t *emit
    Shape *shapes
    Level *levels
    Packing *packing  # (padded / VL,) from the natural layout to the padded one
    Frame frame
    int64_t *place  # (N,) padded position of a joint state
    int64_t *column  # (padded,) column of ll, M at padding
    # scratch; arrays of states are padded
    double *memory
    double *lift  # 1 at padding
    double *start  # initial
    double *before  # the filtered distribution before the first row, where there is one
    double *after  # the message of later rows
    double *reach  # which states can be reached, at row reach_row
    Py_ssize_t reach_row
    double *moved  # (2 + S + 2) results of moves
    double *message  # (2) likelihood times backward message
    double *posterior
    double *share  # alpha / sum(alpha beta)
    double *b  # likelihoods of a row, by state
    double *exps  # likelihoods by column: of a whole sequence, or of a chunk of rows
    double *top  # (chunk,) what the log-likelihoods of a row were shifted by
    Py_ssize_t width  # of a row of exps
    Py_ssize_t chunk, chunk_from, chunk_to  # the rows made at a time; the last ones made
    bint keep_all
    double *rows  # alpha of a sequence, where it has no room in gamma
    double *log_memory
    int32_t *best
    const double *counted  # the packed row whose products wait in the levels
    const double *partial[MAX_LEVELS]  # backward, before each level's move
    bint has_before, has_after, rows_in_gamma
    bint dusty  # see filter_sequence
    # results, at the sequence in hand
    double *filtered
    double *gamma
    double *gamma_emit
    double *gamma_first
    double *xi
    double *xi_steps
    double *beta_out


cdef inline const double *row_of(const Chain *c, Py_ssize_t k) noexcept nogil:
    """The packed row that moves the state into row k."""
    if c.index != NULL:
        return c.A + c.index[k] * c.total
    return c.A if c.one_row else c.A + k * c.total


cdef inline bint moves(const Chain *c, Py_ssize_t s, Py_ssize_t t) noexcept nogil:
    return c.shapes[s].period == 1 or t % c.shapes[s].period == 0


cdef void _set_shapes(Chain *c, const int64_t[::1] sizes, int parent, const int64_t[::1] periods) noexcept:
    cdef Py_ssize_t s, p, tail = 1, start = 0
    for s in range(c.S - 1, -1, -1):
        c.shapes[s].size = sizes[s]
        c.shapes[s].tail = tail
        c.shapes[s].period = periods[s]
        tail *= sizes[s]
        c.shapes[s].outer = c.N // tail
    for s in range(c.S):
        p = s + parent
        c.shapes[s].parent_size = 1
        c.shapes[s].parent_tail = c.N
        if parent != 0 and 0 <= p < c.S:
            c.shapes[s].parent_size = c.shapes[p].size
            c.shapes[s].parent_tail = c.shapes[p].tail
        c.shapes[s].start = start
        start += c.shapes[s].parent_size * sizes[s] * sizes[s]


cdef _open(Chain *c, const double[:, ::1] ll, const double[::1] initial, const double[:, ::1] A,
           const int64_t[::1] index, const int64_t[::1] sizes, int parent, const int64_t[::1] periods,
           const int64_t[::1] emit, int64_t t0):
    """Fill `c`; scratch is freed by `_close`, whatever happens in between."""
    cdef Py_ssize_t j, p
    memset(c, 0, sizeof(Chain))
    c.S, c.N, c.M, c.total, c.t0 = sizes.shape[0], initial.shape[0], ll.shape[1], A.shape[1], t0
    c.parent = parent
    c.first = 0 if parent > 0 else c.S - 1
    c.step = 1 if parent > 0 else -1
    c.ll, c.initial, c.A = (&ll[0, 0] if ll.shape[0] else NULL), &initial[0], &A[0, 0]
    c.index = &index[0] if index is not None and index.shape[0] else NULL
    c.emit, c.one_row = &emit[0], A.shape[0] == 1
    c.shapes = <Shape *> calloc(c.S, sizeof(Shape))
    c.levels = <Level *> calloc(c.S, sizeof(Level))
    if c.shapes == NULL or c.levels == NULL:
        raise MemoryError
    _set_shapes(c, sizes, parent, periods)
    c.padded = levels_init(c.levels, c.shapes, c.S, parent, 1)
    c.kind = same_kind(c.levels, c.S, parent)
    c.place = <int64_t *> malloc((c.N + max(c.padded, 0)) * sizeof(int64_t))
    c.packing = <Packing *> calloc(max(c.padded, 0) // VL, sizeof(Packing))
    if c.padded < 0 or c.place == NULL or c.packing == NULL:
        raise MemoryError
    c.column = c.place + c.N
    c.natural = c.padded == c.N
    c.direct = c.M == c.N and (c.natural or c.kind)
    for p in range(c.padded):
        c.column[p] = c.M
    for j in range(c.N):
        p = padded_position(c.levels, c.shapes, c.S, j)
        c.place[j], c.column[p] = p, emit[j]
        c.direct = c.direct and emit[j] == j
        if c.packing[p // VL].count == 0:
            c.packing[p // VL].first = j
        c.packing[p // VL].mask |= 1 << p % VL
        c.packing[p // VL].count += 1
    _open_scratch(c)
    c.frame.levels, c.frame.shapes, c.frame.clocked = c.levels, c.shapes, max(periods) > 1
    c.frame.lift, c.frame.states = c.lift, c.N
    c.frame.packing = NULL if c.natural else c.packing
    c.frame.faint, c.frame.weak = FAINT, WEAK


cdef _open_scratch(Chain *c):
    cdef Py_ssize_t n = c.padded, p
    cdef double *at
    c.width = n if c.direct else c.M + 1
    c.chunk = min(max(2048 // c.width, 4), 64)
    c.memory = simd_alloc((14 + c.S) * n + c.chunk)
    if c.memory == NULL:
        raise MemoryError
    memset(c.memory, 0, (14 + c.S) * n * sizeof(double))
    at = c.memory
    c.lift, c.start, c.before, c.after = at, at + n, at + 2 * n, at + 3 * n
    c.reach, c.posterior, c.share, c.message, c.moved = at + 4 * n, at + 5 * n, at + 6 * n, at + 7 * n, at + 9 * n
    c.b = c.moved + (4 + c.S) * n
    c.top = c.b + n
    for p in range(n):
        c.lift[p] = c.column[p] == c.M
    _spread(c, c.initial, c.start)


cdef void _close(Chain *c) noexcept:
    if c.levels != NULL:
        levels_free(c.levels, c.S)
    free(c.levels)
    free(c.shapes)
    free(c.place)
    free(c.packing)
    simd_free(c.memory)
    simd_free(c.rows)
    free(c.log_memory)
    free(c.best)


cdef void _spread(const Chain *c, const double *x, double *out) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(c.N):
        out[c.place[j]] = x[j]


cdef void _collect(const Chain *c, const double *x, double *out) noexcept nogil:
    """From the padded to the natural layout."""
    cdef Py_ssize_t j
    if c.natural:
        if x != out:
            memcpy(out, x, c.N * sizeof(double))
        return
    for j in range(c.N):
        out[j] = x[c.place[j]]


cdef int _allocate_rows(Chain *c, Py_ssize_t rows, Py_ssize_t longest) except -1 nogil:
    """Room for `rows` of alpha, and for the likelihoods of `longest` rows if they are not too many, in one piece."""
    c.keep_all = 0 < longest * c.width <= KEPT
    c.rows = simd_alloc(rows * c.padded + max(longest if c.keep_all else 0, c.chunk) * c.width)
    if c.rows == NULL:
        with gil:
            raise MemoryError
    c.exps = c.rows + rows * c.padded
    return 0


cdef int _allocate_logs(Chain *c, Py_ssize_t rows) except -1 nogil:
    """Scratch of the log-space recursions: rows, partial results of the moves, and logarithms of a packed row."""
    free(c.log_memory)
    c.log_memory = <double *> malloc(((rows + c.S + 6) * c.N + c.total) * sizeof(double))
    if c.log_memory == NULL:
        with gil:
            raise MemoryError
    return 0


cdef int _allocate_best(Chain *c, Py_ssize_t rows) except -1 nogil:
    c.best = <int32_t *> malloc(max(rows, 1) * c.S * c.N * sizeof(int32_t))
    if c.best == NULL:
        with gil:
            raise MemoryError
    return _allocate_logs(c, 0)


cdef void _set_before(Chain *c, const double[::1] alpha_in) noexcept nogil:
    c.has_before = alpha_in is not None
    if c.has_before:
        _spread(c, &alpha_in[0], c.before)


cdef void _set_after(Chain *c, const double[::1] beta_in) noexcept nogil:
    """The message after the last row, its largest entry scaled to 1."""
    cdef double top = 0.0
    cdef Py_ssize_t j
    c.has_after = beta_in is not None
    for j in range(c.N):
        if c.has_after:
            top = max(top, beta_in[j])
    for j in range(c.N):
        c.after[c.place[j]] = 1.0 if not c.has_after else (beta_in[j] / top if top > 0.0 else 0.0)


def _check_shape(name, array, rows, columns):
    if array is not None and (array.shape[0] != rows or array.shape[1] != columns):
        raise ValueError(f"{name} must have shape ({rows}, {columns}), not ({array.shape[0]}, {array.shape[1]})")


def _check_results(m, loglik, status):
    if loglik.shape[0] != m or status.shape[0] != m:
        raise ValueError(f"loglik and status must have {m} entries, one a sequence")


def _check_block(m, N, t0, alpha_in, beta_in, beta_out):
    for name, array in (("alpha_in", alpha_in), ("beta_in", beta_in), ("beta_out", beta_out)):
        if array is not None and (m != 1 or array.shape[0] != N):
            raise ValueError(f"{name} must have {N} entries and needs exactly one sequence")
    if t0 < 0 or (t0 and m != 1):
        raise ValueError("t0 must not be negative, and 0 unless there is exactly one sequence")
    if beta_out is not None and alpha_in is None:
        raise ValueError("beta_out needs alpha_in")


cdef _check_chain(Py_ssize_t n, Py_ssize_t M, const int64_t[::1] offsets, const double[::1] initial,
                  const double[:, ::1] A, const int64_t[::1] index, const int64_t[::1] sizes, int parent,
                  const int64_t[::1] periods, const int64_t[::1] emit):
    cdef Py_ssize_t S = sizes.shape[0], N = 1, total = 0, m = offsets.shape[0] - 1, L = A.shape[0], s, k
    if not 1 <= S <= MAX_LEVELS or parent not in (-1, 0, 1) or periods.shape[0] != S:
        raise ValueError(f"sizes and periods must have 1 to {MAX_LEVELS} entries each, and parent be -1, 0 or 1")
    for s in range(S):
        if sizes[s] < 1 or periods[s] < 1 or N > 2**31 // sizes[s]:
            raise ValueError(f"sizes and periods of level {s} must be positive, with less than 2**31 joint states")
        N *= sizes[s]
    for s in range(S):
        total += sizes[s] * sizes[s] * (sizes[s + parent] if parent and 0 <= s + parent < S else 1)
    if A.shape[1] != total or L < 1:
        raise ValueError(f"A must have shape (L, {total}), not ({L}, {A.shape[1]})")
    if initial.shape[0] != N or emit.shape[0] != N:
        raise ValueError(f"initial and emit must have {N} entries, one a joint state")
    for k in range(N):
        if not 0 <= emit[k] < M:
            raise ValueError(f"emit must lie in 0..{M - 1}, the columns of ll")
    if m < 0 or offsets[0] != 0 or offsets[m] != n:
        raise ValueError(f"offsets must run from 0 to {n}")
    for k in range(m):
        if offsets[k + 1] <= offsets[k]:
            raise ValueError(f"offsets must rise, but sequence {k} is empty")
    if index is None:
        if L != 1 and L != n:
            raise ValueError(f"A must have 1 or {n} rows where index is None, not {L}")
        return
    if index.shape[0] != n:
        raise ValueError(f"index must have {n} entries")
    for k in range(n):
        if not 0 <= index[k] < L:
            raise ValueError(f"index must lie in 0..{L - 1}, but entry {k} is {index[k]}")
