"""What a fitted `MultiscaleRNN` answers: predictions, likelihoods, states and one-step maps."""

from dataclasses import replace

import numpy as np
from scipy.special import softmax
from sklearn.base import BaseEstimator
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from hiermm.labels import encode, learn_classes
from hiermm.operators import Operators, check_dense_size
from hiermm.rnn.checks import looks_like_classes
from hiermm.rnn.network import Runner
from hiermm.rnn.scaling import gaussian_log_likelihood
from hiermm.sequences import check_features, inputs_outputs


def _classifies(model):
    """Whether there are, or may be, class probabilities."""
    return getattr(model, "output_", model.output) != "regression"


class FittedNetwork(BaseEstimator):
    """The face of a network whose structure and fitted arrays are attributes (see `MultiscaleRNN`)."""

    def _read(self, X, y, lengths, reset):
        """Return Sequences with numbers or class codes as outputs; `reset`: learn what kind of outputs y holds."""
        if y is None:
            raise ValueError("MultiscaleRNN requires y to be passed, but the target y is None.")
        self._read_inputs(X, lengths, reset)
        packed = inputs_outputs(X, y, lengths, labels=True)
        if reset:
            classes = self.output == "classification" or (self.output == "auto" and looks_like_classes(packed.outputs))
            self.output_ = "classification" if classes else "regression"
            self.__dict__.pop("classes_", None)
            if classes:
                self.classes_ = learn_classes(packed.outputs)
                if len(self.classes_) == 0:
                    raise ValueError("nothing to learn from: every output is missing.")
        if self.output_ == "classification":
            return replace(packed, outputs=encode(packed.outputs, self.classes_, packed.offsets))
        sequences = inputs_outputs(X, y, lengths)
        if not reset and sequences.outputs.shape[1] != len(self.readout_bias_):
            raise ValueError(
                f"y has {sequences.outputs.shape[1]} columns, the model {len(self.readout_bias_)} outputs."
            )
        return sequences

    def _read_inputs(self, X, lengths, reset=False):
        sequences = inputs_outputs(X, None, lengths)
        check_features(self, X, sequences.inputs.shape[1], reset)
        return sequences

    def _theta(self, network):
        return network.join({name: getattr(self, f"{name}_") for name in network.shapes})

    def _fitted(self):
        """Return (network, theta) of the fitted attributes."""
        check_is_fitted(self, "recurrent_")
        return self.network_, self._theta(self.network_)

    def _log_likelihoods(self, sequences):
        network, theta = self._fitted()
        classes = self.output_ == "classification"
        losses = Runner(network, sequences, classes).loss(theta, np.arange(len(sequences)))
        if classes:
            return -losses[:, 0]
        entries = np.add.reduceat((~np.isnan(sequences.outputs)).astype(np.int64), sequences.offsets[:-1])
        return gaussian_log_likelihood(losses, entries, self.noise_variance_)

    def sequence_log_likelihoods(self, X, y=None, *, lengths=None):
        """Return log P(observed outputs | inputs) of each sequence in nats, shape (n_sequences,)."""
        check_is_fitted(self, "recurrent_")
        return self._log_likelihoods(self._read(X, y, lengths, reset=False))

    def log_likelihood(self, X, y=None, *, lengths=None):
        """Return the total log-likelihood of the observed outputs given the inputs, in nats."""
        return float(self.sequence_log_likelihoods(X, y, lengths=lengths).sum())

    def score(self, X, y=None, *, lengths=None):
        """Return the mean log-likelihood per observed step, in nats (ValueError if no step is observed)."""
        check_is_fitted(self, "recurrent_")
        sequences = self._read(X, y, lengths, reset=False)
        if not sequences.n_observed:
            raise ValueError("score needs an observed output: every output is missing.")
        return float(self._log_likelihoods(sequences).sum()) / sequences.n_observed

    def _outputs(self, X, lengths):
        network, theta = self._fitted()
        sequences = self._read_inputs(X, lengths)
        return Runner(network, sequences).outputs(theta), sequences

    def predict(self, X, *, lengths=None):
        """Return the most likely class or the mean output at every step, given the inputs so far.

        Returns
        -------
        ndarray of shape (T,) for class labels or one output, (T, D) for several; in the form of X
        """
        outputs, sequences = self._outputs(X, lengths)
        if self.output_ == "classification":
            return sequences.restore(self.classes_[outputs.argmax(axis=1)])
        return sequences.restore(outputs[:, 0] if outputs.shape[1] == 1 else outputs)

    @available_if(_classifies)
    def predict_proba(self, X, *, lengths=None):
        """Return the class probabilities at every step given the inputs so far, shape (T, n_classes), as X's form."""
        outputs, sequences = self._outputs(X, lengths)
        outputs -= outputs.max(axis=1, keepdims=True)
        np.exp(outputs, out=outputs)
        outputs /= outputs.sum(axis=1, keepdims=True)
        return sequences.restore(outputs)

    def hidden_states(self, X, *, lengths=None):
        """Return the states of all units, slowest level first, shape (T, H), in the form of X."""
        network, theta = self._fitted()
        sequences = self._read_inputs(X, lengths)
        return sequences.restore(Runner(network, sequences).states(theta))

    def operators(self, X=None, *, lengths=None):
        """Return the Jacobians dX_t/dX_{t-1} along the trajectory that X drives.

        X_t = (x_t, x_{t-1}, ..., x_{t-D+1}) stacks the states of the last D = max(delays) steps; D = 1 gives
        dx_t/dx_{t-1}. A level that holds has identity rows.

        Parameters
        ----------
        X, lengths
            Inputs, as in `fit`; the map k of a sequence leads from step k to step k + 1, so it has T - 1 of them.

        Returns
        -------
        Operators
            Of kind "jacobian", n = D H, one run a sequence.

        Raises
        ------
        MemoryError
            If the maps would exceed 2 GiB; the message states the size.
        """
        network, theta = self._fitted()
        if X is None:
            raise ValueError("MultiscaleRNN is driven by inputs: operators needs X.")
        sequences = self._read_inputs(X, lengths)
        offsets = sequences.move_offsets
        check_dense_size(int(offsets[-1]), max(network.delays) * network.size)
        return Operators(Runner(network, sequences).jacobians(theta), offsets, kind="jacobian")

    def credit_sources(self, X, y=None, *, lengths=None):
        """Return the gradient of each step's log-likelihood with respect to the stacked state that `operators` moves.

        Parameters
        ----------
        X, y, lengths
            As in `fit`.

        Returns
        -------
        ndarray of shape (T, D H)
            readout' (y - mean) / noise variance for regression, readout' (one-hot - probabilities) for classes; zeros
            where nothing is observed. `hiermm.analysis.credit` carries it back in time.
        """
        network, theta = self._fitted()
        sequences = self._read(X, y, lengths, reset=False)
        outputs = Runner(network, sequences).outputs(theta)
        if self.output_ == "classification":
            codes = sequences.outputs[:, 0]
            target = np.equal.outer(codes, np.arange(len(self.classes_))).astype(float)
            target[np.isnan(codes)] = np.nan
            error = target - softmax(outputs, axis=1)
        else:
            error = (sequences.outputs - outputs) / self.noise_variance_
        sources = np.zeros((sequences.n_steps, max(network.delays) * network.size))
        sources[:, : network.size] = np.where(np.isnan(error), 0.0, error) @ self.readout_
        return sources

    @property
    def n_parameters_(self):
        """Free parameters: allowed weights and biases, one read-out class less, noise variances."""
        network, _ = self._fitted()
        if self.output_ == "classification":
            return int(network.free.sum()) - (network.size + 1)
        return int(network.free.sum()) + network.n_outputs

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.multi_output = True
        return tags
