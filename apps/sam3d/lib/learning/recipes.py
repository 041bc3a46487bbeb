"""Names of the ways to learn from a set of labelled cases, and of what learns."""

from __future__ import annotations

# By clicks one after another, as users make them; or with the crops and random points of arXiv 2306.13465.
INTERACTIVE, PUBLISHED = "interactive", "published"
RECIPES = (INTERACTIVE, PUBLISHED)
# Which parameters learn: those that the published recipe tunes, the same without SAM's layer norms, or every one.
TUNE_PUBLISHED, TUNE_ADAPTERS, TUNE_ALL = "published", "adapters", "all"
TUNINGS = (TUNE_PUBLISHED, TUNE_ADAPTERS, TUNE_ALL)
PUBLISHED_EPOCHS = 500
PUBLISHED_LEARNING_RATE = 4e-4
