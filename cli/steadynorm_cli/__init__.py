"""The command line and the local stack: the top layer, which may import every other room."""
