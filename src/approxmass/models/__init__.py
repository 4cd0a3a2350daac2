"""What a detector learns: the flow's model, the protocol that baselines share, and the registry."""

__all__ = ["FitData", "FitRun", "Model", "Saved", "Statistic", "model_class"]

from .base import FitData, FitRun, Model, Saved, Statistic
from .registry import model_class
