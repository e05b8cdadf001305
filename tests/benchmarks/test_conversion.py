from benchmarks.conversion import main, write_faces
from dataset.images import check_image
from dataset.sources.insightface_rec import InsightFaceRec


def test_faces_have_the_file_size_of_ms1m(tmp_path):
    rec = InsightFaceRec(write_faces(tmp_path / "faces", 70))
    assert rec.num_images == 70 and rec.num_identities == 2 and rec.image_size == (112, 112)
    images = [rec.read(i)[0] for i in range(70)]
    assert {check_image(image) for image in images} == {(112, 112)}
    assert 5000 < sum(map(len, images)) / 70 < 7000
    assert len(set(images)) == 70


def test_each_kind_of_check_has_a_row(tmp_path, capsys):
    main(["--images", "20", "--rounds", "1", "--workers", "1", "--folder", str(tmp_path)])
    rows = [line for line in capsys.readouterr().out.splitlines() if "dataset.convert" in line]
    assert [line.split()[3] for line in rows] == ["header`,", "full`,"]
    assert not list(tmp_path.iterdir())
