import base64
import dataclasses
import json

import pytest

from eval.identify.page import clock, identify_page, write_page
from eval.identify.results import UNKNOWN, tracks_json, write_tracks
from tests.eval.fake_identify_run import make_identify_run
from tests.eval.html_page import HOSTILE, check_stands_alone, parse, rows_of


@pytest.fixture(scope="module")
def run():
    return make_identify_run()


@pytest.fixture(scope="module")
def text(run):
    return identify_page(run)


@pytest.fixture(scope="module")
def page(text):
    return parse(text)


def named(run):
    return [(source, track) for source in run.sources for track in source.named]


def test_the_page_needs_no_other_file(page, text):
    check_stands_alone(page, text)


def test_people_are_listed(run, page):
    rows = rows_of(page, "People found")
    assert list(rows)[-1] == UNKNOWN
    for name, (tracks, _, similarities, sources) in rows.items():
        own = [(source, track) for source, track in named(run) if track.name == name]
        assert tracks == str(len(own))
        for source, _ in own:
            assert source.path.name in sources
        assert f"{max(track.matches[0].similarity for _, track in own):.3f}" in similarities


def test_tracks_are_listed(run, page):
    cards = {card.attributes["id"]: card for card in page.find("article")}
    for place, source in enumerate(run.sources, 1):
        for track in source.tracks:
            card = cards[f"track-{place}-{track.number}"]
            pictures = [image.attributes["src"].partition(",")[2] for image in card.find("img")]
            assert [base64.b64decode(picture) for picture in pictures] == [face.jpeg for face in track.faces]
            matches = [
                (item.find("span", class_="who")[0].text, item.find("span", class_="number")[0].text)
                for item in card.find("li")
            ]
            assert matches == [(match.name, f"{match.similarity:.3f}") for match in track.matches]
            below = [item for item in card.find("li") if "below" in item.attributes["class"]]
            assert len(below) == sum(match.similarity < run.threshold.value for match in track.matches)
            assert card.find("h4")[0].find("span")[1].text == (track.name or "rejected")
            assert (track.rejected or "") in card.text
            if track.name:
                assert f"{len(track.rejected_faces)} face" in card.text and "a flaw" in card.text


def test_the_faces_of_people_are_in_the_page_once(run, text):
    for person in run.people:
        assert text.count(base64.b64encode(person.face).decode()) == 1


def test_time_lines_show_when_people_are_seen(run, page):
    for place, source in enumerate(run.sources[:3], 1):
        section = page.find("div", id=f"source-{place}")[0]
        lanes = [lane for lane in section.find("div", class_="lane") if lane.find("a")]
        assert [lane.find("span")[0].text for lane in lanes][-2:] == [UNKNOWN, "rejected"]
        for track in source.tracks:
            [link] = section.find("a", href=f"#track-{place}-{track.number}")
            style = dict(part.split(": ") for part in link.attributes["style"].split("; "))
            left, width = (float(style[name].rstrip("%")) for name in ("left", "width"))
            assert abs(left - 100 * track.start / source.duration) < 0.1
            assert abs(left + width - 100 * track.end / source.duration) < 0.1


def test_errors_notes_and_reasons_are_shown(run, page):
    for number, source in enumerate(run.sources, 1):
        text = page.find("div", id=f"source-{number}")[0].text
        assert (source.error or "") in text
        assert all(note in text for note in source.notes)
    threshold = page.find("section", id="threshold")[0].text
    assert run.threshold.reasons[0] in threshold and "0.450" in threshold
    assert run.warnings[0] in page.find("section", id="gallery")[0].text


def test_texts_are_escaped():
    run = make_identify_run((HOSTILE, "B"), 1, prefix=HOSTILE.replace("/", ""), text=HOSTILE.replace("/", ""))
    text = identify_page(run)
    page = parse(text)
    check_stands_alone(page, text)
    assert page.find("section", id="gallery")[0].find("b")[0].text == " ".join(HOSTILE.split())


def test_long_sources_have_a_short_page(run):
    """The page shows the longest tracks; the others are in tracks.json."""
    source = run.sources[0]
    tracks = tuple(
        dataclasses.replace(source.tracks[0], number=number, frames_used=number, faces=())
        for number in range(1, 101)
    )
    many = dataclasses.replace(run, sources=(dataclasses.replace(source, tracks=tracks),))
    text = identify_page(many)
    page = parse(text)
    check_stands_alone(page, text)
    assert [card.attributes["id"] for card in page.find("article")] == [
        f"track-1-{n}" for n in range(61, 101)
    ]
    assert "60 shorter tracks" in page.find("div", id="source-1")[0].text
    assert len(tracks_json(many)["tracks"]) == 100


def test_a_page_without_people_says_so(run):
    empty = dataclasses.replace(run, sources=run.sources[-1:])
    assert parse(identify_page(empty)).find("h1")[0].text == "Nobody found in 1 source"


def test_names_that_are_not_utf8_are_shown(run, tmp_path):
    odd = dataclasses.replace(run, command="a\udcff")
    write_page(odd, tmp_path / "index.html")
    write_tracks(odd, tmp_path / "tracks.json")
    assert json.loads((tmp_path / "tracks.json").read_text())["command"] == "a\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0:00.0"), (59.96, "1:00.0"), (3.42, "0:03.4"), (3723, "1:02:03.0")]
)
def test_times_are_shown_as_on_a_clock(seconds, shown):
    assert clock(seconds) == shown
