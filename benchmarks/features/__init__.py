"""The cache of frozen features: files, integrity, what there is. It knows no extractor: it stores what it is given."""
