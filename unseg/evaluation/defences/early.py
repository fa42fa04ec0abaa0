"""Early stopping: the best test on the way counts, since networks learn from the images before they find the noise
(Sandoval-Segura et al., "Poisons that are learned faster are more effective", CVPR workshops 2022). It favours
whoever trains."""

from __future__ import annotations

from unseg.evaluation.defences.kinds import ScoreDefence

EARLY = "early"
NOTE = "early: the best of all tests on the way counts; metrics by class are those of the last step"


def early() -> ScoreDefence:
    """Returns the defence that counts the highest score of all evaluations."""
    return ScoreDefence(EARLY, max)
