"""Files for --plugin: what a method from outside this repository looks like."""
