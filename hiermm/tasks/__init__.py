"""Sequences with a known answer: the tasks of the long-term dependency papers, and samples of known models.

Every generator takes a seed and returns a `sklearn.utils.Bunch` with the inputs `X`, the targets `y` in a form that
every estimator takes, `answer` (what a perfect solver says) and `DESCR`. One target a sequence belongs to its last
step: what happens early must be carried to the end.
"""

from hiermm.tasks.classes import latch, parity, two_sequence
from hiermm.tasks.generated import multiscale_generated, network_generated
from hiermm.tasks.grammars import PUBLISHED, tomita

__all__ = ["PUBLISHED", "latch", "multiscale_generated", "network_generated", "parity", "tomita", "two_sequence"]
