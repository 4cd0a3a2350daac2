from . import baselines as baselines
from . import flows as flows
from .data import open_images as open_images
from .detector import Detector as Detector
from .drift import DriftMonitor as DriftMonitor
from .errors import ApproxMassError as ApproxMassError
from .evaluation.metrics import ood_metrics as ood_metrics
from .explain.attribution import Explanation as Explanation
from .mass import approximate_mass as approximate_mass
from .mass import log_prob_and_mass as log_prob_and_mass
from .mass import penalized_nll as penalized_nll
from .scores import Scores as Scores
from .training.flow import EpochRecord as EpochRecord
from .training.flow import TrainingDivergedError as TrainingDivergedError
from .training.flow import TrainingSettings as TrainingSettings
from .training.flow import train as train

__version__: str
