"""How `MultiscaleRNN` learns: the penalised loss, gradient descent in two forms, L-BFGS and random guessing."""

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning

from hiermm.rnn.network import Runner

SOLVERS = ("adam", "sgd", "lbfgs", "random")
DIVERGED = 1e3  # a mean loss this many times that of the first epoch (or of one nat) counts as divergence


class Objective:
    """Mean loss per observed step of some sequences, plus alpha / (2 n) times the sum of squared weights.

    Parameters
    ----------
    network : Network
    sequences : Sequences
        Outputs are scaled numbers (squared error / 2) or class codes in one column (cross-entropy).
    classes : bool
    alpha : float
        Strength of the L2 penalty; biases are spared.
    """

    def __init__(self, network, sequences, classes, alpha):
        self.runner = Runner(network, sequences, classes)
        observed = ~np.isnan(sequences.outputs)
        self.steps = np.add.reduceat(observed.any(axis=1).astype(np.int64), sequences.offsets[:-1])
        self.entries = observed.sum(axis=0)
        self.n_steps = int(self.steps.sum())
        self.half = 1.0 if classes else 0.5
        self.decay = alpha / self.n_steps * network.decayed
        self.everyone = self.runner.order
        self.lengths = sequences.lengths
        self.gradient = np.empty(len(network.decayed))

    def penalty(self, theta):
        """Return the L2 penalty of theta."""
        return 0.5 * float(self.decay @ (theta * theta))

    def losses(self, theta):
        """Return the losses of all sequences summed, shape (D,) or (1,)."""
        return self.runner.loss(theta, self.everyone).sum(axis=0)

    def mean(self, losses):
        """Return the mean loss per observed step, given sums of losses."""
        return self.half * float(losses.sum()) / self.n_steps

    def value(self, theta):
        """Return the penalised mean loss."""
        return self.mean(self.losses(theta)) + self.penalty(theta)

    def descend(self, theta, order):
        """Return (losses (D,) of the sequences `order`, gradient of their penalised mean loss); the array is reused."""
        losses = self.runner.loss(theta, order, self.gradient).sum(axis=0)
        self.gradient /= max(int(self.steps[order].sum()), 1)
        self.gradient += self.decay * theta
        return losses, self.gradient

    def batches(self, size, rng):
        """Yield index arrays of the sequences in batches, in random order; within one, the longest comes first."""
        if size >= len(self.steps):
            yield self.everyone
            return
        shuffled = rng.permutation(len(self.steps))
        for start in range(0, len(shuffled), size):
            batch = shuffled[start : start + size]
            yield batch[np.argsort(-self.lengths[batch], kind="stable")]


class Adam:
    """Kingma & Ba (2015), with their constants."""

    def __init__(self, n, rate):
        self.rate, self.steps = rate, 0
        self.first, self.second = np.zeros(n), np.zeros(n)

    def adopt(self, other):
        """Take the hyper-parameters of another one."""
        self.rate = other.rate

    def step(self, theta, gradient):
        """Move theta in place."""
        self.steps += 1
        self.first += 0.1 * (gradient - self.first)
        self.second += 0.001 * (gradient * gradient - self.second)
        rate = self.rate * np.sqrt(1.0 - 0.999**self.steps) / (1.0 - 0.9**self.steps)
        theta -= rate * self.first / (np.sqrt(self.second) + 1e-8)


class Momentum:
    """Gradient descent with classical momentum."""

    def __init__(self, n, rate, momentum):
        self.rate, self.momentum, self.velocity = rate, momentum, np.zeros(n)

    def adopt(self, other):
        """Take the hyper-parameters of another one."""
        self.rate, self.momentum = other.rate, other.momentum

    def step(self, theta, gradient):
        """Move theta in place."""
        self.velocity *= self.momentum
        self.velocity -= self.rate * gradient
        theta += self.velocity


@dataclass
class Training:
    """One run of training, as far as it has come; enough to go on from (`warm_start`).

    theta: latest parameters; best_theta, best: those of the lowest criterion (held-out loss with early stopping, else
    the penalised training loss) and its value; criterion: the hyper-parameters that it hangs on; losses: summed losses
    of each epoch; held_out: its held-out losses; left: whether training left for infinity.
    """

    theta: np.ndarray
    optimiser: Any
    rng: Any
    best_theta: np.ndarray | None = None
    best: float = np.inf
    first: float | None = None
    stale: int = 0
    epochs: int = 0
    updates: int = 0
    losses: list = field(default_factory=list)
    held_out: list = field(default_factory=list)
    converged: bool = False
    left: bool = False
    interrupted: bool = False
    criterion: tuple | None = None

    @classmethod
    def begin(cls, theta, rng, model):
        """Start from theta with the hyper-parameters of `model`."""
        training = cls(theta, None, rng)
        training.follow(model)
        return training

    def follow(self, model):
        """Take up the hyper-parameters of `model`, which may have changed since the last epoch."""
        n, rate = len(self.theta), model.learning_rate_init
        fresh = Momentum(n, rate, model.momentum) if model.solver == "sgd" else Adam(n, rate)
        if type(self.optimiser) is type(fresh):
            self.optimiser.adopt(fresh)
        else:
            self.optimiser = fresh
        criterion = model.alpha, model.early_stopping, model.validation_fraction
        if criterion != self.criterion:  # values of another criterion cannot be compared
            self.criterion, self.best, self.best_theta, self.stale = criterion, np.inf, None, 0

    def note(self, value, theta, tol):
        """Keep the best parameters; count the epochs without a gain of at least `tol`."""
        self.stale = 0 if value < self.best - tol or not np.isfinite(self.best) else self.stale + 1
        if value < self.best:
            self.best, self.best_theta = value, theta

    def diverged(self, value):
        """Whether `value` says that training has left for infinity (and warn)."""
        self.first = value if self.first is None else self.first
        if np.isfinite(value) and value <= DIVERGED * max(self.first, 1.0):
            return False
        self.left = True
        warnings.warn(
            f"Training diverged in epoch {self.epochs + 1} (mean loss {value:.3g}) and stopped; the best parameters so "
            "far are kept. Lower learning_rate_init, set clip_norm, or scale the inputs.",
            ConvergenceWarning,
            stacklevel=6,
        )
        return True


def clip(gradient, norm):
    """Scale the gradient in place to at most `norm` (None: leave it)."""
    if norm is not None:
        size = np.sqrt(gradient @ gradient)
        if size > norm:
            gradient *= norm / size


def gradient_descent(training, objective, held_out, model, report):
    """Epochs of Adam or momentum descent until nothing is gained for `n_iter_no_change` epochs, or `max_iter`.

    Parameters
    ----------
    training : Training
        Changed in place.
    objective : Objective
    held_out : Objective or None
        Sequences that decide about stopping; None: the training loss does.
    model : object with the hyper-parameters as attributes
    report : callable
        report(training, theta) after every epoch, theta being what its loss belongs to; true: stop and keep theta.
    """
    size = min(32, len(objective.steps)) if model.batch_size == "auto" else model.batch_size
    whole = size >= len(objective.steps)
    for _ in range(model.max_iter):
        before, total = training.theta.copy(), 0.0
        for batch in objective.batches(size, training.rng):
            losses, gradient = objective.descend(training.theta, batch)
            total = total + losses
            clip(gradient, model.clip_norm)
            training.optimiser.step(training.theta, gradient)
            training.updates += 1
        value = objective.mean(total)
        if training.diverged(value):
            # A later fit goes on from what is kept, without the momentum that led away from it.
            training.theta = before if training.best_theta is None else training.best_theta.copy()
            training.optimiser = None
            break
        # One batch: the loss is exactly that of the parameters before the update. Several: an average along the way.
        candidate = before if whole else training.theta.copy()
        training.epochs += 1
        training.losses.append(total)
        if held_out is not None:
            candidate = training.theta.copy()
            training.held_out.append(held_out.value(candidate))
            training.note(training.held_out[-1], candidate, model.tol)
        else:
            training.note(value + objective.penalty(candidate), candidate, model.tol)
        stopped = report(training, candidate)
        if stopped or training.stale >= model.n_iter_no_change:
            training.converged = True
            if stopped:
                training.theta, training.best_theta = candidate.copy(), candidate
            return


def lbfgs(training, objective, held_out, model, report):
    """L-BFGS-B of scipy on all sequences at once; `tol` is its tolerance on the gradient's largest entry."""
    latest = {}

    def evaluate(theta):
        losses, gradient = objective.descend(theta, objective.everyone)
        value = objective.mean(losses) + objective.penalty(theta)
        latest["losses"] = losses
        training.updates += 1
        if training.diverged(value):
            raise StopIteration
        if held_out is None:
            training.note(value, theta.copy(), 0.0)
        return value, gradient.copy()

    def after(theta):
        training.theta = theta.copy()
        training.epochs += 1
        training.losses.append(latest["losses"])
        stopped = report(training, training.theta)
        if held_out is not None:
            training.held_out.append(held_out.value(theta))
            training.note(training.held_out[-1], training.theta, model.tol)
            stopped = stopped or training.stale >= model.n_iter_no_change
        if stopped:
            training.converged = True
            raise StopIteration

    options = {"maxiter": model.max_iter, "maxfun": 20 * model.max_iter, "gtol": model.tol, "ftol": 1e-12}
    try:
        found = minimize(evaluate, training.theta, jac=True, method="L-BFGS-B", callback=after, options=options)
        training.theta, training.converged = found.x, training.converged or found.status == 0
    except StopIteration:
        if not training.converged and training.best_theta is not None:
            training.theta = training.best_theta


def random_guessing(training, objective, held_out, model, report):
    """Draw `max_iter` parameter vectors and keep the best (Hochreiter & Schmidhuber, 1996)."""
    network, judge = objective.runner.network, objective if held_out is None else held_out
    for _ in range(model.max_iter):
        theta = network.guess(training.rng, model.guess_range)
        value = judge.value(theta)
        training.epochs += 1
        training.updates += 1
        if value < training.best or training.best_theta is None:
            training.theta = training.best_theta = theta
            training.best = value
            training.losses.append(objective.losses(theta))
        else:
            training.losses.append(training.losses[-1])
        if held_out is not None:
            training.held_out.append(training.best)
        if report(training, training.theta):
            break
    training.converged = True


def settle(training, objective, held_out):
    """Return (loss, parameters to keep): the better of the last and the best ones, by the loss that decides."""
    judge = objective if held_out is None else held_out
    last, best = judge.value(training.theta), np.inf
    if training.best_theta is not None:
        best = judge.value(training.best_theta)
    return (best, training.best_theta) if not last < best else (last, training.theta)


METHODS = {"adam": gradient_descent, "sgd": gradient_descent, "lbfgs": lbfgs, "random": random_guessing}


def train(training, network, parts, classes, model, report):
    """Run one training from where it stands.

    Parameters
    ----------
    training : Training
        Changed in place.
    network : Network
    parts : tuple of Sequences
        What to train on and, for early stopping, what decides.
    classes : bool
    model : object with the hyper-parameters as attributes
    report : callable

    Returns
    -------
    training, loss, theta
        With the parameters to keep and their deciding loss.
    """
    objective = Objective(network, parts[0], classes, model.alpha)
    held_out = Objective(network, parts[1], classes, 0.0) if len(parts) > 1 else None
    training.stale, training.converged = 0 if training.converged else training.stale, False
    training.left = training.interrupted = False
    with np.errstate(all="ignore"):
        try:
            METHODS[model.solver](training, objective, held_out, model, report)
        except KeyboardInterrupt:
            training.interrupted = True
        loss, theta = settle(training, objective, held_out)
    return training, loss, theta
