"""Where each block goes: the strategies, the staging buffer and the predicted time of a step."""
