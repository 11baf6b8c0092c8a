"""The `multigpu` command."""
