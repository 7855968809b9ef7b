"""Multi-scale HMM and IOHMM: a product state whose levels move at their own time scales."""

import numpy as np

from hiermm.expectation import Parameters
from hiermm.markov import driven_parameters
from hiermm.markov_base import as_levels
from hiermm.markov_families import HMMFamily, IOHMMFamily
from hiermm.starts import can_grow, grown_chain
from hiermm.structure import Structure


class _Multiscale:
    """What the multi-scale models share: fitted arrays are lists, one entry a level, slowest first."""

    _flat = False

    def _structure(self):
        sizes = tuple(np.atleast_1d(self.n_states).tolist())
        scales, levels = self.timescales, self.emission_levels
        scales = None if scales is None else tuple(np.atleast_1d(np.asarray(scales, dtype=object)).tolist())
        levels = None if levels is None else tuple(np.atleast_1d(levels).tolist())
        return Structure(sizes, scales, self.clock, self.coupling, levels)

    def _check_hyperparameters(self):
        super()._check_hyperparameters()
        if self.init not in ("grow", "random"):
            raise ValueError(f'init must be "grow" or "random", got {self.init!r}.')

    def _start(self, sequences, emission, rng, number):
        if number > 0 or self.init == "random" or not can_grow(self._structure()):
            return super()._start(sequences, emission, rng, number)
        initial, tables, emission = grown_chain(sequences, emission, self._structure(), rng)
        return Parameters(self._make_chain(initial, tables, sequences), emission)


class MultiscaleHMM(_Multiscale, HMMFamily):
    """Hidden Markov model with a state of several levels, each at its own time scale.

    P(x_t | x_{t-1}) = prod_s P(x_t^s | x_{t-1}^s, x_{t-1}^{parent}), eq. 5 of El Hihi & Bengio (1995).

    Parameters
    ----------
    n_states : tuple of int
        States K_s of each level, slowest first; the joint state has N = prod K_s values.
    timescales : tuple of numbers, or None
        Time scale n_s of each level in steps. Sticky: the self-transition probability is w_s = 1 - 1/n_s (n_s = 1:
        free). Periodic: the level moves only into steps with t % n_s == 0. None: all self-transitions are learned.
    clock : {"sticky", "periodic"}
    coupling : {"slower", "faster", "none"}
        The parent of a level, whose previous state steers its moves: the next slower level, the next faster, or none.
    emission : str or Emission
        As in `HMM`.
    emission_levels : tuple of int, or None
        Levels that the emission depends on; None: the joint state.
    init : {"grow", "random"}
        Where EM starts. "grow": for the first of the `n_init` starts the fastest level is fitted alone, then slower
        levels are added one by one from blocks of the data as long as their time scale
        (`hiermm.starts.grown_chain`); it takes coupling "slower" and an emission that sees the fastest level. "random",
        also for the other starts and where "grow" cannot be: random transitions.
    algorithm, n_init, max_iter, tol, random_state, n_jobs, warm_start, verbose
        As in `HMM`.

    Attributes
    ----------
    initial_ : list of ndarray of shape (R_s, K_s)
        P(x_0^s | x_0^{parent}); R_s is the parent's number of states (1 without a parent).
    transition_ : list of ndarray of shape (R_s, K_s, K_s)
        Axes [parent, from, to].
    emission_, history_, n_iter_, n_parameters_, n_features_in_, converged_
        As in `HMM`.

    Notes
    -----
    Exact inference at N sum_s K_s multiplications a step (divided by n_s for the levels of a periodic clock) instead
    of N^2: a step sums out the levels one after the other. Where N^2 is at most 5 times as many (2 times with
    `emission_levels`), sticky clocks use the joint matrix nevertheless, because it is quicker.

    References
    ----------
    El Hihi & Bengio, "Hierarchical recurrent neural networks for long-term dependencies", NIPS 8 (1995).

    Examples
    --------
    >>> import numpy as np
    >>> from hiermm import MultiscaleHMM
    >>> X = np.random.default_rng(0).normal(size=(200, 1))
    >>> model = MultiscaleHMM((2, 2), timescales=(16, 1), random_state=0, max_iter=5, tol=1.0).fit(X)
    >>> model.levels_of(model.predict(X)).shape
    (200, 2)
    """

    def __init__(
        self,
        n_states=(2, 3),
        *,
        timescales=(16, 1),
        clock="sticky",
        coupling="slower",
        emission="gaussian",
        emission_levels=None,
        init="grow",
        algorithm="viterbi",
        n_init=1,
        max_iter=100,
        tol=1e-6,
        random_state=None,
        n_jobs=None,
        warm_start=False,
        verbose=0,
    ):
        self.n_states = n_states
        self.timescales = timescales
        self.clock = clock
        self.coupling = coupling
        self.emission = emission
        self.emission_levels = emission_levels
        self.init = init
        self.algorithm = algorithm
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.warm_start = warm_start
        self.verbose = verbose

    @classmethod
    def from_parameters(cls, *, initial, transition, emission, **options):
        """Return a model with known parameters, ready to score, decode and sample.

        Parameters
        ----------
        initial : list of array-like of shape (R_s, K_s)
        transition : list of array-like of shape (R_s, K_s, K_s), axes [parent, from, to]
            Rows of a sticky level carry w_s on the diagonal.
        emission : Emission
            With parameters.
        **options
            Constructor arguments: timescales, clock, coupling, emission_levels, ...

        Raises
        ------
        ValueError
            For wrong shapes, rows that are not probabilities, or a diagonal that is not w_s.
        """
        initial, transition = as_levels("initial", initial), as_levels("transition", transition)
        model = cls(level_sizes(initial), emission=emission, **options)
        return model._adopt(emission, None, initial_=initial, transition_=transition)


class MultiscaleIOHMM(_Multiscale, IOHMMFamily):
    """Input-output HMM with a state of several levels, each at its own time scale.

    P(x_t | x_{t-1}, u_t) = prod_s P(x_t^s | x_{t-1}^s, x_{t-1}^{parent}, u_t), eq. 5 of El Hihi & Bengio (1995).

    Parameters
    ----------
    n_states, timescales, clock, coupling, emission_levels, init
        As in `MultiscaleHMM`. On a sticky clock the inputs choose where a level goes, not when.
    emission, transition, alpha
        As in `IOHMM`.
    n_init, max_iter, tol, random_state, n_jobs, warm_start, verbose
        As in `HMM`.

    Attributes
    ----------
    initial_ : list of ndarray of shape (R_s, K_s)
    coef_ : list of ndarray of shape (R_s, K_s, K_s, P)
        Axes [parent, from, to, input].
    intercept_ : list of ndarray of shape (R_s, K_s, K_s)
    transition_ : list of ndarray of shape (n_symbols, R_s, K_s, K_s)
        Instead of `coef_` and `intercept_` for `transition="table"`.
    symbols_, classes_, emission_, history_, n_iter_, n_parameters_, n_features_in_, converged_
        As in `IOHMM`.

    Notes
    -----
    Rows cost sum_s R_s K_s^2 P a step, inference N sum_s K_s.

    References
    ----------
    El Hihi & Bengio, "Hierarchical recurrent neural networks for long-term dependencies", NIPS 8 (1995).

    Examples
    --------
    >>> import numpy as np
    >>> from hiermm import MultiscaleIOHMM
    >>> rng = np.random.default_rng(0)
    >>> u, y = rng.normal(size=(200, 1)), rng.normal(size=200)
    >>> model = MultiscaleIOHMM((2, 2), timescales=(8, 1), random_state=0, max_iter=5, tol=1.0).fit(u, y)
    >>> [coef.shape for coef in model.coef_]
    [(1, 2, 2, 1), (2, 2, 2, 1)]
    """

    def __init__(
        self,
        n_states=(2, 3),
        *,
        timescales=(16, 1),
        clock="sticky",
        coupling="slower",
        emission="linear_gaussian",
        emission_levels=None,
        init="grow",
        transition="softmax",
        alpha=1e-4,
        n_init=1,
        max_iter=100,
        tol=1e-6,
        random_state=None,
        n_jobs=None,
        warm_start=False,
        verbose=0,
    ):
        self.n_states = n_states
        self.timescales = timescales
        self.clock = clock
        self.coupling = coupling
        self.emission = emission
        self.emission_levels = emission_levels
        self.init = init
        self.transition = transition
        self.alpha = alpha
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.warm_start = warm_start
        self.verbose = verbose

    @classmethod
    def from_parameters(cls, *, initial, emission, coef=None, intercept=None, transition=None, **options):
        """Return a model with known parameters, ready to score, decode and sample.

        Parameters
        ----------
        initial : list of array-like of shape (R_s, K_s)
        emission : Emission
            With parameters.
        coef : list of array-like of shape (R_s, K_s, K_s, P), axes [parent, from, to, input]
            On a sticky level they describe the choice among the other states.
        intercept : list of array-like of shape (R_s, K_s, K_s)
        transition : list of array-like of shape (n_symbols, R_s, K_s, K_s), or "softmax" or "shared"
            One table a symbol, instead of coef and intercept; or the kind of rows that these make ("softmax").
        **options
            Constructor arguments: timescales, clock, coupling, emission_levels, alpha, ...

        Raises
        ------
        ValueError
            For wrong shapes, rows that are not probabilities, or a diagonal that is not w_s.
        """
        arrays, n_inputs, options = driven_parameters(coef, intercept, transition, options)
        initial = as_levels("initial", initial)
        model = cls(level_sizes(initial), emission=emission, **options)
        return model._adopt(emission, n_inputs, initial_=initial, **arrays)


def level_sizes(initial):
    """Return the number of states of each level, read from initial distributions (R, K)."""
    for s, level in enumerate(initial):
        if level.ndim != 2:
            raise ValueError(f"initial[{s}] must have two axes (R, K), got shape {level.shape}.")
    return tuple(level.shape[1] for level in initial)
