"""Names that users gave to files and folders: as they can be shown, stored and told apart."""

_MOST_BYTES = 100  # of a name inside the name of a file, which has 255 at most


def printable(text: str) -> str:
    """A text in one line: control characters, and bytes of a file's name that are no UTF-8, are written as escapes."""
    return "".join(character if character.isprintable() else _escaped(character) for character in text)


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # how Python reads a byte that is no UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def is_text(name: str) -> bool:
    """Whether a file's name can be stored; one in another encoding is read with surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def shortened(name: str) -> str:
    """A name that leaves room for what is put beside it in the name of a file."""
    return printable(name).encode()[:_MOST_BYTES].decode(errors="ignore")


def told_apart(name: str, digest: str) -> str:
    """What a dataset is called where another has its name."""
    return f"{name} [{digest:.6}]"
