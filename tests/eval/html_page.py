"""Parses HTML pages into trees. An unbalanced tag is an error."""

import re
from html.parser import HTMLParser

from eval.report import words

# A text that tries to break out of every place in a page.
HOSTILE = "\"><script>alert(1)</script> ' & <b> $x_1$ </style> ]]> --> \u9762"

_VOID = {"meta", "img", "br", "wbr"}


class Element:
    """A tag, its attributes, and its children: elements and texts."""

    def __init__(self, tag, attributes):
        self.tag = tag
        self.attributes = attributes
        self.children = []

    def __iter__(self):
        """Yields all elements inside, in the order of the page."""
        for child in self.children:
            if isinstance(child, Element):
                yield child
                yield from child

    @property
    def text(self):
        """Returns the text inside, with white space as a browser shows it."""
        parts = [child.text if isinstance(child, Element) else child for child in self.children]
        return " ".join("".join(parts).split())

    def find(self, tag, **attributes):
        """Returns all elements inside with this tag and these attributes. `class_` is one class."""
        wanted_class = attributes.pop("class_", None)
        return [
            element
            for element in self
            if element.tag == tag
            and attributes.items() <= element.attributes.items()
            and (wanted_class is None or wanted_class in element.attributes.get("class", "").split())
        ]


class _Parser(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open = [Element("document", {})]

    def handle_starttag(self, tag, attributes):
        element = Element(tag, dict(attributes))
        assert len(element.attributes) == len(attributes), f"an attribute twice: {attributes}"
        self.open[-1].children.append(element)
        if tag not in _VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attributes):
        self.open[-1].children.append(Element(tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open[-1].tag == tag, f"line {self.getpos()[0]}: {self.open[-1].tag} closed by {tag}"
        self.open.pop()

    def handle_data(self, data):
        self.open[-1].children.append(data)


def parse(text):
    """Returns the page as an `Element`."""
    parser = _Parser()
    parser.feed(text)
    parser.close()
    assert len(parser.open) == 1, f"not closed: {parser.open[-1].tag}"
    return parser.open[0]


def rows_of(page, label):
    """Returns the rows of the table with this label: the other cells' texts, by the first cell's text."""
    [table] = page.find("div", **{"aria-label": label})
    rows = [[cell for cell in row if cell.tag in ("th", "td")] for row in table.find("tbody")[0].find("tr")]
    return {row[0].text: [cell.text for cell in row[1:]] for row in rows}


def shown(value, interval=None, digits=None):
    """Returns a number as the tables show it. No space separates it from the interval below it."""
    if value is None:
        return "–"
    digits = words.digits(interval) if digits is None else digits
    text = f"{value:.{digits}f}"
    return text + (f"{interval[0]:.{digits}f}–{interval[1]:.{digits}f}" if interval else "")


def check_stands_alone(page, text):
    ids = [element.attributes["id"] for element in page if "id" in element.attributes]
    assert len(ids) == len(set(ids)) > 0
    for element in page:
        assert element.tag not in ("script", "link", "iframe", "object", "embed", "base", "form")
        for name, value in element.attributes.items():
            assert not name.startswith("on"), name
            if name in ("src", "href", "data", "action", "poster", "background"):
                assert value.startswith("data:image/jpeg;base64,") or value.removeprefix("#") in ids, value
            for target in re.findall(r"url\((.*?)\)", value):
                assert target.removeprefix("#") in ids, target
    assert "http://" not in text
    assert "https://" not in text
    assert "@import" not in text
    assert not re.findall(r"url\((?!data:image/jpeg;base64,)", page.find("style")[0].text)
    [policy] = page.find("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy.attributes["content"] == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
