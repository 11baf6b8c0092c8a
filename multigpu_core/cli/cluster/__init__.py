"""`multigpu cluster`: join machines, so that their devices can be chosen at home."""
