"""The face that all Markov models share: fitting, scoring, posteriors, decoding, sampling."""

from dataclasses import replace

import numpy as np
from scipy.special import logsumexp
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_feature_names, _check_n_features, check_is_fitted
from tqdm import tqdm

from hiermm import em, inference
from hiermm.chains import Chain, chain_from_tables, check_dense_size, random_chain
from hiermm.emissions import make
from hiermm.emissions.base import Emission, as_probabilities
from hiermm.expectation import Expectation, Parameters, emitted, log_likelihoods, refuse_impossible
from hiermm.operators import Operators
from hiermm.rows import SoftmaxRows, TableRows
from hiermm.structure import Structure, check_counts


class MarkovModel(BaseEstimator):
    """Base of HMM, IOHMM, MultiscaleHMM and MultiscaleIOHMM; holds no mathematics of its own.

    A subclass says how it reads data (`_read`, `_read_outputs`, `_read_inputs`), what its chain looks like
    (`_structure`, `_transition`) and whether fitted arrays lack a level axis (`_flat`).
    """

    # -- what subclasses say -----------------------------------------------------------------------------------------

    def _structure(self):
        """Return the `Structure` of the chain."""
        return Structure((self.n_states,))

    def _transition(self):
        """Return the kind of rows: "constant", or an IOHMM's `transition`."""
        return "constant"

    # -- fitting -----------------------------------------------------------------------------------------------------

    def fit(self, X, y=None, *, lengths=None):
        """Fit by expectation-maximisation from `n_init` starts and keep the best.

        Parameters
        ----------
        X : array (T, P), list of arrays, or array (n_sequences, T, P)
            HMM family: observations, NaN where not observed. Input-output family: inputs.
        y : array (T,) or (T, D), or list of them; input-output family only
            Outputs in the form of X; NaN where not observed.
        lengths : array-like of int, optional
            Lengths of the sequences in one array X.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            For data or hyper-parameters that make no sense; the message names the culprit.

        Warns
        -----
        ConvergenceWarning
            If `max_iter` iterations did not converge.
        """
        self._check_hyperparameters()
        go_on = self.warm_start and hasattr(self, "emission_")
        emission = make(self.emission)
        if go_on and type(emission) is not type(self.emission_):
            raise ValueError(f"warm_start goes on from {self.emission_!r}, but emission is now {emission!r}.")
        emission = self.emission_ if go_on else emission
        sequences = self._read(X, y, lengths, emission, reset=not go_on)
        if not sequences.n_observed():
            raise ValueError("nothing to learn from: every output is missing.")
        emission.check(sequences.outputs, sequences.inputs)
        with Expectation(sequences, self.n_jobs) as expectation:
            fits = self._fits(expectation, None if go_on else emission)
        best = em.best_of(fits)
        before = getattr(self, "history_", [])[:-1] if go_on else []  # known parameters have no history
        self._keep(best.parameters, before + best.history)
        self.converged_ = best.converged
        if any(fit.interrupted for fit in fits):
            raise KeyboardInterrupt
        if not self.converged_:
            em.warn_unconverged(type(self).__name__, self.max_iter)
        return self

    def _fits(self, expectation, emission):
        """Return the `Fit`s of all starts, or of those before Ctrl-C; without an emission go on from what is fitted."""
        seeds = check_random_state(self.random_state).randint(np.iinfo(np.int32).max, size=self.n_init)
        fits = []
        for number, seed in enumerate(seeds[:1] if emission is None else seeds):
            rng = np.random.default_rng(seed)
            try:
                start = (
                    self._parameters()
                    if emission is None
                    else self._start(expectation.sequences, emission, rng, number)
                )
                fits.append(self._run(expectation, start, number))
            except KeyboardInterrupt:
                if not fits:
                    raise
                fits[-1] = replace(fits[-1], interrupted=True)
            if fits[-1].interrupted:
                break
        return fits

    def _run(self, expectation, start, number):
        label = f"{type(self).__name__} {number + 1}/{self.n_init}"
        with tqdm(total=self.max_iter + 1, desc=label, disable=not self.verbose, unit="E-step") as bar:

            def progress(score):
                bar.set_postfix(score=f"{score:.6f}", refresh=False)
                bar.update()

            return em.run(
                expectation,
                start,
                max_iter=self.max_iter,
                tol=self.tol,
                progress=progress if self.verbose else None,
            )

    def _check_hyperparameters(self):
        self._structure().check()
        check_counts("n_init", [self.n_init])
        check_counts("max_iter", [self.max_iter])
        if not self.tol >= 0:
            raise ValueError(f"tol must be at least 0, got {self.tol!r}.")
        if not 0 <= getattr(self, "alpha", 0) < np.inf:
            raise ValueError(f"alpha must be finite and at least 0, got {self.alpha!r}.")
        if self._transition() not in ("constant", "softmax", "shared", "table"):
            raise ValueError(f'transition must be "softmax", "shared" or "table", got {self._transition()!r}.')

    def _start(self, sequences, emission, rng, number):
        """Return the parameters that run `number` of EM starts from."""
        structure = self._structure()
        initial, tables = random_chain(structure, rng)
        emission = emission.initialise(sequences.outputs, sequences.inputs, structure.n_emission_rows, rng)
        return Parameters(self._make_chain(initial, tables, sequences), emission)

    def _make_chain(self, initial, tables, sequences):
        """Return the chain with these initial distributions (R, K) and rows that start from tables (R, K, K)."""
        sizes = {"n_inputs": sequences.inputs.shape[1], "n_symbols": self._n_symbols(sequences)}
        alpha = getattr(self, "alpha", 0.0)
        return chain_from_tables(self._structure(), initial, tables, self._transition(), alpha=alpha, **sizes)

    def _n_symbols(self, sequences):
        return int(sequences.inputs.max()) + 1 if self._transition() == "table" else 1

    def _check_features(self, X, n_features, reset):
        several = isinstance(X, (list, tuple)) or getattr(X, "ndim", 2) == 3
        _check_feature_names(self, X[0] if several else X, reset=reset)
        _check_n_features(self, np.empty((1, n_features)) if several else X, reset=reset)

    # -- what fitting leaves behind ----------------------------------------------------------------------------------

    def _to_levels(self, value, axis=0):
        """Return a fitted attribute as a list with one array a level; a flat model's has no level or parent axis."""
        return [np.expand_dims(value, axis)] if self._flat else list(value)

    def _from_levels(self, arrays, axis=0):
        return np.take(arrays[0], 0, axis) if self._flat else list(arrays)

    def _keep(self, parameters, history):
        """Store fitted parameters under their public names."""
        chain = parameters.chain
        self.initial_ = self._from_levels(chain.initial)
        if chain.driven:
            self.coef_ = self._from_levels([rows.coef for rows in chain.rows])
            self.intercept_ = self._from_levels([rows.intercept for rows in chain.rows])
        elif self._transition() == "table":
            self.transition_ = self._from_levels([rows.probs for rows in chain.rows], axis=1)
        else:
            self.transition_ = self._from_levels([rows.probs[0] for rows in chain.rows])
        self.emission_ = parameters.emission
        self.history_ = history

    def _adopt(self, emission, n_features, **arrays):
        """Take known parameters (public names) as if they had been fitted, and check them.

        `n_features` None: the columns of X are the emission's outputs.
        """
        self._check_hyperparameters()
        if not isinstance(emission, Emission) or not emission.is_fitted:
            raise ValueError(
                f"emission must have parameters, such as Gaussian.from_parameters(...) gives it; got {emission!r}."
            )
        n_features = emission.n_outputs if n_features is None else n_features
        for name, value in arrays.items():
            as_floats = (
                np.array(value, dtype=np.float64) if self._flat else [np.array(v, dtype=np.float64) for v in value]
            )
            setattr(self, name, as_floats)
        self.emission_ = emission
        self.n_features_in_ = n_features
        chain = self._chain()
        rows = chain.structure.n_emission_rows
        if emission.n_states != rows:
            raise ValueError(f"the emission has {emission.n_states} states, the chain wants {rows}.")
        if emission.n_inputs not in (None, n_features):
            raise ValueError(f"the emission takes {emission.n_inputs} inputs, the transitions {n_features}.")
        if emission.discrete and "transition" in self.get_params(deep=False):
            self.classes_ = np.arange(emission.probabilities(np.zeros((1, n_features)), 1).shape[-1])
        return self

    def _chain(self):
        """Return the `Chain` that the fitted attributes say, checked: they may have been changed by hand."""
        structure = self._structure()
        shapes, fixed = structure.shapes, structure.self_transitions
        initial = [_as_rows(f"initial_, level {s}", pi, 2) for s, pi in enumerate(self._to_levels(self.initial_))]
        _check_shapes("initial_", initial, shapes)
        if self._transition() in ("softmax", "shared"):
            options = {"shared": self._transition() == "shared", "alpha": self.alpha}
            coef, intercept = self._to_levels(self.coef_), self._to_levels(self.intercept_)
            n_inputs = coef[0].shape[-1]
            _check_shapes("coef_", coef, [(r, k, k, n_inputs) for r, k in shapes])
            _check_shapes("intercept_", intercept, [(r, k, k) for r, k in shapes])
            rows = [SoftmaxRows(b, c, self_transition=w, **options) for b, c, w in zip(coef, intercept, fixed)]
        else:
            table = self._transition() == "table"
            tables = self._to_levels(self.transition_, axis=int(table))
            tables = [a if table else np.asarray(a)[None] for a in tables]
            _check_shapes("transition_", tables, [(len(tables[0]), r, k, k) for r, k in shapes])
            tables = [_as_rows(f"transition_, level {s}", a, 4) for s, a in enumerate(tables)]
            for s, (a, w) in enumerate(zip(tables, fixed)):
                _check_sticky(s, a, w)
            rows = [TableRows(a, w) for a, w in zip(tables, fixed)]
        return Chain(tuple(initial), tuple(rows), structure)

    def _parameters(self):
        """Return the `Parameters` that the fitted attributes say; they may have been changed by hand."""
        check_is_fitted(self, "emission_")
        return Parameters(self._chain(), self.emission_)

    @property
    def n_parameters_(self):
        """Number of free parameters: zeros, fixed self-transitions and softmax references do not count."""
        return self._parameters().n_parameters

    @property
    def n_iter_(self):
        """Number of EM iterations (M-steps) behind the fitted parameters."""
        check_is_fitted(self, "history_")
        return len(self.history_) - 1

    # -- scoring -----------------------------------------------------------------------------------------------------

    def sequence_log_likelihoods(self, X, y=None, *, lengths=None):
        """Return log P of each sequence in nats, shape (n_sequences,); -inf where an observation is impossible."""
        parameters = self._parameters()
        return log_likelihoods(parameters, self._read_outputs(X, y, lengths))

    def log_likelihood(self, X, y=None, *, lengths=None):
        """Return the total log-likelihood in nats of all sequences (given the inputs, if the model has them)."""
        return float(self.sequence_log_likelihoods(X, y, lengths=lengths).sum())

    def score(self, X, y=None, *, lengths=None):
        """Return the mean log-likelihood in nats per observed step (a step with at least one observed entry)."""
        parameters, sequences = self._parameters(), self._read_outputs(X, y, lengths)
        return float(log_likelihoods(parameters, sequences).sum() / max(sequences.n_observed(), 1))

    def aic(self, X, y=None, *, lengths=None):
        """Return Akaike's information criterion, -2 log L + 2 n_parameters_ (lower is better)."""
        return -2 * self.log_likelihood(X, y, lengths=lengths) + 2 * self.n_parameters_

    def bic(self, X, y=None, *, lengths=None):
        """Return the Bayesian information criterion, -2 log L + n_parameters_ log(observed steps) (lower is better)."""
        parameters, sequences = self._parameters(), self._read_outputs(X, y, lengths)
        total = log_likelihoods(parameters, sequences).sum()
        return float(-2 * total + parameters.n_parameters * np.log(max(sequences.n_observed(), 1)))

    # -- hidden states -----------------------------------------------------------------------------------------------

    def posterior(self, X, y=None, *, lengths=None, mode="smooth"):
        """Return the posterior distribution of the joint state at every step.

        Parameters
        ----------
        X, y, lengths
            As in `fit`.
        mode : {"smooth", "filter"}
            Given all observations of the sequence, or those up to each step.

        Returns
        -------
        ndarray of shape (T, N), or a list of them for a list X

        Raises
        ------
        ImpossibleObservation
            If an observation has probability zero, naming sequence and step.
        """
        if mode not in ("smooth", "filter"):
            raise ValueError(f'mode must be "smooth" or "filter", got {mode!r}.')
        parameters, sequences = self._parameters(), self._read_outputs(X, y, lengths)
        _, _, transitions, ll = emitted(parameters, sequences, 0, sequences.n_steps)
        if mode == "smooth":
            result = inference.smooth(transitions, ll, sequences.offsets)
            gamma, status = result.gamma, result.status
        else:
            gamma, _, status = inference.filter(transitions, ll, sequences.offsets)
        refuse_impossible(status, sequences.offsets[:-1], sequences)
        return sequences.restore(gamma)

    def level_posterior(self, X, y=None, *, lengths=None, level, mode="smooth"):
        """Return the posterior distribution of one level's state, shape (T, K_level); see `posterior`."""
        chain = self._parameters().chain
        if level not in range(len(chain.sizes)):
            raise ValueError(f"level must be 0 to {len(chain.sizes) - 1}, got {level!r}.")
        member = np.equal.outer(chain.levels[level], np.arange(chain.sizes[level])).astype(float)
        gamma = self.posterior(X, y, lengths=lengths, mode=mode)
        return [part @ member for part in gamma] if isinstance(gamma, list) else gamma @ member

    def decode(self, X, y=None, *, lengths=None):
        """Return (log_prob, states): the most likely joint path and log P(path, observations), summed over sequences.

        Raises
        ------
        ImpossibleObservation
            If an observation has probability zero, naming sequence and step.
        """
        parameters, sequences = self._parameters(), self._read_outputs(X, y, lengths)
        _, _, transitions, ll = emitted(parameters, sequences, 0, sequences.n_steps)
        path, log_prob = inference.viterbi(transitions, ll, sequences.offsets)
        if not np.isfinite(log_prob).all():
            status = inference.filter(transitions, ll, sequences.offsets, keep=False)[2]
            refuse_impossible(status, sequences.offsets[:-1], sequences)
        return float(log_prob.sum()), sequences.restore(path)

    def levels_of(self, states):
        """Return the state of each level, shape (T, S), for joint states (T,); a list of them for a list."""
        chain = self._parameters().chain
        if isinstance(states, (list, tuple)) and len(states) and np.ndim(states[0]):
            return [self.levels_of(part) for part in states]
        return np.stack(np.unravel_index(np.asarray(states), chain.sizes), axis=-1)

    # -- the chain itself --------------------------------------------------------------------------------------------

    def operators(self, X=None, *, lengths=None):
        """Return the one-step maps of the state distribution along X: transposed joint transition matrices.

        Parameters
        ----------
        X : data, optional
            Input-output family: inputs, one map for each step but a sequence's first. None: a chain without inputs,
            whose maps repeat for ever.
        lengths : array-like of int, optional

        Returns
        -------
        Operators
            Of kind "stochastic".

        Raises
        ------
        MemoryError
            If the dense matrices would exceed 2 GiB; the message states the size.
        """
        chain = self._parameters().chain
        if X is None:
            if not chain.constant:
                raise ValueError(f"{type(self).__name__} is driven by inputs: operators needs X.")
            return Operators(chain.joint().transpose(0, 2, 1))
        return self._operators(chain, self._read_inputs(X, lengths))

    @staticmethod
    def _operators(chain, sequences):
        offsets = np.concatenate([[0], np.cumsum(sequences.lengths - 1)])
        if chain.constant and set(chain.periods) == {1}:
            return Operators(chain.joint().transpose(0, 2, 1), offsets)
        check_dense_size(int(offsets[-1]), chain.n_states)
        steps = np.arange(sequences.n_steps) - np.repeat(sequences.offsets[:-1], sequences.lengths)
        matrices = chain.joint(sequences.inputs[steps > 0], steps[steps > 0])
        return Operators(matrices.transpose(0, 2, 1), offsets)

    def initial_distribution(self):
        """Return the joint distribution of the first state, shape (N,)."""
        return self._parameters().chain.joint_initial

    def credit_sources(self, X, y=None, *, lengths=None):
        """Return the gradient of each step's log-likelihood with respect to the predicted state distribution.

        Parameters
        ----------
        X, y, lengths
            As in `fit`.

        Returns
        -------
        ndarray of shape (T, N)
            Row t is d/dp log sum_j p_t(j) b_t(j) = b_t(j) / sum_i p_t(i) b_t(i), with p_t the state distribution
            predicted from the steps before and b_t the likelihood of the observation; zeros where nothing is observed.
            `hiermm.analysis.credit` carries it back in time.
        """
        parameters, sequences = self._parameters(), self._read_outputs(X, y, lengths)
        _, _, transitions, ll = emitted(parameters, sequences, 0, sequences.n_steps)
        alpha, _, status = inference.filter(transitions, ll, sequences.offsets)
        refuse_impossible(status, sequences.offsets[:-1], sequences)
        ll, ops = ll[:, transitions.columns], self._operators(parameters.chain, sequences)
        first = np.zeros(len(ll), dtype=bool)
        first[sequences.offsets[:-1]] = True
        before = alpha[np.flatnonzero(~first) - 1]
        predicted = np.empty_like(alpha)
        predicted[first] = parameters.chain.joint_initial
        if len(ops.matrices) == 1:
            predicted[~first] = before @ ops.matrices[0].T
        else:
            predicted[~first] = np.einsum("tij,tj->ti", ops.matrices, before)
        with np.errstate(divide="ignore"):
            sources = np.exp(ll - logsumexp(np.log(predicted) + ll, axis=1, keepdims=True))
        sources[np.isnan(sequences.outputs).all(axis=1)] = 0.0
        return sources

    def _draw(self, sequences, random_state):
        """Return (outputs (n, D), states (n,)) drawn along the inputs of `sequences`."""
        parameters = self._parameters()
        rng = np.random.default_rng(check_random_state(random_state).randint(np.iinfo(np.int32).max))
        transitions = parameters.chain.compile(sequences.inputs)
        states = inference.sample_paths(transitions, sequences.offsets, rng)
        rows = states if transitions.emit is None else transitions.emit[states]
        return parameters.emission.sample(rows, sequences.inputs, rng), states


def _as_rows(name, value, ndim):
    """Return probability rows; the very same values where their sums are already 1 to rounding."""
    checked = as_probabilities(name, value, ndim)
    value = np.ascontiguousarray(value, dtype=np.float64)
    return value if (np.abs(value.sum(axis=-1) - 1) <= 1e-12).all() else checked


def _check_shapes(name, arrays, shapes):
    found = [np.shape(array) for array in arrays]
    if found != shapes:
        raise ValueError(f"{name}: expected the shapes {shapes} (one a level, with the parent's axis), got {found}.")


def _check_sticky(level, probs, w):
    own = np.diagonal(probs, axis1=-2, axis2=-1)
    if w is not None and np.abs(own - w).max() > 1e-8:
        raise ValueError(
            f"level {level} is sticky with w = 1 - 1/n = {w:.10g}, which its transition rows must carry on the "
            f"diagonal; found {own.ravel()[np.abs(own - w).argmax()]:.10g}."
        )
