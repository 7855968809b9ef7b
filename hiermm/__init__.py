"""hiermm: hierarchical hidden Markov models, input-output HMMs and recurrent networks, and what they remember.

Conventions
-----------
Time t = 0..T-1. `A_t[i, j] = P(x_t = j | x_{t-1} = i, u_t)`: rows sum to 1; the input acts on arrival; the emission
at t sees u_t. Levels are listed slowest first; the joint state is the C-order index of (x^0, ..., x^{S-1}), so
N = prod K_s. Everything is float64; log-likelihoods are in nats.

Data: `X` is one array (T, P), one array plus `lengths=`, a list of arrays, or a 3-D array (n_sequences, T, P); `y`
follows X's form. NaN in y (or in an HMM's X) means "not observed".

Symbols
-------
========  ============================================================
N         hidden states in all; K_s those of level s; S levels
P, D, M   inputs, outputs, symbols
pi, A     initial distribution, transition matrix
alpha     filtered state distribution P(x_t | y_0..y_t)
beta      message from the future to the state at t
gamma     smoothed state distribution P(x_t | y_0..y_{T-1})
xi        expected transitions P(x_{t-1}, x_t | y_0..y_{T-1})
w_s, n_s  self-transition and time scale of level s: w_s = 1 - 1/n_s
========  ============================================================
"""

from hiermm import emissions
from hiermm.markov import HMM, IOHMM
from hiermm.multiscale import MultiscaleHMM, MultiscaleIOHMM
from hiermm.operators import Operators
from hiermm.rnn import MultiscaleRNN

__version__ = "0.1.0"
__all__ = ["HMM", "IOHMM", "MultiscaleHMM", "MultiscaleIOHMM", "MultiscaleRNN", "Operators", "__version__", "emissions"]
