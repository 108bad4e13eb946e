"""Small modules put behind or beside the layers of a frozen backbone."""
