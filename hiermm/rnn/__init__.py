"""MultiscaleRNN: a recurrent network whose levels work at their own time scales."""

from hiermm.rnn.model import MultiscaleRNN, Progress

__all__ = ["MultiscaleRNN", "Progress"]
