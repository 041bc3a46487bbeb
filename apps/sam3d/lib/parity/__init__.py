"""The network beside recorded tensors and counts of the published one."""
