// Where a detection comes from: asked of the service once for each picture, in words, and drawn over the picture.

import { printable } from "./draw.js";
import { ServiceError } from "./api.js";

const RIM = "#000000";
export const LAYERS = { field: "#5cd6ff", removed: "#ff9d5c", cell: "#ffd54a", prior: "#ffffff" };

/** The explanations of pictures: one request for each answer of detection, and none for what is known. */
export class Origins {
  constructor(service) {
    Object.assign(this, { service, known: new WeakMap() });
  }

  /** The origin of an item of an answer, and the rows and columns of its model's maps: {origin, maps}. */
  async of(answer, item, file) {
    if (!this.known.has(answer)) {
      const asked = this.service.explain(file, answer.image.image, answer.model, answer.scoreMin);
      this.known.set(answer, asked);
      asked.catch(() => this.known.delete(answer)); // the next one asks again
    }
    const { detections, maps } = await this.known.get(answer);
    const same = (one) => one.label === item.label && one.score === item.score && String(one.box) === String(item.box);
    const found = detections.find(same);
    if (found === undefined) {
      throw new ServiceError("It was not found in the whole picture, which is what is explained: tiles are not.", 0, "no_origin");
    }
    return { origin: found.origin, maps };
  }
}

/** An origin in words: a sentence, and rows of a term and what goes with it. */
export function inWords({ origin, maps }, picture) {
  const { place, arrow, scores, field, offsets, background, removed } = origin;
  const [rows, columns] = maps[place.map];
  const moved = [arrow[2] - arrow[0], arrow[3] - arrow[1]].map(signed).join(", ");
  const weaker = removed === 1 ? "1 weaker box" : `${removed} weaker boxes`;
  const best = Object.entries(scores).sort((one, other) => other[1] - one[1]).slice(0, 3);
  if (background !== null) best.push(["background", background]);
  return {
    sentence: `Map ${place.map}, row ${place.row}, column ${place.column}, default box ${place.shape}, moved by ${moved} pixels. ${weaker} removed.`,
    facts: [
      ["Feature map", `${place.map}, of ${rows} × ${columns} cells`],
      ["Cell", `row ${place.row}, column ${place.column} (from 0)`],
      ["Default box", `${place.shape}, of ${sizeOf(place.box)} pixels`],
      ["Offset", `${moved} pixels; the network says ${offsets.map((value) => value.toFixed(2).replace("-", "−")).join(", ")}`],
      ["Scores there", best.map(([name, score]) => `${printable(name)} ${score.toFixed(3)}`).join(", ")],
      ["The cell sees", field === null ? "not known of an exported file" : `${sizeOf(field)} pixels${covers(field, picture) ? ", all of the picture" : ""}`],
    ],
  };
}

/** A box that NMS removed, in words. */
export const weakerInWords = ({ score, iou, place }) =>
  `score ${score.toFixed(3)}, IoU ${iou.toFixed(2)}, map ${place.map}, row ${place.row}, column ${place.column}, default box ${place.shape}`;

const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(1)}`;
const sizeOf = ([x0, y0, x1, y1]) => `${Math.round(x1 - x0)} × ${Math.round(y1 - y0)}`;
const covers = ([x0, y0, x1, y1], { width, height }) => x0 <= 0 && y0 <= 0 && x1 >= width && y1 >= height;

/**
 * What of an origin lies under the detection: the receptive field and the boxes that NMS removed.
 * scale: canvas pixels for one of the picture; line: the width of a box's lines; layers: a set of keys of LAYERS.
 */
export function drawUnder(context, { runners_up: weaker, field }, scale, line, layers) {
  if (layers.has("field") && field !== null) outline(context, field, scale, line, LAYERS.field, [line, 2 * line]);
  context.globalAlpha = 0.85;
  if (layers.has("removed")) for (const { box } of [...weaker].reverse()) outline(context, box, scale, line / 2, LAYERS.removed, [], 0);
  context.globalAlpha = 1;
}

/** What lies over it: the cell, the default box, and the arrow to the detection's centre. */
export function drawOver(context, { place, arrow }, scale, line, layers) {
  if (layers.has("cell")) {
    outline(context, place.cell, scale, line / 2, LAYERS.cell);
    context.globalAlpha = 0.25;
    context.fillStyle = LAYERS.cell;
    context.fillRect(...corner(place.cell, scale));
    context.globalAlpha = 1;
  }
  if (layers.has("prior")) {
    outline(context, place.box, scale, line / 1.5, LAYERS.prior, [3 * line, 2 * line]);
    drawArrow(context, arrow.map((value) => value * scale), line, LAYERS.prior);
  }
}

const corner = ([x0, y0, x1, y1], scale) => [x0 * scale, y0 * scale, (x1 - x0) * scale, (y1 - y0) * scale];

/** A rectangle, its dark rim seen on bright pictures; sides beyond the picture lie on its edge. */
function outline(context, [x0, y0, x1, y1], scale, thick, colour, dashes = [], rim = 2) {
  const { width, height } = context.canvas;
  const half = thick / 2 + 1;
  const inside = (value, most) => Math.min(Math.max(value * scale, half), most - half);
  const [left, top, right, bottom] = [inside(x0, width), inside(y0, height), inside(x1, width), inside(y1, height)];
  context.setLineDash(dashes);
  for (const [stroke, line] of [[RIM, thick + rim], [colour, thick]]) {
    context.strokeStyle = stroke;
    context.lineWidth = line;
    context.strokeRect(left, top, right - left, bottom - top);
  }
  context.setLineDash([]);
}

/** From the default box's centre, a dot, to the detection's, a head: where they are one there is the dot alone. */
function drawArrow(context, [x0, y0, x1, y1], line, colour) {
  const length = Math.hypot(x1 - x0, y1 - y0);
  const head = Math.min(3 * line, 0.6 * length);
  const angle = Math.atan2(y1 - y0, x1 - x0);
  for (const [paint, more] of [[RIM, 2], [colour, 0]]) {
    context.strokeStyle = context.fillStyle = paint;
    context.lineWidth = line / 1.5 + more;
    context.beginPath();
    context.arc(x0, y0, line / 1.2 + more / 2, 0, 2 * Math.PI);
    context.fill();
    context.beginPath();
    context.moveTo(x0, y0);
    context.lineTo(x1, y1);
    for (const side of [-1, 1]) {
      context.moveTo(x1, y1);
      context.lineTo(x1 - head * Math.cos(angle + side * 0.5), y1 - head * Math.sin(angle + side * 0.5));
    }
    context.stroke();
  }
}
