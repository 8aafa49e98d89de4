"""ssd_keras' models, and Keras' files as such."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from singleshot.conventions import DETECTION
from singleshot.errors import CheckpointError
from singleshot.thresholds import NO_CAP
from singleshot.weights.importing import import_checkpoint, import_foreign
from singleshot.weights.readers import hdf5
from singleshot.weights.readers.hdf5 import MAX_DEPTH, read_hdf5

SOURCES = ("conv4_3_norm", "fc7", "conv6_2", "conv7_2", "conv8_2", "conv9_2", "conv10_2")
SCALES = {300: (0.1, 0.2, 0.37, 0.54, 0.71, 0.88, 1.05), 512: (0.07, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1.05)}


@pytest.fixture(scope="module")
def arrays(filled):
    return filled("keras_vgg300")


@pytest.fixture(scope="module")
def foreign(arrays):
    return import_foreign(arrays)


def write_keras(path, arrays, config=None, scope="{layer}/", **options):
    """As `save_weights` does, or as `save` when there is a network to describe."""
    with h5py.File(path, "w") as file:
        root = file if config is None else file.create_group("model_weights")
        if config is not None:
            file.attrs["model_config"] = json.dumps(config).encode()
            file.attrs["keras_version"] = b"2.1.4"
            file.create_group("optimizer_weights").create_dataset("Adam/iterations:0", data=np.int64(7))
        layers = dict.fromkeys(key.split("/")[0] for key in arrays)
        root.attrs["layer_names"] = [layer.encode() for layer in ["input_1", *layers]]
        root.create_group("input_1").attrs["weight_names"] = []
        for layer in layers:
            group, names = root.create_group(layer), []
            for key, value in arrays.items():
                if key.split("/")[0] == layer:
                    name = f"{scope.format(layer=layer)}{key.split('/')[1]}:0"
                    names.append(name.encode())
                    group.create_dataset(name, data=value, **options)
            group.attrs["weight_names"] = names
    return path


def network(side=300, mean=(123, 117, 104), swap=(2, 1, 0), **changes):
    """What `model.save` says of ssd_keras' layers, as far as an import is concerned with it."""
    layers = [{"name": "input_1", "class_name": "InputLayer", "config": {"name": "input_1"}}]
    for name, numbers in (("input_mean_normalization", mean), ("input_channel_swap", swap)):
        if numbers is not None:
            function = ["4wIAAAAAAAAA code\n", None, [list(numbers)]]
            layers.append({"name": name, "class_name": "Lambda", "config": {"name": name, "function": function}})
    scales = SCALES[side]
    for i, source in enumerate(SOURCES[: len(scales) - 1]):
        wide = [3.0, 1 / 3] if 0 < i < len(scales) - 3 else []
        config = {
            "name": f"{source}_mbox_priorbox",
            "img_height": side,
            "img_width": side,
            "this_scale": scales[i],
            "next_scale": scales[i + 1],
            "aspect_ratios": [1.0, 2.0, 0.5, *wide],
            "two_boxes_for_ar1": True,
            "clip_boxes": False,
            "variances": [0.1, 0.1, 0.2, 0.2],
            "coords": "centroids",
            "normalize_coords": True,
        }
        layers.append({"name": config["name"], "class_name": "AnchorBoxes", "config": config | changes})
    return {"class_name": "Model", "config": {"name": "model_1", "layers": layers}}


def same(model, other):
    return all(bool((value == other.state_dict()[key]).all()) for key, value in model.state_dict().items())


class TestModel:
    def test_gives_the_outputs_and_priors_of_the_source(self, foreign, agrees, outputs, golden):
        agrees(foreign.model, "keras_vgg300")
        wanted = np.load(golden / "net_keras_vgg300.npz")
        scores = torch.from_numpy(outputs(foreign.model)[1]).softmax(-1).numpy()
        assert np.abs(scores[wanted["prior_idx"]] - wanted["conf_prob"]).max() < 1e-5
        priors = np.load(golden / "priors_ssd_keras.npz")["voc300_cxcywh_noclip"]
        assert np.abs(foreign.model.priors.numpy() - priors).max() < 1e-6
        assert foreign.thresholds == DETECTION["ssd_keras"]
        assert (foreign.thresholds.per_class, foreign.thresholds.keep_per_class) == (NO_CAP, 400)
        anchors = np.load(golden / "keras_anchor_output_keras_vgg300.npz")
        rows = next(anchors[key] for key in anchors.files)
        assert np.abs(foreign.model.priors.numpy()[: len(rows)] - rows[:, :4]).max() < 1e-6
        assert foreign.class_names is not None
        assert len(foreign.class_names) == foreign.model.num_classes == 20

    def test_ssd512_by_its_seventh_map(self, filled, golden, outputs):
        model = import_checkpoint(filled("keras_vgg512"), num_classes=20)
        priors = np.load(golden / "priors_ssd_keras.npz")["voc512_cxcywh_noclip"]
        assert np.abs(model.priors.numpy() - priors).max() < 1e-6
        offsets, logits = outputs(model)
        scores = torch.from_numpy(logits).softmax(-1).numpy()
        # The published mean and spread of this network's outputs, of which there are no others.
        assert np.allclose([offsets.mean(), offsets.std()], [0.037, 1.469], atol=1e-3)
        assert np.allclose([scores.mean(), scores.std()], [0.048, 0.078], atol=1e-3)

    @pytest.mark.parametrize(("classes", "table"), [(80, "coco300_cxcywh_noclip"), (3, "voc300_cxcywh_noclip")])
    def test_default_boxes_by_the_number_of_classes(self, arrays, golden, classes, table):
        changed = dict(arrays)
        for key, value in arrays.items():
            if "mbox_conf" in key:
                changed[key] = np.zeros((*value.shape[:-1], value.shape[-1] // 21 * (classes + 1)), np.float32)
        foreign = import_foreign(changed)
        assert foreign.model.num_classes == classes
        assert np.abs(foreign.model.priors.numpy() - np.load(golden / "priors_ssd_keras.npz")[table]).max() < 1e-6
        assert any("says nothing of its default boxes" in note for note in foreign.notes) == (classes == 3)

    @pytest.mark.parametrize("form", ["{0}/{1}:0", "{0}/{0}_1/{1}:0", "model_weights/{0}/{0}/{1}:0"])
    def test_names_as_versions_of_keras_write_them(self, arrays, foreign, form):
        assert same(import_checkpoint({form.format(*k.split("/")): v for k, v in arrays.items()}), foreign.model)

    def test_what_is_missing_left_over_or_misshapen_is_named(self, arrays):
        for changed, match in (
            ({k: v for k, v in arrays.items() if k != "conv5_2/bias"}, "1 missing: conv5_2/bias"),
            (arrays | {"conv5_2/bias": arrays["conv5_2/bias"][:7]}, "1 misshapen: conv5_2/bias is 7, want 512"),
            (arrays | {"conv5_4/bias": arrays["conv5_2/bias"]}, "1 unexpected: conv5_4/bias"),
        ):
            with pytest.raises(CheckpointError, match=match) as caught:
                import_checkpoint(changed)
            assert "\n" not in str(caught.value)


class TestFile:
    def test_weights_alone(self, tmp_path, arrays, foreign):
        read = import_foreign(write_keras(tmp_path / "weights.h5", arrays))
        assert same(read.model, foreign.model)
        assert read.model.input_spec == foreign.model.input_spec
        assert [note.partition(" and ")[0] for note in read.notes] == ["assumed: input 300 x 300"]

    def test_a_whole_model(self, tmp_path, arrays, foreign):
        config = network()
        read = import_foreign(write_keras(tmp_path / "model.h5", arrays, config, scope="{layer}_3/"))
        assert same(read.model, foreign.model)
        assert read.model.prior_spec == foreign.model.prior_spec
        assert read.model.input_spec == foreign.model.input_spec
        assert read.notes == ()
        assert read.fixed == ("size", "priors")

    def test_a_network_that_is_not_the_usual_one(self, tmp_path, arrays):
        changes = {"this_scale": 0.3, "next_scale": 0.4, "variances": [0.2, 0.2, 0.3, 0.3], "clip_boxes": True}
        config = network(mean=(127.5, 127.5, 127.5), swap=None, **changes)
        model = import_checkpoint(write_keras(tmp_path / "model.h5", arrays, config))
        assert model.input_spec.mean == (127.5, 127.5, 127.5)
        assert model.input_spec.colour_order == "rgb"
        assert model.prior_spec.variances == (0.2, 0.3)
        assert model.prior_spec.clip == "corners"
        # The cell in the middle of the 19 x 19 map, whose boxes lie inside the image.
        row = 38 * 38 * 4 + (9 * 19 + 9) * 6
        side, between, root = 0.3, (0.3 * 0.4) ** 0.5, 2**0.5
        wanted = [[side, side], [between, between], [side * root, side / root], [side / root, side * root]]
        assert np.allclose(model.priors[row : row + 4, 2:].numpy(), wanted, atol=1e-6)

    @pytest.mark.parametrize(
        ("config", "match"),
        [
            ({"class_name": "Model"}, "is not a Keras model's"),
            ([1], "is not a Keras model's"),
            (network(img_width=480), "made for images of 480 x 300, want 300 x 300"),
            (network(coords="corners"), "centre, width and height"),
            (network(variances=[1.0, 2.0, 1.0, 1.0]), "want the same for both axes"),
            (network(variances=[0.0, 0.0, 1.0, 1.0]), "want positive numbers"),
            (network(this_scale="x"), "AnchorBoxes layers cannot be read"),
            (network(this_scale=float("nan")), "boxes of scale nan are none"),
            (network(aspect_ratios=[0.0]), "aspect ratios that are none"),
            (network(swap=(1, 0, 2)), "want RGB or BGR"),
            (network(mean=(float("inf"), 0, 0)), "has no numbers"),
        ],
    )
    def test_a_network_that_lies(self, tmp_path, arrays, config, match):
        # It is read before the weights, of which those that tell the layout are enough.
        arrays = {key: value for key, value in arrays.items() if value.size < 10_000 or "norm" in key or "_2" in key}
        arrays |= {f"{key}/kernel": np.zeros((3, 3, 4, 4), np.float32) for key in ("fc7_mbox_conf", "fc7")}
        with pytest.raises(CheckpointError, match=match) as caught:
            import_checkpoint(write_keras(tmp_path / "model.h5", arrays, config))
        assert "\n" not in str(caught.value)

    def test_cut_off(self, tmp_path, arrays):
        path = write_keras(tmp_path / "weights.h5", {k: v for k, v in arrays.items() if v.size < 1000})
        data = path.read_bytes()
        for kept in (8, 100, len(data) // 2, len(data) - 1):
            path.write_bytes(data[:kept])
            with pytest.raises(CheckpointError, match=r"cut off|HDF5 file that cannot be read"):
                import_checkpoint(path)

    def test_another_network(self, tmp_path):
        path = write_keras(tmp_path / "weights.h5", {"dense_1/kernel": np.ones((3, 2), np.float32)})
        with pytest.raises(CheckpointError, match=r"no layout that is known .*dense_1/dense_1/kernel"):
            import_checkpoint(path)


def refused(path, match):
    with pytest.raises(CheckpointError, match=match) as caught:
        read_hdf5(path, "weights.h5")
    assert "\n" not in str(caught.value)


class TestHostile:
    @pytest.fixture
    def path(self, tmp_path):
        return tmp_path / "weights.h5"

    def test_links_are_not_followed(self, path, tmp_path):
        write_keras(tmp_path / "other.h5", {"conv/kernel": np.ones(3, np.float32)})
        for link in (h5py.ExternalLink("other.h5", "/conv"), h5py.SoftLink("/conv")):
            with h5py.File(path, "w") as file:
                file["layer"] = link
            refused(path, "link to another place( or file)?, which is not followed")
            with h5py.File(path, "w") as file:
                file["model_weights"] = link
            refused(path, "link to another place( or file)?, which is not followed")

    def test_groups_in_circles(self, path):
        with h5py.File(path, "w") as file:
            group = file.create_group("a")
            group["a"], group["b"] = group, group
        refused(path, "has two places")

    def test_groups_in_groups_without_end(self, path):
        with h5py.File(path, "w") as file:
            file.create_group("/".join("a" * (MAX_DEPTH + 2)))
        refused(path, f"more than {MAX_DEPTH} groups in each other")

    def test_more_names_than_any_network_has(self, path, monkeypatch):
        monkeypatch.setattr(hdf5, "MAX_LINKS", 99)
        with h5py.File(path, "w") as file:
            for i in range(100):
                file.create_group(f"{i}")
        refused(path, "more than 99 names")

    @pytest.mark.parametrize("options", [{"libver": "latest"}, {"track_order": True}])
    def test_newer_forms_are_refused(self, path, options):
        with h5py.File(path, "w", **options) as file:
            file["layer/kernel"] = np.ones(3)
        refused(path, "in a newer form of HDF5 than Keras writes")

    @pytest.mark.parametrize("packing", ["gzip", "lzf"])
    def test_a_bomb(self, path, packing):
        with h5py.File(path, "w") as file:
            file.create_dataset(
                "kernel", shape=(1000, 1000, 50), dtype="f4", compression=packing, chunks=(1000, 1000, 1)
            )
            file["kernel"][:, :, 0] = 0
        assert path.stat().st_size < 10**6
        refused(path, "is compressed")

    def test_an_array_without_its_bytes(self, path):
        with h5py.File(path, "w") as file:
            file.create_dataset("kernel", shape=(100_000, 100_000), dtype="f4")
        refused(path, "is more than the file can hold")
        with h5py.File(path, "w") as file:
            file.create_dataset("kernel", shape=(10,), dtype="f4")  # never written
        refused(path, "lie outside the")

    def test_chunks(self, path):
        with h5py.File(path, "w") as file:
            file.create_dataset("kernel", shape=(1, 1), maxshape=(None, None), dtype="f4", chunks=(30_000, 30_000))
        refused(path, "is stored in chunks")

    def test_many_names_for_the_same_bytes(self, path):
        with h5py.File(path, "w") as file:
            kernel = file.create_dataset("kernel", data=np.ones(10**5, np.float32))
            for i in range(100):
                file[f"kernel_{i}"] = kernel
        refused(path, "has two places")

    def test_arrays_in_other_files(self, path, tmp_path):
        (tmp_path / "secret").write_bytes(bytes(100))
        with h5py.File(path, "w") as file:
            file.create_dataset("kernel", shape=(25,), dtype="f4", external=[("secret", 0, 100)])
        refused(path, "lies in another file")
        layout = h5py.VirtualLayout(shape=(3,), dtype="f4")
        layout[:] = h5py.VirtualSource("other.h5", "kernel", shape=(3,))
        with h5py.File(path, "w") as file:
            file.create_virtual_dataset("kernel", layout)
        refused(path, "lies in another file")

    @pytest.mark.parametrize(
        "dtype",
        [h5py.string_dtype(), "S5", h5py.ref_dtype, h5py.vlen_dtype(np.float32), [("a", "f4")], "c8", bool, "f16"],
    )
    def test_values_that_are_no_numbers(self, path, dtype):
        with h5py.File(path, "w") as file:
            file.create_dataset("kernel", shape=(3,), dtype=dtype)
        refused(path, "want numbers")

    def test_types_by_name_and_empty_arrays(self, path):
        with h5py.File(path, "w") as file:
            file["kernel"] = np.dtype("f4")
        refused(path, "neither group nor array")
        with h5py.File(path, "w") as file:
            file["kernel"] = h5py.Empty("f4")
        refused(path, "holds nothing")

    @pytest.mark.parametrize("text", ["{", "[" * 100_000, np.zeros((3, 3))])
    def test_a_description_that_is_none(self, path, text):
        with h5py.File(path, "w") as file:
            file.create_group("model_weights")
            file.attrs["model_config"] = text
        refused(path, "is not JSON|is not one text")

    def test_numbers_of_any_width_and_byte_order(self, path):
        values = {f"a/{kind}": np.arange(5).astype(kind) for kind in (">f4", "<f2", ">f8", ">i4", "u1")}
        with h5py.File(path, "w") as file:
            for name, value in values.items():
                file[name] = value
            file["a/none"] = np.ones((0, 3), np.float32)
            file["b"] = np.float32(2.5)
        read = read_hdf5(path, "weights.h5")
        assert set(read) == {*values, "a/none", "b"}
        assert read["a/none"].shape == (0, 3)
        assert read["b"].item() == 2.5
        assert all(read[name].tolist() == [0, 1, 2, 3, 4] for name in values)

    def test_as_many_groups_as_need_a_tree_of_two_levels(self, path):
        with h5py.File(path, "w") as file:
            for i in range(600):
                file[f"layer_{i}/kernel:0"] = np.full(2, i, np.float32)
        read = read_hdf5(path, "weights.h5")
        assert {name: value.tolist() for name, value in read.items()} == {
            f"layer_{i}/kernel:0": [i, i] for i in range(600)
        }

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(where=st.floats(0, 1, exclude_max=True), value=st.integers(1, 255))
    def test_a_byte_that_flips_never_ends_otherwise(self, tmp_path, where, value):
        path = tmp_path / "flip.h5"
        config = {"class_name": "Model", "config": {"layers": []}}
        good = write_keras(path, {"conv/kernel": np.ones(4, np.float32)}, config).read_bytes()
        bad = bytearray(good)
        bad[int(where * len(bad))] ^= value
        path.write_bytes(bad)
        try:
            # There are no checksums: the values may differ, but never what they are.
            for name, tensor in read_hdf5(path, "weights.h5").items():
                assert name.isprintable() or name
                assert tensor.numel() <= len(good)
        except CheckpointError as error:
            assert "\n" not in str(error)
