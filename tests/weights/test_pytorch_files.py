from __future__ import annotations

import argparse
import collections
import io
import os
import pickle
import struct
import time
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from singleshot.errors import CheckpointError
from singleshot.weights.importing import import_checkpoint, import_foreign
from singleshot.weights.readers.pytorch import MAX_ARRAY_BYTES, read_pytorch
from singleshot.weights.readers.sniff import read_foreign
from singleshot.weights.readers.wrappers import unwrap

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2).half(), "n": torch.tensor(7)}
LEGACY = {"_use_new_zipfile_serialization": False}


def same(tensors):
    assert set(tensors) == set(STATE)
    assert torch.equal(tensors["a.weight"], STATE["a.weight"])
    assert tensors["a.bias"].dtype == torch.float32
    assert tensors["n"].item() == 7


def refused(path, match):
    with pytest.raises(CheckpointError, match=match) as caught:
        read_foreign(path)
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 500
    assert line.startswith(str(path))
    return line


# ----------------------------------------------------------------------------------------------- what can be read


@pytest.mark.parametrize("options", [{}, LEGACY], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", ["x.pth", "x.pt", "x.pth.tar", "x.bin", "without"])
def test_both_forms_of_torch_save_are_read_whatever_the_name(tmp_path, name, options):
    torch.save(STATE, tmp_path / name, **options)
    tensors = read_foreign(tmp_path / name)
    same(tensors)
    assert tensors.kind == "pytorch"


def test_safetensors_and_npz_are_read(tmp_path):
    save_file(STATE, tmp_path / "x.safetensors", metadata={"format": "pt"})
    same(read_foreign(tmp_path / "x.safetensors"))
    arrays = {key: value.numpy() for key, value in STATE.items()}
    np.savez(tmp_path / "plain.npz", **arrays)
    np.savez_compressed(tmp_path / "small.npz", **arrays)
    same(read_foreign(tmp_path / "plain.npz"))
    same(read_foreign(tmp_path / "small.npz"))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model": s, "optimizer": {"state": {0: {"momentum": torch.ones(2)}}}},
        lambda s: {"model": {"state_dict": s}},
        lambda s: {"ema": {"module": s}, "updates": 9},
        lambda s: {"model_state_dict": s, "loss": torch.tensor(0.5)},
        lambda s: {"net": s, "ema": {key: value + 1 for key, value in s.items()}},
        lambda s: {f"module.{key}": value for key, value in s.items()},
        lambda s: {"model": {f"module._orig_mod.{key}": value for key, value in s.items()}},
        lambda s: {"n_averaged": torch.tensor(4), **{f"module.{key}": value for key, value in s.items()}},
        lambda s: {key: torch.nn.Parameter(value) if value.dim() else value for key, value in s.items()},
        lambda s: collections.OrderedDict(s, extra="not a tensor"),
    ],
)
def test_wrappers_and_prefixes_are_taken_off(tmp_path, wrap):
    torch.save(wrap(STATE), tmp_path / "x.pth")
    same(read_foreign(tmp_path / "x.pth"))
    values, _ = unwrap(wrap(STATE), "state dict")
    assert set(values) == set(STATE)


def test_a_prefix_that_only_some_names_have_is_kept():
    values, _ = unwrap({"module.a": torch.ones(1), "b": torch.ones(1)}, "state dict")
    assert set(values) == {"module.a", "b"}


def test_what_stands_beside_the_weights_is_kept_when_it_is_plain(tmp_path):
    beside = {
        "meta": {"CLASSES": ("cat", "dog"), "epoch": 24},
        "epoch": 24,
        "best": np.float64(0.5),
        "curve": np.arange(3.0),
        "args": argparse.Namespace(lr=1e-3),
        "scheduler": {"milestones": collections.Counter({8: 1, 11: 1})},
        "optimizer": {"state": {0: torch.ones(3)}},
    }
    torch.save({"state_dict": STATE, **beside}, tmp_path / "x.pth")
    tensors = read_foreign(tmp_path / "x.pth")
    same(tensors)
    assert tensors.structure["meta"]["CLASSES"] == ("cat", "dog")
    assert tensors.structure["epoch"] == 24
    assert set(tensors.structure) == {"meta", "epoch", "scheduler"}


def test_a_wrapped_checkpoint_in_a_file_becomes_a_model(tmp_path, state, agrees):
    torch.save({"state_dict": {f"module.{k}": v for k, v in state("amdegroot_vgg300").items()}}, tmp_path / "x.pth")
    foreign = import_foreign(tmp_path / "x.pth")
    agrees(foreign.model, "amdegroot_vgg300")


# ---------------------------------------------------------------------------------------------- what must be refused


class Runs:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("options", [{}, LEGACY], ids=["zip", "legacy"])
def test_nothing_in_a_file_is_run(tmp_path, options):
    torch.save({"state_dict": STATE, "extra": Runs(tmp_path / "ran")}, tmp_path / "x.pth", **options)
    refused(tmp_path / "x.pth", r"needs code to be read \((posix|nt)\.mkdir\); nothing was run")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_bare_pickles_are_not_run(tmp_path, protocol):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"a": Runs(tmp_path / "ran")}, protocol))
    refused(tmp_path / "x.pkl", "mkdir|not a checkpoint that is known")
    assert not (tmp_path / "ran").exists()
    (tmp_path / "y.pkl").write_bytes(pickle.dumps({"a": 1}, protocol))
    refused(tmp_path / "y.pkl", "cut short|not of torch.save|not a checkpoint|does not read safely")


@pytest.mark.parametrize("options", [{}, LEGACY], ids=["zip", "legacy"])
def test_a_whole_model_is_refused_with_its_class_and_what_to_do(tmp_path, options):
    torch.save(torch.nn.Sequential(torch.nn.Linear(2, 2)), tmp_path / "x.pth", **options)
    line = refused(tmp_path / "x.pth", r"needs code to be read \(torch\.nn\.modules\.container\.Sequential\)")
    assert "state_dict()" in line


def test_torchscript_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"x/{name}", b"\x80\x02}.")
    refused(tmp_path / "x.pt", "TorchScript, which holds code; nothing was run")


def test_objects_in_npz_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.array([Runs(tmp_path / "ran")], dtype=object))
    refused(tmp_path / "x.npz", "a: no array of numbers, or damaged")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("options", [{}, LEGACY], ids=["zip", "legacy"])
def test_truncated_and_spoiled_files_are_refused(tmp_path, options):
    whole = io.BytesIO()
    torch.save({"state_dict": STATE, "epoch": 3}, whole, **options)
    data = whole.getvalue()
    path = tmp_path / "x.pth"
    for cut in (0, 2, 9, 40, len(data) // 3, len(data) // 2, len(data) - 3):
        path.write_bytes(data[:cut])
        refused(path, "damaged|known|archive|empty")
    generator = np.random.default_rng(0)
    for place in generator.integers(0, len(data), 120):
        spoiled = bytearray(data)
        spoiled[place] ^= int(generator.integers(1, 256))
        path.write_bytes(spoiled)
        try:  # bytes of values or of nothing may change unseen
            read_foreign(path)
        except CheckpointError as error:
            assert "\n" not in str(error)


def test_truncated_safetensors_and_npz_are_refused(tmp_path):
    save_file(STATE, tmp_path / "x.safetensors")
    np.savez(tmp_path / "x.npz", a=np.ones(100))
    for name in ("x.safetensors", "x.npz"):
        data = (tmp_path / name).read_bytes()
        for cut in (9, 30, len(data) // 2, len(data) - 2):
            (tmp_path / name).write_bytes(data[:cut])
            refused(tmp_path / name, "damaged|known|archive|empty")


def test_files_without_tensors_are_refused(tmp_path):
    for i, content in enumerate(([1, 2], {"epoch": 3}, {}, {1: torch.ones(2)})):
        torch.save(content, tmp_path / f"{i}.pth")
        refused(tmp_path / f"{i}.pth", "want a dict of tensors|holds no tensors by name")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("readme.txt", "no weights")
    refused(tmp_path / "x.zip", "neither PyTorch's")
    with pytest.raises(CheckpointError, match="holds no tensors by name"):
        import_checkpoint({"epoch": 3})


def test_our_own_checkpoint_needs_no_import(tmp_path):
    save_file(STATE, tmp_path / "x.safetensors", metadata={"singleshot": "{}"})
    refused(tmp_path / "x.safetensors", "a model of singleshot's already")


# -------------------------------------------------------------------------------------------- memory stays in bounds


def zip_of(path, pickled, records=()):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", pickled)
        archive.writestr("x/version", "3")
        for name, data in records:
            archive.writestr(f"x/data/{name}", data)


def text(value):
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def tensor(values, size, stride=(1,)):
    """A pickled tensor of storage "0", which says that it holds so many values."""

    def numbers(many):
        return b"(" + b"".join(b"\x8a\x08" + struct.pack("<q", n) for n in many) + b"t"

    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + numbers([values])[1:]
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + b"Q"
        + numbers([0])[1:-1]
        + numbers(size)
        + numbers(stride)
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )


def test_storages_longer_than_what_is_stored_are_refused(tmp_path):
    head, tail = b"\x80\x02}" + text("a"), b"s."
    zip_of(tmp_path / "good.pth", head + tensor(4, (4,)) + tail, [("0", bytes(16))])
    assert read_foreign(tmp_path / "good.pth")["a"].tolist() == [0.0] * 4
    zip_of(tmp_path / "long.pth", head + tensor(2**40, (2**40,)) + tail, [("0", bytes(16))])
    refused(tmp_path / "long.pth", "damaged or cut short .storage 0 of 1099511627776 values has 16 bytes")
    zip_of(tmp_path / "wide.pth", head + tensor(4, (2**20, 2**20), (0, 0)) + tail, [("0", bytes(16))])
    refused(tmp_path / "wide.pth", "a is larger than what is stored of it")
    zip_of(tmp_path / "none.pth", head + tensor(4, (4,)) + tail)
    refused(tmp_path / "none.pth", "has 0 bytes")
    legacy = io.BytesIO()
    torch.save({"a": torch.zeros(4)}, legacy, **LEGACY)
    spoiled = legacy.getvalue().replace(b"K\x04N", b"J\xff\xff\xff\x7fN", 1)
    assert spoiled != legacy.getvalue()
    (tmp_path / "legacy.pth").write_bytes(spoiled)
    refused(tmp_path / "legacy.pth", "storages are larger than the file")


def test_pickles_that_grow_or_nest_without_end_are_refused(tmp_path):
    doubled = b"\x80\x02}" + text("a") + b"c_codecs\nencode\nq\x00" + text("a" * 1000) + text("latin1") + b"\x86R"
    for _ in range(40):  # encode(encode(...)), each time twice as long
        doubled += b"q\x01h\x00h\x01" + text("hex") + b"\x86R"
    zip_of(tmp_path / "grows.pth", doubled + b".")
    zip_of(tmp_path / "nests.pth", b"\x80\x02}" + b")" + b"\x85" * 1_000_000 + text("v") + b"s.")
    # Each tuple holds the one before twice: to hash the last of 50 takes years.
    zip_of(tmp_path / "twice.pth", b"\x80\x02}" + b")" + b"q\x00h\x00\x86" * 50 + text("v") + b"s.")
    many = b"(" + b"K\x01" * 100_000 + b"t"
    copies = b"".join([b"h\x00h\x01\x85R"] * 1000)
    zip_of(tmp_path / "copies.pth", b"\x80\x02(c__builtin__\nset\nq\x00" + many + b"q\x01" + copies + b"t.")
    begin = time.monotonic()
    refused(tmp_path / "grows.pth", "far more memory than the file")
    refused(tmp_path / "nests.pth", "nested more than 100 deep")
    refused(tmp_path / "twice.pth", "far more memory than the file")
    refused(tmp_path / "copies.pth", "far more memory than the file")
    assert time.monotonic() - begin < 20


def test_compressed_archives_cannot_be_larger_than_the_limit(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"\x80\x02}.")
        archive.writestr("x/data/0", bytes(10_000_000))
    refused(tmp_path / "x.pth", "its parts are larger than the file")
    header = np.lib.format.header_data_from_array_1_0(np.zeros(1, np.float32)) | {"shape": (MAX_ARRAY_BYTES,)}
    begin = io.BytesIO()
    np.lib.format.write_array_header_1_0(begin, header)
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", begin.getvalue() + bytes(100))
    refused(tmp_path / "x.npz", "a: no array of numbers, or damaged")
    np.savez_compressed(tmp_path / "y.npz", a=np.zeros(2**20))
    assert read_foreign(tmp_path / "y.npz")["a"].shape == (2**20,)
    monkeypatch.setattr("singleshot.weights.readers.pytorch.MAX_ARRAY_BYTES", 2**22)
    refused(tmp_path / "y.npz", "arrays of more than 4 MB")


def test_tensors_of_unusual_kinds_are_refused(tmp_path):
    torch.save({"a": torch.eye(3).to_sparse()}, tmp_path / "sparse.pth")
    refused(tmp_path / "sparse.pth", "sparse")
    with pytest.raises(CheckpointError, match="no plain tensor"):
        unwrap({"a": torch.zeros(2, device="meta")}, "state dict")
    with pytest.raises(CheckpointError, match="want numbers"):
        unwrap({"a": np.array(["text"])}, "state dict")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        read_pytorch(tmp_path / "none.pth")


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}])
def test_objects_among_the_settings_of_a_lightning_checkpoint_are_not_made(tmp_path, options):
    saved = {
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {"weight": torch.ones(2)},
        "hyper_parameters": {"lr": 0.1, "head": torch.nn.Linear(1, 1)},
    }
    torch.save(saved, tmp_path / "last.ckpt", **options)
    with pytest.raises(CheckpointError, match=r"last\.ckpt: needs code.*linear\.Linear.*nothing was run; give a file"):
        read_pytorch(tmp_path / "last.ckpt")
    saved["hyper_parameters"] = {"lr": 0.1, "classes": ["a", "b"]}
    torch.save(saved, tmp_path / "last.ckpt", **options)
    assert list(read_pytorch(tmp_path / "last.ckpt")) == ["weight"]
