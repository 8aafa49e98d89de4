"""ImportedModel checkpoints made from the layouts and the documented fill beside the golden vectors."""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from singleshot.errors import CheckpointError
from singleshot.weights.importing import import_checkpoint
from singleshot.weights.readers.sstable import masked_crc32c

Arrays = dict[str, np.ndarray]
ForeignState = dict[str, torch.Tensor]


@pytest.fixture(scope="session")
def layout(golden: Path) -> Callable[[str], dict[str, Any]]:
    """`layout("amdegroot_vgg300")`: what layout_amdegroot_vgg300.json holds."""
    return lambda name: json.loads((golden / f"layout_{name}.json").read_text())


@pytest.fixture(scope="session")
def filled(layout, golden_inputs: ModuleType) -> Callable[[str], Arrays]:
    """`filled("amdegroot_vgg300")`: name -> array of that checkpoint, as the golden networks were filled."""

    @functools.lru_cache(maxsize=3)  # some 100 MB each; tests of a file ask for the same ones
    def fill(name: str) -> Arrays:
        told = layout(name)
        # Keras and TensorFlow keep kernels as [kh, kw, in, out].
        last = "[kh,kw,in,out]" in told.get("input", "") or name.startswith(("keras", "balancap", "ljanyst"))
        arrays = {}
        for key, shape, _, kind in told["layout"]:
            four = len(shape) == 4
            fan_in = int(np.prod(shape[:3] if last else shape[1:])) if four else 1
            sees_image = four and shape[2 if last else 1] == 3
            arrays[key] = golden_inputs.fill(
                key, tuple(shape), kind, fan_in, told.get("in3", 1.0) if sees_image else 1.0, told.get("gain", 1.0)
            )
        return arrays

    return lambda name: {key: value.copy() for key, value in fill(name).items()}


@pytest.fixture(scope="session")
def state(filled) -> Callable[[str], dict[str, torch.Tensor]]:
    """As `filled`, for PyTorch's sources."""
    return lambda name: {key: torch.from_numpy(value) for key, value in filled(name).items()}


@pytest.fixture(scope="session")
def outputs(golden_inputs: ModuleType) -> Callable[[torch.nn.Module], tuple[np.ndarray, np.ndarray]]:
    """`outputs(model)`: offsets [P, 4] and logits [P, C + 1] for the golden image, as float64; size: of the image as
    (height, width), the model's own if not given."""

    def run(model: Any, size: tuple[int, int] | None = None) -> tuple[np.ndarray, np.ndarray]:
        image = golden_inputs.image(size or model.input_spec.sides)
        with torch.inference_mode():
            raw = model.eval()(torch.from_numpy(image).permute(2, 0, 1).unsqueeze(0))
        return raw.offsets[0].double().numpy(), raw.logits[0].double().numpy()

    return run


@pytest.fixture(scope="session")
def agrees(golden: Path, outputs) -> Callable[..., None]:
    """`agrees(model, "amdegroot_vgg300")`: raw outputs are those of the source, 400 priors each to
    `tolerance`, and all of them by mean and spread. order: rows of the source's
    priors in ours, where they are not the same."""

    def check(model: Any, name: str, tolerance: float = 1e-4, order: np.ndarray | None = None) -> None:
        wanted = np.load(golden / f"net_{name}.npz")
        # A network that takes any size may have been run on a smaller image.
        offsets, logits = outputs(model, tuple(wanted["size"].tolist()) if "size" in wanted else None)
        if order is not None:
            offsets, logits = offsets[order], logits[order]
        rows = wanted["prior_idx"]
        assert np.abs(offsets[rows] - wanted["loc"]).max() < tolerance
        assert np.abs(logits[rows] - wanted["conf_logits"]).max() < tolerance
        assert np.allclose([offsets.mean(), offsets.std()], wanted["loc_mean_std"], atol=1e-3)

    return check


@pytest.fixture(scope="session")
def bundle_writer() -> Callable[..., Path]:
    """`bundle_writer(prefix, arrays)`: a checkpoint as TensorFlow writes it; the path of its index.

    shards: data files; block: names in one block of the index; pack: how a block is packed (a method's number and a
    function), not at all if None; change: what to do to each entry's message before it is written.
    """
    return _write_bundle


@pytest.fixture(scope="session")
def tables() -> SimpleNamespace:
    """What bundles are made of: write(path, rows, block, pack), and protobuf's number(field, value) and
    message(field, content)."""
    return SimpleNamespace(write=_write_table, number=_number, message=_message)


_TF_TYPES = {"float32": 1, "float64": 2, "int32": 3, "uint8": 4, "int8": 6, "int64": 9, "bool": 10, "float16": 19}


def _write_bundle(
    prefix: Path,
    arrays: Arrays,
    shards: int = 1,
    block: int = 16,
    pack: tuple[int, Callable[[bytes], bytes]] | None = None,
    change: Callable[[str, bytes], bytes] = lambda name, entry: entry,
) -> Path:
    parts = [bytearray() for _ in range(shards)]
    rows = [(b"", _number(1, shards) + _message(3, _number(1, 1)))]
    for i, name in enumerate(sorted(arrays)):
        data, part = arrays[name].tobytes(), parts[i % shards]
        shape = b"".join(_message(2, _number(1, n)) for n in arrays[name].shape)
        entry = _number(1, _TF_TYPES[arrays[name].dtype.name]) + _message(2, shape) + _number(3, i % shards)
        entry += _number(4, len(part)) + _number(5, len(data)) + b"\x35" + masked_crc32c(data).to_bytes(4, "little")
        part += data
        rows.append((name.encode(), change(name, entry)))
    for i, part in enumerate(parts):
        prefix.with_name(f"{prefix.name}.data-{i:05d}-of-{shards:05d}").write_bytes(part)
    return _write_table(prefix.with_name(f"{prefix.name}.index"), rows, block, pack)


def _write_table(path: Path, rows: list[tuple[bytes, bytes]], block: int, pack: Any = None) -> Path:
    """A table of LevelDB's with these rows."""
    file, index = bytearray(), []
    for start in range(0, len(rows), block):
        index.append((rows[start : start + block][-1][0], _put(file, rows[start : start + block], pack)))
    handles = _put(file, [], pack) + _put(file, index, pack)
    path.write_bytes(file + handles.ljust(40, b"\0") + (0xDB4775248B80FB57).to_bytes(8, "little"))
    return path


def _put(file: bytearray, rows: list[tuple[bytes, bytes]], pack: Any) -> bytes:
    """Append a block; its handle. Names share what they have in common with the one before, up to every 16th."""
    data, restarts, last = bytearray(), [0], b""
    for i, (key, value) in enumerate(rows):
        if i and i % 16 == 0:
            restarts.append(len(data))
            last = b""
        shared = next((n for n, (a, b) in enumerate(zip(key, last, strict=False)) if a != b), min(len(key), len(last)))
        data += _varint(shared) + _varint(len(key) - shared) + _varint(len(value)) + key[shared:] + value
        last = key
    data += b"".join(n.to_bytes(4, "little") for n in (*restarts, len(restarts)))
    method, content = (0, bytes(data)) if pack is None else (pack[0], pack[1](bytes(data)))
    handle = _varint(len(file)) + _varint(len(content))
    content += bytes([method])
    file += content + masked_crc32c(content).to_bytes(4, "little")
    return handle


def _varint(value: int) -> bytes:
    head = bytearray()
    while value > 127:
        head.append(value & 127 | 128)
        value >>= 7
    return bytes([*head, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _message(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


@pytest.fixture(scope="session")
def litert() -> Callable[[Path, Arrays], dict[str, Any]]:
    """`litert(path, {input: image})`: every tensor that TensorFlow Lite's runtime computes, as real numbers, by name;
    "found" has the outputs in their order."""
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")

    def run(path: Path, images: Arrays) -> dict[str, Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it takes more memory to keep them all
            runtime = interpreter.Interpreter(str(path), num_threads=1, experimental_preserve_all_tensors=True)
        details = {one["name"]: one for one in runtime.get_input_details()}
        for name, image in images.items():
            runtime.resize_tensor_input(details[name]["index"], image.shape)
        runtime.allocate_tensors()
        for name, image in images.items():
            runtime.set_tensor(details[name]["index"], image)
        runtime.invoke()
        values: dict[str, Any] = {}
        for one in runtime.get_tensor_details():
            scale, zero = one["quantization"]
            try:
                value = runtime.get_tensor(one["index"])
            except ValueError:  # it has no values outside its operator
                continue
            values[one["name"]] = (value.astype(np.float64) - zero) * scale if scale else value
        values["found"] = [runtime.get_tensor(one["index"]) for one in runtime.get_output_details()]
        return values

    return run


@pytest.fixture(scope="session")
def says_what_does_not_fit() -> Callable[[ForeignState, str], None]:
    """`says_what_does_not_fit(tensors, key)`: without that tensor, with one more, and with that one too short a
    checkpoint is refused in one line that names it."""

    def check(tensors: ForeignState, key: str) -> None:
        with pytest.raises(CheckpointError, match=f"missing: {key}") as caught:
            import_checkpoint({k: v for k, v in tensors.items() if k != key})
        assert "\n" not in str(caught.value)
        with pytest.raises(CheckpointError, match="1 unexpected: surplus"):
            import_checkpoint({**tensors, "surplus": torch.zeros(1)})
        with pytest.raises(CheckpointError, match="misshapen"):
            import_checkpoint({**tensors, key: tensors[key][:3]})

    return check


@pytest.fixture(scope="session")
def refuses_what_does_not_fit() -> Callable[[ForeignState, str, str, str], None]:
    """`refuses_what_does_not_fit(tensors, key, spare, project)`: the same with `spare` as the name of one more, where
    the refusal names the project that it looks like."""

    def check(tensors: ForeignState, key: str, spare: str, project: str) -> None:
        for changed in (
            {k: v for k, v in tensors.items() if k != key},
            {**tensors, key: tensors[key][1:]},
            {**tensors, spare: tensors[key]},
        ):
            with pytest.raises(CheckpointError, match=f"looks like {project}") as caught:
                import_checkpoint(changed)
            assert "\n" not in str(caught.value)

    return check
