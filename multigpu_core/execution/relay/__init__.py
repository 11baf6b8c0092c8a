"""A donor computes the blocks that it stores: activations travel, weights stay."""
