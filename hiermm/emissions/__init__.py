"""What a hidden state emits: distributions of the outputs given state and inputs."""

from hiermm.emissions.base import DeadStateWarning, Emission

__all__ = ["DeadStateWarning", "Emission"]
