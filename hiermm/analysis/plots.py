"""Pictures of single models; each takes a matplotlib axis or makes one, and returns it."""

import numpy as np

from hiermm.analysis._optional import pyplot
from hiermm.analysis.figure import COLOURS, style
from hiermm.analysis.products import as_operators, check_lags
from hiermm.analysis.spectra import singular_values


def _axis(axis, size):
    return pyplot().subplots(figsize=size, layout="constrained")[1] if axis is None else axis


def transition_matrix(source):
    """Return a row-stochastic matrix of a model, of `Operators` or as given; of several maps their mean.

    Parameters
    ----------
    source : array-like of shape (n, n), Operators, or a model whose operators need no inputs

    Raises
    ------
    ValueError
        If the rows are no probabilities that sum to one, or the operators are Jacobians.
    """
    if hasattr(source, "matrices") or hasattr(source, "operators") or hasattr(source, "transmat_"):
        ops = as_operators(source)
        if ops.kind != "stochastic":
            raise ValueError("a network has no transition matrix.")
        return ops.matrices.mean(axis=0).T
    matrix = np.asarray(source, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"a transition matrix is square; got shape {matrix.shape}.")
    if not ((matrix >= 0).all() and (np.abs(matrix.sum(axis=1) - 1) <= 1e-8).all()):
        raise ValueError("the rows of a transition matrix are probabilities that sum to one.")
    return matrix


def _state_names(names, n):
    names = [str(k) for k in range(n)] if names is None else list(names)
    if len(names) != n:
        raise ValueError(f"names holds {len(names)} names for {n} states.")
    return names


def plot_transitions(source, *, names=None, ax=None):
    """Heat map of a transition matrix: rows are where from, columns where to.

    Parameters
    ----------
    source
        As in `transition_matrix`.
    names : sequence of str, optional
        Names of the states.
    ax : matplotlib axis, optional

    Returns
    -------
    matplotlib axis
    """
    matrix = transition_matrix(source)
    n = len(matrix)
    ax = _axis(ax, (1.6 + 0.55 * n, 1.2 + 0.5 * n) if n <= 12 else (7, 6))
    image = ax.imshow(matrix, cmap="cividis", vmin=0, vmax=1)
    ax.figure.colorbar(image, ax=ax, label="probability", shrink=0.8)
    ax.set_xlabel("to state")
    ax.set_ylabel("from state")
    if n <= 25:
        ax.set_xticks(range(n), _state_names(names, n))
        ax.set_yticks(range(n), _state_names(names, n))
    if n <= 12:
        for i, j in np.ndindex(n, n):
            text = f"{matrix[i, j]:.2f}" if matrix[i, j] else "0"  # a transition that cannot happen
            ax.text(j, i, text, ha="center", va="center", color="black" if matrix[i, j] > 0.6 else "white")
    ax.set_title("Transition probabilities")
    return ax


def plot_transition_graph(source, *, names=None, least=0.01, ax=None):
    """Graph of a transition matrix: circles are states, arrows are moves, wider where more probable.

    Parameters
    ----------
    source
        As in `transition_matrix`.
    names : sequence of str, optional
    least : float
        Arrows of smaller probability are left out.
    ax : matplotlib axis, optional

    Returns
    -------
    matplotlib axis
    """
    matrix = transition_matrix(source)
    n = len(matrix)
    ax = _axis(ax, (6, 6))
    turn = np.pi / 2 - 2 * np.pi * np.arange(n) / n
    place = np.stack([np.cos(turn), np.sin(turn)], axis=1) * (1 if n > 1 else 0)
    radius = min(0.2, 1.7 / max(n, 1) / 2)
    for i, j in np.ndindex(n, n):
        if i != j and matrix[i, j] >= least:
            _arrow(ax, place[i], place[j], radius, matrix[i, j], COLOURS[i % len(COLOURS)])
    for k, name in enumerate(_state_names(names, n)):
        ax.add_patch(
            pyplot().Circle(place[k], radius, facecolor="white", edgecolor=COLOURS[k % len(COLOURS)], linewidth=2.5)
        )
        ax.text(*place[k], f"{name}\n{matrix[k, k]:.2f}", ha="center", va="center", fontsize=9)
    ax.set_xlim(-1.45, 1.45)
    ax.set_ylim(-1.4, 1.4)
    ax.set_aspect("equal")
    ax.axis("off")
    ax.set_title("Transitions (in the circles: probability of staying)")
    return ax


def _arrow(ax, start, end, radius, probability, colour):
    """A bent arrow between two circles, its probability beside it where it leaves."""
    bend = 0.15
    ax.annotate(
        "",
        end,
        start,
        arrowprops={
            "arrowstyle": "-|>",
            "connectionstyle": f"arc3,rad={bend}",
            "linewidth": 0.7 + 4 * probability,
            "mutation_scale": 12 + 8 * probability,
            "color": colour,
            "alpha": 0.35 + 0.6 * probability,
            "shrinkA": _points(ax, radius),
            "shrinkB": _points(ax, radius),
        },
    )
    along = end - start
    side = np.array([along[1], -along[0]])
    x, y = start + 0.36 * along + side * bend * 0.62
    ax.text(
        x, y, f"{probability:.2f}", ha="center", va="center", fontsize=8, color=colour, backgroundcolor=(1, 1, 1, 0.7)
    )


def _points(ax, length):
    """Data units to points on an axis that will be 2.9 units wide."""
    return length / 2.9 * ax.get_window_extent().width * 72 / ax.figure.dpi


def plot_posteriors(model, X, y=None, *, lengths=None, sequence=0, steps=400, axes=None):
    """State posteriors over time, one panel a level, slowest on top.

    Parameters
    ----------
    model : fitted Markov model
        With `level_posterior(X, y, lengths=, level=)` and `n_states` a tuple, one panel a level; otherwise
        `posterior(X, y, lengths=)` or (hmmlearn) `predict_proba(X, lengths)` in one panel.
    X, y, lengths
    sequence : int
        Which sequence to show.
    steps : int
        How many of its steps, from the first.
    axes : sequence of matplotlib axes, optional

    Returns
    -------
    ndarray of matplotlib axes
    """
    panels = _posterior_panels(model, X, y, lengths)
    if axes is None:
        axes = pyplot().subplots(
            len(panels), 1, figsize=(10, 1 + 1.7 * len(panels)), sharex=True, layout="constrained"
        )[1]
    axes = np.atleast_1d(axes)
    if len(axes) != len(panels):
        raise ValueError(f"axes holds {len(axes)} axes for {len(panels)} panels.")
    for axis, (title, gamma) in zip(axes, panels):
        gamma = _one_sequence(gamma, lengths, sequence)[:steps]
        bands = np.vstack([np.zeros(len(gamma)), np.cumsum(gamma, axis=1).T])
        for k in range(gamma.shape[1]):
            axis.fill_between(
                np.arange(len(gamma)),
                bands[k],
                bands[k + 1],
                color=COLOURS[k % len(COLOURS)],
                label=f"{k}",
                step="mid",
                lw=0,
            )
        axis.set_ylim(0, 1)
        axis.set_xlim(0, max(len(gamma) - 1, 1))
        axis.set_ylabel("probability")
        axis.set_title(title)
        axis.legend(title="state", loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=8)
    axes[-1].set_xlabel("step")
    return axes


def _posterior_panels(model, X, y, lengths):
    """[(title, posteriors)], one a level."""
    options = {} if lengths is None else {"lengths": lengths}
    if not hasattr(model, "posterior"):
        if not hasattr(model, "transmat_"):
            raise ValueError(f"{type(model).__name__} has no posteriors of hidden states.")
        return [("Hidden states", model.predict_proba(X, lengths))]
    n_levels = len(model.n_states) if np.ndim(model.n_states) else 1
    if n_levels == 1:
        return [("Hidden states", model.posterior(X, y, **options))]
    scales = getattr(model, "timescales", None)
    titles = [f"Level {s}" + (f", time scale {scales[s]}" if scales is not None else "") for s in range(n_levels)]
    return [(titles[s], model.level_posterior(X, y, level=s, **options)) for s in range(n_levels)]


def _one_sequence(gamma, lengths, sequence):
    if isinstance(gamma, list) or np.ndim(gamma) == 3:
        parts = gamma
    else:
        parts = [gamma] if lengths is None else np.split(gamma, np.cumsum(lengths)[:-1])
    if sequence not in range(len(parts)):
        raise ValueError(f"sequence must be 0 to {len(parts) - 1}, got {sequence!r}.")
    return np.asarray(parts[sequence])


def plot_spectrum(model, lags, X=None, *, lengths=None, ax=None):
    """Singular values of the product of maps against the number of steps; a chain's trivial one is left out.

    Parameters
    ----------
    model : a model or Operators
    lags : array-like of int
    X, lengths
        For models driven by inputs.
    ax : matplotlib axis, optional

    Returns
    -------
    matplotlib axis
    """
    ops = as_operators(model, X, lengths=lengths)
    lags = check_lags(lags)
    logs = singular_values(ops, lags, keep_trivial=False, log=True) / np.log(10)
    ax = _axis(ax, (7, 4.5))
    for k in range(logs.shape[1]):
        shown = logs[:, k] > -np.inf
        look = style(k) if k < 8 else {"color": "0.75", "linewidth": 1}
        ax.plot(lags[shown], logs[shown, k], **look, label=f"{k + 1}" if k < 8 else None)
    ax.set_xscale("log", base=2)
    ax.set_xticks(lags[:: 1 + len(lags) // 12], [str(lag) for lag in lags[:: 1 + len(lags) // 12]])
    ax.minorticks_off()
    ax.set_xlabel("lag (steps)")
    ax.set_ylabel("log10 of the singular value")
    ax.set_title("What the product of transitions keeps")
    ax.grid(color="0.92")
    if logs.shape[1]:
        ax.legend(title="direction", frameon=False, fontsize=8)
    return ax


def plot_history(*models, names=None, ax=None):
    """Score during fitting, one curve a model: mean log-likelihood per observed step against iterations.

    Parameters
    ----------
    *models : fitted models
        With `history_`; hmmlearn's `monitor_.history` is understood, too (its totals, on its own scale).
    names : sequence of str, optional
    ax : matplotlib axis, optional

    Returns
    -------
    matplotlib axis
    """
    ax = _axis(ax, (7, 4.5))
    names = [type(model).__name__ for model in models] if names is None else list(names)
    if not models or len(names) != len(models):
        raise ValueError(f"names holds {len(names)} names for {len(models)} models; one model is needed at least.")
    for k, (model, name) in enumerate(zip(models, names)):
        if not (hasattr(model, "history_") or hasattr(model, "monitor_")):
            raise ValueError(f"model {name!r} has no history: it has not been fitted.")
        history = np.asarray(model.history_ if hasattr(model, "history_") else list(model.monitor_.history))
        look = style(k) | {"marker": style(k)["marker"] if len(history) <= 40 else None}
        ax.plot(np.arange(len(history)), history, **look, label=name)
    ax.set_xlabel("iteration")
    ax.set_ylabel("score (nats per step)")
    ax.set_title("Fitting")
    ax.grid(color="0.92")
    ax.legend(frameon=False)
    return ax
