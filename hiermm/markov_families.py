"""The two families: models of observations alone, and models of outputs given inputs."""

import numpy as np
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from hiermm import inference
from hiermm.emissions import NAMES
from hiermm.labels import encode, holds_labels, learn_classes
from hiermm.markov_base import MarkovModel
from hiermm.operators import MAX_DENSE_BYTES
from hiermm.pieces import plan
from hiermm.sequences import Sequences, check_features, inputs_outputs, observations


class HMMFamily(MarkovModel):
    """Models of observations alone: X holds the observations, y is ignored."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def _check_hyperparameters(self):
        super()._check_hyperparameters()
        self._check_algorithm()

    def _check_algorithm(self):
        if self.algorithm not in ("viterbi", "posterior"):
            raise ValueError(f'algorithm must be "viterbi" or "posterior", got {self.algorithm!r}.')

    def _read(self, X, y, lengths, emission, reset=False):
        parts = X if isinstance(X, (list, tuple)) else [X]
        text = emission.discrete and any(holds_labels(part) for part in parts)
        sequences = observations(X, lengths, labels=text)
        if lengths is None and sequences.form == "array" and _looks_like_lengths(y, sequences.n_steps):
            raise ValueError("the second argument, y, is ignored here, and looks like lengths: give lengths=...")
        check_features(self, X, sequences.outputs.shape[1], reset)
        if reset:
            self.__dict__.pop("classes_", None)
            if text:
                self.classes_ = learn_classes(sequences.outputs, getattr(emission, "n_symbols", None))
        if not hasattr(self, "classes_"):
            if text:
                raise ValueError("X holds labels, but this model was fitted to symbol codes.")
            return sequences
        codes = encode(sequences.outputs, self.classes_, sequences.offsets)
        return Sequences(sequences.inputs, codes, sequences.offsets, sequences.form)

    def _read_inputs(self, X, lengths):
        check_is_fitted(self, "emission_")
        return self._read(X, None, lengths, self.emission_)

    def predict(self, X, *, lengths=None):
        """Return the state at every step, shape (T,).

        With `algorithm="viterbi"` the most likely path, with "posterior" the most likely state of each step.
        """
        self._check_algorithm()
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


def _looks_like_lengths(y, n_steps):
    """Whether y must be lengths of sequences, as hmmlearn takes them in its place, and cannot be labels of steps."""
    if y is None or np.ndim(y) != 1 or len(y) == n_steps:
        return False
    y = np.asarray(y)
    return y.dtype.kind in "iu" and y.sum() == n_steps


def _predicts_classes(model):
    emission = getattr(model, "emission_", model.emission)
    emission = NAMES.get(emission, emission) if isinstance(emission, str) else emission
    if not getattr(emission, "discrete", True):  # what is no emission at all, fit will refuse
        raise AttributeError("predict_proba needs an emission of class labels, such as Logistic or Categorical.")
    return True


class IOHMMFamily(MarkovModel):
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
        check_features(self, X, sequences.inputs.shape[1], reset)
        self._check_symbols(sequences, reset)
        if reset:
            self.__dict__.pop("classes_", None)
        if not emission.discrete:
            return sequences
        if reset:
            self.classes_ = learn_classes(sequences.outputs, getattr(emission, "n_symbols", None))
        codes = encode(sequences.outputs, self.classes_, sequences.offsets)
        return Sequences(sequences.inputs, codes, sequences.offsets, sequences.form)

    def _read_inputs(self, X, lengths):
        check_is_fitted(self, "emission_")
        sequences = inputs_outputs(X, None, lengths)
        check_features(self, X, sequences.inputs.shape[1], reset=False)
        self._check_symbols(sequences, reset=False)
        return sequences

    def _check_symbols(self, sequences, reset):
        """Refuse inputs that are not one column of table numbers, for `transition="table"`; `reset`: learn them."""
        if reset:
            self.__dict__.pop("symbols_", None)
        if (self.transition if reset else self.transition_kind_) != "table":
            return
        if sequences.inputs.shape[1] != 1:
            raise ValueError(
                f'transition="table" takes one input column of symbols, X has {sequences.inputs.shape[1]}.'
            )
        symbols = sequences.inputs[:, 0]
        known = np.inf if reset else self.symbols_[-1]
        bad = (symbols != np.floor(symbols)) | (symbols < 0) | (symbols > known)
        if not reset and not bad.any():
            bad = ~np.isin(np.arange(known + 1), self.symbols_)[symbols.astype(np.int64)]
        if bad.any():
            sequence, step = sequences.locate(int(np.argmax(bad)))
            known = "0, 1, 2, ..." if reset else "those of the training data are in symbols_"
            raise ValueError(
                f"sequence {sequence}, step {step}: input {symbols[np.argmax(bad)]:g} is not a symbol ({known})."
            )
        if reset:
            self._check_tables(sequences, int(symbols.argmax()))
            self.symbols_ = np.flatnonzero(np.bincount(symbols.astype(np.int64)))

    def _check_tables(self, sequences, row):
        """Refuse a largest symbol, that of packed `row`, for which the tables would not fit."""
        symbol = sequences.inputs[row, 0]
        size = 8 * (symbol + 1) * sum(r * k * k for r, k in self._structure().shapes)
        if size > MAX_DENSE_BYTES:
            sequence, step = sequences.locate(row)
            raise ValueError(
                f"sequence {sequence}, step {step}: input {symbol:.10g} as a symbol takes {symbol + 1:.10g} transition "
                f"tables, {size / 2**30:.3g} GiB (limit {MAX_DENSE_BYTES / 2**30:.0f} GiB): number the symbols "
                "0, 1, 2, ... without large gaps."
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
        parameters, parts = self._parameters(), []
        for piece in plan(sequences.offsets, *parameters.steps_at_once()):
            states = None
            for lo, hi in piece.blocks:
                inputs = sequences.inputs[lo:hi]
                transitions = parameters.chain.compile(inputs)
                nothing = np.zeros((hi - lo, parameters.emission.n_states))
                offsets = piece.offsets if len(piece.blocks) == 1 else np.array([0, hi - lo])
                before = None if states is None else states[-1].copy()
                states, *_ = inference.filter(transitions, nothing, offsets, start=lo - piece.lo, alpha_in=before)
                parts.append(_weighted(by_state(inputs, hi - lo), states, transitions.emit))
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
        if not hasattr(X, "__len__") or getattr(X, "ndim", 1) == 0:
            raise ValueError(f"{type(self).__name__} draws outputs along inputs: give X, not a number of steps.")
        sequences = self._read_inputs(X, None)
        outputs, states = self._draw(sequences, random_state)
        if self.emission_.discrete:
            outputs = self.classes_[outputs[:, 0].astype(np.int64)]
        return sequences.restore(outputs), sequences.restore(states)


def _weighted(values, states, emit):
    """Return values (n, M, D) of the emission's states averaged over the distributions (n, N) of the chain's."""
    if emit is not None:
        states = states @ np.equal.outer(emit, np.arange(values.shape[1])).astype(float)
    if not np.isfinite(values).all():  # rates beyond the range of a float, maybe in states that cannot be
        values = np.where(states[:, :, None] > 0, values, 0.0)
    return np.einsum("tn,tnd->td", states, values)
