"""Table rows and softmax rows: kernels against plain NumPy, derivatives, optima, and the cases that break solvers."""

import numpy as np

from hiermm.rows import SoftmaxRows, TableRows


def test_softmax_rows_ascend():
    rng = np.random.default_rng(0)
    inputs, xi = rng.normal(size=(200, 2)), rng.uniform(size=(200, 1, 3, 3))
    rows = SoftmaxRows(np.zeros((1, 3, 3, 2)), np.zeros((1, 3, 3)))
    new = rows.maximise(rows.statistics(inputs, xi))
    assert new.objective(inputs, xi) + new.penalty() > rows.objective(inputs, xi) + rows.penalty()


def test_table_rows_divide_counts():
    rows = TableRows(np.full((1, 1, 2, 2), 0.5))
    new = rows.maximise(rows.statistics(None, np.array([[[[1.0, 3.0], [0.0, 0.0]]]])))
    assert np.array_equal(new.probs[0, 0], [[0.25, 0.75], [0.5, 0.5]])
