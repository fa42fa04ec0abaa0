"""What protection does to a network that is trained on it: one trainer for clean, protected and random-noise images."""

from unseg.evaluation.tasks.semantic import train_and_test
from unseg.evaluation.trainer import Evaluation, Trained

__all__ = ["Evaluation", "Trained", "train_and_test"]
