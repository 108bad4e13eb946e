"""GPU memory of a method's own steps, measured or predicted. It never decides what a method computes."""
