"""The machinery: configuration, data, training, measuring, tables and plots."""
