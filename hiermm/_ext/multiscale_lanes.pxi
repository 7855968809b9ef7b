# Several sequences at once, one a lane of the vectors (lanes.h). Only the plain case runs here: a sequence in which a
# state falls below FAINT, or a step is out of range, is marked and left to the recursions for one sequence.

cdef extern from "lanes.h" nogil:
    void lanes_likelihood(const double *const *row, Py_ssize_t M, double *out, double *top)
    void lanes_scatter(const double *x, Py_ssize_t n, double *const *row)
    void lanes_absorb(Py_ssize_t N, const double *predicted, const double *scale, const double *b, const int64_t *emit,
                      double *out, double *sum, double *low)
    void lanes_combine(Py_ssize_t N, const double *alpha, const double *beta, const double *b, const int64_t *emit,
                       const double *scale, double *w, double *sum, double *evidence)
    void lanes_posteriors(Py_ssize_t N, const double *alpha, const double *beta, const double *factor, double *share,
                          double *posterior)
    void lanes_scale(Py_ssize_t N, const double *factor, double *x)
    void lanes_ones(Py_ssize_t N, const double *marks, double *x)
    void lanes_columns(Py_ssize_t N, Py_ssize_t M, const double *x, const int64_t *emit, double *out)
    void lanes_power(const double *sum, double *scale, double *exponent)
    void lanes_fill(const Level *g, Table *table, const double *const *rows)
    void lanes_counts(const Level *g, const double *const *rows, double *const *xi)
    void products_clear(const Level *g)

cdef enum:
    MAX_LANES = 8
    LANES_BUDGET = 1 << 22  # doubles of scratch
    LANES_STATES = 128  # beyond, one sequence fills the vectors as well


cdef struct Lanes:
    Chain c  # the chain whose levels have the axis of sequences behind them
    Py_ssize_t start[MAX_LANES]
    Py_ssize_t length[MAX_LANES]  # the first lane has the longest, unused ones 0
    Py_ssize_t longest, shortest
    bint good[MAX_LANES]
    double loglik[MAX_LANES]
    double *memory
    double *rows  # alpha (longest, N, VL)
    double *exps  # likelihoods (longest, M, VL)
    double *scale  # these have VL entries each
    double *exponent
    double *shift
    double *total
    double *low
    double *factor
    double *marks
    double *top
    double *columns  # (M, VL)
    double *nothing  # (M,) zeros: the data of a sequence that has ended


cdef int _open_lanes(Lanes *g, const Chain *c, Py_ssize_t longest) except -1 nogil:
    """Geometry and scratch for groups of sequences up to `longest`; `_close_lanes` frees what there is."""
    cdef Py_ssize_t n = c.N * VL, j, l, fixed = (7 + c.S) * n + 8 * VL + c.M * (VL + 1)
    cdef double *at
    g.c = c[0]
    g.c.levels = NULL
    g.c.padded, g.c.kind, g.c.counted = n, 0, NULL
    g.c.levels = <Level *> calloc(c.S, sizeof(Level))
    g.memory = simd_alloc(fixed + longest * (n + c.M * VL))
    if g.memory == NULL or g.c.levels == NULL or levels_init(g.c.levels, c.shapes, c.S, c.parent, VL) < 0:
        with gil:
            raise MemoryError
    memset(g.memory, 0, fixed * sizeof(double))
    at = g.memory
    g.c.start, g.c.share, g.c.posterior, g.c.message, g.c.moved = at, at + n, at + 2 * n, at + 3 * n, at + 5 * n
    at += (7 + c.S) * n
    g.scale, g.exponent, g.shift, g.total = at, at + VL, at + 2 * VL, at + 3 * VL
    g.low, g.factor, g.marks, g.top = at + 4 * VL, at + 5 * VL, at + 6 * VL, at + 7 * VL
    g.columns = at + 8 * VL
    g.nothing = g.columns + c.M * VL
    g.rows = g.nothing + c.M
    g.exps = g.rows + longest * n
    for j in range(c.N):
        for l in range(VL):
            g.c.start[j * VL + l] = c.initial[j]
    return 0


cdef void _close_lanes(Lanes *g) noexcept nogil:
    if g.c.levels != NULL:
        levels_free(g.c.levels, g.c.S)
    free(g.c.levels)
    simd_free(g.memory)


cdef void _rows_of(const Lanes *g, Py_ssize_t t, const double **rows) noexcept nogil:
    """The packed rows that move each sequence into step t; ended ones take those of the first."""
    cdef Py_ssize_t l
    for l in range(VL):
        rows[l] = row_of(&g.c, g.start[l if t < g.length[l] else 0] + t)


cdef void _load_lanes(Lanes *g, Py_ssize_t t, bint to, bint back) noexcept nogil:
    """Tables of the moves into step t, where sequences have rows of their own."""
    cdef const double *rows[MAX_LANES]
    cdef Py_ssize_t s
    if g.c.one_row:
        return
    _rows_of(g, t, rows)
    for s in range(g.c.S):
        if moves(&g.c, s, t):
            if to:
                lanes_fill(&g.c.levels[s], &g.c.levels[s].to, rows)
            if back:
                lanes_fill(&g.c.levels[s], &g.c.levels[s].back, rows)


cdef bint filter_lanes(Lanes *g) noexcept nogil:
    """Forward recursion; fills `loglik` of the good sequences and tells whether there are any."""
    cdef const double *alpha = g.c.start
    cdef const double *data[MAX_LANES]
    cdef double *row
    cdef Py_ssize_t t, l, left = 0
    for l in range(VL):
        g.good[l] = g.length[l] > 0
        left += g.good[l]
        g.scale[l], g.exponent[l], g.shift[l] = 1.0, 0.0, 0.0
    for t in range(g.longest):
        if t:
            _load_lanes(g, t, True, False)
            alpha = advance(&g.c, alpha, g.start[0] + t, t, g.c.moved)
        for l in range(VL):
            data[l] = g.c.ll + (g.start[l] + t) * g.c.M if t < g.length[l] else g.nothing
        lanes_likelihood(data, g.c.M, g.exps + t * g.c.M * VL, g.top)
        row = g.rows + t * g.c.padded
        lanes_absorb(g.c.N, alpha, g.scale, g.exps + t * g.c.M * VL, g.c.emit, row, g.total, g.low)
        lanes_power(g.total, g.scale, g.exponent)
        for l in range(VL):
            g.shift[l] += g.top[l]
            if g.good[l] and t < g.length[l] and not (g.low[l] >= FAINT and g.total[l] >= WEAK):
                g.good[l] = False
                left -= 1
            if t + 1 == g.length[l]:
                g.loglik[l] = log(g.total[l] * g.scale[l]) + g.exponent[l] * LN2 + g.shift[l]
        if left == 0:
            return False
        alpha = row
    return True


cdef void _destinations(const Lanes *g, double *base, Py_ssize_t width, Py_ssize_t t, double **row) noexcept nogil:
    """Where row t of each good sequence lies in a packed result (NULL: nowhere)."""
    cdef Py_ssize_t l
    for l in range(VL):
        row[l] = base + (g.start[l] + t) * width if base != NULL and g.good[l] and t < g.length[l] else NULL


cdef void _give_lanes(Lanes *g, Py_ssize_t t, Py_ssize_t *which) noexcept nogil:
    """Write out the posteriors of step t; which[l] is the sequence in lane l."""
    cdef double *row[MAX_LANES]
    cdef Py_ssize_t l
    if g.c.gamma != NULL:
        _destinations(g, g.c.gamma, g.c.N, t, row)
        lanes_scatter(g.c.posterior, g.c.N, row)
    if g.c.gamma_emit != NULL:
        _destinations(g, g.c.gamma_emit, g.c.M, t, row)
        lanes_columns(g.c.N, g.c.M, g.c.posterior, g.c.emit, g.columns)
        lanes_scatter(g.columns, g.c.M, row)
    if t == 0 and g.c.gamma_first != NULL:
        for l in range(VL):
            row[l] = g.c.gamma_first + which[l] * g.c.N if g.good[l] else NULL
        lanes_scatter(g.c.posterior, g.c.N, row)


cdef void _count_lanes(Lanes *g, Py_ssize_t t) noexcept nogil:
    """Expected counts of the moves into step t from `share`."""
    cdef const double *rows[MAX_LANES]
    cdef double *sums[MAX_LANES]
    cdef double *steps[MAX_LANES]
    cdef Py_ssize_t s, l
    count(&g.c, g.c.share, g.start[0] + t, t, NULL)
    if g.c.one_row and g.c.xi_steps == NULL:
        return  # the products of all steps wait for `_flush`
    g.c.counted = NULL
    _rows_of(g, t, rows)
    _destinations(g, g.c.xi_steps, g.c.total, t, steps)
    for l in range(VL):
        sums[l] = g.c.xi + (rows[l] - g.c.A) if g.c.xi != NULL and g.good[l] and t < g.length[l] else NULL
    for s in range(g.c.S):
        if moves(&g.c, s, t):
            lanes_counts(&g.c.levels[s], rows, sums)
            lanes_counts(&g.c.levels[s], rows, steps)
        products_clear(&g.c.levels[s])


cdef void _factors(Lanes *g, Py_ssize_t t, const double *beta, double *w) noexcept nogil:
    """1 / evidence of the sequences at step t, 0 in the other lanes; messages out of range are made in logs."""
    cdef const double *alpha = g.rows + t * g.c.padded
    cdef double ignored = 0.0
    cdef Py_ssize_t l, j
    for l in range(VL):
        g.factor[l] = 1.0 / g.low[l] if g.good[l] and t < g.length[l] and g.low[l] > 0.0 else 0.0
        if g.factor[l] > 0.0 and not g.total[l] >= WEAK:
            weigh_in_logs(g.c.N, VL, beta + l, alpha + l, g.c.ll + (g.start[l] + t) * g.c.M, g.c.emit, g.c.M, w + l)
            g.total[l] = 0.0
            for j in range(g.c.N):
                g.total[l] += w[j * VL + l]
        g.scale[l] = scale1(g.total[l], &ignored) if g.total[l] > 0.0 else 1.0


cdef void smooth_lanes(Lanes *g, Py_ssize_t *which, bint counting) noexcept nogil:
    """Backward recursion after `filter_lanes`."""
    cdef Py_ssize_t t, l
    cdef const double *beta = NULL
    cdef double *w = g.c.message
    cdef double *new = g.c.message + g.c.padded
    for l in range(VL):
        g.scale[l] = 1.0
    for t in range(g.longest - 1, -1, -1):
        beta = g.c.moved + 2 * g.c.padded
        if t + 1 < g.longest:
            _load_lanes(g, t + 1, counting, True)
            beta = retreat(&g.c, w, g.start[0] + t + 1, t + 1)
        if t + 1 >= g.shortest:
            beta = _begin_lanes(g, t, beta)
        lanes_combine(g.c.N, g.rows + t * g.c.padded, beta, g.exps + t * g.c.M * VL, g.c.emit, g.scale, new, g.total,
                      g.low)
        _factors(g, t, beta, new)
        lanes_posteriors(g.c.N, g.rows + t * g.c.padded, beta, g.factor, g.c.share, g.c.posterior)
        if counting and t + 1 < g.longest:
            if t + 1 >= g.shortest:
                for l in range(VL):
                    g.marks[l] = t + 1 < g.length[l]
                lanes_scale(g.c.N, g.marks, g.c.share)
            _count_lanes(g, t + 1)
        _give_lanes(g, t, which)
        w, new = new, w
    if counting:
        _flush(&g.c)


cdef const double *_begin_lanes(Lanes *g, Py_ssize_t t, const double *beta) noexcept nogil:
    """Messages with ones for the sequences that end at step t, or before it (where they do not matter)."""
    cdef Py_ssize_t l
    for l in range(VL):
        g.marks[l] = t + 1 >= g.length[l]
    if beta != g.c.posterior:
        memcpy(g.c.posterior, beta, g.c.padded * sizeof(double))
    lanes_ones(g.c.N, g.marks, g.c.posterior)
    return g.c.posterior


cdef bint _take_group(Lanes *g, const Chain *c, const int64_t *offsets, const int64_t *order, Py_ssize_t first,
                      Py_ssize_t m) noexcept nogil:
    """Put the next sequences, by falling length, into the lanes; False if one after the other is as well."""
    cdef Py_ssize_t l, q, steps = 0
    for l in range(VL):
        g.start[l] = g.length[l] = 0
        if first + l < m:
            q = order[first + l]
            g.start[l], g.length[l] = offsets[q], offsets[q + 1] - offsets[q]
            steps += g.length[l]
            g.shortest = g.length[l]
    g.longest = g.length[0]
    return steps >= (3 if c.N <= 32 else 5) * g.longest and g.longest * (c.N + c.M) * VL <= LANES_BUDGET


cdef void _give_filtered_lanes(Lanes *g, double *alpha) noexcept nogil:
    """Write out the filtered distributions; a sequence that may not be able to go on from the last one is not good."""
    cdef double *row[MAX_LANES]
    cdef Py_ssize_t t, l, j
    cdef const double *x
    for l in range(VL):
        x = g.rows + (g.length[l] - 1) * g.c.padded + l
        for j in range(g.c.N if g.good[l] else 0):
            g.good[l] = g.good[l] and x[j * VL] >= FAINT
    for t in range(g.longest if alpha != NULL else 0):
        _destinations(g, alpha, g.c.N, t, row)
        for l in range(VL):
            g.factor[l] = 0.0
        for j in range(g.c.N):
            for l in range(VL):
                g.factor[l] += g.rows[t * g.c.padded + j * VL + l]
        for l in range(VL):
            g.factor[l] = 1.0 / g.factor[l] if row[l] != NULL else 0.0
        lanes_posteriors(g.c.N, g.rows + t * g.c.padded, g.c.start, g.factor, g.c.share, g.c.posterior)
        lanes_scatter(g.c.share, g.c.N, row)


cdef int run_groups(Chain *c, Lanes *g, const int64_t *offsets, const int64_t *order, Py_ssize_t m, bint smoothing,
                    double *loglik, int64_t *status) except -1 nogil:
    """Forward, and if asked backward, recursions of groups of sequences; the status of those done becomes 0.

    `order` has the sequences by falling length. The results of `c` are still those of the first sequence.
    """
    cdef Py_ssize_t which[MAX_LANES]
    cdef Py_ssize_t first, l, group
    cdef unsigned int mode
    for group in range((m + VL - 1) // VL):
        first = group * VL
        if not _take_group(g, c, offsets, order, first, m):
            continue
        if g.memory == NULL:
            _open_lanes(g, c, g.longest)
        for l in range(VL):
            which[l] = order[first + l] if g.length[l] else 0
        mode = flush_subnormals()
        if filter_lanes(g):
            if smoothing:
                _clear_steps(g)
                smooth_lanes(g, which, c.xi != NULL or c.xi_steps != NULL)
            else:
                _give_filtered_lanes(g, c.filtered)
        restore_subnormals(mode)
        for l in range(VL):
            if g.good[l]:
                loglik[which[l]], status[which[l]] = g.loglik[l], 0
    return 0


cdef void _clear_steps(Lanes *g) noexcept nogil:
    cdef Py_ssize_t l
    for l in range(VL):
        if g.c.xi_steps != NULL and g.good[l]:
            memset(g.c.xi_steps + g.start[l] * g.c.total, 0, g.length[l] * g.c.total * sizeof(double))
