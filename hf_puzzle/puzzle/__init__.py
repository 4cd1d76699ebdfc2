"""Puzzle: architecture search by distillation (arXiv 2411.19146)."""
