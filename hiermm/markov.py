"""HMM, IOHMM and their multi-scale forms: what users type."""

import numpy as np
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from hiermm import inference
from hiermm.emissions import NAMES
from hiermm.labels import encode, learn_classes
from hiermm.markov_base import MarkovModel
from hiermm.sequences import BLOCK, Sequences, inputs_outputs, observations


class _HMMFamily(MarkovModel):
    """Models of observations alone: X holds the observations, y is ignored."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def _read(self, X, y, lengths, emission, reset=False):
        parts = X if isinstance(X, (list, tuple)) else [X]
        text = emission.discrete and any(np.asarray(part).dtype.kind in "OUS" for part in parts)
        sequences = observations(X, lengths, labels=text)
        self._check_features(X, sequences.outputs.shape[1], reset)
        if not text:
            if reset:
                self.__dict__.pop("classes_", None)
            return sequences
        if reset:
            self.classes_ = learn_classes(sequences.outputs, getattr(emission, "n_symbols", None))
        elif not hasattr(self, "classes_"):
            raise ValueError("X holds labels, but this model was fitted to symbol codes.")
        codes = encode(sequences.outputs, self.classes_, sequences.offsets)
        return Sequences(sequences.inputs, codes, sequences.offsets, sequences.form)

    def _read_outputs(self, X, y, lengths):
        check_is_fitted(self, "emission_")
        sequences = self._read(X, y, lengths, self.emission_)
        self.emission_.check(sequences.outputs, sequences.inputs)
        return sequences

    def _read_inputs(self, X, lengths):
        check_is_fitted(self, "emission_")
        return self._read(X, None, lengths, self.emission_)

    def predict(self, X, *, lengths=None):
        """Return the state at every step, shape (T,).

        With `algorithm="viterbi"` the most likely path, with "posterior" the most likely state of each step.
        """
        if self.algorithm not in ("viterbi", "posterior"):
            raise ValueError(f'algorithm must be "viterbi" or "posterior", got {self.algorithm!r}.')
        if self.algorithm == "viterbi":
            return self.decode(X, lengths=lengths)[1]
        gamma = self.posterior(X, lengths=lengths)
        return [part.argmax(axis=-1) for part in gamma] if isinstance(gamma, list) else gamma.argmax(axis=-1)

    def predict_proba(self, X, *, lengths=None):
        """Return the smoothed state posteriors, shape (T, N)."""
        return self.posterior(X, lengths=lengths)

    def sample(self, n_steps=1, *, random_state=None):
        """Draw one sequence.

        Parameters
        ----------
        n_steps : int
        random_state : int, RandomState or None

        Returns
        -------
        observations : ndarray of shape (n_steps, D)
        states : ndarray of shape (n_steps,)
        """
        if not isinstance(n_steps, (int, np.integer)) or n_steps < 1:
            raise ValueError(f"n_steps must be an integer of at least 1, got {n_steps!r}.")
        offsets = np.array([0, n_steps], dtype=np.int64)
        outputs, states = self._draw(Sequences(np.empty((n_steps, 0)), None, offsets), random_state)
        if self.emission_.discrete:
            outputs = outputs.astype(np.int64)
            if hasattr(self, "classes_"):
                outputs = self.classes_[outputs]
        return outputs, states


def _predicts_classes(model):
    emission = getattr(model, "emission_", model.emission)
    emission = NAMES.get(emission, emission) if isinstance(emission, str) else emission
    if not getattr(emission, "discrete", True):  # what is no emission at all, fit will refuse
        raise AttributeError("predict_proba needs an emission of class labels, such as Logistic or Categorical.")
    return True


class _IOHMMFamily(MarkovModel):
    """Models of outputs y given inputs X."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.multi_output = True
        return tags

    def _transition(self):
        return self.transition

    def _read(self, X, y, lengths, emission, reset=False):
        if y is None:
            raise ValueError(f"{type(self).__name__} requires y to be passed, but the target y is None.")
        sequences = inputs_outputs(X, y, lengths, labels=emission.discrete)
        self._check_features(X, sequences.inputs.shape[1], reset)
        self._check_symbols(sequences, reset)
        if not emission.discrete:
            return sequences
        if reset:
            self.classes_ = learn_classes(sequences.outputs, getattr(emission, "n_symbols", None))
        codes = encode(sequences.outputs, self.classes_, sequences.offsets)
        return Sequences(sequences.inputs, codes, sequences.offsets, sequences.form)

    def _read_outputs(self, X, y, lengths):
        check_is_fitted(self, "emission_")
        sequences = self._read(X, y, lengths, self.emission_)
        self.emission_.check(sequences.outputs, sequences.inputs)
        return sequences

    def _read_inputs(self, X, lengths):
        check_is_fitted(self, "emission_")
        sequences = inputs_outputs(X, None, lengths)
        self._check_features(X, sequences.inputs.shape[1], reset=False)
        self._check_symbols(sequences, reset=False)
        return sequences

    def _check_symbols(self, sequences, reset):
        """Refuse inputs that are not one column of table numbers, for `transition="table"`."""
        if self.transition != "table":
            return
        if sequences.inputs.shape[1] != 1:
            raise ValueError(
                f'transition="table" takes one input column of symbols, X has {sequences.inputs.shape[1]}.'
            )
        symbols = sequences.inputs[:, 0]
        limit = np.inf if reset else len(self._chain().rows[0].probs)
        bad = (symbols != np.floor(symbols)) | (symbols < 0) | (symbols >= limit)
        if bad.any():
            sequence, step = sequences.locate(int(np.argmax(bad)))
            known = "0, 1, 2, ..." if reset else f"0 to {limit - 1}"
            raise ValueError(
                f"sequence {sequence}, step {step}: input {symbols[np.argmax(bad)]:g} is not a symbol ({known})."
            )

    def predict(self, X, *, lengths=None):
        """Return the most likely class or the mean output at every step, given the inputs so far.

        Outputs are not looked at; for a forecast from past outputs make them inputs, or filter with `posterior`.

        Returns
        -------
        ndarray of shape (T,) for class labels or one output, (T, D) for several; in the form of X
        """
        sequences = self._read_inputs(X, lengths)
        if self.emission_.discrete:
            winners = self._average(sequences, self.emission_.probabilities).argmax(axis=1)
            return sequences.restore(self.classes_[winners])
        mean = self._average(sequences, self.emission_.mean)
        return sequences.restore(mean[:, 0] if mean.shape[1] == 1 else mean)

    @available_if(_predicts_classes)
    def predict_proba(self, X, *, lengths=None):
        """Return the probabilities of the classes at every step, shape (T, M), given the inputs so far."""
        sequences = self._read_inputs(X, lengths)
        return sequences.restore(self._average(sequences, self.emission_.probabilities))

    def _average(self, sequences, by_state):
        """Return by_state(inputs, n) (n, N, D) averaged over the state distribution that the inputs imply."""
        parameters = self._parameters()
        transitions = parameters.chain.compile(sequences.inputs)
        nothing = np.zeros((sequences.n_steps, parameters.emission.n_states))
        states, *_ = inference.filter(transitions, nothing, sequences.offsets)
        if transitions.emit is not None:
            member = np.equal.outer(transitions.emit, np.arange(parameters.emission.n_states)).astype(float)
            states = states @ member
        parts = []
        for lo in range(0, sequences.n_steps, BLOCK):
            weights, inputs = states[lo : lo + BLOCK], sequences.inputs[lo : lo + BLOCK]
            values = by_state(inputs, len(inputs))
            if not np.isfinite(values).all():  # rates beyond the range of a float, maybe in states that cannot be
                values = np.where(weights[:, :, None] > 0, values, 0.0)
            parts.append(np.einsum("tn,tnd->td", weights, values))
        return np.concatenate(parts)

    def sample(self, X, *, random_state=None):
        """Draw outputs along the inputs X.

        Parameters
        ----------
        X : inputs, as in `fit`
        random_state : int, RandomState or None

        Returns
        -------
        outputs : ndarray of shape (T,) for class labels, (T, D) otherwise; in the form of X
        states : ndarray of shape (T,); in the form of X
        """
        if np.ndim(X) == 0 and not hasattr(X, "__len__"):
            raise ValueError(f"{type(self).__name__} draws outputs along inputs: give X, not a number of steps.")
        sequences = self._read_inputs(X, None)
        outputs, states = self._draw(sequences, random_state)
        if self.emission_.discrete:
            outputs = self.classes_[outputs[:, 0].astype(np.int64)]
        return sequences.restore(outputs), sequences.restore(states)


class HMM(_HMMFamily):
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
        Whether `fit` goes on from the fitted parameters.
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
        model = cls(len(initial), emission=emission, **options)
        return model._adopt(emission, None, initial_=initial, transition_=transition)


class IOHMM(_IOHMMFamily):
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
        Instead of `coef_` and `intercept_` for `transition="table"`.
    classes_ : ndarray of shape (M,)
        Labels, for an emission of symbols.
    emission_, history_, n_iter_, n_parameters_, n_features_in_, converged_
        As in `HMM`.

    Notes
    -----
    The M-step of the rows is one Newton step with line search an EM iteration, so EM is of the generalised kind: the
    objective, log-likelihood plus log prior, never falls.

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
        arrays, n_inputs, options = driven_parameters(coef, intercept, transition, options)
        model = cls(len(initial), emission=emission, **options)
        return model._adopt(emission, n_inputs, initial_=initial, **arrays)


def driven_parameters(coef, intercept, transition, options, levels=False):
    """Return (fitted attributes, number of inputs, options) for softmax rows or for tables."""
    if isinstance(transition, str) and transition != "table":
        transition, options = None, {**options, "transition": transition}
    if transition is not None:
        if coef is not None or intercept is not None:
            raise ValueError("give coef and intercept, or transition (one table a symbol), not both.")
        return {"transition_": transition}, 1, {**options, "transition": "table"}
    if coef is None or intercept is None:
        raise ValueError("give both coef and intercept, or transition (one table a symbol).")
    n_inputs = np.shape(coef[0] if levels else coef)[-1]
    return {"coef_": coef, "intercept_": intercept}, n_inputs, options
