"""How well scores tell in-distribution images from others: metrics, protocol, assessment."""

__all__ = ["Assessment", "Evaluation", "assess", "evaluate", "ood_metrics"]

from .assess import Assessment, assess
from .metrics import ood_metrics
from .protocol import Evaluation, evaluate
