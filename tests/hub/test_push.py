"""`singleshot push`: what arrives at the hub, and what its card says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

import singleshot
from singleshot.api.push import push, read_description
from singleshot.errors import CheckpointError, ConfigError
from singleshot.report.model_card import data_name


def card_of(fake_hub, repo: str) -> tuple[dict, str]:
    text = fake_hub.repos[repo][fake_hub.main(repo)]["README.md"].decode()
    _, head, body = text.split("---\n", 2)
    return yaml.safe_load(head), body


@pytest.mark.parametrize("large", [False, True])
def test_a_run_is_brought_and_loaded_again(fake_hub, model, command, large, image) -> None:
    fake_hub.large = {"best.safetensors"} if large else set()
    code, out, error = command("push", model.parent, "hf://me/fruit", "--licence", "apache-2.0", "--json")
    assert (code, error) == (0, ""), error
    commit = fake_hub.main("me/fruit")
    assert json.loads(out) == {
        "model": f"hf://me/fruit/best.safetensors@{commit}",
        "files": ["best.safetensors", "README.md"],
        "url": f"{fake_hub.address}/me/fruit/commit/{commit}",
        "card": True,
    }
    assert fake_hub.repos["me/fruit"][commit]["best.safetensors"] == model.read_bytes()
    assert singleshot.load("hf://me/fruit").detect(image).width == 80


def test_the_card_says_what_is_known_and_nothing_else(fake_hub, model, command) -> None:
    code, out, error = command("push", model, "hf://me/fruit", "--licence", "apache-2.0")
    assert (code, error) == (0, ""), error
    assert out == f"pushed: hf://me/fruit/best.safetensors@{fake_hub.main('me/fruit')}\n"
    head, body = card_of(fake_hub, "me/fruit")
    assert head["license"] == "apache-2.0"
    assert head["pipeline_tag"] == "object-detection"
    (result,) = head["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "map", "name": "mAP50", "value": 0.75}]
    assert result["dataset"] == {"name": "fruit", "type": "fruit", "split": "val"}
    for line in ("| Network | ssd320-mini |", "| Data | fruit (train) |", "| Recipe | finetune |", "| Seed | 7 |",
                 "| Trained for | 3 epochs, 60 steps |", "mAP50 on fruit (val), 9 images: 0.7500.",
                 "| apple | 0.7500 | 12 |"):  # fmt: skip
        assert line in body, line
    assert "/home/somebody" not in body
    assert "None" not in body
    assert "pear\\|\\`&lt;b&gt;\\`" in body  # a stranger's name, as text
    assert "<b>" not in body
    assert "Started from" not in body  # from scratch
    assert "| pear" not in body  # without an object there is no AP


def test_without_a_run_the_file_alone_speaks_and_no_licence_is_made_up(fake_hub, model, command, tmp_path) -> None:
    shutil.copy(model, tmp_path / "alone.safetensors")
    code, _, error = command("push", tmp_path / "alone.safetensors", "hf://me/alone")
    assert code == 0
    assert error == "its card states no licence; --licence names one\n"
    head, body = card_of(fake_hub, "me/alone")
    assert "license" not in head
    assert "model-index" not in head  # measured on data that the file does not name
    assert "mAP50 in the validation of its training: 0.5000." in body
    assert "| Data | fruit |" in body
    assert "Recipe" not in body


def test_an_exported_file_comes_with_what_belongs_to_it(fake_hub, model, tmp_path) -> None:
    pytest.importorskip("onnx")
    from onnx import helper

    info = read_description(model).exported(raw=False)
    graph = helper.make_model(helper.make_graph([], "nothing", [], []))
    helper.set_model_props(graph, {"singleshot": info.to_json()})
    path = tmp_path / "m.onnx"
    path.write_bytes(graph.SerializeToString())
    (tmp_path / "m.json").write_text("{}")
    done = push(path, "hf://me/exported")
    assert done.files == ("m.onnx", "m.json", "README.md")
    assert "of the checkpoint that it was exported from in the validation" in card_of(fake_hub, "me/exported")[1]
    assert read_description(path).class_names == info.class_names


def test_a_card_that_is_there_stays_unless_it_is_to_be_replaced(fake_hub, model, command) -> None:
    fake_hub.put("me/fruit", README__md=b"by hand")
    code, _, error = command("push", model, "hf://me/fruit")
    assert (code, error) == (0, "its README.md is there already and stays; --replace-card writes it anew\n")
    assert fake_hub.repos["me/fruit"][fake_hub.main("me/fruit")]["README.md"] == b"by hand"
    assert command("push", model, "hf://me/fruit", "--replace-card", "--quiet")[0] == 0
    assert card_of(fake_hub, "me/fruit")[0]["library_name"] == "singleshot"


def test_private_is_asked_for_and_a_wrong_token_is_said_without_it(fake_hub, model, command, monkeypatch) -> None:
    assert command("push", model, "hf://me/own", "--private", "--quiet")[0] == 0
    assert fake_hub.private == {"me/own"}
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    code, _, error = command("push", model, "hf://me/other")
    assert code == 2
    assert error == (
        "singleshot: hf://me/other: the hub wants a token that may do that: set HF_TOKEN, or log in with"
        " `hf auth login`\n"
    )


def test_what_is_no_model_or_no_place_is_refused_before_the_hub_is_asked(fake_hub, model, tmp_path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(1)}, tmp_path / "foreign.safetensors")
    (tmp_path / "broken.onnx").write_bytes(b"junk")
    (tmp_path / "a b.onnx").write_bytes(b"junk")
    wrong = {
        (model, "me/fruit"): r"^me/fruit: where to\? Want hf://OWNER/NAME",
        (model, "hf://me/fruit/a.onnx"): r"^hf://me/fruit/a.onnx: a file is called there as here; want hf://me/fruit$",
        (tmp_path, "hf://me/x"): "no run with a best.safetensors; give a model file",
        (tmp_path / "x.pth", "hf://me/x"): "x.pth: want .safetensors, .onnx, .xml, .tflite; `singleshot import`",
        (tmp_path / "x.onnx", "hf://me/x"): "x.onnx: no such file",
        (tmp_path / "a b.onnx", "hf://me/x"): "want a name of letters, digits, dots, dashes and underscores",
        (tmp_path / "foreign.safetensors", "hf://me/x"): "no model of singleshot's, it has no description",
        (tmp_path / "broken.onnx", "hf://me/x"): "not an ONNX file",
    }
    for (path, to), why in wrong.items():
        with pytest.raises((ConfigError, CheckpointError), match=why):
            push(path, to)
    with pytest.raises(ConfigError, match=r"^--licence My own: want the hub's name of one, such as mit$"):
        push(model, "hf://me/fruit", licence="My own")
    assert fake_hub.asked == []


def test_data_is_called_by_its_last_part_alone() -> None:
    assert data_name("/home/me/fruit") == "fruit"
    assert data_name("https://me:secret@host/sets/fruit.zip?token=abc") == "fruit.zip"
    assert data_name("s3://bucket/a/train-{000..010}.tar") == "train-{000..010}.tar"
    assert Path(data_name("fruit/")).name == "fruit"
