"""Files that owners keep: planes of raw values with what lies around them, read, and written back as they are."""
