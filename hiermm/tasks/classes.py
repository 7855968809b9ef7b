"""Two classes, told apart by what happens early in a sequence (or all along it), asked for at its end."""

import numbers

import numpy as np
from sklearn.utils import Bunch

PATTERN_STEPS = 3  # steps that carry the pattern of the two-sequence task


def is_count(value):
    """Whether `value` is an integer (numpy's too) and not a bool."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def balanced_labels(n_sequences, rng):
    """Return labels 0 and 1, as equal in number as n_sequences allows, in random order."""
    return rng.permutation(np.arange(n_sequences) % 2)


def check_counts(**counts):
    """Raise ValueError naming the first argument that is not a positive integer."""
    for name, value in counts.items():
        if not is_count(value) or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}.")


def check_levels(name, sizes, scales):
    """Raise ValueError unless sizes (the argument `name`) and time scales are positive integers, one a level."""
    for each, values in ((name, sizes), ("timescales", scales)):
        if not np.iterable(values) or len(values) == 0:
            raise ValueError(f"{each} must hold a number for each level, got {values!r}.")
    if len(sizes) != len(scales):
        raise ValueError(f"{name} has {len(sizes)} levels but timescales has {len(scales)}.")
    for size, scale in zip(sizes, scales):
        check_counts(**{name: size, "timescales": scale})


def check_amplitude(name, value):
    """Raise ValueError unless `value` is a finite number of at least 0."""
    if not (isinstance(value, numbers.Real) and 0 <= value < np.inf):
        raise ValueError(f"{name} must be finite and at least 0, got {value!r}.")


def two_sequence(
    n_sequences=30, length=100, *, noise=0.1, pattern_noise=None, patterns=None, marker=None, random_state=None
):
    """Tell which of two patterns opened a noisy sequence (the paper's experiment 1).

    The first 3 steps carry the pattern of the sequence's class, drawn once per class in [-1, 1]^3, plus uniform
    noise; the remaining steps carry noise alone. The class is asked for at the last step only.

    Parameters
    ----------
    n_sequences : int
        Half of them of each class (one more of class 0 where the number is odd), in random order.
    length : int
        Steps T of each sequence, at least 3.
    noise : float
        Uniform noise in [-noise, noise] at every step; the paper's is 0.1.
    pattern_noise : float, optional
        Noise on the three steps of the pattern; None: as `noise`. With a small `pattern_noise` and a large `noise`
        the classes stay apart and only holding on to them gets harder.
    patterns : array-like of shape (2, 3), optional
        The patterns of class 0 and 1; None: drawn. Give those of a training set to get fresh sequences to test on.
    marker : {None, "start", "steps"}
        Adds inputs that tell where a sequence begins. "start": one input, 1 at the first step and 0 later. "steps":
        three inputs, of which input k is 1 at step k and 0 elsewhere. A network started at state 0 needs neither; the
        softmax rows of a Markov model are linear in the inputs, see Notes.
    random_state : int, SeedSequence, Generator or None
        Anything that `numpy.random.default_rng` takes.

    Returns
    -------
    Bunch
        `X` : ndarray (n_sequences, length, P), P = 1 + the markers; `y` : ndarray (n_sequences,) of classes 0 and 1;
        `answer` : the same, for a perfect solver; `patterns` : ndarray (2, 3); `bayes_error` : float, the error rate
        that no solver can go below; `feature_names`, `DESCR`.

    Raises
    ------
    ValueError
        For a length below 3, a negative noise, patterns of another shape or an unknown marker.

    Notes
    -----
    Uniform noise of half-width a leaves two boxes of side 2a around the patterns p and q. A sequence in their overlap
    may be of either class, so the best error rate is prod_k max(0, 1 - |p_k - q_k| / (2a)) / 2. That is 0 for most
    pairs at a = 0.1.

    The paper gives the first three lines of the description; it does not state the number of input units, so one
    input, which carries the pattern in time, is this package's choice, and so are the balanced classes. The markers
    are not the paper's.

    References
    ----------
    El Hihi & Bengio, "Hierarchical recurrent neural networks for long-term dependencies", NIPS 8 (1995), section 4.
    Bengio & Frasconi, "Credit assignment through time", NIPS 6 (1993).

    Examples
    --------
    >>> from hiermm.tasks import two_sequence
    >>> task = two_sequence(30, 100, random_state=0)
    >>> task.X.shape, int(task.y.sum())
    ((30, 100, 1), 15)
    >>> fresh = two_sequence(200, 100, patterns=task.patterns, random_state=1)
    """
    check_counts(n_sequences=n_sequences, length=length)
    if length < PATTERN_STEPS:
        raise ValueError(f"length must be at least {PATTERN_STEPS}, the steps of the pattern, got {length}.")
    pattern_noise = noise if pattern_noise is None else pattern_noise
    check_amplitude("noise", noise)
    check_amplitude("pattern_noise", pattern_noise)
    rng = np.random.default_rng(random_state)
    drawn = rng.uniform(-1, 1, size=(2, PATTERN_STEPS))
    patterns = drawn if patterns is None else np.array(patterns, dtype=np.float64)
    if patterns.shape != drawn.shape:
        raise ValueError(f"patterns must have shape {drawn.shape}, got {patterns.shape}.")
    if not np.isfinite(patterns).all():
        raise ValueError(f"patterns must be finite, got {patterns.tolist()}.")
    labels = balanced_labels(n_sequences, rng)
    half_width = np.where(np.arange(length) < PATTERN_STEPS, pattern_noise, noise)
    signal = half_width * rng.uniform(-1, 1, size=(n_sequences, length))
    signal[:, :PATTERN_STEPS] += patterns[labels]
    X, names = _with_marker(signal, marker)
    return Bunch(
        X=X,
        y=labels,
        answer=labels.copy(),
        patterns=patterns,
        bayes_error=_overlap(patterns, pattern_noise) / 2,
        feature_names=names,
        DESCR="Two-sequence task: which of two three-step patterns opened the sequence? Asked at the last step.",
    )


def _overlap(patterns, half_width):
    """Share of the box of one class that lies in the box of the other."""
    gap = np.abs(patterns[0] - patterns[1])
    if half_width == 0:
        return float((gap == 0).all())
    return float(np.prod(np.maximum(0, 1 - gap / (2 * half_width))))


def _with_marker(signal, marker):
    """Inputs (n, T, P) and their names."""
    width = {None: 0, "start": 1, "steps": PATTERN_STEPS}
    if not (marker is None or isinstance(marker, str)) or marker not in width:
        raise ValueError(f'marker must be None, "start" or "steps", got {marker!r}.')
    X = np.zeros((*signal.shape, 1 + width[marker]))
    X[..., 0] = signal
    for k in range(width[marker]):
        X[:, k, 1 + k] = 1
    return X, ["signal", *(f"step_{k}" for k in range(width[marker]))]


def latch(n_sequences=30, length=100, *, noise=0.2, random_state=None):
    """Hold one bit: the first step is +1 or -1, all others are Gaussian noise; the bit is asked for at the end.

    Parameters
    ----------
    n_sequences, length : int
        Sequences, balanced between the classes, and their steps.
    noise : float
        Standard deviation of the noise, which every step but the first consists of.
    random_state : int, SeedSequence, Generator or None

    Returns
    -------
    Bunch
        `X` : ndarray (n_sequences, length, 1); `y` : ndarray (n_sequences,), 1 where the sequence began with +1, else
        0; `answer` : the same; `DESCR`.

    Raises
    ------
    ValueError
        For counts below 1 or a negative noise.

    Notes
    -----
    A pared-down form of the source's latching problem, in which the informative inputs are learnt and several steps
    long; here they are one step of +1 or -1.

    References
    ----------
    Bengio, Simard & Frasconi, "Learning long-term dependencies with gradient descent is difficult", IEEE
    Transactions on Neural Networks 5 (1994).

    Examples
    --------
    >>> from hiermm.tasks import latch
    >>> task = latch(4, 50, random_state=0)
    >>> bool(((task.X[:, 0, 0] > 0) == task.y).all())
    True
    """
    check_counts(n_sequences=n_sequences, length=length)
    check_amplitude("noise", noise)
    rng = np.random.default_rng(random_state)
    labels = balanced_labels(n_sequences, rng)
    X = noise * rng.standard_normal((n_sequences, length, 1))
    X[:, 0, 0] = 2 * labels - 1
    return Bunch(
        X=X, y=labels, answer=labels.copy(), DESCR="Latch task: the sign of the first step, asked for at the last."
    )


def parity(n_sequences=30, length=20, *, random_state=None):
    """Say whether the number of +1 in a sequence of +1 and -1 is odd; asked for at the end.

    Every step matters, so nothing may be forgotten and no step may be skipped: a task that slow levels cannot help.

    Parameters
    ----------
    n_sequences, length : int
        Sequences, balanced between the classes, and their steps.
    random_state : int, SeedSequence, Generator or None

    Returns
    -------
    Bunch
        `X` : ndarray (n_sequences, length, 1) of +1 and -1; `y` : ndarray (n_sequences,), 1 where the number of +1 is
        odd, else 0; `answer` : ndarray (n_sequences, length), the parity so far at every step; `DESCR`.

    Raises
    ------
    ValueError
        For counts below 1.

    References
    ----------
    Bengio, Simard & Frasconi (1994), as for `latch`; Bengio & Frasconi, "Credit assignment through time", NIPS 6
    (1993).

    Examples
    --------
    >>> from hiermm.tasks import parity
    >>> task = parity(2, 5, random_state=0)
    >>> bool(((task.X[..., 0] > 0).sum(axis=1) % 2 == task.y).all())
    True
    """
    check_counts(n_sequences=n_sequences, length=length)
    rng = np.random.default_rng(random_state)
    labels = balanced_labels(n_sequences, rng)
    bits = rng.integers(0, 2, size=(n_sequences, length))
    # The last step settles the class; it stays a fair coin because the class is one.
    bits[:, -1] = (bits[:, :-1].sum(axis=1) + labels) % 2
    return Bunch(
        X=2.0 * bits[:, :, None] - 1,
        y=labels,
        answer=bits.cumsum(axis=1) % 2,
        DESCR="Parity task: is the number of +1 odd? Asked for at the last step.",
    )
