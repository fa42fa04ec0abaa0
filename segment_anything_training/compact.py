"""The compact generator that ships with the project, and the small surrogate it is trained against."""
