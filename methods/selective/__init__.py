"""Methods that train some of the backbone's own parameters and add none, but for DiffFit's scales."""
