"""The experiments of El Hihi & Bengio (1995), section 4, on every model family, and what became of section 5.

`two_sequence`, `network` and `tomita` each say which trials there are (`plan`), run one (`run`) and report on all
(`report`). `trials` runs them in parallel and goes on where a stopped run ended; `contestants` holds the rows.
"""

from hiermm.experiments import network, tomita, two_sequence
from hiermm.experiments.trials import Trial, run_trials

EXPERIMENTS = {"two-sequence": two_sequence, "network": network, "tomita": tomita}

__all__ = ["EXPERIMENTS", "Trial", "run_trials"]
