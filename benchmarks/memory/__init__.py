"""GPU memory of a setting: measured in a process of its own or predicted without a GPU, and what fits a card.

It runs the training's own steps, and knows neither suites nor reports.
"""
