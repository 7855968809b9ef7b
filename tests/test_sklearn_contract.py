"""scikit-learn's own checks of the estimator contract, but for a short reasoned table."""

import warnings

from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import parametrize_with_checks

from hiermm import HMM, IOHMM, MultiscaleHMM, MultiscaleIOHMM
from hiermm.emissions.base import DeadStateWarning

FEW = {"max_iter": 5, "random_state": 0}
ORDER = "rows are steps in time: a state depends on the rows before it, so results follow the order and the batch"
EXPECTED = {
    "check_methods_sample_order_invariance": ORDER,
    "check_methods_subset_invariance": ORDER,
}


INPUTS_EXPECTED = EXPECTED | {
    "check_estimators_empty_data_messages": "inputs may have no column: a chain without inputs is a legal special case",
}


def reasons(estimator):
    return INPUTS_EXPECTED if isinstance(estimator, (IOHMM, MultiscaleIOHMM)) else EXPECTED


@parametrize_with_checks(
    [
        HMM(2, **FEW),
        IOHMM(2, **FEW),
        MultiscaleHMM((2, 2), **FEW),
        MultiscaleIOHMM((2, 2), **FEW),
    ],
    expected_failed_checks=reasons,
)
def test_contract(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", DeadStateWarning)
        check(estimator)


def test_the_table_names_real_checks():
    from sklearn.utils import estimator_checks

    for name in INPUTS_EXPECTED:
        assert hasattr(estimator_checks, name), name
