"""The one exception that means: the input is at fault, not the program."""


class InputError(Exception):
    """Says what is wrong, where, which value, and what to do; a command prints it and exits with 2."""
