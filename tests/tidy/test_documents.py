"""Links in documents lead somewhere, and no file speaks of the machine it was written on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tests.tidy.source import ROOT, project_files

# Classes with one letter keep these lines from matching themselves.
PRIVATE = {
    "a path of one machine": re.compile(r"/(?:wor[k]|roo[t]|hom[e]/\w+|User[s]/\w+)/"),
    "an address of a private network": re.compile(
        r"(?<![\d.])(?:10(?:\.\d{1,3}){3}|192\.168(?:\.\d{1,3}){2}|172\.(?:1[6-9]|2\d|3[01])(?:\.\d{1,3}){2})(?![\d.])"
    ),
    "a package registry": re.compile(r"pypi[.]org|pythonhosted[.]org|registry[.]npmjs|proxy[.]golang|deb[.]debian|inde[x]-url\s*=", re.I),
}
BINARY = {".png", ".ico", ".woff2"}


def test_links_lead_somewhere() -> None:
    documents = [file for file in project_files() if file.suffix == ".md"]
    assert documents
    broken = [f"{file}: {link}" for file in documents for link in _links(file) if not _resolves(file, link)]
    assert not broken, "broken links:\n" + "\n".join(broken)


def test_no_file_speaks_of_this_machine() -> None:
    wrong: list[str] = []
    for file in project_files():
        if file.suffix in BINARY:
            continue
        for number, line in enumerate((ROOT / file).read_text(encoding="utf-8").splitlines(), 1):
            wrong += [f"{file}:{number}: {what}: {line.strip()[:100]}" for what, pattern in PRIVATE.items() if pattern.search(line)]
    assert not wrong, "\n".join(wrong)


def test_the_patterns_themselves() -> None:
    for text in ("cd /" + "work/main", "/" + "home/me/x", "http://10." + "1.2.3:80", "192." + "168.0.1", "https://pypi" + ".org/simple"):
        assert any(pattern.search(text) for pattern in PRIVATE.values()), text
    for text in ("127.0.0.1:7233", "0.0.0.0", "1.10.0.1.2", "docs/work.md", "/work", "version 10.2.3"):
        assert not any(pattern.search(text) for pattern in PRIVATE.values()), text


def _links(file: Path) -> Iterator[str]:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", (ROOT / file).read_text(encoding="utf-8"), flags=re.S)
    for link in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", text):
        if not link.startswith(("http://", "https://", "mailto:")):
            yield link


def _resolves(file: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = (ROOT / file).parent / path if path else ROOT / file
    if not target.exists() or not target.resolve().is_relative_to(ROOT):
        return False
    return not anchor or anchor in _anchors(target)


def _anchors(document: Path) -> set[str]:
    """The anchors that GitHub makes of headings."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
