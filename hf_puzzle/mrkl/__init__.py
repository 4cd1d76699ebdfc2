"""MRKL, training side: generated data, adapters, and evaluation (arXiv 2205.00445)."""
