"""What is wrong with a folder of images: leaks, duplicates, damaged files. It changes no image, and knows no method."""
