"""The networks of UnSeg: noise generators, surrogates and how they are built. Opens no file, knows no data set."""
