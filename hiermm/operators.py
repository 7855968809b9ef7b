"""One-step linear maps along a trajectory: all that the analysis knows of a model."""

import numbers
from dataclasses import dataclass

import numpy as np

KINDS = ("stochastic", "jacobian")
MAX_DENSE_BYTES = 1 << 31


@dataclass(frozen=True, eq=False)
class Operators:
    """The one-step maps M_t: delta_t = M_t delta_{t-1} for a small change delta of the state.

    For a Markov chain M_t is the transposed transition matrix (its columns sum to 1) and delta a change of the state
    distribution; for a recurrent network it is the Jacobian dx_t/dx_{t-1}. Products of these maps are eqs. 3 and 4
    of El Hihi & Bengio (1995).

    Parameters
    ----------
    matrices : ndarray of shape (L, n, n)
        Column convention: `matrices[k][i, j]` is the effect on component i at t of component j at t - 1.
    offsets : ndarray of shape (n_runs + 1,), optional
        Step counts of finite runs (one a sequence): run r has the maps `offsets[r]:offsets[r + 1]`, of which map k is
        `matrices[k % L]`. None: the L matrices repeat for ever (a constant chain has L = 1).
    dt : float
        Time between steps, in the user's unit.
    kind : {"stochastic", "jacobian"}

    Raises
    ------
    ValueError
        If the shapes do not fit, values are not finite, or the columns of a stochastic map do not sum to 1.

    Examples
    --------
    >>> import numpy as np
    >>> from hiermm import Operators
    >>> ops = Operators.from_arrays(np.array([[0.9, 0.2], [0.1, 0.8]]), kind="stochastic")
    >>> ops.n_states, ops.forever
    (2, True)
    """

    matrices: np.ndarray
    offsets: np.ndarray | None = None
    dt: float = 1.0
    kind: str = "stochastic"

    def __post_init__(self):
        matrices = _real(self.matrices)
        if matrices.ndim != 3 or matrices.shape[1] != matrices.shape[2] or matrices.shape[1] == 0:
            raise ValueError(f"matrices must have shape (L, n, n), got {matrices.shape}.")
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {KINDS}, got {self.kind!r}.")
        if not isinstance(self.dt, numbers.Real) or not 0 < self.dt < np.inf:
            raise ValueError(f"dt must be positive, got {self.dt!r}.")
        object.__setattr__(self, "matrices", matrices)
        if self.offsets is None:
            if len(matrices) == 0:
                raise ValueError("a chain that repeats for ever needs at least one matrix.")
        else:
            offsets = np.asarray(self.offsets)
            if (
                offsets.dtype.kind not in "iu"
                or offsets.ndim != 1
                or len(offsets) < 2
                or offsets[0] != 0
                or (np.diff(offsets) < 0).any()
            ):
                raise ValueError("offsets must be non-decreasing whole numbers of steps that start with 0.")
            if offsets[-1] > 0 and len(matrices) == 0:
                raise ValueError(f"offsets ask for {offsets[-1]} maps but there is no matrix.")
            object.__setattr__(self, "offsets", offsets.astype(np.int64))
        self._check_values()

    def _check_values(self):
        bad = ~np.isfinite(self.matrices).all(axis=(1, 2))
        if bad.any():
            raise ValueError(f"matrix {int(np.argmax(bad))} has a value that is not finite.")
        if self.kind == "stochastic":
            bad = (np.abs(self.matrices.sum(axis=1) - 1) > 1e-8).any(axis=1) | (self.matrices < 0).any(axis=(1, 2))
            if bad.any():
                raise ValueError(
                    f"matrix {int(np.argmax(bad))} is not column-stochastic: a stochastic operator is the transposed "
                    "transition matrix, its columns are non-negative and sum to 1."
                )

    @classmethod
    def from_arrays(cls, matrices, *, offsets=None, dt=1.0, kind="stochastic"):
        """Take anybody's matrices: a 2-D array is constant for ever, a 3-D array one finite run (or runs by offsets).

        Parameters
        ----------
        matrices : array-like of shape (n, n) or (L, n, n)
            Column convention, see the class.
        offsets : array-like of shape (n_runs + 1,), optional
            Where runs begin and end, up to L; None: all matrices are one run. For a 2-D array runs of any length, all
            of the same matrix.
        dt, kind
            As in the class.

        Raises
        ------
        ValueError
            As the class does, and if runs of a 3-D array do not end with its last matrix.
        """
        matrices = _real(matrices)
        if matrices.ndim == 2:
            return cls(matrices[None], offsets, dt, kind)
        if offsets is not None and np.size(offsets) and np.ravel(offsets)[-1] != len(matrices):
            raise ValueError(f"offsets end at {np.ravel(offsets)[-1]} but there are {len(matrices)} matrices.")
        return cls(matrices, np.array([0, len(matrices)]) if offsets is None else offsets, dt, kind)

    @property
    def n_states(self):
        """Size n of the maps."""
        return self.matrices.shape[1]

    @property
    def forever(self):
        """Whether the maps repeat without end."""
        return self.offsets is None

    def __len__(self):
        if self.offsets is None:
            raise TypeError("these operators repeat for ever and have no length.")
        return int(self.offsets[-1])

    def runs(self):
        """Return [(start, stop), ...] of the finite runs; empty where the maps repeat for ever."""
        return [] if self.offsets is None else list(zip(self.offsets[:-1].tolist(), self.offsets[1:].tolist()))

    def take(self, start, stop):
        """Return the maps `start` to `stop - 1`, shape (stop - start, n, n); a view where they are stored so."""
        if start < 0 or stop < start or (self.offsets is not None and stop > len(self)):
            size = "for ever" if self.offsets is None else f"0 to {len(self)}"
            raise ValueError(f"maps {start} to {stop} asked for, but there are maps {size}.")
        if stop <= len(self.matrices):
            return self.matrices[start:stop]
        return self.matrices[np.arange(start, stop) % len(self.matrices)]


def _real(matrices):
    """Return matrices as a C-contiguous float64 array; nothing is dropped on the way."""
    if np.ma.is_masked(matrices):
        raise ValueError("matrices must not have masked entries.")
    if np.iscomplexobj(matrices):
        raise ValueError("matrices must be real, got complex ones.")
    return np.ascontiguousarray(matrices, dtype=np.float64)


def check_dense_size(n_matrices, n_states):
    """Raise MemoryError, stating the size, if n_matrices dense matrices (n_states, n_states) would exceed 2 GiB."""
    size = 8 * n_matrices * n_states**2
    if size > MAX_DENSE_BYTES:
        raise MemoryError(
            f"{n_matrices} dense matrices of {n_states} x {n_states} states would take {size / 2**30:.1f} GiB "
            f"(limit {MAX_DENSE_BYTES / 2**30:.0f} GiB); ask for fewer steps or states."
        )
