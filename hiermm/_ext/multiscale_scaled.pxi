# Scaled forward and backward recursions. Vectors of states are padded; alpha and the messages carry powers of two.
#
# What makes them exact: every state that can be reached has a predicted mass of FAINT or more (relative to the whole),
# and every product with a likelihood that loses more than WEAK is made in logs. So what underflow drops (below 1e-308)
# is a part of at most 1e-16 of anything that may come to matter later. Backward messages leave out the states without
# mass, hence their largest entry is at a state that was predicted with at least FAINT, and the sum of alpha times beta
# cannot vanish.
#
# Probabilities of EM soon fall below FAINT. Where the way back can judge it, fainter masses get DUST, which is more
# than underflow can have taken: alpha is an upper bound. If alpha . beta is then VOUCHED or more at every step, neither
# the dust nor what the messages lost can make up more than DUST / VOUCHED of any posterior. Other sequences with faint
# states go to log space.

cdef double FAINT = 1e-280
cdef double WEAK = 1e-12
cdef double DUST = 1e-270
cdef double VOUCHED = 1e-150
cdef double LN2 = 0.693147180559945309417232121458


cdef const double *likelihood(Chain *c, Py_ssize_t k, Py_ssize_t start, Py_ssize_t stop) noexcept nogil:
    """exp(ll - top) of row k for each state, until the next call; the exponentials are made for a chunk of rows."""
    cdef Py_ssize_t base = start if c.keep_all else c.chunk_from
    if k >= c.chunk_to or (k < c.chunk_from and not c.keep_all):
        c.chunk_from = start + (k - start) // c.chunk * c.chunk
        c.chunk_to = min(stop, c.chunk_from + c.chunk)
        base = start if c.keep_all else c.chunk_from
        if c.direct and not c.natural:
            likelihood_states(c.ll + c.chunk_from * c.M, c.chunk_to - c.chunk_from, c.M, c.frame.packing, c.top,
                              c.exps + (c.chunk_from - base) * c.width, c.width)
        else:
            likelihood_rows(c.ll + c.chunk_from * c.M, c.chunk_to - c.chunk_from, c.M, c.top,
                            c.exps + (c.chunk_from - base) * c.width, c.width)
    if c.direct:
        return c.exps + (k - base) * c.width
    expand(c.exps + (k - base) * c.width, c.column, c.padded, c.b)
    return c.b


cdef inline void load_forward(Chain *c, Py_ssize_t k, Py_ssize_t t) noexcept nogil:
    """Bring the tables of the levels to the packed row that moves them into row k, step t."""
    cdef Py_ssize_t s
    for s in range(c.S):
        if c.one_row or moves(c, s, t):
            table_load(&c.levels[s], &c.levels[s].to, row_of(c, k))


cdef inline void load_backward(Chain *c, Py_ssize_t k, Py_ssize_t t) noexcept nogil:
    cdef Py_ssize_t s
    for s in range(c.S):
        if c.one_row or moves(c, s, t):
            table_load(&c.levels[s], &c.levels[s].back, row_of(c, k))


cdef const double *advance(Chain *c, const double *x, Py_ssize_t k, Py_ssize_t t, double *room) noexcept nogil:
    """Move `x` into row k, step t; `room` takes two vectors."""
    cdef Py_ssize_t q, s = c.first
    cdef const double *row = row_of(c, k)
    cdef double *out = room
    for q in range(c.S):
        if moves(c, s, t):
            table_load(&c.levels[s], &c.levels[s].to, row)
            level_move(&c.levels[s], &c.levels[s].to, x, out)
            x = out
            out = room + c.padded if out == room else room
        s += c.step
    return x


cdef const double *retreat(Chain *c, const double *w, Py_ssize_t k, Py_ssize_t t) noexcept nogil:
    """The backward message before the move into row k; the partial ones stay in `moved` for the counts."""
    cdef Py_ssize_t q, s = c.first + (c.S - 1) * c.step
    cdef const double *row = row_of(c, k)
    cdef double *out = c.moved + 2 * c.padded
    for q in range(c.S):
        c.partial[s] = w
        if moves(c, s, t):
            table_load(&c.levels[s], &c.levels[s].back, row)
            level_move(&c.levels[s], &c.levels[s].back, w, out)
            w = out
            out += c.padded
        s -= c.step
    return w


cdef void _flush(Chain *c) noexcept nogil:
    """Add the waiting products to the counts of the packed row that they belong to."""
    cdef Py_ssize_t s
    if c.counted != NULL and c.xi != NULL:
        for s in range(c.S):
            level_counts(&c.levels[s], c.counted, c.xi + (c.counted - c.A))
    c.counted = NULL


cdef inline void _begin_count(Chain *c, const double *row) noexcept nogil:
    if row != c.counted:
        _flush(c)
        c.counted = row


cdef void _give_counts(Chain *c, const double *row, double *xi_step) noexcept nogil:
    """Expected counts of a single move, by the packed row `row`."""
    cdef Py_ssize_t s, e
    memset(xi_step, 0, c.total * sizeof(double))
    for s in range(c.S):
        level_counts(&c.levels[s], row, xi_step)
    c.counted = NULL
    if c.xi != NULL:
        for e in range(c.total):
            c.xi[row - c.A + e] += xi_step[e]


cdef void count(Chain *c, const double *x, Py_ssize_t k, Py_ssize_t t, double *xi_step) noexcept nogil:
    """Expected counts of the move into row k from `x` = alpha / sum(alpha beta), after `retreat`."""
    cdef Py_ssize_t q, s = c.first
    cdef const double *row = row_of(c, k)
    cdef double *out = c.moved
    _begin_count(c, row)
    for q in range(c.S):
        if moves(c, s, t):
            level_products(&c.levels[s], x, c.partial[s])
            if q + 1 < c.S:
                table_load(&c.levels[s], &c.levels[s].to, row)
                level_move(&c.levels[s], &c.levels[s].to, x, out)
                x = out
                out = c.moved + c.padded if out == c.moved else c.moved
        s += c.step
    if xi_step != NULL:
        _give_counts(c, row, xi_step)


cdef void move_reach(Chain *c, Py_ssize_t k, Py_ssize_t t) noexcept nogil:
    """Which states can be reached at row k, from those at the row before.

    Level by level: products of the levels' probabilities may underflow.
    """
    cdef Py_ssize_t p, q, s = c.first
    cdef const double *row = row_of(c, k)
    cdef double *next = c.moved + 2 * c.padded  # free in the forward recursion
    for q in range(c.S):
        if moves(c, s, t):
            table_load(&c.levels[s], &c.levels[s].to, row)
            level_move(&c.levels[s], &c.levels[s].to, c.reach, next)
            for p in range(c.padded):
                c.reach[p] = next[p] > 0.0
        s += c.step


cdef void rule_out(Chain *c, Py_ssize_t k) noexcept nogil:
    """Take from `reach` the states that the data of row k exclude."""
    cdef Py_ssize_t p
    for p in range(c.padded):
        if c.column[p] < c.M and c.ll[k * c.M + c.column[p]] == -INFINITY:
            c.reach[p] = 0.0


cdef void find_reach(Chain *c, Py_ssize_t k, Py_ssize_t start) noexcept nogil:
    """Bring `reach` to row k, before its data; it is only known where somebody asked."""
    cdef Py_ssize_t p
    cdef const double *first = c.before if c.has_before else c.start
    cdef unsigned int mode = keep_subnormals()  # a probability may be one
    if c.reach_row < start:
        c.reach_row = start
        for p in range(c.padded):
            c.reach[p] = first[p] > 0.0
        if c.has_before:
            move_reach(c, start, c.t0)
    while c.reach_row < k:
        rule_out(c, c.reach_row)
        c.reach_row += 1
        move_reach(c, c.reach_row, c.t0 + c.reach_row - start)
    restore_subnormals(mode)


cdef bint faint(const Chain *c, const double *mass, double scale) noexcept nogil:
    """Whether a state that can be reached has too little mass for the scaled recursion."""
    cdef Py_ssize_t p
    for p in range(c.padded):
        if c.reach[p] > 0.0 and mass[p] * scale < FAINT:
            return True
    return False


cdef const double *add_dust(Chain *c, const double *mass, double scale) noexcept nogil:
    """The masses with dust on every state that can be reached, in `posterior`."""
    cdef Py_ssize_t p
    for p in range(c.padded):
        c.posterior[p] = mass[p] + DUST / scale if c.reach[p] > 0.0 else mass[p]
    return c.posterior


cdef int64_t cannot_continue(Chain *c, Py_ssize_t t) noexcept nogil:
    """2 if a block at step t that goes on from `posterior`, held as plain numbers, would lose a state of `reach`.

    Where the next packed row is not known, any state without mass counts as lost.
    """
    cdef const double *next
    if not faint(c, c.posterior, 1.0):
        return 0
    if not c.one_row:
        return 2
    move_reach(c, 0, t)
    next = advance(c, c.posterior, 0, t, c.moved)
    return 2 if faint(c, next, 1.0) else 0


cdef void give_filtered(Chain *c, const double *row, double factor, double *out) noexcept nogil:
    if c.natural:
        posteriors(c.padded, row, row, factor, out, c.posterior)
    else:
        posteriors(c.padded, row, row, factor, c.share, c.posterior)
        _collect(c, c.share, out)


cdef bint faint_at_end(Chain *c, const double *rows, Py_ssize_t start, Py_ssize_t stop) noexcept nogil:
    """After `filter_sequence` with two rows kept: whether the last posterior, which this makes, has faint states.

    If so, `reach` tells which of them are possible.
    """
    cdef const double *last = rows + (stop - start - 1) % 2 * c.padded
    cdef double total = 0.0
    cdef bint small = False
    cdef Py_ssize_t p
    for p in range(c.padded):
        total += last[p]
    for p in range(c.padded):
        c.posterior[p] = last[p] / total
        small = small or c.posterior[p] + c.lift[p] < FAINT
    if small:
        find_reach(c, stop - 1, start)
        rule_out(c, stop - 1)
    return small


cdef int64_t continuation(Chain *c, Py_ssize_t start, Py_ssize_t stop, bint judged) noexcept nogil:
    """What the status says of going on from the last row: 2 (see `cannot_continue`), or if `judged` 4, for dust."""
    cdef bint faint = faint_at_end(c, c.rows, start, stop)
    cdef int64_t dusty = 4 if c.dusty else 0
    cdef double *out
    cdef Py_ssize_t j
    if not judged:
        return cannot_continue(c, c.t0 + stop - start) if faint else 0
    for j in range(c.N if faint and c.filtered != NULL else 0):
        out = c.filtered + (stop - start - 1) * c.N + j
        if c.reach[c.place[j]] > 0.0 and out[0] < DUST:
            out[0] = DUST  # or the next block would take the state for impossible
            dusty = 4
    return dusty


cdef Py_ssize_t filter_rows(Chain *c, const double *alpha, Py_ssize_t k, Py_ssize_t start, Py_ssize_t stop,
                            bint many, double *row, Scale *scale) noexcept nogil:
    """Rows of the forward recursion from k on that kind_filter makes, one or many; their number."""
    cdef Py_ssize_t made, q, last = stop if many and c.one_row and c.direct else k + 1
    cdef Py_ssize_t t = c.t0 + k - start
    cdef const double *b
    load_forward(c, k, t)
    if c.direct and k >= c.chunk_to:
        made = kind_filter(c.kind, &c.frame, t, last - k, alpha, c.ll + k * c.M,
                           c.exps + (k - start) * c.width if c.keep_all else c.b, c.width if c.keep_all else 0,
                           row, scale)
        c.chunk_from = c.chunk_to = k + made
        return made
    b = likelihood(c, k, start, stop)
    made = kind_filter(c.kind, &c.frame, t, min(last, c.chunk_to) - k, alpha, NULL, <double *> b, c.width, row, scale)
    for q in range(k, k + made):
        scale.shift += c.top[q - c.chunk_from]
    return made


cdef int64_t filter_sequence(Chain *c, double *rows, Py_ssize_t keep, Py_ssize_t start, Py_ssize_t stop,
                             double *loglik, bint judged) noexcept nogil:
    """Forward recursion into `rows`, the last `keep` of them; returns the status (1: must be redone in log space).

    `judged`: faint masses may have dust, and `dusty` tells whether some have, so that `vouched` must be asked.
    """
    cdef Py_ssize_t k = start, made, q
    cdef Scale scale
    cdef double extra
    cdef int small = 0
    cdef bint many = keep > 2 and c.filtered == NULL
    cdef const double *predicted
    cdef const double *b
    cdef const double *alpha = c.before
    cdef double *row
    scale.total = scale.power = 1.0
    scale.exponent = scale.shift = 0.0
    c.reach_row = start - 1
    c.chunk_to = c.chunk_from = 0
    c.dusty = False
    while k < stop:
        row = rows + (k - start) % keep * c.padded
        made = 0
        if c.kind and not small and (k > start or c.has_before):
            made = filter_rows(c, alpha, k, start, stop, many, row, &scale)
        if made:
            row += (made - 1) * c.padded
        else:
            made = 1
            b = likelihood(c, k, start, stop)
            predicted = c.start
            if k > start or c.has_before:
                predicted = advance(c, alpha, k, c.t0 + k - start, c.moved)
            scale.total = absorb(c.padded, predicted, scale.power, b, c.lift, FAINT, row, &small)
            scale.shift += c.top[k - c.chunk_from]
            if small:
                find_reach(c, k, start)
                if faint(c, predicted, scale.power):
                    if not judged or (k == start and not c.has_before):  # nobody would judge dust in the first row
                        return 1
                    c.dusty = True
                    predicted = add_dust(c, predicted, scale.power)
                    scale.total = absorb(c.padded, predicted, scale.power, b, c.lift, FAINT, row, &small)
                    small = 1  # very likely the next row is the same
            if not scale.total >= WEAK:
                extra = weigh_in_logs(c.padded, 1, predicted, predicted, c.ll + k * c.M, c.column, c.M, row)
                if extra == -INFINITY:
                    return -1 - (k - start)
                scale.shift += extra + log(scale.power) - c.top[k - c.chunk_from]
                scale.total = 0.0
                for q in range(c.padded):
                    scale.total += row[q]
            scale.power = scale1(scale.total, &scale.exponent)
        if c.filtered != NULL:
            give_filtered(c, row, 1.0 / scale.total, c.filtered + (k - start) * c.N)
        alpha = row
        k += made
    loglik[0] = log(scale.total * scale.power) + scale.exponent * LN2 + scale.shift
    return 0


cdef int64_t filter_judged(Chain *c, double *rows, Py_ssize_t start, Py_ssize_t stop, double *loglik,
                           bint judge) noexcept nogil:
    """Forward recursion that keeps all rows and looks back over them if it must, or if told so; returns the status."""
    cdef int64_t status = filter_sequence(c, rows, stop - start, start, stop, loglik, True)
    if status == 0 and (judge or c.dusty) and not vouched(c, rows, start, stop):
        return 1
    return status


cdef bint vouched(Chain *c, const double *rows, Py_ssize_t start, Py_ssize_t stop) noexcept nogil:
    """Whether the way back finds enough evidence at every step for what is lost and added not to matter."""
    cdef Py_ssize_t k
    cdef const double *beta = c.after
    cdef const double *b
    cdef double *w = c.message
    cdef double *new = c.message + c.padded
    cdef double z, scale = 1.0
    for k in range(stop - 1, start - 1, -1):
        if k < stop - 1:
            beta = retreat(c, w, k + 1, c.t0 + k + 1 - start)
        b = likelihood(c, k, start, stop)
        z = weigh(c, rows + (k - start) * c.padded, beta, k, b, new, &scale)
        if not z >= VOUCHED:
            return False
        w, new = new, w
    if c.has_before:
        combine(c.padded, c.before, retreat(c, w, start, c.t0), c.before, 1.0, new, &z)
        return z >= VOUCHED
    return True


cdef double weigh(Chain *c, const double *alpha, const double *beta, Py_ssize_t k, const double *b, double *w,
                  double *scale) noexcept nogil:
    """Message w of row k and, returned, the sum of alpha times beta. `scale` brings w into range: one step later."""
    cdef double z = 0.0, ignored = 0.0, total = combine(c.padded, alpha, beta, b, scale[0], w, &z)
    cdef Py_ssize_t p
    if not total >= WEAK:
        weigh_in_logs(c.padded, 1, beta, alpha, c.ll + k * c.M, c.column, c.M, w)
        total = 0.0
        for p in range(c.padded):
            total += w[p]
    scale[0] = scale1(total, &ignored) if total > 0.0 else 1.0
    return z


cdef void write_posterior(Chain *c, const double *posterior, Py_ssize_t k) noexcept nogil:
    """Give out the posterior of row k of the sequence."""
    cdef Py_ssize_t p
    cdef double *out
    if c.gamma != NULL:
        _collect(c, posterior, c.gamma + k * c.N)  # where it is not there already
    if k == 0 and c.gamma_first != NULL:
        _collect(c, posterior, c.gamma_first)
    if c.gamma_emit != NULL:
        out = c.gamma_emit + k * c.M
        memset(out, 0, c.M * sizeof(double))
        for p in range(c.padded):
            if c.column[p] < c.M:
                out[c.column[p]] += posterior[p]


cdef bint message_in_range(Chain *c, const double *alpha) noexcept nogil:
    """Whether the message after the last row leaves enough of alpha (any does without one)."""
    cdef double z = 0.0, total = 0.0
    cdef Py_ssize_t p
    for p in range(c.padded if c.has_after else 0):
        z += alpha[p] * c.after[p]
        total += alpha[p]
    return z >= FAINT * total


cdef Py_ssize_t smooth_rows(Chain *c, const double *rows, Py_ssize_t k, Py_ssize_t start, Py_ssize_t stop,
                            double *w, Scale *scale) noexcept nogil:
    """Rows of the backward recursion from k down that kind_smooth makes; their number."""
    cdef bint counting = c.xi != NULL or c.xi_steps != NULL
    cdef Py_ssize_t made = 1, last = start + 1, t = c.t0 + k + 1 - start
    cdef const double *b = likelihood(c, k, start, stop)
    cdef const double *alpha = rows + (k - start) * c.padded
    cdef const double *row = row_of(c, k + 1)
    cdef const Packing *packing = NULL
    cdef const double *soon = b - AHEAD * c.width if c.keep_all else c.ll + (k - c.chunk) * c.M
    cdef double *posterior = c.posterior
    load_backward(c, k + 1, t)
    if counting:
        load_forward(c, k + 1, t)
        _begin_count(c, row)
    if not c.keep_all:
        last = max(last, c.chunk_from)
    if c.one_row and c.direct and c.xi_steps == NULL and c.gamma != NULL and c.gamma_emit == NULL and k > last:
        made, posterior, packing = k - last, c.gamma + (k - start) * c.N, c.frame.packing
    if counting:
        made = kind_smooth_counting(c.kind, &c.frame, t, made, alpha, b, soon, w, posterior, packing, scale)
    else:
        made = kind_smooth(c.kind, &c.frame, t, made, alpha, b, soon, w, posterior, packing, scale)
    if made and posterior == c.posterior:
        if c.xi_steps != NULL:
            _give_counts(c, row, _xi_step(c, k + 1 - start))
        write_posterior(c, posterior, k - start)
    return made


cdef void smooth_sequence(Chain *c, const double *rows, Py_ssize_t start, Py_ssize_t stop) noexcept nogil:
    """Backward recursion over the alpha of `filter_sequence`."""
    cdef bint counting = c.xi != NULL or c.xi_steps != NULL
    cdef Py_ssize_t k = stop - 1, made
    cdef const double *beta = c.after
    cdef const double *alpha
    cdef const double *b
    cdef double *posterior
    cdef double *w = c.message
    cdef double *new = c.message + c.padded
    cdef double z
    cdef Scale scale
    scale.power = 1.0
    while k >= start:
        made = smooth_rows(c, rows, k, start, stop, w, &scale) if c.kind and k < stop - 1 else 0
        if made:
            k -= made
            continue
        alpha = rows + (k - start) * c.padded
        if k - start >= AHEAD:
            ask_for(alpha - AHEAD * c.padded, c.padded)
            if c.keep_all:
                ask_for(c.exps + (k - start - AHEAD) * c.width, c.width)
            elif k - start >= c.chunk:
                ask_for(c.ll + (k - c.chunk) * c.M, c.M)
        if k < stop - 1:
            beta = retreat(c, w, k + 1, c.t0 + k + 1 - start)
        b = likelihood(c, k, start, stop)
        z = weigh(c, alpha, beta, k, b, new, &scale.power)
        posterior = c.gamma + (k - start) * c.N if c.gamma != NULL and c.natural else c.posterior
        posteriors(c.padded, alpha, beta, 1.0 / z if z > 0.0 else 0.0, c.share, posterior)
        if counting and k < stop - 1:
            count(c, c.share, k + 1, c.t0 + k + 1 - start, _xi_step(c, k + 1 - start))
        write_posterior(c, posterior, k - start)
        w, new = new, w
        k -= 1
    if not c.has_before:
        return
    beta = retreat(c, w, start, c.t0)
    if counting:
        combine(c.padded, c.before, beta, beta, 1.0, c.posterior, &z)
        posteriors(c.padded, c.before, beta, 1.0 / z if z > 0.0 else 0.0, c.share, c.posterior)
        count(c, c.share, start, c.t0, _xi_step(c, 0))
    if c.beta_out != NULL:
        _collect(c, beta, c.beta_out)
        normalise(c.beta_out, c.N)


cdef inline double *_xi_step(const Chain *c, Py_ssize_t k) noexcept nogil:
    return c.xi_steps + k * c.total if c.xi_steps != NULL else NULL


cdef void normalise(double *x, Py_ssize_t n) noexcept nogil:
    """To sum 1, unless all are 0."""
    cdef double total = 0.0
    cdef Py_ssize_t j
    for j in range(n):
        total += x[j]
    for j in range(n):
        x[j] = x[j] / total if total > 0.0 else 0.0
