"""Which kind of file a checkpoint is, by its first bytes rather than its name."""

from __future__ import annotations

from pathlib import Path

from singleshot.errors import CheckpointError, printable
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.readers.reading import reading

MAX_BYTES = 4 * 2**30


def read_foreign(path: str | Path, companion: str | Path | None = None) -> ForeignState:
    """The tensors of a file, with the network where the format describes one. Raises CheckpointError.

    companion: Caffe's prototxt; the .bin of an OpenVINO network; a label map or pipeline.config of TensorFlow's Object
    Detection API. A TensorFlow checkpoint is named by its prefix or by any of its files.
    """
    path, where = Path(path), printable(path)
    if path.is_dir():
        raise CheckpointError(f"{where}: is a folder; name the checkpoint file in it")
    if _is_tensorflow(path, where):
        from singleshot.weights.readers.bundle import read_bundle
        from singleshot.weights.readers.tf_companions import companions_of_variables

        values = read_bundle(path, where)
        return ForeignState(values, where, "tensorflow", companions_of_variables(values, path, companion))
    first = _first_bytes(path, where)
    if first.startswith(b"\x89HDF\r\n\x1a\n"):
        from singleshot.weights.readers.hdf5 import read_hdf5

        return read_hdf5(path, where)
    if first.startswith((b"PK", b"\x80")) or (first[8:9] == b"{" and first[4:8] == bytes(4)):
        from singleshot.weights.readers.pytorch import read_pytorch

        return read_pytorch(path, where)
    from singleshot.weights.readers.openvino_ir import looks_like_ir, read_ir

    if looks_like_ir(first):
        return read_ir(path, companion)
    if path.suffix == ".bin" and looks_like_ir(_first_bytes_of(path.with_suffix(".xml"))):
        xml = printable(path.with_suffix(".xml").name)
        raise CheckpointError(f"{where}: the weights of an OpenVINO network; name {xml} next to it")
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
    if first.startswith((b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"RIFF", b"II*\0", b"MM\0*")):
        raise CheckpointError(f"{where}: is an image; want a model file, and after it the images or the data")
    # ModelProto: ir_version, then the producer's name.
    if path.suffix.lower() == ".onnx" or (first[:1] == b"\x08" and first[2:3] == b"\x12" and first[1:2] < b"\x40"):
        raise CheckpointError(
            f"{where}: an ONNX network, which is not imported; name the checkpoint that it was exported from (PyTorch,"
            " TensorFlow, Caffe, .tflite or OpenVINO); what `singleshot export` wrote runs as it is"
        )
    if not first:
        raise CheckpointError(f"{where}: an empty file; want a model file")
    raise CheckpointError(f"{where}: not a checkpoint that is known (it starts with {printable(repr(first[:8]), 40)})")


def _is_tensorflow(path: Path, where: str) -> bool:
    from singleshot.weights.readers.bundle import is_bundle

    with reading(where):
        return is_bundle(path)


def _first_bytes_of(path: Path) -> bytes:
    """Of a file that may not be there; empty then."""
    return _first_bytes(path, printable(path)) if path.is_file() else b""


def _first_bytes(path: Path, where: str) -> bytes:
    with reading(where), path.open("rb") as file:
        if file.seek(0, 2) > MAX_BYTES:
            raise CheckpointError(f"{where}: larger than {MAX_BYTES // 2**30} GB (the most that is read)")
        file.seek(0)
        return file.read(4096)
