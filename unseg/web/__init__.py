"""The local page and the HTTP interface of `unseg web`: photographs in, protected photographs out, nothing kept."""
