"""UnSeg: make images unlearnable to segmentation models."""

__version__ = "0.2.0"
