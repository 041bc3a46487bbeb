"""The interactive protocol on whole volumes: a simulated user, scores, classical baselines, tables and pictures."""
