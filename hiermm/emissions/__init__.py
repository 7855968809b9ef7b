"""What a hidden state emits: distributions of the outputs given state and inputs."""

from sklearn.base import clone

from hiermm.emissions.base import DeadStateWarning, Emission
from hiermm.emissions.discrete import Categorical, Poisson
from hiermm.emissions.gaussian import Gaussian
from hiermm.emissions.linear import LinearGaussian
from hiermm.emissions.poisson_regression import PoissonRegression
from hiermm.emissions.product import Product
from hiermm.emissions.regression import Logistic

NAMES = {
    "gaussian": Gaussian,
    "categorical": Categorical,
    "poisson": Poisson,
    "linear_gaussian": LinearGaussian,
    "logistic": Logistic,
    "poisson_regression": PoissonRegression,
}

__all__ = [
    "Categorical",
    "DeadStateWarning",
    "Emission",
    "Gaussian",
    "LinearGaussian",
    "Logistic",
    "Poisson",
    "PoissonRegression",
    "Product",
    "make",
]


def make(emission):
    """Return an `Emission` object of its own, without parameters, to start from.

    Parameters
    ----------
    emission : str or Emission
        A name (see `NAMES`), which gives the class with its default arguments, or an object, which is cloned: models
        never share an emission, and known parameters do not bind a new fit to the shape of the old data.

    Raises
    ------
    ValueError
        On an unknown name; the message lists the known ones.

    Examples
    --------
    >>> from hiermm.emissions import make
    >>> make("poisson")
    Poisson()
    """
    if isinstance(emission, Emission):
        return clone(emission)
    if isinstance(emission, str) and emission in NAMES:
        return NAMES[emission]()
    raise ValueError(f"emission must be an Emission or one of {', '.join(NAMES)}; got {emission!r}")
