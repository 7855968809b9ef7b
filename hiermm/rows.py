"""Rows of transition probabilities that inputs drive through a softmax.

A chain is made of rows P(x_t = j | parent state r, x_{t-1} = i, u_t), these or those of `hiermm.tables`. Both kinds
compile inputs into arrays for the kernels, take expected transition counts back as statistics that add, and return
*new* rows that maximise them.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from hiermm import newton
from hiermm._ext import load
from hiermm.tables import check_self_transition, diagonal, frozen

softmax, driven = load("softmax"), load("driven")
MOST_STATES, LEFT_OUT = driven.MOST_STATES, driven.LEFT_OUT  # for `SoftmaxRows.smooth`


@dataclass(frozen=True, eq=False)
class SoftmaxRows:
    """Transition rows that follow the inputs: P(j | r, i, u) = softmax_j(intercept[r, i, j] + coef[r, i, j] @ u).

    Parameters
    ----------
    coef : array_like (R, K, K, P)
        Slopes by [parent, from, to, input].
    intercept : array_like (R, K, K)
        Intercepts; -inf forbids a transition: its probability is exactly 0 and stays so.
    self_transition : float, optional
        Constant probability w in [0, 1) of every self-transition; the softmax divides 1 - w among the other states,
        and the diagonals of `coef` and `intercept` mean nothing. Without meaning for K = 1.
    shared : bool
        The slopes depend on the destination only: one table (K, P) for all source and parent states, with intercepts
        for each. `coef` then repeats that table along its first two axes.
    alpha : float
        L2 penalty on the slopes: log prior = -alpha/2 * sum of squared slopes of the transitions that take part (with
        `shared`, of the one table). Intercepts carry none.

    Raises
    ------
    ValueError
        If shapes disagree, a slope is not finite, an intercept is NaN or +inf, a row forbids every transition, `shared`
        slopes differ between rows, or `self_transition` is not in [0, 1).

    Notes
    -----
    A constant added to all logits of a row changes nothing. Any such gauge is accepted; `maximise` returns parameters
    that sum to zero over the destinations of a row, which is where the penalty is smallest. `maximise` is one Newton
    step (see `hiermm.newton` for what makes it safe); the caller shortens it with `between` until the objective, the
    sum of xi * log p, with the `penalty` has not fallen.

    The statistics cost n R K (K^2/2)(P+1)(P+2)/2 multiply-adds.

    References
    ----------
    Bengio and Frasconi, "An input output HMM architecture", NIPS 7, 1994.

    Examples
    --------
    >>> import numpy as np
    >>> rows = SoftmaxRows(np.zeros((1, 2, 2, 1)), np.log([[[0.9, 0.1], [0.5, 0.5]]]))
    >>> rows.probabilities(np.zeros((1, 1)))[0, 0].round(3)
    array([[0.9, 0.1],
           [0.5, 0.5]])
    """

    coef: np.ndarray
    intercept: np.ndarray
    self_transition: float | None = None
    shared: bool = False
    alpha: float = 1e-4

    iterative = True

    def __post_init__(self):
        object.__setattr__(self, "coef", frozen(self.coef))
        object.__setattr__(self, "intercept", frozen(self.intercept))
        shape = self.intercept.shape
        if len(shape) != 3 or shape[1] != shape[2]:
            raise ValueError(f"intercept must have shape (R, K, K), got {shape}")
        if self.coef.ndim != 4 or self.coef.shape[:3] != shape:
            raise ValueError(f"coef must have shape {(*shape, 'P')}, got {self.coef.shape}")
        check_self_transition(self.self_transition)
        if not np.isfinite(self.coef).all():
            raise ValueError("coef holds a value that is not finite")
        if not (self.intercept < np.inf).all():
            raise ValueError("intercept holds NaN or +inf; only -inf, for a forbidden transition, need not be finite")
        if not self.free.any(axis=-1).all():
            parent, source = np.argwhere(~self.free.any(axis=-1))[0]
            raise ValueError(f"intercept[{parent}, {source}] forbids every transition")
        if self.shared and not (self.coef == self.coef[:1, :1]).all():
            raise ValueError("shared slopes must be the same for every parent and source state")

    @classmethod
    def from_table(cls, probs, n_inputs, *, self_transition=None, shared=False, alpha=1e-4):
        """Return rows that have the probabilities `probs` whatever the inputs.

        Parameters
        ----------
        probs : array_like (R, K, K)
            Probabilities; zeros become forbidden transitions. With `self_transition` the diagonal is ignored.
        n_inputs : int
            Number of inputs P; their slopes are zero.
        self_transition, shared, alpha
            As in the class.

        Examples
        --------
        >>> rows = SoftmaxRows.from_table([[[1.0, 0.0], [0.5, 0.5]]], n_inputs=3)
        >>> rows.coef.shape, rows.n_parameters
        ((1, 2, 2, 3), 4)
        """
        probs = np.asarray(probs, dtype=np.float64)
        with np.errstate(divide="ignore"):
            intercept = np.log(probs)
        if self_transition is not None:
            intercept[diagonal(len(probs), probs.shape[-1])] = 0.0
        rows = cls(np.zeros((*probs.shape, n_inputs)), intercept, self_transition, shared, alpha)
        centred = newton.centred(rows._grouped(rows.intercept), rows._grouped(rows.free))
        return replace(rows, intercept=centred.reshape(probs.shape))

    @property
    def n_parents(self):
        """Number of states R of the parent (1: no parent)."""
        return self.intercept.shape[0]

    @property
    def n_states(self):
        """Number of states K."""
        return self.intercept.shape[1]

    @property
    def n_inputs(self):
        """Number of inputs P."""
        return self.coef.shape[3]

    @cached_property
    def free(self):
        """Mask (R, K, K) of the transitions that take part in the softmax: not forbidden, no fixed self-transition."""
        free = self.intercept > -np.inf
        if self._stay is not None:
            free &= ~diagonal(self.n_parents, self.n_states)
        return free

    @cached_property
    def _stay(self):
        """Destination (R*K,) with the fixed probability of each row, or None."""
        if self.self_transition is None or self.n_states == 1:
            return None
        return np.tile(np.arange(self.n_states, dtype=np.int64), self.n_parents)

    @property
    def _w(self):
        return -1.0 if self._stay is None else float(self.self_transition)

    def _grouped(self, values):
        """Merge parent and source into one axis of R*K groups."""
        return values.reshape(self.n_parents * self.n_states, *values.shape[2:])

    @property
    def n_parameters(self):
        """Number of free parameters: one destination a row is a reference; only transitions that take part count."""
        destinations = self.free.sum(axis=-1)
        intercepts = int((destinations - 1).sum())
        if not self.shared:
            return intercepts * (1 + self.n_inputs)
        joined = self._grouped(self.free)[self._grouped(destinations) > 1].any(axis=0).sum()
        return intercepts + int(max(joined - 1, 0)) * self.n_inputs

    def compile(self, inputs, out):
        """Write the probabilities at every step of `inputs` (n, P) to `out` (n, R, K, K).

        `out` may be a strided view along its first axis; the last three must be contiguous.
        """
        softmax.probabilities(
            inputs, self._grouped(self.coef), self._grouped(self.intercept), self._w, self._stay, self._per_step(out)
        )

    def _per_step(self, values):
        """View `values` (n, R, K, K) as (n, R*K, K) without copying."""
        view = values.reshape(len(values), self.n_parents * self.n_states, self.n_states)
        if len(values) and not np.may_share_memory(view, values):
            raise ValueError("the last three axes (R, K, K) must be contiguous")
        return view

    def probabilities(self, inputs):
        """Return the probabilities (n, R, K, K) at every step of `inputs` (n, P)."""
        out = np.empty((len(inputs), *self.intercept.shape))
        self.compile(inputs, out)
        return out

    def statistics(self, inputs, xi, probs=None, leaving=None):
        """Return what `maximise` needs to know of expected counts, as a dict of arrays that add.

        Parameters
        ----------
        inputs : ndarray (n, P)
            Inputs.
        xi : ndarray (n, R, K, K)
            Expected transitions into each step; may be a strided view along its first axis.
        probs : ndarray (n, R, K, K), optional
            The compiled rows, if at hand; they are computed otherwise.
        leaving : ndarray (n, R*K), optional
            Is set to the counts of each step's free transitions, by source.

        Returns
        -------
        dict
            `gradient` (R*K, K, P+1) and `hessian` (R*K, K*(P+1), K*(P+1)) of the objective (the latter negated;
            features in the order [1, inputs]), `weight` (R*K,) the counts of the free transitions, `moments`
            (P+1, P+1) sums over steps of the features' products.
        """
        groups, K, n_features = self.n_parents * self.n_states, self.n_states, self.n_inputs + 1
        counts = self._per_step(xi)
        probs = self._per_step(self.probabilities(inputs) if probs is None else probs)
        stats = newton.empty_sums(groups, K, n_features)
        softmax.newton_sums(inputs, probs, counts, self._w, self._stay, leaving=leaving, **stats)
        return stats

    def smooth(self, inputs, ll, offsets, initial, leaving=None):
        """Smooth packed sequences of a flat chain of at most MOST_STATES states that moves by these rows (R = 1).

        Takes inputs (n, P), log-likelihoods `ll` (n, K), which become the posteriors, offsets (m + 1,), the
        distribution `initial` (K,) of a sequence's first state, and `leaving` (n, K) as for `statistics`. Returns
        log-likelihoods (m,), status (m,) and what `statistics` returns. Sequences of status LEFT_OUT, to be done by
        other means, are not in the results; their rows of `ll` are as they were.
        """
        m = len(offsets) - 1
        loglik, status = np.empty(m), np.empty(m, dtype=np.int64)
        stats = newton.empty_sums(self.n_states, self.n_states, self.n_inputs + 1)
        driven.smooth(
            inputs=inputs, ll=ll, offsets=offsets, initial=initial, coef=self.coef[0], intercept=self.intercept[0],
            w=self._w, stay=self._stay, gamma=ll, loglik=loglik, status=status, leaving=leaving, **stats,
        )  # fmt: skip
        return loglik, status, stats

    def maximise(self, stats):
        """Return the Newton point of objective + penalty, given `statistics` taken at these parameters."""
        coef, intercept, free = self._grouped(self.coef), self._grouped(self.intercept), self._grouped(self.free)
        if self.shared and self.n_inputs:
            slopes, intercept = newton.shared_softmax_point(coef[0], intercept, free, stats, self.alpha)
            coef = np.broadcast_to(slopes, coef.shape)
        else:
            coef, intercept = newton.softmax_point(coef, intercept, free, stats, self.alpha)
        return replace(self, coef=coef.reshape(self.coef.shape), intercept=intercept.reshape(self.intercept.shape))

    def _change(self, other):
        """Return intercepts (R*K, K) and slopes (R*K, K, P) of `other` minus these; 0 for transitions not free."""
        free = self._grouped(self.free)
        intercept = np.zeros(free.shape)
        np.subtract(self._grouped(other.intercept), self._grouped(self.intercept), out=intercept, where=free)
        return intercept, (self._grouped(other.coef) - self._grouped(self.coef)) * free[..., None]

    def slope(self, other, stats):
        """Return the gradient in `statistics`, without the penalty's, times the way to `other`."""
        intercept, coef = self._change(other)
        gradient = stats["gradient"]
        return float(np.vdot(gradient[..., 0], intercept) + np.vdot(gradient[..., 1:], coef))

    def divergence(self, other, inputs, leaving):
        """Return the sum over steps and sources of leaving * KL(these rows || the rows of `other`), in nats.

        Only free transitions take part; `leaving` (n, R*K) are their expected counts by step and source. The expected
        log-likelihood sum xi * log p changes, from these rows to those of `other`, by `slope` less this.
        """
        intercept, coef = self._change(other)
        mine = self._grouped(self.coef), self._grouped(self.intercept)
        return softmax.divergence(inputs, *mine, coef, intercept, self._stay, leaving)

    def penalty(self):
        """Return the log prior of the slopes, -alpha/2 * sum of their squares, up to a constant."""
        if self.shared:
            slopes = self.coef[0, 0][self._grouped(self.free).any(axis=0)]
        else:
            slopes = self.coef[self.free]
        return -0.5 * self.alpha * float(np.vdot(slopes, slopes))

    def surely_rises(self, goal, low, high):
        """Whether going all the way to `goal` = `maximise(statistics)` raises objective + penalty for certain.

        Parameters
        ----------
        goal : SoftmaxRows
            The Newton point of these rows.
        low, high : ndarray (P,)
            Smallest and largest value of each input in the data.

        Returns
        -------
        bool
            True: no line search is needed, as in most iterations of EM but the first few. False: not known. See
            `hiermm.newton.surely_rises`.
        """
        return newton.surely_rises(*self._change(goal), self._grouped(self.free), low, high)

    def between(self, other, fraction):
        """Return the rows on the straight line from these (fraction 0) to `other` (fraction 1)."""
        coef = self.coef + fraction * (other.coef - self.coef)
        intercept = self.intercept.copy()
        intercept[self.free] += fraction * (other.intercept[self.free] - self.intercept[self.free])
        return replace(self, coef=coef, intercept=intercept)
