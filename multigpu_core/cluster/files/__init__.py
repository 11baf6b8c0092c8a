"""Model files on other machines: the same file is found there by name, size and blake3, or sent once."""
