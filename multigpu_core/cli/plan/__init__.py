"""`multigpu plan`: what a split would do, without loading the model."""
