"""Files that processes share: locks, files written whole or not at all, JSON that is checked when read.

It does not know what they hold.
"""
