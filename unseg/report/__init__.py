"""Pictures and pages of what was measured: each is a pure function of the JSON (and of the pictures that it names)."""
from unseg.report.panels import before_after_noise_mask
from unseg.report.plots import final_bars, learning_curves

__all__ = ["before_after_noise_mask", "final_bars", "learning_curves"]
