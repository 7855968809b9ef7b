"""The passes over time of the network's kernels; rnn.pyx describes the arguments.

A `Net` is the structure with the parameters laid out for the passes, a `Group` the sequences that run side by side and
their scratch memory. All pointers lead into one scratch array (see `carve`) or into the caller's arrays.
"""

from libc.math cimport NAN
from libc.stdint cimport int64_t, uintptr_t
from libc.string cimport memcpy, memmove, memset

cdef extern from "rnn.h" nogil:
    enum: VL, WIDEST
    ctypedef struct segment:
        const double *w
        const double *x
        int64_t n
        int64_t stride
    ctypedef struct result:
        double keep
        double rate
        const double *previous
        const double *carry_in
        double *activity
        double *carry_out
        double *out
    void linear_rows(int64_t nv, int64_t rows, const segment *s, int64_t n, const result *to)
    void forward_rows(int64_t nv, int64_t rows, const segment *s, int64_t n, const result *to)
    void backward_rows(int64_t nv, int64_t rows, const segment *s, int64_t n, const result *to)
    void outer_rows(int64_t nv, int64_t rows, int64_t cols, int64_t steps, const double *a, int64_t a_step,
                    const double *b, int64_t b_step, double *g, int64_t stride)
    void squared_errors(int64_t nv, int64_t rows, double *out, const double *y, double *sums)
    void softmax_errors(int64_t nv, int64_t rows, double *out, const double *y, double *sums, double *product)
    void flush_product(int64_t lanes, double *sums, double *product)
    double sum_lanes(const double *row)
    void tanh_array(int64_t n, const double *x, double *out)

cdef enum:
    HEADER = 6
    TOGETHER = 8                  # steps whose weight gradients are added up at once: what the first-level cache holds
    SOFTMAX_LOSS = 1

cdef struct Net:
    int64_t leaky, S, K, P, O, H, D, chunk, n_theta
    const int64_t *sizes
    const int64_t *starts
    const int64_t *periods
    const int64_t *lo
    const int64_t *hi
    const int64_t *delays
    const double *W
    const double *U
    double *WT                    # (K, H, H) [from, to]
    double *VT                    # (1 + P, H): bias, then the input weights [input, to]
    double *c                     # (O,)
    double *UT                    # (H, O)
    double *G                     # gradients, a vector an entry: W, [b V] (H, 1 + P), U, c
    segment *segments

cdef struct Group:
    int64_t nv, width, T, block, t0, t1, n_targets, kind
    double *states                # (D + block, H): the last D steps before the block, then the block
    double *activity              # (block, H) tanh of the level's sum, leaky clock only
    double *inputs                # (block, 1 + P): 1, then the inputs
    double *targets               # (block, n_targets)
    double *out                   # (block, O): read-out, then the loss's derivative
    double *seen                  # (block,): is anything observed at that step
    double *dz                    # (chunk + D, H)
    double *carry                 # (H,): dL/dx that passes straight to the step before
    double *sums                  # (O,)
    double *product               # (1,)
    double *checkpoints           # (n_blocks, D, H)


cdef inline Net read_plan(const int64_t *plan) noexcept nogil:
    cdef Net net
    cdef int64_t k
    net.leaky, net.S, net.K, net.P, net.O, net.H = plan[0], plan[1], plan[2], plan[3], plan[4], plan[5]
    net.sizes = plan + HEADER
    net.starts = net.sizes + net.S
    net.periods = net.starts + net.S
    net.lo = net.periods + net.S
    net.hi = net.lo + net.S
    net.delays = net.hi + net.S
    net.D = 1
    for k in range(net.K):
        net.D = max(net.D, net.delays[k])
    net.chunk = max(TOGETHER, net.D)
    net.n_theta = net.K * net.H * net.H + net.H * (net.P + 1) + net.O * (net.H + 1)
    return net


cdef inline bint moves(const Net *net, int64_t s, int64_t t) noexcept nogil:
    return net.leaky or t % net.periods[s] == 0


cdef inline int64_t carve(Net *net, Group *group, double *base, int64_t T, bint backward) noexcept nogil:
    """Lay the scratch out from `base` on (NULL: only count); return the number of doubles it takes."""
    cdef double *at = base
    cdef int64_t width = group.width, block = group.block, n_blocks = (T + block - 1) // block
    net.WT = at
    at += net.K * net.H * net.H
    net.VT = at
    at += (1 + net.P) * net.H
    net.UT = at
    at += net.H * net.O
    net.c = at
    at += net.O
    net.segments = <segment *>at
    at += 4 * (2 + net.K * net.S)
    at += (-(at - base)) & 7
    net.G = at
    at += VL * net.n_theta if backward else 0
    group.states = at
    at += (net.D + block) * net.H * width
    group.activity = at
    at += block * net.H * width if net.leaky else 0
    group.inputs = at
    at += block * (1 + net.P) * width
    group.targets = at
    at += block * group.n_targets * width
    group.out = at
    at += block * net.O * width
    group.dz = at
    at += (net.chunk + net.D) * net.H * width if backward else 0
    group.carry = at
    at += net.H * width
    group.sums = at
    at += net.O * width
    group.product = at
    at += width
    group.checkpoints = at
    at += n_blocks * net.D * net.H * width if backward else 0
    group.seen = at
    at += block
    return at - base


cdef inline void pack(Net *net, const double *theta) noexcept nogil:
    """Transpose the parameters for the forward pass and clear the gradients."""
    cdef int64_t k, i, j, H = net.H, P = net.P, O = net.O
    cdef const double *V = theta + net.K * H * H
    cdef const double *b = V + H * P
    net.W = theta
    net.U = b + H
    for k in range(net.K):
        for j in range(H):
            for i in range(H):
                net.WT[(k * H + i) * H + j] = theta[(k * H + j) * H + i]
    for j in range(H):
        net.VT[j] = b[j]
        for i in range(P):
            net.VT[(1 + i) * H + j] = V[j * P + i]
        for i in range(O):
            net.UT[j * O + i] = net.U[i * H + j]
    for i in range(O):
        net.c[i] = net.U[O * H + i]


cdef inline void load(
    const Net *net, Group *group, const double *inputs, const double *targets, const int64_t *offsets,
    const int64_t *members, int64_t m
) noexcept nogil:
    """Lay inputs and targets of the steps t0..t1 of the group's sequences side by side in the lanes."""
    cdef int64_t l, t, i, begin, stop, P = net.P, Q = group.n_targets, width = group.width
    cdef double *row
    cdef const double *from_
    for t in range(group.t1 - group.t0):
        row = group.inputs + t * (1 + P) * width
        for l in range(width):
            row[l] = 1.0
        memset(row + width, 0, P * width * sizeof(double))
        group.seen[t] = 0.0
    for i in range((group.t1 - group.t0) * Q * width):
        group.targets[i] = NAN
    for l in range(m):
        begin = offsets[members[l]] + group.t0
        stop = min(offsets[members[l] + 1] - begin, group.t1 - group.t0)
        for t in range(stop):
            row = group.inputs + (t * (1 + P) + 1) * width + l
            from_ = inputs + (begin + t) * P
            for i in range(P):
                row[i * width] = from_[i]
        if targets == NULL:
            continue
        for t in range(stop):
            row = group.targets + t * Q * width + l
            from_ = targets + (begin + t) * Q
            for i in range(Q):
                row[i * width] = from_[i]
                if from_[i] == from_[i]:
                    group.seen[t] = 1.0


cdef inline void forward_block(const Net *net, Group *group) noexcept nogil:
    """States of the steps t0..t1 from those of the D steps before, which `states` begins with."""
    cdef int64_t t, s, k, n, start, H = net.H, row = net.H * group.width, width = group.width
    cdef segment *part = net.segments
    cdef result to
    cdef double *x
    memset(&to, 0, sizeof(result))
    for t in range(group.t0, group.t1):
        x = group.states + (t - group.t0 + net.D) * row
        for s in range(net.S):
            start = net.starts[s]
            if not moves(net, s, t):
                memcpy(x + start * width, x - row + start * width, net.sizes[s] * width * sizeof(double))
                continue
            part[0] = segment(net.VT + start, group.inputs + (t - group.t0) * (1 + net.P) * width, 1 + net.P, H)
            n = net.hi[s] - net.lo[s]
            for k in range(net.K):
                part[1 + k] = segment(net.WT + (k * H + net.lo[s]) * H + start,
                                      x - net.delays[k] * row + net.lo[s] * width, n, H)
            to.out = x + start * width
            if net.leaky:
                to.rate = 1.0 / net.periods[s]
                to.keep = 1.0 - to.rate
                to.previous = to.out - row
                to.activity = group.activity + (t - group.t0) * row + start * width
            forward_rows(group.nv, net.sizes[s], part, 1 + net.K, &to)


cdef inline void read_out(const Net *net, Group *group, bint all_steps) noexcept nogil:
    """Read-out of the block's steps (those with a target, unless `all_steps`)."""
    cdef int64_t t, width = group.width
    cdef result to
    memset(&to, 0, sizeof(result))
    for t in range(group.t1 - group.t0):
        to.out = group.out + t * net.O * width
        if not (all_steps or group.seen[t]):
            memset(to.out, 0, net.O * width * sizeof(double))
            continue
        net.segments[0] = segment(net.c, group.inputs + t * (1 + net.P) * width, 1, net.O)
        net.segments[1] = segment(net.UT, group.states + (t + net.D) * net.H * width, net.H, net.O)
        linear_rows(group.nv, net.O, net.segments, 2, &to)


cdef inline void losses_of_block(const Net *net, Group *group) noexcept nogil:
    """Add the losses to `sums` and turn the read-outs into the loss's derivatives."""
    cdef int64_t t, width = group.width, since = 0
    cdef double *out
    for t in range(group.t1 - group.t0):
        if not group.seen[t]:
            continue
        out = group.out + t * net.O * width
        if group.kind != SOFTMAX_LOSS:
            squared_errors(group.nv, net.O, out, group.targets + t * group.n_targets * width, group.sums)
        else:
            softmax_errors(group.nv, net.O, out, group.targets + t * group.n_targets * width, group.sums, group.product)
            since += 1
            if since == 16:
                flush_product(width, group.sums, group.product)
                since = 0
    if since:
        flush_product(width, group.sums, group.product)


cdef inline void backward_step(const Net *net, Group *group, int64_t t, int64_t first) noexcept nogil:
    """dL/dz of step t into `dz`, whose rows begin with step `first`; what passes on to step t - 1 into `carry`."""
    cdef int64_t s, r, k, later, n, start, H = net.H, width = group.width, row = net.H * group.width
    cdef segment *part = net.segments
    cdef double *dz
    cdef result to
    memset(&to, 0, sizeof(result))
    for s in range(net.S):
        start, n = net.starts[s], 0
        if group.seen[t - group.t0]:
            part[0] = segment(net.U + start, group.out + (t - group.t0) * net.O * width, net.O, H)
            n = 1
        for k in range(net.K):
            later = t + net.delays[k]
            if later >= group.T:
                continue
            dz = group.dz + (later - first) * row
            for r in range(net.S):
                if net.lo[r] <= start < net.hi[r] and moves(net, r, later):
                    part[n] = segment(net.W + (k * H + net.starts[r]) * H + start, dz + net.starts[r] * width,
                                      net.sizes[r], H)
                    n += 1
        to.carry_in = to.carry_out = group.carry + start * width
        to.activity = NULL
        if not net.leaky and t + 1 < group.T and moves(net, s, t + 1):
            to.carry_in = NULL  # the step after computes this level anew: nothing passes straight back
        if moves(net, s, t):
            to.out = group.dz + (t - first) * row + start * width
            if net.leaky:
                to.rate = 1.0 / net.periods[s]
                to.keep = 1.0 - to.rate
                to.activity = group.activity + (t - group.t0) * row + start * width
            else:
                to.rate = 1.0
                to.activity = group.states + (t - group.t0 + net.D) * row + start * width
                to.carry_out = NULL
        backward_rows(group.nv, net.sizes[s], part, n, &to)


cdef inline void add_gradients(const Net *net, Group *group, int64_t first, int64_t stop) noexcept nogil:
    """Add the weights' gradients of the steps first..stop: outer products summed over steps and lanes."""
    cdef int64_t s, k, t, period, steps, H = net.H, width = group.width, row = net.H * group.width, P1 = 1 + net.P
    cdef double *GV = net.G + VL * net.K * H * H
    cdef double *GU = GV + VL * H * P1
    cdef double *x = group.states + (first - group.t0 + net.D) * row
    cdef double *u = group.inputs + (first - group.t0) * P1 * width
    cdef double *dy = group.out + (first - group.t0) * net.O * width
    cdef double *dz
    for s in range(net.S):
        period = 1 if net.leaky else net.periods[s]
        t = (first + period - 1) // period * period - first
        steps = (stop - first - t + period - 1) // period
        if steps <= 0:
            continue
        dz = group.dz + t * row + net.starts[s] * width
        for k in range(net.K):
            outer_rows(group.nv, net.sizes[s], net.hi[s] - net.lo[s], steps, dz, period * row,
                       x + (t - net.delays[k]) * row + net.lo[s] * width, period * row,
                       net.G + VL * ((k * H + net.starts[s]) * H + net.lo[s]), H)
        outer_rows(group.nv, net.sizes[s], P1, steps, dz, period * row, u + t * P1 * width, period * P1 * width,
                   GV + VL * net.starts[s] * P1, P1)
    for t in range(first, stop):
        if group.seen[t - group.t0]:
            outer_rows(group.nv, net.O, H, stop - first, dy, net.O * width, x, row, GU, H)
            outer_rows(group.nv, net.O, 1, stop - first, dy, net.O * width, u, P1 * width, GU + VL * net.O * H, 1)
            return


cdef inline void backward_block(const Net *net, Group *group) noexcept nogil:
    """Back through the steps of a block; `dz` and `carry` go on to the block before."""
    cdef int64_t stop = group.t1, first, t, row = net.H * group.width
    while stop > group.t0:
        first = max(group.t0, stop - net.chunk)
        memmove(group.dz + (stop - first) * row, group.dz, net.D * row * sizeof(double))
        for t in range(stop - 1, first - 1, -1):
            backward_step(net, group, t, first)
        add_gradients(net, group, first, stop)
        stop = first


cdef inline void shift(const Net *net, Group *group) noexcept nogil:
    """Make the last D states of a block those before the next one."""
    cdef int64_t row = net.H * group.width
    memmove(group.states, group.states + (group.t1 - group.t0) * row, net.D * row * sizeof(double))


cdef inline void run_group(
    const Net *net, Group *group, const double *inputs, const double *targets, const int64_t *offsets,
    const int64_t *members, int64_t m, bint backward
) noexcept nogil:
    """Losses and (backward) gradients of one group."""
    cdef int64_t b, l, n_blocks = (group.T + group.block - 1) // group.block
    cdef int64_t history = net.D * net.H * group.width
    memset(group.states, 0, history * sizeof(double))
    memset(group.sums, 0, net.O * group.width * sizeof(double))
    for l in range(group.width):
        group.product[l] = 1.0
    if backward and n_blocks > 1:
        for b in range(n_blocks - 1):
            group.t0, group.t1 = b * group.block, (b + 1) * group.block
            memcpy(group.checkpoints + b * history, group.states, history * sizeof(double))
            load(net, group, inputs, NULL, offsets, members, m)
            forward_block(net, group)
            shift(net, group)
        memcpy(group.checkpoints + (n_blocks - 1) * history, group.states, history * sizeof(double))
    if backward:
        memset(group.carry, 0, net.H * group.width * sizeof(double))
    for b in range(n_blocks):
        group.t0 = (n_blocks - 1 - b if backward else b) * group.block
        group.t1 = min(group.t0 + group.block, group.T)
        if backward and n_blocks > 1:
            memcpy(group.states, group.checkpoints + group.t0 // group.block * history, history * sizeof(double))
        load(net, group, inputs, targets, offsets, members, m)
        forward_block(net, group)
        read_out(net, group, False)
        losses_of_block(net, group)
        if backward:
            backward_block(net, group)
        else:
            shift(net, group)


cdef inline int64_t start_group(
    Group *group, const int64_t *offsets, const int64_t *members, int64_t left
) noexcept nogil:
    """Choose the width of the next group and its number of steps; return how many sequences it takes."""
    cdef int64_t l, m
    group.nv = WIDEST
    while group.nv > 1 and left <= VL * (group.nv // 2):
        group.nv //= 2
    group.width = VL * group.nv
    m = min(left, group.width)
    group.T = 0
    for l in range(m):
        group.T = max(group.T, offsets[members[l] + 1] - offsets[members[l]])
    return m


cdef inline double *aligned(double *p) noexcept nogil:
    return <double *>((<uintptr_t>p + 63) & ~<uintptr_t>63)


cdef inline const double *pointer(const double[:, ::1] array) noexcept nogil:
    return &array[0, 0] if array.shape[1] else NULL
