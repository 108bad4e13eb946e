"""What a file of `datasets/` needs to read a raw download: files, archives, tables. It knows no dataset."""
