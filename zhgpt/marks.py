"""Pages in which a command writes what stands between two marks."""

from zhgpt.errors import InputError


def with_content(page: str, name: str, marks: tuple[str, str], content: str) -> str:
    """`page` with what stands between its marks replaced; InputError where they are not."""
    first, last = marks
    before, begin, rest = page.partition(first)
    _, end, after = rest.partition(last)
    if not (begin and end):
        raise InputError(f"{name}: a table stands between {first} and {last}; they are missing.")
    return f"{before}{begin}\n{content}\n{end}{after}"
