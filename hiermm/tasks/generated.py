"""Data sampled from known models with several time scales: a recurrent network and a Markov model."""

import numbers

import numpy as np
from scipy.special import softmax
from sklearn.utils import Bunch

from hiermm.tasks.classes import check_amplitude, check_counts, check_levels


def network_generated(
    n_sequences=100,
    length=100,
    *,
    n_units=(4, 4, 4, 4),
    timescales=(8, 4, 2, 1),
    n_inputs=2,
    gain=2.0,
    clamped=0.05,
    network=None,
    random_state=None,
):
    """Inputs and outputs of a random hierarchical network with large weights (the paper's experiment 2).

    The hidden state moves as in `MultiscaleRNN` with `clock="periodic"` and `coupling="full"`: level s is recomputed,
    x_t = tanh(W x_{t-1} + V u_t + b), when t % n_s == 0, and holds otherwise. The hidden units feed back to the
    inputs, u_t = tanh(F x_{t-1} + c), but at the first step and at a random 5% of the steps the inputs are clamped to
    random values in [-1, 1]. The output is a linear read-out of the hidden state; the target is its last value.

    Parameters
    ----------
    n_sequences, length : int
    n_units : tuple of int
        Hidden units of each level, slowest first.
    timescales : tuple of int
        Time scale n_s of each level; the paper has four scales and does not state their values.
    n_inputs : int
        Input units P.
    gain : float
        Standard deviation of the weights times the square root of the number of units that feed a unit. Above 1 the
        network does not settle when left alone.
    clamped : float
        Share of the later steps whose inputs are clamped, in [0, 1].
    network : dict, optional
        `network` of an earlier call, to sample more sequences of the same network; None: a new one is drawn.
    random_state : int, SeedSequence, Generator or None

    Returns
    -------
    Bunch
        `X` : ndarray (n_sequences, length, P), the inputs as they were, fed back or clamped; `y` : ndarray
        (n_sequences,), the output at the last step; `answer` : ndarray (n_sequences, length), the output at every
        step, which the inputs determine exactly; `states` : ndarray (n_sequences, length, H); `clamped` : bool
        ndarray (n_sequences, length); `network` : dict of `recurrent` (1, H, H), `inputs` (H, P), `bias` (H,),
        `readout` (1, H), `readout_bias` (1,), `n_units`, `timescales`, `clock`, `coupling` (what
        `MultiscaleRNN.from_parameters` takes), and of `feedback` (P, H) and `feedback_bias` (P,); `DESCR`.

    Raises
    ------
    ValueError
        For counts below 1, levels without a time scale, or a share outside [0, 1].

    Notes
    -----
    Not stated in the paper, chosen here: units per level, time scales 8, 4, 2, 1, two inputs, Gaussian weights with
    gain 2, biases of standard deviation 0.5, a read-out of standard deviation 1 / sqrt(H).

    References
    ----------
    El Hihi & Bengio, "Hierarchical recurrent neural networks for long-term dependencies", NIPS 8 (1995), section 4.

    Examples
    --------
    >>> from hiermm.tasks import network_generated
    >>> task = network_generated(100, 40, random_state=0)
    >>> task.X.shape, task.y.shape
    ((100, 40, 2), (100,))
    >>> fresh = network_generated(50, 40, network=task.network, random_state=1)
    """
    check_counts(n_sequences=n_sequences, length=length, n_inputs=n_inputs)
    check_amplitude("gain", gain)
    if not (isinstance(clamped, numbers.Real) and 0 <= clamped <= 1):
        raise ValueError(f"clamped must lie in [0, 1], got {clamped!r}.")
    rng = np.random.default_rng(random_state)
    if network is None:
        network = _random_network(n_units, timescales, n_inputs, gain, rng)
    hold = np.arange(length)[:, None] % np.repeat(network["timescales"], network["n_units"]) != 0
    n_hidden, width = network["inputs"].shape
    is_clamped = rng.random((n_sequences, length)) < clamped
    is_clamped[:, 0] = True
    X = rng.uniform(-1, 1, size=(n_sequences, length, width))
    states, x = np.empty((n_sequences, length, n_hidden)), np.zeros((n_sequences, n_hidden))
    for t in range(length):
        fed_back = np.tanh(x @ network["feedback"].T + network["feedback_bias"])
        X[:, t] = np.where(is_clamped[:, t, None], X[:, t], fed_back)
        new = np.tanh(x @ network["recurrent"][0].T + X[:, t] @ network["inputs"].T + network["bias"])
        x = states[:, t] = np.where(hold[t], x, new)
    outputs = states @ network["readout"][0] + network["readout_bias"][0]
    return Bunch(
        X=X,
        y=outputs[:, -1].copy(),
        answer=outputs,
        states=states,
        clamped=is_clamped,
        network=network,
        DESCR="Network-generated data: the last output of a random multi-scale network, given its inputs.",
    )


def _random_network(n_units, timescales, n_inputs, gain, rng):
    check_levels("n_units", n_units, timescales)
    n_hidden = sum(n_units)
    scale = gain / np.sqrt(n_hidden)
    return {
        "recurrent": scale * rng.standard_normal((1, n_hidden, n_hidden)),
        "inputs": gain / np.sqrt(n_inputs) * rng.standard_normal((n_hidden, n_inputs)),
        "bias": 0.5 * rng.standard_normal(n_hidden),
        "readout": rng.standard_normal((1, n_hidden)) / np.sqrt(n_hidden),
        "readout_bias": np.zeros(1),
        "n_units": tuple(n_units),
        "timescales": tuple(timescales),
        "clock": "periodic",
        "coupling": "full",
        "feedback": scale * rng.standard_normal((n_inputs, n_hidden)),
        "feedback_bias": 0.5 * rng.standard_normal(n_inputs),
    }


def multiscale_generated(
    n_sequences=10,
    length=500,
    *,
    n_states=(3, 3),
    timescales=(64, 1),
    clock="sticky",
    n_inputs=1,
    sharpness=2.0,
    variance=0.3,
    model=None,
    random_state=None,
):
    """Sample of a known `MultiscaleIOHMM` in which each level is steered by the next slower one.

    Level s moves by P(x_t^s = j | x_{t-1}^s = i, x_{t-1}^{s-1} = r, u_t) = softmax_j(intercept[r, i, j] + coef[r, i, j]
    . u_t), with the self-transition 1 - 1/n_s on a sticky clock. Only the fastest level is seen: y_t is Gaussian
    around a mean that depends on its state, and the slower levels are a context that shows in how the fast one moves.

    Parameters
    ----------
    n_sequences, length : int
    n_states, timescales : tuple of int
        States K_s and time scale n_s of each level, slowest first.
    clock : {"sticky", "periodic"}
    n_inputs : int
        Inputs P, standard normal and independent.
    sharpness : float
        Standard deviation of the intercepts; that of the slopes is half as large. Large values make rows nearly
        deterministic.
    variance : float
        Variance of the outputs around the means ..., -2, 0, 2, ... of the fastest level's states.
    model : dict, optional
        `model` of an earlier call, to sample more sequences; None: a new one is drawn.
    random_state : int, SeedSequence, Generator or None

    Returns
    -------
    Bunch
        `X` : ndarray (n_sequences, length, P); `y` : ndarray (n_sequences, length); `answer` : ndarray (n_sequences,
        length, S), the state of each level, slowest first; `states` : ndarray (n_sequences, length), the joint
        states; `model` : dict of `initial`, `coef`, `intercept`, `timescales`, `clock`, `coupling` (what
        `MultiscaleIOHMM.from_parameters` takes, with `emission_levels`) and of `means` (K, 1) and `covariances`
        (K, 1) of the emission; `DESCR`.

    Raises
    ------
    ValueError
        For counts below 1, levels without a time scale, a variance that is not positive, or another clock.

    References
    ----------
    El Hihi & Bengio, NIPS 8 (1995), section 5, eq. 5, which gives the model but no data.

    Examples
    --------
    >>> from hiermm.tasks import multiscale_generated
    >>> task = multiscale_generated(5, 200, random_state=0)
    >>> task.X.shape, task.y.shape, task.answer.shape
    ((5, 200, 1), (5, 200), (5, 200, 2))
    """
    check_counts(n_sequences=n_sequences, length=length, n_inputs=n_inputs)
    rng = np.random.default_rng(random_state)
    if model is None:
        model = _random_model(n_states, timescales, clock, n_inputs, sharpness, variance, rng)
    sizes = [pi.shape[1] for pi in model["initial"]]
    X = rng.standard_normal((n_sequences, length, model["coef"][0].shape[-1]))
    levels = np.zeros((n_sequences, length, len(sizes)), dtype=np.int64)
    for t in range(length):
        for s in range(len(sizes)):
            probs = _move(model, s, t, X[:, t], levels[:, t - 1] if t else levels[:, 0])
            # A sum that rounds below 1 must not lead past the last state.
            ladder = probs.cumsum(axis=1) / probs.sum(axis=1, keepdims=True)
            levels[:, t, s] = (rng.random((n_sequences, 1)) >= ladder).sum(axis=1)
    fast = levels[..., -1]
    noise = np.sqrt(model["covariances"][fast, 0]) * rng.standard_normal(fast.shape)
    return Bunch(
        X=X,
        y=model["means"][fast, 0] + noise,
        answer=levels,
        states=np.ravel_multi_index(tuple(np.moveaxis(levels, -1, 0)), sizes),
        model=model,
        DESCR="Sample of a known multi-scale IOHMM whose fastest level alone is seen, through Gaussian noise.",
    )


def _move(model, s, t, inputs, before):
    """Distribution (n, K_s) of level s at step t, given the states of all levels at the step before (n, S).

    At t = 0 `before` holds the levels drawn so far: a level's first state depends on its parent's first state.
    """
    parent = before[:, s - 1] if s else np.zeros(len(before), dtype=np.int64)
    own = before[:, s]
    if t == 0:
        return model["initial"][s][parent]
    scale, n_states = model["timescales"][s], model["initial"][s].shape[1]
    stay = np.equal.outer(own, np.arange(n_states))
    if model["clock"] == "periodic" and t % scale:
        return stay.astype(np.float64)
    logits = model["intercept"][s][parent, own] + np.einsum("nkp,np->nk", model["coef"][s][parent, own], inputs)
    if model["clock"] == "periodic" or scale == 1 or n_states == 1:
        return softmax(logits, axis=1)
    return np.where(stay, 1 - 1 / scale, softmax(np.where(stay, -np.inf, logits), axis=1) / scale)


def _random_model(n_states, timescales, clock, n_inputs, sharpness, variance, rng):
    check_levels("n_states", n_states, timescales)
    if clock not in ("sticky", "periodic"):
        raise ValueError(f'clock must be "sticky" or "periodic", got {clock!r}.')
    check_amplitude("sharpness", sharpness)
    if not (isinstance(variance, numbers.Real) and 0 < variance < np.inf):
        raise ValueError(f"variance must be positive, got {variance!r}.")
    parents = (1, *n_states[:-1])
    shapes = [(r, k, k) for r, k in zip(parents, n_states)]
    fastest = n_states[-1]
    return {
        "initial": [np.full((r, k), 1 / k) for r, k in zip(parents, n_states)],
        "coef": [0.5 * sharpness * rng.standard_normal((*shape, n_inputs)) for shape in shapes],
        "intercept": [sharpness * rng.standard_normal(shape) for shape in shapes],
        "timescales": tuple(timescales),
        "clock": clock,
        "coupling": "slower",
        "emission_levels": (len(n_states) - 1,),
        "means": 2.0 * np.arange(fastest)[:, None] - (fastest - 1),
        "covariances": np.full((fastest, 1), float(variance)),
    }
