# Log-space recursions in the natural layout: the redo of a sequence that is out of range, the best path, and sampling.

cdef double *_log_row(Chain *c, Py_ssize_t k) noexcept nogil:
    """Logarithms of the packed row that moves the state into row k."""
    cdef double *out = c.log_memory
    cdef const double *row = row_of(c, k)
    cdef Py_ssize_t e
    for e in range(c.total):
        out[e] = log(row[e])
    return out


cdef double *log_advance(Chain *c, double *x, const double *log_A, Py_ssize_t t) noexcept nogil:
    """Move `x`; the results of the levels stay in `partial` and the room behind, for the counts."""
    cdef Py_ssize_t q, s = c.first
    cdef double *out = c.log_memory + c.total
    for q in range(c.S):
        c.partial[s] = x
        if moves(c, s, t):
            log_move(&c.shapes[s], log_A, x, out, 0)
            x = out
            out += c.N
        s += c.step
    return x


cdef int64_t log_filter(Chain *c, Py_ssize_t keep, Py_ssize_t start, Py_ssize_t stop, double *loglik) noexcept nogil:
    """Forward recursion, normalised at every row, into the last `keep` rows of the scratch; -1 - t: impossible."""
    cdef double *rows = c.log_memory + c.total + (c.S + 6) * c.N
    cdef double *row
    cdef double *x = c.log_memory + c.total + c.S * c.N
    cdef double total, result = 0.0
    cdef Py_ssize_t k, j
    for j in range(c.N):
        x[j] = log(c.before[c.place[j]]) if c.has_before else log(c.initial[j])
    for k in range(start, stop):
        row = rows + (k - start) % keep * c.N
        if k > start or c.has_before:
            x = log_advance(c, x, _log_row(c, k), c.t0 + k - start)
        for j in range(c.N):
            row[j] = x[j] + c.ll[k * c.M + c.emit[j]]
        total = log_sum(row, c.N, 1)
        if total == -INFINITY:
            return -1 - (k - start)
        result += total
        for j in range(c.N):
            row[j] -= total
            if c.filtered != NULL:
                c.filtered[(k - start) * c.N + j] = exp(row[j])
        x = row
    loglik[0] = result
    return 0


cdef int64_t log_continuation(Chain *c, Py_ssize_t start, Py_ssize_t stop) noexcept nogil:
    """0 or 2 (see `cannot_continue`), after `log_filter` with two rows kept."""
    cdef const double *last = c.log_memory + c.total + (c.S + 6 + (stop - start - 1) % 2) * c.N
    cdef Py_ssize_t j
    for j in range(c.N):
        c.reach[c.place[j]] = last[j] > -INFINITY
        c.posterior[c.place[j]] = exp(last[j])
    return cannot_continue(c, c.t0 + stop - start)


cdef double *log_retreat(Chain *c, double *alpha, double *w, Py_ssize_t k, Py_ssize_t t,
                         double *xi_step) noexcept nogil:
    """The message before the move into row k, and the counts of that move."""
    cdef const double *log_A = _log_row(c, k)
    cdef const double *row = row_of(c, k)
    cdef double *out = c.log_memory + c.total + (c.S + 2) * c.N
    cdef double *spare = out + c.N
    cdef double *x = log_advance(c, alpha, log_A, t)
    cdef double evidence = -INFINITY
    cdef Py_ssize_t q, j, s = c.first + (c.S - 1) * c.step
    for j in range(c.N):
        spare[j] = x[j] + w[j]
    evidence = log_sum(spare, c.N, 1)
    for q in range(c.S):
        if moves(c, s, t):
            if evidence > -INFINITY and xi_step != NULL:
                log_counts(&c.shapes[s], log_A, c.partial[s], w, evidence, xi_step)
            if evidence > -INFINITY and c.xi != NULL:
                log_counts(&c.shapes[s], log_A, c.partial[s], w, evidence, c.xi + (row - c.A))
            log_move(&c.shapes[s], log_A, w, out, 1)
            w = out
            out, spare = spare, out
        s -= c.step
    return w


cdef int64_t log_smooth(Chain *c, Py_ssize_t start, Py_ssize_t stop) noexcept nogil:
    """Backward recursion over the rows of `log_filter`; returns 1, or -1 - length if the message excludes all."""
    cdef double *rows = c.log_memory + c.total + (c.S + 6) * c.N
    cdef double *beta = c.log_memory + c.total + (c.S + 4) * c.N
    cdef double *w = beta + c.N
    cdef double *alpha
    cdef double total
    cdef Py_ssize_t k, j
    for j in range(c.N):
        beta[j] = log(c.after[c.place[j]])
    for k in range(stop - 1, start - 1, -1):
        alpha = rows + (k - start) * c.N
        if k < stop - 1:
            beta = log_retreat(c, alpha, w, k + 1, c.t0 + k + 1 - start, _xi_step(c, k + 1 - start))
        for j in range(c.N):
            alpha[j] += beta[j]
            w[j] = beta[j] + c.ll[k * c.M + c.emit[j]]  # beta is w itself where no level has moved
        total = log_sum(alpha, c.N, 1)
        if total == -INFINITY:
            return -1 - (stop - start)
        for j in range(c.N):
            c.posterior[c.place[j]] = exp(alpha[j] - total)
        write_posterior(c, c.posterior, k - start)
        total = log_sum(w, c.N, 1)
        for j in range(c.N):
            w[j] -= total if total > -INFINITY else 0.0
    if c.has_before:
        alpha = rows
        for j in range(c.N):
            alpha[j] = log(c.before[c.place[j]])
        beta = log_retreat(c, alpha, w, start, c.t0, _xi_step(c, 0))
        if c.beta_out != NULL:
            total = log_sum(beta, c.N, 1)
            for j in range(c.N):
                c.beta_out[j] = exp(beta[j] - total) if total > -INFINITY else 0.0
    return 1


cdef double best_path(Chain *c, Py_ssize_t start, Py_ssize_t stop, int64_t *path) noexcept nogil:
    """Viterbi by levels: each move keeps where its best value came from, and the way back undoes the moves."""
    cdef double *delta = c.log_memory + c.total
    cdef double *out = delta + c.N
    cdef double top = -INFINITY
    cdef Py_ssize_t k, j, q, s, state = 0
    for j in range(c.N):
        delta[j] = c.initial[j] + c.ll[start * c.M + c.emit[j]]
    for k in range(start + 1, stop):
        for q in range(c.S):
            s = c.first + q * c.step
            if moves(c, s, k - start):
                max_move(&c.shapes[s], row_of(c, k), delta, out, c.best + ((k - start) * c.S + s) * c.N)
                delta, out = out, delta
        for j in range(c.N):
            delta[j] += c.ll[k * c.M + c.emit[j]]
    for j in range(c.N):
        if delta[j] > top:
            top, state = delta[j], j
    for k in range(stop - 1, start - 1, -1):
        path[k - start] = state if top > -INFINITY else -1
        for q in range(c.S - 1, -1, -1):
            s = c.first + q * c.step
            if k > start and moves(c, s, k - start):
                state = c.best[((k - start) * c.S + s) * c.N + state]
    return top


cdef Py_ssize_t draw(const double *p, Py_ssize_t n, double u) noexcept nogil:
    """The first value whose distribution function exceeds u; where rounding leaves none, the last possible one."""
    cdef double total = 0.0
    cdef Py_ssize_t i, last = 0
    for i in range(n):
        if p[i] > 0.0:
            last = i
            total += p[i]
            if u < total:
                return i
    return last


cdef void sample_sequence(Chain *c, Py_ssize_t start, Py_ssize_t stop, const double *uniforms,
                          int64_t *path) noexcept nogil:
    cdef Py_ssize_t k, s, state = draw(c.initial, c.N, uniforms[start * (c.S + 1)]), new, value, at
    cdef const double *row
    cdef Shape *g
    path[start] = state
    for k in range(start + 1, stop):
        row = row_of(c, k)
        new = state
        for s in range(c.S):
            g = &c.shapes[s]
            if moves(c, s, k - start):
                value = state // g.tail % g.size
                at = g.start + (state // g.parent_tail % g.parent_size * g.size + value) * g.size
                new += g.tail * (draw(row + at, g.size, uniforms[k * (c.S + 1) + 1 + s]) - value)
        state = new
        path[k] = state
