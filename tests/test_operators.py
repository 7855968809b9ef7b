import numpy as np
import pytest

from hiermm import Operators

P = np.array([[0.9, 0.2], [0.1, 0.8]])


def test_constant_maps_repeat_for_ever():
    ops = Operators.from_arrays(P)
    assert ops.forever
    assert ops.runs() == []
    np.testing.assert_array_equal(ops.take(5, 8), np.stack([P] * 3))
    with pytest.raises(TypeError, match="for ever"):
        len(ops)


def test_a_cycle_repeats_in_order():
    ops = Operators(np.stack([P, np.eye(2)]))
    np.testing.assert_array_equal(ops.take(1, 4), np.stack([np.eye(2), P, np.eye(2)]))


def test_finite_runs():
    many = np.random.default_rng(0).normal(size=(5, 3, 3))
    ops = Operators.from_arrays(many, offsets=[0, 2, 5], kind="jacobian")
    assert len(ops) == 5
    assert ops.runs() == [(0, 2), (2, 5)]
    assert np.shares_memory(ops.take(1, 3), ops.matrices)
    assert Operators.from_arrays(many, kind="jacobian").runs() == [(0, 5)]
    assert Operators.from_arrays(P, offsets=[0, 4, 9]).runs() == [(0, 4), (4, 9)]
    constant = Operators(P[None], [0, 4])
    assert constant == constant and constant != Operators(P[None], [0, 4])  # the same thing, not the same numbers
    assert len(constant) == 4
    assert constant.take(2, 4).shape == (2, 2, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Operators(P), "shape"),
        (lambda: Operators(np.zeros((1, 2, 3)), kind="jacobian"), "shape"),
        (lambda: Operators.from_arrays(P.T), "matrix 0 is not column-stochastic"),
        (lambda: Operators.from_arrays(np.array([[1.5, 0], [-0.5, 1]])), "not column-stochastic"),
        (lambda: Operators.from_arrays(np.full((2, 2), np.nan), kind="jacobian"), "matrix 0 has a value"),
        (lambda: Operators(P[None], kind="markov"), "kind must be one of"),
        (lambda: Operators(P[None], dt=0), "dt must be positive"),
        (lambda: Operators(P[None], [1, 2]), "offsets must be"),
        (lambda: Operators(P[None], [0, 3, 2]), "offsets must be"),
        (lambda: Operators(P[None], [0, 3.5]), "offsets must be"),
        (lambda: Operators.from_arrays(np.stack([P] * 3), offsets=[0, 5]), "offsets end at 5 but there are 3 matrices"),
        (lambda: Operators(P[None], [0, 3]).take(2, 5), "maps 2 to 5 asked for"),
        (lambda: Operators(np.empty((0, 2, 2))), "at least one matrix"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
