"""The integrations that we ship: one plugin a file or folder, written as an outsider would write it."""
