"""Write the parts of the documentation that are made from the code, or say which of them are out of date.

Each page keeps what stands outside its two markers; between them stands what this script writes.

    python docs/generate.py            write the pages
    python docs/generate.py --check    write nothing; exit with 1 if a page is not what it should be
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from writers import commands, hooks, one_file_loss, plugins, python, recipe, reliability, rooms

ROOT = Path(__file__).parents[1]
BEGIN = "<!-- From here to the end marker this page is written by docs/generate.py; run `make docs`. -->"
END = "<!-- End of what docs/generate.py writes. -->"
WRITERS = {
    "docs/architecture.md": rooms.page,
    "docs/reference/cli.md": commands.page,
    "docs/reference/hooks.md": hooks.page,
    "docs/reference/plugins.md": plugins.page,
    "docs/reference/python.md": python.page,
    "docs/reference/recipe.md": recipe.page,
    "docs/reliability.md": reliability.page,
    "docs/plugins.md": one_file_loss.page,
    "README.md": one_file_loss.page,
}


def renewed(name: str, text: str, generated: str) -> str:
    """`text`, the page called `name`, with the part between its markers replaced."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{name} lost its markers; it needs these two lines:\n{BEGIN}\n{END}")
    return f"{before}{BEGIN}\n\n{generated.strip()}\n\n{END}{after}"


def main() -> int:
    """Write or check every page; 1 if one is out of date and was only checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a page is out of date")
    check = parser.parse_args().check
    stale = []
    for name, writer in WRITERS.items():
        path = ROOT / name
        old = path.read_text(encoding="utf-8")
        new = renewed(name, old, writer())
        if new != old:
            stale.append(name)
            if not check:
                path.write_text(new, encoding="utf-8")
    if stale:
        print(f"{'out of date' if check else 'written'}: {', '.join(stale)}" + ("; run `make docs`" if check else ""))
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
