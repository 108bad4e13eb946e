"""What a file of `datasets/` needs to read a raw download: files and archives, label tables, matching of names.

It knows no dataset, and writes nothing.
"""
