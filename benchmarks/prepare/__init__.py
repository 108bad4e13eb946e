"""From a raw download to a prepared folder: find, convert, split, write. It knows no method."""
