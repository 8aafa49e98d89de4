"""Which kind of file a checkpoint is, by its first bytes rather than its name."""

from __future__ import annotations

from pathlib import Path

from singleshot.errors import CheckpointError, printable
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.readers.other_formats import folder_contents, looks_like_onnx, not_a_model, other_format
from singleshot.weights.readers.reading import reading

MAX_BYTES = 4 * 2**30


def read_foreign(path: str | Path, companion: str | Path | None = None) -> ForeignState:
    """The tensors of a file, with the network where the format describes one. Raises CheckpointError.

    companion: Caffe's prototxt; the .bin of an OpenVINO network; a label map or pipeline.config of TensorFlow's Object
    Detection API. A TensorFlow checkpoint is named by its prefix or by any of its files.
    """
    path, where = Path(path), printable(path)
    if path.is_dir():
        raise CheckpointError(f"{where}: {folder_contents(path)}")
    if _is_tensorflow(path, where):
        from singleshot.weights.readers.bundle import read_bundle
        from singleshot.weights.readers.tf_companions import companions_of_variables

        values = read_bundle(path, where)
        return ForeignState(values, where, "tensorflow", companions_of_variables(values, path, companion))
    first = _first_bytes(path, where)
    if other := other_format(path, first):
        raise CheckpointError(f"{where}: {other}")
    if first.startswith(b"\x89HDF\r\n\x1a\n"):
        from singleshot.weights.readers.hdf5 import read_hdf5

        return read_hdf5(path, where)
    if first.startswith((b"PK", b"\x80")) or (first[8:9] == b"{" and first[4:8] == bytes(4)):
        from singleshot.weights.readers.pytorch import read_pytorch

        return read_pytorch(path, where)
    from singleshot.weights.readers.openvino_ir import looks_like_ir, read_ir

    if looks_like_ir(first):
        return read_ir(path, companion)
    if looks_like_onnx(path, first):
        from singleshot.weights.readers.onnx import read_onnx

        return read_onnx(path, where)
    if first[4:8] == b"TFL3":
        from singleshot.weights.readers.tflite import read_tflite

        return read_tflite(path)
    from singleshot.weights.readers.caffe import looks_like_caffe, read_caffe

    if looks_like_caffe(path, first):
        return read_caffe(path, companion)
    from singleshot.weights.readers.graphdef import looks_like_graph, read_graph, variables

    if looks_like_graph(first):
        from singleshot.weights.readers.tf_companions import find_companions

        graph = read_graph(path, where)
        return ForeignState(variables(graph), where, "graphdef", find_companions(path, companion, graph))
    raise CheckpointError(f"{where}: {not_a_model(path, first)}")


def _is_tensorflow(path: Path, where: str) -> bool:
    from singleshot.weights.readers.bundle import is_bundle

    with reading(where):
        return is_bundle(path)


def _first_bytes(path: Path, where: str) -> bytes:
    with reading(where), path.open("rb") as file:
        if file.seek(0, 2) > MAX_BYTES:
            raise CheckpointError(f"{where}: larger than {MAX_BYTES // 2**30} GB (the most that is read)")
        file.seek(0)
        return file.read(4096)
