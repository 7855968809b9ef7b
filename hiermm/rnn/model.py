"""MultiscaleRNN: a recurrent network whose levels work at their own time scales, with the face of the other models."""

import copy
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from tqdm import tqdm

from hiermm.emissions.base import as_floats, as_parameter
from hiermm.rnn.checks import check_hyperparameters
from hiermm.rnn.fitted import FittedNetwork
from hiermm.rnn.network import Network, Runner
from hiermm.rnn.scaling import Scaling, gaussian_log_likelihood
from hiermm.rnn.training import Training, train
from hiermm.sequences import check_ranges


@dataclass(frozen=True)
class Progress:
    """What `callback` is given after every epoch.

    Attributes
    ----------
    n_iter, n_updates : int
        Epochs and parameter updates so far (with `warm_start`, since the first fit).
    loss : float
        Mean training loss per observed step of this epoch: cross-entropy, or half the squared error of outputs scaled
        to unit variance. With one batch an epoch and no early stopping it is exactly that of `model()`, the network
        before the last update.
    """

    n_iter: int
    n_updates: int
    loss: float
    _build: Any

    def model(self):
        """Return a fitted model with the parameters that are kept if training stops here."""
        return self._build()


class MultiscaleRNN(FittedNetwork):
    """Recurrent network of tanh units in levels, each at its own time scale (El Hihi & Bengio, 1995, section 4).

    Parameters
    ----------
    n_units : tuple of int
        Units H_s of each level, slowest level first.
    timescales : tuple of int
        Time scale n_s of each level, in steps.
    clock : {"periodic", "leaky"}
        "periodic": level s is updated at the steps t with t % n_s == 0 and holds its state otherwise.
        "leaky": x_t = (1 - 1/n_s) x_{t-1} + (1/n_s) tanh(...).
    coupling : {"full", "slower", "faster", "none"}
        Which levels a level listens to besides itself: all, the next slower, the next faster, none.
    delays : tuple of int
        The recurrent sum reads x_{t-d} for each delay d, with weights of its own.
    output : {"auto", "regression", "classification"}
        Squared error or cross-entropy. "auto": classification for labels, integers, booleans and whatever
        `sklearn.utils.multiclass.type_of_target` takes for classes.
    solver : {"adam", "sgd", "lbfgs", "random"}
        "random" draws `max_iter` parameter vectors uniformly from [-guess_range, guess_range] and keeps the best.
    initialization : {"orthogonal", "uniform", "identity"}
        Start of the recurrent weights, see Notes.
    alpha : float
        L2 penalty on weights, not on biases: alpha / (2 n) times their squares is added to the mean loss over the n
        observed training steps.
    batch_size : int or "auto"
        Sequences per update; "auto" is min(32, n_sequences). "lbfgs" and "random" always take all.
    learning_rate_init, momentum : float
        Step size of "adam" and "sgd"; momentum of "sgd".
    clip_norm : float or None
        Longest gradient; a longer one is scaled down to it.
    max_iter : int
        Epochs at the most ("random": draws; "lbfgs": iterations).
    tol, n_iter_no_change : float, int
        Converged when the mean loss per observed step has not fallen by `tol` for `n_iter_no_change` epochs.
        "lbfgs": largest entry of the gradient.
    early_stopping, validation_fraction : bool, float
        Hold out that share of the sequences; their loss decides about stopping and which parameters are kept.
    n_init : int
        Restarts; the lowest (held-out, or penalised training) loss wins.
    guess_range : float
        Range of the draws of `solver="random"`.
    n_jobs : int or None
        Threads that restarts are spread over.
    random_state : int, RandomState or None
        Seed of starts, batches and held-out sequences.
    warm_start : bool
        Go on from the last fit: parameters, optimiser and random numbers. Two fits of k epochs are one of 2 k.
    verbose : int
        1 shows a progress bar.
    callback : callable or None
        Called with a `Progress` after every epoch; a true answer stops training, and the parameters of
        `Progress.model` are kept.

    Attributes
    ----------
    recurrent_ : ndarray (n_delays, H, H), [to, from]; zero where the coupling forbids a connection
    inputs_, bias_ : ndarray (H, P), (H,)
    readout_, readout_bias_ : ndarray (D, H), (D,)
        D outputs, or classes.
    noise_variance_ : ndarray (D,)
        Regression: mean squared error of each output on the training data.
    output_, classes_ : what was fitted, and the class labels
    history_ : list of float
        Mean log-likelihood per observed step of each epoch, measured along the way on the sequences trained on, and
        last that of the returned model on all the data given to `fit`.
    validation_history_ : list of float
        Minus the held-out loss of each epoch (`early_stopping`).
    n_iter_, n_updates_, converged_, n_features_in_, n_parameters_

    Notes
    -----
    Level s has the state x^s; the state before the first step is zero:
        z_t = sum_d W_d x_{t-d} + V u_t + b,   x_t as `clock` says,   o_t = U x_t + c.
    The read-out sees all levels. Outputs are scaled to zero mean and unit variance for training and back afterwards.
    Regression models y_t as normal with mean o_t and variance `noise_variance_`, at least 1e-10 of the output's
    variance, so that `score` is a log-likelihood as for the other models.

    Starts: "orthogonal" draws an orthogonal matrix a delay, sets forbidden connections to zero and scales rows to norm
    1 / sqrt(n_delays); "uniform" draws from +-1/sqrt(connections of a unit); "identity" is "orthogonal" with the own
    block of every level slower than 1 replaced by the identity. Biases start at zero, input weights within
    +-1/sqrt(P), read-out weights within +-1/sqrt(H). On the two-sequence problem (`benchmarks/two_sequence_rnn.py`, 30
    sequences, 16 units, scales 16 and 1, Adam, at most 400 updates) the median number of updates until solved was, for
    "orthogonal" / "identity" ("uniform"): T = 100: 23 / 19 (28), T = 300: 21.5 / 22.5, T = 1,000: 52 / 39, where
    "identity" failed in one trial of 8 and "orthogonal" in none. A start that forgets nothing gains little, for a level
    that holds its state remembers anyway; so "orthogonal" is the default.

    One epoch costs about 3 T sum_s H_s (connections of s) / n_s multiply-adds a sequence (without / n_s for "leaky").

    References
    ----------
    El Hihi & Bengio, "Hierarchical recurrent neural networks for long-term dependencies", NIPS 8, 1995.
    Mozer, "Induction of multiscale temporal structure", NIPS 4, 1991 (leaky units).
    Koutnik et al., "A clockwork RNN", ICML 2014. Hochreiter & Schmidhuber, NIPS 9, 1996 (random guessing).

    Examples
    --------
    >>> import numpy as np
    >>> from hiermm import MultiscaleRNN
    >>> rng = np.random.default_rng(0)
    >>> X = [rng.normal(size=(rng.integers(10, 20), 1)) for _ in range(40)]
    >>> y = ["up" if x[0, 0] > 0 else "down" for x in X]        # one label a sequence, for its last step
    >>> model = MultiscaleRNN((4, 4), timescales=(8, 1), learning_rate_init=0.01, random_state=0).fit(X, y)
    >>> bool(model.predict(X)[0][-1] == y[0])
    True
    """

    def __init__(
        self,
        n_units=(8, 8),
        *,
        timescales=(16, 1),
        clock="periodic",
        coupling="full",
        delays=(1,),
        output="auto",
        solver="adam",
        initialization="orthogonal",
        alpha=1e-4,
        batch_size="auto",
        learning_rate_init=5e-3,
        momentum=0.9,
        clip_norm=1.0,
        max_iter=200,
        tol=1e-5,
        n_iter_no_change=20,
        early_stopping=False,
        validation_fraction=0.1,
        n_init=1,
        guess_range=100.0,
        n_jobs=None,
        random_state=None,
        warm_start=False,
        verbose=0,
        callback=None,
    ):
        self.n_units = n_units
        self.timescales = timescales
        self.clock = clock
        self.coupling = coupling
        self.delays = delays
        self.output = output
        self.solver = solver
        self.initialization = initialization
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.momentum = momentum
        self.clip_norm = clip_norm
        self.max_iter = max_iter
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_init = n_init
        self.guess_range = guess_range
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.callback = callback

    @classmethod
    def from_parameters(
        cls, *, recurrent, inputs, bias, readout, readout_bias, noise_variance=None, classes=None, **hyperparameters
    ):
        """Return a model with known parameters, as if it had been fitted.

        Parameters
        ----------
        recurrent : array (n_delays, H, H), [to, from]
            Entries that the coupling forbids are set to zero.
        inputs, bias, readout, readout_bias : arrays (H, P), (H,), (D, H), (D,)
        noise_variance : array (D,), optional
            Regression; ones by default.
        classes : array (D,), optional
            Class labels, for `output="classification"`; 0..D-1 by default.
        **hyperparameters
            As in the constructor.

        Raises
        ------
        ValueError
            If shapes do not fit the structure, or a value is not finite.
        """
        model = cls(**hyperparameters)
        given = {
            "recurrent": as_parameter("recurrent", recurrent, 3),
            "inputs": as_parameter("inputs", inputs, 2),
            "bias": as_parameter("bias", bias, 1),
            "readout": as_parameter("readout", readout, 2),
            "readout_bias": as_parameter("readout_bias", readout_bias, 1),
        }
        check_hyperparameters(model)
        n_outputs = given["readout_bias"].size
        network = model._network(given["inputs"].shape[1], n_outputs)
        for name, shape in network.shapes.items():
            if given[name].shape != shape:
                raise ValueError(f"{name} must have shape {shape}, got {given[name].shape}.")
        given["recurrent"] *= network.mask
        model.n_features_in_, model.network_ = network.n_inputs, network
        for name, value in given.items():
            setattr(model, f"{name}_", value)
        if model.output == "classification" or classes is not None:
            model.output_ = "classification"
            model.classes_ = np.arange(n_outputs) if classes is None else np.asarray(classes)
            if len(model.classes_) != n_outputs:
                raise ValueError(f"classes has {len(model.classes_)} labels for {n_outputs} read-outs.")
            if len(set(model.classes_.tolist())) < n_outputs:
                raise ValueError(f"classes must be distinct, got {classes!r}.")
        else:
            model.output_ = "regression"
            variance = np.ones(n_outputs) if noise_variance is None else as_floats("noise_variance", noise_variance)
            model.noise_variance_ = variance
            if variance.shape != (n_outputs,) or not ((variance > 0) & np.isfinite(variance)).all():
                raise ValueError(f"noise_variance must hold {n_outputs} positive numbers, got {noise_variance!r}.")
        return model

    # -- fitting -----------------------------------------------------------------------------------------------------

    def fit(self, X, y=None, *, lengths=None):
        """Fit the network to the observed steps of y.

        Parameters
        ----------
        X : array (T, P), list of arrays (T_i, P), or array (n_sequences, T, P)
            Inputs.
        y : array (T,) or (T, D), list of such arrays, or one target a sequence (for its last step)
            Outputs, NaN or None where not observed.
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
            If training did not converge in `max_iter` epochs, or diverged.
        """
        check_hyperparameters(self)
        go_on = self.warm_start and hasattr(self, "recurrent_")
        if go_on:
            self._refuse_another_shape()
        sequences = self._read(X, y, lengths, reset=not go_on)
        if not sequences.n_observed:
            raise ValueError("nothing to learn from: every output is missing.")
        unseen = np.isnan(sequences.outputs).all(axis=0)
        if unseen.any():
            raise ValueError(f"cannot start: column {int(np.argmax(unseen))} of the outputs has no observed value.")
        check_ranges(sequences)
        classes = self.output_ == "classification"
        network = self._network(self.n_features_in_, len(self.classes_) if classes else sequences.outputs.shape[1])
        seeds = check_random_state(self.random_state).randint(np.iinfo(np.int32).max, size=self.n_init + 1)
        if not go_on:
            self.__dict__.pop("_training", None)
            self._split_seed = seeds[-1]
        if not classes and not (go_on and hasattr(self, "_training")):
            self._scaling = Scaling.of(sequences.outputs)
        starts = self._starts(network, seeds[:-1], go_on)
        parts = self._parts(sequences if classes else self._scaling.apply(sequences))
        with tqdm(total=self.max_iter * len(starts), desc="MultiscaleRNN", disable=not self.verbose) as bar:
            runs = Parallel(n_jobs=self.n_jobs, prefer="threads")(
                delayed(train)(start, network, parts, classes, self, self._reporter(network, parts[0], bar))
                for start in starts
            )
        training, _, theta = min(runs, key=lambda run: run[1])
        self._keep(network, sequences, parts[0], training, theta)
        if training.interrupted:
            raise KeyboardInterrupt
        if not (self.converged_ or training.left):
            warnings.warn(
                f"MultiscaleRNN: training did not converge in max_iter={self.max_iter} epochs. Raise max_iter or tol.",
                ConvergenceWarning,
                stacklevel=2,
            )
        return self

    def _network(self, n_inputs, n_outputs):
        """Return the `Network` that the hyper-parameters ask for; that of the fitted arrays is `network_`."""
        structure = tuple(self.n_units), tuple(self.timescales), self.clock, self.coupling, tuple(self.delays)
        return Network(*structure, n_inputs, n_outputs)

    def _refuse_another_shape(self):
        """Raise ValueError if the hyper-parameters want fitted arrays of another shape than a warm start has."""
        then, now = vars(self.network_), vars(self._network(0, 0))
        pairs = {name: (then[name], now[name]) for name in ("n_units", "timescales", "clock", "coupling", "delays")}
        pairs["output"] = self.output_, self.output_ if self.output == "auto" else self.output
        for name, (old, new) in pairs.items():
            if old != new:
                raise ValueError(
                    f"warm_start goes on from a network fitted with {name}={old!r}, but {name} is now {new!r}: fit "
                    "anew."
                )

    def _starts(self, network, seeds, go_on):
        """Return a `Training` for each restart, or the one to go on with."""
        if go_on and hasattr(self, "_training"):
            self._training.follow(self)
            return [self._training]
        starts = []
        for seed in seeds[:1] if go_on else seeds:
            rng = np.random.default_rng(seed)
            if not go_on:
                theta = network.draw(rng, self.initialization)
            elif self.output_ == "classification":
                theta = self._theta(network)
            else:
                theta = self._scaling.to_scaled(network, self._theta(network))
            starts.append(Training.begin(theta, rng, self))
        return starts

    def _parts(self, sequences):
        """Return the sequences to train on and, for early stopping, those held out."""
        if not self.early_stopping:
            return (sequences,)
        observed = np.add.reduceat((~np.isnan(sequences.outputs)).any(axis=1), sequences.offsets[:-1]) > 0
        useful = np.flatnonzero(observed)
        if len(useful) < 2:
            raise ValueError("early_stopping holds out whole sequences: it needs two with observed outputs.")
        n_held = min(max(round(self.validation_fraction * len(useful)), 1), len(useful) - 1)
        shuffled = np.random.default_rng(self._split_seed).permutation(useful)
        return sequences.select(np.sort(shuffled[n_held:])), sequences.select(np.sort(shuffled[:n_held]))

    def _reporter(self, network, fitted, bar):
        """Return the function that `train` calls after every epoch."""
        n_steps = fitted.n_observed

        def report(training, theta):
            loss = float(training.losses[-1].sum()) / n_steps
            loss = loss if self.output_ == "classification" else loss / 2
            bar.set_postfix(loss=f"{loss:.6f}", refresh=False)
            bar.update()
            if self.callback is None:
                return False

            def build():
                model = copy.copy(self)
                model._keep_parameters(network, theta)
                if self.output_ == "regression":
                    model.noise_variance_ = self._variance(training.losses[-1], fitted)
                return model

            return bool(self.callback(Progress(training.epochs, training.updates, loss, build)))

        return report

    def _variance(self, losses, fitted):
        """Return noise variances (..., D) from an epoch's summed squared errors of scaled outputs."""
        entries = (~np.isnan(fitted.outputs)).sum(axis=0)
        return self._scaling.noise_variance(np.asarray(losses) * self._scaling.scale**2, entries)

    def _keep_parameters(self, network, theta):
        self.network_ = network
        theta = theta.copy() if self.output_ == "classification" else self._scaling.to_outputs(network, theta)
        for name, value in network.split(theta).items():
            setattr(self, f"{name}_", value)

    def _keep(self, network, sequences, fitted, training, theta):
        """Store what a fit leaves behind."""
        self._keep_parameters(network, theta)
        width = 1 if self.output_ == "classification" else network.n_outputs
        losses = np.array(training.losses).reshape(len(training.losses), width)
        n_steps = fitted.n_observed
        if self.output_ == "classification":
            history = -losses[:, 0] / n_steps
        else:
            entries = (~np.isnan(fitted.outputs)).sum(axis=0)
            squares = losses * self._scaling.scale**2
            history = gaussian_log_likelihood(squares, entries, self._variance(losses, fitted)) / n_steps
            squares = Runner(network, sequences).loss(self._theta(network), np.arange(len(sequences))).sum(axis=0)
            entries = (~np.isnan(sequences.outputs)).sum(axis=0)
            self.noise_variance_ = self._scaling.noise_variance(squares, entries)
        score = float(self._log_likelihoods(sequences).sum()) / sequences.n_observed
        self.history_ = [*history.tolist(), score]
        self.validation_history_ = [-loss for loss in training.held_out]
        self.n_iter_, self.n_updates_, self.converged_ = training.epochs, training.updates, training.converged
        self._training = training
