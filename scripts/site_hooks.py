"""Hooks of mkdocs: pages outside of docs/ are part of the site, and links lead to where their targets are on it."""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
# By their paths in the repository, the names that they have on the site.
OUTSIDE = {
    "README.md": "readme.md",
    "ARCHITECTURE.md": "architecture.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "python/README.md": "python-package.md",
}
NAMES = {name: path for path, name in OUTSIDE.items()}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
FENCED = re.compile(r"(^```.*?^```[^\S\n]*$)", re.DOTALL | re.MULTILINE)


def on_files(files, config):
    for path, name in OUTSIDE.items():
        files.append(File.generated(config, name, content=(ROOT / path).read_text()))
    return files


def on_page_markdown(markdown, page, config, files):
    uri = page.file.src_uri
    here = NAMES.get(uri, f"docs/{uri}")
    parts = FENCED.split(markdown)
    # Every second part is a block of code.
    parts[::2] = [LINK.sub(lambda link: moved(link, here, uri), part) for part in parts[::2]]
    return "".join(parts)


def moved(link, here, uri):
    """A link of the file `here` of the repository, as the page `uri` of the site has it: text alone, if its target is not there."""
    image, text, address = link.groups()
    if re.match(r"[a-z]+:|#", address):
        return link[0]
    target, mark, anchor = address.partition("#")
    path = posixpath.normpath(posixpath.join(posixpath.dirname(here), target))
    is_on_site = path in OUTSIDE or (path.startswith("docs/") and not (ROOT / path).is_dir())
    if not is_on_site and (ROOT / path).exists():
        return text
    name = OUTSIDE.get(path) or path.removeprefix("docs/")
    return f"{image}[{text}]({posixpath.relpath(name, posixpath.dirname(uri) or '.')}{mark}{anchor})"
