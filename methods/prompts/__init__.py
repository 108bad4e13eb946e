"""Learned tokens that join those of a frozen backbone."""
