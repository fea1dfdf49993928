from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unlabeled.data.index import index_scans
from unlabeled.errors import DataError


@pytest.fixture
def scans(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    for name in ("a", "b", "c"):
        Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(folder / f"{name}.png")
    return folder


def write(folder: Path, text: str | bytes, name: str = "scans.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def only_reason(index):
    (row,) = index.quarantine
    return row.reason


def test_every_column_is_read(scans):
    (scans / "note.txt").write_text("clear lungs")
    text = (
        "image,subject,study,time,modality,split,mask,label,target,report,level,boxes,frame\n"
        "a.png;b.png,p1,v1,3.5,T1;T2,train,c.png,ill,0.25,note.txt,L4,1 2 3 4,0\n"
    )
    (source,) = index_scans(write(scans, text)).sources
    assert [file.path.name for file in source.channels] == ["a.png", "b.png"]
    assert (source.name, source.subject, source.study) == ("a.png;b.png#0", "p1", "p1/v1")
    assert (source.time, source.modality, source.split) == (3.5, "T1;T2", "train")
    assert source.mask is not None
    assert source.mask.path == scans / "c.png"
    assert (source.label, source.target, source.report) == ("ill", 0.25, "clear lungs")
    assert (source.level, source.boxes, source.frame) == ("L4", "1 2 3 4", 0)


def test_a_family_is_read_and_kept_together(scans):
    text = "image,subject,family\na.png,p1,f1\nb.png,p2,f1\nc.png,p3,\n"
    sources = index_scans(write(scans, text)).sources
    assert [source.family for source in sources] == ["f1", "f1", ""]
    assert [source.subject for source in sources] == ["p1", "p2", "p3"]
    assert sources[0].kin == sources[1].kin
    assert sources[2].kin == "p3"
    (alone,) = index_scans(write(scans, "image,subject\na.png,f1\n")).sources
    assert alone.kin != sources[0].kin, "a subject of the same name is nobody's relative"


def test_positions_are_three_numbers_or_nine(scans):
    text = 'image,position\na.png,1 2 -3.5\nb.png,"0,0;0 4,0,0 0,0,3"\nc.png,1 2\n'
    index = index_scans(write(scans, text))
    assert [source.position for source in index.sources] == [
        (1.0, 2.0, -3.5),
        (0.0, 0.0, 0.0, 4.0, 0.0, 0.0, 0.0, 0.0, 3.0),
    ]
    (row,) = index.quarantine
    assert "neither three numbers nor nine" in row.reason
    assert "ox oy oz" in row.remedy


def test_jsonl_and_parquet_say_the_same_as_csv(scans):
    rows = [
        {"image": ["a.png", "b.png"], "target": 2, "subject": "p"},
        {"image": "c.png", "subject": "q"},
    ]
    table = write(scans, "image,target,subject\na.png;b.png,2,p\nc.png,,q\n")
    lines = write(scans, "\n".join(map(json.dumps, rows)), "scans.jsonl")
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {"image": ["a.png;b.png", "c.png"], "target": [2.0, None], "subject": ["p", "q"]}
    parquet.write_table(pyarrow.table(columns), scans / "scans.parquet")
    expected = index_scans(table).sources
    assert index_scans(lines).sources == expected
    assert index_scans(scans / "scans.parquet").sources == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "path,subject\na.png,p\n",
            r"no column `image`; its columns are 'path', 'subject'\s+Rename",
        ),
        ("", "is empty"),
        ("image,subject\n", "no rows"),
        ("image;subject\na.png;p\n", "by semicolons"),
        ("image\tsubject\na.png\tp\n", "by tabs"),
        ("image,image\na.png,b.png\n", "more than once"),
        (
            "image,subject\na.png,p,q\nb.png,p,q,r\n",
            "line 2 has 3 cells for 2 columns; line 3 has 4",
        ),
        ('image,report\na.png,"never closed\n', "line "),
        ("image,subject\na.png,größe\n".encode("latin1"), "is not UTF-8"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_clear_error(scans, text, says):
    with pytest.raises(DataError, match=says):
        index_scans(write(scans, text))


@pytest.mark.parametrize(
    ("text", "says"),
    [("{\n[1]\n", "line 1 is no JSON; line 2 is no object"), ('{"path": "a.png"}', "no column")],
)
def test_broken_jsonl_names_its_lines(scans, text, says):
    with pytest.raises(DataError, match=says):
        index_scans(write(scans, text, "scans.jsonl"))


def test_broken_parquet_is_named(scans):
    pytest.importorskip("pyarrow")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        index_scans(write(scans, "no table", "scans.parquet"))


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("absent.png,p,,,", "line 3 names the image absent.png, which does not exist"),
        (",p,,,", "line 3 has no image"),
        ("b.png;,p,,,", "empty path between semicolons"),
        ("b.png;b.png,p,,,", "one image twice"),
        ("a.png,q,,,", "repeats line 2, with another subject"),
        ("./a.png,p,,,", "repeats line 2"),
        ("b.png,p,later,,", "time 'later', which is no number"),
        ("b.png,p,,inf,", "target 'inf', which is no number"),
        ("b.png,p,,,absent.png", "names the mask absent.png, which does not exist"),
        ("scans.csv,p,,,", "of no known scan format"),
        (".,p,,,", "a folder without a usable DICOM series"),
        ("x" * 5000 + ".png,p,,,", "which"),
    ],
)
def test_a_faulty_row_is_left_out_by_line_and_the_rest_goes_on(scans, row, says):
    index = index_scans(write(scans, f"image,subject,time,target,mask\na.png,p,,,\n{row}\n"))
    assert [source.name for source in index.sources] == ["a.png"]
    assert says in only_reason(index)


def test_all_faults_are_named_at_once_when_nothing_is_left(scans):
    with pytest.raises(DataError) as error:
        index_scans(write(scans, "image\nx.png\ny.png\n"))
    assert "2 files are left out" in str(error.value)
    assert "x.png" in str(error.value)
    assert "y.png" in str(error.value)


def test_frames_make_scans_of_their_own(scans):
    index = index_scans(write(scans, "image,frame\na.png,0\na.png,1\na.png,1.5\na.png,-1\n"))
    assert [source.name for source in index.sources] == ["a.png#0", "a.png#1"]
    assert len(index.quarantine) == 2


def test_unknown_columns_are_noted_with_the_nearest_known(scans):
    notes = index_scans(write(scans, "image,Subjects,age\na.png,p,60\n")).notes
    assert "column 'Subjects' of scans.csv is not read (did you mean subject?)" in notes
    assert "column 'age' of scans.csv is not read" in notes


def test_paths_outside_the_folder_are_allowed_and_noted(scans):
    (scans.parent / "other.png").write_bytes((scans / "a.png").read_bytes())
    index = index_scans(write(scans, "image\na.png\n../other.png\n"))
    assert len(index.sources) == 2
    assert index.notes == ("1 rows name images outside the folder of scans.csv",)


def test_subjects_come_from_folders_where_no_column_says(scans):
    for name in ("p1", "p2"):
        (scans / name).mkdir()
        (scans / name / "t1.png").write_bytes((scans / "a.png").read_bytes())
    index = index_scans(write(scans, "image\np1/t1.png\np2/t1.png\na.png\n"))
    assert index.subjects == ("a", "p1", "p2")
    assert "first folder" in index.rule


def test_a_modality_for_every_image(scans):
    index = index_scans(write(scans, "image,modality\na.png;b.png,T1;T2;FLAIR\nc.png,T1\n"))
    assert "3 modalities for 2 images" in only_reason(index)


def test_reports_that_are_absent_are_named_and_texts_are_kept(scans):
    index = index_scans(
        write(scans, "image,report\na.png,gone.txt\nb.png,No finding in file.txt\n")
    )
    assert "names the report gone.txt" in only_reason(index)
    assert index.sources[0].report == "No finding in file.txt"


def test_labelled_needs_a_column_and_a_cell(scans):
    with pytest.raises(DataError, match="has no labels; its columns are 'image'"):
        index_scans(write(scans, "image\na.png\n"), labelled=True)
    index = index_scans(write(scans, "image,label\na.png,ill\nb.png,\n"), labelled=True)
    assert [source.label for source in index.sources] == ["ill"]
    assert "neither mask, label nor target" in only_reason(index)


def test_byte_order_marks_blank_lines_and_spaces_do_no_harm(scans):
    index = index_scans(write(scans, "\ufeff image , subject \n a.png , p \n\n,\n"))
    assert index.subjects == ("p",)
