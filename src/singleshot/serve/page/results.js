// Results as files: what is shown, in the forms of `singleshot detect`.

/** The form of `singleshot detect --json`. */
export function toJson(answer, classes, items) {
  return { model: answer.model, classes, images: [{ ...answer.image, detections: items }], complete: true };
}

/** A COCO data set of one image: its categories have their names, its annotations a score more. */
export function toCoco(answer, classes, items) {
  const names = [...new Set([...classes, ...items.map((item) => item.name)])];
  const ids = new Map(names.map((name, index) => [name, index + 1]));
  const { image, width, height } = answer.image;
  return {
    images: [{ id: 1, file_name: image, width, height }],
    categories: names.map((name) => ({ id: ids.get(name), name })),
    annotations: items.map(({ box: [x0, y0, x1, y1], score, name }, index) => ({
      id: index + 1,
      image_id: 1,
      category_id: ids.get(name),
      bbox: [x0, y0, x1 - x0, y1 - y0].map(rounded),
      area: rounded((x1 - x0) * (y1 - y0)),
      iscrowd: 0,
      score,
    })),
  };
}

const rounded = (value) => Math.round(value * 1000) / 1000;

/** "photo.jpg" and "-boxes.png" -> "photo-boxes.png", with characters that every system takes. */
export function fileName(name, ending) {
  const stem = name.replace(/\.[^.]*$/, "").replace(/[^\p{L}\p{N}_. -]/gu, "_").replace(/^[. ]+/, "").slice(0, 80);
  return (stem || "picture") + ending;
}

export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

export function saveJson(value, name) {
  save(new Blob([JSON.stringify(value, null, 1) + "\n"], { type: "application/json" }), name);
}
