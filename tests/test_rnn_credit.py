"""The read-out's gradient, and credit carried back to a state, by finite differences."""

import numpy as np
import pytest

from hiermm import MultiscaleRNN
from hiermm.analysis import credit


def network(output, seed=0, delays=(1, 2)):
    rng = np.random.default_rng(seed)
    n_outputs = 3 if output == "classification" else 2
    return MultiscaleRNN.from_parameters(
        recurrent=rng.normal(size=(len(delays), 5, 5)) / 2, inputs=rng.normal(size=(5, 2)), bias=rng.normal(size=5),
        readout=rng.normal(size=(n_outputs, 5)), readout_bias=rng.normal(size=n_outputs), n_units=(2, 3),
        timescales=(2, 1), delays=delays, output=output,
    )  # fmt: skip


@pytest.mark.parametrize("output", ["regression", "classification"])
def test_sources_are_gradients_of_the_log_likelihood(output):
    model, rng = network(output), np.random.default_rng(1)
    u = rng.normal(size=(6, 2))
    y = rng.normal(size=(6, 2)) if output == "regression" else rng.integers(0, 3, 6).astype(float)
    y[3] = np.nan
    sources = model.credit_sources(u, y)
    assert sources.shape == (6, 10)
    assert (sources[3] == 0).all()
    assert (sources[:, 5:] == 0).all()
    states = model.hidden_states(u)

    def log_likelihood(x, t):
        out = model.readout_ @ x + model.readout_bias_
        if output == "regression":
            return -0.5 * ((y[t] - out) ** 2).sum()
        return out[int(y[t])] - np.log(np.exp(out).sum())

    for t in (0, 2, 5):
        for j, step in enumerate(1e-6 * np.eye(5)):
            slope = (log_likelihood(states[t] + step, t) - log_likelihood(states[t] - step, t)) / 2e-6
            assert sources[t, j] == pytest.approx(slope, rel=1e-6, abs=1e-8)


def test_credit_is_the_gradient_with_respect_to_an_earlier_state():
    model, rng = network("regression", delays=(1,)), np.random.default_rng(2)
    u, y = rng.normal(size=(9, 2)), np.full((9, 2), np.nan)
    y[8] = [1.0, -1.0]
    start = model.hidden_states(u)

    def log_likelihood(x, lag):
        for t in range(8 - lag + 1, 9):
            new = np.tanh(model.recurrent_[0] @ x + model.inputs_ @ u[t] + model.bias_)
            x = np.where(t % np.array([2, 2, 1, 1, 1]) == 0, new, x)
        return -0.5 * ((y[8] - model.readout_ @ x - model.readout_bias_) ** 2).sum()

    for lag in (0, 1, 4):
        slopes = [
            (log_likelihood(start[8 - lag] + step, lag) - log_likelihood(start[8 - lag] - step, lag)) / 2e-6
            for step in 1e-6 * np.eye(5)
        ]
        assert credit(model, u, y, [lag])[0] == pytest.approx(np.linalg.norm(slopes), rel=1e-6)
