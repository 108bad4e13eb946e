"""From a raw download to a prepared folder: find, convert, split, write.

Which datasets there are is handed in; it knows nothing of training.
"""
