"""What protection does to a network that is trained on it: one trainer for clean, protected and random-noise images."""
from unseg.evaluation.trainer import Evaluation, Result, train_and_test

__all__ = ["Evaluation", "Result", "train_and_test"]
