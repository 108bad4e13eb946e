"""A method on its backbone: the ViT, its weights, the built parts, their counts. It knows no data."""
