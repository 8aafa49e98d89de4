"""Models behind hf:// addresses, from a hub on this machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import singleshot
from singleshot import hub
from singleshot.errors import CheckpointError, ConfigError, MissingExtraError
from singleshot.hub import HubAddress, is_hub, local_model, parse_address, pinned_model


def test_addresses_are_read_and_written_back() -> None:
    for text, parts in {
        "hf://me/fruit": ("me/fruit", None, None),
        "hf://me/fruit@v1.0": ("me/fruit", None, "v1.0"),
        "hf://me/fruit/onnx/best.onnx": ("me/fruit", "onnx/best.onnx", None),
        "hf://me/fruit/best.onnx@refs/pr/1": ("me/fruit", "best.onnx", "refs/pr/1"),
    }.items():
        assert parse_address(text) == HubAddress(*parts)
        assert str(parse_address(text)) == text
        assert parse_address(Path(text)) == HubAddress(*parts)
    for path in ("best.onnx", "hf/best.onnx", "https://a/b", Path("hf.onnx")):
        assert not is_hub(path)
        assert local_model(path) is path
    for text in ("hf://me", "hf://me/", "hf://me/fruit/../x.onnx", "hf://../x", "hf://me/a b", "hf://me/x//y.onnx",
                 "hf://me/fruit/a\\b.onnx", "hf://me/fruit@", "hf://me/fruit/a\n.onnx"):  # fmt: skip
        with pytest.raises(
            ConfigError, match=r"^hf://.*want hf://OWNER/NAME, hf://OWNER/NAME/FILE, each with @REVISION"
        ):
            parse_address(text)


def test_a_checkpoint_is_fetched_once_and_pinned(fake_hub, model, caplog, image) -> None:
    commit = fake_hub.put("me/fruit", best__safetensors=model.read_bytes(), README__md=b"# fruit")
    caplog.set_level("INFO", "singleshot")
    detector = singleshot.load("hf://me/fruit")
    assert detector.class_names == ("apple", "pear|`<b>`")
    pinned = f"hf://me/fruit/best.safetensors@{commit}"
    assert f"hf://me/fruit: is {pinned}" in caplog.text
    assert pinned_model("hf://me/fruit") == pinned
    downloads = [path for method, path, _ in fake_hub.asked if method == "GET" and "/resolve/" in path]
    assert downloads == [f"/me/fruit/resolve/{commit}/best.safetensors"]
    fake_hub.asked.clear()
    assert local_model(pinned) == local_model(Path(pinned))
    assert fake_hub.asked == []  # a commit cannot change
    fake_hub.put("me/fruit", best__safetensors=b"another one")
    assert local_model(pinned).read_bytes() == model.read_bytes()
    assert local_model("hf://me/fruit").read_bytes() == b"another one"


def test_commands_take_addresses_and_say_the_commit(fake_hub, model, image, command, tmp_path) -> None:
    commit = fake_hub.put("me/fruit", best__safetensors=model.read_bytes())
    pinned = f"hf://me/fruit/best.safetensors@{commit}"
    code, out, error = command("detect", "hf://me/fruit", image, "--device", "cpu", "--json")
    assert code == 0, error
    assert json.loads(out)["model"] == pinned
    assert f"singleshot: hf://me/fruit: is {pinned}" in error
    code, _, error = command("export", pinned, "--to", "torchvision", "--out", tmp_path / "x.pth")
    assert code == 2
    assert commit in error  # its own refusal names the file, in the folder of the commit
    code, _, error = command("eval", "hf://me/fruit", tmp_path / "nothing")
    assert code == 2
    assert pinned in error
    assert "nothing: no such file" in error or "nothing" in error.splitlines()[-1]


def test_a_training_starts_from_an_address_and_keeps_the_commit(fake_hub, model) -> None:
    from singleshot.api.train_options import TrainOptions, resolve
    from singleshot.api.train_tiles import NONE, tile_of_run

    commit = fake_hub.put("me/fruit", best__safetensors=model.read_bytes())
    options = resolve(TrainOptions(data="x", start="hf://me/fruit"))
    assert options.start == f"hf://me/fruit/best.safetensors@{commit}"
    assert tile_of_run(options) == NONE


def test_a_service_is_called_as_the_repository(fake_hub, model) -> None:
    from singleshot.serve.models import named_models

    fake_hub.put("me/fruit", best__safetensors=model.read_bytes())
    paths = named_models(["hf://me/fruit", "other=hf://me/fruit/best.safetensors"])
    assert list(paths) == ["fruit", "other"]
    assert {path.read_bytes() for path in paths.values()} == {model.read_bytes()}


def test_files_that_belong_together_come_together(fake_hub) -> None:
    fake_hub.put("me/ir", m__xml=b"<net/>", m__bin=b"123", m__json=b"{}", other__bin=b"no", m__md=b"no")
    path = local_model("hf://me/ir")
    assert sorted(one.name for one in path.parent.iterdir()) == ["m.bin", "m.json", "m.xml"]


def test_which_of_several_models(fake_hub, model) -> None:
    fake_hub.put("me/two", a__onnx=b"1", b__onnx=b"2")
    with pytest.raises(
        CheckpointError, match=r"^hf://me/two: which of its models\? Give hf://me/two/FILE, one of a.onnx, b"
    ):
        local_model("hf://me/two")
    fake_hub.put("me/two", best__safetensors=b"3")
    assert local_model("hf://me/two").name == "best.safetensors"  # the only checkpoint
    assert local_model("hf://me/two/b.onnx").read_bytes() == b"2"
    fake_hub.put("me/none", pytorch_model__bin=b"1", x__pth=b"2")
    with pytest.raises(
        CheckpointError, match=r"^hf://me/none: no model in it that is read; want .safetensors, .onnx, "
    ):
        local_model("hf://me/none")
    asked = len(fake_hub.asked)
    with pytest.raises(
        CheckpointError, match=r"^hf://me/none/x.pth: of the hub's files only .safetensors, .onnx, .xml, "
    ):
        local_model("hf://me/none/x.pth")
    assert len(fake_hub.asked) == asked


def test_what_is_not_there_is_said_in_one_line(fake_hub, command, image, monkeypatch) -> None:
    fake_hub.put("me/fruit", a__onnx=b"1")
    for address, why in {
        "hf://me/nobody": "no such repository, or it is not yours to see: for a private one set HF_TOKEN, or log in",
        "hf://me/fruit@v9": "no such revision",
        "hf://me/fruit/b.onnx": "no such file in it; it has a.onnx",
    }.items():
        code, _, error = command("detect", address, image, "--json")
        assert code == 2
        assert error.startswith(f"singleshot: {address}: {why}")
        assert error.count("\n") == 1
    fake_hub.private.add("me/fruit")
    assert local_model("hf://me/fruit").read_bytes() == b"1"  # the token is sent
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(CheckpointError, match="no such repository") as caught:
        local_model("hf://me/fruit")
    assert "hf_wrong" not in str(caught.value)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match=r"^hf://me/fruit: .*[Cc]onnect"):
        local_model("hf://me/fruit")


def test_sizes_are_bounded_whatever_the_hub_says(fake_hub, tmp_path, monkeypatch) -> None:
    fake_hub.put("me/big", a__onnx=bytes(5000))
    fake_hub.sizes["a.onnx"] = 3 * 2**30
    with pytest.raises(CheckpointError, match=r"^hf://me/big: 3.0 GB; want 2 GB at most$"):
        local_model("hf://me/big")
    fake_hub.sizes["a.onnx"] = 10
    monkeypatch.setattr(hub, "MAX_BYTES", 1000)
    with pytest.raises(CheckpointError, match=r"sends more than"):
        local_model("hf://me/big")
    assert not list((tmp_path / "cache").rglob("a.onnx"))


def test_without_the_package_the_extra_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        MissingExtraError, match=r"^hf://me/fruit needs huggingface_hub: pip install 'singleshot\[hub\]'$"
    ):
        local_model("hf://me/fruit")


def test_endpoint_and_cache_are_those_of_the_environment(fake_hub, tmp_path) -> None:
    """In a process of its own, as a user starts one."""
    commit = fake_hub.put("me/fruit", a__onnx=b"1")
    code = "import singleshot.hub as hub; print(hub.local_model('hf://me/fruit')); print(hub.pinned_model('hf://me/fruit'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    path, pinned = done.stdout.split()
    assert Path(path).is_relative_to(tmp_path / "cache")
    assert pinned == f"hf://me/fruit/a.onnx@{commit}"
    assert done.stderr == ""


def test_explaining_and_labelling_take_addresses(fake_hub, model) -> None:
    from singleshot.api.explain import Explainer
    from singleshot.api.label import LabelOptions, _detector

    fake_hub.put("me/fruit", best__safetensors=model.read_bytes())
    assert Explainer("hf://me/fruit", "cpu").detector.class_names[0] == "apple"
    assert _detector(LabelOptions(data="x", model="hf://me/fruit", device="cpu")).class_names[0] == "apple"
