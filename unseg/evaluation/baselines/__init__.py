"""Published noises as conditions within the same budget, masks and classes. `baseline_names` lists them all."""
