"""The analysis on the package's own models: credit by finite differences, comparisons of both families."""

import numpy as np
import pytest

from hiermm import HMM, IOHMM, MultiscaleIOHMM, MultiscaleRNN
from hiermm import analysis as an
from hiermm.emissions import Gaussian, LinearGaussian

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def driven_chain(rng, n=3):
    emission = LinearGaussian.from_parameters(
        coef=rng.normal(size=(n, 1, 2)), intercept=rng.normal(size=(n, 1)) * 2, covariances=np.full((n, 1), 0.5)
    )
    return IOHMM.from_parameters(
        initial=np.full(n, 1 / n), coef=rng.normal(size=(n, n, 2)), intercept=2 * np.eye(n), emission=emission
    )


def two_scale_network(rng, clock, delays):
    width = 5
    return MultiscaleRNN.from_parameters(
        recurrent=rng.normal(size=(len(delays), width, width)) / 2,
        inputs=rng.normal(size=(width, 2)),
        bias=rng.normal(size=width) / 4,
        readout=rng.normal(size=(1, width)),
        readout_bias=[0.3],
        noise_variance=[0.7],
        n_units=(2, 3),
        timescales=(3, 1),
        clock=clock,
        coupling="slower",
        delays=delays,
    )


def test_credit_of_an_iohmm_by_finite_differences(rng):
    model, lag = driven_chain(rng), 4
    X, y = rng.normal(size=(12, 2)), rng.normal(size=12)
    got = an.credit(model, X, y, [lag], log=True)[0]
    ops, filtered, emission = model.operators(X), model.posterior(X, y, mode="filter"), model.emission_
    means = np.einsum("kdp,tp->tk", emission.coef_, X) + emission.intercept_[:, 0]
    densities = np.exp(-((y[:, None] - means) ** 2))
    basis = np.linalg.qr(np.eye(3) - 1 / 3)[0][:, :2]
    logs = []
    for t in range(lag, 12):
        arrives = an.product(ops, t - lag, t).dense()
        predicted = ops.matrices[t - 1] @ filtered[t - 1]

        def cost(delta, t=t, arrives=arrives, predicted=predicted):
            return np.log(densities[t] @ (predicted + arrives @ delta))

        slope = [(cost(1e-5 * b) - cost(-1e-5 * b)) / 2e-5 for b in basis.T]
        logs.append(np.log(np.linalg.norm(slope)))
    assert got == pytest.approx(np.mean(logs), abs=1e-6)


def run(model, u, clock, delays, upset=None):
    """States of a two-level network by a plain recurrence; `upset` = (step, change) moves one state on the way."""
    scale = np.repeat([3, 1], [2, 3])
    path = [np.zeros(5)] * max(delays)
    for t, value in enumerate(u):
        z = model.inputs_ @ value + model.bias_ + sum(W @ path[-d] for W, d in zip(model.recurrent_, delays))
        new = np.where(t % scale == 0, np.tanh(z), path[-1])
        if clock == "leaky":
            new = (1 - 1 / scale) * path[-1] + np.tanh(z) / scale
        path.append(new + upset[1] if upset is not None and upset[0] == t else new)
    return np.array(path[max(delays) :])


@pytest.mark.parametrize("clock", ["periodic", "leaky"])
@pytest.mark.parametrize("delays", [(1,), (1, 2)])
def test_credit_of_an_rnn_by_finite_differences(rng, clock, delays):
    model, lag = two_scale_network(rng, clock, delays), 4
    X, y = rng.normal(size=(10, 2)), rng.normal(size=10)
    y[5] = np.nan
    np.testing.assert_allclose(model.hidden_states(X), run(model, X, clock, delays), atol=1e-12)
    ops, sources = model.operators(X), model.credit_sources(X, y)
    logs = []
    for t in [k for k in range(lag, 10) if k != 5]:
        carried = an.product(ops, t - lag, t).dense().T @ sources[t]
        logs.append(np.log(np.linalg.norm(carried)))

        def cost(upset, t=t):
            output = model.readout_ @ run(model, X, clock, delays, upset)[t] + model.readout_bias_
            return -((y[t] - output[0]) ** 2) / (2 * 0.7)

        slope = [(cost((t - lag, 1e-5 * e)) - cost((t - lag, -1e-5 * e))) / 2e-5 for e in np.eye(5)]
        np.testing.assert_allclose(carried[:5], slope, atol=1e-8)  # the newest part of the stacked state
    assert an.credit(model, X, y, [lag], log=True)[0] == pytest.approx(np.mean(logs), abs=1e-12)


def test_holding_levels_lengthen_memory(rng):
    """The Jacobians of a periodic level that holds are the identity there, and the analysis sees it."""
    slow = two_scale_network(rng, "periodic", (1,))
    X = rng.normal(size=(301, 2))
    held = slow.operators(X).matrices[np.arange(1, 301) % 3 != 0]
    assert np.array_equal(held[:, :2, :2], np.broadcast_to(np.eye(2), (len(held), 2, 2)))
    quick = MultiscaleRNN.from_parameters(
        recurrent=slow.recurrent_,
        inputs=slow.inputs_,
        bias=slow.bias_,
        readout=slow.readout_,
        readout_bias=slow.readout_bias_,
        n_units=(2, 3),
        timescales=(1, 1),
        clock="periodic",
        coupling="slower",
    )
    decay = [an.lyapunov(model.operators(X)).exponents for model in (slow, quick)]
    assert decay[0][0] > decay[1][0]
    assert decay[0].sum() > decay[1].sum()
    lags = [3, 30]
    assert (an.path_lengths(slow, lags) < an.path_lengths(quick, lags)).all()


def test_both_families_side_by_side(rng, tmp_path):
    X, y = rng.normal(size=(200, 2)), rng.normal(size=200)
    own = HMM.from_parameters(
        initial=[0.5, 0.5],
        transition=[[0.9, 0.1], [0.2, 0.8]],
        emission=Gaussian.from_parameters(means=[[0.0], [1.0]], covariances=np.ones((2, 1)), covariance="diag"),
    )
    levels = MultiscaleIOHMM.from_parameters(
        initial=[np.full((1, 2), 0.5), np.full((2, 2), 0.5)],
        coef=[np.zeros((1, 2, 2, 2)), rng.normal(size=(2, 2, 2, 2))],
        intercept=[np.zeros((1, 2, 2)), np.zeros((2, 2, 2))],
        timescales=(20, 1),
        clock="sticky",
        coupling="slower",
        emission=Gaussian.from_parameters(
            means=np.arange(4.0)[:, None], covariances=np.ones((4, 1)), covariance="diag"
        ),
    )
    models = {
        "HMM": own,
        "IOHMM": driven_chain(rng),
        "MultiscaleIOHMM": levels,
        "MultiscaleRNN": two_scale_network(rng, "periodic", (1,)),
    }
    result = an.compare(models, X, y, lags=[1, 4, 16, 64])
    rows = {row["model"]: row for row in result.table}
    assert [row["kind"] for row in result.table] == ["chain", "chain", "chain", "network"]
    for name, model in models.items():
        want = model.score(y[:, None]) if name == "HMM" else model.score(X, y)
        assert rows[name]["score"] == pytest.approx(want, rel=1e-12)
        assert rows[name]["parameters"] == model.n_parameters_
        assert 0 < rows[name]["half_life"] < 200
        assert rows[name]["credit_1"] > rows[name]["credit_16"] >= 0
    assert rows["HMM"]["half_life"] == an.half_life(own)
    assert rows["MultiscaleIOHMM"]["contraction_16"] >= 2 * 0.95**16 - 1
    assert rows["MultiscaleIOHMM"]["path_length_64"] == pytest.approx(64 / 20)
    result.save(tmp_path)
    assert (tmp_path / "comparison.html").stat().st_size > 10_000
