"""Writes the repository's address into the notebooks: `python colabs/address.py [ADDRESS]`.

Its one place is `url` in setup.cfg; an ADDRESS that is given goes there first.
"""

import re
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
SETUP = FOLDER.parent / "setup.cfg"
# In the link and the badge of a notebook, and in the cell that installs.
PLACES = re.compile(r"(colab\.research\.google\.com/github/|https://github\.com/)[\w.-]+/[\w.-]+")


def read_address() -> str:
    """The address, as https://github.com/OWNER/NAME."""
    (address,) = re.findall(r"^url = (\S+)$", SETUP.read_text(encoding="utf-8"), re.MULTILINE)
    return address


def write(path: Path, address: str) -> None:
    """Puts the address into a notebook."""
    name = "/".join(address.rstrip("/").split("/")[-2:])
    text = path.read_text(encoding="utf-8")
    path.write_text(PLACES.sub(rf"\g<1>{name}", text), encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:]:
        text = SETUP.read_text(encoding="utf-8")
        SETUP.write_text(re.sub(r"(?m)^url = \S+$", f"url = {sys.argv[1]}", text), encoding="utf-8")
    for notebook in sorted(FOLDER.glob("*.ipynb")):
        write(notebook, read_address())
