"""Pictures and pages of what was measured: each is a pure function of the JSON (and of the pictures that it names)."""
from unseg.report.plots import final_bars, learning_curves

__all__ = ["final_bars", "learning_curves"]
