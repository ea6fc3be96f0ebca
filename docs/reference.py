"""Makes the site's reference from the code, and finds what lies outside of docs/: a hook of mkdocs.

What is public: the names in `__all__` of each of the `DOORS`; of one without, what it defines.
What is experimental says so in the first word of its docstring, or of its module's.
"""

import ast
import importlib
import inspect
import os
import re
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "autogrow_jax"
MARK = "Experimental: "
# Of a file inside a room, which has no door of its own, the names that are for everybody.
DOORS: dict[str, tuple[str, ...]] = {
    "config": (),
    "data": (),
    "stream": (),
    "models": (),
    "growth": (),
    "training": (),
    "optim": (),
    "trees": (),
    "errors": (),
    "hosts": ("join", "count", "is_first"),
    "reporting": (),
    "reporting.metrics": ("read", "truncate"),
    "interop.torch": (),
    "studies": (),
    "studies.cells": ("Cell", "Entry", "expand"),
    "studies.records": ("collect",),
    "studies.tables": ("format_text",),
    "studies.figures": ("figure",),
    "trajectory": (),
    "native": (),
}
# What their doors have is for the other rooms.
INNER = {"cli", "files", "saving", "steps"}


def public_names(module: ModuleType) -> list[str]:
    """The names that a module offers, sorted; without modules, types of hints among them."""
    given = getattr(module, "__all__", None)
    if given is None:
        given = [
            name
            for name, value in vars(module).items()
            if inspect.isclass(value) or inspect.isfunction(value)
            if name[0] != "_" and value.__module__ == module.__name__
        ]
    return sorted(given, key=str.lower)


def describe(module: ModuleType, name: str) -> str:
    """What a public thing says of itself: its docstring, or the comment beside its definition."""
    value = getattr(module, name)
    if callable(value) and not hasattr(value, "__origin__"):
        doc = inspect.getdoc(value) or ""
        return "" if inspect.isclass(value) and doc.startswith(f"{name}(") else doc
    if isinstance(value, dict) and hasattr(value, "what"):
        return f"Holds what each name of {value.what} stands for: {', '.join(value)}."
    source = inspect.getsource(module)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and name in [alias.name for alias in node.names]:
            return describe(importlib.import_module(str(node.module)), name)
    lines = source.splitlines()
    for number, line in enumerate(lines):
        if re.match(rf"(\w+ = )*{name}(: .*)? = ", line):
            comments: list[str] = []
            while number and lines[number - 1].startswith("# "):
                number -= 1
                comments.insert(0, lines[number][2:])
            return " ".join(comments) or line.partition("  # ")[2]
    return ""


def place(module: ModuleType, name: str) -> str:
    """Where a public thing is defined, by which the reference knows it; of other values the door.

    `autogrow_jax.growth.grow` would be a file and a function.
    """
    value = inspect.unwrap(getattr(module, name))
    if inspect.isclass(value) or inspect.isfunction(value):
        return f"{value.__module__}.{value.__qualname__}"
    return f"{module.__name__}.{name}"


def _fence(text: str) -> str:
    """A docstring as Markdown: its examples as code."""
    return re.sub(r"((?:^>>> .*\n(?:[^\n]+(?:\n|\Z))*)+)", r"```pycon\n\1\n```\n", text, flags=re.M)


def is_experimental(module: ModuleType, name: str) -> bool:
    """Whether a public thing says so, or the room that it is in."""
    return any(text.startswith(MARK) for text in (module.__doc__ or "", describe(module, name)))


def list_public() -> dict[str, tuple[ModuleType, list[str]]]:
    """Each door's module and its public names."""
    rooms = {door: importlib.import_module(f"{PACKAGE}.{door}") for door in DOORS}
    return {
        door: (module, list(DOORS[door]) or public_names(module)) for door, module in rooms.items()
    }


def _page(door: str) -> str:
    """The file of the page that has a door: that of its room."""
    return f"{door.partition('.')[0]}.md"


def write_page(room: str) -> str:
    """The page of a room in Markdown; what mkdocstrings makes of a line `::: name` is there.

    A thing that two doors offer is described at the first of them.
    """
    lines: list[str] = []
    owners = _owners()
    for door, (module, names) in list_public().items():
        if _page(door) != f"{room}.md":
            continue
        lines += [f"# {PACKAGE}.{door}", "", _fence(inspect.cleandoc(module.__doc__ or "")), ""]
        for name in names:
            value, full = inspect.unwrap(getattr(module, name)), place(module, name)
            if owners[full] != door:
                other = f"[{PACKAGE}.{owners[full]}]({_page(owners[full])}#{full})"
                lines += [f"## `{name}`", "", f"See {other}.", ""]
            elif inspect.isclass(value) or inspect.isfunction(value):
                lines += [f"::: {full}", ""]
            else:
                lines += [f"## `{name}` {{ #{full} }}", "", describe(module, name), ""]
    return "\n".join(lines)


def _owners() -> dict[str, str]:
    """The first door of each public thing, by the place where it is defined."""
    owners: dict[str, str] = {}
    for door, (module, names) in list_public().items():
        for name in names:
            owners.setdefault(place(module, name), door)
    return owners


def write_index() -> str:
    """The page of the package's own door: a line for each name, and all that is experimental."""
    package = importlib.import_module(PACKAGE)
    rooms = list_public()
    owners = _owners()

    def link(module: ModuleType, name: str) -> str:
        """To where it is described; KeyError where it is in no room of the reference."""
        full = place(module, name)
        return f"[`{name}`]({_page(owners[full])}#{full})"

    lines = [f"# {PACKAGE}", "", _fence(inspect.cleandoc(package.__doc__ or "")), ""]
    lines += ["## What the package itself exports", "", "| name | what it is |", "|---|---|"]
    for name in public_names(package):
        value = getattr(package, name)
        first = (inspect.getdoc(value) or "").partition("\n")[0].replace("|", "\\|")
        lines.append(f"| {link(package, name)} | {first} |")
    lines += ["", "## What is experimental", ""]
    lines += [
        "What says so may change with any version. All else that is public keeps its name and its"
        " arguments, or the list of changes says how they changed.",
        "",
    ]
    for door, (module, names) in rooms.items():
        if (module.__doc__ or "").startswith(MARK):
            lines.append(f"- all of [`{PACKAGE}.{door}`]({_page(door)})")
        else:
            marked = [name for name in names if is_experimental(module, name)]
            lines += [f"- {link(module, name)} of `{door}`" for name in marked]
    return "\n".join(lines) + "\n"


def write_pages() -> dict[str, str]:
    """All pages of the reference, by their paths in the site."""
    pages = {f"reference/{_page(door)}": write_page(_page(door)[:-3]) for door in DOORS}
    return {"reference/index.md": write_index(), **pages}


def _outside(text: str, folder: Path) -> list[Path]:
    """Files outside of docs/ that a page in `folder` links to or shows, and that the site takes."""
    found = [Path(os.path.normpath(folder / link)) for link in re.findall(r"\]\(([^)#]+)", text)]
    return [
        path
        for path in found
        if path.suffix in (".md", ".png") and path.is_file() and ROOT / "docs" not in path.parents
    ]


def _take(path: Path, config):
    """A file of the repository, for the site."""
    # Whoever builds no site need not have it.
    from mkdocs.structure.files import File, InclusionLevel

    # A link to it is enough, the menu need not have it.
    how = {"inclusion": InclusionLevel.NOT_IN_NAV}
    name = path.relative_to(ROOT).as_posix()
    return File(name, str(ROOT), config.site_dir, config.use_directory_urls, **how)


def on_files(files, config):
    """Adds the reference, and what pages link to outside of docs/, to mkdocs' files."""
    from mkdocs.structure.files import File

    for name, text in write_pages().items():
        files.append(File.generated(config, name, content=text))
    waiting = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "CHANGELOG.md"]
    files.append(_take(waiting[-1], config))
    while waiting:
        page = waiting.pop()
        for path in _outside(page.read_text(), page.parent):
            name = path.relative_to(ROOT).as_posix()
            if files.get_file_from_path(name) is None:
                files.append(_take(path, config))
                waiting += [path] if path.suffix == ".md" else []
    return files


def on_page_markdown(markdown, page, config, files):
    """Turns links that leave docs/ to where the site has it; of what it lacks the text stays."""
    source = Path(page.file.src_uri)
    if page.file.src_uri.startswith("reference/"):
        return markdown
    inside = (ROOT / "docs" / source).is_file()
    folder = (ROOT / "docs" / source if inside else ROOT / source).parent

    def turn(found: re.Match) -> str:
        text, link = found[1], found[2]
        file, hash_, anchor = link.partition("#")
        target = Path(os.path.normpath(folder / file))
        if not file or "://" in file or not target.exists():
            return found[0]
        base = ROOT / "docs" if ROOT / "docs" in target.parents else ROOT
        name = target.relative_to(base).as_posix()
        if files.get_file_from_path(name) is None:
            return text
        return f"[{text}]({os.path.relpath(name, source.parent)}{hash_}{anchor})"

    return re.sub(r"\[([^\]]*)\]\(([^)\s]+)\)", turn, markdown)
