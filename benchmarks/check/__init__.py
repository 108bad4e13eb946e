"""What is wrong with an image folder: surveyed, named with a remedy, shown as a sheet of images.

It looks and never changes a folder, and knows no training.
"""
