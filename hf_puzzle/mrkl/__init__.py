"""MRKL, training side: generated data, the shipped router's training, and evaluation (arXiv 2205.00445)."""
