"""What a fitted Markov model answers: scores, posteriors, paths, one-step maps, samples."""

from contextlib import contextmanager

import numpy as np
from scipy.special import logsumexp
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from hiermm import inference
from hiermm.chains import Chain
from hiermm.emissions.base import BadRow, as_probabilities, check_shape
from hiermm.expectation import Parameters, emitted, log_likelihoods, refuse_impossible
from hiermm.operators import Operators, check_dense_size
from hiermm.pieces import ROOM, plan
from hiermm.rows import SoftmaxRows
from hiermm.tables import TableRows


class FittedMarkov(BaseEstimator):
    """Answers that need fitted attributes alone; `set_params` changes none of them before the next `fit`.

    A subclass says how it reads data (`_read`, `_read_inputs`) and whether fitted arrays lack a level axis
    (`_flat`).
    """

    # -- fitted attributes as objects --------------------------------------------------------------------------------

    def _to_levels(self, name, shapes, axes, probabilities=False, **sizes):
        """Return the fitted attribute `name` as a list with one array a level, parent's axis included, checked.

        `shapes` holds R and K, states of the parent and of the level, for each level. `axes` spells the array's shape
        with them and with letters whose numbers `sizes` gives.
        """
        value = getattr(self, name)
        arrays = [value] if self._flat else list(value)
        if len(arrays) != len(shapes):
            raise ValueError(f"{name} must hold one array a level, {len(shapes)} in all, got {len(arrays)}.")
        checked = []
        for s, (array, (r, k)) in enumerate(zip(arrays, shapes)):
            label = name if self._flat else f"{name}[{s}]"
            shape = [{"R": r, "K": k, **sizes}[axis] for axis in axes]
            stored = [size for size, axis in zip(shape, axes) if not (self._flat and axis == "R")]
            check_shape(label, np.asarray(array), stored)
            values = as_probabilities(label, array, len(stored)) if probabilities else np.asarray(array)
            checked.append(values.reshape(shape))
        return checked

    def _chain(self, structure=None, kind=None):
        """Return the `Chain` that the fitted attributes say, checked: they may have been changed by hand.

        A warm start reads them as those of another `structure` and `kind` of rows with arrays of the same shape.
        """
        structure, kind = structure or self.structure_, kind or self.transition_kind_
        shapes, fixed = structure.shapes, structure.self_transitions
        initial = self._to_levels("initial_", shapes, "RK", probabilities=True)
        if kind in ("softmax", "shared"):
            coef = self._to_levels("coef_", shapes, "RKKP", P=self.n_features_in_)
            intercept = self._to_levels("intercept_", shapes, "RKK")
            options = {"shared": kind == "shared", "alpha": self.alpha}
            rows = [SoftmaxRows(b, c, self_transition=w, **options) for b, c, w in zip(coef, intercept, fixed)]
        else:
            axes, used = "RKK", None
            if kind == "table":
                axes, used = "LRKK", np.isin(np.arange(self._n_tables()), self.symbols_)
            tables = self._to_levels("transition_", shapes, axes, probabilities=True, L=self._n_tables())
            for s, (table, w) in enumerate(zip(tables, fixed)):
                _check_sticky(s, table, w)
            rows = [TableRows(a.reshape(-1, *a.shape[-3:]), w, used) for a, w in zip(tables, fixed)]
        return Chain(tuple(initial), tuple(rows), structure)

    def _n_tables(self):
        """Number of transition tables, one a symbol."""
        shape = np.shape(self.transition_ if self._flat else self.transition_[0])
        return shape[0] if shape else 0

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
        """Return the mean log-likelihood in nats per observed step (a step with at least one observed entry).

        ValueError if no step is observed.
        """
        parameters, sequences = self._parameters(), self._read_outputs(X, y, lengths)
        return float(log_likelihoods(parameters, sequences).sum() / _n_observed("score", sequences))

    def aic(self, X, y=None, *, lengths=None):
        """Return Akaike's information criterion, -2 log L + 2 n_parameters_ (lower is better)."""
        return -2 * self.log_likelihood(X, y, lengths=lengths) + 2 * self.n_parameters_

    def bic(self, X, y=None, *, lengths=None):
        """Return the Bayesian information criterion, -2 log L + n_parameters_ log(observed steps) (lower is better)."""
        parameters, sequences = self._parameters(), self._read_outputs(X, y, lengths)
        total = log_likelihoods(parameters, sequences).sum()
        return float(-2 * total + parameters.n_parameters * np.log(_n_observed("bic", sequences)))

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
        gamma = np.empty((sequences.n_steps, parameters.chain.n_states))
        for piece in plan(sequences.offsets, *parameters.steps_at_once()):
            transitions, ll = emitted(parameters, sequences, piece.lo, piece.hi, ROOM)
            if mode == "smooth":
                result = inference.smooth(transitions, ll, piece.offsets)
                gamma[piece.lo : piece.hi], status = result.gamma, result.status
            else:
                gamma[piece.lo : piece.hi], _, status = inference.filter(transitions, ll, piece.offsets)
            refuse_impossible(status, piece.lo + piece.offsets[:-1], sequences)
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
        path, total = np.empty(sequences.n_steps, dtype=np.int64), 0.0
        for piece in plan(sequences.offsets, *parameters.steps_at_once()):
            transitions, ll = emitted(parameters, sequences, piece.lo, piece.hi, ROOM)
            path[piece.lo : piece.hi], log_prob = inference.viterbi(transitions, ll, piece.offsets)
            if not np.isfinite(log_prob).all():
                status = inference.filter(transitions, ll, piece.offsets, keep=False)[2]
                refuse_impossible(status, piece.lo + piece.offsets[:-1], sequences)
            total += float(log_prob.sum())
        return total, sequences.restore(path)

    def levels_of(self, states):
        """Return the state of each level, shape (T, S), for joint states (T,); a list of them for a list."""
        chain = self._parameters().chain
        if isinstance(states, (list, tuple)) and len(states) and np.ndim(states[0]):
            return [self.levels_of(part) for part in states]
        states = np.asarray(states)
        if states.dtype.kind not in "iu" or not ((states >= 0) & (states < chain.n_states)).all():
            raise ValueError(f"states must be integers from 0 to {chain.n_states - 1}, got {states!r}.")
        return np.stack(np.unravel_index(states, chain.sizes), axis=-1)

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
        offsets = sequences.move_offsets
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
        transitions, ll = emitted(parameters, sequences, 0, sequences.n_steps)
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

    def _read_outputs(self, X, y, lengths):
        check_is_fitted(self, "emission_")
        sequences = self._read(X, y, lengths, self.emission_)
        self._check_outputs(sequences, self.emission_)
        return sequences

    def _check_outputs(self, sequences, emission):
        """Raise ValueError, naming sequence and step, if the emission cannot have produced the outputs."""
        with _named_rows(sequences):
            emission.check(sequences.outputs, sequences.inputs)

    def _draw(self, sequences, random_state):
        """Return (outputs (n, D), states (n,)) drawn along the inputs of `sequences`."""
        parameters = self._parameters()
        rng = np.random.default_rng(check_random_state(random_state).randint(np.iinfo(np.int32).max))
        transitions = parameters.chain.compile(sequences.inputs)
        states = inference.sample_paths(transitions, sequences.offsets, rng)
        rows = states if transitions.emit is None else transitions.emit[states]
        with _named_rows(sequences):
            return parameters.emission.sample(rows, sequences.inputs, rng), states


def _n_observed(name, sequences):
    """Return the number of observed steps, which `name` needs."""
    n = sequences.n_observed
    if n == 0:
        raise ValueError(f"{name} needs an observed output: every output is missing.")
    return n


@contextmanager
def _named_rows(sequences):
    """Let errors about a packed row name its sequence and step instead."""
    try:
        yield
    except BadRow as error:
        sequence, step = sequences.locate(error.row)
        raise ValueError(f"sequence {sequence}, step {step}: {error.reason}") from None


def _check_sticky(level, probs, w):
    own = np.diagonal(probs, axis1=-2, axis2=-1)
    if w is not None and np.abs(own - w).max() > 1e-8:
        raise ValueError(
            f"level {level} is sticky with w = 1 - 1/n = {w:.10g}, which its transition rows must carry on the "
            f"diagonal; found {own.ravel()[np.abs(own - w).argmax()]:.10g}."
        )
