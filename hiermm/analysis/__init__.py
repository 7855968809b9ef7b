"""What a model remembers: products of its one-step maps, for Markov chains and recurrent networks alike.

Everything here sees `hiermm.Operators` (or an object with `.operators(X)`, or a fitted hmmlearn model) and never asks
what kind of model made them. docs/why-the-comparison-is-fair.md says what is set apart in a chain, and why.
"""

from hiermm.analysis._named import (
    AnalysisWarning,
    DefectiveWarning,
    NotHalvedWarning,
    PeriodicWarning,
    ReducibleWarning,
)
from hiermm.analysis.compare import Comparison, compare
from hiermm.analysis.credit import credit, path_lengths
from hiermm.analysis.information import mutual_information
from hiermm.analysis.memory import birkhoff, contraction, half_life
from hiermm.analysis.products import ScaledMatrix, as_operators, product
from hiermm.analysis.spectra import Lyapunov, effective_rank, eigenvalues, lyapunov, singular_values

__all__ = [
    "AnalysisWarning",
    "Comparison",
    "DefectiveWarning",
    "Lyapunov",
    "NotHalvedWarning",
    "PeriodicWarning",
    "ReducibleWarning",
    "ScaledMatrix",
    "as_operators",
    "birkhoff",
    "compare",
    "contraction",
    "credit",
    "effective_rank",
    "eigenvalues",
    "half_life",
    "lyapunov",
    "mutual_information",
    "path_lengths",
    "product",
    "singular_values",
]
