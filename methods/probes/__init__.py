"""Classifiers on what a frozen backbone yields; nothing in the backbone changes or needs a gradient."""
