"""Pictures and pages of what was measured: each is a pure function of the JSON (and of the pictures that it names)."""
