"""HMM and IOHMM, the flat models: what users type."""

import numpy as np

from hiermm.convert import hmmlearn_parameters
from hiermm.emissions.base import as_floats, as_parameter
from hiermm.markov_base import as_levels
from hiermm.markov_families import HMMFamily, IOHMMFamily


class HMM(HMMFamily):
    """Hidden Markov model.

    P(y, x) = pi[x_0] b(y_0 | x_0) prod_t A[x_{t-1}, x_t] b(y_t | x_t), fitted by expectation-maximisation
    (Baum-Welch).

    Parameters
    ----------
    n_states : int
        Number N of hidden states.
    emission : str or Emission
        What a state emits: "gaussian", "categorical", "poisson", or an object of `hiermm.emissions`.
    algorithm : {"viterbi", "posterior"}
        What `predict` returns: the most likely path, or the most likely state of each step.
    n_init : int
        Number of starts; the fit with the highest objective is kept.
    max_iter : int
        EM iterations at the most.
    tol : float
        Converged when an iteration gains less, in nats per observed step.
    random_state : int, RandomState or None
    n_jobs : int or None
        Threads over sequences; the result is the same to the bit for any number.
    warm_start : bool
        Whether `fit` goes on from the fitted parameters. Changed priors, floors and penalties take effect; changes that
        want arrays of another shape are refused.
    verbose : int
        1 shows a progress bar.

    Attributes
    ----------
    initial_ : ndarray of shape (N,)
        Distribution of the first state.
    transition_ : ndarray of shape (N, N)
        `transition_[i, j]` = P(x_t = j | x_{t-1} = i).
    emission_ : Emission
        Fitted emission with its arrays, such as `emission_.means_`.
    history_ : list of float
        Mean log-likelihood per observed step at each iteration; the last is that of the fitted model.
    n_iter_, n_parameters_, n_features_in_ : int
    converged_ : bool

    Notes
    -----
    An EM iteration costs O(T N^2); its memory does not grow with T.

    References
    ----------
    Rabiner, "A tutorial on hidden Markov models", Proceedings of the IEEE 77 (1989).

    Examples
    --------
    >>> import numpy as np
    >>> from hiermm import HMM
    >>> rng = np.random.default_rng(0)
    >>> X = np.concatenate([rng.normal(0, 1, (100, 1)), rng.normal(5, 1, (100, 1))])
    >>> model = HMM(2, random_state=0).fit(X)
    >>> states = model.predict(X)
    >>> bool(states[0] != states[-1])
    True
    """

    _flat = True

    def __init__(
        self,
        n_states=2,
        *,
        emission="gaussian",
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
        self.emission = emission
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
        initial : array-like of shape (N,)
        transition : array-like of shape (N, N)
        emission : Emission
            With parameters, such as `Gaussian.from_parameters(...)`.
        **options
            Constructor arguments.

        Raises
        ------
        ValueError
            For wrong shapes, or rows that are not probabilities.
        """
        initial, transition = as_parameter("initial", initial, 1), as_floats("transition", transition)
        model = cls(len(initial), emission=emission, **options)
        return model._adopt(emission, None, initial_=initial, transition_=transition)

    @classmethod
    def from_hmmlearn(cls, model, **options):
        """Return the model with the parameters of a fitted hmmlearn model.

        Log-likelihoods, posteriors and paths are the same, except that hmmlearn's `score` is the total
        (`log_likelihood` here) and `score` here the mean per step. Priors and stopping rules are not taken over.

        Parameters
        ----------
        model : hmmlearn.hmm.GaussianHMM, CategoricalHMM or PoissonHMM
            With parameters.
        **options
            Constructor arguments; `algorithm` is hmmlearn's ("map" is "posterior" here) unless given.

        Raises
        ------
        TypeError
            For any other object, hmmlearn's GMMHMM and MultinomialHMM among them.
        NotFittedError
            If the model has no parameters yet.

        Examples
        --------
        >>> import numpy as np
        >>> from hmmlearn.hmm import PoissonHMM
        >>> from hiermm import HMM
        >>> X = np.array([[1], [0], [7], [9], [8], [1]])
        >>> theirs = PoissonHMM(2, random_state=0).fit(X)
        >>> bool(np.isclose(HMM.from_hmmlearn(theirs).log_likelihood(X), theirs.score(X)))
        True
        """
        known = hmmlearn_parameters(model)
        algorithm = "posterior" if model.algorithm == "map" else model.algorithm
        return cls.from_parameters(**known, **{"algorithm": algorithm, **options})


class IOHMM(IOHMMFamily):
    """Input-output hidden Markov model (a GLM-HMM): inputs steer the transitions and, if wanted, the emissions.

    P(x_t = j | x_{t-1} = i, u_t) = softmax_j(intercept[i, j] + coef[i, j] . u_t); the emission at t sees u_t.

    Parameters
    ----------
    n_states : int
        Number N of hidden states.
    emission : str or Emission
        "linear_gaussian", "logistic", "poisson_regression" (driven by the inputs), "gaussian", "categorical",
        "poisson" (not), or an object of `hiermm.emissions`.
    transition : {"softmax", "shared", "table"}
        One multinomial logit a source state; slopes that depend on the destination only; or one transition matrix for
        each value of a single integer input.
    alpha : float
        L2 penalty on the slopes (alpha / 2 times their sum of squares); intercepts carry none.
    n_init, max_iter, tol, random_state, n_jobs, warm_start, verbose
        As in `HMM`.

    Attributes
    ----------
    initial_ : ndarray of shape (N,)
    coef_ : ndarray of shape (N, N, P)
        Slopes [from, to, input]; softmax and shared rows.
    intercept_ : ndarray of shape (N, N)
    transition_ : ndarray of shape (n_symbols, N, N)
        Instead of `coef_` and `intercept_` for `transition="table"`. n_symbols is the largest symbol in the
        training data plus one.
    symbols_ : ndarray of int
        For `transition="table"`, the symbols that the training data held. Other symbols are refused afterwards; the
        tables of those that were skipped mean nothing and count no parameters.
    classes_ : ndarray of shape (M,)
        Labels, for an emission of symbols.
    emission_, history_, n_iter_, n_parameters_, n_features_in_, converged_
        As in `HMM`.

    Notes
    -----
    The M-step of the rows is one Newton step an EM iteration, so EM is of the generalised kind. The next E-step judges
    it; a step that has not raised the objective, log-likelihood plus log prior, is shortened. It never falls.

    References
    ----------
    Bengio & Frasconi, "An input output HMM architecture", NIPS 7 (1994).

    Examples
    --------
    >>> import numpy as np
    >>> from hiermm import IOHMM
    >>> rng = np.random.default_rng(0)
    >>> u = rng.normal(size=(300, 1))
    >>> y = np.where(np.cumsum(u > 1) % 2, 3.0, 0.0) + rng.normal(size=300)
    >>> model = IOHMM(2, random_state=0, max_iter=20, tol=1e-3).fit(u, y)
    >>> model.coef_.shape
    (2, 2, 1)
    """

    _flat = True

    def __init__(
        self,
        n_states=2,
        *,
        emission="linear_gaussian",
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
        self.emission = emission
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
        initial : array-like of shape (N,)
        emission : Emission
            With parameters, such as `LinearGaussian.from_parameters(...)`.
        coef : array-like of shape (N, N, P), axes [from, to, input]
        intercept : array-like of shape (N, N)
        transition : array-like of shape (n_symbols, N, N), or "softmax" or "shared"
            One table a symbol, instead of coef and intercept; or the kind of rows that these make ("softmax").
        **options
            Constructor arguments.

        Raises
        ------
        ValueError
            For wrong shapes, or rows that are not probabilities.
        """
        arrays, n_inputs, options = driven_parameters(coef, intercept, transition, options, flat=True)
        initial = as_parameter("initial", initial, 1)
        model = cls(len(initial), emission=emission, **options)
        return model._adopt(emission, n_inputs, initial_=initial, **arrays)


def driven_parameters(coef, intercept, transition, options, flat=False):
    """Return (fitted attributes, number of inputs, options) for softmax rows or for tables."""
    if isinstance(transition, str) and transition != "table":
        transition, options = None, {**options, "transition": transition}
    if transition is not None:
        if coef is not None or intercept is not None:
            raise ValueError("give coef and intercept, or transition (one table a symbol), not both.")
        return {"transition_": as_levels("transition", transition, flat)}, 1, {**options, "transition": "table"}
    if coef is None or intercept is None:
        raise ValueError("give both coef and intercept, or transition (one table a symbol).")
    coef = as_levels("coef", coef, flat)
    n_inputs = (np.shape(coef if flat else coef[0]) or (0,))[-1]
    return {"coef_": coef, "intercept_": as_levels("intercept", intercept, flat)}, n_inputs, options
