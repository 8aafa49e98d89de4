"""The plain-text table of an evaluation."""

from __future__ import annotations

from dataclasses import replace

from singleshot.metrics import evaluate, format_table

BOX, FAR = [0, 0, 10, 10], [50, 50, 60, 60]


def lines_of(metric, names):
    detections = [([BOX, FAR, FAR], [0.75, 0.5, 0.25], [0, 1, 1])]
    truth = [([BOX, BOX], [0, 1])]
    return format_table(evaluate(detections, truth, metric, names)).splitlines()


def test_rows_of_classes_and_their_mean():
    head, rule, first, second, unseen, _, mean = lines_of("voc07", ["cell", "platelet", "unseen"])
    assert head.split() == ["class", "AP", "objects", "found", "precision", "recall", "F1", "score"]
    assert set(rule) == {"-"}
    assert first.split() == ["cell", "1.000", "1", "1", "1.000", "1.000", "1.000", "0.750"]
    assert second.split() == ["platelet", "0.000", "1", "2", "0.000", "0.000", "0.000", "0.500"]
    assert unseen.split() == ["unseen", "-", "0", "0", "-", "-", "-", "-"]
    assert mean.split() == ["mean", "0.500", "2", "3", "0.500", "0.500", "0.500"]


def test_coco_adds_ap50_and_its_figures():
    lines = lines_of("coco", ["a", "b"])
    assert lines[0].split()[1:3] == ["AP", "AP50"]
    assert lines[2].split()[:3] == ["a", "1.000", "1.000"]
    assert lines[5].split()[:3] == ["mean", "0.500", "0.500"]
    assert lines[-1].startswith("AP 0.500  AP50 0.500  AP75 0.500  APs 0.500  APm -  ")


def test_names_stay_on_their_line_and_columns_stay_aligned():
    lines = lines_of("voc", ["two\nlines", "血小板", "c"])
    assert len(lines) == 7
    assert "two\\nlines" in lines[2]
    end = lines[0].index("AP") + 2
    assert lines[2][:end].endswith("1.000")
    # Three wide characters take six columns.
    assert lines[3][: end - 3].endswith("0.000")


def test_objects_of_a_class_that_is_not_measured_are_not_in_the_mean():
    found = evaluate([([BOX], [0.75], [0])], [([BOX, FAR], [0, 1])], "voc", ["cell", "platelet"])
    cell, platelet = found.per_class
    unknown = replace(platelet, ap=float("nan"))  # as of a class of the data that the model does not have
    found = replace(found, per_class=(cell, unknown))
    assert found.measured_truths == 1
    assert format_table(found).splitlines()[-1].split()[2] == "1"


def test_no_classes():
    assert format_table(evaluate([], [])).splitlines()[-1].split() == ["mean", "-", "0", "0", "-", "-", "-"]
