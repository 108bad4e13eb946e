"""Tables, plots and the page, from stored results alone. It never knows the suite, and starts no run."""
