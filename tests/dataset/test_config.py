import configparser
from pathlib import Path

import pytest

from dataset.config import LfwConfig, SourceConfig, YtfConfig, read_config

EXAMPLE = Path(__file__).parents[2] / "config.ini.example"
# Sections and keys of the original's config.ini.
ORIGINAL = {
    "lfw": ("enable", "npdata", "pairs", "prefix"),
    "ytf": ("enable", "pairs", "prefix", "splits", "ytf_error"),
    "WebFace": ("train_list", "prefix"),
    "ms1m": ("mxrec",),
    "vgg": ("mxrec",),
}
RECORDS = "[records]\ntfrecords = records\n"
# Name of the test: (text, parts of the message).
ERRORS = {
    "a key of lfw": ("[lfw]\nenabel = true", "[lfw] enabel is not a known key. Did you mean enable?"),
    "a key of ytf": ("[ytf]\nytf_eror = x", "[ytf] ytf_eror is not a known key. Did you mean ytf_error?"),
    "upper case": ("[lfw]\nPairs = x", "[lfw] Pairs is not a known key. Did you mean pairs?"),
    "nothing like it": ("[lfw]\ncolour = x", "[lfw] colour", "Known keys: enable, npdata, npdata_order"),
    "a key of a source": ("[a]\nmxrec = x\nprefx = y", "[a] prefx is not a known key.", "mean prefix?"),
    "a source's only key": ("[a]\nmxrecc = x", "[a] is neither", "Did you mean mxrec?"),
    "a source's second key": ("[a]\nprefix = x\ntrainlist = y", "Did you mean train_list?"),
    "a section": ("[lwf]\nenable = true", "[lwf] is neither one of", "Did you mean lfw?"),
    "an empty section": ("[a]", "[a] is neither one of records, lfw, ytf nor a source"),
    "a key of records": ("records = x", "[records] records is not a known key. Did you mean tfrecords?"),
    "two kinds": ("[a]\nmxrec = x\ntfrecord = y", "[a] has the keys mxrec, tfrecord. Keep one of them."),
    "a folder outside": ("[../a]\nmxrec = x", "[../a] is not a valid name. Use only letters"),
    "no npdata": ("[lfw]\nenable = true\npairs = x", "[lfw] npdata is missing. Set it, or set enable"),
    "no pairs": ("[ytf]\nenable = true\nprefix = x", "[ytf] pairs is missing."),
    "no prefix": ("[ytf]\nenable = true\npairs = x", "[ytf] prefix is missing."),
    "switch": ("[lfw]\nenable = maybe", "[lfw] enable is maybe. Give one of 1, yes"),
    "order": ("[lfw]\nnpdata_order = rbg", "[lfw] npdata_order is rbg. Give one of rgb, bgr."),
    "empty": ("[a]\nmxrec =", "[a] mxrec has no value."),
    "empty switch": ("[lfw]\nenable = ;true", "[lfw] enable has no value."),
    "no value": ("[a]\nmxrec", "not a readable configuration", "mxrec"),
    "twice": ("[a]\nmxrec = x\nmxrec = y", "not a readable configuration", "'mxrec'", "'a'"),
    "section twice": ("[a]\nmxrec = x\n[a]\nmxrec = y", "not a readable configuration", "'a'"),
}


@pytest.fixture
def write(tmp_path):
    """Writes a config.ini, by default with the required section, and returns its path."""

    def write(text, records=RECORDS):
        path = tmp_path / "config.ini"
        path.write_text(records + text)
        return path

    return write


def test_the_example_has_all_keys_of_the_original():
    parser = configparser.ConfigParser()
    parser.optionxform = str
    parser.read(EXAMPLE)
    for section, keys in ORIGINAL.items():
        assert set(keys) <= set(parser[section]), section


def test_the_example_is_valid():
    config = read_config(EXAMPLE)
    here = EXAMPLE.parent
    assert config.path == EXAMPLE
    assert config.tfrecords == here / "dataset/tfrecords"
    assert config.sources == {
        "vgg": SourceConfig("vgg", "mxrec", here / "data/faces_vgg_112x112"),
        "ms1m": SourceConfig("ms1m", "mxrec", here / "data/faces_ms1m_112x112"),
        "WebFace": SourceConfig(
            "WebFace",
            "train_list",
            here / "data/webface/train_list.txt",
            prefix=here / "data/webface/112x112",
        ),
    }
    assert config.source("ms1m") is config.sources["ms1m"]
    lfw = here / "data/lfw"
    assert config.lfw == LfwConfig(True, here / "data/lfw.np", "rgb", lfw / "pairs.txt", lfw / "112x112")
    ytf = here / "data/ytf"
    assert config.ytf == YtfConfig(
        False,
        ytf / "ytf_img_pair.txt",
        ytf / "112x112",
        ytf / "splits_corrected.txt",
        here / "dataset/ytf-error.txt",
    )
    assert YtfConfig().ytf_error == config.ytf.ytf_error


def test_only_the_records_section_is_required(write):
    config = read_config(str(write("")))
    assert (config.sources, config.lfw, config.ytf) == ({}, LfwConfig(), YtfConfig())


def test_relative_paths_start_at_the_file(write, tmp_path, monkeypatch):
    path = write(f"[a]\nmxrec = data/a\n[b]\ntfrecord = {tmp_path}/b\n[c]\nmxrec = ~/c\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("HOME", "/home/someone")
    config = read_config("../config.ini")
    assert config.tfrecords.resolve() == path.parent / "records"
    assert config.source("a").path.resolve() == path.parent / "data/a"
    assert config.source("b").path == tmp_path / "b"
    assert config.source("c").path == Path("/home/someone/c")


@pytest.mark.parametrize("word, value", [("true", 1), ("Yes", 1), ("on", 1), ("1", 1), ("OFF", 0), ("no", 0)])
def test_switches_accept_several_words(write, word, value):
    assert read_config(write(f"[lfw]\nenable = {word}\nnpdata = x\n")).lfw.enable is bool(value)


def test_values_are_literal_and_remarks_are_removed(write, tmp_path):
    config = read_config(
        write("[lfw]\n; a remark\nnpdata = 100%/%(x)s=#1.np ; and another\nnpdata_order = BGR\n")
    )
    assert config.lfw == LfwConfig(npdata=tmp_path / "100%/%(x)s=#1.np", npdata_order="bgr")


@pytest.mark.parametrize("case", ERRORS.values(), ids=ERRORS)
def test_errors_name_section_and_key(write, case):
    text, *parts = case
    path = write(text)
    with pytest.raises(ValueError) as error:
        read_config(path)
    for part in (str(path), *parts):
        assert part in str(error.value)


def test_all_errors_are_listed(write):
    path = write("[lfw]\nenable = perhaps\nnpdat = x\n[a]\nmxrec =\n[b]\nprefix = y\n", "[records]\n")
    with pytest.raises(ValueError) as error:
        read_config(path)
    lines = str(error.value).splitlines()
    expected = ["[a] mxrec", "[b]", "[records] tfrecords", "[lfw] enable", "[lfw] npdat"]
    for line, place in zip(lines, expected, strict=True):
        assert line.startswith(f"{path}, {place} ")


def test_a_folder_is_not_a_config(tmp_path):
    with pytest.raises(IsADirectoryError, match=str(tmp_path / "config.ini")):
        read_config(tmp_path)


@pytest.mark.parametrize("records", ["", "[records]\n", "[a]\nmxrec = x\n"])
def test_the_records_section_is_required(write, records):
    with pytest.raises(ValueError, match=r"\[records\] tfrecords is missing"):
        read_config(write("", records))


def test_a_misspelt_records_section_is_suggested(write):
    with pytest.raises(ValueError, match=r"\[record\].* records\?"):
        read_config(write("", "[record]\ntfrecords = x\n"))


def test_a_file_that_is_not_a_config_is_an_error(write):
    with pytest.raises(ValueError, match=r"config.ini: "):
        read_config(write("", "tfrecords = x\n"))
    path = write("")
    path.write_bytes(RECORDS.encode() + b"[lfw]\nnpdata = \xff\xfe\n")
    with pytest.raises(ValueError, match=r"config.ini: "):
        read_config(path)


@pytest.mark.parametrize(
    "text",
    [
        "x" * 10**6,
        "[records]\n" + "x\n" * 10**4,
        f"[{'x' * 10**6}]\n",
        "[records]\n" + "".join(f"k{i} = 1\n" for i in range(999)),
    ],
)
def test_errors_are_short(write, text):
    path = write("", text)
    with pytest.raises(ValueError, match=r"config\.ini") as error:
        read_config(path)
    assert len(str(error.value)) < 3000 + 20 * len(str(path))


def test_an_unknown_user_in_a_path_is_an_error(write):
    path = write("", "[records]\ntfrecords = ~nosuchuser/records\n")
    with pytest.raises(ValueError, match=r"config\.ini, \[records\] tfrecords is ~nosuchuser"):
        read_config(path)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.ini: .*config\.ini\.example"):
        read_config(tmp_path / "config.ini")


def test_an_unknown_source_is_an_error(write):
    with pytest.raises(ValueError, match=r"\[c\].*: a, b"):
        read_config(write("[a]\nmxrec = x\n[b]\nmxrec = x\n")).source("c")
    with pytest.raises(ValueError, match=": none"):
        read_config(write("")).source("c")
