"""The analysis at its edges: one state, mixed moduli, overflow, chances below rounding, senseless arguments."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from hiermm import HMM, MultiscaleHMM, MultiscaleRNN, Operators
from hiermm import analysis as an
from hiermm.emissions import Gaussian


def chain(matrix):
    """Of a row-stochastic matrix."""
    return Operators.from_arrays(np.asarray(matrix, dtype=float).T)


def jacobian(matrix):
    return Operators.from_arrays(np.asarray(matrix, dtype=float), kind="jacobian")


def test_one_state_has_nothing_to_forget_at_any_lag():
    ops, lags = chain([[1.0]]), [0, 1, 7, 8, 500]
    for measure in (an.contraction, an.birkhoff, an.mutual_information):
        assert np.array_equal(measure(ops, lags), np.zeros(5))
    assert np.array_equal(an.eigenvalues(ops, lags), np.ones((5, 1)))
    emission = Gaussian.from_parameters(means=[[0.0]], covariances=[[1.0]])
    model = HMM.from_parameters(initial=[1.0], transition=[[1.0]], emission=emission)
    row = an.compare({"one": model}, np.zeros((3, 1)), lags=[256]).table[0]
    assert (row["half_life"], row["contraction_256"], row["effective_rank_256"]) == (0, 0, 0)


def test_runs_without_a_step_have_lag_zero():
    ops = Operators.from_arrays(np.zeros((0, 2, 2)), kind="jacobian")
    assert an.contraction(ops, [0]) == 1 and an.effective_rank(ops, [0]) == pytest.approx(2)
    with pytest.raises(ValueError, match="lag 1 is longer"):
        an.contraction(ops, [1])


def test_moduli_of_eigenvalues_are_ranked_before_they_are_averaged():
    rng = np.random.default_rng(0)
    for n in (3, 4, 5):
        ops = Operators(rng.normal(size=(4, n, n)), kind="jacobian")
        each = []
        for start in range(4):
            matrix = np.eye(n)
            for k in range(start, start + 5):
                matrix = ops.matrices[k % 4] @ matrix
            each.append(np.sort(np.log(np.abs(np.linalg.eigvals(matrix))))[::-1])
        found = an.eigenvalues(ops, [5], log=True)[0]
        np.testing.assert_allclose(found, np.mean(each, axis=0), atol=1e-6)  # plain products lose the smallest


def test_powers_of_real_eigenvalues_are_real_and_never_nan():
    lags = [0, 1, 2, 5, 50, 10**6]
    assert np.array_equal(an.eigenvalues(jacobian([[-1.0]]), lags)[:, 0], [1, -1, 1, -1, 1, 1])
    with np.errstate(over="ignore"):
        found = an.eigenvalues(jacobian([[0.0, 2e200], [-2e200, 0.0]]), [1, 2, 3, 8])
        real = an.eigenvalues(jacobian([[-1e200, 0.0], [0.0, 1e200]]), [2, 3])
    assert not np.isnan(found).any() and not np.isnan(real).any()
    assert sorted(real[1].real) == [-np.inf, np.inf] and not real.imag.any()


def test_stationary_chances_below_rounding_count():
    for tiny in (1e-17, 1e-100, 1e-300):
        slow = chain([[1.0, tiny], [3 * tiny, 1.0]])
        entropy = -0.75 * np.log(0.75) - 0.25 * np.log(0.25)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = an.mutual_information(slow, [0, 1, 10])
        np.testing.assert_allclose(found, entropy, rtol=1e-12)
    # Half of what starts in the first state is lost to each of two absorbing ones, after about 1e20 steps.
    lost = chain([[1.0, 1e-20, 1e-20], [0, 1, 0], [0, 0, 1]])
    with pytest.warns(an.ReducibleWarning):
        assert an.mutual_information(lost, [0]) == pytest.approx(np.log(2))
    rare = chain([[1, 1e-250, 0], [1, 0, 1e-250], [0.5, 0.5, 0]])
    assert np.isfinite(an.mutual_information(rare, [0, 1, 100])).all()


def test_a_unit_that_is_replaced_at_every_step_does_not_stay():
    leaky = SimpleNamespace(timescales=(1,), clock="leaky", coupling="full", delays=(3,))
    assert np.array_equal(an.path_lengths(leaky, [0, 1, 3, 4, 6]), [0, np.inf, 1, np.inf, 2])


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_paths_of_a_fitted_model_are_those_of_its_fit():
    zeros = {"recurrent": (1, 2, 2), "inputs": (2, 1), "bias": (2,), "readout": (1, 2), "readout_bias": (1,)}
    zeros = {name: np.zeros(shape) for name, shape in zeros.items()}
    network = MultiscaleRNN.from_parameters(**zeros, n_units=(1, 1), timescales=(8, 1))
    network.set_params(n_units=(2,), timescales=(1,))
    assert np.array_equal(an.path_lengths(network, [64]), [8])
    assert np.array_equal(an.path_lengths(MultiscaleRNN((2,), timescales=(1,)), [64]), [64]), "as it would be fitted"
    chain_ = MultiscaleHMM((2, 2), timescales=(8, 1), max_iter=1).fit(np.arange(20.0)[:, None])
    assert np.array_equal(an.path_lengths(chain_.set_params(timescales=None), [64]), [8])


def test_arguments_that_make_no_sense_are_named():
    ops = jacobian(np.eye(2))
    for lags in ([np.inf], [1e19], [2**63]):
        with pytest.raises(ValueError, match="lags must be"):
            an.path_lengths(object(), lags)
    for name, value in [("n_exponents", 0), ("n_exponents", -1), ("n_exponents", 1.0), ("n_blocks", 0)]:
        with pytest.raises(ValueError, match=name):
            an.lyapunov(ops, **{name: value})
    for value in (0, 2.5, "a"):
        with pytest.raises(ValueError, match="n_starts"):
            an.contraction(ops, 1, n_starts=value)
    with pytest.raises(ValueError, match="whole numbers"):
        an.product(ops, 0, 1.5)
    with pytest.raises(ValueError, match="initial must be a distribution"):
        an.mutual_information(chain(np.eye(2)), 1, initial=[np.nan, 1.0])
    with pytest.raises(ValueError, match="analysis_steps"):
        an.compare({"a": ops}, analysis_steps=0)
    steps = SimpleNamespace(operators=lambda X: ops, credit_sources=lambda X, y: np.ones((len(X), 2)))
    with pytest.raises(ValueError, match="n_ends"):
        an.credit(steps, np.zeros((5, 1)), lags=[0], n_ends=0)


def test_operators_drop_nothing_of_what_they_are_given():
    with pytest.raises(ValueError, match="real"):
        Operators.from_arrays(1j * np.eye(2), kind="jacobian")
    with pytest.raises(ValueError, match="masked"):
        Operators.from_arrays(np.ma.masked_array(np.eye(2), mask=np.eye(2)))
    for dt in (np.inf, np.nan, 0, "1"):
        with pytest.raises(ValueError, match="dt must be positive"):
            Operators.from_arrays(np.eye(2), dt=dt)
