"""The warnings of the analysis, by name, so that a caller can act on each."""


class AnalysisWarning(UserWarning):
    """Base of all warnings of `hiermm.analysis`."""


class ReducibleWarning(AnalysisWarning):
    """The chain has several closed classes of states: which of them it is in is never forgotten."""


class PeriodicWarning(AnalysisWarning):
    """The chain moves through its states in a fixed cycle: the phase of that cycle is never forgotten."""


class NotHalvedWarning(AnalysisWarning):
    """The contraction did not fall to one half within the steps at hand."""


class DefectiveWarning(AnalysisWarning):
    """Eigenvectors (nearly) coincide, so the eigenvalues are known to far fewer digits than usual."""
