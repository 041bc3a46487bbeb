"""The published network as a CPU runs it fastest: the same numbers from the same weights, for answering clicks only.

Nothing here can be trained. What each part computes is said by the module of lib.network that it takes its weights
from, and tests hold the two together. Weights are packed once for oneDNN; grids stay channels-last, as rows of tokens.
"""
