"""Forward pass, back-propagation through time and Jacobians of a tanh network with levels on their own time scales.

Sequences lie side by side in the SIMD lanes: a group of at most `LANES` sequences, sorted by length by the caller,
runs as one. A state before the first step is zero. Steps go in blocks of `block`: with one block all states are kept
for the backward pass; with several, only the states that a block starts from are kept and each block is computed twice.

`plan` (int64) holds [leaky, S, K, P, O, H], then `sizes, starts, periods, lo, hi` (S each) and `delays` (K). Level s
has the units starts[s]..starts[s]+sizes[s] and listens to the units lo[s]..hi[s]. `theta` holds W (K, H, H)
[to, from], V (H, P), b (H), U (O, H) and c (O), one after the other; gradients are laid out in the same way.
"""

from libc.stdint cimport int64_t
from libc.string cimport memset

from hiermm._ext.rnn_core cimport (
    HEADER,
    SOFTMAX_LOSS,
    VL,
    WIDEST,
    Group,
    Net,
    aligned,
    carve,
    forward_block,
    load,
    moves,
    pack,
    pointer,
    read_out,
    read_plan,
    run_group,
    shift,
    start_group,
    sum_lanes,
    tanh_array,
)

import numpy as np

LANES = VL * WIDEST
SQUARED, SOFTMAX = 0, SOFTMAX_LOSS


cdef void store(
    const Net *net, Group *group, const int64_t *offsets, const int64_t *members, int64_t m, double *out,
    double *states, double *slopes
) noexcept nogil:
    """Write read-outs, states and dx/dz of the block's steps back to packed rows."""
    cdef int64_t l, t, i, s, stop, at, H = net.H, width = group.width
    cdef double h
    cdef double *x
    for l in range(m):
        stop = min(offsets[members[l] + 1] - offsets[members[l]], group.t1)
        for t in range(group.t0, stop):
            at = offsets[members[l]] + t
            if out != NULL:
                for i in range(net.O):
                    out[at * net.O + i] = group.out[((t - group.t0) * net.O + i) * width + l]
            x = group.states + (t - group.t0 + net.D) * H * width + l
            if states != NULL:
                for i in range(H):
                    states[at * H + i] = x[i * width]
            if slopes == NULL:
                continue
            for s in range(net.S):
                for i in range(net.starts[s], net.starts[s] + net.sizes[s]):
                    h = group.activity[((t - group.t0) * H + i) * width + l] if net.leaky else x[i * width]
                    slopes[at * H + i] = (1.0 - h * h) / (net.periods[s] if net.leaky else 1)
                    if not moves(net, s, t):
                        slopes[at * H + i] = 0.0


cdef void gather(const Net *net, double *gradient) noexcept nogil:
    """Sum the gradients over the lanes, in theta's layout."""
    cdef int64_t i, j, H = net.H, P = net.P, n = net.K * net.H * net.H
    cdef const double *G = net.G
    for i in range(n):
        gradient[i] = sum_lanes(G + VL * i)
    G += VL * n
    for j in range(H):
        for i in range(P):
            gradient[n + j * P + i] = sum_lanes(G + VL * (j * (1 + P) + 1 + i))
        gradient[n + H * P + j] = sum_lanes(G + VL * j * (1 + P))
    for i in range(n + H * (1 + P), net.n_theta):
        gradient[i] = sum_lanes(net.G + VL * i)


def scratch_size(const int64_t[::1] plan, int64_t longest, int64_t n_sequences, int64_t block, bint backward):
    """Return the number of doubles that `loss` or `run` needs for sequences of at most `longest` steps."""
    check_plan(plan)
    cdef Net net = read_plan(&plan[0])
    cdef Group group
    group.nv = WIDEST
    while group.nv > 1 and n_sequences <= VL * (group.nv // 2):
        group.nv //= 2
    group.width = VL * group.nv
    group.block = min(block, longest)
    group.n_targets = net.O
    return carve(&net, &group, NULL, longest, backward) + 8


def loss(
    const int64_t[::1] plan,          # IN
    const double[::1] theta,          # IN
    const double[:, ::1] inputs,      # IN (n, P)
    const double[:, ::1] targets,     # IN (n, O), or (n, 1) class codes; NaN is not observed
    const int64_t[::1] offsets,       # IN
    const int64_t[::1] order,         # IN the sequences to use, best sorted by length
    int64_t kind,                     # IN SQUARED or SOFTMAX
    int64_t block,                    # IN
    double[::1] scratch,              # IN at least scratch_size(...)
    double[:, ::1] losses,            # OUT (len(order), O or 1): sum of squared errors / of -log p per sequence
    double[::1] gradient=None,        # OUT (n_theta,), of half the squared error or of -log p, summed
):
    """Losses of the sequences `order` and the gradient of their sum."""
    check_arguments(plan, theta, inputs, offsets, order, scratch, block, gradient is not None)
    cdef Net net = read_plan(&plan[0])
    cdef Group group
    cdef int64_t i, l, m, left, at = 0, n_losses = 1 if kind == SOFTMAX_LOSS else net.O
    cdef bint backward = gradient is not None
    cdef double *base = aligned(&scratch[0])
    if targets.shape[0] != inputs.shape[0] or targets.shape[1] != n_losses:
        raise ValueError("targets must have a row a step, and a column an output (one for classes)")
    if losses.shape[0] != order.shape[0] or losses.shape[1] != n_losses:
        raise ValueError("losses must have a row a sequence, and a column an output (one for classes)")
    if backward and gradient.shape[0] != net.n_theta:
        raise ValueError("gradient must be as long as theta")
    group.kind, group.n_targets = kind, n_losses
    with nogil:
        left = order.shape[0]
        while left:
            m = start_group(&group, &offsets[0], &order[at], left)
            group.block = min(block, group.T)
            carve(&net, &group, base, group.T, backward)
            if at == 0:
                pack(&net, &theta[0])
                if backward:
                    memset(net.G, 0, VL * net.n_theta * sizeof(double))
            run_group(&net, &group, pointer(inputs), &targets[0, 0], &offsets[0], &order[at], m, backward)
            for l in range(m):
                for i in range(n_losses):
                    losses[at + l, i] = group.sums[i * group.width + l]
            at += m
            left -= m
        if backward:
            gather(&net, &gradient[0])


def run(
    const int64_t[::1] plan,          # IN
    const double[::1] theta,          # IN
    const double[:, ::1] inputs,      # IN (n, P)
    const int64_t[::1] offsets,       # IN
    const int64_t[::1] order,         # IN all sequences, best sorted by length
    int64_t block,                    # IN
    double[::1] scratch,              # IN at least scratch_size(...)
    double[:, ::1] out=None,          # OUT (n, O): read-outs
    double[:, ::1] states=None,       # OUT (n, H)
    double[:, ::1] slopes=None,       # OUT (n, H): dx_t/dz_t, 0 where a level holds
):
    """Forward pass over the sequences `order`; asks for no targets."""
    check_arguments(plan, theta, inputs, offsets, order, scratch, block, False)
    cdef Net net = read_plan(&plan[0])
    cdef Group group
    cdef int64_t b, m, left, at = 0
    cdef double *base = aligned(&scratch[0])
    cdef double *to_out = NULL
    cdef double *to_states = NULL
    cdef double *to_slopes = NULL
    if out is not None:
        check_shape(out, inputs.shape[0], net.O, "out")
        to_out = &out[0, 0]
    if states is not None:
        check_shape(states, inputs.shape[0], net.H, "states")
        to_states = &states[0, 0]
    if slopes is not None:
        check_shape(slopes, inputs.shape[0], net.H, "slopes")
        to_slopes = &slopes[0, 0]
    group.n_targets, group.kind = 0, 0
    with nogil:
        left = order.shape[0]
        while left:
            m = start_group(&group, &offsets[0], &order[at], left)
            group.block = min(block, group.T)
            carve(&net, &group, base, group.T, False)
            if at == 0:
                pack(&net, &theta[0])
            memset(group.states, 0, net.D * net.H * group.width * sizeof(double))
            for b in range((group.T + group.block - 1) // group.block):
                group.t0, group.t1 = b * group.block, min((b + 1) * group.block, group.T)
                load(&net, &group, pointer(inputs), NULL, &offsets[0], &order[at], m)
                forward_block(&net, &group)
                if to_out != NULL:
                    read_out(&net, &group, True)
                store(&net, &group, &offsets[0], &order[at], m, to_out, to_states, to_slopes)
                shift(&net, &group)
            at += m
            left -= m


def jacobians(
    const int64_t[::1] plan,          # IN
    const double[::1] theta,          # IN
    const double[:, ::1] slopes,      # IN (n, H), from `run`
    const int64_t[::1] offsets,       # IN
    double[:, :, ::1] out,            # OUT (n - m, D H, D H)
):
    """dX_t/dX_{t-1} on the stacked state X_t = (x_t, ..., x_{t-D+1}), D the longest delay: T - 1 a sequence."""
    check_plan(plan)
    cdef Net net = read_plan(&plan[0])
    cdef int64_t q, t, s, k, i, j, at = 0, H = net.H, n = net.D * net.H, m = offsets.shape[0] - 1
    cdef const double *W
    cdef double *M
    cdef double slope
    check_shape(slopes, offsets[m], H, "slopes")
    if theta.shape[0] != net.n_theta or out.shape[0] != offsets[m] - m or out.shape[1] != n or out.shape[2] != n:
        raise ValueError("theta or out has the wrong shape")
    with nogil:
        for q in range(m):
            for t in range(1, offsets[q + 1] - offsets[q]):
                M = &out[at, 0, 0]
                at += 1
                memset(M, 0, n * n * sizeof(double))
                for i in range(H, n):
                    M[i * n + i - H] = 1.0
                for s in range(net.S):
                    for j in range(net.starts[s], net.starts[s] + net.sizes[s]):
                        slope = slopes[offsets[q] + t, j]
                        for k in range(net.K if moves(&net, s, t) else 0):
                            W = &theta[(k * H + j) * H]
                            for i in range(net.lo[s], net.hi[s]):
                                M[j * n + (net.delays[k] - 1) * H + i] += slope * W[i]
                        if net.leaky:
                            M[j * n + j] += 1.0 - 1.0 / net.periods[s]
                        elif not moves(&net, s, t):
                            M[j * n + j] = 1.0


def check_plan(const int64_t[::1] plan):
    """Raise ValueError unless `plan` has the length that its header asks for."""
    if plan.shape[0] < HEADER or plan.shape[0] != HEADER + 5 * plan[1] + plan[2]:
        raise ValueError("plan has the wrong length")


cdef check_shape(const double[:, ::1] array, int64_t rows, int64_t columns, str name):
    if array.shape[0] != rows or array.shape[1] != columns:
        raise ValueError(f"{name} has shape {(array.shape[0], array.shape[1])}, expected {(rows, columns)}")


cdef check_arguments(const int64_t[::1] plan, const double[::1] theta, const double[:, ::1] inputs,
                     const int64_t[::1] offsets, const int64_t[::1] order, double[::1] scratch, int64_t block,
                     bint backward):
    check_plan(plan)
    cdef Net net = read_plan(&plan[0])
    cdef Group group
    cdef int64_t k, left, need = 0, m = offsets.shape[0] - 1
    if theta.shape[0] != net.n_theta:
        raise ValueError(f"theta has {theta.shape[0]} entries, expected {net.n_theta}")
    if m < 1 or offsets[0] != 0 or offsets[m] != inputs.shape[0] or inputs.shape[1] != net.P:
        raise ValueError("offsets, inputs and plan do not fit together")
    if block < 1 or order.shape[0] < 1:
        raise ValueError("block must be at least 1 and order hold a sequence")
    for k in range(order.shape[0]):
        if order[k] < 0 or order[k] >= m or offsets[order[k] + 1] <= offsets[order[k]]:
            raise ValueError(f"order names sequence {order[k]}, which is missing or empty")
    k, left = 0, order.shape[0]
    while left:
        group.n_targets = net.O
        m = start_group(&group, &offsets[0], &order[k], left)
        group.block = min(block, group.T)
        need = max(need, carve(&net, &group, NULL, group.T, backward) + 8)
        k += m
        left -= m
    if scratch.shape[0] < need:
        raise ValueError(f"scratch has {scratch.shape[0]} doubles, {need} are needed")


def tanh(const double[::1] x):
    """Return the kernels' tanh of x."""
    out = np.empty(x.shape[0])
    cdef double[::1] to = out
    if x.shape[0]:
        tanh_array(x.shape[0], &x[0], &to[0])
    return out
