"""Data drawn from known models, shared by the tests of fits and of inference."""

import numpy as np
import pytest
from markov_cases import driven_model, gaussian_model


@pytest.fixture(scope="session")
def series():
    X, states = gaussian_model().sample(600, random_state=1)
    return X, states


@pytest.fixture(scope="session")
def driven():
    u = np.random.default_rng(0).normal(size=(800, 2))
    y, states = driven_model().sample(u, random_state=3)
    return u, y, states
