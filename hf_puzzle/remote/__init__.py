"""What the Hub gets: flat files that import torch, transformers and each other only."""
