"""The allocation language, the inventory of blocks and the planners."""
