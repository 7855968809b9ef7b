"""Outputs of `MultiscaleRNN` scaled for training, parameters scaled back, and losses as log-likelihoods."""

from dataclasses import dataclass

import numpy as np

from hiermm.sequences import Sequences

VARIANCE_FLOOR = 1e-10  # smallest noise variance, relative to the variance of the output


@dataclass(frozen=True)
class Scaling:
    """Centre and scale of each output, shape (D,); a constant or never observed output has scale 1."""

    centre: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, outputs):
        """Mean and standard deviation of the observed entries."""
        seen = ~np.isnan(outputs)
        count = np.maximum(seen.sum(axis=0), 1)
        centre = np.where(seen, outputs, 0.0).sum(axis=0) / count
        deviations = np.where(seen, outputs - centre, 0.0)
        scale = np.sqrt((deviations**2).sum(axis=0) / count)
        rounding = 1e-13 * np.abs(centre)
        return cls(centre, np.where(scale > rounding, scale, 1.0))

    def apply(self, sequences):
        """Return the sequences with scaled outputs."""
        outputs = (sequences.outputs - self.centre) / self.scale
        return Sequences(sequences.inputs, outputs, sequences.offsets, sequences.form)

    def to_outputs(self, network, theta):
        """Return parameters for the outputs as they are, from parameters for scaled outputs."""
        theta = theta.copy()
        parts = network.split(theta)
        parts["readout"] *= self.scale[:, None]
        parts["readout_bias"][:] = parts["readout_bias"] * self.scale + self.centre
        return theta

    def to_scaled(self, network, theta):
        """Undo `to_outputs`."""
        theta = theta.copy()
        parts = network.split(theta)
        parts["readout"] /= self.scale[:, None]
        parts["readout_bias"][:] = (parts["readout_bias"] - self.centre) / self.scale
        return theta

    def noise_variance(self, squares, entries):
        """Return variances (..., D) from sums of squared errors of outputs as they are, floored as documented."""
        return np.maximum(squares / np.maximum(entries, 1), VARIANCE_FLOOR * self.scale**2)


def gaussian_log_likelihood(squares, entries, variance):
    """Return log-likelihoods (...,) from sums of squared errors (..., D) and numbers of observed entries (..., D)."""
    return -0.5 * (entries * np.log(2 * np.pi * variance) + squares / variance).sum(axis=-1)
