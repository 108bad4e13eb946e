"""From a prepared folder to batches: manifest, dataset, resized images, augmentation, order.

It knows nothing of raw downloads, methods and models.
"""
