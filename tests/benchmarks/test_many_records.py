from benchmarks.many_records import WAYS, main


def test_every_part_has_four_rows(capsys):
    main(["--records", "3000", "--identities", "500", "--batches", "20", "--batch_size", "16"])
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if "3,000 records" in line]
    assert len(rows) == 4 * len(WAYS)
    assert [row[2] for row in rows[:4]] == ["s", "MB", "ms", "ms"]
    assert all(float(row[3].replace(",", "")) > 0 for row in rows)
