"""Backbones, their weights, and a method's model built on one. It knows nothing of data and of training."""
