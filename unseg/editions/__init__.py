"""Unlearnable editions of whole data sets: the source's layout, its annotations beside the protected images."""
