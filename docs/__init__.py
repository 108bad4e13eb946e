"""Pages about the suite, one a topic; `make.py` writes what in them can be counted, and draws the architecture."""
