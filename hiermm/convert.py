"""Models of other packages, read as the parameters of hiermm's."""

import numpy as np
from sklearn.exceptions import NotFittedError

from hiermm.emissions import Categorical, Gaussian, Poisson


def _gaussian(model):
    kind, covariances = model.covariance_type, np.asarray(model.covars_)  # matrices, whatever the kind
    diagonals = np.diagonal(covariances, axis1=1, axis2=2)
    stored = {
        "full": covariances,
        "tied": covariances[0],
        "diag": diagonals,
        "spherical": diagonals[:: len(covariances) // len(model.means_), 0],  # one matrix a state, or D equal ones
    }
    return Gaussian.from_parameters(means=model.means_, covariances=stored[kind], covariance=kind)


EMISSIONS = {
    "GaussianHMM": _gaussian,
    "CategoricalHMM": lambda model: Categorical.from_parameters(probs=model.emissionprob_),
    "PoissonHMM": lambda model: Poisson.from_parameters(rates=model.lambdas_),
}


def hmmlearn_parameters(model):
    """Return the parameters of a fitted hmmlearn model as arguments of `HMM.from_parameters`.

    Parameters
    ----------
    model : hmmlearn.hmm.GaussianHMM, CategoricalHMM or PoissonHMM

    Raises
    ------
    TypeError
        For any other object.
    NotFittedError
        If the model has no parameters yet.
    """
    kinds = [kind.__name__ for kind in type(model).__mro__ if kind.__module__.partition(".")[0] == "hmmlearn"]
    known = next((kind for kind in kinds if kind in EMISSIONS), None)
    if known is None:
        raise TypeError(f"expected hmmlearn's {', '.join(EMISSIONS)}, fitted; got {type(model).__name__}.")
    try:
        emission = EMISSIONS[known](model)
        return {"initial": model.startprob_, "transition": model.transmat_, "emission": emission}
    except AttributeError as error:
        raise NotFittedError(f"this {type(model).__name__} has not been fitted: {error}") from None
