"""How the blocks of a split are chosen for its devices: one file in `built_in` for each strategy that we bring."""
