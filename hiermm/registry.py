"""The rows of `hiermm compare`: a name and a function that builds an unfitted model from a seed.

A row is a new entry of `ROWS`. Whether a model reads inputs and outputs or the outputs alone is what its scikit-learn
tags say; nothing else has to be declared.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from hiermm.markov import HMM, IOHMM
from hiermm.multiscale import MultiscaleHMM, MultiscaleIOHMM
from hiermm.rnn import MultiscaleRNN


class HmmlearnPeer(HMM):
    """An `HMM` whose parameters hmmlearn's GaussianHMM has fitted.

    hmmlearn takes no missing values, so it is fitted to the stretches between them. From there on its parameters are
    used as an `HMM`, which agrees with hmmlearn on complete data and sums missing steps out: the peer is judged like
    every other row.

    Parameters
    ----------
    n_states, max_iter, tol, random_state
        As in `HMM`; `tol` is in nats per observed step there and here.
    """

    def fit(self, X, y=None, *, lengths=None):
        """Fit hmmlearn's model to the stretches of observations without a gap.

        Parameters
        ----------
        X : ndarray of shape (T, 1)
        y : ignored
        lengths : list of int, optional

        Returns
        -------
        self
        """
        from hmmlearn.hmm import GaussianHMM

        stretches = complete_stretches(X, lengths)
        tol = self.tol * sum(len(stretch) for stretch in stretches)  # hmmlearn looks at the total
        self.peer_ = GaussianHMM(self.n_states, n_iter=self.max_iter, tol=tol, random_state=self.random_state)
        self.peer_.fit(np.concatenate(stretches), lengths=[len(stretch) for stretch in stretches])
        known = HMM.from_hmmlearn(self.peer_)
        vars(self).update({name: value for name, value in vars(known).items() if name.endswith("_")})
        self.n_features_in_ = X.shape[1]
        self.history_ = [value / (tol / self.tol) for value in self.peer_.monitor_.history]
        return self


def complete_stretches(X: np.ndarray, lengths: list[int] | None = None) -> list[np.ndarray]:
    """Return the maximal runs of rows without a missing value; none crosses the end of a sequence.

    Parameters
    ----------
    X : ndarray of shape (T, D)
    lengths : list of int, optional

    Returns
    -------
    list of ndarray (T_i, D), each with T_i >= 1

    Examples
    --------
    >>> import numpy as np
    >>> [part.ravel().tolist() for part in complete_stretches(np.array([[1], [2], [np.nan], [3], [4]]), [4, 1])]
    [[1.0, 2.0], [3.0], [4.0]]
    """
    parts = [X] if lengths is None else np.split(X, np.cumsum(lengths)[:-1])
    runs = [np.split(part, np.flatnonzero(np.isnan(part).any(axis=1))) for part in parts]
    observed = [run[~np.isnan(run).any(axis=1)] for part in runs for run in part]
    return [run for run in observed if len(run)]


EM = {"max_iter": 300, "tol": 1e-5}
BATCH = {"output": "regression", "solver": "lbfgs", "max_iter": 300}

# Numbers of states and time scales suit the shipped series; they were chosen on the last quarter of its training part.
# Rows of one kind have about as many parameters: the chains of outputs, those with inputs, the networks.
ROWS: dict[str, Callable[[int], Any]] = {
    "linear": lambda seed: IOHMM(1, random_state=seed, **EM),
    "hmmlearn": lambda seed: HmmlearnPeer(8, random_state=seed, **EM),
    "HMM": lambda seed: HMM(8, random_state=seed, **EM),
    "MultiscaleHMM": lambda seed: MultiscaleHMM((2, 6), timescales=(12, 1), random_state=seed, **EM),
    "IOHMM": lambda seed: IOHMM(4, transition="shared", random_state=seed, **EM),
    "MultiscaleIOHMM": lambda seed: MultiscaleIOHMM((2, 2), timescales=(24, 1), random_state=seed, **EM),
    "RNN": lambda seed: MultiscaleRNN((8,), timescales=(1,), random_state=seed, **BATCH),
    "MultiscaleRNN": lambda seed: MultiscaleRNN((4, 4), timescales=(24, 1), random_state=seed, **BATCH),
}
