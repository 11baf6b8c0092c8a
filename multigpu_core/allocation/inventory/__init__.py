"""What a model consists of: its blocks, from a live module or from the header of a file."""
