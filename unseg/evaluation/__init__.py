"""What protection does to a network that is trained on it: one trainer for clean, protected and random-noise images."""
