"""Statistics of stored results: cells, intervals, tests, ranks. It reads records and predictions, and never trains."""
