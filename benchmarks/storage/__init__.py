"""Files that are whole or absent, and locks that die with their process. It knows nothing of what is in them."""
