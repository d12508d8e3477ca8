"""Whitening: mean 0 and variance 1 over all loss tokens of a batch."""

import numpy as np
import numpy.typing as npt

_EPSILON = 1e-8


def whiten(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """[M] (x - mean) / (std + 1e-8), population standard deviation; 0 where all values are equal."""
    if not len(x):
        return x
    return (x - x.mean()) / (x.std() + _EPSILON)
