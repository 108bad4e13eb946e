"""Trained models in use: what a run keeps of its model, and predictions with it.

It trains nothing, and imports neither the suite nor the report.
"""
