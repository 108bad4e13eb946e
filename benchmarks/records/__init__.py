"""The record of a run: what it holds, and how it is stored and read. It knows no method, and computes nothing."""
